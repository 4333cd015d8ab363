"""Secrets of secure sums at a real site folder: they end with plan, membership, order and silence, and not before."""

from __future__ import annotations

import threading
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from deciding_hospital import DATASET, NOW, PILOT, RUN, Hospital, plan_of, train
from small_trust import Member

from client.commands import approve
from client.commands.approve import Wanted
from client.custodian import wiring
from client.custodian.service import repeat
from client.custodian.wiring import custodian
from client.enrolment import require_pinned, take_roster
from client.governance import approvals
from client.secure.summing import Summing
from shared.messages import Deal, Evaluate, Hello, Offered, Refusal, Reply, Request
from shared.plan import Plan
from shared.secure.papers import Offer, Offers
from shared.trust import roster as rosters
from shared.trust.documents import seal
from shared.trust.orders import SKEW

SECURE: dict[str, Any] = {
    "aggregation": {"weights": "equal", "fixed_point": {"bits": 24}},
    "evaluation": {"every": 1, "release": "sum"},
    "secure_aggregation": {"enabled": True},
}
DEADLINE = timedelta(seconds=600)
PLAN = plan_of(**SECURE, participation={"deadline_s": 600.0})
PATIENT = plan_of(**SECURE, participation={"deadline_s": 1e9})
"""Its order is over long before two of its deadlines."""
OTHER_RUN = "cd" * 16
SECOND = timedelta(seconds=1)
PAPER = np.frombuffer(b"{}", np.uint8)


class Run:
    """A hospital that approved plans with secure aggregation, and a clock that the test sets."""

    def __init__(self, folder: Path, *plans: Plan) -> None:
        self.hospital, self.at = Hospital(folder), NOW
        self.hospital.policy(PILOT.replace('"site"', '"sum"'))
        for plan in plans:
            wanted = Wanted(self.hospital.signed(plan), folder, DATASET, 3)
            approve.approve(self.hospital.site, approve.offered(self.hospital.site, wanted), "maria", self.now)
        self.custodian = custodian(self.hospital.site, self.now)

    def now(self) -> datetime:
        return self.at

    def ask(self, request: Request, plan: Plan = PLAN) -> Reply:
        parcel = self.hospital.parcel(plan, request)
        return self.hospital.read(self.custodian.answer(parcel), parcel)

    def offer(self, plan: Plan = PLAN, run: str = RUN) -> Offer:
        reply = self.ask(train(plan, run=run), plan)
        assert isinstance(reply, Offered), reply
        return Offer.from_bytes(reply.content.tobytes())

    def held(self, plan: Plan = PLAN) -> tuple[str, ...]:
        """Runs of which secrets are in memory."""
        summing = self.masks().get(plan.digest())
        return () if summing is None else summing.runs

    def masks(self) -> dict[str, Summing]:
        return dict(self.custodian.sites.warm.sums())

    def later(self, by: timedelta) -> None:
        self.at += by
        self.custodian.close()

    def roster(self, site: str) -> None:
        """The lead suspends ``site``, and the hospital hears of it."""
        held = require_pinned(self.hospital.site).roster
        newer = rosters.with_state(held, site, "suspended", NOW + SECOND)
        take_roster(self.hospital.site, seal(newer, self.hospital.lead), NOW)


@pytest.fixture
def run(tmp_path: Path) -> Run:
    made = Run(tmp_path, PLAN, PATIENT)
    made.offer()
    assert made.held() == (RUN,), "a control for all that is forgotten below"
    return made


# --- plans -----------------------------------------------------------------------------------------------------------


def test_a_withdrawal_takes_the_secrets_away_though_nobody_asks_anything_more(run: Run) -> None:
    summing = run.masks()[PLAN.digest()]
    approvals.withdraw(run.hospital.site, PLAN.digest(), "jan", NOW)
    assert len(summing.runs) == 1, "nobody has looked yet"
    run.custodian.close()
    assert len(summing.runs) == 0
    assert run.custodian.sites.warm.plans == ()


def test_the_next_parcel_of_anybody_does_so_too(run: Run) -> None:
    summing = run.masks()[PLAN.digest()]
    approvals.withdraw(run.hospital.site, PLAN.digest(), "jan", NOW)
    run.offer(PATIENT)
    assert summing.runs == ()
    assert run.held(PATIENT) == (RUN,)


def test_a_plan_that_is_still_approved_stays_open_when_another_is_withdrawn(run: Run) -> None:
    run.offer(PATIENT)
    opened = run.custodian.sites.warm.plans
    approvals.withdraw(run.hospital.site, PATIENT.digest(), "jan", NOW)
    run.custodian.close()
    assert run.custodian.sites.warm.plans == opened[:1] == (PLAN.digest(),)
    assert run.held() == (RUN,)


def test_an_approval_that_was_changed_on_the_disk_is_none(run: Run) -> None:
    path = approvals.folder_of(run.hospital.site, PLAN.digest()) / approvals.APPROVAL
    path.write_bytes(path.read_bytes().replace(b"maria", b"mario"))
    run.custodian.close()
    assert run.custodian.sites.warm.plans == ()


# --- this site's place -----------------------------------------------------------------------------------------------


