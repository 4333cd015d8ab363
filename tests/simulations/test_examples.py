"""Pictures for the report come from synthetic cases only, one per site, and neither the best nor the worst."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from client.data.prepared.site_data import SiteData
from client.site import Site
from client.workbench import Workbench
from shared.plan import Plan, from_document
from shared.preprocessing.image import Case
from simulations.examples import phantom_examples
from simulations.workers import SiteSpec


def plan_of(**changes: Any) -> Plan:
    document: dict[str, Any] = {
        "plan": {"name": "squares", "task": "segmentation", "rounds": 1, "seed": 3},
        "data": {"modality": "other", "classes": ["background", "square"]},
        "preprocessing": {"size": [16, 16]},
        "model": {"name": "unet", "channels": [4, 8]},
        "training": {"steps": 1, "patients_per_step": 1, "learning_rate": 0.01},
        "privacy": {"unit": "none"},
    }
    for section, entries in changes.items():
        document[section] = {**document[section], **entries}
    return from_document(document)


def square(number: int, edge: int) -> Case:
    mask = np.zeros((16, 16), np.uint8)
    mask[2 : 2 + edge, 2 : 2 + edge] = 1
    voxels: NDArray[np.float32] = mask[None].astype(np.float32)
    return Case(f"case-{number}", f"patient-{number}", voxels, mask, None, (1.0, 1.0))


@dataclass
class FakeSites:
    """Sites in memory, as the pictures see them."""

    plan: Plan
    cases: dict[str, list[Case]]
    workbench: Workbench = field(init=False)

    def __post_init__(self) -> None:
        self.workbench = Workbench.for_plan(self.plan)

    def site(self, spec: SiteSpec) -> Site:
        data = SiteData((), (), self.cases[spec.name], ())
        return Site(spec.name, data, self.workbench)


def examples(sites: FakeSites) -> list[Any]:
    specs = [SiteSpec(name, Path(), "", Path()) for name in sites.cases]
    return phantom_examples(sites, specs, sites.workbench.initial_weights())  # type: ignore[arg-type]


def test_each_site_shows_the_case_in_the_middle_of_its_own_ranking() -> None:
    sites = FakeSites(plan_of(), {"north": [square(number, 2 + 2 * number) for number in range(5)]})
    bench = sites.workbench
    dice = []
    for case in sites.cases["north"]:
        from client.training.inference import scores

        _, found = next(scores(bench.model, [case], bench.task, sites.plan, bench.device))
        dice.append(float(bench.task.describe(found, case)["dice"]))
    (shown,) = examples(sites)
    assert shown.caption == f"north, Dice {sorted(dice)[2]:.2f}"


def test_a_picture_holds_the_image_the_truth_and_what_the_model_draws() -> None:
    case = square(1, 6)
    (shown,) = examples(FakeSites(plan_of(), {"north": [case]}))
    assert np.array_equal(shown.image, case.voxels[0])
    assert np.array_equal(shown.truth, case.mask)
    assert shown.prediction.shape == (16, 16)
    assert set(np.unique(shown.prediction)) <= {0, 1}


def test_at_most_four_sites_are_shown() -> None:
    sites = FakeSites(plan_of(), {f"site-{number}": [square(number, 5)] for number in range(6)})
    assert [shown.caption.split(",")[0] for shown in examples(sites)] == [f"site-{number}" for number in range(4)]


@pytest.mark.parametrize("cases", [[], [square(1, 0)]], ids=["no case", "empty mask"])
def test_a_site_without_anything_to_outline_shows_nothing(cases: list[Case]) -> None:
    assert examples(FakeSites(plan_of(), {"north": cases})) == []


def test_other_tasks_and_volumes_have_no_pictures() -> None:
    whole = {"plan": {"task": "classification"}, "model": {"name": "cnn", "channels": [4], "norm": "group"}}
    assert examples(FakeSites(plan_of(**whole), {"north": [square(1, 5)]})) == []
    volume = {"preprocessing": {"size": [16, 16, 16]}}
    assert examples(FakeSites(plan_of(**volume), {"north": [square(1, 5)]})) == []
