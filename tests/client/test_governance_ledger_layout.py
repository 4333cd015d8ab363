"""A ledger that an earlier program wrote: brought to today's layout in place, with every row and every old digest."""

import hashlib
import json
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from small_ledger import AT, EVENT, UNLIMITED, Crash, Faults, added_up, claim, cohort, dying, made, rows, sha

from client.governance import ledger_layout
from client.governance.ledger import Ledger
from client.governance.spending import Account
from shared.errors import CapacityError, ProtocolError, SiteDataError
from shared.privacy.accounting import epsilon
from shared.privacy.events import Event

SUPPORT, ROOT = Path(__file__).parents[1] / "support", Path(__file__).parents[2]
SECOND_LAYOUT = """
begin;
create table cohorts (
    number integer primary key, digest text not null unique, dataset text not null, at text not null);
create table members (
    cohort integer not null references cohorts (number), patient text not null,
    split text not null check (split in ('train', 'validation', 'test')),
    primary key (cohort, patient)) without rowid;
create index members_by_patient on members (patient, cohort, split);
create table reservations (
    number integer primary key, at text not null, cohort integer not null references cohorts (number),
    split text not null check (split in ('train', 'validation', 'test')), run text not null, plan text not null,
    round integer not null, purpose text not null check (purpose in ('train', 'statistics')), request text not null,
    noise_multiplier real not null check (noise_multiplier > 0),
    sampling_rate real not null check (sampling_rate > 0 and sampling_rate <= 1),
    steps integer not null check (steps >= 1),
    unique (cohort, split, run, plan, round, purpose));
create table releases (
    reservation integer primary key references reservations (number), at text not null, reply text not null);
"""
"""What the program before this one made, at user_version 2, but for the triggers: ``closed``."""
SAME_ROW = {
    "cohorts": "number = new.number or digest = new.digest",
    "members": "cohort = new.cohort and patient = new.patient",
    "reservations": "number = new.number or (cohort, split, run, plan, round, purpose) = "
    "(new.cohort, new.split, new.run, new.plan, new.round, new.purpose)",
    "releases": "reservation = new.reservation",
}
REFUSED = "begin select raise(abort, 'the ledger is append-only'); end;\n"


def closed(table: str) -> str:
    there = f"exists (select 1 from {table} where {SAME_ROW[table]})"  # noqa: S608 - our own names
    return (
        f"create trigger {table}_update before update on {table} {REFUSED}"
        f"create trigger {table}_delete before delete on {table} {REFUSED}"
        f"create trigger {table}_replace before insert on {table} when {there} {REFUSED}"
    )


def old(folder: Path) -> Path:
    """A ledger of layout 2 in which two rounds and a measurement were paid for, and one round left."""
    path = folder / "ledger.sqlite"
    row = "insert into reservations values (?, '2026-01-02T03:04:05+00:00', 1, ?, 'run-1', ?, ?, ?, 'q', ?, ?, ?)"
    with closing(sqlite3.connect(path)) as connection:
        connection.executescript("pragma journal_mode=wal;" + SECOND_LAYOUT + "".join(map(closed, SAME_ROW)))
        connection.execute("insert into cohorts values (1, ?, 'lesions', '2026-01-01T00:00:00+00:00')", (sha("first"),))
        for patient, split in (("a", "train"), ("b", "train"), ("c", "validation"), ("d", "test")):
            connection.execute("insert into members values (1, ?, ?)", (patient, split))
        connection.execute(row, (1, "train", sha("plan"), 1, "train", EVENT.noise_multiplier, 0.5, 10))
        connection.execute(row, (2, "train", sha("plan"), 2, "train", 0.1 + 0.2, 1 / 3, 7))
        connection.execute(row, (3, "test", sha("plan"), 2, "statistics", 2.5, 1.0, 1))
        connection.execute("insert into releases values (1, '2026-01-02T03:04:06+00:00', ?)", (sha("reply"),))
        connection.execute("pragma user_version=2")
        connection.commit()
    return path


def old_digest(path: Path) -> str:
    """What ``Ledger.digest`` said in layout 2: all columns of all rows, read here without the code under test."""
    said = hashlib.sha256(b"consilium-ledger-2\n")
    orders = {"cohorts": "number", "members": "cohort, patient", "reservations": "number", "releases": "reservation"}
    for table, order in orders.items():
        for row in rows(path, f"select '{table}', * from {table} order by {order}"):  # noqa: S608 - our own names
            said.update(json.dumps(row).encode() + b"\n")
    return said.hexdigest()


def columns(path: Path) -> list[str]:
    return [row[1] for row in rows(path, "pragma table_info(reservations)")]


def version(path: Path) -> int:
    return int(rows(path, "pragma user_version")[0][0])


def do(path: Path, statement: str) -> None:
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute(statement)


