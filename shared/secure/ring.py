"""Integers modulo 2**bits: what is masked, added up and sent.

Promises
- A sum cannot overflow. Let site i hold values x_i in [-p, p] and a weight w_i >= 0, and let W be the sum of the
  weights. The sum S = w_1 x_1 + ... + w_n x_n over any of the sites lies in [-pW, pW], which are 2pW + 1 integers.
  ``bits_for`` takes the least b with 2pW + 1 <= 2**b. So no two of them leave the same remainder, and
  pW <= 2**(b - 1) - 1: the integer in [-2**(b - 1), 2**(b - 1)) that ``lift`` picks is S. In which order and how often
  anybody reduced on the way does not matter: remainders of a sum are sums of remainders.
- Fewer bits divide more: 2**b divides 2**32, so a word of 32 bits may carry anything above its low b bits until the
  end. ``pack`` and ``lift`` look at the low b bits alone.
- ``pack`` and ``unpack`` are inverse on residues, and the same bytes on machines of any byte order. Residues have one
  packed form: bits that only fill up a byte are zero, or ``unpack`` refuses them.
- Counts take 64 bits: sums in [-2**63, 2**63), which no number of patients or pixels reaches.

The packed form is one of planes, one after the other, each of all values and each filled up to a whole byte. At 32 bits
there is one, of little-endian words. Below, the low 16 bits are little-endian words; then, as
b - 16 = 8c + 4d + 2e + f has them, come the next 8, 4, 2 and 1 bits, the first value in the lowest bits of a byte. 21
bits are planes of 16, 4 and 1: no more bytes than fields of 21 bits in a row, and no field that crosses a byte.

Who may hold which values and weights is decided before (``shared.secure.held``); whether a plan fits, by ``bits_for``.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from shared.errors import PlanError, ProtocolError

LEAST_BITS = 16
MOST_BITS = 32

BLOCK = 2**16
"""Values worked on at a time: a multiple of 8, so that a block ends with a byte in every plane."""

Words = NDArray[np.uint32]
Octets = NDArray[np.uint8]


def bits_for(peak: int, weights: int) -> int:
    """The least width, 16 to 32 bits, in which sums of values up to ``peak`` under ``weights`` in all are told apart.

    Args:
        peak: most that a value may be, either sign (``fixed_point.peak``).
        weights: the sum of the weights of all sites that may take part.

    Raises:
        PlanError: "ring", where it takes more than 32 bits.
    """
    if peak < 0 or weights < 0:
        raise ValueError(f"a peak of {peak} and weights of {weights} in all: neither can be negative")
    # 2pW + 1 <= 2**b says 2pW < 2**b, and that is what the length of a number in bits counts.
    bits = max(LEAST_BITS, (2 * peak * weights).bit_length())
    if bits > MOST_BITS:
        raise PlanError(
            f"sums of values up to {peak} under weights of {weights} in all need {bits} bits, masks have {MOST_BITS}",
            hint=f"lower aggregation.fixed_point.bits by {bits - MOST_BITS} or more, or the weights",
            code="ring",
        )
    return bits


def to_ring(values: NDArray[np.int32], weight: int, bits: int) -> Words:
    """``weight * values`` modulo 2**``bits``, shape (P,), uint32."""
    _require(values, np.int32)
    residues, source = np.empty(values.size, np.uint32), values.view(np.uint32)
    factor, most = np.uint32(weight % 2**MOST_BITS), _most(bits)
    for part in _blocks(values.size):
        np.multiply(source[part], factor, out=residues[part])
        np.bitwise_and(residues[part], most, out=residues[part])
    return residues


def lift(total: Words, bits: int) -> NDArray[np.int64]:
    """The integer in [-2**(bits - 1), 2**(bits - 1)) with each remainder, shape (P,), int64."""
    _require(total, np.uint32)
    _most(bits)
    lifted, up = np.empty(total.size, np.int64), MOST_BITS - bits
    for part in _blocks(total.size):
        # Up and down again: the arithmetic shift repeats the sign.
        lifted[part] = np.right_shift(np.left_shift(total[part], np.uint32(up)).view(np.int32), np.int32(up))
    return lifted


def lift_counts(total: NDArray[np.uint64]) -> NDArray[np.int64]:
    """The integer in [-2**63, 2**63) with each remainder modulo 2**64, shape (C,), int64."""
    _require(total, np.uint64)
    return total.astype(np.int64)


def packed_bytes(length: int, bits: int) -> int:
    """How many bytes ``pack`` makes of ``length`` values."""
    return sum(_octets(length, width) for _, width in _planes(bits))


def pack(values: Words, bits: int) -> Octets:
    """The low ``bits`` bits of ``values``, shape (P,) to (packed_bytes,), uint8; the form is in the module's text."""
    _require(values, np.uint32)
    data = np.empty(packed_bytes(values.size, bits), np.uint8)
    for part in _blocks(values.size):
        start = 0
        for shift, width in _planes(bits):
            place = slice(start + _octets(part.start, width), start + _octets(part.stop, width))
            data[place] = _squeezed(values[part], shift, width)
            start += _octets(values.size, width)
    return data


