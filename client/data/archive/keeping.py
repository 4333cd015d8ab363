"""How a case's voxels and mask become bytes of a segment, and an array again.

Promises
- Lossless to the bit: what is widened equals what was given, -0.0 included; what no integer type holds exactly stays
  float32. The narrowest that fits is taken, of two equally narrow the unsigned one.

  ======================================  ========
  values                                  kept as
  ======================================  ========
  0, 1, ..., 255                          uint8
  0, 1, ..., 65535                        uint16
  -32768, ..., 32767                      int16
  a fraction, a larger value, -0.0        float32
  NaN or infinite (``Image`` has none)    float32
  ======================================  ========

- A box is read without the rest: a view of all it spans where that costs nothing, else line by line, plane by plane, so
  that sealed chunks are opened once, and only those that are needed.
- Numbers are little-endian, voxels lie as in ``Image`` (C, *spatial), the mask follows at once.
"""

from __future__ import annotations

import hashlib
import math
import operator
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from client.data.archive.record import Kept, Location, Record
from client.data.archive.segments import Segments, SegmentWriter
from shared.preprocessing.image import FloatArray, Image, MaskArray

DTYPES: dict[Kept, str] = {"uint8": "|u1", "uint16": "<u2", "int16": "<i2", "float32": "<f4"}
# Between them they hold what uint8 holds; that it would do is told from what one of them made.
_TRIED: tuple[Kept, ...] = ("int16", "uint16")
# Values that stay in the second-level cache between their two conversions.
_BLOCK = 2**16
_HASHED_AT_ONCE = 2**22

Scalar = TypeVar("Scalar", np.float32, np.uint8)


@dataclass(frozen=True, slots=True)
class Written:
    """What a record says about stored bytes: see ``Record``."""

    kept: Kept
    sha256: str
    location: Location


@dataclass(frozen=True, slots=True)
class Stored(Generic[Scalar]):
    """An array in a segment.

    Attributes:
        location: of its first byte.
        shape: of the array, C order.
        dtype: of a number as it is stored.
        read_as: the type it is given out as, which holds every stored value exactly.
    """

    location: Location
    shape: tuple[int, ...]
    dtype: np.dtype[np.generic]
    read_as: type[Scalar]

    @property
    def strides(self) -> tuple[int, ...]:
        """Bytes from one index of each axis to the next."""
        sizes = (math.prod(self.shape[axis + 1 :]) for axis in range(len(self.shape)))
        return tuple(self.dtype.itemsize * size for size in sizes)


def write_case(writer: SegmentWriter, image: Image, mask: MaskArray | None) -> Written:
    """Append a case; it may be referred to after ``writer.flush()``. Raises ``CapacityError``."""
    kept, voxels = narrowed(image.voxels)
    parts = [_bytes(voxels)] + ([] if mask is None else [_bytes(np.ascontiguousarray(mask, np.uint8))])
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part)
    return Written(kept, digest.hexdigest(), Location(writer.number, writer.append(*parts)))


def narrowed(voxels: FloatArray) -> tuple[Kept, NDArray[np.generic]]:
    """``voxels`` in the narrowest type that holds each exactly, and its name."""
    whole = np.ascontiguousarray(voxels, DTYPES["float32"])
    for kept in _TRIED:
        if (narrow := _exactly(whole, np.dtype(DTYPES[kept]))) is not None:
            return _narrower(kept, narrow)
    return "float32", whole


def _exactly(voxels: FloatArray, dtype: np.dtype[np.generic]) -> NDArray[np.generic] | None:
    """``voxels`` as ``dtype``; None, at the first block, where a bit would change."""
    flat = voxels.reshape(-1)
    narrow = np.empty(flat.shape, dtype)
    # What the type cannot hold becomes any number, and that is not what was given.
    with np.errstate(invalid="ignore"):
        for start in range(0, flat.size, _BLOCK):
            block = flat[start : start + _BLOCK]
            part = narrow[start : start + _BLOCK]
            part[:] = block
            # Bits, not values: -0.0 equals 0.0.
            if not np.array_equal(part.astype(np.float32).view(np.uint32), block.view(np.uint32)):
                return None
    return narrow.reshape(voxels.shape)


