"""The audit log as people read it: its last lines in words, and what left this hospital lately.

Promises
- Lines are read, not verified: ``consilium-site audit verify`` does that. A line that is no entry is counted, skipped.
- Nothing of a line is shown but its number, time, event, data set, counts and the first digits of a digest.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from client.governance import audit_files
from shared.local_page.words import count, size

LEAVES, REFUSED = "leaves-", "refused-"
WEEK = timedelta(days=7)
_LAST = 12

KINDS: Mapping[str, tuple[str, str]] = {
    "update": ("An update of the model", "updates of the model"),
    "measured": ("A table of sums", "tables of sums"),
    "welcome": ("An answer to a greeting", "answers to greetings"),
}
"""One, and several, of each kind of message (``shared.messages.Reply``)."""
_SENTENCES: Mapping[str, str] = {
    "init": "This site was made.",
    "ingest": "Images were read in.",
    "doctor": "Data were examined.",
    "doctor-machine": "This machine was examined.",
    "freeze": "A cohort was frozen.",
    "self-test": "The protection of a plan was tested.",
    "request": "This site asked to be enrolled.",
    "accept": "The lead's welcome was accepted, and the lead's key pinned.",
    "accept-refused": "A welcome was refused.",
    "roster": "A newer roster was taken.",
    "roster-refused": "A roster was refused.",
    "approve": "A plan was approved.",
    "withdraw": "An approval was withdrawn.",
    "custodian-start": "The custodian started.",
    "torn-line-removed": "A line that a crash had cut off was removed.",
    "refused-more": "More requests were refused than are written down one by one.",
    "refused-unproved": "A request was refused: its sender could not prove who asks.",
}


@dataclass(frozen=True, slots=True)
class Entry:
    """A line of the log, and what it says."""

    number: int
    at: str
    event: str
    dataset: str
    sentence: str


@dataclass(frozen=True, slots=True)
class Left:
    """What left since a moment: messages and bytes, and both by kind."""

    since: str
    messages: int
    bytes: int
    kinds: tuple[tuple[str, int, int], ...]
    refused: int


@dataclass(frozen=True, slots=True)
class Diary:
    """The last lines, the newest first; what left within a week; and how many lines are no entries."""

    last: tuple[Entry, ...]
    left: Left
    damaged: int


def diary(path: Path, now: datetime) -> Diary:
    """The log at ``path`` at the moment ``now``; raises ``OSError`` where it cannot be read."""
    since = now - WEEK
    lines = list(_lines(path, since))
    entries = [entry for entry in lines if entry is not None]
    recent = [one for one in entries if _at(one) >= since]
    return Diary(tuple(_entry(one) for one in entries[-_LAST:][::-1]), _left(recent, since), len(lines) - len(entries))


def sentence_of(said: Mapping[str, Any]) -> str:
    """What one entry says."""
    event, counts = str(said.get("event", "")), _counts(said)
    if event.startswith(LEAVES):
        kind = event.removeprefix(LEAVES)
        what, _ = KINDS.get(kind, (f"A message of the kind {kind}", ""))
        return f"{what} left for round {counts.get('round', 0)}: {size(counts.get('bytes', 0))}."
    if event in _SENTENCES:
        return _SENTENCES[event]
    if event.startswith(REFUSED):
        codes = [name.removeprefix("code.").replace("-", " ") for name in counts if name.startswith("code.")]
        return f"A request was refused ({event.removeprefix(REFUSED)}): {', '.join(codes) or 'no reason is noted'}."
    return f"{event[:1].upper()}{event[1:].replace('-', ' ')}."


def shown_left(left: Left) -> str:
    """What left, in a sentence."""
    if not left.messages:
        return "Nothing left this hospital in the last seven days."
    return f"{count(left.messages, 'message')} left in the last seven days, {size(left.bytes)} in all."


def _lines(path: Path, since: datetime) -> Iterator[dict[str, Any] | None]:
    """Entries of the files that were written to since a moment; None for a line that is none."""
    older = audit_files.sealed(path, path.stat().st_ino)
    recent = [one for one in older if one.stat().st_mtime >= since.timestamp()]
    for file in (*(recent or older[-1:]), path):
        with file.open("rb") as opened:
            for line in audit_files.lines_of(opened):
                yield _parsed(line)


def _parsed(line: bytes) -> dict[str, Any] | None:
    try:
        found = json.loads(line)
        datetime.fromisoformat(found["at"])
        return found if isinstance(found["number"], int) else None
    except (ValueError, TypeError, KeyError, RecursionError):
        return None


def _at(said: Mapping[str, Any]) -> datetime:
    return datetime.fromisoformat(str(said["at"]))


def _counts(said: Mapping[str, Any]) -> dict[str, int]:
    found = said.get("counts")
    return {str(name): value for name, value in found.items() if type(value) is int} if isinstance(found, dict) else {}


def _entry(said: Mapping[str, Any]) -> Entry:
    event, dataset = str(said.get("event", "")), str(said.get("dataset", ""))
    return Entry(int(said["number"]), str(said["at"]), event, dataset, sentence_of(said))


def _left(recent: list[dict[str, Any]], since: datetime) -> Left:
    messages: Counter[str] = Counter()
    octets: Counter[str] = Counter()
    for one in recent:
        event = str(one.get("event", ""))
        if event.startswith(LEAVES):
            kind = event.removeprefix(LEAVES)
            messages[kind] += 1
            octets[kind] += _counts(one).get("bytes", 0)
    kinds = tuple((kind, messages[kind], octets[kind]) for kind in sorted(messages))
    refused = sum(str(one.get("event", "")).startswith(REFUSED) for one in recent)
    return Left(since.isoformat(timespec="seconds"), messages.total(), octets.total(), kinds, refused)
