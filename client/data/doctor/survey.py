"""What the doctor's page draws of a data set beyond its diagnosis: geometry, grey values, classes by vendor.

Promises
- Records are read once, in one pass. Grey values come from at most ``SAMPLED`` images of each modality: names of cases
  are HMACs, so that the first ones in order are a random sample of all.
- An image that cannot be read is left out; the archive tells about it where it is asked for that.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from client.data.archive.archive import Archive
from client.data.archive.record import Record
from client.data.case_files import UNKNOWN
from client.data.doctor.cases import VENDOR
from client.data.doctor.findings import Histogram
from shared.errors import SiteDataError

SAMPLED = 24
_VALUES = 2**16
"""Grey values taken of each sampled image."""
_BARS = 32
_TAILS = (0.1, 99.9)
"""Percentiles beyond which grey values count at the ends: a few extreme ones would leave all others in one bar."""
_DECIMALS = 3
"""Of spacings in mm: scanners and file formats round differently beyond."""


@dataclass(frozen=True, slots=True)
class Survey:
    """What is drawn.

    Attributes:
        geometry: sizes and spacings, in cases, by title.
        intensities: grey values by modality, and of how many images they are.
        classes: label -> vendor -> patients.
    """

    geometry: dict[str, Histogram]
    intensities: dict[str, tuple[Histogram, int]]
    classes: dict[str, dict[str, int]]


def survey(archive: Archive) -> Survey:
    """Look over an archive."""
    sizes: dict[str, list[float]] = defaultdict(list)
    sampled: dict[str, list[Record]] = defaultdict(list)
    patients: dict[tuple[str, str], set[str]] = defaultdict(set)
    for record in archive.records():
        for title, value in _geometry(record):
            sizes[title].append(value)
        if len(sampled[record.modality]) < SAMPLED:
            sampled[record.modality].append(record)
        vendor = dict(record.acquisition).get(VENDOR, "") or UNKNOWN
        patients[record.label or UNKNOWN, vendor].add(record.patient)
    classes: dict[str, dict[str, int]] = defaultdict(dict)
    for label, vendor in sorted(patients):
        classes[label][vendor] = len(patients[label, vendor])
    return Survey(
        geometry={title: binned(values, _unit(title)) for title, values in sorted(sizes.items())},
        intensities={modality: _intensities(archive, records) for modality, records in sorted(sampled.items())},
        classes=dict(classes),
    )


def binned(values: Sequence[float] | NDArray[np.float64], unit: str) -> Histogram:
    """``values`` in equal bins over their range; whole numbers of a small range in one bin each."""
    array = np.asarray(values, np.float64)
    low, high = (float(array.min()), float(array.max())) if array.size else (0.0, 1.0)
    whole = high - low < _BARS and bool((array == np.rint(array)).all())
    if high == low:
        # One bar in the middle, with room at both sides.
        edges = low * np.array([0.5, 0.9, 1.1, 1.5]) if low > 0 else low + np.array([-1.5, -0.5, 0.5, 1.5])
    else:
        edges = np.arange(low - 0.5, high + 1) if whole else np.linspace(low, high, _BARS + 1)
    counts, _ = np.histogram(array, edges)
    return Histogram(unit, tuple(map(float, edges)), tuple(map(int, counts)))


def _geometry(record: Record) -> Iterable[tuple[str, float]]:
    spatial = record.shape[1:]
    yield "Longer side of a plane", float(max(spatial[-2:]))
    if record.spacing_known:
        yield "Pixel spacing", round(min(record.spacing_mm[-2:]), _DECIMALS)
    if len(spatial) == 3:
        yield "Slices", float(spatial[0])
        if record.spacing_known:
            yield "Slice spacing", round(record.spacing_mm[0], _DECIMALS)


def _unit(title: str) -> str:
    return {"Longer side of a plane": "pixels", "Slices": "slices"}.get(title, "mm")


def _intensities(archive: Archive, records: Sequence[Record]) -> tuple[Histogram, int]:
    taken = []
    for record in records:
        with suppress(SiteDataError):
            values = archive.image(record).voxels.reshape(-1)
            taken.append(values[:: max(1, values.size // _VALUES)].astype(np.float64))
    unit = "Hounsfield units" if records[0].modality == "ct" else "grey value"
    if not taken:
        return binned([], unit), 0
    values = np.concatenate(taken)
    return binned(np.clip(values, *np.percentile(values, _TAILS)).astype(np.float64), unit), len(taken)
