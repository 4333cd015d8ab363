"""Every case of a data set as one row of a table, so that a hundred thousand are compared in seconds.

Promises
- ``Cases.of`` reads records and measurements once, as they come; a row takes about 500 bytes, whatever an image's size.
- Text is kept once: a column of text holds the place of its value in a tuple of different values.
- Rows are in the order of the records, which an archive gives sorted by case.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from client.data.archive.record import Record
from client.data.doctor.measure import MaskMeasurement, Measurement

Value = TypeVar("Value", bound=Hashable)
Flags = NDArray[np.bool_]
Places = NDArray[np.intp]

VENDOR = "vendor"
"""Under which name ``Record.acquisition`` says who made the scanner (``shared.preprocessing.deidentification``)."""

_PLACES = ("patient", "digest", "source", "label", "modality", "subgroups", "vendor", "aliases", "suspicions",
           "dropped", "classes")  # fmt: skip
_ROW = np.dtype(
    [(name, "i4") for name in _PLACES]
    + [
        ("channels", "i4"),
        ("axes", "i4"),
        ("shape", "i8", (3,)),
        ("spacing_mm", "f8", (3,)),
        ("spacing_known", "?"),
        ("oblique_deg", "f8"),
        ("shear_deg", "f8"),
    ]
    + [(name, "f8") for name in ("low", "high", "mean", "deviation", "at_low", "at_high", "border", "centre")]
    + [
        ("values", "i4"),
        ("masked", "?"),
        ("foreground", "i8"),
        ("islands", "i8"),
        ("tiny_islands", "i8"),
        ("full", "?"),
        ("at_border", "?"),
        ("thumbnail", "u1", (256,)),
    ]
)
_UNMASKED = MaskMeasurement((), 0, 0, full=False, at_border=False)


@dataclass(frozen=True, slots=True, eq=False)
class Cases:
    """A data set; see the module.

    Attributes:
        names: salted name of each case.
        rows: structured array with a row for each case: numbers as in ``Record`` and ``Measurement``; ``shape`` and
            ``spacing_mm`` of 2-D images have 1 in front; ``oblique_deg`` is the largest angle between an axis and the
            patient's, ``shear_deg`` by how much two axes miss a right angle, both NaN where unknown; ``foreground``
            counts voxels of the mask. Of the columns of places, ``digest`` and ``source`` are equal where images or
            source files are; the others lead into the tuples below.
        patients: salted names of persons.
        labels: as the site's table says them; None is nobody's.
        modalities: as in ``Image``.
        subgroups: all pairs of a case.
        vendors: "" where nobody said.
        aliases: all second names of a person.
        suspicions: all suspicions about a case.
        dropped: all kinds of identifying content of a case.
        classes: all foreground classes of a mask.
    """

    names: tuple[str, ...]
    rows: NDArray[np.void]
    patients: tuple[str, ...]
    labels: tuple[str | None, ...]
    modalities: tuple[str, ...]
    subgroups: tuple[tuple[tuple[str, str], ...], ...]
    vendors: tuple[str, ...]
    aliases: tuple[tuple[str, ...], ...]
    suspicions: tuple[tuple[str, ...], ...]
    dropped: tuple[tuple[str, ...], ...]
    classes: tuple[tuple[int, ...], ...]

    @classmethod
    def of(cls, measured: Iterable[tuple[Record, Measurement]]) -> Cases:
        """The table of all cases in ``measured``, each read once."""
        names: list[str] = []
        values: dict[str, _Places[Any]] = {name: _Places() for name in _PLACES}
        rows = np.fromiter(_rows(measured, names, values), dtype=_ROW)
        return cls(
            names=tuple(names),
            rows=rows,
            patients=values["patient"].tuple(),
            labels=values["label"].tuple(),
            modalities=values["modality"].tuple(),
            subgroups=values["subgroups"].tuple(),
            vendors=values["vendor"].tuple(),
            aliases=values["aliases"].tuple(),
            suspicions=values["suspicions"].tuple(),
            dropped=values["dropped"].tuple(),
            classes=values["classes"].tuple(),
        )

    def __len__(self) -> int:
        return len(self.names)

    def named(self, which: Flags | Places) -> tuple[str, ...]:
        """Names of the cases that are flagged, or at these places; sorted."""
        places = np.flatnonzero(which) if which.dtype == np.bool_ else np.unique(which)
        return tuple(sorted(self.names[place] for place in places))

    def column(self, name: str) -> NDArray[Any]:
        """One column of ``rows``."""
        return self.rows[name]

    def flags(self, column: str, wanted: Iterable[bool]) -> Flags:
        """For each case what ``wanted`` says of its value; one entry for each different value of a column of places."""
        flags: Flags = np.fromiter(wanted, bool)[self.rows[column]]
        return flags

    def patients_of(self, which: Flags) -> int:
        """How many persons the flagged cases belong to."""
        return int(np.unique(self.rows["patient"][which]).size)

    def together(self, one: str, other: str) -> tuple[tuple[int, int], ...]:
        """The different pairs of values in two columns of whole numbers, sorted."""
        base = int(self.rows[other].max(initial=0)) + 1
        keys = np.unique(self.rows[one].astype(np.int64) * base + self.rows[other])
        return tuple(divmod(key, base) for key in keys.tolist())

    def kinds(self) -> Iterator[Flags]:
        """Which cases may be compared with each other: those of one modality and one number of axes."""
        for modality, axes in self.together("modality", "axes"):
            yield (self.rows["modality"] == modality) & (self.rows["axes"] == axes)


class _Places(Generic[Value]):
    """Gives each different value the next number."""

    def __init__(self) -> None:
        self._places: dict[Value, int] = {}

    def of(self, value: Value) -> int:
        return self._places.setdefault(value, len(self._places))

    def tuple(self) -> tuple[Value, ...]:
        return tuple(self._places)


def _rows(
    measured: Iterable[tuple[Record, Measurement]], names: list[str], places: dict[str, _Places[Any]]
) -> Iterator[tuple[Any, ...]]:
    """One row for each case; what is text goes into ``names`` and ``places``."""
    for record, measurement in measured:
        names.append(record.case_id)
        mask = measurement.mask or _UNMASKED
        text: dict[str, Hashable] = {
            "patient": record.patient,
            "digest": measurement.digest,
            "source": record.source_sha256,
            "label": record.label,
            "modality": record.modality,
            "subgroups": record.subgroups,
            "vendor": dict(record.acquisition).get(VENDOR, ""),
            "aliases": record.aliases,
            "suspicions": record.suspicions,
            "dropped": record.dropped,
            "classes": tuple(index for index, _ in mask.classes),
        }
        yield (
            *(places[name].of(text[name]) for name in _PLACES),
            *_geometry(record),
            *(getattr(measurement, name) for name in ("low", "high", "mean", "deviation", "at_low", "at_high")),
            measurement.border,
            measurement.centre,
            measurement.values,
            measurement.mask is not None,
            sum(voxels for _, voxels in mask.classes),
            mask.islands,
            mask.tiny_islands,
            mask.full,
            mask.at_border,
            np.frombuffer(bytes.fromhex(measurement.thumbnail), np.uint8),
        )


def _geometry(record: Record) -> tuple[Any, ...]:
    spatial = record.shape[1:]
    front = (1,) * (3 - len(spatial))
    return (
        record.shape[0],
        len(spatial),
        (*front, *spatial),
        (*map(float, front), *record.spacing_mm),
        record.spacing_known,
        *_angles(record.affine_lps),
    )


def _angles(affine: tuple[float, ...]) -> tuple[float, float]:
    """(obliqueness, shear) in degrees; axes d, h, w run towards Superior, Posterior, Left as nearly as can be."""
    if not affine:
        return math.nan, math.nan
    axes = [(affine[axis], affine[4 + axis], affine[8 + axis]) for axis in range(3)]
    lengths = [math.hypot(*axis) for axis in axes]
    oblique = max(
        math.degrees(math.acos(min(1.0, abs(axis[2 - place]) / length)))
        for place, (axis, length) in enumerate(zip(axes, lengths, strict=True))
    )
    products = [
        sum(a * b for a, b in zip(axes[one], axes[other], strict=True)) / (lengths[one] * lengths[other])
        for one, other in ((0, 1), (0, 2), (1, 2))
    ]
    return oblique, math.degrees(math.asin(min(1.0, max(map(abs, products)))))
