"""Baselines: pooled data is the union, everybody sees the images that the module says, and blocks add up by hand."""

import dataclasses
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from tiny_federation import SITES, tiny_data, tiny_plan
from torch import Tensor

from client.data.prepared.site_data import SiteData
from client.site import Site
from client.training import local
from client.training.batches import TrainingData
from client.training.inference import statistics
from client.workbench import Workbench
from shared.errors import SiteDataError
from shared.evaluation.additive import Statistics, collect
from shared.messages import Envelope, Train
from shared.plan import Plan
from shared.preprocessing.image import Case
from shared.seeds import generator
from shared.tasks import TASKS, task_for
from shared.tasks.task import Task
from simulations import baselines
from simulations.baselines import CENTRAL, Arm, Baselines, baseline_block, pooled, run_baselines, train_and_measure
from simulations.progress import Silent
from simulations.workers import Pool, Sites, SiteSpec

SPECS = tuple(SiteSpec(name, Path("nowhere"), "", Path("nowhere")) for name in SITES)
PLAN = tiny_plan(plan__rounds=3, training__steps=4, training__patients_per_step=4, training__warmup_rounds=1)


def memory_sites(plan: Plan, folder: Path) -> Sites:
    """Sites whose cases are in memory, in the places where a process keeps the opened ones."""
    sites = Sites(plan, folder)
    sites._sites.update({name: Site(name, tiny_data(name), sites.workbench) for name in SITES})
    return sites


def counted(counts: dict[str, NDArray[np.int64]]) -> dict[str, list[int]]:
    return {name: values.tolist() for name, values in counts.items()}


def test_pooled_cases_are_those_of_all_sites_once() -> None:
    parts = [tiny_data(name) for name in SITES]
    together = pooled(parts)
    assert [case.case_id for case in together.cases] == [case.case_id for part in parts for case in part.train]
    assert len(together.cases) == 36


def test_pooled_patients_own_the_cases_that_they_owned_at_their_site() -> None:
    together = pooled([tiny_data(name) for name in SITES])
    for patient in together.patients:
        assert len({together.cases[position].patient for position in patient}) == 1
    owned = Counter(position for patient in together.patients for position in patient)
    assert owned == Counter(range(36))
    assert len(together.patients) == 18


def test_one_site_pooled_is_that_site() -> None:
    data = tiny_data("aachen")
    assert pooled([data]).patients == data.train_patients
    assert [case.case_id for case in pooled([data]).cases] == [case.case_id for case in data.train]


def test_nothing_to_pool_is_an_error_and_not_an_empty_training_set() -> None:
    with pytest.raises(SiteDataError, match="no site to pool") as refused:
        pooled([])
    assert refused.value.hint


@dataclasses.dataclass
class Seen:
    """Counts images that pass through the loss, by the step's batch."""

    batches: list[int] = dataclasses.field(default_factory=list)

    def build(self, plan: Plan) -> Task:
        task = ORIGINAL(plan)

        def loss(logits: Tensor, targets: Tensor) -> Tensor:
            self.batches.append(len(logits))
            return task.loss(logits, targets)

        return dataclasses.replace(task, loss=loss)


ORIGINAL = TASKS["classification"]


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> Seen:
    found = Seen()
    monkeypatch.setitem(TASKS, "classification", found.build)
    return found