def unpack(data: Octets, bits: int, length: int) -> Words:
    """Inverse of ``pack``: shape (``length``,), uint32, each below 2**``bits``.

    Raises:
        ProtocolError: "ring-bits" for another width than 16 to 32, "ring-length" for another number of bytes, and
            "ring-padding" where bits that fill up a byte are set.
    """
    _require(data, np.uint8)
    if data.size != packed_bytes(length, bits):
        raise ProtocolError(
            f"{data.size} bytes do not hold {length} values of {bits} bits, which take {packed_bytes(length, bits)}",
            hint="run the same version everywhere; if they agree, ask this site",
            code="ring-length",
        )
    data = np.ascontiguousarray(data)
    _require_padding(data, bits, length)
    values = np.empty(length, np.uint32)
    for part in _blocks(length):
        start = 0
        for shift, width in _planes(bits):
            place = slice(start + _octets(part.start, width), start + _octets(part.stop, width))
            _spread(data[place], values[part], shift, width)
            start += _octets(length, width)
    return values


def _planes(bits: int) -> tuple[tuple[int, int], ...]:
    """Lowest bit and width of each plane."""
    _most(bits)
    if bits == MOST_BITS:
        return ((0, MOST_BITS),)
    planes, shift = [(0, LEAST_BITS)], LEAST_BITS
    for width in (8, 4, 2, 1):
        if (bits - LEAST_BITS) & width:
            planes.append((shift, width))
            shift += width
    return tuple(planes)


def _octets(length: int, width: int) -> int:
    return -(-length * width // 8)


def _squeezed(values: Words, shift: int, width: int) -> Octets:
    """Bits ``shift`` to ``shift + width`` of each value of a block, side by side."""
    if width >= 8:
        return np.right_shift(values, np.uint32(shift)).astype(f"<u{width // 8}").view(np.uint8)
    fields = np.zeros(-(-values.size // 8) * 8, np.uint8)
    fields[: values.size] = np.right_shift(values, np.uint32(shift))
    np.bitwise_and(fields, np.uint8((1 << width) - 1), out=fields)
    if width == 1:
        return np.packbits(fields, bitorder="little")[: _octets(values.size, 1)]
    # Fields lie 8 bits apart in a word; shifted by 8 - width each, the second, third and fourth join the first.
    wide = fields.view(f"<u{8 // width}")
    joined = wide.copy()
    for field in range(1, 8 // width):
        joined |= wide >> wide.dtype.type(field * (8 - width))
    return joined.astype(np.uint8)[: _octets(values.size, width)]


def _spread(data: Octets, values: Words, shift: int, width: int) -> None:
    """Inverse of ``_squeezed``: put a plane's bits into ``values``; the lowest plane sets the others to zero."""
    fields = data.view(f"<u{width // 8}") if width >= 8 else _fields(data, width)[: values.size]
    if shift == 0:
        values[:] = fields
    else:
        values |= np.left_shift(fields, np.uint32(shift), dtype=np.uint32)


def _fields(data: Octets, width: int) -> Octets:
    """Each field of ``width`` bits as a byte of its own."""
    if width == 1:
        return np.unpackbits(data, bitorder="little")
    wide = data.astype(f"<u{8 // width}")
    spread = wide.copy()
    for field in range(1, 8 // width):
        spread |= wide << wide.dtype.type(field * (8 - width))
    return spread.view(np.uint8) & np.uint8((1 << width) - 1)


def _require_padding(data: Octets, bits: int, length: int) -> None:
    """A second form of the same values would let two messages differ that say the same."""
    end = 0
    for _, width in _planes(bits):
        end += _octets(length, width)
        used = length * width % 8
        if used and int(data[end - 1]) >> used:
            raise ProtocolError(
                f"{length} values of {bits} bits are followed by bits that are not zero",
                hint="run the same version everywhere; if they agree, ask this site",
                code="ring-padding",
            )


def _most(bits: int) -> np.uint32:
    """The largest residue; raises ``ProtocolError`` ("ring-bits")."""
    if not LEAST_BITS <= bits <= MOST_BITS:
        raise ProtocolError(
            f"sums have {LEAST_BITS} to {MOST_BITS} bits, not {bits}",
            hint="run the same version everywhere",
            code="ring-bits",
        )
    return np.uint32((1 << bits) - 1)


def _require(values: NDArray[np.generic], kind: type[np.generic]) -> None:
    if values.ndim != 1 or values.dtype != kind:
        raise ValueError(f"a vector of {np.dtype(kind)} is needed, not {values.dtype} with {values.ndim} axes")


def _blocks(length: int) -> Iterator[slice]:
    return (slice(start, min(start + BLOCK, length)) for start in range(0, length, BLOCK))
