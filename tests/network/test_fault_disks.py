"""A disk that is full, at a site and at the coordinator: a clear sentence, nothing lost, and on when there is space."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import pytest
from deciding_hospital import plan_of
from real_federation import (
    at,
    checkpoints,
    invariants,
    journalled,
    kept,
    live,
    model_files,
    real_federation,
    rounds,
    small_disk,
    until,
)
from real_sites import NAMES
from simulated_sites import simulate

pytestmark = [pytest.mark.network, pytest.mark.slow, pytest.mark.timeout(900)]

VICTIM = NAMES[0]


def test_a_site_whose_disk_is_full_sits_out_says_so_and_comes_back(tmp_path: Path) -> None:
    """Before: round 2 begins. After: the site missed rounds with the code disk-full, and was back when it had space."""
    plan = plan_of(plan__rounds=6, evaluation__every=6, participation={"quorum": 2, "deadline_s": 60.0})
    with small_disk(tmp_path / "f" / VICTIM, 64), real_federation(tmp_path / "f", plan) as federation:
        before = kept(federation)
        federation.start()
        federation.ready()
        run = federation.order()
        until(lambda: at(run, "training", 2), what="round 2")
        ballast = fill(federation.root / VICTIM)
        until(lambda: any(f" {VICTIM} disk-full " in line for line in journalled(run)), 400, "the site says so")
        ballast.unlink()
        federation.finish(run)
        who = [record.participation.participants for record in rounds(run)]
        assert who[0] == NAMES
        assert who[-1] == NAMES, (who, journalled(run))
        assert any(VICTIM not in some for some in who)
        assert f"failed {VICTIM} disk-full the disk of this site is full" in " ".join(journalled(run))
        invariants(federation, before)


def test_a_coordinator_whose_disk_is_full_says_so_and_resumes_to_the_same_bytes(tmp_path: Path) -> None:
    """Before: round 2 trains. After: the run ended with a sentence, and resume finished it once there was space."""
    plan = plan_of(plan__rounds=4, evaluation__every=4, participation={"quorum": 3, "deadline_s": 120.0})
    with small_disk(tmp_path / "f" / "coordinator", 64), real_federation(tmp_path / "f", plan) as federation:
        simulated, before = simulate(federation, tmp_path / "s"), kept(federation)
        federation.start()
        federation.ready()
        run = federation.order()
        until(lambda: at(run, "training", 2), what="round 2")
        ballast = fill(federation.coordinator)
        said = federation.fails(run)
        assert "the disk is full" in said, said
        assert "resume" in said
        assert "Traceback" not in said
        ballast.unlink()
        between = invariants(federation, before)
        assert between.completed[run.name] >= 1
        federation.ready()
        federation.resume_when_noticed(run)
        federation.finish(run)
        assert live(run).state == "finished"
        assert checkpoints(run) == checkpoints(simulated)
        assert model_files(run) == model_files(simulated)
        invariants(federation, between)


def fill(folder: Path) -> Path:
    """A file that takes all that is left of the disk."""
    ballast = folder / "ballast"
    with ballast.open("wb", buffering=0) as file:
        for size in (2**20, 2**12):
            with suppress(OSError):
                while file.write(bytes(size)) == size:
                    pass
    return ballast