def _narrower(kept: Kept, narrow: NDArray[np.generic]) -> tuple[Kept, NDArray[np.generic]]:
    """Integers in the narrowest type that holds them."""
    if kept == "int16" and narrow.min() < 0:
        return kept, narrow
    if narrow.max() <= np.iinfo(np.uint8).max:
        return "uint8", narrow.astype(DTYPES["uint8"])
    return "uint16", narrow.view(DTYPES["uint16"])


def stored_voxels(record: Record) -> Stored[np.float32]:
    """Where a case's voxels lie, shape (C, *spatial)."""
    return Stored(record.location, record.shape, np.dtype(DTYPES[record.kept]), np.float32)


def stored_mask(record: Record) -> Stored[np.uint8]:
    """Where a case's mask lies, shape (*spatial); only of a record that has one."""
    location = Location(record.location.segment, record.location.offset + record.voxel_bytes)
    return Stored(location, record.shape[1:], np.dtype(np.uint8), np.uint8)


def digest(segments: Segments, record: Record) -> str:
    """SHA-256 of a case's bytes as they are now, 64 hexadecimal digits; raises ``SiteDataError``."""
    found, end = hashlib.sha256(), record.voxel_bytes + record.mask_bytes
    for start in range(0, end, _HASHED_AT_ONCE):
        length = min(_HASHED_AT_ONCE, end - start)
        found.update(segments.view(record.location.segment, record.location.offset + start, length))
    return found.hexdigest()


def read_whole(segments: Segments, stored: Stored[Scalar]) -> NDArray[Scalar]:
    """The array; a read-only view of the mapped file where it is plain and stored as it is given out."""
    length = stored.dtype.itemsize * math.prod(stored.shape)
    buffer = segments.view(stored.location.segment, stored.location.offset, length)
    return np.frombuffer(buffer, stored.dtype).reshape(stored.shape).astype(stored.read_as, copy=False)


def read_box(segments: Segments, stored: Stored[Scalar], start: Sequence[int], size: Sequence[int]) -> NDArray[Scalar]:
    """A copy of the box of ``size`` that begins at ``start``, one entry per axis of ``stored``.

    Raises:
        ValueError: the box is empty or reaches outside.
        SiteDataError: the bytes are not there, or do not open.
    """
    _require_inside(stored.shape, start, size)
    single = _axes_one_by_one(segments.worth_skipping, stored, size)
    strides, inner = stored.strides, tuple(size[single:])
    span = _span(stored, size, single)
    corner = stored.location.offset + _offset(start, strides)
    box = np.empty(tuple(size), stored.dtype)
    for index in np.ndindex(*size[:single]):
        run = segments.view(stored.location.segment, corner + _offset(index, strides), span)
        # The bytes between the box's lines are spanned, but not touched.
        box[index] = np.ndarray(inner, stored.dtype, run, 0, strides[single:])
    # Widened when it is dense: twice as fast as line by line.
    return box.astype(stored.read_as, copy=False)


def _axes_one_by_one(worth_skipping: float, stored: Stored[Scalar], size: Sequence[int]) -> int:
    """How many leading axes to walk along, so that every gap between two runs is worth skipping.

    Gaps shrink from axis to axis, so the largest such number loses nothing; with gaps of at least a chunk no two runs
    share one.
    """
    single = 0
    while single < len(size) - 1 and stored.strides[single] - _span(stored, size, single + 1) >= worth_skipping:
        single += 1
    return single


def _span(stored: Stored[Scalar], size: Sequence[int], axis: int) -> int:
    """Bytes from the first to the last number of a box in the axes from ``axis`` on."""
    steps = [extent - 1 for extent in size[axis:]]
    return _offset(steps, stored.strides[axis:]) + stored.dtype.itemsize


def _offset(index: Sequence[int], strides: Sequence[int]) -> int:
    return sum(map(operator.mul, index, strides))


def _require_inside(shape: Sequence[int], start: Sequence[int], size: Sequence[int]) -> None:
    bounds = zip(shape, start, size, strict=True)
    if not all(first >= 0 and extent > 0 and first + extent <= whole for whole, first, extent in bounds):
        raise ValueError(f"the box of {tuple(size)} at {tuple(start)} does not lie within {tuple(shape)}")


def _bytes(array: NDArray[np.generic]) -> memoryview:
    return array.reshape(-1).view(np.uint8).data
