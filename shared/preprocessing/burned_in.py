"""Why an image may carry identifiers in its pixels, where no de-identification of a header reaches them.

Promises
- ``suspicions`` names each reason once, in one order: the header declares it, the image is a capture of a screen or a
  document, or rows of glyphs were found (``burned_in_text``). A reason is no proof; their absence is none either.
- A header that denies burned-in annotation (NO) is not believed: it takes away no reason.
- Nothing raises for a header that is damaged.

``RecognizableVisualFeatures`` (0028,0302) is no reason here: it says that a face could be known from the pixels, of
whole heads and not of text. It counts among the kinds of identifying content of a header (``deidentification``).

Refusing an image is left to the site's rules.
"""

from __future__ import annotations

from collections.abc import Iterator, MutableSequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset

from shared.errors import CaseError
from shared.preprocessing.burned_in_text import GLYPHS, Box, text_boxes
from shared.preprocessing.dicom_header import items, text
from shared.preprocessing.image import FloatArray, Image
from shared.preprocessing.quarantine import refusing

__all__ = ["Box", "Suspicion", "suspicions", "text_boxes"]

Suspicion = Literal["declared", "secondary-capture", "text"]
"""Why an image may carry burned-in identifiers: BurnedInAnnotation says so, a screen was captured, text was found."""

# Secondary Capture Image Storage and its multi-frame forms are this UID and those below it (PS3.4 B.5).
_SECONDARY_CAPTURE = "1.2.840.10008.5.1.4.1.1.7"
# Conversion Type, PS3.3 C.8.6.1: digitised video and film, digital interface, workstation, scanned document and image.
# Drawings (DRW) and synthetic images (SYN) show no patient's screen, but nothing says what was drawn.
_CONVERSIONS = {"DV", "DI", "DF", "WSD", "SD", "SI", "DRW", "SYN"}
# What two vendors call a saved screen in the third value of Image Type.
_SCREENS = {"SCREEN SAVE", "SCREENSHOT"}
_SLICES = (0.0, 0.5, 1.0)
"""Where a volume is looked at, as shares of its depth: text is burned into every slice of a series, or into none."""


def suspicions(dataset: Dataset | None, image: Image) -> tuple[Suspicion, ...]:
    """Why ``image`` may carry burned-in identifiers; ``dataset`` is its header, or that of one of its files."""
    found: list[Suspicion] = []
    if dataset is not None and _said(dataset, "BurnedInAnnotation") == "YES":
        found.append("declared")
    if dataset is not None and _is_capture(dataset):
        found.append("secondary-capture")
    if _shows_text(dataset, image):
        found.append("text")
    return tuple(found)


def _is_capture(dataset: Dataset) -> bool:
    sop_class = _said(dataset, "SOPClassUID")
    kinds = {part.strip() for part in _said(dataset, "ImageType").split("\\")}
    return (
        sop_class == _SECONDARY_CAPTURE
        or sop_class.startswith(f"{_SECONDARY_CAPTURE}.")
        or _said(dataset, "ConversionType") in _CONVERSIONS
        or not kinds.isdisjoint(_SCREENS)
    )


def _shows_text(dataset: Dataset | None, image: Image) -> bool:
    if image.voxels.ndim == 4:
        return any(text_boxes(shown) for plane in _slices(image.voxels) for shown in (plane, plane.T))
    # The brightest channel: coloured text on black is as bright as white text.
    plane = image.voxels.max(axis=0)
    around = None if dataset is None else _around_regions(dataset, plane)
    # Beside the picture of an ultrasound image there is no tissue: a shorter row is text already.
    return bool((around is not None and text_boxes(around, GLYPHS - 1)) or text_boxes(plane))


def _slices(voxels: FloatArray) -> Iterator[NDArray[np.float32]]:
    """A few planes across the first axis and across the shortest, along which most volumes were acquired."""
    grey = voxels[0] if len(voxels) == 1 else voxels.max(axis=0)
    for axis in sorted({0, int(np.argmin(grey.shape))}):
        for place in sorted({round(share * (grey.shape[axis] - 1)) for share in _SLICES}):
            yield grey.take(place, axis=axis)


def _around_regions(dataset: Dataset, plane: NDArray[np.float32]) -> NDArray[np.float32] | None:
    """An ultrasound image without the regions that hold its picture (PS3.3 C.8.5.5); None where none is described."""
    blank = plane.min()
    found: NDArray[np.float32] | None = None
    try:
        with refusing("unreadable-dicom", "the regions cannot be read"):
            for top, left, bottom, right in map(_corners, items(dataset, "SequenceOfUltrasoundRegions")):
                found = plane.copy() if found is None else found
                found[max(0, top) : bottom + 1, max(0, left) : right + 1] = blank
    except CaseError:
        return None
    return found


def _corners(region: Dataset) -> tuple[int, int, int, int]:
    names = ("RegionLocationMinY0", "RegionLocationMinX0", "RegionLocationMaxY1", "RegionLocationMaxX1")
    return tuple(int(region[name].value) for name in names)  # type: ignore[return-value] # four names, four numbers


def _said(dataset: Dataset, name: str) -> str:
    value: Any = dataset.get_item(name, keep_deferred=True)
    if value is None:
        return ""
    try:
        with refusing("unreadable-dicom", "the element cannot be read"):
            parts = value.value
            joined = "\\".join(map(str, parts)) if isinstance(parts, MutableSequence) else text(dataset, name)
            return joined.upper()
    except CaseError:
        return ""