# --- what it becomes --------------------------------------------------------------------------------------------------


def test_an_old_ledger_is_opened_as_one_of_today_s_layout(tmp_path: Path) -> None:
    path = old(tmp_path)
    assert (version(path), "alone" in columns(path)) == (2, False), "the control: it is an old one"
    for _ in range(2):
        Ledger.open(path)
    made(tmp_path / "new.sqlite")
    assert (version(path), columns(path)) == (3, columns(tmp_path / "new.sqlite"))
    assert columns(path)[-1] == "alone"
    assert rows(path, "pragma table_info(reservations)") == rows(
        tmp_path / "new.sqlite", "pragma table_info(reservations)"
    )


def test_what_was_paid_before_is_what_it_was(tmp_path: Path) -> None:
    path = old(tmp_path)
    ledger = Ledger.open(path)
    spent = ledger.spending(sha("first")).splits
    assert spent["train"].own == Account((EVENT,), (Event(0.1 + 0.2, 1 / 3, 7),))
    assert spent["test"].own == Account((), (Event(2.5, 1.0, 1),))
    assert all(event.alone == 0 for account in (spent["train"].own, spent["test"].own) for event in account.all())
    assert rows(path, "select distinct alone from reservations") == [(0.0,)]


def test_a_digest_that_an_audit_log_holds_is_still_the_ledger_s(tmp_path: Path) -> None:
    path = old(tmp_path)
    before = old_digest(path)
    assert Ledger.open(path).digest() == before
    assert old_digest(path) != before, "the control: with the new column in it, the old formula says something else"


def test_the_same_rows_have_the_same_digest_in_whichever_layout_they_began(tmp_path: Path) -> None:
    """The one row by the old program and by this one; times are those of the row."""
    path, new = old(tmp_path), made(tmp_path / "new.sqlite")
    with closing(sqlite3.connect(new.path)) as connection:
        connection.execute("attach ? as old", (str(path),))
        for table in ("cohorts", "members", "releases"):
            connection.execute(f"insert into main.{table} select * from old.{table}")  # noqa: S608 - our own names
        connection.execute("insert into main.reservations select *, 0 from old.reservations")
        connection.commit()
    assert new.digest() == old_digest(path) == Ledger.open(path).digest()


def test_what_is_paid_from_then_on_is_in_the_digest_with_what_is_left_if_all_others_collude(tmp_path: Path) -> None:
    seen = set()
    for alone in (0.0, 0.25, 0.5):
        (here := tmp_path / str(alone)).mkdir()
        ledger = Ledger(Ledger.open(old(here)).path, added_up)
        ledger.reserve(claim(number=3), Event(1.0, 0.5, 10, alone), UNLIMITED, AT)
        seen.add(ledger.digest())
    assert len(seen) == 3


def test_an_old_ledger_stays_closed_to_everything_but_new_rows(tmp_path: Path) -> None:
    path = old(tmp_path)
    before = Ledger.open(path).digest()
    for statement in (
        "update reservations set alone = 0.5",
        "delete from reservations where number = 2",
        "replace into reservations select * from reservations",
        "update members set split = 'test'",
    ):
        with pytest.raises(sqlite3.IntegrityError, match="append-only"):
            do(path, statement)
    assert rows(path, "select count(*) from sqlite_master where type = 'trigger'") == [(3 * 4,)]
    assert Ledger.open(path).digest() == before


@pytest.mark.parametrize("wrong", ["-0.1", "null"])
@pytest.mark.parametrize("made_by", ["this program", "the one before"])
def test_no_program_can_note_what_is_no_noise(tmp_path: Path, made_by: str, wrong: str) -> None:
    path = old(tmp_path) if made_by == "the one before" else made(tmp_path / "l", cohort("first", train=["a"])).path
    Ledger.open(path)
    row = "insert into reservations values (9, '', 1, 'train', 'r', 'p', 9, 'train', 'q', 1.0, 0.5, 1, {})"
    with pytest.raises(sqlite3.IntegrityError, match="constraint failed"):
        do(path, row.format(wrong))
    do(path, row.format("0.5"))
    assert (0.5,) in rows(path, "select alone from reservations"), "the control: it is this value that is refused"


def test_answers_of_before_are_neither_charged_again_nor_given_to_a_shared_noise(tmp_path: Path) -> None:
    ledger = Ledger(Ledger.open(old(tmp_path)).path, added_up)
    assert ledger.reserve(claim(), EVENT, UNLIMITED, AT).reply == sha("reply")
    with pytest.raises(ProtocolError, match="with another noise, sampling rate or number of steps"):
        ledger.reserve(claim(), Event(1.0, 0.5, 10, 0.5), UNLIMITED, AT)


# --- however it ends --------------------------------------------------------------------------------------------------


