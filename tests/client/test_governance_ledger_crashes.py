"""A ledger whose processes end at any moment: what left is always paid for, and spending never falls."""

import random
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, get_args

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from small_ledger import AT, EVENT, Crash, Faults, added_up, claim, cohort, dearest_by_hand, dying, made, rows, sha

from client.governance.ledger import Ledger
from client.governance.paid import Till
from client.governance.replies import Replies
from client.governance.spending import Claim, CohortPatients
from shared.errors import BudgetError, ProtocolError
from shared.messages import Split
from shared.privacy.accounting import Cap
from shared.privacy.events import Event

SUPPORT, ROOT = Path(__file__).parents[1] / "support", Path(__file__).parents[2]
SPLITS: tuple[Split, ...] = get_args(Split)
PATIENTS = "abcdefgh"
EVENTS = (EVENT, Event(2.0, 0.5, 4, 0.7), Event(1.0, 1.0, 1))
CAP = Cap(12.0, 1e-5)


class World:
    """A site that asks, enrols and crashes, and what somebody outside saw of it."""

    def __init__(self, folder: Path) -> None:
        self.ledger = made(folder / "ledger.sqlite")
        self.till = Till(self.ledger, Replies(folder / "replies"), CAP, lambda: AT)
        self.offered: dict[str, CohortPatients] = {}
        self.asked: dict[Claim, set[Event]] = {}
        self.left: dict[Claim, tuple[Event, bytes]] = {}
        self.floor: dict[tuple[str, Split], float] = {}
        self.crashes = self.drawn = 0

    def enrol(self, splits: list[str], at: int | None) -> None:
        """Offer the ledger a cohort whose patients are in these splits ("" for nobody)."""
        members = {
            split: [who for who, where in zip(PATIENTS, splits, strict=True) if where == split] for split in SPLITS
        }
        offered = cohort(f"cohort {len(self.offered)}", **members)
        self.offered[offered.digest] = offered
        self.until(at, lambda: self.ledger.enrol(offered, AT))

    def ask(self, one: Claim, event: Event, at: int | None) -> None:
        """Ask for an answer, as often as a coordinator likes."""
        self.asked.setdefault(one, set()).add(event)
        answer = self.until(at, lambda: self.answered(one, event))
        if answer is not None:
            known = self.left.setdefault(one, (event, answer))
            assert known == (event, answer), "the same question has one answer"

    def answered(self, one: Claim, event: Event) -> bytes | None:
        try:
            return self.till.answer_once(one, event, self.draw)
        except BudgetError:
            return None
        except ProtocolError as refused:
            if refused.code not in {"replayed-otherwise", "reply-forgotten"}:
                raise
            return None

    def draw(self) -> bytes:
        self.drawn += 1
        return b"draw %d" % self.drawn

    def until(self, at: int | None, act: Any) -> Any:
        """Do something, or the part of it before its ``at``-th point."""
        with dying(Faults(at)):
            try:
                return act()
            except Crash:
                self.crashes += 1
                return None

    @property
    def enrolled(self) -> list[CohortPatients]:
        return [self.offered[one.digest] for one in self.ledger.cohorts()]

    def check(self) -> None:
        """Everything that has to hold after whatever happened."""
        noted = rows(
            self.ledger.path,
            """select digest, split, run, plan, round, purpose, request, noise_multiplier, sampling_rate, steps, alone,
                      reply
               from reservations join cohorts on cohorts.number = cohort
               left join releases on reservation = reservations.number""",
        )
        paid = {Claim(*row[:7]): (Event(*row[7:11]), row[11]) for row in noted}
        assert all(event in self.asked[one] for one, (event, _) in paid.items()), "nobody pays for what nobody asked"
        for one, (event, answer) in self.left.items():
            assert paid[one] == (event, sha(answer)), "what left is paid for, and is what the ledger says"
        enrolled = self.enrolled
        for found in enrolled:
            self.check_sums(found, enrolled)

    def check_sums(self, found: CohortPatients, enrolled: list[CohortPatients]) -> None:
        for split, spent in self.ledger.spending(found.digest).splits.items():
            said = max(added_up(account.all(), 0, "") for account in spent.accounts)
            by_hand = dearest_by_hand(self.ledger.path, enrolled, found.digest, split)
            assert said == pytest.approx(by_hand)
            assert said <= CAP.epsilon * (1 + 1e-12)
            assert said >= self.floor.get((found.digest, split), 0.0) - 1e-12, "spending fell"
            self.floor[found.digest, split] = said


