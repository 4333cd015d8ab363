"""A deployed run and a simulated one of the same plan on the same patients: the same bytes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from deciding_hospital import plan_of
from real_federation import checkpoints, invariants, kept, model_files, real_federation
from simulated_sites import simulate

from shared import checkpoint

pytestmark = pytest.mark.network

TOGETHER: dict[str, Any] = {"participation": {"quorum": 3, "deadline_s": 120.0}}
PLAN = plan_of(**TOGETHER)


def test_a_plan_without_noise_gives_the_same_checkpoints_deployed_and_simulated(tmp_path: Path) -> None:
    """Before: three approved sites. After: real processes over TLS wrote the bytes that a simulation writes."""
    with real_federation(tmp_path / "f", PLAN) as federation:
        simulated = simulate(federation, tmp_path / "simulated")
        before = kept(federation)
        federation.start()
        federation.ready()
        run = federation.order()
        federation.finish(run)
        assert model_files(run) == model_files(simulated)
        assert checkpoints(run) == checkpoints(simulated)
        assert len(set(checkpoints(run))) == PLAN.plan.rounds
        invariants(federation, before)


def test_what_is_compared_depends_on_what_is_run(tmp_path: Path) -> None:
    """The control: another seed gives another model after every round."""
    found = []
    for seed in (3, 4):
        with real_federation(tmp_path / f"f{seed}", plan_of(plan__seed=seed, **TOGETHER)) as federation:
            run = simulate(federation, tmp_path / f"s{seed}")
            found.append([last_layer(run, digest) for digest in checkpoints(run)])
    for first, second in zip(*found, strict=True):
        assert np.abs(first - second).max() > 1e-4


def last_layer(run: Path, digest: str) -> np.ndarray[Any, Any]:
    tensors = checkpoint.load(checkpoint.path_of(run / "checkpoints", digest)).tensors
    return np.asarray(tensors[sorted(tensors)[-1]])
