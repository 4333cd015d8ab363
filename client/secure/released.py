"""What a site has helped to unmask: one set of sites for each question, for ever.

Two exact sums of one question that differ by one site are that site's values. So whoever revealed shares for one set
reveals none for another, whatever became of the first sum, in whichever run or plan it is asked again.

Promises
- ``require`` raises ``ProtocolError`` ("unmasked-otherwise") where shares left for another set; the same set may be
  unmasked again, with the keys of a new session.
- ``note`` does so too, and has the set on the disk when it returns: shares leave after that. Of several processes that
  note different sets at once, one succeeds.
- Notes are a few files for their owner alone, with a line's worth for each question. A file that cannot be
  read, or was written by somebody else, is refused ("notes-unreadable"), and nothing is revealed. Only taking the file
  away makes a site forget; who may do that on a site's disk may read its patients too.

What this is worth where c sites obey the coordinator and t is the threshold of n: t sites revealed shares for the first
set, of which t - c or more are honest and refuse another. So at most n - t honest sites are left to confirm one, and c
that would confirm anything: too few where 2t > n + c, as within one sum (``shared.secure.holders``).

When two questions are the same is ``shared.secure.question``'s to say: exact answers about one model are, whoever asks.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from shared.durable import alone, fsync_folder, replace_file
from shared.errors import ProtocolError, SiteDataError
from shared.secure.statements import survivors_digest

_DIGITS = 64
_SHARD = 2
"""Digits of a question that name its file: no file grows with all that a site has ever answered."""


class Released(Protocol):
    """Remembers, for each question, whose sum was unmasked."""

    def require(self, question: str, survivors: tuple[str, ...]) -> None:
        """Return where no other set was unmasked."""

    def note(self, question: str, survivors: tuple[str, ...]) -> None:
        """Remember the set, or raise as ``require`` does."""


@dataclass(frozen=True, slots=True)
class Remembered:
    """In memory: for a simulation, where all sites end together."""

    _noted: dict[str, str] = field(default_factory=dict)

    def require(self, question: str, survivors: tuple[str, ...]) -> None:
        """See ``Released``."""
        _require_same(self._noted.get(question), survivors)

    def note(self, question: str, survivors: tuple[str, ...]) -> None:
        """See ``Released``."""
        self.require(question, survivors)
        self._noted[question] = survivors_digest(survivors)


@dataclass(frozen=True, slots=True)
class Notes:
    """In a folder, which is made with the first note."""

    folder: Path

    def require(self, question: str, survivors: tuple[str, ...]) -> None:
        """See ``Released``; raises ``SiteDataError`` where notes cannot be read."""
        _require_same(_read(self._path(question)).get(question), survivors)

    def note(self, question: str, survivors: tuple[str, ...]) -> None:
        """See ``Released``; raises ``SiteDataError`` where notes cannot be read."""
        self.folder.mkdir(mode=0o700, exist_ok=True)
        fsync_folder(self.folder.parent)
        path = self._path(question)
        with alone(self.folder / "lock"):
            noted = _read(path)
            _require_same(noted.get(question), survivors)
            noted[question] = survivors_digest(survivors)
            replace_file(path, json.dumps(noted, sort_keys=True).encode("ascii"))

    def _path(self, question: str) -> Path:
        return self.folder / f"{question[:_SHARD]}.json"


def _read(path: Path) -> dict[str, str]:
    try:
        found = json.loads(path.read_bytes())
    except FileNotFoundError:
        return {}
    except (OSError, ValueError):
        raise _unreadable() from None
    if not isinstance(found, dict) or any(not isinstance(one, str) or len(one) != _DIGITS for one in found.values()):
        raise _unreadable()
    return found


def _require_same(noted: str | None, survivors: tuple[str, ...]) -> None:
    if noted not in (None, survivors_digest(survivors)):
        raise ProtocolError(
            f"this question's sum was unmasked before, and not for these {len(survivors)} sites: the difference of two "
            "sums could be one site's values",
            hint="go on with the next round; what was unmasked is not unmasked again for others",
            code="unmasked-otherwise",
        )


def _unreadable() -> SiteDataError:
    return SiteDataError(
        "the notes of what this site has helped to unmask cannot be read",
        hint="restore the file from a copy; without it nothing more of this run is unmasked",
        code="notes-unreadable",
    )
