"""The file of a ledger: its tables, how they are closed to change, and one transaction at a time.

::

    cohorts        a frozen cohort that was enrolled
    members        its patients, by salted name, each in one split
    reservations   an event that was granted, and what for; before anything is computed
    releases       that the reply to a reservation left, and its SHA-256; before it leaves

Promises
- Rows can be added, never changed or removed: triggers refuse anything else, ``replace`` included, whose deletion
  SQLite hides from delete triggers (https://sqlite.org/lang_conflict.html).
- ``transaction`` is all or nothing, and durable when it ends (write-ahead log, synchronous=FULL). They come one after
  the other, whatever process or thread they are of.
- A ledger of an older layout is brought to this one in place, whole or not at all, once however many processes open it.
  Its rows stay as they are: what was paid before sites shared any noise is ``alone = 0``.
- The file is its owner's alone (0600). Between transactions all of it is in that one file.

Not promised: that nobody who can write the file drops the triggers or puts back an older copy. Its permissions have to
keep people out; who wants to notice compares ``Ledger.digest`` with what the audit log says.
"""

from __future__ import annotations

import os
import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Literal

from shared.durable import fsync_folder
from shared.errors import CapacityError, ConsiliumError, SiteDataError

_VERSION = 3
# Another process may be accounting inside its transaction, which takes seconds after many different plans.
_PATIENCE_S = 120.0

_ALONE = "alone real not null default 0 check (alone >= 0)"
_TABLES = (
    """create table cohorts (
        number integer primary key, digest text not null unique, dataset text not null, at text not null)""",
    """create table members (
        cohort integer not null references cohorts (number), patient text not null,
        split text not null check (split in ('train', 'validation', 'test')),
        primary key (cohort, patient)) without rowid""",
    "create index members_by_patient on members (patient, cohort, split)",
    f"""create table reservations (
        number integer primary key, at text not null, cohort integer not null references cohorts (number),
        split text not null check (split in ('train', 'validation', 'test')), run text not null, plan text not null,
        round integer not null, purpose text not null check (purpose in ('train', 'statistics')), request text not null,
        noise_multiplier real not null check (noise_multiplier > 0),
        sampling_rate real not null check (sampling_rate > 0 and sampling_rate <= 1),
        steps integer not null check (steps >= 1), {_ALONE},
        unique (cohort, split, run, plan, round, purpose))""",
    """create table releases (
        reservation integer primary key references reservations (number), at text not null, reply text not null)""",
)
_KEYS = {
    "cohorts": (("number",), ("digest",)),
    "members": (("cohort", "patient"),),
    "reservations": (("number",), ("cohort", "split", "run", "plan", "round", "purpose")),
    "releases": (("reservation",),),
}
_REFUSED = "select raise(abort, 'the ledger is append-only')"


def make(path: Path) -> None:
    """Make an empty ledger, durable; raises ``FileExistsError`` rather than touch one."""
    os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
    with closing(_connected(path)) as connection:
        connection.execute("pragma journal_mode=wal")
        _lay_out(connection)
    fsync_folder(path.parent)


def prepare(path: Path) -> None:
    """Make sure that ``path`` is a ledger of this layout.

    One of the first layout, which never held a row, gets the tables; one of the second gets the column ``alone``.

    Raises:
        SiteDataError: "ledger-missing", "ledger-damaged", or "ledger-version" where another program made it.
    """
    if not path.is_file():
        raise SiteDataError(
            f"there is no ledger {path.name} at this site",
            hint="restore it from your copy: without it nobody knows what patients have paid",
            code="ledger-missing",
        )
    with _explained(path), closing(_connected(path)) as connection:
        if _version(connection) == 0 and not _is_first_layout(connection):
            raise _damaged("it does not hold what this program writes")
        version = _lay_out(connection)
        if version != _VERSION:
            raise SiteDataError(
                f"the ledger has layout {version}, this program knows layout {_VERSION}",
                hint="use the version of Consilium that made it",
                code="ledger-version",
            )


