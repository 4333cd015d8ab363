"""``consilium-sim attack`` end to end, on hospitals of tiny pictures and on phantoms, and what it refuses."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
from picture_hospitals import write_hospitals
from small_hospitals import SEGMENTATION, scenario, sim, write_scenario

from shared.errors import ScenarioError
from simulations.attacks.compare import DOCUMENT, PAGE, Order, attack
from simulations.attacks.findings import Comparison
from simulations.attacks.reconstructing import grey_range
from simulations.progress import Silent
from simulations.scenario import load

PHANTOMS = (
    'scenario.source={ kind = "phantoms", hospitals = 3, size = "tiny" }',
    "plan.rounds=1",
    "training.steps=3",
    "model.channels=[4, 8]",
)


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_hospitals(tmp_path_factory.mktemp("images"))


def order(out: Path, images: Path | None, workers: int = 1) -> Order:
    return Order(out, images, workers=workers, models=6, images=1, iterations=4, command="consilium-sim attack squares")


@pytest.fixture(scope="module")
def real(images: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Comparison, Path]:
    folder = tmp_path_factory.mktemp("real")
    return attack(scenario(folder), order(folder / "out", images), Silent()), folder / "out"


def test_document_and_page_are_written_for_the_patients_that_there_are(real: tuple[Comparison, Path]) -> None:
    found, out = real
    said = json.loads((out / DOCUMENT).read_text(encoding="utf-8"))
    assert said["patients"] == found.patients == 36
    assert said["images"] == 72
    assert [arm["name"] for arm in said["membership"]] == ["overfitted", "plain", "epsilon-8", "epsilon-1"]
    assert [one["network"] for one in said["inversion"]] == ["small"] * 3 + ["plan"] * 3
    assert (out / PAGE).read_text(encoding="utf-8").startswith("<!DOCTYPE html>")


def test_no_pixel_of_a_manifest_s_patients_leaves_the_computation(real: tuple[Comparison, Path]) -> None:
    found, out = real
    assert not found.synthetic
    assert all(one.picture is None and one.truth is None for one in found.reconstructions)
    assert "<img" not in (out / PAGE).read_text(encoding="utf-8")


def test_no_name_of_a_patient_stands_in_the_document(real: tuple[Comparison, Path], images: Path) -> None:
    text = (real[1] / DOCUMENT).read_text(encoding="utf-8")
    assert not any(path.stem in text for path in images.rglob("*.png"))
    assert "aachen" not in text


def test_every_arm_is_measured_on_the_same_draws(real: tuple[Comparison, Path]) -> None:
    counts = {(arm.proof.members + arm.proof.strangers) for arm in real[0].arms}
    assert counts == {3 * 36}


@pytest.mark.slow
def test_what_is_found_does_not_depend_on_the_number_of_processes(
    real: tuple[Comparison, Path], images: Path, tmp_path: Path
) -> None:
    attack(scenario(tmp_path), order(tmp_path / "out", images, workers=2), Silent())
    assert (tmp_path / "out" / DOCUMENT).read_bytes() == (real[1] / DOCUMENT).read_bytes()


@pytest.mark.slow
def test_phantoms_are_shown(tmp_path: Path) -> None:
    found = attack(load("attack-demo", PHANTOMS), order(tmp_path / "out", None), Silent())
    assert found.synthetic
    assert all(one.picture is not None and one.picture.shape == (1, 32, 32) for one in found.reconstructions)
    assert (tmp_path / "out" / PAGE).read_text(encoding="utf-8").count("<img") == 2 * 4


@pytest.mark.slow
def test_segmentation_is_attacked_by_its_own_loss(images: Path, tmp_path: Path) -> None:
    found = attack(scenario(tmp_path, **SEGMENTATION), order(tmp_path / "out", images), Silent())
    assert found.headline == "dice"
    assert all(np.isfinite(arm.attacks["loss threshold"].auc.value) for arm in found.arms)


def test_too_few_models_or_patients_are_refused(images: Path, tmp_path: Path) -> None:
    with pytest.raises(ScenarioError, match="2 shadow models are too few"):
        attack(scenario(tmp_path), Order(tmp_path / "out", images, models=2), Silent())
    few = write_hospitals(tmp_path / "few", {"aachen": 5})
    with pytest.raises(ScenarioError, match="5 usable patients, too few"):
        attack(scenario(tmp_path), order(tmp_path / "few-out", few), Silent())


def test_a_folder_that_is_not_empty_is_refused_and_one_that_holds_something_else_is_never_emptied(
    images: Path, tmp_path: Path
) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("mine")
    with pytest.raises(ScenarioError, match="is not empty"):
        attack(scenario(tmp_path), order(tmp_path / "mine", images), Silent())
    with pytest.raises(ScenarioError, match="no attack to overwrite"):
        attack(scenario(tmp_path), Order(tmp_path / "mine", images, existing="overwrite"), Silent())
    assert (tmp_path / "mine" / "thesis.txt").read_text() == "mine"


def test_the_range_of_grey_is_the_plan_s_and_not_the_patients(tmp_path: Path) -> None:
    assert grey_range(load("attack-demo").plan) == (-1.0, 1.0)
    low, high = grey_range(scenario(tmp_path).plan)
    assert low == -high < -1


# --- the command -----------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_command_says_three_sentences_and_whether_the_attack_works(
    capsys: pytest.CaptureFixture[str], images: Path, tmp_path: Path
) -> None:
    small = write_scenario(tmp_path, training__steps=1, plan__rounds=1, preprocessing__size=[8, 8])
    arguments = ("attack", small, "--data", images, "--out", tmp_path / "out", "--shadows", 6, "--images", 1)
    said = sim(capsys, *arguments, "--workers", 1)
    assert said.status == 0
    assert len(said.out.splitlines()) == 4
    assert "guessing would recognise 10" in said.out
    assert str(tmp_path / "out" / PAGE) in said.err
    again = sim(capsys, *arguments)
    assert again.status == 1
    assert "is not empty" in again.err


def test_an_unknown_scenario_is_one_sentence(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    said = sim(capsys, "attack", "atack-demo", "--out", tmp_path / "out")
    assert said.status == 1
    assert "there is no scenario atack-demo" in said.err
    assert "attack-demo" in said.err.partition("hint:")[2]


def test_the_command_refuses_fewer_shadows_than_an_attack_needs(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    said = sim(capsys, "attack", "attack-demo", "--shadows", 5, "--out", tmp_path / "out")
    assert said.status == 2
    assert not (tmp_path / "out").exists()


def test_real_images_must_be_named_and_phantoms_make_their_own(images: Path, tmp_path: Path) -> None:
    with pytest.raises(ScenarioError, match="needs real images"):
        attack(scenario(tmp_path), order(tmp_path / "out", None), Silent())
    with pytest.raises(ScenarioError, match="makes its own images"):
        attack(load("attack-demo"), order(tmp_path / "out", images), Silent())
    assert not (tmp_path / "out").exists(), "everything is checked before anything is written"


def test_overwriting_keeps_what_somebody_else_has_put_into_the_folder(
    real: tuple[Comparison, Path], images: Path
) -> None:
    _, out = real
    (out / "notes.txt").write_text("mine")
    before = (out / DOCUMENT).read_bytes()
    again = dataclasses.replace(order(out, images), existing="overwrite")
    attack(scenario(out.parent), again, Silent())
    assert (out / DOCUMENT).read_bytes() == before
    assert (out / "notes.txt").read_text() == "mine"


def test_the_help_fits_on_one_screen(capsys: pytest.CaptureFixture[str]) -> None:
    lines = sim(capsys, "attack", "--help").out.splitlines()
    assert len(lines) <= 24
    assert max(map(len, lines)) <= 80
