"""``kill -9`` of every kind of process at random moments of one run after another; the moments are drawn from a seed.

Before each kill: a run that goes on. After all of them: it has finished, resumed where it ended by its own word, and
nothing on any disk is damaged, lost or paid for twice.
"""

from __future__ import annotations

import random
import time
from collections import Counter
from pathlib import Path

import pytest
from deciding_hospital import PRIVATE, plan_of
from real_federation import (
    AT_COORDINATOR,
    AT_SITE,
    COORDINATOR,
    RealFederation,
    checkpoints,
    invariants,
    journalled,
    kept,
    live,
    real_federation,
)
from real_sites import NAMES

pytestmark = [pytest.mark.network, pytest.mark.slow, pytest.mark.timeout(1500)]

KINDS = (*AT_COORDINATOR, *AT_SITE)
KILLS, ROUNDS, RESUMES = 9, 10, 4
LIMITS = {"participation": {"quorum": 2, "deadline_s": 60.0, "below_quorum": "skip-round"}}
PLANS = {
    "patients": plan_of(plan__rounds=ROUNDS, evaluation__every=3, **PRIVATE, **LIMITS),
    "nobody": plan_of(plan__rounds=ROUNDS, evaluation__every=3, **LIMITS),
}


@pytest.mark.parametrize(("seed", "protected"), [(1, "patients"), (2, "nobody"), (3, "patients"), (4, "nobody")])
def test_a_run_whose_processes_are_killed_at_random_moments_finishes(
    tmp_path: Path, seed: int, protected: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with real_federation(tmp_path / "f", PLANS[protected]) as federation:
        before = kept(federation)
        federation.start()
        federation.ready()
        began, run = time.monotonic(), federation.order()
        hit = shoot(federation, run, random.Random(seed))
        resumed = to_the_end(federation, run)
        after = invariants(federation, before)
        assert live(run).state == "finished"
        assert len(checkpoints(run)) == ROUNDS
        if protected == "patients":
            assert max(after.epsilon.values()) > 0, "nothing was paid, so nothing was tried"
        with capsys.disabled():
            codes = Counter(line.split()[4] for line in journalled(run) if " failed " in line)
            seconds = time.monotonic() - began
            print(f"\nseed {seed}: kills {dict(hit)}, {resumed} resumed, lost {dict(codes)}, {seconds:.0f} s")
        assert sum(hit.values()) >= KILLS - 1, "a relay may have ended by itself"


def shoot(federation: RealFederation, run: Path, draw: random.Random) -> Counter[str]:
    """Kill something every few seconds, each kind at least once, in an order and at moments that are drawn.

    A run that is over by its own word meanwhile is resumed; of what lives for a moment, the next is waited for.
    """
    kinds = [*KINDS, *draw.choices(KINDS, k=KILLS - len(KINDS))]
    draw.shuffle(kinds)
    for kind in kinds:
        name = COORDINATOR if kind in AT_COORDINATOR else draw.choice(NAMES)
        time.sleep(draw.uniform(0.2, 3.0))
        end = time.monotonic() + 120
        while not federation.pids(kind, name):
            assert time.monotonic() < end, f"no {kind} of {name}\n{federation.everything_said(run)}"
            again(federation, run)
            time.sleep(0.05)
        time.sleep(draw.uniform(0.0, 1.0) if kind == "relay" else 0.0)
        federation.kill(kind, name)
    return federation.kills


def to_the_end(federation: RealFederation, run: Path) -> int:
    end = time.monotonic() + 600
    before = federation.leads
    while live(run).state != "finished" or federation.lead_ended() is None:
        assert time.monotonic() < end, federation.everything_said(run)
        again(federation, run)
        time.sleep(0.2)
    return federation.leads - before


def again(federation: RealFederation, run: Path) -> None:
    """What the lead does when told that the run did not finish: wait for the sites, and resume."""
    if federation.lead_ended() in (None, 0):
        return
    said = federation.lead_said()
    assert "error: " in said, federation.everything_said(run)
    assert "Traceback" not in said, said
    assert federation.leads <= RESUMES, federation.everything_said(run)
    federation.ready()
    federation.resume(run)