def test_the_points_of_a_crash_lie_before_and_after_every_statement(tmp_path: Path) -> None:
    """The control of all that follows: with no point hit nothing is lost, with each hit something is."""
    ledger, faults = made(tmp_path / "ledger.sqlite", cohort("first", train=["a"])), Faults()
    with dying(faults):
        ledger.reserve(claim(), EVENT, CAP, AT)
    assert faults.committed
    assert faults.seen >= 12
    for at in range(1, faults.seen + 1):
        before, ended = ledger.digest(), Faults(at)
        with dying(ended), pytest.raises(Crash):
            ledger.reserve(claim(number=2, run=f"run {at}"), Event(1.0, 1e-6, 1), CAP, AT)
        assert (ledger.digest() != before) == ended.committed, f"point {at}"


def test_enrolling_is_whole_or_not_at_all_wherever_it_ends(tmp_path: Path) -> None:
    ledger, faults = made(tmp_path / "ledger.sqlite"), Faults()
    with dying(faults):
        ledger.enrol(cohort("first", train=list(PATIENTS)), AT)
    assert faults.seen > len(PATIENTS)
    for at in range(1, faults.seen + 1):
        digest = sha(f"cohort {at}")
        with dying(Faults(at)), pytest.raises(Crash):
            ledger.enrol(cohort(f"cohort {at}", train=list(PATIENTS)), AT)
        there = [one.digest for one in ledger.cohorts() if one.digest == digest]
        members = rows(ledger.path, "select max(cohort), count(*) from members group by cohort")
        assert all(count == len(PATIENTS) for _, count in members)
        assert len(members) == len(ledger.cohorts())
        assert len(there) == (at == faults.seen)


def crash_on(folder: Path, crashes: int, seed: int) -> World:
    """Worlds of forty steps each, until so many crashes have happened; every one is checked after each crash."""
    chance, seen = random.Random(seed), 0
    while True:
        (here := folder / str(seen)).mkdir()
        world = World(here)
        for step in range(40):
            at = chance.randint(1, 40) if chance.random() < 0.9 else None
            if step == 0 or chance.random() < 0.1:
                world.enrol([chance.choice(["", *SPLITS]) for _ in PATIENTS], None if step == 0 else at)
            else:
                world.ask(anything(chance, world), chance.choice(EVENTS), at)
            world.check()
        seen += world.crashes
        if seen >= crashes:
            return world


def anything(chance: random.Random, world: World) -> Claim:
    """A new question, or one that was asked before."""
    if world.asked and chance.random() < 0.4:
        return chance.choice(list(world.asked))
    split = chance.choice(SPLITS)
    return claim(
        split=split,
        number=chance.randint(1, 6),
        cohort=chance.choice(world.enrolled).digest,
        run=chance.choice(["run-1", "run-2"]),
        request=chance.choice(["q", "other"]),
    )


def test_after_a_hundred_crashes_sums_are_those_of_a_recount_and_all_that_left_is_paid_for(tmp_path: Path) -> None:
    assert crash_on(tmp_path, 100, seed=1).left


@pytest.mark.slow
def test_after_a_thousand_crashes_sums_are_those_of_a_recount_and_all_that_left_is_paid_for(tmp_path: Path) -> None:
    assert crash_on(tmp_path, 1000, seed=2).left


def test_a_ledger_that_forgets_is_caught(tmp_path: Path) -> None:
    """The control: rows that vanish, as after a restored copy, fail the check in each of its three ways."""
    world = World(tmp_path)
    world.enrol(["train"] * len(PATIENTS), None)
    world.ask(claim("cohort 0"), EVENT, None)
    world.check()
    path = tmp_path / "ledger.sqlite"
    copy = path.read_bytes()
    world.ask(claim("cohort 0", number=2), EVENT, None)
    world.check()
    path.write_bytes(copy)
    with pytest.raises(KeyError):
        world.check()
    world.left.popitem()
    with pytest.raises(AssertionError, match="spending fell"):
        world.check()
    world.asked = {one: {EVENTS[1]} for one in world.asked}
    with pytest.raises(AssertionError, match="nobody asked"):
        world.check()


