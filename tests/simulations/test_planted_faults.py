"""Whole runs on small pictures: planted faults are found and named, honest hospitals are left in peace.

Pictures of a grey body on black ground with a lesion, so that a negative is told from a picture.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from picture_hospitals import COLUMNS, EDGE, save_png, write_rows
from small_hospitals import SEGMENTATION, scenario

from server.results import read_results
from shared.seeds import generator
from simulations.duplicates import CODE, Shared
from simulations.faults import Fault, Kind, plant
from simulations.progress import Silent
from simulations.run import Order, run

SITES = ("aachen", "bergen", "coimbra", "dublin")
PATIENTS = 24
TRAINED: dict[str, Any] = {
    "plan__rounds": 2,
    "training__steps": 40,
    "training__patients_per_step": 8,
    "training__learning_rate": 0.02,
    "scenario__source": {"kind": "manifest"},
}


def write_bodies(folder: Path, seed: int, lesion: str = "either") -> Path:
    """24 patients a site, one picture each; lesions are bright in every other patient, or ("bright") in all."""
    rows = []
    for site in SITES:
        for patient in range(PATIENTS):
            bright = bool(patient % 2)
            image, mask = f"{site}/{patient}.png", f"{site}/{patient}-mask.png"
            voxels, drawn = body(generator(seed, site, patient), bright or lesion == "bright")
            save_png(folder / image, voxels)
            save_png(folder / mask, drawn)
            label = "bright" if bright else "dark"
            rows.append(dict(zip(COLUMNS, (site, f"p{patient}", image, mask, label, "f"), strict=True)))
    write_rows(folder, rows)
    return folder


def body(rng: np.random.Generator, bright: bool) -> tuple[Any, Any]:  # noqa: FBT001
    rows, columns = np.mgrid[:EDGE, :EDGE] - (EDGE - 1) / 2
    inside = rows**2 + columns**2 < rng.uniform(6.5, 7.5) ** 2
    voxels, mask = np.where(inside, 110.0, 10.0), np.zeros((EDGE, EDGE), np.uint8)
    top, left = rng.integers(4, EDGE - 9, 2)
    mask[top : top + 5, left : left + 5] = 255
    voxels += (90.0 if bright else -80.0) * (mask > 0) + rng.normal(0, 8, mask.shape)
    return voxels.clip(0, 255).astype(np.uint8), mask


def findings(folder: Path, data: Path, **changes: Any) -> list[tuple[str, str]]:
    """(site, code) of what a run of ``data`` finds."""
    out = run(scenario(folder, **TRAINED | changes), Order(folder / "run", data, workers=1, cross_site=True), Silent())
    found = json.loads((out / "results.json").read_text())["checks"]["findings"]
    assert all({"code", "site", "statistic", "p", "sentence"} == set(one) for one in found)
    assert all(one["site"] in one["sentence"] for one in found)
    return [(one["site"], one["code"]) for one in found]


@pytest.fixture(scope="module")
def honest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_bodies(tmp_path_factory.mktemp("honest"), 0)


@pytest.fixture(scope="module")
def honest_masks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_bodies(tmp_path_factory.mktemp("masks"), 0, "bright")


CLASSIFIED: tuple[Kind, ...] = ("labels-flipped", "images-inverted", "one-class")
SEGMENTED: tuple[Kind, ...] = ("images-inverted", "masks-shifted")


@pytest.mark.slow
@pytest.mark.parametrize("kind", CLASSIFIED)
def test_a_fault_at_one_hospital_that_classifies_is_named(honest: Path, tmp_path: Path, kind: Kind) -> None:
    data = plant(honest, tmp_path / "data", Fault(kind, "bergen"))
    assert findings(tmp_path, data) == [("bergen", kind)]


@pytest.mark.slow
@pytest.mark.parametrize("kind", SEGMENTED)
def test_a_fault_at_one_hospital_that_segments_is_named(honest_masks: Path, tmp_path: Path, kind: Kind) -> None:
    data = plant(honest_masks, tmp_path / "data", Fault(kind, "coimbra"))
    assert findings(tmp_path, data, **SEGMENTATION) == [("coimbra", kind)]


@pytest.mark.slow
def test_patients_at_two_hospitals_are_counted_and_both_are_named(honest: Path, tmp_path: Path) -> None:
    data = plant(honest, tmp_path / "data", Fault("patients-at-two-sites", "dublin", other="bergen", patients=3))
    assert findings(tmp_path, data) == [("bergen", CODE)]
    sentence = read_results(tmp_path / "run").checks["findings"][0]["sentence"]
    assert sentence == "3 patients of bergen have the same images at dublin"


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(10))
def test_ten_honest_runs_raise_no_alarm(tmp_path: Path, seed: int) -> None:
    segments = seed % 3 == 2
    data = write_bodies(tmp_path / "data", 100 + seed, "bright" if segments else "either")
    said = {"plan__seed": seed} if not segments else {"plan__seed": seed, **SEGMENTATION}
    assert findings(tmp_path, data, **said) == []


# --- patients at two sites, in words ---------------------------------------------------------------------------------


def sentences() -> Iterator[tuple[int, str]]:
    yield 1, "<3 patients of aachen have the same images at bergen"
    yield 2, "<3 patients of aachen have the same images at bergen"
    yield 3, "3 patients of aachen have the same images at bergen"


@pytest.mark.parametrize(("patients", "sentence"), list(sentences()), ids=["one", "two", "three"])
def test_few_patients_at_two_sites_are_said_as_few(patients: int, sentence: str) -> None:
    """A finding goes into results.json, where counts below the floor are suppressed."""
    finding = Shared("aachen", "bergen", patients).finding()
    assert finding.sentence == sentence
    assert finding.statistic is None or finding.statistic >= 3
    assert finding.p is None
