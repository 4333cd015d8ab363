"""The ledger: private, closed to everything but new rows, and a refusal before anybody pays too much."""

import random
import sqlite3
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from datetime import timedelta, timezone
from pathlib import Path

import pytest
from small_ledger import AT, EVENT, UNLIMITED, added_up, claim, cohort, made, rows, sha

from client.governance import ledger as module
from client.governance.ledger import Ledger, Reservation
from client.governance.spending import Account
from shared.errors import BudgetError, CapacityError, ConsiliumError, ProtocolError, SiteDataError
from shared.privacy.accounting import Cap, epsilon
from shared.privacy.events import Event

FIRST = cohort("first", train=["a", "b"], validation=["c"], test=["d"])
TABLES = ("cohorts", "members", "reservations", "releases")
FIRST_LAYOUT = """
begin;
create table events (
    number integer primary key, at text not null, cohort text not null, plan text not null, round integer not null,
    mechanism text not null, parameters text not null);
create trigger events_update before update on events begin select raise(abort, 'the ledger is append-only'); end;
create trigger events_delete before delete on events begin select raise(abort, 'the ledger is append-only'); end;
create trigger events_replace before insert on events when new.number in (select number from events)
begin select raise(abort, 'the ledger is append-only'); end;
commit;
"""
"""What the first version made with a site folder, and never wrote a row to."""


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    return made(tmp_path / "ledger.sqlite", FIRST)


@pytest.fixture
def full(ledger: Ledger) -> Ledger:
    """A row in every table."""
    ledger.release(ledger.reserve(claim(), EVENT, UNLIMITED, AT).number, sha("reply"), AT)
    return ledger


def do(path: Path, statement: str) -> None:
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute(statement)


def code_of(action: Callable[[], object]) -> str:
    with pytest.raises(ConsiliumError) as refused:
        action()
    assert refused.value.hint or refused.value.code == "reservation-unknown"
    return refused.value.code


# --- the file ---------------------------------------------------------------------------------------------------------


def test_a_new_ledger_is_empty_and_its_owner_s_alone(tmp_path: Path) -> None:
    path = tmp_path / "ledger.sqlite"
    Ledger.create(path)
    assert rows(path, " union all ".join(f"select * from (select 1 from {table})" for table in TABLES)) == []  # noqa: S608
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert Ledger.open(path).cohorts() == ()


def test_what_sqlite_keeps_beside_it_is_its_owner_s_alone_and_goes_away(full: Ledger) -> None:
    with closing(sqlite3.connect(full.path)) as connection:
        connection.execute("begin immediate")
        beside = {path.name: stat.S_IMODE(path.stat().st_mode) for path in full.path.parent.iterdir()}
    assert len(beside) == 3
    assert set(beside.values()) == {0o600}
    full.spending(FIRST.digest)
    assert [path.name for path in full.path.parent.iterdir()] == ["ledger.sqlite"], "a copy of one file is a copy"


def test_the_function_that_makes_a_site_s_ledger_makes_one_that_opens(tmp_path: Path) -> None:
    module.create(tmp_path / "ledger.sqlite")
    assert Ledger.open(tmp_path / "ledger.sqlite").enrol(FIRST, AT).cohorts == ()


def test_a_ledger_is_never_made_over_another(full: Ledger) -> None:
    before = full.path.read_bytes()
    with pytest.raises(FileExistsError):
        Ledger.create(full.path)
    assert full.path.read_bytes() == before


@pytest.mark.parametrize("table", TABLES)
@pytest.mark.parametrize(
    "statement",
    [
        "update {table} set rowid = rowid",
        "update or replace {table} set {column} = {column}",
        "delete from {table}",
        "replace into {table} select * from {table}",
        "insert or replace into {table} select * from {table}",
        "insert into {table} select * from {table} where true on conflict do update set {column} = {column}",
    ],
    ids=["update", "update-or-replace", "delete", "replace", "insert-or-replace", "upsert"],
)
def test_no_row_can_be_changed_or_removed(full: Ledger, table: str, statement: str) -> None:
    column = "reply" if table == "releases" else "split" if table != "cohorts" else "at"
    if table == "members":
        statement = statement.replace("rowid = rowid", "split = split")
    before = full.digest()
    with pytest.raises(sqlite3.IntegrityError, match="append-only"):
        do(full.path, statement.format(table=table, column=column))
    assert full.digest() == before


