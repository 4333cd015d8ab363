"""Whole runs: every pooled number is what scikit-learn and MONAI make of all test cases in one room.

On small pictures always; on the real images of `breast` and `retina` and on the phantoms of `demo` in runs that are
shortened, because whether numbers are pooled rightly does not depend on how well a model was trained.
"""

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from picture_hospitals import write_hospitals
from recomputed import by_patient, drawn_cases, exact_dice, of_masks, of_scores, over_cases, rows_by_site
from sklearn.metrics import f1_score
from small_hospitals import SEGMENTATION, scenario

from shared.evaluation.additive import UNIT
from simulations.progress import Silent
from simulations.run import Order, run
from simulations.scenario import Scenario, load

DATA = Path(os.environ.get("CONSILIUM_DATA") or Path(__file__).parents[3] / "shared" / "data")
REAL = [
    pytest.mark.slow,
    pytest.mark.realdata,
    pytest.mark.skipif(not DATA.is_dir(), reason="the real images are not beside the project (CONSILIUM_DATA)"),
]
BINNED = ("auroc", "average_precision")
MOST = 1e-3
ON_A_GRID = {"brier": UNIT / 2, "log_loss": UNIT / 2 + 1e-8}
"""What a site adds up is rounded to a unit, case by case; everything else is to 1e-9."""
NEVER: tuple[str, ...] = ("evaluation.every=1000", "personalisation.steps=1")


def finished(found: Scenario, out: Path, data: Path | None) -> Path:
    return run(found, Order(out, data, workers=1, save_predictions=True), Silent())


def final(folder: Path) -> dict[str, Any]:
    told: dict[str, Any] = json.loads((folder / "results.json").read_text())["final"]
    return told


def check_scores(folder: Path) -> dict[str, float]:
    """Compare pooled and by site; returns the distances of the pooled numbers."""
    told, rows = final(folder), rows_by_site(folder)
    wanted = of_scores(rows[""])
    apart = {name: abs(told["pooled"][name]["value"] - value) for name, value in wanted.items()}
    for name, distance in apart.items():
        assert distance <= bound_of(told["pooled"][name], name), name
    untested = told["sites"].keys() - rows.keys()
    assert all(number(told["sites"][site].get("accuracy")) is None for site in untested)
    for site in told["sites"].keys() & rows.keys():
        metrics = told["sites"][site]
        for name, value in of_scores(rows[site]).items():
            if name not in BINNED and (of_site := number(metrics.get(name))) is not None and np.isfinite(value):
                assert of_site == pytest.approx(value, abs=ON_A_GRID.get(name, 1e-9)), (site, name)
    return apart


def number(cell: Any) -> float | None:
    """A site with few patients has a number without an interval."""
    return cell["value"] if isinstance(cell, dict) else cell


def bound_of(told: dict[str, Any], name: str) -> float:
    """The bound beside a binned number, never more than was promised; 1e-12 is for sums in another order."""
    if name not in BINNED:
        return ON_A_GRID.get(name, 1e-9)
    assert told["bound"] <= MOST
    return float(told["bound"]) + 1e-12


def check_masks(found: Scenario, folder: Path) -> int:
    """Compare pooled numbers; returns the number of cases."""
    told, drawn = final(folder)["pooled"], drawn_cases(found, folder)
    structures = len(found.plan.data.classes) - 1
    dice, measured = exact_dice(drawn, structures), of_masks(drawn, structures)
    np.testing.assert_allclose(dice, measured["dice"], atol=1e-6)
    assert told["dice"]["value"] == pytest.approx(over_cases(dice), abs=1e-9)
    assert told["dice_patient"]["value"] == pytest.approx(by_patient(drawn, dice), abs=1e-9)
    for name, close in (("iou", 1e-6), ("hd95", 1e-4), ("nsd", 1e-6)):
        assert told[name]["value"] == pytest.approx(over_cases(measured[name]), abs=close), name
        assert told[f"{name}_patient"]["value"] == pytest.approx(by_patient(drawn, measured[name]), abs=close), name
    truth, prediction = (np.concatenate([getattr(one, of).ravel() for one in drawn]) for of in ("truth", "prediction"))
    if structures == 1:
        assert told["dice_micro"]["value"] == pytest.approx(f1_score(truth, prediction), abs=1e-9)
        rows = rows_by_site(folder)[""]
        in_csv = np.nanmean([float(row["dice"] or "nan") for row in rows])
        assert told["dice"]["value"] == pytest.approx(in_csv, abs=1e-9)
    return len(drawn)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_hospitals(tmp_path_factory.mktemp("pictures"), {"aachen": 16, "bergen": 24, "coimbra": 12})


def test_scores_of_small_hospitals_are_pooled_as_scikit_learn_has_them(pictures: Path) -> None:
    check_scores(finished(scenario(pictures), pictures / "classified", pictures))


def test_masks_of_small_hospitals_are_pooled_as_monai_has_them(pictures: Path) -> None:
    found = scenario(pictures, **SEGMENTATION)
    folder = finished(found, pictures / "segmented", pictures)
    assert check_masks(found, folder) == len(rows_by_site(folder)[""]) > 10


def test_a_mean_of_sites_is_told_apart_from_the_pooled_number(pictures: Path) -> None:
    """Control: the comparison would not pass for the mean of means that federations usually report."""
    folder = finished(scenario(pictures, plan__seed=23), pictures / "means", pictures)
    told, rows = final(folder), rows_by_site(folder)
    pooled = of_scores(rows[""])
    assert abs(told["macro"]["brier"] - pooled["brier"]) > 1e-5
    check_scores(folder)


@pytest.mark.slow
def test_masks_of_the_demo_are_pooled_as_monai_has_them(tmp_path: Path) -> None:
    found = load("demo", ("plan.rounds=2", "training.warmup_rounds=0", *NEVER), 401)
    assert check_masks(found, finished(found, tmp_path / "run", None)) > 30


class TestOnRealImages:
    """`breast` has five sites, `retina` four."""

    pytestmark = REAL

    @pytest.mark.parametrize("seed", [402, 403])
    def test_breast_is_pooled_as_scikit_learn_has_it(self, tmp_path: Path, seed: int) -> None:
        found = load("breast", ("plan.rounds=6", *NEVER), seed)
        folder = finished(found, tmp_path / "run", DATA / "breast_us_multisite")
        check_scores(folder)
        assert len(rows_by_site(folder)) >= 5, "a split may leave the smallest of five sites without a test patient"

    def test_retina_is_pooled_as_monai_has_it(self, tmp_path: Path) -> None:
        found = load("retina", ("plan.rounds=4", *NEVER), 404)
        folder = finished(found, tmp_path / "run", DATA / "retina_vessels_4cam")
        assert check_masks(found, folder) > 20