def test_pooled_training_sees_as_many_images_as_the_federation_and_a_single_site_a_share(
    seen: Seen, tmp_path: Path
) -> None:
    sites = memory_sites(PLAN, tmp_path)
    initial = sites.workbench.initial_weights()
    for site in SITES:
        for number in (1, 2, 3):
            sites._sites[site].answer(Train(Envelope("run", PLAN.digest(), number), initial))
    federation = sum(seen.batches)
    seen.batches.clear()
    alone = PLAN.plan.rounds * PLAN.training.steps
    train_and_measure(sites, "aachen", SPECS[:1], SPECS, initial, alone)
    assert (len(seen.batches), sum(seen.batches)) == (12, federation // 3)
    seen.batches.clear()
    train_and_measure(sites, CENTRAL, SPECS, SPECS, initial, alone * 3)
    assert (len(seen.batches), sum(seen.batches)) == (36, federation)


def test_run_baselines_gives_each_arm_its_documented_steps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: dict[str, tuple[list[str], int]] = {}
    pool = Pool(memory_sites(PLAN, tmp_path), workers=1)

    def note(
        sites: Sites, name: str, own: tuple[SiteSpec, ...], everywhere: tuple[SiteSpec, ...], _start: Any, steps: int
    ) -> Arm:
        asked[name] = ([spec.name for spec in own], steps)
        return Arm(_start, {spec.name: Statistics.zero(sites.workbench.task.schema) for spec in everywhere})

    monkeypatch.setattr(baselines, "train_and_measure", note)
    found = run_baselines(pool, SPECS, pool.sites.workbench.initial_weights(), Silent())
    assert asked == {CENTRAL: (list(SITES), 36), **{name: ([name], 12) for name in SITES}}
    assert next(iter(asked)) == CENTRAL, "the longest starts first"
    assert set(found.local) == set(found.central) == set(SITES)


def test_a_site_alone_is_the_federation_s_own_training_in_one_go(tmp_path: Path) -> None:
    """Oracle: ``local.train`` called by hand with the stretched schedule, measured by hand."""
    sites = memory_sites(PLAN, tmp_path)
    initial = sites.workbench.initial_weights()
    found = train_and_measure(sites, "bergen", SPECS[1:2], SPECS, initial, 12).statistics
    bench, data = Workbench.for_plan(PLAN), tiny_data("bergen")
    local.train(
        bench.load(initial),
        TrainingData(data.train, data.train_patients),
        bench.task,
        PLAN,
        local.long_assignment(PLAN, 12),
        rng=generator(PLAN.plan.seed, "baseline", "bergen"),
        device=bench.device,
    )
    for site in SITES:
        by_hand = statistics(bench.model, tiny_data(site).test, bench.task, PLAN, bench.device)
        assert counted(found[site].total()) == counted(by_hand.total())


def test_every_arm_begins_with_the_federation_s_initial_weights(tmp_path: Path) -> None:
    """With no steps to make, an arm is measured as it began, whatever was trained before it."""
    sites = memory_sites(PLAN, tmp_path)
    initial = sites.workbench.initial_weights()
    train_and_measure(sites, "aachen", SPECS[:1], SPECS, initial, 12)
    untrained = train_and_measure(sites, "aachen", SPECS[:1], SPECS, initial, 0).statistics
    fresh = Workbench.for_plan(PLAN)
    by_hand = statistics(fresh.model, tiny_data("coimbra").test, fresh.task, PLAN, fresh.device)
    assert counted(untrained["coimbra"].total()) == counted(by_hand.total())


def test_baselines_are_measured_on_test_patients_only(tmp_path: Path) -> None:
    sites = memory_sites(PLAN, tmp_path)
    found = baselines.measure(sites, SPECS[0], sites.workbench.initial_weights())
    data = tiny_data("aachen")
    assert found.total()["cases"] == len(data.test) == 8
    assert found.total()["patients"] == len({case.patient for case in data.test})


def test_baselines_repeat_to_the_last_count(tmp_path: Path) -> None:
    def once() -> Baselines:
        pool = Pool(memory_sites(PLAN, tmp_path), workers=1)
        return run_baselines(pool, SPECS, pool.sites.workbench.initial_weights(), Silent())

    first, again = once(), once()
    for site in SITES:
        assert counted(first.central[site].total()) == counted(again.central[site].total())
        for other in SITES:
            assert counted(first.local[site][other].total()) == counted(again.local[site][other].total())


def test_pooled_training_and_the_stretched_schedule_reach_the_end_of_the_cosine() -> None:
    plan = tiny_plan(training__schedule="cosine", training__warmup_rounds=1, plan__rounds=4)
    assignment = local.long_assignment(plan, 400)
    rates = [assignment.rate(step) for step in range(400)]
    assert rates[99] == plan.training.learning_rate, "a quarter of the rounds is warm-up"
    assert rates[-1] < 0.001 * plan.training.learning_rate


def of_cases(task: Task, right: int, wrong: int, who: str) -> Statistics:
    """Statistics of cases of which ``right`` are decided rightly."""
    seen = []
    for number, decided in enumerate([True] * right + [False] * wrong):
        label = number % 2
        case = Case(f"{who}{number}", f"{who}{number}", np.zeros((1, 2, 2), np.float32), None, label, (1.0, 1.0))
        sure = label if decided else 1 - label
        seen.append((case.patient, task.observe(np.array([1 - sure, sure], np.float32), case)))
    return collect(task.schema, seen)


TASK = task_for(PLAN)
FEDERATION = {"aachen": of_cases(TASK, 3, 1, "fa"), "bergen": of_cases(TASK, 4, 0, "fb")}
FOUND = Baselines(
    local={
        "aachen": {"aachen": of_cases(TASK, 4, 0, "aa"), "bergen": of_cases(TASK, 1, 3, "ab")},
        "bergen": {"aachen": of_cases(TASK, 2, 2, "ba"), "bergen": of_cases(TASK, 3, 1, "bb")},
    },
    central={"aachen": of_cases(TASK, 4, 0, "ca"), "bergen": of_cases(TASK, 3, 1, "cb")},
)


def accuracy(block: Any) -> float:
    value: float = block["accuracy"]["value"]
    return value


def test_blocks_by_hand() -> None:
    """Of 8 test cases: aachen alone 5, bergen alone 5, pooled 7; at home 4 and 3 of 4; elsewhere 1 and 2 of 4."""
    block: Mapping[str, Any] = baseline_block(FOUND, FEDERATION, TASK)
    assert accuracy(block["central"]) == 7 / 8
    assert {site: accuracy(found) for site, found in block["local"].items()} == {"aachen": 5 / 8, "bergen": 5 / 8}
    for where, expected in {
        "at_home": {"aachen": (4 / 4, 3 / 4), "bergen": (3 / 4, 4 / 4)},
        "elsewhere": {"aachen": (1 / 4, 4 / 4), "bergen": (2 / 4, 3 / 4)},
    }.items():
        for site, (alone, federation) in expected.items():
            assert accuracy(block[where][site]["local"]) == alone
            assert accuracy(block[where][site]["federation"]) == federation


def test_blocks_carry_intervals_and_the_number_of_patients() -> None:
    block: Mapping[str, Any] = baseline_block(FOUND, FEDERATION, TASK)
    assert block["central"]["accuracy"]["n_patients"] == 8
    assert block["at_home"]["aachen"]["local"]["accuracy"]["n_patients"] == 4
    assert block["central"]["accuracy"]["low"] <= 7 / 8 <= block["central"]["accuracy"]["high"]


def test_a_single_site_has_no_elsewhere_and_says_so_with_undetermined_numbers() -> None:
    alone = Baselines({"aachen": {"aachen": FOUND.local["aachen"]["aachen"]}}, {"aachen": FOUND.central["aachen"]})
    block: Mapping[str, Any] = baseline_block(alone, {"aachen": FEDERATION["aachen"]}, TASK)
    assert block["elsewhere"]["aachen"]["local"]["accuracy"]["value"] is None
    assert block["elsewhere"]["aachen"]["local"]["accuracy"]["n_patients"] == 0


def test_a_site_without_test_patients_has_undetermined_numbers_at_home(tmp_path: Path) -> None:
    sites = memory_sites(PLAN, tmp_path)
    data = tiny_data("aachen")
    untested = SiteData(data.train, data.validation, [], data.train_patients)
    sites._sites["aachen"] = Site("aachen", untested, sites.workbench)
    found = baselines.measure(sites, SPECS[0], sites.workbench.initial_weights())
    assert found.total()["cases"] == 0
