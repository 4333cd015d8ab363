"""Secure aggregation between real processes: the models of a run that hides nothing; a site that dies in between."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from deciding_hospital import plan_of
from real_federation import checkpoints, invariants, journalled, kept, live, real_federation, rounds, until
from real_sites import NAMES
from simulated_sites import simulate

from shared import checkpoint

pytestmark = pytest.mark.network

TOGETHER: dict[str, Any] = {
    "participation": {"quorum": 2, "deadline_s": 120.0},
    "aggregation": {"weights": "equal", "fixed_point": {"bits": 24}},
}
SEEN = plan_of(**TOGETHER, evaluation={"every": 1, "release": "site"})
MASKED = plan_of(
    **TOGETHER,
    evaluation={"every": 1, "release": "sum"},
    secure_aggregation={"enabled": True, "threshold": 2, "step_s": 60.0},
)
VICTIM = NAMES[0]


def models(run: Path) -> list[dict[str, Any]]:
    return [checkpoint.load(checkpoint.path_of(run / "checkpoints", digest)).tensors for digest in checkpoints(run)]


def same_models(one: list[dict[str, Any]], other: list[dict[str, Any]]) -> bool:
    return len(one) == len(other) and all(
        first.keys() == second.keys() and all(np.array_equal(first[name], second[name]) for name in first)
        for first, second in zip(one, other, strict=True)
    )


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_masks_change_no_bit_of_any_model(tmp_path: Path) -> None:
    """Before: three approved sites. After: the models that a coordinator makes who sees every update."""
    with real_federation(tmp_path / "seen", SEEN) as federation:
        plain = models(simulate(federation, tmp_path / "simulated"))
    with real_federation(tmp_path / "f", MASKED) as federation:
        before = kept(federation)
        federation.start()
        federation.ready()
        run = federation.order()
        federation.finish(run)
        assert same_models(models(run), plain)
        said = journalled(run)
        assert sum("unmasking answered" in line for line in said) == len(NAMES) * (2 * MASKED.plan.rounds + 1)
        invariants(federation, before)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_site_that_dies_between_its_mask_and_the_sum_is_in_the_sum(tmp_path: Path) -> None:
    """Before: all three have sent masked updates of round 2. After: two take its mask off, and its update counts."""
    with real_federation(tmp_path / "seen", SEEN) as federation:
        plain = models(simulate(federation, tmp_path / "simulated"))
    with real_federation(tmp_path / "f", MASKED) as federation:
        before = kept(federation)
        federation.start()
        federation.ready()
        run = federation.order()
        until(lambda: (live(run).phase, live(run).round) in {("confirming", 2), ("unmasking", 2)}, what="masked in 2")
        assert federation.kill("custodian", VICTIM)
        federation.finish(run)
        assert rounds(run)[1].participation.participants == NAMES
        assert same_models(models(run)[:2], plain[:2])
        said = [line for line in journalled(run) if line.startswith("2 ") and VICTIM in line]
        assert any("failed" in line for line in said), said
        invariants(federation, before)
