"""The journal of a run: what happened, durable before it has an effect.

Promises
- One transaction per transition, on the disk before the call returns (SQLite, write-ahead log, synchronous=FULL): after
  ``kill -9`` the journal holds every transition whose call returned, whole, and of the one in flight all rows or none.
- Rows are added, never changed or removed; triggers refuse anything else. Rounds are completed in order, each once.
- A journal belongs to one plan and one run. Opening it with another plan is an error, and so is opening it twice at the
  same time: the operating system's lock goes when the process does.
- It knows nothing of patients: phases, sites, codes, sentences of ``shared.errors``, digests, pooled metrics.
- Times come from the clock that it is given, and nothing that must be reproducible depends on them.

What the rows mean for a run is left to ``server.rounds`` and ``server.coordinator``.
"""

from __future__ import annotations

import fcntl
import json
import math
import os
import shutil
import sqlite3
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from shared.errors import CapacityError, RunError
from shared.plan import Plan

Clock = Callable[[], float]
"""Seconds since 1970, UTC."""

Document = Mapping[str, object]
"""What JSON can hold, by name. Numbers that are not finite are written as null: the metric is undetermined."""

RUN_DIGITS = 12
_TRIES, _PAUSE_S = 3, 0.1

_LAYOUT = """
create table run (
    plan_digest text not null, plan_text text not null, seed integer not null, run text not null, began real not null);
create table events (
    number integer primary key, at real not null, round integer not null, phase text not null,
    kind text not null, site text not null, code text not null, sentence text not null, detail text not null);
create table completed (
    round integer primary key, checkpoint text not null, server_state text not null, metrics text not null,
    at real not null);
"""
_APPEND_ONLY = """
create trigger {table}_{verb} before {verb} on {table}
begin select raise(abort, 'the journal is append-only'); end;
"""
_TAKEN = {
    "run": "exists (select 1 from run)",
    "events": "new.number in (select number from events)",
    "completed": "new.round in (select round from completed)",
}
"""When a new row would stand where one is, by table."""
# What ``replace`` deletes, SQLite hides from delete triggers (https://sqlite.org/lang_conflict.html).
_NO_REPLACING = """
create trigger {table}_replace before insert on {table} when {taken}
begin select raise(abort, 'the journal is append-only'); end;
"""


@dataclass(frozen=True, slots=True)
class Completed:
    """A finished round: digests of the global model and of the server optimizer ("" where it has no state)."""

    round: int
    checkpoint: str
    server_state: str
    metrics: Document = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Row:
    """An event to write: phase and kind by name, site and code where a site is concerned, further numbers as detail."""

    round: int
    phase: str
    kind: str
    site: str = ""
    code: str = ""
    sentence: str = ""
    detail: Document = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Entry:
    """An event as it was written, and when."""

    at: float
    row: Row


