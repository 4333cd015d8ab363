"""A whole federation under patient-level privacy: what is spent, what is said about it, and what repeats."""

import json
from pathlib import Path
from typing import Any

import pytest
from picture_hospitals import write_hospitals
from small_hospitals import run, scenario

from client.governance.ledger import Ledger
from server.results import read_results, read_rounds
from shared.errors import PlanError
from shared.privacy.accounting import epsilon
from shared.privacy.events import Event
from simulations.progress import Silent
from simulations.protection import LEDGER
from simulations.run import Order
from simulations.run import run as run_scenario
from simulations.workers import SITES_DATA

PRIVATE: dict[str, Any] = {
    "privacy__unit": "patient",
    "privacy__epsilon": 6.0,
    "privacy__delta": 1e-4,
    "privacy__clip_norm": 1.0,
    "privacy__public_patients": 10,
    "evaluation__release": "dp",
    "training__patient_gradients": "loop",
}


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("images")
    write_hospitals(folder)
    return folder


@pytest.fixture(scope="module")
def finished(images: Path) -> Path:
    return run(images, "private", **PRIVATE)


def seeded(images: Path, out: str, workers: int, engine: str = "inprocess") -> Path:
    order = Order(images / out, images, workers=workers, engine=engine, noise="unsafe-seeded")
    return run_scenario(scenario(images, **PRIVATE), order, Silent())


def checkpoint(folder: Path) -> str:
    return read_results(folder).checkpoint


def test_each_site_spends_what_the_plan_promises_and_its_ledger_says_the_same(finished: Path) -> None:
    privacy = read_results(finished).privacy
    assert len(privacy) >= 3
    for site, said in privacy.items():
        assert said["unit"] == "patient"
        assert said["steps"] == 2 * 3
        assert said["epsilon"] == pytest.approx(epsilon([Event(said["sigma"], said["q"], said["steps"])], 1e-4))
        assert 5.9 < said["epsilon"] <= 6.0
        assert (said["q"], said["denominator"]) == (0.4, 4.0)
        [cohort] = Ledger.open(finished / SITES_DATA / site / LEDGER).cohorts()
        spent = Ledger.open(finished / SITES_DATA / site / LEDGER).spending(cohort.digest)
        assert [event.steps for event in spent.splits["train"].own.released] == [6]
        assert spent.splits["train"].own.reserved == ()


def test_statistics_of_each_split_are_paid_for_by_themselves(finished: Path) -> None:
    for said in read_results(finished).privacy.values():
        assert said["statistics"]["validation"]["releases"] == 2
        assert said["statistics"]["test"]["releases"] == 1
        assert all(0 < split["epsilon"] <= 6.0 for split in said["statistics"].values())


def test_no_loss_and_no_time_is_told_and_only_pooled_figures_with_their_error(finished: Path) -> None:
    assert [record.loss for record in read_rounds(finished / "rounds.jsonl")] == [None, None]
    results = read_results(finished)
    assert results.timing.local_training_s == 0
    assert results.final["sites"] == {}
    assert results.final["pooled"]["auroc"]["error"]["noise"] > 0


def test_the_report_says_what_was_spent(finished: Path) -> None:
    page = (finished / "report.html").read_text()
    assert "differentially private with respect to one patient" in page
    assert "ε" in page


def test_noise_of_the_operating_system_does_not_repeat(finished: Path, images: Path) -> None:
    assert checkpoint(finished) != checkpoint(run(images, "again", **PRIVATE))


def test_unsafe_noise_repeats_for_any_number_of_workers_and_is_named(images: Path) -> None:
    one, two = seeded(images, "one", 1), seeded(images, "two", 2)
    assert checkpoint(one) == checkpoint(two)
    assert {said["noise"] for said in read_results(one).privacy.values()} == {"unsafe-seeded"}


def test_a_finished_run_that_is_resumed_spends_nothing_more(finished: Path, images: Path) -> None:
    before = json.loads((finished / "results.json").read_text())["privacy"]
    order = Order(finished, images, workers=1, existing="resume")
    run_scenario(scenario(images, **PRIVATE), order, Silent())
    assert json.loads((finished / "results.json").read_text())["privacy"] == before


def test_a_plan_whose_noise_does_not_keep_its_epsilon_is_refused_before_anything_is_trained(images: Path) -> None:
    with pytest.raises(PlanError, match=r"noise_multiplier = 0\.1 costs"):
        run(images, "weak", **PRIVATE, privacy__noise_multiplier=0.1)
    assert not list((images / "weak").rglob(LEDGER))