@contextmanager
def transaction(path: Path, ending: Literal["commit", "rollback"]) -> Iterator[sqlite3.Connection]:
    """A connection that nobody else writes beside; kept on return with "commit", thrown away with "rollback".

    Raises:
        SiteDataError: "ledger-unusable", "ledger-damaged".
        CapacityError: the disk is full; nothing was written.
    """
    with _explained(path), closing(_connected(path)) as connection:
        connection.execute("begin immediate")
        # Whatever ends this block in another way closes the connection, and SQLite forgets what was not committed.
        yield connection
        connection.execute(ending)


def _connected(path: Path) -> sqlite3.Connection:
    # Never made here: an empty file in place of a lost ledger would say that nobody has paid.
    connection = sqlite3.connect(f"{path.absolute().as_uri()}?mode=rw", _PATIENCE_S, isolation_level=None, uri=True)
    try:
        connection.executescript("pragma synchronous=full; pragma foreign_keys=on;")
    except sqlite3.Error:
        connection.close()
        raise
    return connection


def _lay_out(connection: sqlite3.Connection) -> int:
    """All that this layout has more than the one there is, and the version, or nothing. Gives the version there is."""
    if _missing(_version(connection)):
        connection.execute("begin immediate")
        # Asked again: two processes may have seen the same older layout.
        for statement in _missing(_version(connection)):
            connection.execute(statement)
        connection.execute("commit")
    return _version(connection)


def _missing(version: int) -> tuple[str, ...]:
    """What makes this layout of layout ``version``; nothing of one that is not known."""
    steps = {0: (*_TABLES, *_triggers()), 2: (f"alter table reservations add column {_ALONE}",)}
    return (*steps[version], f"pragma user_version={_VERSION}") if version in steps else ()


def _version(connection: sqlite3.Connection) -> int:
    return int(connection.execute("pragma user_version").fetchone()[0])


def _triggers() -> Iterator[str]:
    for table in _KEYS:
        yield f"create trigger {table}_update before update on {table} begin {_REFUSED}; end"
        yield f"create trigger {table}_delete before delete on {table} begin {_REFUSED}; end"
        yield f"create trigger {table}_replace before insert on {table} when {_is_there(table)} begin {_REFUSED}; end"


def _is_there(table: str) -> str:
    """Whether a row has one of the new row's keys."""
    same = (" and ".join(f"{column} = new.{column}" for column in key) for key in _KEYS[table])
    return " or ".join(f"exists (select 1 from {table} where {key})" for key in same)  # noqa: S608 - our own names


def _is_first_layout(connection: sqlite3.Connection) -> bool:
    if not connection.execute("select 1 from sqlite_master where name = 'events'").fetchone():
        return False
    return int(connection.execute("select count(*) from events").fetchone()[0]) == 0


def _damaged(reason: str) -> SiteDataError:
    return SiteDataError(
        f"the ledger is damaged: {reason}",
        hint="restore it from your newest copy, and count what was done since as paid",
        code="ledger-damaged",
    )


_LEAST_FREE = 2**17
"""Bytes: SQLite's shared memory takes 32 KiB, a transaction a few pages in the write-ahead log."""


@contextmanager
def _explained(path: Path) -> Iterator[None]:
    """SQLite's errors as ours."""
    try:
        yield
    except sqlite3.OperationalError as error:
        raise _unusable(error, path) from None
    except sqlite3.DatabaseError as error:
        raise _damaged(str(error)) from None


def _unusable(error: sqlite3.OperationalError, path: Path) -> ConsiliumError:
    free = shutil.disk_usage(path.parent).free
    # Without room for the files beside the ledger, SQLite cannot open it, and says no more than that.
    if getattr(error, "sqlite_errorcode", None) == sqlite3.SQLITE_FULL or free < _LEAST_FREE:
        return CapacityError(
            f"the disk is full: the ledger could not be written, {free} bytes are free",
            hint="free some space; nothing left this site",
            code="disk-full",
        )
    return SiteDataError(
        f"the ledger cannot be used: {error}",
        hint="check the disk's space, health and permissions, and that no other program holds the file",
        code="ledger-unusable",
    )
