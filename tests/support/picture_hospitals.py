"""Hospitals of 16 x 16 PNG images with masks and a manifest: written in milliseconds, without torch."""

import csv
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image

from shared.seeds import generator

SITES = {"aachen": 12, "bergen": 12, "coimbra": 12}
EDGE = 16
COLUMNS = ("site", "patient", "image", "mask", "label", "sex")


def write_hospitals(folder: Path, sites: Mapping[str, int] = SITES, images: int = 2) -> Path:
    """``sites`` names patients by site; each has ``images`` images of a bright or dark square, and its mask."""
    rows = [
        write_case(folder, site, patient, number)
        for site, patients in sites.items()
        for patient in range(patients)
        for number in range(images)
    ]
    write_rows(folder, rows)
    return folder


def write_case(folder: Path, site: str, patient: int, number: int, edge: int = EDGE) -> dict[str, str]:
    rng = generator(11, site, patient, number)
    bright = patient % 2
    voxels, mask = rng.normal(110, 15, (edge, edge)), np.zeros((edge, edge), np.uint8)
    top, left = rng.integers(2, edge - 8, 2)
    mask[top : top + 6, left : left + 6] = 1
    voxels += (60.0 if bright else -60.0) * mask
    image, drawn = f"{site}/{patient}-{number}.png", f"{site}/{patient}-{number}-mask.png"
    save_png(folder / image, voxels.clip(0, 255).astype(np.uint8))
    save_png(folder / drawn, mask * 255)
    label, sex = ("bright" if bright else "dark"), ("f" if patient % 3 else "m")
    return dict(zip(COLUMNS, (site, f"p{patient}", image, drawn, label, sex), strict=True))


def save_png(path: Path, values: np.ndarray[Any, np.dtype[np.uint8]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    PIL.Image.fromarray(values).save(path)


def read_rows(folder: Path) -> list[dict[str, str]]:
    with (folder / "manifest.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def write_rows(folder: Path, rows: list[dict[str, str]]) -> None:
    with (folder / "manifest.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        writer.writerows(rows)
