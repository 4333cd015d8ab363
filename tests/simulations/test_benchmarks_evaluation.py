"""The arm on evaluation at toy size: that both sides answer the same cases, and that answers are near the truth."""

import importlib
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch

from client.training.inference import scores, statistics
from client.workbench import Workbench

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
SMALL = ("preprocessing.size=[32,32]",)


@pytest.fixture
def arm(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The module; benchmarks are scripts, not a package."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module("evaluation")


def test_each_way_is_timed_as_often_as_asked(arm: ModuleType) -> None:
    said = arm.times([["small", "demo", SMALL, 3], ["cnn", "breast", SMALL, 3]], repeats=2)

    assert set(said) == {"wall", "cpu"}
    for work in (*said["wall"], *said["cpu"]):
        assert set(work) == {"inference", "site", "subgroups"}
        assert all(len(taken) == 2 and min(taken) > 0 for taken in work.values())


@pytest.mark.parametrize(("scenario", "least"), [("demo", 0.75), ("retina", 0.5)])
def test_an_answer_is_near_the_truth_and_is_not_the_truth(arm: ModuleType, scenario: str, least: float) -> None:
    plan = arm._plan(arm.Work("small", scenario, ("preprocessing.size=[64,64]", "training.patch=[64,64]"), 4))
    bench = Workbench.for_plan(plan)
    cases, answers = arm.drawn(plan, 4)

    found = statistics(arm.Drawn(bench.model, answers), cases, bench.task, plan, bench.device)

    dice = bench.task.metrics(found.total())["dice"]
    assert least < dice < 0.999


def test_drawn_answers_belong_to_their_cases_whatever_the_batch_and_the_turn(arm: ModuleType) -> None:
    plan = arm._plan(arm.Work("small", "demo", SMALL, 5))
    bench = Workbench.for_plan(plan)
    cases, answers = arm.drawn(plan, 5)
    model = arm.Drawn(bench.model, answers)

    for _ in range(2):
        found = [answer for _, answer in scores(model, cases, bench.task, plan, bench.device)]
        np.testing.assert_allclose(np.stack(found), answers.softmax(dim=1).numpy())


def test_the_network_does_its_work_before_it_answers(arm: ModuleType) -> None:
    seen: list[int] = []

    class Watched(torch.nn.Module):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            seen.append(len(images))
            return images

    arm.Drawn(Watched(), torch.zeros(4, 2, 8, 8))(torch.zeros(3, 1, 8, 8))

    assert seen == [3]


def test_statistics_of_a_site_are_at_most_200_kilobytes_with_nine_levels_of_subgroups(arm: ModuleType) -> None:
    said = arm.sizes([[work.said, work.scenario, work.changes, work.cases] for work in arm.WORKS])

    assert max(said["subgroups"]) <= arm.MOST_KB * 1000
    assert all(more > alone for alone, more in zip(said["site"], said["subgroups"], strict=True))


def test_sizes_are_of_what_a_site_sends(arm: ModuleType) -> None:
    work = arm.Work("small", "demo", SMALL, 2)
    plan = arm._plan(work)
    bench = Workbench.for_plan(plan)
    cases, answers = arm.drawn(plan, 2)

    sent = statistics(arm.Drawn(bench.model, answers), cases, bench.task, plan, bench.device).flat()

    assert arm.sizes([["small", "demo", SMALL, 2]])["site"] == [sent.nbytes]