claims = st.builds(
    claim,
    split=st.sampled_from(SPLITS),
    number=st.integers(1, 5),
    run=st.sampled_from(["run-1", "run-2"]),
    request=st.sampled_from(["q", "other"]),
)
# Half of the steps are whole: a minimal counterexample should show what a crash was needed for.
ends = st.none() | st.integers(1, 40)


class Site(RuleBasedStateMachine):
    """Hypothesis looks for the shortest story that breaks a promise."""

    @initialize(splits=st.lists(st.sampled_from(["", *SPLITS]), min_size=8, max_size=8))
    def begin(self, splits: list[str]) -> None:
        self.folder = TemporaryDirectory()
        self.world = World(Path(self.folder.name))
        self.world.enrol(splits, None)

    @precondition(lambda self: len(self.world.offered) < 4)
    @rule(splits=st.lists(st.sampled_from(["", *SPLITS]), min_size=8, max_size=8), at=ends)
    def enrol(self, splits: list[str], at: int | None) -> None:
        self.world.enrol(splits, at)

    @rule(one=claims, place=st.integers(0, 3), event=st.sampled_from(EVENTS), at=ends)
    def ask(self, one: Claim, place: int, event: Event, at: int | None) -> None:
        enrolled = self.world.enrolled
        found = enrolled[place % len(enrolled)]
        named = claim(split=one.split, number=one.round, run=one.run, request=one.request, cohort=found.digest)
        self.world.ask(named, event, at)

    @precondition(lambda self: self.world.left)
    @rule(place=st.integers(0, 99), at=ends)
    def ask_again(self, place: int, at: int | None) -> None:
        one, (event, _) = list(self.world.left.items())[place % len(self.world.left)]
        self.world.ask(one, event, at)

    @invariant()
    def everything_that_left_is_paid_for(self) -> None:
        if hasattr(self, "world"):
            self.world.check()

    def teardown(self) -> None:
        if hasattr(self, "folder"):
            self.folder.cleanup()


Site.TestCase.settings = settings(max_examples=12, stateful_step_count=15)
test_no_story_of_enrolling_asking_and_crashing_breaks_a_promise = Site.TestCase


# --- processes --------------------------------------------------------------------------------------------------------


def victims(what: str, folder: Path, times: int) -> list[str]:
    words = [sys.executable, SUPPORT / "ledger_victims.py", what, folder, str(times)]
    places = {"PYTHONPATH": f"{SUPPORT}:{ROOT}", "OMP_NUM_THREADS": "1"}
    return subprocess.run(words, env=places, capture_output=True, text=True, check=True).stdout.splitlines()


@pytest.mark.parametrize("kills", [40, pytest.param(400, marks=pytest.mark.slow)])
def test_killed_processes_leave_a_ledger_that_knows_every_answer_that_got_out(tmp_path: Path, kills: int) -> None:
    *answers, last = victims("kill", tmp_path, kills)
    path = tmp_path / "ledger.sqlite"
    got_out = dict(line.split() for line in answers)
    known = rows(path, "select round, reply from reservations left join releases on reservation = number")
    assert got_out.items() <= {(str(number), reply) for number, reply in known}
    assert len(got_out) > kills / 10, "the control: answers got out at all"
    assert [number for number, _ in known] == sorted({number for number, _ in known}), "each round is charged once"
    assert len(known) in {int(last) - 1, int(last)}, "at most the round in flight is charged beside them"
    assert rows(path, "pragma integrity_check") == [("ok",)]
    (account,) = Ledger(path, added_up).spending(sha("first")).splits["train"].accounts
    assert added_up(account.all(), 0, "") == 5 * len(known)


def test_of_four_processes_that_ask_for_the_last_round_exactly_one_gets_it(tmp_path: Path) -> None:
    assert victims("race", tmp_path, 8) == ["new refused refused refused"] * 8


def test_four_processes_that_ask_the_same_at_once_get_the_same_bytes(tmp_path: Path) -> None:
    answers = [line.split() for line in victims("same", tmp_path, 8)]
    assert [(len(each), len(set(each))) for each in answers] == [(4, 1)] * 8
    assert len({each[0] for each in answers}) == 8, "the control: each time it was another draw"
