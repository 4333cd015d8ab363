"""Explanations from images to results.json: dark squares decide, and a trained network looks at them."""

import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from picture_hospitals import COLUMNS, save_png, write_rows
from small_hospitals import SEGMENTATION, scenario

from client.data.cohort.files import current
from client.data.dataset import Dataset
from client.data.prepared.site_data import load_site_data
from client.data.prepared.store import Store
from client.training.explain import explainer
from client.workbench import Workbench
from server.report.explanations import explanations_table
from server.report.page import render
from server.report.run import read_run
from server.results import read_rounds
from server.run_state import ModelFiles
from shared.errors import ModelError, PlanError
from shared.messages import Vector
from shared.plan import Plan
from shared.preprocessing.image import Case
from shared.seeds import generator
from simulations.progress import Silent
from simulations.run import Order
from simulations.run import run as run_scenario
from simulations.workers import site_cohort

EDGE, LESION = 24, 6
TRAINED: dict[str, Any] = {
    "plan__rounds": 4,
    "plan__seed": 4,
    "data__classes": ["quiet", "blob"],
    "data__train_fraction": 0.5,
    "data__validation_fraction": 0.1,
    "preprocessing__size": [EDGE, EDGE],
    "model__channels": [8, 16, 16],
    "training__steps": 20,
    "training__patients_per_step": 8,
    "evaluation__floor": 3,
    "evaluation__every": 4,
}
ASKED: dict[str, Any] = TRAINED | {"evaluation__explain": "occlusion"}
SUMMED: dict[str, Any] = ASKED | {"evaluation__release": "sum"}
CHANCE = LESION**2 / EDGE**2


def write_blobs(folder: Path) -> Path:
    """Noise with a bright square that means nothing, and in the second class a dark one, which is drawn in the mask."""
    rows = []
    for site, patient, number in itertools.product(("aachen", "bergen", "coimbra"), range(14), range(2)):
        rng, blob = generator(12, site, patient, number), patient % 2
        voxels, mask = rng.normal(120, 12, (EDGE, EDGE)), np.zeros((EDGE, EDGE), np.uint8)
        row, column = rng.integers(0, EDGE - LESION, 2)
        other = (row + 9) % (EDGE - LESION), (column + 9) % (EDGE - LESION)
        voxels[other[0] : other[0] + LESION, other[1] : other[1] + LESION] += 70
        if blob:
            mask[row : row + LESION, column : column + LESION] = 255
            voxels -= 60.0 * (mask > 0)
        image, drawn = f"{site}/{patient}-{number}.png", f"{site}/{patient}-{number}-mask.png"
        save_png(folder / image, voxels.clip(0, 255).astype(np.uint8))
        if blob or number:
            save_png(folder / drawn, mask)
        told = (site, f"p{patient}", image, drawn if blob or number else "", ("quiet", "blob")[blob], "f")
        rows.append(dict(zip(COLUMNS, told, strict=True)))
    write_rows(folder, rows)
    return folder


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_blobs(tmp_path_factory.mktemp("images"))


def measured(images: Path, out: str, **changes: Any) -> Path:
    return run_scenario(scenario(images, **changes), Order(images / out, images, workers=1), Silent())


@pytest.fixture(scope="module")
def finished(images: Path) -> Path:
    return measured(images, "site", **ASKED)


@pytest.fixture(scope="module")
def summed(images: Path) -> Path:
    return measured(images, "sum", **SUMMED)


@pytest.fixture(scope="module")
def silent(images: Path) -> Path:
    return measured(images, "silent", **TRAINED)


def results(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "results.json").read_text())
    return found


