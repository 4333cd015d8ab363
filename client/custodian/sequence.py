"""The order in which a run may ask: forwards, each question once, each answer as often as it gets lost.

Promises
- A question is what is asked (its kind, and the split, or whose model) in a round. Asked again with the same bytes it
  is admitted, and gets the same answer; asked again with other bytes it is refused ("replayed-otherwise"), because two
  answers to one question say more than one. A round that lies before one that was already asked is refused
  ("outdated").
- What was admitted is on the disk before it is answered: a custodian that was killed remembers.
- Of one approval only as many different runs are served as it allows ("too-many-runs").
- A file that is damaged refuses its run ("sequence-damaged") and is never repaired by forgetting.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from shared.durable import replace_file
from shared.errors import PolicyError, ProtocolError, SiteDataError
from shared.messages import Cross, Evaluate, Hello, Personalise, Request, SumStep

_FOLDER = 0o700


@dataclass(frozen=True, slots=True)
class Question:
    """What is asked in a round, and the SHA-256 of all that was said in asking it."""

    name: str
    round: int
    sha256: str

    @classmethod
    def of(cls, request: Request, sha256: str) -> Question:
        """``request``, whose bytes have the digest ``sha256``."""
        kind = type(request).__name__.lower()
        match request:
            case Evaluate() | Personalise():
                kind += f"-{request.split}"
            case Cross():
                kind += f"-{request.model}"
        return cls(kind, request.envelope.round, sha256)


@dataclass(frozen=True, slots=True)
class Sequence:
    """What runs under one approval have asked.

    Attributes:
        folder: where it is kept, a file for each run; made with the first.
        runs: most runs that are served.
    """

    folder: Path
    runs: int

    def admit(self, run: str, question: Question) -> None:
        """Return where ``question`` may be answered now, and remember it.

        Raises:
            ProtocolError: "outdated" or "replayed-otherwise".
            PolicyError: "too-many-runs".
            SiteDataError: "sequence-damaged".
        """
        path = self.folder / f"{hashlib.sha256(run.encode()).hexdigest()}.json"
        asked = self._asked(path)
        known = asked.get(question.name)
        if known == [question.round, question.sha256]:
            return
        _require_forwards(question, known)
        replace_file(path, json.dumps({**asked, question.name: [question.round, question.sha256]}).encode() + b"\n")

    def _asked(self, path: Path) -> dict[str, Any]:
        if path.exists():
            return _read(path)
        self.folder.mkdir(mode=_FOLDER, parents=True, exist_ok=True)
        served = sum(1 for _ in self.folder.glob("*.json"))
        if served >= self.runs:
            raise PolicyError(
                f"{served} runs have asked under this approval, which allows {self.runs}",
                hint="approve the plan again if it is to be run again",
                code="too-many-runs",
            )
        return {}


def ask_again(request: Request) -> bool:
    """Whether ``request`` is not part of this order.

    A greeting says nothing of patients. The steps of a sum have an order of their own, begun by a question that is part
    of this one, and forgotten with the process (``client.secure.party``).
    """
    return isinstance(request, Hello | SumStep)


def _require_forwards(question: Question, known: Any) -> None:  # noqa: ANN401 - what the file holds
    if known is None or question.round > known[0]:
        return
    if question.round == known[0]:
        raise ProtocolError(
            f"round {question.round} was asked before, with other weights",
            hint="a run asks each question once; resume it from its own folder",
            code="replayed-otherwise",
        )
    raise ProtocolError(
        f"round {question.round} was asked after round {known[0]}", hint="a run goes forwards", code="outdated"
    )


def _read(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_bytes())
        whole = all(len(value) == 2 and type(value[0]) is int for value in found.values())
    except (OSError, ValueError, TypeError, AttributeError):
        whole = False
    if not whole:
        raise SiteDataError(
            "the note of what a run has asked here is damaged",
            hint=f"restore {path.name} from your copy, or let the run be begun anew under a new approval",
            code="sequence-damaged",
        )
    return found  # type: ignore[no-any-return]
