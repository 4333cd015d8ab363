"""Synthetic hospitals on disk, with known answers.

Promises
- ``write_hospitals`` writes one folder per hospital, as hospitals have it: ``dicom/`` with images under names that say
  nothing, in an order that says nothing, ``masks/``, and ``labels.csv``. The same seed gives the same bytes.
- Hospitals do not depend on each other: one written alone is the one written among others.
- The truth stands outside, in ``truth/<hospital>.csv``: no hospital's own files say where a lesion is but its masks.
- Nothing is overwritten: a folder that exists is refused before anything is written.

Columns are described in ``tables``. Images that a fault has befallen have their rows too, as in a hospital,
where nobody knows yet.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from shared.errors import ScenarioError
from simulations.phantoms.cohort import Member, Scan, members, scans
from simulations.phantoms.files import Names, dicom_bytes, images
from simulations.phantoms.hospitals import Fault, Hospital, PhantomFederation
from simulations.phantoms.masks import nifti_bytes, segmentation
from simulations.phantoms.scanner import Grid
from simulations.phantoms.tables import Row, label_row, truth_row, write_table

_SUFFIX = {"seg": "dcm", "nifti": "nii.gz"}
_PRIME, _STRIDE = 999_983, 617_989
"""``index * _STRIDE mod _PRIME`` visits each number below the prime once; a golden section apart."""


@dataclass(frozen=True, slots=True)
class Written:
    """What was written for one hospital.

    Attributes:
        name: the hospital's name, and that of its folder.
        patients: people with images.
        images: images listed in ``labels.csv``, faulty ones included.
        faults: images that a fault has befallen.
        malignant: people whose label is malignant.
        files: image and mask files.
    """

    name: str
    patients: int
    images: int
    faults: int
    malignant: int
    files: int


@dataclass(frozen=True, slots=True)
class PhantomReport:
    """What was written, hospital by hospital, and the seed it follows from."""

    seed: int
    hospitals: tuple[Written, ...]


def write_hospitals(out: Path, federation: PhantomFederation, seed: int) -> PhantomReport:
    """Write every hospital of ``federation`` below ``out``, and the truth beside them."""
    taken = [hospital.name for hospital in federation.hospitals if (out / hospital.name).exists()]
    if taken:
        raise ScenarioError(
            f"{len(taken)} of {len(federation.hospitals)} hospitals exist already (first: {taken[0]})",
            hint="choose an empty output folder",
        )
    (out / "truth").mkdir(parents=True, exist_ok=True)
    return PhantomReport(seed, tuple(_write_hospital(out, hospital, seed) for hospital in federation.hospitals))


def _write_hospital(out: Path, hospital: Hospital, seed: int) -> Written:
    folder = out / hospital.name
    (folder / "dicom").mkdir(parents=True)
    (folder / "masks").mkdir()
    labels: list[Row] = []
    truth: list[Row] = []
    patients, numbers, files = [], _numbers(), 0
    for home, member in _people(hospital, seed):
        patients.append(member.person.label)
        for scan in scans(home, member, seed):
            names = Names(seed, home.name, member.place, scan.place)
            written = _scan_files(home, member, scan, names)
            mask = f"masks/{next(numbers)}.{_SUFFIX[home.masks]}"
            (folder / mask).write_bytes(written.mask)
            for page in written.pages:
                (folder / "dicom" / f"{next(numbers)}.dcm").write_bytes(page)
            files += 1 + len(written.pages)
            labels.append(label_row(member, names, mask))
            truth.append(truth_row(home, member, scan, names))
    write_table(folder / "labels.csv", labels)
    write_table(out / "truth" / f"{hospital.name}.csv", truth)
    malignant = patients.count("malignant")
    return Written(hospital.name, len(patients), len(labels), len(hospital.faults), malignant, files)


def _people(hospital: Hospital, seed: int) -> Iterator[tuple[Hospital, Member]]:
    """Who has images here, and the hospital that made them: guests bring the files of another."""
    yield from ((hospital, member) for member in members(hospital, seed))
    for other, count in hospital.guests:
        yield from ((other, member) for member in itertools.islice(members(other, seed), count))


@dataclass(frozen=True, slots=True)
class _ScanFiles:
    """The bytes of one image, a file per slice, and of its mask."""

    pages: tuple[bytes, ...]
    mask: bytes


def _scan_files(hospital: Hospital, member: Member, scan: Scan, names: Names) -> _ScanFiles:
    datasets = images(hospital, member, scan, names)
    pages = [dicom_bytes(dataset) for dataset in datasets]
    mask, lattice = _coarse(scan) if scan.fault == "mask-shape" else (scan.truth.mask, scan.grid)
    if off := hospital.masks_off_px:
        mask = np.pad(mask, ((0, 0), (off, 0), (off, 0)))[:, :-off, :-off]
    if hospital.masks == "seg":
        drawn = dicom_bytes(segmentation(datasets, mask, lattice, names))
    else:
        drawn = nifti_bytes(mask, lattice)
    middle = len(pages) // 2
    pages[middle] = _spoil(pages[middle], len(datasets[middle].PixelData), scan.fault)
    return _ScanFiles(tuple(pages), drawn)


def _coarse(scan: Scan) -> tuple[NDArray[np.uint8], Grid]:
    """The mask as if drawn on a reformatted series: every other row and column."""
    mask = scan.truth.mask[:, ::2, ::2]
    slice_mm, row_mm, column_mm = scan.grid.spacing_mm
    depth, rows, columns = mask.shape
    return mask, Grid(scan.grid.origin_mm, (slice_mm, 2 * row_mm, 2 * column_mm), (depth, rows, columns))


def _spoil(page: bytes, pixel_bytes: int, fault: Fault | None) -> bytes:
    """What the fault leaves of an image file whose pixels are its last ``pixel_bytes`` bytes."""
    match fault:
        case "truncated":
            return page[: len(page) - pixel_bytes // 2]
        case "empty":
            return b""
        case "text":
            return b"This export was interrupted. Please contact the archive.\n"
        case _:
            return page


def _numbers() -> Iterator[str]:
    """Six-digit names of files, each once, in an order that says nothing."""
    return (f"{index * _STRIDE % _PRIME:06d}" for index in range(1, _PRIME))
