"""What an archive holds, row by row: cases, cases that could not be read, files that were looked at, measurements.

Promises
- One transaction per change, on the disk when the call returns (SQLite, write-ahead log, synchronous=FULL): after
  ``kill -9`` or on a full disk all rows of it are there, or none.
- A case is stored or quarantined, never both: storing it ends its quarantine, and what is stored stays.
- Each case's row carries a SHA-256 of itself (``rows``): one that a disk changed is ``SiteDataError``
  ("archive-damaged"), never a record.
- Rows are read in pages, so memory does not grow with their number, and a reader never holds up a writer.

Nothing here may name a patient; that is ``Record``'s promise. Bytes are left to ``segments``, locks to ``archive``.
"""

from __future__ import annotations

import hmac
import json
import os
import shutil
import sqlite3
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import astuple, dataclass, replace
from pathlib import Path
from typing import Any

from client.data.archive.record import Record
from client.data.archive.rows import record_of, row_of
from client.data.archive.segments import damaged
from client.data.case_files import Quarantined
from client.data.source.found import FileSeen
from shared.crypto.sealing import key_check, new_salt
from shared.durable import fsync_folder
from shared.errors import CapacityError, SiteDataError

FILE = "catalogue.sqlite"
_VERSION = 1
_PAGE = 1000
# Another process writes for as long as one batch takes; a slow disk may need seconds.
_PATIENCE_S = 60.0

Measurement = tuple[str, str, str]
"""(case_id, sha256 of its record, what was measured as JSON text)."""

_LAYOUT = """
create table archive (version integer not null, salt blob not null, key_check text not null);
create table cases (
    case_id text primary key, patient text not null, label text, subgroups text not null, sha256 text not null,
    origin text not null, segment integer not null, offset integer not null, bytes integer not null,
    rest text not null, digest text not null);
create table quarantined (
    case_id text primary key, code text not null, sentence text not null, sources text not null) without rowid;
create table files (name text primary key, use text not null, code text not null, sources text not null) without rowid;
create table measurements (case_id text primary key, sha256 text not null, said text not null);
"""
_PUT = {
    "cases": "insert or replace into cases values (?,?,?,?,?,?,?,?,?,?,?)",
    "quarantined": """
        insert or replace into quarantined select ?1, ?2, ?3, ?4
        where not exists (select 1 from cases where case_id = ?1)""",
    "files": "insert or replace into files values (?,?,?,?)",
    "measurements": "insert or replace into measurements values (?,?,?)",
}
_PAGES = {
    "cases": "select * from cases where case_id > ? order by case_id limit ?",
    "quarantined": "select case_id, code, sentence from quarantined where case_id > ? order by case_id limit ?",
    "files": "select name, use, code from files where name > ? order by name limit ?",
    "measurements": """
        select measurements.* from measurements join cases using (case_id, sha256)
        where case_id > ? order by case_id limit ?""",
}


@dataclass(frozen=True, slots=True)
class Change:
    """What is to be added, replaced and removed at once; what is removed goes first.

    Attributes:
        records: cases whose bytes were flushed.
        quarantined: cases and files that could not be read; one that is stored is left out.
        files: files that were looked at.
        sources: salted names of the sources that ``quarantined`` and ``files`` lie in.
        withdrawn: cases that are not to be stored any longer.
        gone_quarantine: cases and files that are not to be quarantined any longer.
        gone_files: files that are not there any longer.
    """

    records: Collection[Record] = ()
    quarantined: Collection[Quarantined] = ()
    files: Collection[FileSeen] = ()
    sources: Collection[str] = ()
    withdrawn: Collection[str] = ()
    gone_quarantine: Collection[str] = ()
    gone_files: Collection[str] = ()


