"""The comparison of accuracy: the arms differ in what they should, and the table says what was found."""

import importlib
import json
from dataclasses import asdict, replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from scipy.stats import t, ttest_1samp

from client import workbench
from shared.fixed_point import peak, quantise, resolution
from shared.plan import FixedPoint
from simulations.scenario import load

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
SCENARIOS = ["breast", "retina", "demo"]


@pytest.fixture
def study(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module("secure_accuracy")


def made(study: ModuleType, arm: str, seed: int, value: float, **more: Any) -> Any:
    changes = ((0.01, 0.008, 0.002), (0.02, 0.004, 0.001))
    return study.Made(study.Trial("breast", arm, seed), "auroc", value, changes, **({"saturated": 0} | more))


@pytest.mark.parametrize("name", SCENARIOS)
def test_three_seeds_of_three_arms_are_plans_that_differ_in_rounding_and_masks_alone(
    study: ModuleType, name: str
) -> None:
    trials = list(study.trials([name]))
    assert len(trials) == 9
    plans = {(one.seed, one.arm): load(name, one.changes(), one.seed).plan for one in trials}
    for (seed, arm), plan in plans.items():
        seen = plans[seed, study.SEEN]
        assert plan.secure_aggregation.enabled == (arm != study.SEEN)
        assert plan.plan.seed == seed
        rounded = plan.aggregation.model_copy(update={"fixed_point": seen.aggregation.fixed_point})
        masks = {"aggregation": rounded, "secure_aggregation": seen.secure_aggregation}
        assert plan.model_copy(update=masks) == seen
        assert plan.aggregation.weights == "equal"
    points = [plan.aggregation.fixed_point for plan in plans.values()]
    assert {(point.bits, point.rounding) for point in points} == {
        (32, "nearest"),
        (14, "nearest"),
        (14, "stochastic"),
    }


@pytest.mark.parametrize("name", SCENARIOS)
def test_the_range_holds_as_many_steps_of_the_learning_rate_as_a_round_has(study: ModuleType, name: str) -> None:
    training = load(name).plan.training
    reach = training.steps * training.learning_rate
    assert reach <= study.RANGES[name] < 2.1 * reach
    assert np.log2(study.RANGES[name]) % 1 == 0


def test_what_sites_round_is_noted_while_it_is_watched_and_rounded_the_same(study: ModuleType) -> None:
    change = np.linspace(-2.0, 1.0, 3001).astype(np.float32)
    fixed_point = FixedPoint(range=1.0, bits=14)
    with study.watching() as watched:
        assert vars(workbench)["quantise"] == watched.quantise
        values, saturated = vars(workbench)["quantise"](change, fixed_point)
    assert vars(workbench)["quantise"] is quantise
    assert np.array_equal(values, quantise(change, fixed_point)[0])
    ((largest, quantile, rms),) = watched.changes
    assert largest == 2.0
    assert quantile == pytest.approx(1.997, abs=1e-3)
    assert rms == pytest.approx(np.sqrt(np.mean(change.astype(np.float64) ** 2)))
    beyond = np.abs(np.rint(change / resolution(fixed_point))) > peak(fixed_point)
    assert watched.saturated == saturated == np.count_nonzero(beyond) > 1000


def test_an_interval_is_students(study: ModuleType) -> None:
    for found in ([0.001, 0.004, -0.002], [0.01, 0.02]):
        low, high = study.interval(found)
        wanted = ttest_1samp(found, 0).confidence_interval(0.95)
        assert (low, high) == pytest.approx((wanted.low, wanted.high), abs=1e-5)
    for degrees in (1, 2):
        assert study._T_95[degrees + 1] == pytest.approx(t.ppf(0.975, degrees), abs=1e-3)


def test_runs_are_on_file_as_they_were(study: ModuleType, tmp_path: Path) -> None:
    path, one = tmp_path / "runs.jsonl", made(study, study.SEEN, 0, 0.9)
    assert study.read(path) == []
    path.write_text(json.dumps(asdict(one)) + "\n", encoding="utf-8")
    assert study.read(path) == [one]


def test_the_table_pairs_by_seed(study: ModuleType) -> None:
    masked, stochastic = (arm for arm in study.ARMS if arm != study.SEEN)
    runs = [made(study, study.SEEN, seed, 0.8 + seed / 100) for seed in (2, 0, 1)]
    runs += [made(study, masked, seed, 0.81 + seed / 100, saturated=seed) for seed in (0, 1, 2)]
    runs += [made(study, stochastic, 1, 0.80)]
    lines = study.table(runs).splitlines()
    assert lines[2] == f"| breast | {study.SEEN} | 0.8000 / 0.8100 / 0.8200 | 0.8100 ± 0.0100 |  |  | 0 / 0 / 0 |"
    assert "| +0.0100 / +0.0100 / +0.0100 | +0.0100 (+0.0100 to +0.0100) | 0 / 1 / 2 |" in lines[3]
    assert lines[4] == f"| breast | {stochastic} | 0.8000 | 0.8000 | -0.0100 | -0.0100 | 0 |"
    assert len(lines) == 5


def test_the_largest_change_is_that_of_runs_that_were_seen(study: ModuleType) -> None:
    masked = next(arm for arm in study.ARMS if arm != study.SEEN)
    seen = made(study, study.SEEN, 0, 0.9)
    runs = [
        seen,
        replace(seen, changes=((0.001, 0.009, 0.0),)),
        replace(made(study, masked, 0, 0.9), changes=((9.0, 9.0, 9.0),)),
    ]
    assert study.largest(runs) == {"breast": (0.02, 0.009, 0.002)}
