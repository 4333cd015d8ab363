"""What a DICOM header says about a file's frames: where they lie, how far apart pixels are, what a stored value means.

Promises
- ``planes_of`` gives every frame its position and orientation in LPS mm, or None where the file does not say: from the
  functional groups of an enhanced object (PS3.3 C.7.6.16), from the image plane module (C.7.6.2), and for classic
  multi-frame files from GridFrameOffsetVector (dose grids) or SliceVector (reconstructed nuclear medicine).
- ``pixel_spacing`` gives (between rows, between columns) in mm, or None. SliceThickness is never used as a distance.
- Nothing here reads pixels, and no header value but a number ever reaches an error.

Planes of a 3-D ultrasound volume, which are relative to the probe and not to the patient, count as not said.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.tag import BaseTag, Tag

from shared.errors import CaseError
from shared.preprocessing.image import Modality

Vector = NDArray[np.float64]

_MODALITIES: dict[str, Modality] = {
    "CT": "ct",
    "MR": "mr",
    "US": "us",
    "IVUS": "us",
    **dict.fromkeys(("CR", "DX", "MG", "RF", "XA", "PX", "IO", "DR"), "xray"),
    "OP": "fundus",
}
# PhysicalUnitsXDirection of a calibrated two-dimensional region (PS3.3 C.8.5.5.1.15).
_CENTIMETRES = 3
_MM_PER_CM = 10.0
# A kilometre: what lies beyond is a damaged number, and would overflow further on.
_FARTHEST_MM = 1e6
# Direction cosines come with as few as three digits; what is further off is not an orientation.
_ROUNDING = 1e-2


@dataclass(frozen=True, slots=True, eq=False)
class Plane:
    """One frame in space (PS3.3 C.7.6.2.1.1).

    Attributes:
        position_mm: centre of the first pixel, shape (3,), LPS.
        down: unit vector along increasing row index, shape (3,).
        right: unit vector along increasing column index, shape (3,).
        spacing_mm: distance between rows, distance between columns.
    """

    position_mm: Vector
    down: Vector
    right: Vector
    spacing_mm: tuple[float, float]

    @property
    def normal(self) -> Vector:
        """Unit vector across the plane; with ``right`` and ``down`` it makes a right-handed system."""
        return np.cross(self.right, self.down)


def modality_of(dataset: Dataset) -> Modality:
    """The plan's name for the file's Modality; "other" for what the plan has no name for."""
    return _MODALITIES.get(text(dataset, "Modality").upper(), "other")


def frames_of(dataset: Dataset) -> int:
    """NumberOfFrames; 1 where it is absent, empty or zero."""
    said = text(dataset, "NumberOfFrames")
    return max(int(said), 1) if said else 1


def holders_of(dataset: Dataset, frame: int) -> tuple[Dataset, ...]:
    """Where a frame's functional groups stand, the nearest first: its own item, the shared one, the top level."""
    per_frame = items(dataset, "PerFrameFunctionalGroupsSequence")
    shared = items(dataset, "SharedFunctionalGroupsSequence")
    return (*per_frame[frame : frame + 1], *shared[:1], dataset)


def macro(holders: Sequence[Dataset], name: str) -> Dataset | None:
    """The first item of the functional group ``name``, from the nearest of ``holders`` that has it."""
    for holder in holders:
        if found := items(holder, name):
            return found[0]
    return None


def planes_of(dataset: Dataset) -> tuple[Plane, ...] | None:
    """One plane for each frame, or None unless every frame has position, orientation and spacing.

    Raises:
        CaseError: "bad-geometry" where numbers are there but cannot be a plane.
    """
    frames = frames_of(dataset)
    offsets = _offsets_mm(dataset)
    if offsets is not None and len(offsets) == frames:
        first = _plane(dataset, 0)
        return None if first is None else tuple(_moved(first, mm) for mm in offsets)
    # The one position of a classic multi-frame file, if it has any, is that of its first frame. A damaged header may
    # claim a billion frames.
    if frames > 1 and len(items(dataset, "PerFrameFunctionalGroupsSequence")) < frames:
        return None
    planes = [_plane(dataset, frame) for frame in range(frames)]
    known = tuple(plane for plane in planes if plane is not None)
    return known if len(known) == frames else None


def pixel_spacing(holders: Sequence[Dataset]) -> tuple[float, float] | None:
    """Distance (between rows, between columns) in mm of the frame of ``holders``, or None where nothing says it."""
    dataset = holders[-1]
    measures = macro(holders, "PixelMeasuresSequence") or dataset
    for holder, name in (
        (measures, "PixelSpacing"),
        (dataset, "ImagerPixelSpacing"),
        (dataset, "NominalScannedPixelSpacing"),
    ):
        numbers = decimals(holder, name)
        if len(numbers) == 2:
            return (numbers[0], numbers[1]) if all(0 < mm < _FARTHEST_MM for mm in numbers) else None
    return _ultrasound_spacing(dataset)


def rescale_of(dataset: Dataset, frame: int) -> tuple[float, float]:
    """(slope, intercept) from stored to modality values of a frame; (1, 0) where nothing is said."""
    holder = macro(holders_of(dataset, frame), "PixelValueTransformationSequence") or dataset
    slope, intercept = decimals(holder, "RescaleSlope"), decimals(holder, "RescaleIntercept")
    return (slope[0] if slope else 1.0), (intercept[0] if intercept else 0.0)


