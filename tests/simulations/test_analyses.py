"""Differences from baselines: the numbers are those of the models measured by hand, and both signs can come out."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny_federation import SITES, tiny_data, tiny_plan

from client.site import Site
from shared.evaluation.additive import Statistics
from shared.evaluation.paired import paired_intervals
from simulations.analyses import Analysed, Wanted, analyse
from simulations.baselines import measure, run_baselines
from simulations.progress import Silent
from simulations.workers import Pool, Sites, SiteSpec

SPECS = tuple(SiteSpec(name, Path("nowhere"), "", Path("nowhere")) for name in SITES)
PLAN = tiny_plan(plan__rounds=4, training__steps=8)


@pytest.fixture(scope="module")
def pool(tmp_path_factory: pytest.TempPathFactory) -> Pool:
    sites = Sites(PLAN, tmp_path_factory.mktemp("sites"))
    sites._sites.update({name: Site(name, tiny_data(name), sites.workbench) for name in SITES})
    return Pool(sites, workers=1)


def of_model(pool: Pool, weights: Any) -> Statistics:
    parts = (measure(pool.sites, spec, weights) for spec in SPECS)
    return sum(parts, Statistics.zero(pool.sites.workbench.task.schema))


@pytest.fixture(scope="module")
def initial(pool: Pool) -> Any:
    return pool.sites.workbench.initial_weights()


@pytest.fixture(scope="module")
def found(pool: Pool, initial: Any) -> Analysed:
    """The federation's final model is stood in for by one that was trained at aachen alone."""
    trained = run_baselines(pool, SPECS, initial, Silent()).models["aachen"]
    return analyse(Wanted(baselines=True), pool, SPECS, (initial, trained), Silent())


def metric(found: Analysed, first: str, name: str = "brier") -> dict[str, Any]:
    [one] = [one for one in found.differences if one["first"] == first]
    assert (one["second"], one["patients"], one["reason"]) == ("federation", "test", "")
    value: dict[str, Any] = one["metrics"][name]
    return value


def test_the_federation_is_compared_with_its_beginning_with_all_data_and_with_single_sites(found: Analysed) -> None:
    assert [one["first"] for one in found.differences] == ["initial", "central", "local-mean"]


def test_the_difference_from_the_beginning_is_that_of_two_models_measured_by_hand(
    pool: Pool, initial: Any, found: Analysed
) -> None:
    task = pool.sites.workbench.task
    before = of_model(pool, initial)
    after = of_model(pool, run_baselines(pool, SPECS, initial, Silent()).models["aachen"])
    wanted = paired_intervals(before, after, task.metrics, task.limits)["brier"]
    assert metric(found, "initial")["value"] == wanted.value < 0, "training lowers the Brier score"
    assert metric(found, "initial")["high"] == wanted.high


def test_differences_are_those_of_the_blocks_beside_them(found: Analysed) -> None:
    """A second way to the same numbers: values of the baselines' blocks, subtracted."""
    local: Any = found.baselines["local"]
    at_all = [block["brier"]["value"] for block in local.values()]
    federation = local["aachen"]["brier"]["value"]  # the same model
    assert metric(found, "local-mean")["value"] == pytest.approx(federation - np.mean(at_all), abs=1e-9)
    central: Any = found.baselines["central"]
    assert metric(found, "central")["value"] == pytest.approx(federation - central["brier"]["value"], abs=1e-9)


def test_a_model_that_did_not_change_differs_in_nothing_and_is_not_said_to_be_equal(pool: Pool, initial: Any) -> None:
    same = analyse(Wanted(baselines=True), pool, SPECS, (initial, initial), Silent())
    accuracy = metric(same, "initial", "accuracy")
    assert accuracy["value"] == 0
    assert accuracy["low"] < 0 < accuracy["high"]


def test_what_nobody_asked_for_is_not_there(pool: Pool, initial: Any) -> None:
    assert analyse(Wanted(), pool, SPECS, (initial, initial), Silent()) == Analysed()


def test_the_checks_stand_by_themselves(pool: Pool, initial: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("simulations.cross_site.shared_patients", lambda _specs: ())  # these sites have no archive
    made = analyse(Wanted(cross_site=True), pool, SPECS, (initial, initial), Silent())
    assert set(made.checks) == {"data", "findings"}
    assert set(made.baselines) == {"central", "local", "at_home", "elsewhere", "cross_site", "cross_site_validation"}
    assert {one["site"] for one in made.checks["data"]} == set(SITES)  # type: ignore[attr-defined]
