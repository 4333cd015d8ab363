"""Patients at two sites: copies are counted even when they were repainted, strangers are not."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from doctored import body
from picture_hospitals import COLUMNS, save_png, write_hospitals, write_rows
from small_hospitals import scenario

from simulations.cohorts import freeze_cohorts, prepare_stores
from simulations.duplicates import Shared, shared_patients
from simulations.faults import Fault, plant
from simulations.federation import find_hospitals
from simulations.progress import Silent
from simulations.workers import Pool, Sites

Pixels = np.ndarray[Any, np.dtype[np.uint8]]
SITES = ("aachen", "bergen", "coimbra")
PATIENTS = 12


def grey(number: int) -> Pixels:
    """A body with a texture of its own, 48 x 48."""
    return np.asarray(((body(number)[0] + 1000) / 5).clip(0, 255), np.uint8)


def write(folder: Path, copy: Callable[[Pixels], Pixels] | None) -> Path:
    """12 patients a site; with ``copy``, the first three of aachen are at bergen as well."""
    rows = []
    for place, site in enumerate(SITES):
        for patient in range(PATIENTS):
            again = copy is not None and site == "bergen" and patient < 3
            pixels = copy(grey(patient)) if copy and again else grey(1000 * place + patient)
            image, mask = f"{site}/{patient}.png", f"{site}/{patient}-mask.png"
            save_png(folder / image, pixels)
            save_png(folder / mask, np.full(pixels.shape, 255, np.uint8))
            label = "bright" if patient % 2 else "dark"
            rows.append(dict(zip(COLUMNS, (site, f"p{patient}", image, mask, label, "f"), strict=True)))
    write_rows(folder, rows)
    return folder


def looked_for(data: Path, folder: Path) -> tuple[Shared, ...]:
    folder.mkdir(exist_ok=True)
    setting = scenario(folder, scenario__source={"kind": "manifest"})
    pool = Pool(Sites(setting.plan, folder / "run"), workers=1)
    hospitals = find_hospitals(setting, data, folder / "run", pool, Silent())
    cohorts = freeze_cohorts(hospitals, folder / "run", pool, Silent())
    return shared_patients(prepare_stores(cohorts, folder / "run", pool, Silent()))


COPIES: dict[str, Callable[[Pixels], Pixels]] = {
    "equal": lambda pixels: pixels,
    "brighter": lambda pixels: (pixels * 0.8 + 30).astype(np.uint8),
    "coarser": lambda pixels: (pixels // 4 * 4).astype(np.uint8),
}


@pytest.mark.parametrize("how", COPIES)
def test_patients_with_copies_of_their_images_at_another_site_are_counted(tmp_path: Path, how: str) -> None:
    data = write(tmp_path / "data", COPIES[how])
    assert looked_for(data, tmp_path) == (Shared("aachen", "bergen", 3),)


def test_strangers_are_not_patients_at_two_sites(tmp_path: Path) -> None:
    assert looked_for(write(tmp_path / "data", None), tmp_path) == ()


def test_small_pictures_that_look_the_same_are_copies_only_where_they_are_equal(tmp_path: Path) -> None:
    honest = write_hospitals(tmp_path / "honest", {"aachen": 8, "bergen": 8})
    assert looked_for(honest, tmp_path / "one") == ()
    planted = plant(honest, tmp_path / "planted", Fault("patients-at-two-sites", "aachen", other="bergen", patients=5))
    assert looked_for(planted, tmp_path / "two") == (Shared("aachen", "bergen", 5),)
