"""Archives of a few made-up cases, written as ingest would write them."""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from client.data.archive.archive import Archive
from client.data.archive.catalogue import Change
from client.data.archive.keeping import write_case
from client.data.archive.record import Record
from client.data.case_files import Quarantined
from shared.preprocessing.image import FloatArray, Image, MaskArray, Modality


def name_of(text: str) -> str:
    """A name like a salted one: 24 hexadecimal digits, the same for the same text."""
    return hashlib.sha256(text.encode()).hexdigest()[:24]


@dataclass
class Made:
    """One case; ``name`` and ``person`` are turned into what salted names look like."""

    name: str
    person: str
    voxels: FloatArray
    mask: MaskArray | None = None
    label: str | None = None
    modality: Modality = "us"
    more: dict[str, Any] = field(default_factory=dict)

    @property
    def case_id(self) -> str:
        return name_of(self.name)


def made(number: int, person: int | None = None, **changes: Any) -> Made:
    """Case ``number``: 12 x 10 grey values from its own seed, benign or malignant by turns."""
    rng = np.random.default_rng(number)
    voxels = rng.integers(0, 256, (1, 12, 10)).astype(np.float32)
    said: dict[str, Any] = {"label": ("benign", "malignant")[number % 2], "voxels": voxels} | changes
    return Made(f"case {number}", f"person {number if person is None else person}", **said)


def fill(archive: Archive, cases: Iterable[Made], quarantined: Iterable[Quarantined] = ()) -> Archive:
    """Store ``cases`` in one segment and one transaction."""
    records = []
    with archive.new_segment() as writer:
        for one in cases:
            spacing = one.more.get("spacing_mm", (1.0,) * (one.voxels.ndim - 1))
            image = Image(one.voxels, spacing, one.modality)
            written = write_case(writer, image, one.mask)
            said: dict[str, Any] = {
                "case_id": one.case_id,
                "patient": name_of(one.person),
                "aliases": (),
                "study": "2.25.1",
                "series": "2.25.2",
                "modality": one.modality,
                "shape": one.voxels.shape,
                "kept": written.kept,
                "spacing_mm": image.spacing_mm,
                "spacing_known": True,
                "affine_lps": (),
                "masked": one.mask is not None,
                "label": one.label,
                "subgroups": (("sex", "F"),),
                "acquisition": (),
                "dropped": (),
                "suspicions": (),
                "source_sha256": hashlib.sha256(one.voxels.tobytes()).hexdigest(),
                "sha256": written.sha256,
                "origin": "made up",
                "location": written.location,
            }
            records.append(Record(**said | one.more))
    archive.commit(Change(records, tuple(quarantined)))
    return archive


def tiny_archive(
    folder: Path, cases: Iterable[Made], quarantined: Iterable[Quarantined] = (), key: bytes | None = None
) -> Archive:
    """A new archive, or one more filling of the one in ``folder``; open for reading."""
    with Archive.open_or_create(folder, key) as archive:
        fill(archive, cases, quarantined)
    return Archive.open(folder, key)
