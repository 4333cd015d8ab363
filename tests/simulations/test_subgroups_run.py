"""Metrics by sex from images to results.json: what predictions give, and nothing below the floor."""

import csv
import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from picture_hospitals import write_hospitals
from sklearn.metrics import accuracy_score
from small_hospitals import scenario

from shared.evaluation.subgroup_metrics import SUPPRESSED
from simulations import run as running
from simulations.progress import Silent
from simulations.run import Order

SITES = {"aachen": 36, "bergen": 24, "coimbra": 12}
ASKED: dict[str, Any] = {"evaluation__subgroups": {"sex": ["F", "M"]}, "evaluation__floor": 4}


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_hospitals(tmp_path_factory.mktemp("images"), SITES, images=1)


@pytest.fixture(scope="module", params=["sum", "site"])
def finished(request: pytest.FixtureRequest, images: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp(request.param)
    setting = scenario(
        folder, **ASKED, evaluation__release=request.param,
        personalisation__steps=1, personalisation__learning_rate=0.01,
    )  # fmt: skip
    return running.run(setting, Order(folder / "run", images, workers=1, save_predictions=True), Silent())


def results(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "results.json").read_text())
    return found


def rows_of(folder: Path, **wanted: str) -> list[dict[str, str]]:
    with (folder / "predictions.csv").open(newline="") as file:
        return [row for row in csv.DictReader(file) if all(row[key] == value for key, value in wanted.items())]


def accuracy(rows: list[dict[str, str]]) -> float:
    return float(accuracy_score([row["label"] == "1" for row in rows], [float(row["score"]) >= 0.5 for row in rows]))


def test_every_level_that_is_told_is_what_scikit_learn_says_of_its_predictions(finished: Path) -> None:
    found, told = results(finished)["final"]["subgroups"]["sex"], 0
    hiding = {site for site, levels in found.get("sites", {}).items() if levels["F"]["accuracy"] == SUPPRESSED}
    for sex in ("f", "m"):
        said, own = found[sex.upper()]["accuracy"], rows_of(finished, sex=sex)
        own = [row for row in own if row["site"] not in hiding]
        if said != SUPPRESSED:
            assert said["value"] == pytest.approx(accuracy(own), abs=1e-12)
            assert said["n_patients"] == len({(row["site"], row["patient"]) for row in own})
            told += 1
    assert told == 2, "two levels of a pooled sum are large enough"


def test_a_site_s_levels_are_told_exactly_where_the_plan_releases_them(finished: Path) -> None:
    final = results(finished)["final"]
    found = final["subgroups"]["sex"]
    assert ("sites" in found) == bool(final["sites"])
    for site, levels in found.get("sites", {}).items():
        sexes = Counter(row["sex"] for row in rows_of(finished, site=site))
        small = 0 < min(sexes["f"], sexes["m"]) < 4
        for sex in ("f", "m"):
            if small:
                assert levels[sex.upper()]["accuracy"] == SUPPRESSED
            else:
                assert levels[sex.upper()]["accuracy"]["value"] == accuracy(rows_of(finished, site=site, sex=sex))
    assert found.get("missing_sites", {}) == {
        level: number
        for level in found
        if (number := sum(of.get(level, {}).get("accuracy") == SUPPRESSED for of in found.get("sites", {}).values()))
    }


def test_gaps_are_between_the_levels_that_were_told(finished: Path) -> None:
    found = results(finished)["final"]["subgroups"]["sex"]
    gap = found["gaps"]["range"]["accuracy"]
    assert gap["value"] == pytest.approx(
        found[gap["best"]]["accuracy"]["value"] - found[gap["worst"]]["accuracy"]["value"]
    )
    assert gap["low"] <= gap["value"] <= gap["high"]
    assert gap["n_patients"] == found["F"]["accuracy"]["n_patients"] + found["M"]["accuracy"]["n_patients"]


def test_only_the_final_model_is_measured_by_subgroup(finished: Path) -> None:
    assert "subgroups" not in results(finished)["personalised"]
    assert "subgroups" not in (finished / "rounds.jsonl").read_text()


@pytest.mark.slow
def test_all_other_numbers_are_those_of_a_plan_without_subgroups(images: Path, tmp_path: Path) -> None:
    told, silent = (
        results(running.run(scenario(tmp_path, **changes), Order(tmp_path / name, images, workers=1), Silent()))
        for name, changes in (("told", ASKED), ("silent", {}))
    )
    assert told["final"].pop("subgroups")
    assert told["final"] == silent["final"]
    assert told["plan_digest"] != silent["plan_digest"]
