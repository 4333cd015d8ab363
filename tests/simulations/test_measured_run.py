"""A run that asks for all that can be measured: what ends in results.json, predictions and report agree."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from picture_hospitals import write_hospitals
from sklearn.metrics import brier_score_loss, log_loss, roc_auc_score
from small_hospitals import SEGMENTATION, scenario

from server.report import more_tables
from server.report.page import render
from server.report.run import read_run
from server.results import read_predictions, read_rounds
from shared.errors import PlanError
from simulations.progress import Silent
from simulations.run import Order
from simulations.run import run as run_scenario

ASKED: dict[str, Any] = {
    "evaluation__release": "sum",
    "evaluation__operating_point": {"sensitivity": 0.8},
    "evaluation__subgroups": {"sex": ["F", "M"]},
    "evaluation__floor": 3,
    "data__train_fraction": 0.3,
    "data__validation_fraction": 0.2,
}


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("images")
    write_hospitals(folder)
    return folder


def measured(images: Path, out: str, **changes: Any) -> Path:
    order = Order(images / out, images, workers=1, save_predictions=True)
    return run_scenario(scenario(images, **changes), order, Silent())


@pytest.fixture(scope="module")
def finished(images: Path) -> Path:
    return measured(images, "asked", **ASKED)


@pytest.fixture(scope="module")
def recalibrated(images: Path) -> Path:
    return measured(images, "recalibrated", **ASKED, evaluation__recalibrate="temperature")


def final(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "results.json").read_text())["final"]
    return found


def scored(folder: Path) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    rows = read_predictions(folder / "predictions.csv")
    return np.array([int(row["label"]) for row in rows]), np.array([float(row["score"]) for row in rows])


def test_the_threshold_comes_from_validation_patients_and_is_measured_on_test_patients(finished: Path) -> None:
    """Oracle: the rows of the predictions, decided at the threshold that the last round kept."""
    kept = (read_rounds(finished / "rounds.jsonl")[-1].metrics or {})["thresholds"]
    found = final(finished)["operating_point"]
    assert found["thresholds"] == kept
    labels, scores = scored(finished)
    called = scores >= kept[""]
    assert found["pooled"]["sensitivity"]["value"] == pytest.approx(called[labels == 1].mean(), abs=1e-9)
    assert found["pooled"]["specificity"]["value"] == pytest.approx((~called)[labels == 0].mean(), abs=1e-9)


def test_pooled_calibration_is_that_of_the_predictions(finished: Path) -> None:
    labels, scores = scored(finished)
    pooled = final(finished)["pooled"]
    assert pooled["brier"]["value"] == pytest.approx(brier_score_loss(labels, scores), abs=1e-6)
    assert pooled["log_loss"]["value"] == pytest.approx(log_loss(labels, scores), abs=1e-5)
    assert pooled["auroc"]["value"] == pytest.approx(roc_auc_score(labels, scores), abs=5e-3)


def test_recalibration_changes_scores_at_each_site_and_in_the_predictions_alike(
    finished: Path, recalibrated: Path
) -> None:
    labels, scores = scored(recalibrated)
    assert final(recalibrated)["pooled"]["brier"]["value"] == pytest.approx(brier_score_loss(labels, scores), abs=1e-6)
    _, before = scored(finished)
    assert not np.allclose(before, scores, atol=1e-3)
    np.testing.assert_array_equal(before >= 0.5, scores >= 0.5)
    rows = read_predictions(finished / "predictions.csv")
    for site in {row["site"] for row in rows}:
        at = np.array([row["site"] == site for row in rows])
        slopes = np.log(scores[at] / (1 - scores[at])) / np.log(before[at] / (1 - before[at]))
        np.testing.assert_allclose(slopes, slopes[0], rtol=0.02)  # one temperature a site


def test_subgroups_are_those_of_the_predictions_and_stand_in_the_report(finished: Path) -> None:
    labels, scores = scored(finished)
    sexes = np.array([row["sex"].upper() for row in read_predictions(finished / "predictions.csv")])
    found = final(finished)["subgroups"]["sex"]
    for sex in ("F", "M"):
        told = found[sex]["accuracy"]
        right = ((scores >= 0.5) == labels)[sexes == sex]
        assert told == "suppressed" or told["value"] == pytest.approx(right.mean(), abs=1e-9)
    assert any(found[sex]["accuracy"] != "suppressed" for sex in ("F", "M"))
    [(_, table)] = more_tables.subgroup_tables(read_run(finished))
    assert table.title == "By sex"
    assert {name for name, _ in table.rows} >= {"F", "M"}
    assert "By sex" in render(read_run(finished))


def test_a_suppressed_level_says_so_in_the_report_and_is_no_number(images: Path) -> None:
    folder = measured(images, "floor", **ASKED | {"evaluation__floor": 1000})
    [(_, table)] = more_tables.subgroup_tables(read_run(folder))
    by_level = dict(table.rows)
    assert all(cell.text == "suppressed" and cell.value is None for cell in by_level["F"])


def test_curves_are_drawn_from_the_same_counts(finished: Path) -> None:
    curve = final(finished)["curves"]["roc"][""]
    labels, scores = scored(finished)
    area = -np.trapezoid(curve["sensitivity"], curve["false_positive_rate"])
    assert area == pytest.approx(roc_auc_score(labels, scores), abs=0.02)


def test_dice_by_patient_is_the_mean_over_patients(images: Path) -> None:
    folder = measured(images, "segmented", **SEGMENTATION)
    rows = read_predictions(folder / "predictions.csv")
    by_patient: dict[str, list[float]] = {}
    for row in rows:
        if row["dice"]:
            by_patient.setdefault(row["patient"], []).append(float(row["dice"]))
    wanted = np.mean([np.mean(values) for values in by_patient.values()])
    pooled = final(folder)["pooled"]
    assert pooled["dice_patient"]["value"] == pytest.approx(wanted, abs=1e-6)
    assert any(len(values) > 1 for values in by_patient.values()), "some patient has several images"
    run = read_run(folder)
    assert more_tables.size_table(run) is not None
    assert more_tables.operating_point_table(run) is more_tables.cross_site_table(run) is None


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({**SEGMENTATION, "evaluation__operating_point": {"sensitivity": 0.9}}, "are for classification"),
        ({**SEGMENTATION, "evaluation__recalibrate": "temperature"}, "are for classification"),
    ],
    ids=["operating point", "recalibration"],
)
def test_what_only_classification_can_do_is_refused_elsewhere(images: Path, changes: dict[str, Any], said: str) -> None:
    with pytest.raises(PlanError, match=said):
        scenario(images, **changes)