def items(dataset: Dataset, name: str) -> Sequence[Dataset]:
    """The items of a sequence; none where it is absent or empty."""
    return (dataset[_tag(name)].value or ()) if _tag(name) in dataset else ()


def text(dataset: Dataset, name: str) -> str:
    """A string element without its padding; empty where it is absent."""
    value = _untouched(dataset, name)
    return (value.decode("ascii", "replace") if isinstance(value, bytes) else str(value or "")).strip(" \0")


def decimals(dataset: Dataset, name: str) -> tuple[float, ...]:
    """Numbers of a decimal string element; none where it is absent or empty."""
    value = _untouched(dataset, name)
    if value is None:
        return ()
    if isinstance(value, bytes):
        stripped = value.strip(b" \0")
        return tuple(float(part) for part in stripped.split(b"\\")) if stripped else ()
    return tuple(float(part) for part in np.atleast_1d(value))


def whole(dataset: Dataset, name: str) -> int | None:
    """A number of two bytes without sign (VR US); None where it is absent, empty or of another length."""
    if _tag(name) not in dataset:
        return None
    element = dataset.get_item(_tag(name))
    value = element.value
    if not isinstance(value, bytes):
        return value if isinstance(value, int) else None
    little = getattr(element, "is_little_endian", True)
    return int.from_bytes(value, "little" if little else "big") if len(value) == 2 else None


# A header is asked for some thirty elements; looking a keyword up costs a microsecond each time.
@cache
def _tag(name: str) -> BaseTag:
    return Tag(name)


def _untouched(dataset: Dataset, name: str) -> bytes | str | float | Sequence[float] | None:
    """An element's value: its bytes, unless somebody has asked pydicom for it before."""
    # pydicom checks and wraps what it hands out, 0.02 ms for each number: for raw CT slices as much as decoding them.
    if _tag(name) not in dataset:
        return None
    value: bytes | str | float | Sequence[float] | None = dataset.get_item(_tag(name)).value
    return value


def _offsets_mm(dataset: Dataset) -> tuple[float, ...] | None:
    """Distance of each frame of a classic multi-frame file from its first, along the normal."""
    if _tag("GridFrameOffsetVector") in dataset:
        offsets = decimals(dataset, "GridFrameOffsetVector")
    elif _tag("SliceVector") in dataset and _tag("SpacingBetweenSlices") in dataset:
        between = decimals(dataset, "SpacingBetweenSlices")[0]
        offsets = tuple(float(number) * between for number in np.atleast_1d(dataset.SliceVector))
    else:
        return None
    return tuple(offset - offsets[0] for offset in offsets)


def _plane(dataset: Dataset, frame: int) -> Plane | None:
    holders = holders_of(dataset, frame)
    position = _numbers(holders, ("PlanePositionSequence", "ImagePositionPatient"), 3)
    orientation = _numbers(holders, ("PlaneOrientationSequence", "ImageOrientationPatient"), 6)
    spacing = pixel_spacing(holders)
    if position is None or orientation is None or spacing is None:
        return None
    right, down = orientation[:3], orientation[3:]
    lengths = math.hypot(*right), math.hypot(*down)
    product = math.fsum(a * b for a, b in zip(right, down, strict=True))
    # Written so that a number that is not a number fails too.
    if not all(abs(error) < _ROUNDING for error in (lengths[0] - 1, lengths[1] - 1, product)):
        raise CaseError(
            f"image orientation is not two perpendicular unit vectors (lengths {lengths[0]:.3f} and {lengths[1]:.3f}, "
            f"product {product:.3f})",
            hint="check ImageOrientationPatient",
            code="bad-geometry",
        )
    if not all(abs(mm) < _FARTHEST_MM for mm in position):
        raise CaseError(
            f"image position is not within {_FARTHEST_MM:g} mm of the origin",
            hint="check ImagePositionPatient",
            code="bad-geometry",
        )
    return Plane(np.array(position), np.array(down) / lengths[1], np.array(right) / lengths[0], spacing)


def _numbers(holders: Sequence[Dataset], where: tuple[str, str], count: int) -> tuple[float, ...] | None:
    """``count`` numbers of an element that stands in a functional group, at top level, or in the detector's item."""
    group, name = where
    found = decimals(macro(holders, group) or holders[-1], name)
    if len(found) != count and (detector := macro(holders, "DetectorInformationSequence")) is not None:
        found = decimals(detector, name)
    return found if len(found) == count else None


def _moved(plane: Plane, mm: float) -> Plane:
    return Plane(plane.position_mm + mm * plane.normal, plane.down, plane.right, plane.spacing_mm)


def _ultrasound_spacing(dataset: Dataset) -> tuple[float, float] | None:
    """Spacing where all calibrated regions of an ultrasound image agree (PS3.3 C.8.5.5)."""
    found = {
        (abs(float(region.PhysicalDeltaY)) * _MM_PER_CM, abs(float(region.PhysicalDeltaX)) * _MM_PER_CM)
        for region in items(dataset, "SequenceOfUltrasoundRegions")
        if region.get("PhysicalUnitsXDirection") == region.get("PhysicalUnitsYDirection") == _CENTIMETRES
    }
    return found.pop() if len(found) == 1 and min(next(iter(found))) > 0 else None
