"""The coordinator's process, or the whole machine room, ends in mid-round: the bytes stay the same."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from deciding_hospital import plan_of
from real_federation import COORDINATOR, at, checkpoints, invariants, kept, live, model_files, real_federation, until
from real_sites import NAMES
from simulated_sites import simulate

pytestmark = [pytest.mark.network, pytest.mark.slow, pytest.mark.timeout(900)]

TOGETHER: dict[str, Any] = {"participation": {"quorum": 3, "deadline_s": 120.0}}
PLAN = plan_of(plan__rounds=4, evaluation__every=2, aggregation={"method": "fedadam"}, **TOGETHER)


def test_a_killed_server_app_is_started_again_and_the_bytes_are_the_same(tmp_path: Path) -> None:
    """Before: round 2 trains. After: the same command has gone on by itself, and nobody can tell from the model."""
    with real_federation(tmp_path / "f", PLAN) as federation:
        simulated, before = simulate(federation, tmp_path / "s"), kept(federation)
        federation.start()
        federation.ready()
        run = federation.order()
        until(lambda: at(run, "training", 2), what="round 2")
        assert federation.kill("serverapp")
        federation.finish(run)
        assert model_files(run) == model_files(simulated)
        invariants(federation, before)


def test_everything_killed_at_once_goes_on_with_resume_to_the_same_bytes(tmp_path: Path) -> None:
    """Before: round 3 trains at three sites. After: the power went, everybody starts again, and resume ends the run."""
    with real_federation(tmp_path / "f", PLAN) as federation:
        simulated, before = simulate(federation, tmp_path / "s"), kept(federation)
        federation.start()
        federation.ready()
        run = federation.order(follow=False)
        until(lambda: at(run, "training", 3), what="round 3")
        for name in (COORDINATOR, *NAMES):
            federation.down(name)
        between = invariants(federation, before)
        assert between.completed[run.name] == 2
        federation.start()
        federation.ready()
        federation.resume(run)
        federation.finish(run)
        assert model_files(run) == model_files(simulated)
        assert checkpoints(run) == checkpoints(simulated)
        invariants(federation, between)


def test_a_run_that_was_stopped_goes_on_with_resume_to_the_same_bytes(tmp_path: Path) -> None:
    """Before: round 2 trains, and the lead says stop. After: the run says so, and resume ends it."""
    with real_federation(tmp_path / "f", PLAN) as federation:
        simulated, before = simulate(federation, tmp_path / "s"), kept(federation)
        federation.start()
        federation.ready()
        run = federation.order()
        until(lambda: at(run, "training", 2), what="round 2")
        federation.server("stop", run.name[:12])
        said = federation.fails(run)
        assert f"run {run.name[:12]} did not finish: it was stopped" in said
        assert f"consilium-server resume {run.name[:12]}" in said
        until(lambda: not federation.pids("serverapp"), 60, "its process has ended")
        federation.resume(run)
        federation.finish(run)
        assert live(run).state == "finished"
        assert model_files(run) == model_files(simulated)
        invariants(federation, before)