class Journal:
    """An open journal; use as a context manager. Get one from ``create``, ``open`` or ``open_or_create``.

    Attributes:
        run: identifier of the run; in a simulation the first digits of the plan's digest.
        plan_digest: SHA-256 of the plan.
        plan_text: the plan as it was when the run began.
        seed: the run's seed.
    """

    run: str
    plan_digest: str
    plan_text: str
    seed: int

    def __init__(self, path: Path, connection: sqlite3.Connection, lock: int, clock: Clock) -> None:
        self._path, self._connection, self._lock, self._clock = path, connection, lock, clock
        found = connection.execute("select run, plan_digest, plan_text, seed from run").fetchone()
        self.run, self.plan_digest, self.plan_text, self.seed = found

    @classmethod
    def create(cls, path: Path, plan_digest: str, plan_text: str, seed: int, clock: Clock) -> Journal:
        """Begin a journal; raises ``RunError`` where there is one already, ``CapacityError`` when the disk is full."""

        def prepare(connection: sqlite3.Connection) -> None:
            if _tables(connection):
                raise RunError(
                    f"{path.name} exists", hint="resume that run, or use another folder", code="journal-exists"
                )
            _lay_out(connection, path, (plan_digest, plan_text, seed, plan_digest[:RUN_DIGITS], clock()))

        return cls._opened(path, clock, prepare)

    @classmethod
    def open(cls, path: Path, plan_digest: str, clock: Clock) -> Journal:
        """Go on with a journal.

        Raises:
            RunError: there is none, it belongs to another plan, is damaged, or is open in another process.
        """
        if not path.exists():
            raise RunError(f"there is no journal {path.name}", hint="begin the run first", code="journal-missing")
        return cls._opened(path, clock, lambda connection: _require_plan(connection, path, plan_digest))

    @classmethod
    def open_or_create(cls, path: Path, plan: Plan, clock: Clock, run: str = "") -> Journal:
        """Go on with the journal of ``plan`` at ``path``, or begin one; raises as ``open`` and ``create`` do.

        Args:
            path: of the database.
            plan: what is run.
            clock: seconds since 1970.
            run: what a new run is called; the first digits of the plan's digest where nothing is given.
        """

        def prepare(connection: sqlite3.Connection) -> None:
            # A process that was killed while it began a journal leaves a file without tables.
            if _tables(connection):
                return _require_plan(connection, path, plan.digest())
            digest, text = plan.digest(), plan.canonical_bytes().decode()
            return _lay_out(connection, path, (digest, text, plan.plan.seed, run or digest[:RUN_DIGITS], clock()))

        return cls._opened(path, clock, prepare)

    @classmethod
    def _opened(cls, path: Path, clock: Clock, prepare: Callable[[sqlite3.Connection], None]) -> Journal:
        lock = _locked(path)
        try:
            with _explained(path):
                connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
                try:
                    connection.executescript("pragma journal_mode=wal; pragma synchronous=full;")
                    prepare(connection)
                    return cls(path, connection, lock, clock)
                except BaseException:
                    connection.close()
                    raise
        except BaseException:
            os.close(lock)
            raise

    def __enter__(self) -> Journal:
        """The journal itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close the file and let others open it."""
        self._connection.close()
        os.close(self._lock)

    def append(self, rows: Sequence[Row]) -> None:
        """Write the events of one transition, all or none; on disk when this returns."""
        at = self._clock()
        with self._transaction():
            self._connection.executemany(
                "insert into events (at, round, phase, kind, site, code, sentence, detail) values (?,?,?,?,?,?,?,?)",
                [
                    (at, row.round, row.phase, row.kind, row.site, row.code, row.sentence, _to_json(row.detail))
                    for row in rows
                ],
            )

    def record(
        self, round_number: int, phase: str, kind: str, site: str = "", code: str = "", sentence: str = ""
    ) -> None:
        """Write one event; on disk when this returns."""
        self.append((Row(round_number, phase, kind, site, code, sentence),))

    def complete_round(
        self, round_number: int, checkpoint: str, server_state: str, metrics: Document | None = None
    ) -> None:
        """Write that a round is done and where its results are; on disk when this returns.

        Raises:
            RunError: it is not the round after the last completed one.
        """
        last = self.last_completed()
        if round_number != (last.round if last else 0) + 1:
            raise RunError(
                f"round {round_number} cannot be completed after round {last.round if last else 0}",
                code="journal-order",
            )
        with self._transaction():
            self._connection.execute(
                "insert into completed values (?,?,?,?,?)",
                (round_number, checkpoint, server_state, _to_json(metrics or {}), self._clock()),
            )

    def last_completed(self) -> Completed | None:
        """The round to go on after; None before the first."""
        found = self._connection.execute(
            "select round, checkpoint, server_state, metrics from completed order by round desc limit 1"
        ).fetchone()
        if found is None:
            return None
        number, checkpoint, server_state, metrics = found
        return Completed(number, checkpoint, server_state, json.loads(metrics))

    def checkpoints(self) -> list[str]:
        """Digests of the global models of all completed rounds, in order; a skipped round repeats the one before."""
        return [row[0] for row in self._connection.execute("select checkpoint from completed order by round")]

    def events(self) -> Iterator[Entry]:
        """All events, oldest first."""
        rows = self._connection.execute(
            "select at, round, phase, kind, site, code, sentence, detail from events order by number"
        )
        return (
            Entry(at, Row(number, phase, kind, site, code, sentence, json.loads(detail)))
            for at, number, phase, kind, site, code, sentence, detail in rows
        )

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        with _explained(self._path):
            self._connection.execute("begin immediate")
            try:
                yield
                self._connection.execute("commit")
            except BaseException:
                # A full disk makes SQLite roll back by itself.
                if self._connection.in_transaction:
                    self._connection.execute("rollback")
                raise