def ends_at_each_point(folder: Path) -> list[tuple[int, bool, bool]]:
    """(version, whether the column is there, whether the digest is the old one's) after a crash at each point."""
    found, whole = [], Faults()
    (folder / "whole").mkdir()
    with dying(whole):
        Ledger.open(old(folder / "whole"))
    for at in range(1, whole.seen + 1):
        (here := folder / str(at)).mkdir()
        path = old(here)
        before = old_digest(path)
        with dying(Faults(at)), pytest.raises(Crash):
            Ledger.open(path)
        layout = version(path), "alone" in columns(path)
        found.append((*layout, Ledger.open(path).digest() == before))
    return found


def test_a_program_that_ends_on_the_way_leaves_the_old_ledger_or_the_new_one(tmp_path: Path) -> None:
    found = ends_at_each_point(tmp_path)
    assert len(found) >= 12
    assert set(found) == {(2, False, True), (3, True, True)}
    assert found == sorted(found), "old until it is done"


def test_without_one_transaction_the_same_crashes_leave_half_a_ledger(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The control: it is the transaction that makes it whole."""

    def step_by_step(connection: Any) -> int:
        for statement in ledger_layout._missing(ledger_layout._version(connection)):
            connection.execute(statement)
        return ledger_layout._version(connection)

    monkeypatch.setattr(ledger_layout, "_lay_out", step_by_step)
    with pytest.raises(SiteDataError, match="duplicate column"):
        ends_at_each_point(tmp_path)


def test_a_full_disk_on_the_way_leaves_the_old_ledger(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, real = old(tmp_path), ledger_layout._missing

    def large(version: int) -> tuple[str, ...]:
        return (*real(version), "create table t as select zeroblob(1 << 20)") if real(version) else ()

    def small(path: Path) -> sqlite3.Connection:
        connection = connect(path)
        connection.execute(f"pragma max_page_count={connection.execute('pragma page_count').fetchone()[0]}")
        return connection

    before, connect = old_digest(path), ledger_layout._connected
    monkeypatch.setattr(ledger_layout, "_connected", small)
    monkeypatch.setattr(ledger_layout, "_missing", large)
    with pytest.raises(CapacityError, match="the disk is full"):
        Ledger.open(path)
    monkeypatch.undo()
    assert (version(path), old_digest(path)) == (2, before)


def test_processes_that_open_an_old_ledger_at_once_bring_it_over_once(tmp_path: Path) -> None:
    before = set()
    for turn in range(8):
        (here := tmp_path / str(turn)).mkdir()
        before.add(old_digest(old(here)))
    words = [sys.executable, SUPPORT / "ledger_victims.py", "open", tmp_path, "8"]
    places = {"PYTHONPATH": f"{SUPPORT}:{ROOT}", "OMP_NUM_THREADS": "1"}
    said = subprocess.run(words, env=places, capture_output=True, text=True, check=True).stdout.splitlines()
    assert [set(line.split()) for line in said] == [before] * 8
    assert [len(line.split()) for line in said] == [4] * 8, "each of the four opened it"
    assert {version(tmp_path / str(turn) / "ledger.sqlite") for turn in range(8)} == {3}


# --- what it is not ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("spoil", "code"),
    [
        (lambda path: do(path, "pragma user_version=1"), "ledger-version"),
        (lambda path: do(path, "pragma user_version=4"), "ledger-version"),
        (lambda path: do(path, "pragma user_version=0"), "ledger-damaged"),
        (lambda path: do(path, "drop table reservations"), "ledger-unusable"),
        (lambda path: path.write_bytes(path.read_bytes()[:4096]), "ledger-damaged"),
    ],
    ids=["layout-1", "layout-4", "no-version", "no-table", "cut"],
)
def test_what_is_no_ledger_of_the_second_layout_is_not_brought_over(
    tmp_path: Path, spoil: Callable[[Path], object], code: str
) -> None:
    path = old(tmp_path)
    spoil(path)
    before = path.read_bytes()
    with pytest.raises(SiteDataError) as refused:
        Ledger.open(path)
    assert refused.value.code == code
    assert path.read_bytes() == before


def test_a_patient_s_sum_counts_old_and_new_events_and_says_both_costs(tmp_path: Path) -> None:
    """Ten steps at noise 1 by this site alone, then ten of which sites share the noise: alone it is a half of it."""
    ledger = Ledger.open(old(tmp_path))
    shared = Event(1.0, 0.5, 10, 0.5)
    ledger.reserve(claim(number=3), shared, UNLIMITED, AT)
    (account,) = ledger.spending(sha("first")).splits["train"].accounts
    assert shared in account.all()
    assert EVENT in account.all(), "kept apart from the same noise of this site's own"
    assert epsilon([event.if_alone() for event in account.all()], 1e-5) > epsilon(account.all(), 1e-5)
