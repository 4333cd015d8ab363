"""What a site adds to a sum, and the form in which it leaves: under masks.

Promises
- ``Held`` is one site's answer to one question, integers only: values within ``peak``, to be weighted, and counts,
  which are added as they are. It stays at the site.
- ``masked`` and ``parts`` are inverse: values packed in the width of the ring, then counts as little-endian words of 64
  bits. ``parts`` checks the lengths before it reads ("masked-shape").
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from shared.errors import ProtocolError, UpdateRejected
from shared.messages import Masked
from shared.secure.papers import MOST_WEIGHT, Offer
from shared.secure.ring import pack, packed_bytes, unpack

Words = NDArray[np.uint32]
LongWords = NDArray[np.uint64]


@dataclass(frozen=True, slots=True)
class Shape:
    """What all answers to one question have in common.

    Attributes:
        values: how many.
        counts: how many.
        peak: most that a value may be, either sign.
        definition: digest of what they mean.
    """

    values: int
    counts: int
    peak: int
    definition: str

    @classmethod
    def of(cls, offer: Offer) -> Shape:
        """What ``offer`` announces."""
        return cls(offer.values, offer.counts, offer.peak, offer.definition)


@dataclass(frozen=True, slots=True, eq=False)
class Held:
    """A site's answer to a question.

    Attributes:
        values: shape (P,), int32, each in [-peak, peak]; weighted in the sum. P may be 0.
        counts: shape (C,), int64; added without weights. C may be 0.
        weight: 1 to ``MOST_WEIGHT``.
        peak: see ``values``.
        definition: digest of what values and counts mean: equal at all sites.
    """

    values: NDArray[np.int32] = field(repr=False)
    counts: NDArray[np.int64] = field(repr=False)
    weight: int
    peak: int
    definition: str

    def __post_init__(self) -> None:
        """Refuse what a plan does not let into a sum: nobody could see it there."""
        values = self.values
        if not 1 <= self.weight <= MOST_WEIGHT:
            raise UpdateRejected(
                f"a weight of {self.weight} is none: it is 1 to {MOST_WEIGHT}",
                hint="leave sites without patients out of the round",
                code="update-weight",
            )
        if values.size and not (-self.peak <= int(values.min()) and int(values.max()) <= self.peak):
            raise UpdateRejected(
                f"values lie beyond the {self.peak} that the plan's fixed point allows",
                hint="clip the update before it is summed: under masks nobody else can",
                code="update-range",
            )

    @property
    def shape(self) -> Shape:
        """What it has in common with the others'."""
        return Shape(self.values.size, self.counts.size, self.peak, self.definition)

    def same(self, other: Held) -> bool:
        """The same answer, number by number."""
        return (
            (self.shape, self.weight) == (other.shape, other.weight)
            and np.array_equal(self.values, other.values)
            and np.array_equal(self.counts, other.counts)
        )


def masked(values: Words, counts: LongWords, bits: int, signature: str) -> Masked:
    """The message with masked ``values``, residues modulo 2**bits, and masked ``counts``."""
    content = np.empty(packed_bytes(values.size, bits) + 8 * counts.size, np.uint8)
    split = content.size - 8 * counts.size
    content[:split] = pack(values, bits)
    content[split:] = counts.astype("<u8", copy=False).view(np.uint8)
    return Masked(content, bits, values.size, counts.size, signature)


def parts(message: Masked) -> tuple[Words, LongWords]:
    """Inverse of ``masked``; raises ``ProtocolError``: "masked-shape", or what ``ring.unpack`` finds."""
    split = packed_bytes(message.values, message.bits)
    if message.content.shape != (split + 8 * message.counts,):
        raise ProtocolError(
            f"{message.content.size} bytes do not hold {message.values} masked values of {message.bits} bits and "
            f"{message.counts} counts",
            hint="run the same version everywhere; if they agree, ask this site",
            code="masked-shape",
        )
    values = unpack(message.content[:split], message.bits, message.values)
    return values, np.frombuffer(message.content[split:].tobytes(), "<u8").astype(np.uint64, copy=False)