def is_open(path: Path) -> bool:
    """Whether a process has the journal at ``path`` open now."""
    try:
        descriptor = os.open(path.with_name(path.name + ".lock"), os.O_RDWR)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        return True
    finally:
        os.close(descriptor)
    return False


def _locked(path: Path) -> int:
    """A lock beside the database; SQLite's own would end with its first transaction."""
    descriptor = os.open(path.with_name(path.name + ".lock"), os.O_RDWR | os.O_CREAT, 0o600)
    # More than once: whoever asks ``is_open`` holds the lock for a moment.
    for _ in range(_TRIES):
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            time.sleep(_PAUSE_S)
        else:
            return descriptor
    os.close(descriptor)
    raise RunError(
        f"{path.name} is open in another process", hint="wait for that run, or stop it first", code="journal-locked"
    )


def _tables(connection: sqlite3.Connection) -> int:
    return int(connection.execute("select count(*) from sqlite_master").fetchone()[0])


def _lay_out(connection: sqlite3.Connection, path: Path, run: tuple[str, str, int, str, float]) -> None:
    """Create all tables in one transaction, so that a journal has all of them or none."""
    guards = [_APPEND_ONLY.format(table=table, verb=verb) for table in _TAKEN for verb in ("update", "delete")]
    guards += [_NO_REPLACING.format(table=table, taken=taken) for table, taken in _TAKEN.items()]
    connection.executescript(f"begin; {_LAYOUT} {''.join(guards)}")
    connection.execute("insert into run values (?,?,?,?,?)", run)
    connection.execute("commit")
    # SQLite makes the rows durable, this the name of the file.
    descriptor = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _require_plan(connection: sqlite3.Connection, path: Path, plan_digest: str) -> None:
    if not _tables(connection):
        raise RunError(f"{path.name} is empty", hint="begin the run again", code="journal-missing")
    found = str(connection.execute("select plan_digest from run").fetchone()[0])
    if found != plan_digest:
        raise RunError(
            f"the journal belongs to plan {found[:RUN_DIGITS]}, this is plan {plan_digest[:RUN_DIGITS]}",
            hint="use the run's own plan.toml, or another folder",
            code="journal-plan",
        )


def _to_json(document: Document) -> str:
    return json.dumps(_plain(document), sort_keys=True, separators=(",", ":"), allow_nan=False)


def _plain(value: object) -> object:
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, Mapping):
        return {str(name): _plain(part) for name, part in value.items()}
    return [_plain(part) for part in value] if isinstance(value, list | tuple) else value


@contextmanager
def _explained(path: Path) -> Iterator[None]:
    """SQLite's errors as ours."""
    try:
        yield
    except sqlite3.OperationalError as error:
        if error.sqlite_errorcode == sqlite3.SQLITE_FULL:
            free = shutil.disk_usage(path.parent).free
            raise CapacityError(
                f"the disk is full: the journal could not be written, {free} bytes are free",
                hint="free some space, then resume the run",
                code="disk-full",
            ) from None
        # Over a quota or a size limit SQLite says no more than "disk I/O error".
        raise RunError(
            f"the journal cannot be written: {error}",
            hint="check the disk's space, quota, health and permissions, then resume the run",
            code="journal-unwritable",
        ) from None
    except sqlite3.DatabaseError as error:
        raise RunError(
            f"the journal is damaged: {error}", hint="restore the run folder from a copy", code="journal-damaged"
        ) from None
