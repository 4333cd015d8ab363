"""A custodian that hangs, a cable that is pulled, a link that is slow: the others go on, and the site comes back."""

from __future__ import annotations

import signal
from contextlib import ExitStack
from pathlib import Path

import pytest
from bad_wire import Wire, wire
from deciding_hospital import plan_of
from real_federation import (
    Kept,
    RealFederation,
    at,
    checkpoints,
    invariants,
    journalled,
    kept,
    live,
    model_files,
    real_federation,
    rounds,
    until,
)
from real_sites import NAMES
from simulated_sites import simulate

from shared.plan import Plan

pytestmark = [pytest.mark.network, pytest.mark.slow, pytest.mark.timeout(900)]

VICTIM = NAMES[0]
OTHERS = NAMES[1:]
DEADLINE_S = 45.0
PLAN = plan_of(
    plan__rounds=12, evaluation__every=12, participation={"quorum": 2, "deadline_s": DEADLINE_S, "admission_s": 60.0}
)
"""Rounds of two to three seconds: a site that is back within ten misses some of them, and never all."""


def test_a_custodian_that_hangs_costs_its_site_a_deadline_and_the_round_goes_on(tmp_path: Path) -> None:
    """Before: round 2 begins with three sites. After: two sites finish it, and the third is back once it goes on."""
    with real_federation(tmp_path / "f", PLAN) as federation:
        before, run = begun(federation)
        until(lambda: at(run, "training", 2), what="round 2")
        assert federation.signal("custodian", VICTIM, signal.SIGSTOP)
        until(lambda: live(run).round >= 3, 150, "round 2 is over")
        assert federation.signal("custodian", VICTIM, signal.SIGCONT)
        federation.finish(run)
        without_the_victim_and_back(run, 2)
        invariants(federation, before)


def test_a_cable_that_is_pulled_costs_its_site_rounds_and_nothing_else(tmp_path: Path) -> None:
    """Before: round 2 begins with three sites, one behind a wire. After: two rounds without it, and it is back soon.

    By then Flower has missed its sign of life, and gives it up at once whenever it is asked.
    """
    with ExitStack() as stack:
        federation, between = behind_a_wire(stack, tmp_path / "f", PLAN)
        before, run = begun(federation)
        until(lambda: at(run, "training", 2), what="round 2")
        between.cut()
        until(lambda: live(run).round >= 4, 250, "rounds 2 and 3 are over")
        without = len(journalled(run))
        assert any(f"failed {VICTIM} transport" in line for line in journalled(run)), journalled(run)
        between.mend()
        back = f"training answered {VICTIM}"
        until(lambda: any(back in line for line in journalled(run)[without:]), 120, f"{VICTIM} is back")
        federation.finish(run)
        without_the_victim_and_back(run, 2, 3)
        invariants(federation, before)


def test_a_slow_link_changes_when_and_not_what(tmp_path: Path) -> None:
    """Before: a site behind 0.1 s and 40 kB/s. After: all rounds with all sites, and the bytes of a simulation."""
    plan = plan_of(participation={"quorum": 3, "deadline_s": 120.0})
    with ExitStack() as stack:
        federation, between = behind_a_wire(stack, tmp_path / "f", plan)
        between.delay_s, between.bytes_per_s = 0.1, 40e3
        before, run = begun(federation)
        federation.finish(run)
        assert [record.participation.participants for record in rounds(run)] == [NAMES] * plan.plan.rounds
        assert between.carried > 50_000, "the site's messages did not go over the wire"
        assert model_files(run) == model_files(simulate(federation, tmp_path / "simulated"))
        invariants(federation, before)


def behind_a_wire(stack: ExitStack, root: Path, plan: Plan) -> tuple[RealFederation, Wire]:
    """A federation whose first site is told the address of a wire."""
    made: list[Wire] = []

    def addresses(port: int) -> dict[str, str]:
        made.append(stack.enter_context(wire(port)))
        return {VICTIM: f"127.0.0.1:{made[0].port}"}

    return stack.enter_context(real_federation(root, plan, addresses)), made[0]


def begun(federation: RealFederation) -> tuple[Kept, Path]:
    """Everybody is there, and a run was ordered."""
    before = kept(federation)
    federation.start()
    federation.ready()
    return before, federation.order()


def without_the_victim_and_back(run: Path, *lost: int) -> None:
    who = [record.participation.participants for record in rounds(run)]
    assert who[0] == NAMES
    assert [who[number - 1] for number in lost] == [OTHERS] * len(lost)
    assert NAMES in who[max(lost) :], (who, journalled(run))
    assert len(checkpoints(run)) == PLAN.plan.rounds
