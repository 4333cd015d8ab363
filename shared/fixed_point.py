"""Changes of parameters as integers that add up exactly.

Promises
- The fixed-point grid is a power of two (``resolution``). Scaling by it is exact in IEEE arithmetic, so float32 and
  float64 input, any CPU and any block size give the same integers, and no site can round differently from another.
- A change that is not finite never becomes an integer: it raises ``UpdateRejected``.
- ``pack`` and ``unpack`` are inverse, and the same bytes on machines of any byte order.

Error bounds, with r = ``resolution`` and p = ``peak`` of the plan's fixed point:

=====================  ===========================================================================
change x               what ``dequantise(quantise(x))`` gives
=====================  ===========================================================================
x in [-p*r, p*r]       within r / 2 of x; x itself where x is a multiple of r (ties go to even)
the same, stochastic   one of the two neighbours on the grid, x on average: within r of x
x beyond it            p * r with the sign of x, and the parameter is counted as saturated
NaN or infinite        ``UpdateRejected``
=====================  ===========================================================================

p * r lies in (R * (1 - 2**-(b - 2)), R] for a range of R and b bits up to 24, in (R * (1 - 2**-22), R] for more.

Stochastic rounding (Gupta et al., ICML 2015) is for few bits: many sites' and rounds' errors cancel, where rounding to
the nearest would lose every change below r / 2 for ever. What it draws is of the plan's seed, so a run repeats itself.

Needs numpy alone, so that the relay can use it. What a site may send, and what weight it has, is decided elsewhere.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from shared.errors import PlanError, ProtocolError, UpdateRejected
from shared.messages import Bits
from shared.plan import FixedPoint

Reals = NDArray[np.float32] | NDArray[np.float64]
Integers = NDArray[np.int32]

WIDTHS = range(8, 33)
"""Bits that an integer may have, with its sign."""

BLOCK = 2**18
"""Values worked on at a time: 1 MiB of float32, which stays in cache between the steps (4 to 5 times faster)."""

_NO_TYPE = 3
"""Bytes of an integer that numpy has no type for."""

# Outside these, scaling by 1 / resolution could leave the exponents of float32.
SMALLEST_RANGE, LARGEST_RANGE = 2.0**-64, 2.0**64


def resolution(fixed_point: FixedPoint) -> float:
    """Distance of neighbouring points of the grid: the least power of two with which ``bits`` bits span the range.

    The range rounded up to a power of two, divided by 2**(bits - 1): 2**-29 for a range of 4 and 32 bits.
    """
    if not SMALLEST_RANGE <= fixed_point.range <= LARGEST_RANGE:
        raise PlanError(
            f"fixed_point.range is {fixed_point.range:g}, which float32 updates cannot use",
            hint="choose a range between 1e-19 and 1e19; 4.0 suits most networks",
        )
    mantissa, exponent = math.frexp(fixed_point.range)
    return math.ldexp(1.0, exponent - (mantissa == 0.5) - (fixed_point.bits - 1))


def peak(fixed_point: FixedPoint) -> int:
    """Largest integer an update may hold: within the range, within the bits, and a float32 without rounding.

    The last clause clears all but the 24 leading bits, so that float32 and float64 saturate at the same integer.
    """
    largest = min(int(fixed_point.range / resolution(fixed_point)), (1 << fixed_point.bits - 1) - 1)
    spare = max(0, largest.bit_length() - 24)
    return (largest >> spare) << spare


def quantise(change: Reals, fixed_point: FixedPoint, rng: np.random.Generator | None = None) -> tuple[Integers, int]:
    """Round a change to the grid, and count the parameters that were clipped; see the module for the error bounds.

    Args:
        change: trained minus received weights, shape (P,), float32 or float64.
        fixed_point: the plan's range, bits and rounding.
        rng: what stochastic rounding draws from; not used by rounding to the nearest.

    Returns:
        Integers of shape (P,), int32, in [-peak, peak], and the number of saturated parameters.

    Raises:
        UpdateRejected: the change holds values that are not finite, or is no vector of reals.
    """
    if change.ndim != 1 or change.dtype not in (np.float32, np.float64):
        kind = f"{change.dtype} with {change.ndim} axes"
        raise UpdateRejected(f"a change is a float32 or float64 vector, not {kind}", code="update-type")
    scale, limit = 1.0 / resolution(fixed_point), peak(fixed_point)
    values = np.empty(change.size, np.int32)
    # Float32 has no room for a fraction beside an integer of more than 23 bits.
    stochastic = fixed_point.rounding == "stochastic"
    scratch: Reals = np.empty(min(BLOCK, change.size), np.float64 if stochastic else change.dtype)
    saturated = 0
    with np.errstate(over="ignore", invalid="ignore"):
        for part in _blocks(change.size):
            grid = scratch[: part.stop - part.start]
            np.multiply(change[part], scale, out=grid)
            _round(grid, rng if stochastic else None)
            # Written so that NaN, which fails every comparison, takes the slow path too.
            if not (-limit <= grid.min() and grid.max() <= limit):
                saturated += _saturate(change[part], grid, limit)
            values[part] = grid
    return values, saturated


def dequantise(values: Integers, fixed_point: FixedPoint) -> NDArray[np.float64]:
    """The change that integers stand for, shape (P,), float64: exact, since the grid is a power of two."""
    return values * np.float64(resolution(fixed_point))


def packed_width(bits: Bits) -> int:
    """Bytes of an integer of ``bits`` bits where it is written by itself."""
    return -(-bits // 8)


def pack(values: Integers, bits: Bits) -> bytes:
    """Integers as little-endian two's complement, ``packed_width`` bytes each: what crosses the network.

    Raises:
        ProtocolError: a value needs more than ``bits`` bits.
    """
    _require_within(values, bits)
    if (width := packed_width(bits)) != _NO_TYPE:
        return values.astype(f"<i{width}", copy=False).tobytes()
    wide = values.astype("<i4", copy=False).view(np.uint8).reshape(-1, 4)
    packed = np.empty((values.size, 3), np.uint8)
    # One strided copy for each byte is 4 times faster than one of rows of three.
    for byte in range(3):
        packed[:, byte] = wide[:, byte]
    return packed.tobytes()


def unpack(data: bytes, bits: Bits) -> Integers:
    """Inverse of ``pack``, shape (P,), int32; at 32 bits a read-only view of ``data``.

    Raises:
        ProtocolError: the number of bytes is no multiple of ``packed_width``, or a value needs more than ``bits`` bits.
    """
    width = packed_width(bits)
    if len(data) % width:
        raise ProtocolError(f"{len(data)} bytes are no whole number of {bits}-bit integers", code="update-length")
    if width != _NO_TYPE:
        values = np.frombuffer(data, f"<i{width}").astype(np.int32, copy=False)
    else:
        values = _of_three_bytes(np.frombuffer(data, np.uint8).reshape(-1, _NO_TYPE))
    if bits < 8 * width:
        _require_within(values, bits)
    return values


def _of_three_bytes(packed: NDArray[np.uint8]) -> Integers:
    values = np.zeros(len(packed), "<i4")
    wide = values.view(np.uint8).reshape(-1, 4)
    for byte in range(_NO_TYPE):
        wide[:, byte + 1] = packed[:, byte]
    # The three bytes lie in the upper part of four: shifting them down extends the sign.
    np.right_shift(values, 8, out=values)
    return values.astype(np.int32, copy=False)


def _require_within(values: Integers, bits: Bits) -> None:
    bound = 1 << bits - 1
    if values.size and not (-bound <= values.min() and values.max() < bound):
        raise ProtocolError(f"an update holds integers that do not fit {bits} bits", code="update-range")


def _round(grid: Reals, rng: np.random.Generator | None) -> None:
    """To the nearest integer in place, or, with ``rng``, to a neighbour at random so that the mean is kept."""
    if rng is None:
        np.rint(grid, out=grid)
        return
    # Adding the draw to a large integer would round it up to the next now and then.
    below = np.floor(grid)
    np.subtract(grid, below, out=grid)
    np.add(below, rng.random(grid.size) < grid, out=grid)


def _blocks(length: int) -> Iterator[slice]:
    return (slice(start, min(start + BLOCK, length)) for start in range(0, length, BLOCK))


def _saturate(change: Reals, grid: Reals, limit: int) -> int:
    """Clip ``grid`` in place and count what that changed; raises ``UpdateRejected`` for NaN and infinity."""
    finite = np.isfinite(change)
    if not finite.all():
        raise UpdateRejected(
            f"the change of {int(np.count_nonzero(~finite))} or more parameters is not finite",
            hint="lower the learning rate or set gradient_clip",
            code="update-not-finite",
        )
    beyond = int(np.count_nonzero(np.abs(grid) > limit))
    np.clip(grid, -limit, limit, out=grid)
    return beyond
