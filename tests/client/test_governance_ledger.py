"""The ledger: empty, private, and closed to everything but new rows."""

import sqlite3
import stat
from contextlib import closing
from pathlib import Path

import pytest

from client.governance import ledger

ADD = """insert into events (at, cohort, plan, round, mechanism, parameters)
         values ('2025-01-01', 'c', 'p', 1, 'gaussian', '{}')"""
AGAIN = """into events (number, at, cohort, plan, round, mechanism, parameters)
           values (1, '2025-01-01', 'c', 'p', 1, 'other', '{}')"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    ledger.create(tmp_path / "ledger.sqlite")
    return tmp_path / "ledger.sqlite"


def rows(path: Path) -> list[tuple[object, ...]]:
    with closing(sqlite3.connect(path)) as connection:
        return connection.execute("select * from events").fetchall()


def do(path: Path, statement: str) -> None:
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute(statement)


def test_a_new_ledger_is_empty_and_its_owner_s_alone(path: Path) -> None:
    assert rows(path) == []
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_rows_are_added_and_numbered(path: Path) -> None:
    for _ in range(2):
        do(path, ADD)
    assert [row[0] for row in rows(path)] == [1, 2]


@pytest.mark.parametrize(
    "statement",
    [
        "update events set round = 2",
        "update or replace events set number = 2",
        "delete from events",
        "delete from events where number = 1",
        "insert or replace " + AGAIN,
        "replace " + AGAIN,
        "insert " + AGAIN + " on conflict do update set round = 9",
    ],
)
def test_no_row_can_be_changed_or_removed(path: Path, statement: str) -> None:
    do(path, ADD)
    before = rows(path)
    with pytest.raises(sqlite3.IntegrityError, match="append-only"):
        do(path, statement)
    assert rows(path) == before


def test_without_the_triggers_the_same_statements_would_go_through(path: Path) -> None:
    """The control: it is the triggers that refuse."""
    do(path, ADD)
    for name in ("events_update", "events_delete", "events_replace"):
        do(path, f"drop trigger {name}")
    do(path, "replace " + AGAIN)
    assert rows(path)[0][5] == "other"
    do(path, "delete from events")
    assert rows(path) == []


def test_a_ledger_is_never_made_over_another(path: Path) -> None:
    before = path.read_bytes()
    with pytest.raises(FileExistsError):
        ledger.create(path)
    assert path.read_bytes() == before
