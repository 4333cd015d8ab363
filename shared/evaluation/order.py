"""What a site says of the order inside a bin of scores, so that ranks are known where bins are not fine enough.

Promises
- Two arrays add up beside each other modulo 2**52 (``additive.MODULUS``), and neither is counted by group of patients:

=======  ==========================  ==================================================================================
array    shape                       an integer holds
=======  ==========================  ==================================================================================
cells    (findings, bins)            22 bits of positives and 22 of negatives (``ranking.pack``): up to four million of
                                     each in a bin, over all sites; above them, the places in the bin of positives minus
                                     those of negatives, modulo 2**8. A place is one of at most 2**6 equal runs of the
                                     bin's float32
sums     (findings, bins / PATCH, 4)  of a *patch* of eight bins: sum and sum of squares of the positives' numbers among
                                     its float32, and the same of negatives
=======  ==========================  ==================================================================================

- ``ordered`` knows from them, with certainty and whatever the scores:

===================================  ===================================================================================
where                                why
===================================  ===================================================================================
each class of a patch has at most    two numbers follow from their sum and sum of squares; and n numbers are one and the
two cases, or cases of one score     same only if n times the sum of squares is the square of the sum (Cauchy-Schwarz).
                                     Of so many cases that a sum could pass the modulus (``_most``), nothing is believed
a lone case of a bin has one to      it is above all of them if its place exceeds the sum of theirs, counted from the
three rivals of the other class      bin's lower end, and below all if so from the upper end. Of one against one this
                                     decides always, but for equal places
a bin has one float32 only           it has but one score
===================================  ===================================================================================

- Every other bin with more than one case is loose.
- A score among few others is told to the last bit. It has no name beside it; sites whose scores are to stay rough ask
  for ``evaluation.release = "dp"``.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray

from shared.evaluation.additive import MODULUS, IntArray
from shared.evaluation.ranking import BoolArray, bin_of, edges_of, pack, unpack

PATCH = 8
"""Bins of a patch."""

_PLACES = 6
"""Bits of a place."""
_RIVALS = 3
"""Most cases against a lone one: the difference of places then fits into eight bits."""
CELL_BITS = 22
"""Bits of each count of a cell."""
_LAPS = 2**8
"""Modulus of places."""
_LAST = 0x3F800000
"""Number of 1.0 among the float32 from 0 on."""


@dataclass(frozen=True, eq=False)
class Ordered:
    """Histograms in which bins of known order are taken apart; each of shape (..., 2 * bins).

    Attributes:
        positives: cases by bin, lowest first; of a pair in known order, the lower case comes first.
        negatives: the same.
        loose: whether the order of a bin's cases is unknown.
        apart: whether its positives are known to have different scores.
    """

    positives: IntArray
    negatives: IntArray
    loose: BoolArray
    apart: BoolArray


def cell_rows(scores: NDArray[np.float32], positive: BoolArray, bins: int) -> IntArray:
    """What one case adds to cells, as (position when flat, amount) rows: shape (findings, 2)."""
    which, (first, size) = bin_of(scores, bins), _float32s(bins)
    place = (_numbers(scores) - first[which]) >> _shifts(size)[which]
    sign, yes = np.where(positive, 1, -1), positive.astype(np.int64)
    # Below zero too, the bits above the counts are those of the difference modulo any power of two.
    amount = pack(yes, 1 - yes, CELL_BITS) + ((sign * place) << 2 * CELL_BITS)
    return np.stack([np.arange(len(scores)) * bins + which, amount], axis=-1)


def sum_rows(scores: NDArray[np.float32], positive: BoolArray, bins: int) -> IntArray:
    """What one case adds to sums, as (position when flat, amount) rows: shape (2 * findings, 2)."""
    patches = bins // PATCH
    which = bin_of(scores, patches)
    number = _numbers(scores) - _float32s(patches)[0][which]
    at = 4 * (np.arange(len(scores)) * patches + which) + np.where(positive, 0, 2)
    return np.stack([np.concatenate([at, at + 1]), np.concatenate([number, number**2])], axis=-1)


def without_order(cells: IntArray) -> IntArray:
    """Cells whose places are forgotten, which may be added up over bins."""
    return cells & ((1 << 2 * CELL_BITS) - 1)


def ordered(cells: IntArray, sums: IntArray) -> Ordered:
    """What is known of the order of cases counted in ``cells`` (..., bins) and ``sums`` (..., bins / PATCH, 4)."""
    by_patch = (*sums.shape[:-1], PATCH)
    columns = [of.reshape(*by_patch[:-1], 2 * PATCH) for of in _by_place(cells)]
    positives, negatives = (of.reshape(by_patch).sum(axis=-1) for of in unpack(cells, CELL_BITS))
    most = _most(sums.shape[-2])
    scores = _scores(positives, sums[..., :2], most), _scores(negatives, sums[..., 2:], most)
    numbers = np.concatenate([of.numbers for of in scores], axis=-1)
    # Equal scores have the same column, and of four there are at most three below one.
    column = (numbers[..., None, :] < numbers[..., :, None]).sum(axis=-1)
    spread = column[..., None] == np.arange(2 * PATCH)
    known = (scores[0].known & scores[1].known)[..., None]
    placed = [
        (of.cases[..., None] * part).sum(axis=-2)
        for of, part in zip(scores, (spread[..., :2, :], spread[..., 2:, :]), strict=True)
    ]
    apart = (columns[0] == 2) & (scores[0].cases[..., 1:] == 1) & (numbers[..., :1] < numbers[..., 1:2])
    flat = (*cells.shape[:-1], -1)
    return Ordered(
        np.where(known, placed[0], columns[0]).reshape(flat),
        np.where(known, placed[1], columns[1]).reshape(flat),
        (columns[2].astype(np.bool_) & ~known).reshape(flat),
        (apart & ~known).reshape(flat),
    )


@dataclass(frozen=True, eq=False)
class _Scores:
    """The scores of one class in each patch: two numbers with their cases, shape (..., patches, 2); and if known."""

    numbers: IntArray
    cases: IntArray
    known: BoolArray


def _scores(cases: IntArray, sums: IntArray, most: IntArray) -> _Scores:
    total, squares = sums[..., 0], sums[..., 1]
    number, over = np.divmod(total, np.maximum(cases, 1))
    equal = (over == 0) & (cases * number**2 == squares) & (cases <= most)
    # Of two: the square of their distance.
    square = np.maximum(2 * squares - total**2, 0)
    distance = np.rint(np.sqrt(square)).astype(np.int64)
    two = ~equal & (cases == 2) & (cases <= most) & (distance**2 == square)
    lower, upper = np.where(two, (total - distance) // 2, number), np.where(two, (total + distance) // 2, number)
    return _Scores(
        np.stack([lower, upper], axis=-1), np.stack([cases - two, two.astype(np.int64)], axis=-1), equal | two
    )


def _by_place(cells: IntArray) -> tuple[IntArray, IntArray, IntArray]:
    """Positives, negatives and whether they are loose, each bin as two columns, as far as places tell."""
    positives, negatives = unpack(cells, CELL_BITS)
    ahead = cells >> 2 * CELL_BITS
    positive_up, positive_down = _apart(positives, negatives, ahead)
    negative_up, negative_down = _apart(negatives, positives, -ahead)
    upper = positives * (positive_up | negative_down), negatives * (positive_down | negative_up)
    lower = positives - upper[0], negatives - upper[1]
    many = _float32s(cells.shape[-1])[1] > 1
    loose = [((of[0] + of[1] > 1) & many).astype(np.int64) for of in (lower, upper)]
    return _beside(lower[0], upper[0]), _beside(lower[1], upper[1]), _beside(*loose)


def _apart(lone: IntArray, rivals: IntArray, ahead: IntArray) -> tuple[BoolArray, BoolArray]:
    """Whether the lone case of a bin is above, and whether it is below all its rivals, by its place minus theirs."""
    largest = (1 << _PLACES) - 1
    lead = (ahead + _RIVALS * largest) % _LAPS - _RIVALS * largest
    alone = (lone == 1) & (rivals >= 1) & (rivals <= _RIVALS)
    return alone & (lead > 0), alone & (lead < -(rivals - 1) * largest)


@cache
def _most(patches: int) -> IntArray:
    """Most cases in each patch whose sum of squares is below the modulus."""
    largest = np.maximum(_float32s(patches)[1] - 1, 1)
    most: IntArray = (MODULUS - 1) // largest**2
    return most


@cache
def _float32s(bins: int) -> tuple[IntArray, IntArray]:
    """Number of the first float32 of each bin, counted from 0.0 on, and how many each has: shapes (bins,)."""
    edges = edges_of(bins)[:-1]
    near = edges.astype(np.float32)
    first = _numbers(near) + (near.astype(np.float64) < edges)
    return first, np.diff(first, append=_LAST + 1)


def _shifts(size: IntArray) -> IntArray:
    """Bits by which a number among ``size`` float32 is cut to a place."""
    bits: IntArray = np.ceil(np.log2(np.maximum(size, 1))).astype(np.int64)
    return np.maximum(bits - _PLACES, 0)


def _numbers(scores: NDArray[np.float32]) -> IntArray:
    """Position of each float32 from 0 on among all of them, in order; minus zero is zero."""
    return (scores.astype(np.float32) + np.float32(0)).view(np.int32).astype(np.int64)


def _beside(lower: IntArray, upper: IntArray) -> IntArray:
    return np.stack([lower, upper], axis=-1).reshape(*lower.shape[:-1], -1)
