"""Synthetic hospitals on disk, with known answers.

Promises
- ``write_hospitals`` writes one folder per hospital, as hospitals have it: ``dicom/`` with images under names that say
  nothing, in an order that says nothing, ``masks/``, and ``labels.csv``. The same seed gives the same bytes.
- Hospitals do not depend on each other: one written alone is the one written among others.
- The truth stands outside, in ``truth/<hospital>.csv``: no hospital's own files say where a lesion is but its masks.
- Nothing is overwritten: a folder that exists is refused before anything is written.

``labels.csv`` has a row per image: patient_id, series_uid, mask (file relative to the hospital's folder), label (benign
or malignant, of the patient), sex, age. It says nothing about splits. Images that a fault has befallen have their rows,
as in a hospital, where nobody knows yet.
"""

from __future__ import annotations

import csv
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from shared.errors import ScenarioError
from simulations.phantom_anatomy import LESION, ORGAN
from simulations.phantom_cohort import Member, Scan, members, scans
from simulations.phantom_files import Names, dicom_bytes, images, nifti_bytes, segmentation
from simulations.phantom_hospitals import Fault, Hospital, PhantomFederation, hospitals, tiny_hospitals
from simulations.phantom_solids import Field

__all__ = [
    "Hospital",
    "PhantomFederation",
    "PhantomReport",
    "Written",
    "hospitals",
    "tiny_hospitals",
    "write_hospitals",
]

Row = Mapping[str, object]

_CUT_ROWS = 8
_SUFFIX = {"seg": "dcm", "nifti": "nii.gz"}
_PRIME, _STRIDE = 999_983, 48_271
"""``index * _STRIDE mod _PRIME`` visits every number below the prime once: file numbers without an order."""


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
    for member in members(hospital, seed):
        patients.append(member.person.label)
        for scan in scans(hospital, member, seed):
            names = Names(seed, hospital.name, member.place, scan.place)
            written = _scan_files(hospital, member, scan, names)
            mask = f"masks/{next(numbers)}.{_SUFFIX[hospital.masks]}"
            (folder / mask).write_bytes(written.mask)
            for page in written.pages:
                (folder / "dicom" / f"{next(numbers)}.dcm").write_bytes(page)
            files += 1 + len(written.pages)
            labels.append(_label_row(member, names, mask))
            truth.append(_truth_row(hospital, member, scan, names))
    _write_table(folder / "labels.csv", labels)
    _write_table(out / "truth" / f"{hospital.name}.csv", truth)
    malignant = patients.count("malignant")
    return Written(hospital.name, len(patients), len(labels), len(hospital.faults), malignant, files)


@dataclass(frozen=True, slots=True)
class _ScanFiles:
    """The bytes of one image, a file per slice, and of its mask."""

    pages: tuple[bytes, ...]
    mask: bytes


def _scan_files(hospital: Hospital, member: Member, scan: Scan, names: Names) -> _ScanFiles:
    datasets = images(hospital, member, scan, names)
    pages = [dicom_bytes(dataset) for dataset in datasets]
    mask = scan.truth.mask[:, :-_CUT_ROWS] if scan.fault == "mask-shape" else scan.truth.mask
    if hospital.masks == "seg":
        drawn = dicom_bytes(segmentation(datasets, mask, names))
    else:
        drawn = nifti_bytes(mask, scan.grid)
    middle = len(pages) // 2
    pages[middle] = _spoil(pages[middle], len(datasets[middle].PixelData), scan.fault)
    return _ScanFiles(tuple(pages), drawn)


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


def _label_row(member: Member, names: Names, mask: str) -> Row:
    identity = member.identity
    return {
        "patient_id": identity.patient_id,
        "series_uid": names.series,
        "mask": mask,
        "label": member.person.label,
        "sex": identity.sex,
        "age": identity.age,
    }


def _truth_row(hospital: Hospital, member: Member, scan: Scan, names: Names) -> Row:
    """Known geometry of one image: millimetres are DICOM's patient coordinates, shapes are (D, H, W)."""
    lesions = member.person.lesions
    organ, lesion = scan.truth.mask == ORGAN, scan.truth.mask == LESION
    return {
        "patient_id": member.identity.patient_id,
        "series_uid": names.series,
        "fault": scan.fault or "",
        "label": member.person.label,
        "lesions": len(lesions),
        "phase": hospital.scanner.phase,
        "shape": _spaced(scan.grid.shape),
        "origin_mm": _spaced(scan.grid.origin_mm),
        "spacing_mm": _spaced(scan.grid.spacing_mm),
        "organ_voxels": int(organ.sum()),
        "lesion_voxels": int(lesion.sum()),
        "organ_hu": _mean(scan.truth.hu, organ),
        "lesion_hu": _mean(scan.truth.hu, lesion),
        "centres_mm": ";".join(_spaced(one.centre_mm) for one in lesions),
        "radii_mm": _spaced([one.radius_mm for one in lesions]),
    }


def _spaced(numbers: Iterable[float]) -> str:
    return " ".join(f"{number:.9g}" for number in numbers)


def _mean(hu: Field, where: NDArray[np.bool_]) -> str:
    return f"{hu[where].mean():.3f}" if where.any() else ""


def _write_table(path: Path, rows: list[Row]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, rows[0], lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