class Catalogue:
    """An open catalogue. Get it from ``open`` or ``open_or_create``; close it."""

    def __init__(self, path: Path, connection: sqlite3.Connection) -> None:
        self._path, self._connection = path, connection

    @classmethod
    def open_or_create(cls, folder: Path, key: bytes | None) -> Catalogue:
        """The catalogue in ``folder``; an empty one is begun where there is none. Raises as ``open``."""
        # Made here and not by SQLite, whose files everybody may read.
        os.close(os.open(folder / FILE, os.O_RDWR | os.O_CREAT, 0o600))
        fsync_folder(folder)

        def prepare(connection: sqlite3.Connection) -> None:
            # A process that was killed while it began a catalogue leaves a file without tables.
            if not _tables(connection):
                _lay_out(connection, key)
            _require_key(connection, key)

        return cls._opened(folder / FILE, prepare)

    @classmethod
    def open(cls, folder: Path, key: bytes | None) -> Catalogue:
        """The catalogue in ``folder``.

        Raises:
            SiteDataError: "archive-missing", "archive-damaged", "archive-version"; "wrong-key" where it was made with
                another key, "archive-sealed" without one, "archive-not-sealed" where it was made without.
        """
        if not (folder / FILE).exists():
            raise _missing()
        return cls._opened(folder / FILE, lambda connection: _require_key(connection, key))

    @classmethod
    def _opened(cls, path: Path, prepare: Callable[[sqlite3.Connection], None]) -> Catalogue:
        with _explained(path):
            # Rows may be read from the threads of a loader; SQLite's own lock keeps them apart.
            connection = sqlite3.connect(path, _PATIENCE_S, isolation_level=None, check_same_thread=False)
            try:
                connection.executescript("pragma journal_mode=wal; pragma synchronous=full;")
                prepare(connection)
                return cls(path, connection)
            except BaseException:
                connection.close()
                raise

    def close(self) -> None:
        """Close the file."""
        self._connection.close()

    def __len__(self) -> int:
        with _explained(self._path):
            return int(self._connection.execute("select count(*) from cases").fetchone()[0])

    def record(self, case_id: str) -> Record | None:
        """One case; None where there is none of this name."""
        with _explained(self._path):
            row = self._connection.execute("select * from cases where case_id = ?", (case_id,)).fetchone()
        return None if row is None else record_of(row)

    def records(self) -> Iterator[Record]:
        """All cases, sorted by name."""
        return map(record_of, self._pages("cases"))

    def quarantined(self) -> list[Quarantined]:
        """All cases that could not be read, sorted by name."""
        return [Quarantined(*row) for row in self._pages("quarantined")]

    def files(self) -> Iterator[FileSeen]:
        """All files that were looked at, sorted by name."""
        return (FileSeen(*row) for row in self._pages("files"))

    def measurements(self) -> Iterator[Measurement]:
        """All measurements that are still true: of cases that are stored with the same bytes."""
        return ((case_id, sha256, said) for case_id, sha256, said in self._pages("measurements"))

    def commit(self, change: Change) -> None:
        """Carry out ``change``, all of it or nothing. Raises ``CapacityError``, ``SiteDataError``."""
        sources = json.dumps(sorted(change.sources))
        readable = [record.case_id for record in change.records]
        with self._transaction() as connection:
            connection.executemany("delete from cases where case_id = ?", _each(change.withdrawn))
            connection.executemany(
                "delete from quarantined where case_id = ?", _each([*readable, *change.gone_quarantine])
            )
            connection.executemany("delete from files where name = ?", _each(change.gone_files))
            connection.executemany(_PUT["cases"], map(row_of, change.records))
            connection.executemany(_PUT["quarantined"], ((*astuple(one), sources) for one in change.quarantined))
            connection.executemany(_PUT["files"], ((*astuple(one), sources) for one in change.files))

    def said_of(self, sources: Collection[str]) -> tuple[set[str], set[str]]:
        """Names in quarantine, and names of files, that were told of nothing but ``sources``."""
        with _explained(self._path):
            quarantined = self._connection.execute("select case_id, sources from quarantined").fetchall()
            files = self._connection.execute("select name, sources from files").fetchall()
        within = {said: set(json.loads(said)) <= set(sources) for said in {said for _, said in (*quarantined, *files)}}
        return {name for name, said in quarantined if within[said]}, {name for name, said in files if within[said]}

    def annotate(self, records: Iterable[Record]) -> None:
        """Take over what tables say of ``records`` (person, label, subgroups), all or none; others are left out."""
        with self._transaction() as connection:
            for record in records:
                stored = self.record(record.case_id)
                if stored is not None:
                    said = {name: getattr(record, name) for name in ("patient", "aliases", "label", "subgroups")}
                    connection.execute(_PUT["cases"], row_of(replace(stored, **said)))

    def keep_measurements(self, rows: Iterable[Measurement]) -> None:
        """Add or replace measurements, all or none."""
        with self._transaction() as connection:
            connection.executemany(_PUT["measurements"], rows)

    def referenced(self) -> dict[int, int]:
        """How many bytes of each segment belong to a case."""
        with _explained(self._path):
            return dict(self._connection.execute("select segment, sum(bytes) from cases group by segment"))

    def _pages(self, table: str) -> Iterator[tuple[Any, ...]]:
        last = ""
        while True:
            with _explained(self._path):
                page = self._connection.execute(_PAGES[table], (last, _PAGE)).fetchall()
            yield from page
            if len(page) < _PAGE:
                return
            last = page[-1][0]

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        with _explained(self._path):
            self._connection.execute("begin immediate")
            try:
                yield self._connection
                self._connection.execute("commit")
            except BaseException:
                # A full disk makes SQLite roll back by itself.
                if self._connection.in_transaction:
                    self._connection.execute("rollback")
                raise