def test_a_site_that_is_suspended_holds_no_secrets_and_its_neighbour_keeps_its_own(run: Run) -> None:
    run.offer(PATIENT)
    run.roster("bergen")
    run.custodian.close()
    assert [run.held(), run.held(PATIENT)] == [(RUN,), (RUN,)]
    run.roster("aachen")
    run.custodian.close()
    assert [run.held(), run.held(PATIENT)] == [(), ()]


def test_nor_does_one_that_has_left_its_federation(run: Run) -> None:
    (run.hospital.site.path / "trust").rename(run.hospital.folder / "trust")
    run.custodian.close()
    assert run.held() == ()


def test_a_neighbour_that_joins_ends_nothing(run: Run) -> None:
    newer = rosters.with_site(require_pinned(run.hospital.site).roster, Member("zagreb").entry, NOW)
    take_roster(run.hospital.site, seal(newer, run.hospital.lead), NOW)
    run.custodian.close()
    assert run.held() == (RUN,)


# --- runs ------------------------------------------------------------------------------------------------------------


def test_a_run_that_asks_nothing_for_two_deadlines_is_over(run: Run) -> None:
    run.later(2 * DEADLINE)
    assert run.held() == (RUN,)
    run.later(SECOND)
    assert run.held() == ()
    assert run.custodian.sites.warm.plans == (PLAN.digest(),), "the plan stays open for whoever runs it next"


def test_each_step_of_a_sum_lets_it_go_on(run: Run) -> None:
    for _ in range(3):
        run.later(2 * DEADLINE)
        step = run.ask(Deal(train(PLAN).envelope, "train", PAPER))
        assert isinstance(step, Refusal)
        assert step.code == "paper-form", "there is a session, and this was no paper for it"
    run.later(2 * DEADLINE + SECOND)
    assert run.held() == ()


def test_what_was_refused_before_it_was_read_lets_nothing_go_on(run: Run) -> None:
    run.later(2 * DEADLINE)
    refused = run.ask(Evaluate(train(PLAN).envelope, train(PLAN).weights, "train"))
    assert isinstance(refused, Refusal)
    run.later(SECOND)
    assert run.held() == ()


def test_no_sum_outlives_the_order_of_its_run_however_long_a_plan_may_wait(run: Run) -> None:
    run.offer(PATIENT)
    run.later(timedelta(days=1) + SKEW)
    assert run.held(PATIENT) == (RUN,)
    run.later(SECOND)
    assert run.held(PATIENT) == ()


def test_of_two_runs_of_one_plan_the_one_that_is_over_is_forgotten(run: Run) -> None:
    run.later(DEADLINE)
    run.offer(run=OTHER_RUN)
    assert run.held() == (RUN, OTHER_RUN), "they may go on side by side"
    run.later(DEADLINE + SECOND)
    assert run.held() == (OTHER_RUN,)


def test_a_run_that_goes_on_after_all_is_offered_new_keys_and_old_steps_are_refused(run: Run) -> None:
    before = run.offer()
    assert run.offer() == before, "a control: asked again in time, nothing changes"
    run.later(2 * DEADLINE + SECOND)
    late = run.ask(Deal(train(PLAN).envelope, "train", _offers(before)))
    assert isinstance(late, Refusal)
    assert late.code == "session-unknown"
    after = run.offer()
    assert not {before.cipher_key, before.mask_key, before.commitment} & {
        after.cipher_key,
        after.mask_key,
        after.commitment,
    }


def _offers(own: Offer) -> Any:
    return np.frombuffer(Offers(bits=26, offers=(own,)).to_bytes(), np.uint8)


def test_a_greeting_begins_no_session(tmp_path: Path) -> None:
    made = Run(tmp_path, PLAN)
    made.ask(Hello(train(PLAN, 0).envelope))
    assert made.held() == ()


def test_notes_of_runs_do_not_pile_up(run: Run) -> None:
    for number in range(2):
        run.offer(run=f"{number:032x}")
        run.later(2 * DEADLINE + SECOND)
    assert run.custodian.closing._until == {}


# --- when it is looked at --------------------------------------------------------------------------------------------


def test_nothing_is_taken_away_under_a_question_that_is_worked_on(run: Run) -> None:
    approvals.withdraw(run.hospital.site, PLAN.digest(), "jan", NOW)
    with run.custodian._busy:
        run.custodian.close()
        assert run.held() == (RUN,)
    run.custodian.close()
    assert run.held() == ()


def test_the_process_looks_every_few_seconds(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """Everything of the process but its watchdog, told to end before it waits."""
    over = threading.Event()
    said: list[Any] = []
    over.set()
    monkeypatch.setattr(wiring, "_signals", lambda: over)
    monkeypatch.setattr(wiring, "watch", lambda *_: None)
    monkeypatch.setattr(wiring, "repeat", lambda *words: said.append(words))
    assert wiring.run(run.hospital.site, run.now) == 0
    ((work, every_s, until),) = said
    assert (work.__func__, every_s, until) == (wiring.Custodian.close, wiring.CLOSE_S, over)
    assert wiring.CLOSE_S <= 10


def test_what_is_repeated_is_done_again_and_again_until_it_is_over() -> None:
    over = threading.Event()
    done: list[int] = []

    def work() -> None:
        done.append(len(done))
        if len(done) == 3:
            over.set()

    repeat(work, 0.001, over).join(10)
    assert done == [0, 1, 2]
