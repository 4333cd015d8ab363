"""Data sets as the data doctor sees them: a clean one, and rows of it with a planted fault."""

import hashlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from scipy import ndimage

from client.data.archive.archive import Archive
from client.data.archive.catalogue import Change
from client.data.archive.keeping import write_case
from client.data.archive.record import Location, Record
from client.data.case_files import Quarantined
from client.data.doctor.cases import Cases
from client.data.doctor.findings import Finding
from client.data.doctor.measure import Measurement, measure
from shared.preprocessing.image import FloatArray, Image, MaskArray, Modality

EDGE = 48
PATIENTS, IMAGES = 12, 2


def name_of(text: str) -> str:
    """Like a salted name, and in the order of ``text`` no more than those are."""
    return hashlib.sha256(text.encode()).hexdigest()[:24]


@dataclass(frozen=True, eq=False)
class Row:
    """One case before it is measured; ``said`` goes into its record."""

    number: int
    voxels: FloatArray
    mask: MaskArray | None = None
    modality: Modality = "ct"
    spacing_mm: tuple[float, ...] = (0.8, 0.8)
    spacing_known: bool = True
    said: dict[str, Any] = field(default_factory=dict)

    @property
    def case_id(self) -> str:
        return name_of(f"case {self.number}")

    def but(self, **changes: Any) -> "Row":
        """The row with another image, mask or geometry, or other words in its record."""
        own = {name: changes.pop(name) for name in list(changes) if name in self.__dataclass_fields__}
        return replace(self, **own, said=self.said | changes)

    def measured(self) -> tuple[Record, Measurement]:
        image = Image(self.voxels, self.spacing_mm, self.modality, self.spacing_known)
        said: dict[str, Any] = {
            "case_id": self.case_id,
            "patient": name_of(f"patient {self.number // IMAGES}"),
            "aliases": (name_of(f"alias {self.number // IMAGES}"),),
            "study": "",
            "series": "",
            "modality": self.modality,
            "shape": self.voxels.shape,
            "kept": "float32",
            "spacing_mm": self.spacing_mm,
            "spacing_known": self.spacing_known,
            "affine_lps": (),
            "masked": self.mask is not None,
            "label": ("benign", "malignant")[self.number // IMAGES % 2],
            "subgroups": (("sex", ("F", "M", "unknown")[self.number // IMAGES % 3]),),
            "acquisition": (("vendor", "aldermed"),),
            "dropped": (),
            "suspicions": (),
            "source_sha256": name_of(f"source {self.number}"),
            "sha256": name_of(f"stored {self.number}"),
            "origin": "",
            "location": Location(0, self.number),
        }
        return Record(**said | self.said), measure(image, self.mask)


def body(number: int, edge: int = EDGE) -> FloatArray:
    """A bright disc of soft tissue in air, in Hounsfield units, with a texture of its own; shape (1, edge, edge)."""
    rng = np.random.default_rng(number)
    rows, columns = np.mgrid[:edge, :edge] / edge - 0.5
    inside = (rows / rng.uniform(0.3, 0.4)) ** 2 + (columns / rng.uniform(0.35, 0.45)) ** 2 < 1
    texture = ndimage.gaussian_filter(rng.normal(0, 1, (edge, edge)), edge / 24) * 400
    hu = np.where(inside, 40 + texture, -1000) + rng.normal(0, 10, (edge, edge))
    return np.rint(hu)[None].astype(np.float32)


def lesion(number: int, edge: int = EDGE) -> MaskArray:
    """A square of class 1, not at the border."""
    top, left = np.random.default_rng(number).integers(edge // 4, edge // 2, 2)
    mask = np.zeros((edge, edge), np.uint8)
    mask[top : top + edge // 8, left : left + edge // 8] = 1
    return mask


def clean(patients: int = PATIENTS) -> list[Row]:
    """CT images with masks of two classes of patients, two images each, and nothing wrong with any."""
    return [Row(number, body(number), lesion(number)) for number in range(patients * IMAGES)]


def volume(number: int) -> Row:
    """A CT of 8 slices, level in the scanner."""
    planes = np.concatenate([body(100 * number + place) for place in range(8)])[None]
    row = Row(number, planes, np.stack([lesion(number)] * 8), spacing_mm=(2.0, 0.8, 0.8))
    return row.but(affine_lps=affine(np.eye(3), row.spacing_mm))


def affine(turn: Any, spacing_mm: Sequence[float]) -> tuple[float, ...]:
    """Axes d, h, w along S, P, L, turned by the matrix ``turn`` in LPS, as a record holds it."""
    axes = np.array([[0, 0, 1], [0, 1, 0], [1, 0, 0]], float)
    matrix = np.eye(4)
    matrix[:3, :3] = np.asarray(turn) @ axes * np.asarray(spacing_mm)
    return tuple(matrix.ravel().tolist())


def table(rows: Iterable[Row]) -> Cases:
    """Rows in the order in which an archive would give them."""
    return Cases.of(sorted((row.measured() for row in rows), key=lambda pair: pair[0].case_id))


def found(check: Callable[..., Iterable[Finding]], rows: Iterable[Row], *more: Any) -> dict[str, Finding]:
    """What a check says of rows, by code."""
    findings = list(check(table(rows), *more))
    assert len({one.code for one in findings}) == len(findings)
    assert all(one.cases == tuple(sorted(set(one.cases))) for one in findings)
    return {one.code: one for one in findings}


def names(rows: Iterable[Row]) -> tuple[str, ...]:
    return tuple(sorted(row.case_id for row in rows))


def stored(
    folder: Path, rows: Iterable[Row], quarantined: Sequence[Quarantined] = (), key: bytes | None = None
) -> Archive:
    """An archive with these rows, or with these in the place of those of the same number; open for reading."""
    with Archive.open_or_create(folder, key) as archive:
        records = []
        with archive.new_segment() as writer:
            for row in rows:
                image = Image(row.voxels, row.spacing_mm, row.modality, row.spacing_known)
                written = write_case(writer, image, row.mask)
                record, _ = row.measured()
                records.append(replace(record, kept=written.kept, sha256=written.sha256, location=written.location))
        archive.commit(Change(records, quarantined))
    return Archive.open(folder, key)
