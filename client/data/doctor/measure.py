"""What a data doctor needs to know about one image and its mask; a pure function of the two.

Promises
- ``measure`` looks at every voxel a fixed number of times; its memory does not exceed a few planes and a grey copy.
- A measurement is a few hundred bytes of numbers, a digest and a thumbnail: enough to compare every case with every
  other without reading an image again. As text it carries the version of these definitions, so that what an older
  version measured is measured anew.
- The thumbnail does not change when an image is enlarged, reduced, recompressed, or made brighter or richer in contrast
  by a linear map, but for rounding: it is an exact mean over areas, stretched to its own extremes.

The thumbnail shows a person's image. A measurement stays at the site, as the images do.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from shared.preprocessing.image import FloatArray, Image, MaskArray

VERSION = 1
MANY_VALUES = 257
"""Distinct values are counted up to here: one more than 8 bits can tell apart."""
TINY_VOXELS = 4
"""An island of at most this many voxels is taken for a slip of the hand; a lesion of 2 mm on a 1 mm grid has 4."""

THUMBNAIL = {2: (16, 16), 3: (4, 8, 8)}
"""Shape of a thumbnail by number of spatial axes: 256 values either way."""

_BLOCK = 2**20
_SAMPLE = 4096
_ROUNDING = 1e-5  # of sums in single precision: what differs by less is one grey
_WIDEST = 2**16  # whole numbers over a wider range than 16 bits are sorted instead of counted


@dataclass(frozen=True, slots=True)
class MaskMeasurement:
    """What there is to say about a mask.

    Attributes:
        classes: (class index, voxels) of each class but the background, ascending.
        islands: connected parts (faces touching) of all classes.
        tiny_islands: those of at most ``TINY_VOXELS`` voxels, where their class has a larger one.
        full: whether no voxel is background.
        at_border: whether a foreground voxel lies at the edge of the image's rows or columns.
    """

    classes: tuple[tuple[int, int], ...]
    islands: int
    tiny_islands: int
    full: bool
    at_border: bool


@dataclass(frozen=True, slots=True)
class Measurement:
    """What there is to say about one case.

    Attributes:
        digest: SHA-256 over shape and voxels as float32: equal for equal images, however they are stored.
        low: smallest value, as all values in the image's own unit (Hounsfield units for CT).
        high: largest value.
        mean: over all voxels and channels.
        deviation: standard deviation, likewise.
        at_low: share of voxels that equal ``low``.
        at_high: share of voxels that equal ``high``.
        values: number of distinct values, ``MANY_VALUES`` where there are at least as many.
        border: mean grey value of a frame, a sixteenth of the edge wide, around rows and columns.
        centre: mean grey value of the middle half of rows and columns.
        thumbnail: 256 grey values from 0 to 255 as hexadecimal digits, in the shape of ``THUMBNAIL``.
        mask: None where the case has none.
    """

    digest: str
    low: float
    high: float
    mean: float
    deviation: float
    at_low: float
    at_high: float
    values: int
    border: float
    centre: float
    thumbnail: str
    mask: MaskMeasurement | None


def measure(image: Image, mask: MaskArray | None) -> Measurement:
    """Everything about one case; see ``Measurement``."""
    voxels = image.voxels
    low, high = float(voxels.min()), float(voxels.max())
    mean = float(voxels.mean(dtype=np.float64))
    grey = voxels[0] if len(voxels) == 1 else voxels.mean(axis=0)
    border, centre = _border_and_centre(grey)
    return Measurement(
        digest=_digest(voxels),
        low=low,
        high=high,
        mean=mean,
        deviation=_deviation(voxels, mean),
        at_low=np.count_nonzero(voxels == low) / voxels.size,
        at_high=np.count_nonzero(voxels == high) / voxels.size,
        values=_distinct(voxels, low, high),
        border=border,
        centre=centre,
        thumbnail=_thumbnail(grey).tobytes().hex(),
        mask=None if mask is None else measure_mask(mask),
    )


def measure_mask(mask: MaskArray) -> MaskMeasurement:
    """Classes, islands and place of a mask of shape (*spatial)."""
    counts = np.bincount(mask.ravel())
    classes = [int(index) for index in np.flatnonzero(counts) if index]
    sizes = [_island_sizes(mask, index, box) for index, box in enumerate(ndimage.find_objects(mask), 1) if box]
    edges = (mask[..., 0, :], mask[..., -1, :], mask[..., :, 0], mask[..., :, -1])
    return MaskMeasurement(
        classes=tuple((index, int(counts[index])) for index in classes),
        islands=sum(map(len, sizes)),
        tiny_islands=sum(int((one <= TINY_VOXELS).sum()) for one in sizes if one.max() > TINY_VOXELS),
        full=bool(counts[0] == 0),
        at_border=any(bool(edge.any()) for edge in edges),
    )


def to_text(measurement: Measurement) -> str:
    """One line of JSON, the version first."""
    return json.dumps({"version": VERSION, **asdict(measurement)}, separators=(",", ":"))


def is_current(text: str) -> bool:
    """Whether this version of these definitions wrote ``text``."""
    return text.startswith(f'{{"version":{VERSION},')


def from_text(text: str) -> Measurement | None:
    """What ``to_text`` wrote; None where another version of these definitions wrote it."""
    if not is_current(text):
        return None
    said = json.loads(text)
    mask = said.pop("mask")
    del said["version"]
    if mask is not None:
        mask = MaskMeasurement(**mask | {"classes": tuple(map(tuple, mask["classes"]))})
    return Measurement(**said, mask=mask)


def area_mean(values: FloatArray, shape: Sequence[int]) -> FloatArray:
    """``values`` on a grid of ``shape``: each cell the mean over the part of the image that it covers, exactly."""
    for axis in reversed(range(values.ndim)):
        weights = _weights(values.shape[axis], shape[axis])
        values = np.moveaxis(np.tensordot(values, weights, axes=(axis, 1)), -1, axis)
    return np.ascontiguousarray(values)


@lru_cache(maxsize=64)
def _weights(old: int, new: int) -> FloatArray:
    """Row i holds the share of each of ``old`` cells in the i-th of ``new`` equal intervals."""
    edges = np.linspace(0, old, new + 1)
    cells = np.arange(old)
    overlap = np.minimum(edges[1:, None], cells + 1) - np.maximum(edges[:-1, None], cells)
    return np.asarray(overlap.clip(0) * new / old, np.float32)


def _digest(voxels: FloatArray) -> str:
    digest = hashlib.sha256(repr(voxels.shape).encode())
    for block in _blocks(voxels):
        # Adding 0 makes -0.0 a 0.0: the two are equal, and storage in integers keeps one of them.
        digest.update((block + np.float32(0)).data)
    return digest.hexdigest()


def _deviation(voxels: FloatArray, mean: float) -> float:
    aside = (block - np.float64(mean) for block in _blocks(voxels))
    return float(np.sqrt(sum(float(block @ block) for block in aside) / voxels.size))


def _blocks(voxels: FloatArray) -> Iterator[FloatArray]:
    flat = voxels.reshape(-1)
    return (flat[start : start + _BLOCK] for start in range(0, flat.size, _BLOCK))


def _distinct(voxels: FloatArray, low: float, high: float) -> int:
    flat = voxels.reshape(-1)
    sampled = np.unique(flat[:: max(1, flat.size // _SAMPLE)]).size
    if sampled >= MANY_VALUES:
        return MANY_VALUES
    if high - low < _WIDEST:
        steps = (flat - np.float32(low)).astype(np.uint16)
        if ((steps + np.float32(low)) == flat).all():
            return min(MANY_VALUES, int(np.count_nonzero(np.bincount(steps))))
    return min(MANY_VALUES, int(np.unique(flat).size))


def _border_and_centre(grey: FloatArray) -> tuple[float, float]:
    plane = grey if grey.ndim == 2 else grey.mean(axis=0, dtype=np.float64)
    rows, columns = plane.shape
    framed = np.ones(plane.shape, bool)
    high, wide = max(1, rows // 16), max(1, columns // 16)
    framed[high : rows - high, wide : columns - wide] = False
    middle = plane[rows // 4 : rows - rows // 4, columns // 4 : columns - columns // 4]
    return float(plane[framed].mean(dtype=np.float64)), float(middle.mean(dtype=np.float64))


def _thumbnail(grey: FloatArray) -> NDArray[np.uint8]:
    small = area_mean(grey, THUMBNAIL[grey.ndim]).astype(np.float64)
    low, high = small.min(), small.max()
    if high - low <= _ROUNDING * max(abs(low), abs(high)):
        return np.zeros(small.shape, np.uint8)
    return np.asarray(np.rint((small - low) * (255 / (high - low))), np.uint8)


def _island_sizes(mask: MaskArray, index: int, box: tuple[slice, ...]) -> NDArray[np.int64]:
    """Voxels of each connected part of one class; looked for where the class is."""
    parts, _ = ndimage.label(mask[box] == index)
    return np.bincount(parts.ravel())[1:]
