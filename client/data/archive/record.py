"""What an archive knows about one case besides its voxels: everything here may be read by people who see no names.

Promises
- No field can hold an identifier from the clinic: names are salted, UIDs are remapped, ``acquisition`` holds only what
  the allow-list of de-identification lets through, and ``label`` and ``subgroups`` what the site's own table declares.
- ``sha256`` covers the voxels and the mask as they are stored, ``content`` everything that training could notice. Where
  a record lies (``location``) is part of neither: two archives of the same files hold equal records.
"""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import dataclass
from typing import Literal

from shared.preprocessing.image import Modality

Kept = Literal["uint8", "uint16", "int16", "float32"]
"""How voxels are stored: the narrowest of these that holds every value exactly."""

BYTES: dict[Kept, int] = {"uint8": 1, "uint16": 2, "int16": 2, "float32": 4}


_NOTICED = ("case_id", "patient", "study", "series", "modality", "shape", "kept", "spacing_mm", "spacing_known",
            "affine_lps", "masked", "label", "subgroups", "acquisition", "source_sha256", "sha256")  # fmt: skip
"""What training or a report could notice of a case."""


@dataclass(frozen=True, slots=True)
class Location:
    """Where a case's bytes lie: the voxels first, then the mask if there is one, nothing between them.

    Attributes:
        segment: number of the file they lie in.
        offset: of the first byte, in the plain text of that file.
    """

    segment: int
    offset: int


@dataclass(frozen=True, slots=True)
class Record:
    """One case of a data set.

    Attributes:
        case_id: salted name of the image or volume; unique in an archive.
        patient: salted name of the person.
        aliases: other salted names under which this person may be known (see ``Salt.alias``).
        study: remapped Study Instance UID, "" where the source has none.
        series: remapped Series Instance UID, likewise.
        modality: as in ``Image``.
        shape: of the voxels, (C, *spatial).
        kept: how voxels are stored.
        spacing_mm: one entry per spatial axis.
        spacing_known: as in ``Image``.
        affine_lps: row by row, 16 numbers; empty where unknown.
        masked: whether there is a mask of shape (*spatial), uint8.
        label: as the site's table says it, before any plan; None where nobody said.
        subgroups: (column, value) pairs for reports by subgroup.
        acquisition: (attribute, value) pairs about scanner and protocol.
        dropped: kinds of identifying content that the source's headers held and this archive does not.
        suspicions: why this image may carry burned-in identifiers although it was let in.
        source_sha256: over the source files of image and mask.
        sha256: over the stored bytes.
        origin: what it was read from and how; equal while nothing needs to be read again.
        location: where the bytes lie.
    """

    case_id: str
    patient: str
    aliases: tuple[str, ...]
    study: str
    series: str
    modality: Modality
    shape: tuple[int, ...]
    kept: Kept
    spacing_mm: tuple[float, ...]
    spacing_known: bool
    affine_lps: tuple[float, ...]
    masked: bool
    label: str | None
    subgroups: tuple[tuple[str, str], ...]
    acquisition: tuple[tuple[str, str], ...]
    dropped: tuple[str, ...]
    suspicions: tuple[str, ...]
    source_sha256: str
    sha256: str
    origin: str
    location: Location

    @property
    def voxel_bytes(self) -> int:
        """Length of the stored voxels."""
        return BYTES[self.kept] * math.prod(self.shape)

    @property
    def mask_bytes(self) -> int:
        """Length of the stored mask, 0 without one."""
        return math.prod(self.shape[1:]) if self.masked else 0

    def content(self) -> str:
        """SHA-256 over all that training could notice: 64 hexadecimal digits."""
        said = {name: getattr(self, name) for name in _NOTICED}
        return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()