@pytest.mark.parametrize(
    "statement",
    [
        "replace into cohorts values (9, (select digest from cohorts), 'other', '')",
        """replace into reservations select 9, at, cohort, split, run, plan, round, purpose, 'other', 99.0, 0.1, 1, 0
           from reservations""",
    ],
    ids=["cohort", "reservation"],
)
def test_no_row_gives_way_to_one_that_shares_its_name_and_not_its_number(full: Ledger, statement: str) -> None:
    with pytest.raises(sqlite3.IntegrityError, match="append-only"):
        do(full.path, statement)


def test_without_the_triggers_the_same_statements_would_go_through(full: Ledger) -> None:
    """The control: it is the triggers that refuse. Nobody who can write the file is kept from this."""
    before = full.digest()
    for end in ("update", "delete", "replace"):
        do(full.path, f"drop trigger reservations_{end}")
    do(full.path, "update reservations set noise_multiplier = 99")
    do(full.path, "delete from reservations")
    assert rows(full.path, "select * from reservations") == []
    assert full.digest() != before, "and the digest tells whoever kept it elsewhere"


@pytest.mark.parametrize(
    "values",
    ["0, 0.1, 1", "-1, 0.1, 1", "1, 0, 1", "1, 1.01, 1", "1, 0.1, 0", "null, 0.1, 1"],
)
def test_the_file_itself_refuses_mechanisms_that_are_none(full: Ledger, values: str) -> None:
    row = f"values ('', 1, 'train', 'r', 'p', 2, 'train', 'q', {values})"
    columns = "at, cohort, split, run, plan, round, purpose, request, noise_multiplier, sampling_rate, steps"
    with pytest.raises(sqlite3.IntegrityError, match="constraint"):
        do(full.path, f"insert into reservations ({columns}) {row}")


# --- other files ------------------------------------------------------------------------------------------------------


def test_a_ledger_of_the_first_layout_gets_the_tables_and_keeps_its_own(tmp_path: Path) -> None:
    path = tmp_path / "ledger.sqlite"
    with closing(sqlite3.connect(path)) as connection:
        connection.executescript(f"pragma journal_mode=wal; {FIRST_LAYOUT}")
    for _ in range(2):
        ledger = Ledger.open(path)
    ledger.enrol(FIRST, AT)
    assert ledger.reserve(claim(), EVENT, Cap(1e3, 1e-5), AT).state == "new"
    assert rows(path, "select count(*) from events") == [(0,)]
    with pytest.raises(sqlite3.IntegrityError, match="append-only"):
        do(path, "delete from reservations")


def test_a_row_where_the_first_layout_never_wrote_one_is_not_passed_over(tmp_path: Path) -> None:
    path = tmp_path / "ledger.sqlite"
    with closing(sqlite3.connect(path)) as connection:
        connection.executescript(FIRST_LAYOUT)
        connection.execute("insert into events values (1, '', '', '', 1, '', '')")
        connection.commit()
    assert code_of(lambda: Ledger.open(path)) == "ledger-damaged"


def test_a_lost_ledger_is_not_replaced_by_one_that_says_nobody_paid(tmp_path: Path) -> None:
    path = tmp_path / "ledger.sqlite"
    assert code_of(lambda: Ledger.open(path)) == "ledger-missing"
    assert code_of(lambda: Ledger(path).cohorts()) == "ledger-unusable"
    assert not path.exists()
    path.touch()
    assert code_of(lambda: Ledger.open(path)) == "ledger-damaged"
    path.write_bytes(b"no database" * 100)
    assert code_of(lambda: Ledger.open(path)) == "ledger-damaged"
    assert code_of(lambda: Ledger(path).cohorts()) == "ledger-damaged"


