"""One scenario and one seed give the same bytes: again, in another order, in more processes, on another engine."""

import json
from pathlib import Path
from typing import Any

import pytest
from picture_hospitals import read_rows, write_hospitals, write_rows
from small_hospitals import contents, scenario, start_sim

from simulations import run as running
from simulations.progress import Silent
from simulations.run import Order
from simulations.scenario import Scenario, load

PHANTOMS = (
    "scenario.source.hospitals=3",
    "scenario.source.size=tiny",
    "participation.quorum=2",
    "evaluation.every=1",
    "training.steps=3",
    "training.augmentation.flip=true",
    "training.augmentation.noise=0.1",
    "model.channels=[4, 8]",
    "data.train_fraction=0.5",
)


def run(setting: Scenario, out: Path, **order: Any) -> Path:
    return running.run(setting, Order(out, **{"workers": 1, "save_predictions": True, **order}), Silent())


def without_clock(value: Any) -> Any:
    """``value`` without what stands under ``timing``, however deep."""
    if isinstance(value, dict):
        return {key: without_clock(part) for key, part in value.items() if key != "timing"}
    return [without_clock(part) for part in value] if isinstance(value, list) else value


def same_run(one: Path, other: Path) -> None:
    """Models, plan and predictions to the byte; results and rounds but for the clock."""
    for kept in ("checkpoints", "server-state"):
        assert contents(one / kept) == contents(other / kept)
    for name in ("plan.toml", "predictions.csv"):
        assert (one / name).read_bytes() == (other / name).read_bytes()
    first, second = (json.loads((folder / "results.json").read_text()) for folder in (one, other))
    assert without_clock(first) == without_clock(second)
    first, second = ([json.loads(line) for line in (f / "rounds.jsonl").read_text().splitlines()] for f in (one, other))
    assert without_clock(first) == without_clock(second)


@pytest.fixture(scope="module")
def phantoms(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three tiny synthetic hospitals, from DICOM to report, in one process."""
    return run(load("hundred-sites", PHANTOMS), tmp_path_factory.mktemp("one") / "run", baselines=True)


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_hospitals(tmp_path_factory.mktemp("images"))


def test_two_runs_of_one_scenario_with_one_seed_are_the_same_bytes(phantoms: Path, tmp_path: Path) -> None:
    """From the DICOM files of synthetic hospitals over prepared cases to the models and the results."""
    again = run(load("hundred-sites", PHANTOMS), tmp_path / "again", baselines=True)
    assert contents(again / "hospitals") == contents(phantoms / "hospitals")
    first, second = (
        {
            name: found
            for name, found in contents(folder / "sites-data").items()
            if name.endswith((".cohort", ".segment"))
        }
        for folder in (phantoms, again)
    )
    assert first == second
    assert len(first) == 9, "an archive, a cohort and prepared cases at each of three sites"
    same_run(phantoms, again)
    assert len(contents(phantoms / "checkpoints")) == 4, "the initial model and three rounds"


def test_two_workers_give_the_bytes_of_one(phantoms: Path, tmp_path: Path) -> None:
    same_run(phantoms, run(load("hundred-sites", PHANTOMS), tmp_path / "two", baselines=True, workers=2))


def test_another_seed_gives_other_bytes(phantoms: Path, tmp_path: Path) -> None:
    """The control: this comparison can fail."""
    other = run(load("hundred-sites", PHANTOMS, seed=8), tmp_path / "other")
    assert not contents(phantoms / "checkpoints").keys() & contents(other / "checkpoints").keys()


@pytest.mark.parametrize("method", ["fedavg", "fedavgm", "fedyogi", "fedprox"])
def test_methods_with_and_without_a_memory_repeat(images: Path, tmp_path: Path, method: str) -> None:
    changes: dict[str, Any] = {"aggregation__method": method}
    if method == "fedprox":
        changes["aggregation__proximal_mu"] = 0.1
    setting = scenario(tmp_path, **changes)
    one, other = (run(setting, tmp_path / name, data=images) for name in ("one", "other"))
    same_run(one, other)


def test_the_order_of_rows_in_the_manifest_changes_no_model(images: Path, tmp_path: Path) -> None:
    turned = write_hospitals(tmp_path / "turned")
    write_rows(turned, read_rows(turned)[::-1])
    setting = scenario(tmp_path)
    one, other = run(setting, tmp_path / "one", data=images), run(setting, tmp_path / "other", data=turned)
    assert contents(one / "checkpoints") == contents(other / "checkpoints")


def test_who_else_takes_part_does_not_change_what_a_site_contributes(images: Path, tmp_path: Path) -> None:
    """Streams are drawn by name: without coimbra, aachen's and bergen's baselines stay as they were."""
    setting = scenario(tmp_path)
    fewer = write_hospitals(tmp_path / "fewer", {"aachen": 12, "bergen": 12})
    assert [row for row in read_rows(images) if row["site"] != "coimbra"] == read_rows(fewer)
    all_three = run(setting, tmp_path / "three", data=images, baselines=True)
    both = run(setting, tmp_path / "two", data=fewer, baselines=True)
    first, second = (json.loads((folder / "results.json").read_text())["baselines"] for folder in (all_three, both))
    for site in ("aachen", "bergen"):
        assert first["at_home"][site]["local"] == second["at_home"][site]["local"]


def test_baselines_and_predictions_do_not_change_the_federation(images: Path, tmp_path: Path) -> None:
    setting = scenario(tmp_path)
    bare = run(setting, tmp_path / "bare", data=images, save_predictions=False)
    full = run(setting, tmp_path / "full", data=images, baselines=True)
    assert contents(bare / "checkpoints") == contents(full / "checkpoints")


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 2])
def test_the_demo_repeats_to_the_byte_with_any_number_of_workers(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, workers: int
) -> None:
    setting = load("demo", ("plan.rounds=2", "training.steps=5", "personalisation.steps=5"))
    reference = tmp_path_factory.getbasetemp() / "demo-reference"
    if not reference.exists():
        run(setting, reference)
    same_run(reference, run(setting, tmp_path / "run", workers=workers))


@pytest.mark.slow
def test_flower_s_own_engine_gives_the_bytes_of_ours(images: Path, tmp_path: Path) -> None:
    """In a process of its own: Ray's warnings and processes stay out of this one."""
    pytest.importorskip("ray")
    ours = run(scenario(tmp_path), tmp_path / "ours", data=images)
    small, flower = tmp_path / "squares.toml", tmp_path / "flower"
    process = start_sim("run", small, "--data", images, "--out", flower, "--workers", 1, "--engine", "ray")
    _, err = process.communicate(timeout=500)
    assert process.returncode == 0, err
    assert contents(ours / "checkpoints") == contents(flower / "checkpoints")
    first, second = (json.loads((folder / "results.json").read_text()) for folder in (ours, flower))
    assert first["final"] == second["final"]
