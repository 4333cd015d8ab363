"""Tables of a synthetic hospital: what it knows (``labels.csv``), and what is true (``truth/<hospital>.csv``).

Promises
- ``labels.csv`` has a row per image: patient_id, series_uid, mask (file relative to the hospital's folder), label
  (benign or malignant, of the patient), sex, age. It says nothing about splits.
- The truth has the same rows with geometry in DICOM's patient coordinates (LPS, mm), counts of voxels, and mean true
  Hounsfield units of liver and lesions before the scanner.
"""

from __future__ import annotations

import csv
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from simulations.phantoms.anatomy import LESION, ORGAN
from simulations.phantoms.cohort import Member, Scan
from simulations.phantoms.files import Names
from simulations.phantoms.hospitals import Hospital
from simulations.phantoms.solids import Field

Row = Mapping[str, object]


def label_row(member: Member, names: Names, mask: str) -> Row:
    """One image in ``labels.csv``; ``mask`` is relative to the hospital's folder."""
    identity = member.identity
    return {
        "patient_id": identity.patient_id,
        "series_uid": names.series,
        "mask": mask,
        "label": member.person.label,
        "sex": identity.sex,
        "age": identity.age,
    }


def truth_row(hospital: Hospital, member: Member, scan: Scan, names: Names) -> Row:
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


def write_table(path: Path, rows: list[Row]) -> None:
    """Write rows of the same columns as CSV, UTF-8 with line feeds on every system."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, rows[0], lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