def test_a_ledger_of_a_later_version_is_left_alone(full: Ledger) -> None:
    do(full.path, "pragma user_version=4")
    before = full.path.read_bytes()
    assert code_of(lambda: Ledger.open(full.path)) == "ledger-version"
    assert full.path.read_bytes() == before


def test_a_full_disk_is_said_to_be_one_and_nothing_is_noted(full: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    real = module.ledger_layout._connected

    def small(path: Path) -> sqlite3.Connection:
        connection = real(path)
        connection.execute(f"pragma max_page_count={connection.execute('pragma page_count').fetchone()[0]}")
        return connection

    before = full.digest()
    monkeypatch.setattr(module.ledger_layout, "_connected", small)
    with pytest.raises(CapacityError, match="disk is full"):
        full.enrol(cohort("large", train=[sha(str(number)) for number in range(2000)]), AT)
    monkeypatch.undo()
    assert full.digest() == before


# --- enrolling --------------------------------------------------------------------------------------------------------


def test_enrolling_again_changes_nothing_and_says_the_same(full: Ledger) -> None:
    full.enrol(cohort("second", train=["a"]), AT)
    full.reserve(claim("second"), EVENT, UNLIMITED, AT)
    before, said = full.digest(), full.enrol(cohort("second", train=["a"]), AT)
    assert full.enrol(cohort("second", train=["a"]), AT + timedelta(days=1)) == said
    assert full.digest() == before
    assert [one.digest for one in full.cohorts()] == [sha("first"), sha("second")]


@pytest.mark.parametrize(
    "other",
    [
        cohort("first", train=["a"], validation=["c"], test=["d"]),
        cohort("first", train=["a", "b", "e"], validation=["c"], test=["d"]),
        cohort("first", train=["a", "c"], validation=["b"], test=["d"]),
    ],
    ids=["fewer", "more", "moved"],
)
def test_a_cohort_with_other_patients_than_before_is_refused(ledger: Ledger, other: object) -> None:
    before = ledger.digest()
    assert code_of(lambda: ledger.enrol(other, AT)) == "cohort-otherwise"  # type: ignore[arg-type]
    assert ledger.digest() == before


def test_a_cohort_that_shares_a_patient_inherits_and_says_from_whom_and_how_many(full: Ledger) -> None:
    said = full.enrol(cohort("second", train=["b", "x"], test=["d", "y"]), AT)
    assert [(one.digest, one.dataset, one.patients) for one in said.cohorts] == [(sha("first"), "lesions", 2)]
    assert said.spending.splits["train"].accounts == (Account((EVENT,)),)
    assert said.spending.splits["train"].inherited == (sha("first"),)
    assert said.spending.splits["train"].own == Account(), "nothing was asked of this cohort itself"


def test_a_cohort_of_other_patients_inherits_nothing(full: Ledger) -> None:
    said = full.enrol(cohort("second", train=["x"], test=["y"]), AT)
    assert said.cohorts == ()
    assert [(spent.accounts, spent.inherited) for spent in said.spending.splits.values()] == [((Account(),), ())] * 3


def test_a_patient_who_was_tested_and_is_trained_on_now_pays_for_both(ledger: Ledger) -> None:
    statistic = Event(2.0, 1.0, 1)
    ledger.reserve(claim(split="test"), statistic, UNLIMITED, AT)
    ledger.enrol(cohort("second", train=["d", "x"]), AT)
    ledger.reserve(claim("second"), EVENT, UNLIMITED, AT)
    spent = ledger.spending(sha("second")).splits["train"]
    assert spent.accounts == (Account((), (EVENT, statistic)),)
    assert ledger.spending(sha("first")).splits["test"].accounts == spent.accounts, "in the earlier cohort as well"
    assert ledger.spending(sha("first")).splits["train"].accounts == (Account(),)


def test_a_patient_who_was_in_two_of_three_cohorts_pays_for_two(ledger: Ledger) -> None:
    ledger.enrol(cohort("second", train=["b", "x"]), AT)
    ledger.enrol(cohort("third", train=["a", "x", "z"]), AT)
    events = {name: Event(float(place), 0.5, 1) for place, name in enumerate(("first", "second", "third"), start=1)}
    for name, event in events.items():
        ledger.reserve(claim(name), event, UNLIMITED, AT)
    found = {
        name: sorted(
            tuple(event.noise_multiplier for event in account.all())
            for account in ledger.spending(sha(name)).splits["train"].accounts
        )
        for name in events
    }
    assert found == {
        "first": [(1.0, 2.0), (1.0, 3.0)],
        "second": [(1.0, 2.0), (2.0, 3.0)],
        "third": [(1.0, 3.0), (2.0, 3.0)],
    }


def test_an_outlook_says_what_enrolling_would_and_notes_nothing(full: Ledger) -> None:
    before, second = full.digest(), cohort("second", train=["b", "x"])
    outlook = full.outlook(second)
    assert full.digest() == before
    assert outlook == full.enrol(second, AT)


def test_an_unknown_cohort_pays_nothing_and_is_granted_nothing(ledger: Ledger) -> None:
    assert code_of(lambda: ledger.spending(sha("other"))) == "cohort-unknown"
    assert code_of(lambda: ledger.reserve(claim("other"), EVENT, UNLIMITED, AT)) == "cohort-unknown"


def test_a_split_without_patients_pays_for_the_patient_who_might_have_been_in_it(tmp_path: Path) -> None:
    ledger = made(tmp_path / "ledger.sqlite", cohort("first", train=["a"]))
    ledger.reserve(claim(split="test"), EVENT, Cap(5, 1e-5), AT)
    assert code_of(lambda: ledger.reserve(claim(split="test", number=2), EVENT, Cap(5, 1e-5), AT)) == "budget"


# --- reserving --------------------------------------------------------------------------------------------------------


def test_rounds_are_granted_up_to_the_cap_and_none_above_it(ledger: Ledger) -> None:
    """Each costs 5: three keep a cap of 15, and a fourth would not."""
    cap = Cap(15, 1e-5)
    assert [ledger.reserve(claim(number=n), EVENT, cap, AT).state for n in (1, 2, 3)] == ["new"] * 3
    with pytest.raises(BudgetError) as refused:
        ledger.reserve(claim(number=4), EVENT, cap, AT)
    assert refused.value.sentence == (
        f"round 4 would bring the train split of cohort {sha('first')[:12]} to epsilon 20 at delta 1e-05, "
        "the cap is 15; 0 rounds remain"
    )
    assert len(rows(ledger.path, "select * from reservations")) == 3


def test_the_refusal_is_the_one_that_real_accounting_gives(tmp_path: Path) -> None:
    """Rounds of 50 steps at noise 1.2 and rate 0.064 cost 2.25, 3.04 and 3.68 of a cap of 4; the fourth is too much."""
    made(tmp_path / "ledger.sqlite", FIRST)
    ledger, event, cap = Ledger.open(tmp_path / "ledger.sqlite"), Event(1.2, 0.064, 50), Cap(4, 1e-5)
    for number, about in enumerate((2.25, 3.04, 3.68), start=1):
        ledger.reserve(claim(number=number), event, cap, AT)
        (account,) = ledger.spending(FIRST.digest).splits["train"].accounts
        assert account.all() == (replace(event, steps=50 * number),)
        assert epsilon(account.all(), cap.delta) == pytest.approx(about, rel=0.12)
    with pytest.raises(BudgetError, match=r"round 4 .* to epsilon 4\.\d+ at delta 1e-05, the cap is 4; 0 rounds"):
        ledger.reserve(claim(number=4), event, cap, AT)


def test_inherited_spending_counts_towards_the_cap(full: Ledger) -> None:
    full.enrol(cohort("shares", train=["a", "x"]), AT)
    full.enrol(cohort("disjoint", train=["x"]), AT)
    assert code_of(lambda: full.reserve(claim("shares"), EVENT, Cap(9, 1e-5), AT)) == "budget"
    assert full.reserve(claim("disjoint"), EVENT, Cap(9, 1e-5), AT).state == "new"
    assert full.reserve(claim("shares"), EVENT, Cap(10, 1e-5), AT).state == "new", "the control: it was 5 of the 10"


def test_splits_are_spent_side_by_side(ledger: Ledger) -> None:
    cap = Cap(5, 1e-5)
    for split in ("train", "validation", "test"):
        assert ledger.reserve(claim(split=split), EVENT, cap, AT).state == "new"


def test_what_is_only_reserved_counts_towards_the_cap(ledger: Ledger) -> None:
    ledger.reserve(claim(number=1), EVENT, Cap(9, 1e-5), AT)
    assert code_of(lambda: ledger.reserve(claim(number=2), EVENT, Cap(9, 1e-5), AT)) == "budget"


def test_the_same_question_is_charged_once(ledger: Ledger) -> None:
    cap = Cap(5, 1e-5)
    assert ledger.reserve(claim(), EVENT, cap, AT) == Reservation(1, "new")
    for _ in range(3):
        assert ledger.reserve(claim(), EVENT, cap, AT) == Reservation(1, "again")
    ledger.release(1, sha("reply"), AT)
    for _ in range(3):
        assert ledger.reserve(claim(), EVENT, cap, AT) == Reservation(1, "released", sha("reply"))
    assert ledger.spending(FIRST.digest).splits["train"].own == Account((EVENT,))


@pytest.mark.parametrize(
    ("other", "event"),
    [
        (claim(request="other weights"), EVENT),
        (claim(), replace(EVENT, noise_multiplier=9.0)),
        (claim(), replace(EVENT, alone=0.5)),
    ],
    ids=["weights", "noise", "alone"],
)
@pytest.mark.parametrize("state", ["reserved", "released"])
def test_another_question_under_the_same_name_is_refused(
    ledger: Ledger, other: object, event: Event, state: str
) -> None:
    number = ledger.reserve(claim(), EVENT, UNLIMITED, AT).number
    if state == "released":
        ledger.release(number, sha("reply"), AT)
    before = ledger.digest()
    assert code_of(lambda: ledger.reserve(other, event, UNLIMITED, AT)) == "replayed-otherwise"  # type: ignore[arg-type]
    assert ledger.digest() == before


@pytest.mark.parametrize(
    "other",
    [
        claim(run="run-2"),
        claim(plan=sha("other plan")),
        claim(number=2),
        claim(purpose="statistics"),
        claim(split="test", purpose="train"),
    ],
    ids=["run", "plan", "round", "purpose", "split"],
)
def test_every_part_of_a_claim_s_name_makes_it_another_one(ledger: Ledger, other: object) -> None:
    ledger.reserve(claim(), EVENT, UNLIMITED, AT)
    assert ledger.reserve(other, EVENT, UNLIMITED, AT) == Reservation(2, "new")  # type: ignore[arg-type]


def test_a_lower_cap_stops_what_was_granted_and_has_not_left_and_nothing_that_has(ledger: Ledger) -> None:
    ledger.reserve(claim(), EVENT, Cap(5, 1e-5), AT)
    assert code_of(lambda: ledger.reserve(claim(), EVENT, Cap(4, 1e-5), AT)) == "budget"
    ledger.release(1, sha("reply"), AT)
    assert ledger.reserve(claim(), EVENT, Cap(4, 1e-5), AT).reply == sha("reply")


@pytest.mark.parametrize(
    "event",
    [
        Event(0.0, 0.5, 1),
        Event(-1.0, 0.5, 1),
        Event(float("inf"), 0.5, 1),
        Event(float("nan"), 0.5, 1),
        Event(1.0, 0.0, 1),
        Event(1.0, 1.5, 1),
        Event(1.0, float("nan"), 1),
        Event(1.0, 0.5, 0),
        Event(1.0, 0.5, 1, -0.1),
        Event(1.0, 0.5, 1, 1.1),
        Event(1.0, 0.5, 1, float("inf")),
        Event(1.0, 0.5, 1, float("nan")),
    ],
    ids=str,
)
def test_events_that_nothing_can_do_are_never_noted(ledger: Ledger, event: Event) -> None:
    with pytest.raises(ValueError, match="no mechanism"):
        ledger.reserve(claim(), event, UNLIMITED, AT)
    assert rows(ledger.path, "select * from reservations") == []


@pytest.mark.parametrize("said", [float("nan"), float("inf")])
def test_a_cost_that_is_no_number_is_refused(ledger: Ledger, said: float) -> None:
    lost = Ledger(ledger.path, lambda events, delta, accountant: said)  # noqa: ARG005
    assert code_of(lambda: lost.reserve(claim(), EVENT, UNLIMITED, AT)) == "budget"


def test_an_event_comes_back_as_it_was_noted_to_the_last_bit(ledger: Ledger) -> None:
    event = Event(0.1 + 0.2, 1 / 3, 7, 0.1 + 0.1 / 3)
    ledger.reserve(claim(), event, UNLIMITED, AT)
    assert ledger.spending(FIRST.digest).splits["train"].own.reserved == (event,)
    assert ledger.reserve(claim(), event, UNLIMITED, AT).state == "again"


def test_all_of_the_noise_may_be_this_site_s_and_more_than_all_may_not(ledger: Ledger) -> None:
    """The control of what is refused above."""
    assert ledger.reserve(claim(), Event(1.0, 0.5, 1, 1.0), UNLIMITED, AT).state == "new"


def test_the_same_noise_is_another_event_where_sites_share_it(ledger: Ledger) -> None:
    """One at a time, so that no two of them could be taken for one in a sum of steps."""
    for number, alone in enumerate((0.0, 0.5, 0.25, 0.5), start=1):
        ledger.reserve(claim(number=number), Event(1.0, 0.5, 10, alone), UNLIMITED, AT)
    found = ledger.spending(FIRST.digest).splits["train"].own.all()
    assert {event.alone: event.steps for event in found} == {0.0: 10, 0.25: 10, 0.5: 20}
    assert added_up(found, 0, "") == 20, "and all of them are charged under the plan's assumption"
    assert added_up([event.if_alone() for event in found], 0, "") == 5 + 20 + 2 * 10


def test_the_cap_is_held_against_the_plan_s_assumption(ledger: Ledger) -> None:
    """Each costs 5, and 50 if all other sites collude: a policy limits that beforehand, and the ledger keeps it."""
    cap = Cap(10, 1e-5)
    for number in (1, 2):
        assert ledger.reserve(claim(number=number), replace(EVENT, alone=0.1), cap, AT).state == "new"
    assert code_of(lambda: ledger.reserve(claim(number=3), replace(EVENT, alone=0.1), cap, AT)) == "budget"


# --- releasing --------------------------------------------------------------------------------------------------------


def test_a_reply_leaves_once(full: Ledger) -> None:
    before = full.digest()
    full.release(1, sha("reply"), AT + timedelta(days=1))
    assert full.digest() == before, "the same again changes nothing"
    assert code_of(lambda: full.release(1, sha("other"), AT)) == "released-otherwise"
    assert code_of(lambda: full.release(2, sha("reply"), AT)) == "reservation-unknown"
    assert full.digest() == before


def test_spending_tells_what_left_from_what_is_only_reserved(full: Ledger) -> None:
    full.reserve(claim(number=2), EVENT, UNLIMITED, AT)
    full.reserve(claim(number=3), replace(EVENT, steps=4), UNLIMITED, AT)
    spent = full.spending(FIRST.digest).splits["train"]
    assert spent.own == Account((EVENT,), (replace(EVENT, steps=14),))
    assert spent.own.all() == (replace(EVENT, steps=24),)
    assert added_up(spent.own.all(), 0, "") == 12


def test_times_are_written_in_utc(ledger: Ledger) -> None:
    ledger.reserve(claim(), EVENT, UNLIMITED, AT.astimezone(timezone(timedelta(hours=-7))))
    assert rows(ledger.path, "select at from reservations") == [("2026-01-02T03:04:05+00:00",)]


# --- what else it is --------------------------------------------------------------------------------------------------


def test_the_digest_changes_with_every_row_and_with_nothing_else(ledger: Ledger) -> None:
    seen = [ledger.digest()]
    for change in (
        lambda: ledger.reserve(claim(), EVENT, UNLIMITED, AT),
        lambda: ledger.release(1, sha("reply"), AT),
        lambda: ledger.enrol(cohort("second"), AT),
    ):
        change()
        assert ledger.digest() == ledger.digest()
        seen.append(ledger.digest())
    assert len(set(seen)) == 4
    do(ledger.path, "vacuum")
    assert ledger.digest() == seen[-1]


def test_threads_that_ask_for_the_last_round_are_granted_it_once(ledger: Ledger) -> None:
    outcomes: list[str] = []

    def ask(number: int) -> None:
        try:
            outcomes.append(ledger.reserve(claim(number=number), EVENT, Cap(5, 1e-5), AT).state)
        except BudgetError:
            outcomes.append("refused")

    asking = [threading.Thread(target=ask, args=(number,)) for number in range(1, 7)]
    for thread in asking:
        thread.start()
    for thread in asking:
        thread.join()
    assert sorted(outcomes) == ["new", *["refused"] * 5]


def test_refusals_name_no_patient(full: Ledger) -> None:
    secret = "ef" * 16
    full.enrol(cohort("second", train=[secret, "a"]), AT)
    for action in (
        lambda: full.enrol(cohort("second", train=[secret]), AT),
        lambda: full.reserve(claim("second"), EVENT, Cap(1, 1e-5), AT),
        lambda: full.reserve(claim(request="other"), EVENT, UNLIMITED, AT),
    ):
        with pytest.raises((BudgetError, ProtocolError, SiteDataError)) as refused:
            action()
        assert secret not in refused.value.sentence + refused.value.hint


def test_the_ledger_is_read_and_written_without_torch(tmp_path: Path) -> None:
    script = (
        "import sys; from small_ledger import *; from pathlib import Path; import client.governance.paid;"
        "made(Path(sys.argv[1]), cohort('first', train='ab')).reserve(claim(), EVENT, UNLIMITED, AT);"
        "print('torch' in sys.modules)"
    )
    places = {"PYTHONPATH": f"{Path(__file__).parents[1] / 'support'}:{Path(__file__).parents[2]}"}
    said = subprocess.run(
        [sys.executable, "-c", script, tmp_path / "l.sqlite"], env=places, capture_output=True, text=True, check=True
    )
    assert said.stdout == "False\n"


def test_processes_that_open_the_first_layout_at_once_lay_it_out_once(tmp_path: Path) -> None:
    path, failed = tmp_path / "ledger.sqlite", []
    with closing(sqlite3.connect(path)) as connection:
        connection.executescript(f"pragma journal_mode=wal; {FIRST_LAYOUT}")

    def opens() -> None:
        try:
            Ledger.open(path).cohorts()
        except ConsiliumError as error:
            failed.append(error)

    opening = [threading.Thread(target=opens) for _ in range(6)]
    for thread in opening:
        thread.start()
    for thread in opening:
        thread.join()
    assert failed == []
    assert rows(path, "select count(*) from sqlite_master where type = 'trigger'") == [(3 * 5,)]


@pytest.mark.slow
def test_four_cohorts_of_a_hundred_thousand_patients_are_asked_in_less_than_a_second(tmp_path: Path) -> None:
    people = [sha(str(number))[:32] for number in range(130_000)]
    ledger, chance = made(tmp_path / "ledger.sqlite"), random.Random(1)
    for name in ("first", "second", "third", "fourth"):
        drawn = chance.sample(people, 100_000)
        ledger.enrol(cohort(name, drawn[:60_000], drawn[60_000:75_000], drawn[75_000:]), AT)
        for split in ("train", "validation", "test"):
            ledger.reserve(claim(name, split=split), EVENT, UNLIMITED, AT)
    began_s = time.process_time()
    ledger.reserve(claim("fourth", number=2), EVENT, UNLIMITED, AT)
    assert time.process_time() - began_s < 1
    (dearest,) = {
        max(added_up(account.all(), 0, "") for account in ledger.spending(sha(name)).splits["train"].accounts)
        for name in ("first", "second", "third", "fourth")
    }
    assert dearest == 25, "somebody is in all four, and paid for the second round of the fourth"
