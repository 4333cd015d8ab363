"""What a site has helped to unmask: one set of sites for each question, for ever.

Two sums of one question that differ by one site are that site's values. So whoever revealed shares for one set reveals
none for another, whatever became of the first sum.

Promises
- ``require`` raises ``ProtocolError`` ("unmasked-otherwise") where shares left for another set; the same set may be
  unmasked again, with the keys of a new session.
- ``note`` does so too, and has the set on the disk when it returns: shares leave after that. Of several processes that
  note different sets at once, one succeeds.
- Notes are one file for each run, for its owner alone, with a line's worth for each question. A file that cannot be
  read, or was written by somebody else, is refused ("notes-unreadable"), and nothing is revealed. Only taking the file
  away makes a site forget; who may do that on a site's disk may read its patients too.

What this is worth where c sites obey the coordinator and t is the threshold of n: t sites revealed shares for the first
set, of which t - c or more are honest and refuse another. So at most n - t honest sites are left to confirm one, and c
that would confirm anything: too few where 2t > n + c, as within one sum (``shared.secure.holders``).

A question is told by run, round and what it is about: a coordinator that changes anything else asks the same question.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from shared.durable import alone, fsync_folder, replace_file
from shared.errors import ProtocolError, SiteDataError
from shared.secure.context import Context
from shared.secure.statements import survivors_digest

_DIGITS = 64


class Released(Protocol):
    """Remembers, for each question, whose sum was unmasked."""

    def require(self, context: Context, survivors: tuple[str, ...]) -> None:
        """Return where no other set was unmasked."""

    def note(self, context: Context, survivors: tuple[str, ...]) -> None:
        """Remember the set, or raise as ``require`` does."""


@dataclass(frozen=True, slots=True)
class Remembered:
    """In memory: for a simulation, where all sites end together."""

    _noted: dict[tuple[str, str], str] = field(default_factory=dict)

    def require(self, context: Context, survivors: tuple[str, ...]) -> None:
        """See ``Released``."""
        _require_same(self._noted.get((context.run, _question(context))), survivors)

    def note(self, context: Context, survivors: tuple[str, ...]) -> None:
        """See ``Released``."""
        self.require(context, survivors)
        self._noted[context.run, _question(context)] = survivors_digest(survivors)


@dataclass(frozen=True, slots=True)
class Notes:
    """In a folder, which is made with the first note."""

    folder: Path

    def require(self, context: Context, survivors: tuple[str, ...]) -> None:
        """See ``Released``; raises ``SiteDataError`` where notes cannot be read."""
        _require_same(_read(self._path(context)).get(_question(context)), survivors)

    def note(self, context: Context, survivors: tuple[str, ...]) -> None:
        """See ``Released``; raises ``SiteDataError`` where notes cannot be read."""
        self.folder.mkdir(mode=0o700, exist_ok=True)
        fsync_folder(self.folder.parent)
        path = self._path(context)
        with alone(self.folder / "lock"):
            noted = _read(path)
            _require_same(noted.get(_question(context)), survivors)
            noted[_question(context)] = survivors_digest(survivors)
            replace_file(path, json.dumps(noted, sort_keys=True).encode("ascii"))

    def _path(self, context: Context) -> Path:
        # What a coordinator calls a run is no path here.
        return self.folder / f"{hashlib.sha256(context.run.encode()).hexdigest()}.json"


def _question(context: Context) -> str:
    return f"{context.round} {context.about}"


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
