"""A frozen cohort: which cases a site trains on, down to their bytes, and who is trained on and who is tested.

Promises
- A cohort is a value. ``canonical_bytes`` depends on what it says alone, and ``digest`` is their SHA-256: what a
  hospital approves, what a ledger is kept by.
- All cases of a patient are in one split.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, fields
from typing import Any

from shared.messages import Split


@dataclass(frozen=True, slots=True)
class SplitRule:
    """How patients are divided: each is an independent draw from their salted name and ``seed`` (``split``)."""

    seed: int
    train_fraction: float
    validation_fraction: float


@dataclass(frozen=True, slots=True)
class Member:
    """One case of a cohort.

    Attributes:
        case_id: salted name of the case.
        patient: salted name of the person.
        split: where all of this person's cases belong.
        source_sha256: over the source files.
        content: ``Record.content`` of the case: voxels, mask, geometry, label.
        shape: of the voxels, (C, *spatial).
        spacing_mm: one entry per spatial axis.
        modality: as in ``Image``.
        masked: whether it has a mask.
        label: as the site's table says it.
    """

    case_id: str
    patient: str
    split: Split
    source_sha256: str
    content: str
    shape: tuple[int, ...]
    spacing_mm: tuple[float, ...]
    modality: str
    masked: bool
    label: str | None


@dataclass(frozen=True, slots=True)
class Cohort:
    """The manifest.

    Attributes:
        site: as enrolled.
        dataset: the data set that was frozen.
        rule: how patients were divided.
        members: sorted by ``case_id``.
        excluded: how many cases were left out, by reason.
        quarantined: how many could not be read, by reason.
        left_out: salted names of the cases that were left out, sorted: one that comes later is none of them.
    """

    site: str
    dataset: str
    rule: SplitRule
    members: tuple[Member, ...]
    excluded: tuple[tuple[str, int], ...] = ()
    quarantined: tuple[tuple[str, int], ...] = ()
    left_out: tuple[str, ...] = ()

    def canonical_bytes(self) -> bytes:
        """The cohort as UTF-8 JSON with sorted keys, after a line that names the format."""
        # ``asdict`` would copy a hundred thousand members first.
        said = json.dumps(self, default=_fields, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
        return b"consilium-cohort-1\n" + said.encode()

    def digest(self) -> str:
        """SHA-256 of ``canonical_bytes``, 64 hexadecimal digits."""
        return hashlib.sha256(self.canonical_bytes()).hexdigest()


def _fields(value: Any) -> dict[str, Any]:  # noqa: ANN401 - any of the dataclasses above
    """What JSON makes of a dataclass."""
    return {field.name: getattr(value, field.name) for field in fields(value)}