def _each(names: Iterable[str]) -> Iterator[tuple[str]]:
    return ((name,) for name in names)


def _tables(connection: sqlite3.Connection) -> int:
    return int(connection.execute("select count(*) from sqlite_master").fetchone()[0])


def _lay_out(connection: sqlite3.Connection, key: bytes | None) -> None:
    """Create all tables in one transaction, so that a catalogue has all of them or none."""
    salt = new_salt()
    check = "" if key is None else key_check(key, salt)
    connection.executescript(f"begin; {_LAYOUT}")
    connection.execute("insert into archive values (?,?,?)", (_VERSION, salt, check))
    connection.execute("commit")


def _require_key(connection: sqlite3.Connection, key: bytes | None) -> None:
    if not _tables(connection):
        raise _missing()
    version, salt, check = connection.execute("select version, salt, key_check from archive").fetchone()
    if version != _VERSION:
        raise SiteDataError(
            f"the archive has layout {version}, this program reads layout {_VERSION}",
            hint="use the version of Consilium that made it, or ingest into a new data set",
            code="archive-version",
        )
    if key is None and check:
        raise SiteDataError(
            "the archive is sealed and no key was given",
            hint='set [store] encryption = "aes-gcm" in site.toml and name the key file',
            code="archive-sealed",
        )
    if key is not None and not check:
        raise SiteDataError(
            "a key was given and the archive is not sealed",
            hint='set [store] encryption = "none" in site.toml, or ingest into a new data set to seal it',
            code="archive-not-sealed",
        )
    if key is not None and not hmac.compare_digest(check, key_check(key, salt)):
        raise SiteDataError(
            "the key is not the one that this archive was sealed with",
            hint="restore the key file that was there at the first ingest; nothing was changed",
            code="wrong-key",
        )


def _missing() -> SiteDataError:
    return SiteDataError("there is no archive here", hint="run ingest first", code="archive-missing")


@contextmanager
def _explained(path: Path) -> Iterator[None]:
    """SQLite's errors as ours."""
    try:
        yield
    except sqlite3.OperationalError as error:
        if getattr(error, "sqlite_errorcode", None) == sqlite3.SQLITE_FULL:
            free = shutil.disk_usage(path.parent).free
            raise CapacityError(
                f"the disk is full: the archive's catalogue could not be written, {free} bytes are free",
                hint="free some space, then run the same command again: what is stored stays",
                code="disk-full",
            ) from None
        # Over a quota or a size limit SQLite says no more than "disk I/O error".
        raise SiteDataError(
            f"the archive's catalogue cannot be used: {error}",
            hint="check the disk's space, quota, health and permissions, then run the same command again",
            code="archive-unwritable",
        ) from None
    except sqlite3.DatabaseError as error:
        raise damaged(f"the archive's catalogue is damaged: {error}") from None
