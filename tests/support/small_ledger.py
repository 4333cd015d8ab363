"""Ledgers with few patients, a price that is added up, and connections that die when they are told to."""

import hashlib
import sqlite3
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from unittest import mock

from client.governance import ledger_layout, replies
from client.governance.ledger import Ledger
from client.governance.spending import Claim, CohortPatients
from shared.messages import Split
from shared.privacy.accounting import Cap
from shared.privacy.events import Event

AT = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
EVENT = Event(1.0, 0.5, 10)
"""Costs 5 by ``added_up``."""
UNLIMITED = Cap(1e9, 1e-5)


def sha(text: str | bytes) -> str:
    return hashlib.sha256(text if isinstance(text, bytes) else text.encode()).hexdigest()


def added_up(events: Sequence[Event], delta: float, accountant: str) -> float:  # noqa: ARG001
    """A price without any theory: steps times rate over noise."""
    return sum(event.steps * event.sampling_rate / event.noise_multiplier for event in events)


def cohort(
    name: str, train: Collection[str] = (), validation: Collection[str] = (), test: Collection[str] = ()
) -> CohortPatients:
    return CohortPatients(sha(name), "lesions", {"train": train, "validation": validation, "test": test})


def claim(name: str = "first", split: Split = "train", number: int = 1, **changes: Any) -> Claim:
    said = Claim(sha(name), split, "run-1", sha("plan"), number, "train" if split == "train" else "statistics", "q")
    return replace(said, **changes)


def made(path: Path, *cohorts: CohortPatients) -> Ledger:
    """A new ledger with these cohorts, and the price that is added up."""
    Ledger.create(path)
    ledger = Ledger(path, added_up)
    for one in cohorts:
        ledger.enrol(one, AT)
    return ledger


def rows(path: Path, select: str) -> list[tuple[Any, ...]]:
    with closing(sqlite3.connect(path)) as connection:
        return connection.execute(select).fetchall()


def paid_by_hand(path: Path) -> dict[tuple[str, str], list[tuple[Event, bool]]]:
    """(event, whether it left) by (cohort, split), read without the code under test."""
    found: dict[tuple[str, str], list[tuple[Event, bool]]] = {}
    for digest, split, *mechanism, left in rows(
        path,
        """select c.digest, r.split, r.noise_multiplier, r.sampling_rate, r.steps, r.alone,
           exists (select 1 from releases where reservation = r.number)
           from reservations r, cohorts c where c.number = r.cohort""",
    ):
        found.setdefault((digest, split), []).append((Event(*mechanism), bool(left)))
    return found


def dearest_by_hand(path: Path, cohorts: Collection[CohortPatients], digest: str, split: Split) -> float:
    """What the patient of a split who paid most has paid by ``added_up``, found patient by patient."""
    paid = paid_by_hand(path)
    price = {pair: added_up([event for event, _ in events], 0, "") for pair, events in paid.items()}
    (this,) = [one for one in cohorts if one.digest == digest]
    each = [
        sum(
            price.get((one.digest, where), 0.0)
            for one in cohorts
            for where, named in one.patients.items()
            if who in named
        )
        for who in this.patients[split]
    ]
    return max(each, default=price.get((digest, split), 0.0))


class Crash(BaseException):
    """The process ends here."""


class Faults:
    """Ends the process at its ``at``-th point; counts all points."""

    def __init__(self, at: int | None = None) -> None:
        self.at, self.seen, self.committed = at, 0, False

    def point(self) -> None:
        self.seen += 1
        if self.seen == self.at:
            raise Crash


class _Dying:
    """A connection with a point before and after each statement."""

    def __init__(self, real: sqlite3.Connection, faults: Faults) -> None:
        self._real, self._faults = real, faults

    def execute(self, statement: str, *values: Any) -> sqlite3.Cursor:
        self._faults.point()
        done = self._real.execute(statement, *values)
        self._faults.committed |= statement == "commit"
        self._faults.point()
        return done

    def executemany(self, statement: str, values: Any) -> sqlite3.Cursor:
        def each() -> Iterator[Any]:
            for value in values:
                self._faults.point()
                yield value

        return self._real.executemany(statement, each())

    def close(self) -> None:
        # As the kernel does for a process that is gone: what was not committed stays uncommitted.
        self._real.close()


@contextmanager
def dying(faults: Faults) -> Iterator[None]:
    """Inside, statements of ledgers and writes of replies are points of ``faults``."""
    connect: Callable[[Path], Any] = ledger_layout._connected
    write = replies.replace_file

    def replace_file(*arguments: Any) -> None:
        faults.point()
        write(*arguments)
        faults.point()

    with (
        mock.patch.object(ledger_layout, "_connected", lambda path: _Dying(connect(path), faults)),
        mock.patch.object(replies, "replace_file", replace_file),
    ):
        yield
