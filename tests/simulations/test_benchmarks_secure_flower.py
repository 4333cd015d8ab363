"""Flower's legacy SecAgg+ as it is measured: its own workflow runs whole, and its sum is looked at."""

import importlib
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from flwr.common.secure_aggregation.secaggplus_utils import pseudo_rand_gen

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def arm(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module("secure_flower")


@pytest.mark.parametrize(("sites", "dropped"), [(4, 0), (4, 1), (7, 2)])
def test_a_round_runs_whole_and_each_client_sends_eight_bytes_for_a_parameter(
    arm: ModuleType, sites: int, dropped: int
) -> None:
    said = arm.sums(sites, 5000, dropped)
    assert said["dropped"] == dropped
    assert said["site_s"] > 0
    assert said["coordinator_s"] > 0
    assert 8 * 5000 < said["up"] < 8 * 5000 + 8000
    assert 4 * 5000 < said["down"] < 4 * 5000 + 8000


def test_too_few_clients_give_no_sum(arm: ModuleType) -> None:
    # Flower logs it and goes on with the old model, of zeros.
    with pytest.raises(RuntimeError, match="of 2 clients is not the mean"):
        arm.sums(4, 100, 2)


def test_a_mean_is_compared_within_its_rounding(arm: ModuleType) -> None:
    changes = [np.array([0.25, -3.0], np.float32), np.array([0.75, 0.0], np.float32)]
    arm._require_mean(np.array([0.5, -0.5]), changes)
    with pytest.raises(RuntimeError, match="of 2 clients"):
        arm._require_mean(np.array([0.5, -0.50001]), changes)


def test_its_masks_come_from_32_bits_two_different_secrets_may_make_the_same() -> None:
    secret = bytes(range(32))
    other = secret[4:] + secret[:4]
    assert secret != other
    first, second, third = (
        pseudo_rand_gen(seed, 2**32, [(1000,)])[0] for seed in (secret, other, bytes([1]) + secret[1:])
    )
    assert np.array_equal(first, second)
    assert not np.array_equal(first, third)
