"""Runs of real sites side by side: paired where the patients are the same, and honest where they are not."""

from pathlib import Path

import pytest
from picture_hospitals import write_hospitals
from sklearn.metrics import brier_score_loss
from small_hospitals import SEED, scenario

from server.measured import TEST
from server.report.compare import compare
from server.report.grouped import Folder, grouped_difference
from server.report.paired import Difference
from server.report.run import read_run
from server.results import PREDICTIONS, read_predictions
from simulations.progress import Silent
from simulations.run import Order
from simulations.run import run as run_scenario


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_hospitals(tmp_path_factory.mktemp("images"))


@pytest.fixture(scope="module")
def runs(images: Path) -> dict[str, Path]:
    """Two runs of the same cohorts, one that trains longer, and one whose seed deals patients anew."""
    asked = {"short": {}, "long": {"training__steps": 12}, "dealt anew": {"plan__seed": SEED + 1}}
    return {
        name: run_scenario(
            scenario(images, **changes),
            Order(images / name, images, workers=1, save_predictions=name != "dealt anew"),
            Silent(),
        )
        for name, changes in asked.items()
    }


def grouped(first: Path, second: Path) -> Difference | str:
    return grouped_difference("brier", *(Folder(path, read_run(path)) for path in (first, second)))


def test_two_runs_on_the_same_cohorts_are_paired_without_any_prediction(runs: dict[str, Path]) -> None:
    """Oracle: the Brier scores of saved predictions. Of so few patients each group decides whether AUROC exists."""
    found = grouped(runs["short"], runs["long"])
    assert isinstance(found, Difference)
    rows = {name: read_predictions(runs[name] / PREDICTIONS) for name in ("short", "long")}
    short, long = (
        brier_score_loss([int(row["label"]) for row in of], [float(row["score"]) for row in of]) for of in rows.values()
    )
    assert found.value == pytest.approx(long - short, abs=1e-5)
    assert found.n_patients == len({(row["site"], row["patient"]) for row in rows["long"]})
    assert found.value != 0, "the control: the two models differ"


def test_a_run_differs_from_itself_in_nothing(runs: dict[str, Path]) -> None:
    found = grouped(runs["long"], runs["long"])
    assert isinstance(found, Difference)
    assert found.value == 0
    assert found.low <= 0 <= found.high


def test_another_seed_deals_other_patients_and_the_comparison_says_so(runs: dict[str, Path]) -> None:
    found = grouped(runs["short"], runs["dealt anew"])
    assert isinstance(found, str)
    assert found.startswith("the cohorts of 3 sites are not the same: ")
    [contrast] = compare([runs["short"], runs["dealt anew"]]).contrasts
    assert contrast.method == "unpaired"
    assert found in contrast.reason


def test_statistics_of_test_patients_lie_with_the_coordinators_state(runs: dict[str, Path]) -> None:
    assert (runs["short"] / "server-state" / TEST).exists()
    assert not (runs["short"] / TEST).exists()


def test_every_difference_within_a_run_is_told_in_its_report(runs: dict[str, Path]) -> None:
    [rounds] = read_run(runs["long"]).results.differences
    assert (rounds["second"], rounds["first"], rounds["patients"]) == ("round-2", "round-1", "validation")
    assert "Round 2 \N{MINUS SIGN} round 1, validation patients" in (runs["long"] / "report.html").read_text()