def told(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = results(folder)["final"]["explanations"]
    return found


def final_weights(folder: Path, bench: Workbench) -> Vector:
    return ModelFiles(folder, bench.parameters, results(folder)["plan_digest"]).load(results(folder)["checkpoint"])


def cases_of(site: Path, plan: Plan) -> list[Case]:
    [index] = (site / "prepared").glob("*/index.json")
    store = Store.open(index.parent)
    digest = current(Dataset(site).cohorts)
    assert digest is not None
    return list(load_site_data(store, site_cohort(site, digest), plan).test)


def test_a_trained_network_points_at_lesions_more_often_than_weights_drawn_anew(finished: Path) -> None:
    found = told(finished)
    assert results(finished)["final"]["pooled"]["auroc"]["value"] > 0.95
    assert found["model"]["saliency_chance"]["value"] == pytest.approx(CHANCE, abs=1e-6)
    assert found["model"]["pointing_game"]["value"] > 0.8
    assert found["model"]["saliency_inside"]["value"] > 2 * found["control"]["saliency_inside"]["value"]
    assert found["difference"]["saliency_inside"]["low"] > 0
    assert found["difference"]["pointing_game"]["value"] > 0


def test_a_network_that_was_hardly_trained_is_not_told_to_look_at_lesions(images: Path) -> None:
    """Control: the same images and the same rooms, a learning rate that leaves the weights where they were."""
    folder = measured(images, "untrained", **ASKED | {"training__learning_rate": 1e-9, "plan__rounds": 1})
    found = told(folder)
    assert found["difference"]["saliency_inside"]["low"] < 0
    assert found["model"]["pointing_game"]["value"] < 0.8


def test_what_leaves_is_what_the_stored_images_give_in_one_room(images: Path, summed: Path) -> None:
    """Oracle: all test images in one list, explained once more by the final model and summed by hand."""
    plan = scenario(images, **SUMMED).plan
    bench = Workbench.for_plan(plan)
    model = bench.load(final_weights(summed, bench))
    cases = [case for site in sorted((summed / "sites-data").iterdir()) for case in cases_of(site, plan)]
    look = explainer(model, plan, bench.device, "occlusion")
    shares, hits, patients = [], [], set()
    for case in cases:
        if case.mask is not None and case.mask.any():
            found, inside = look(case, 1).astype(np.float64), case.mask > 0
            shares.append(found[inside].sum() / found.sum())
            hits.append((found[inside] == found.max()).sum() / (found == found.max()).sum())
            patients.add(case.patient)
    told_here = told(summed)
    assert told_here["cases"] == len(shares)
    assert told_here["patients"] == len(patients)
    assert told_here["model"]["saliency_inside"]["value"] == pytest.approx(np.mean(shares), abs=1e-5)
    assert told_here["model"]["pointing_game"]["value"] == pytest.approx(np.mean(hits), abs=1e-5)


def test_a_site_that_explains_too_few_patients_says_nothing_and_is_missing_from_the_sum(
    finished: Path, summed: Path
) -> None:
    by_site, pooled = told(finished), told(summed)
    suppressed = {site for site, block in by_site["sites"].items() if block["cases"] == "suppressed"}
    assert suppressed
    assert by_site["missing_sites"] == len(suppressed)
    assert by_site["cases"] == sum(block["cases"] for site, block in by_site["sites"].items() if site not in suppressed)
    assert pooled["cases"] > by_site["cases"], "only a sum over sites holds the patients of all"
    assert "sites" not in pooled


def test_too_few_patients_of_all_sites_are_suppressed_and_no_number_stands_in_the_results(images: Path) -> None:
    folder = measured(images, "floor", **SUMMED | {"evaluation__floor": 1000})
    found = told(folder)
    for block in (found, *found["classes"].values()):
        assert {block["cases"], block["patients"]} == {"suppressed"}
        assert {said for arm in ("model", "control", "difference") for said in block[arm].values()} == {"suppressed"}
    table = explanations_table(read_run(folder))
    assert table is not None
    assert {cell.text for _, cells in table.rows for cell in cells} == {"suppressed"}
    assert "Not zero" in table.note


def test_a_plan_that_does_not_ask_has_the_same_numbers_and_models_but_no_explanations(
    finished: Path, silent: Path
) -> None:
    asked, quiet = results(finished), results(silent)
    assert asked["final"].pop("explanations")
    assert asked["final"] == quiet["final"]
    assert asked["data"] == quiet["data"]
    rounds = [read_rounds(folder / "rounds.jsonl") for folder in (finished, silent)]
    assert [(one.loss, one.metrics) for one in rounds[0]] == [(one.loss, one.metrics) for one in rounds[1]]
    assert explanations_table(read_run(silent)) is None


def test_the_report_has_the_table_beside_its_control(finished: Path) -> None:
    table = explanations_table(read_run(finished))
    assert table is not None
    first, cells = table.rows[0]
    assert first == "Share of the map inside the lesion"
    shown = told(finished)
    assert [cell.value for cell in cells] == [
        shown[arm]["saliency_inside"]["value"] for arm in ("model", "control", "difference")
    ]
    assert "Where the model looks" in render(read_run(finished))


def test_no_pixel_and_no_map_stands_in_what_a_run_leaves(finished: Path) -> None:
    """An image or a map has 576 values; the longest list of numbers in the results has far fewer."""

    def longest(value: Any) -> int:
        if isinstance(value, dict):
            return max([0, *map(longest, value.values())])
        return max([len(value), *map(longest, value)]) if isinstance(value, list) else 0

    assert longest(told(finished)) == 0


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"evaluation__release": "dp"}, "takes no explain: sums over explanations are exact"),
        (SEGMENTATION, "a segmentation is its own map"),
        ({"evaluation__explain": "lime"}, "evaluation.explain"),
        ({"evaluation__explain_cases": 0}, "evaluation.explain_cases"),
        ({"evaluation__explain_lesion": 0}, "evaluation.explain_lesion"),
    ],
    ids=["dp", "segmentation", "method", "cases", "lesion"],
)
def test_what_cannot_be_explained_is_refused_with_the_plan(images: Path, changes: dict[str, Any], said: str) -> None:
    with pytest.raises(PlanError, match=said):
        scenario(images, **ASKED | changes)


def test_a_network_that_grad_cam_cannot_explain_is_refused_before_anything_is_trained(images: Path) -> None:
    """Two stages leave 1 x 1 voxels of 2 x 2 images only at the last; the control is occlusion, which does not mind."""
    tiny: dict[str, Any] = {"preprocessing__size": [1, 1], "model__channels": [4], "evaluation__explain": "grad-cam"}
    asked = scenario(images, **ASKED | tiny)
    with pytest.raises(ModelError, match="map of more than one voxel"):
        Workbench.for_plan(asked.plan)
    Workbench.for_plan(scenario(images, **ASKED | tiny | {"evaluation__explain": "occlusion"}).plan)
