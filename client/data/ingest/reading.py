"""From the files of one case to what the archive keeps of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from shared.preprocessing.image import Image, MaskArray

Suspicion = Literal["declared", "secondary-capture", "text"]
"""Why an image may carry burned-in identifiers: BurnedInAnnotation says so, a screen was captured, text was found."""


@dataclass(frozen=True, slots=True)
class Rules:
    """What a site lets in and keeps.

    Attributes:
        refuse: suspicions of burned-in identifiers that quarantine a case.
        dates: whether dates are dropped, or moved by a number of days that is the patient's own.
        structures: class index by name of a region of interest, for RT structure sets; empty takes the only one.
    """

    refuse: frozenset[Suspicion] = frozenset({"declared", "secondary-capture", "text"})
    dates: Literal["drop", "shift"] = "drop"
    structures: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, eq=False)
class Reading:
    """A case as it was read: canonical, de-identified.

    Attributes:
        image: see ``Image``.
        mask: class indices on the image's voxels, or None.
        acquisition: what the allow-list lets through about scanner and protocol.
        dropped: kinds of identifying content that the headers held.
        suspicions: why it may carry burned-in identifiers although the rules let it in.
        source_sha256: over the bytes of all files that were read, 64 hexadecimal digits.
    """

    image: Image
    mask: MaskArray | None
    acquisition: tuple[tuple[str, str], ...]
    dropped: tuple[str, ...]
    suspicions: tuple[Suspicion, ...]
    source_sha256: str
