"""The arms of the benchmarks at toy size: that both sides of a ratio do the same work, not how fast they are."""

import importlib
from pathlib import Path
from types import ModuleType
from typing import Any, Protocol

import numpy as np
import pytest

from shared.fixed_point import resolution
from shared.plan import FixedPoint

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
TWO_STEPS = ("training.steps=2",)


class Modules(Protocol):
    def __call__(self, name: str) -> ModuleType: ...


@pytest.fixture
def module(monkeypatch: pytest.MonkeyPatch) -> Modules:
    """A module of the benchmarks; they are scripts, not a package."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module


@pytest.fixture(scope="module")
def stores(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("stores")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(BENCHMARKS))
        said = importlib.import_module("federation").prepare(str(folder), sites=2, workers=1)
    assert said == {"sites": 2}
    return str(folder)


def test_the_simulator_and_the_bare_loop_train_the_same(module: Modules, stores: str) -> None:
    training = module("training")
    bare = training.bare(stores, sites=2, rounds=2, changes=TWO_STEPS)
    simulated = training.in_process(stores, sites=2, rounds=2, changes=TWO_STEPS)
    assert simulated["loss"] == pytest.approx(bare["loss"], abs=1e-5)
    assert bare["loop_s"] > 0
    assert 0 < simulated["coordinator_s"] < simulated["loop_s"]


def test_other_work_gives_another_loss(module: Modules, stores: str) -> None:
    """The control of the test above: the loss tells apart what was trained."""
    training = module("training")
    losses = {training.bare(stores, sites, 2, TWO_STEPS)["loss"] for sites in (1, 2)}
    assert len(losses) == 2


def test_the_plan_is_the_scenarios_but_for_what_is_measured(module: Modules) -> None:
    from simulations.scenario import load

    plan, scenario = module("federation").plan(3), load("hundred-sites").plan
    assert plan.training.steps == 20
    assert (plan.model, plan.training, plan.preprocessing) == (
        scenario.model,
        scenario.training,
        scenario.preprocessing,
    )
    assert plan.evaluation.every > plan.plan.rounds


def test_more_sites_than_were_prepared_are_refused(module: Modules, stores: str) -> None:
    with pytest.raises(ValueError, match="2 sites were prepared, 3 are asked for"):
        module("federation").specs(stores, 3)


def test_numpys_blocks_add_up_to_the_sum(module: Modules) -> None:
    arrays = [np.arange(10, dtype=np.float32) * factor for factor in (1, 2, 3)]
    out = np.empty(10, np.float32)
    module("aggregation")._add(arrays, out, 4)
    assert out.tolist() == sum(arrays).tolist()  # type: ignore[union-attr]


def test_updates_of_the_sum_differ_and_are_of_the_size_that_is_said(module: Modules) -> None:
    aggregation = module("aggregation")
    changes = aggregation._changes(3, 20_000)
    updates = [aggregation._update(change, 1, FixedPoint()) for change in changes]
    assert len({update.values.tobytes() for update in updates}) == 3
    for update in updates:
        assert update.values.std() * resolution(FixedPoint()) == pytest.approx(0.01, rel=0.05)


@pytest.mark.parametrize(("function", "more"), [("exact", {}), ("exact", {"weight": 30}), ("numpy_blocks", {})])
def test_sums_report_bytes_over_seconds(module: Modules, function: str, more: dict[str, int]) -> None:
    said = getattr(module("aggregation"), function)(updates=3, length=1000, repeats=2, **more)
    assert said["gb_per_s"] == pytest.approx(3 * 1000 * 4 / said["seconds"] / 1e9)


def test_a_stack_trains_what_the_loop_trains_to_rounding(module: Modules) -> None:
    said = module("stacked").compare(sites=2, steps=2, repeats=1)
    assert said["moved"] > 1e-4
    assert said["apart"] < 1e-5
    assert len(said["loop_ms"]) == len(said["stack_ms"]) == 1


ARMS: list[tuple[str, dict[str, Any], set[str]]] = [
    ("fixed_point", {"length": 1000}, {"quantise_s", "copy_s"}),
    ("step", {"scenario": "hundred-sites", "edge": 16, "steps": 1}, {"train_s", "batches_s"}),
    ("step", {"scenario": "demo", "edge": 16, "steps": 1}, {"train_s", "batches_s"}),
]


@pytest.mark.parametrize(("name", "arguments", "ways"), ARMS)
def test_single_figures_have_one_value_for_each_way_and_turn(
    module: Modules, name: str, arguments: dict[str, Any], ways: set[str]
) -> None:
    turns = getattr(module("micro"), name)(**arguments, repeats=2)
    assert set(turns) == ways
    assert all(len(taken) == 2 and min(taken) > 0 for taken in turns.values())


def test_steps_of_several_shapes_stay_apart(module: Modules) -> None:
    turns = module("micro").steps([("hundred-sites", 8), ("hundred-sites", 64)], steps=1, repeats=3)
    small, large = turns["train_s"]
    assert len(small) == len(large) == 3
    assert min(small) < min(large)


def test_a_store_and_memory_give_the_same_patches(module: Modules, tmp_path: Path) -> None:
    turns = module("micro").store_read(str(tmp_path), patches=3, repeats=1, edge=8)
    assert set(turns) == {"store_s", "memory_s"}
    assert list(tmp_path.iterdir()) == []


def test_every_line_of_the_journal_is_timed(module: Modules, tmp_path: Path) -> None:
    assert len(module("micro").journal(str(tmp_path), lines=4)["line_s"]) == 4
