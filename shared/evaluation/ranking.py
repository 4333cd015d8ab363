"""AUROC and average precision from histograms of scores, which add up where lists of scores do not.

Promises
- Scores fall into at most ``BINS`` fixed bins. The edges are the same doubles on every machine (sums of powers of two
  and one correctly rounded division), so a score falls into the same bin at every site.
- The tenths are edges, so bins of a reliability curve are unions of these. Fewer bins are unions of neighbours:
  ``edges_of`` any power of two of them from 16 on.
- ``pack`` puts both histograms of a finding into one integer a bin, and adding up keeps them apart.
- A bin is *loose* where the order of its cases is not known, and else has one score. What ranks can be is a function of
  the histograms and of which bins are loose; each metric below comes with its bound, which holds whatever the scores:

====================  =====================================================  ==========================================
metric                formula of the unbinned metric                         value from bins, and bound
====================  =====================================================  ==========================================
AUROC                 P(s+ > s-) + P(s+ = s-) / 2 over pairs of a positive   a pair in one bin counts one half: within
                      and a negative (Hanley & McNeil, Radiology 1982)       ``tied_pairs`` / 2, of loose bins
average precision     sum over thresholds of (R_k - R_(k-1)) P_k, as in      middle of ``average_precision_limits``:
                      scikit-learn (no interpolation)                        within half of their distance
====================  =====================================================  ==========================================

Without a positive both are NaN; without a negative AUROC is NaN and average precision is 1.

Below 1/16, bins are as narrow as scores of rare findings need: 240 to an octave from 2**-9 on, 96 from 2**-14, fewer
below, down to a bin for 0 alone. Then come 3/16640 up to a tenth and 1/5120 up to .9. The upper half mirrors the lower
one to 1 - 2**-18; from there on there is a bin for each float32. (Networks are confident at both ends, and float32 is
not as fine at 1 as it is at 0.)

Leaves to others: which bins are loose (``shared.evaluation.order``). Arrays here are histograms of shape (..., bins),
int64; results have shape (...).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.special import digamma

from shared.evaluation.additive import IntArray
from shared.evaluation.undetermined import FloatArray, ratio

BINS = 8192
FEWEST = 256
FIELD = 26
"""Bits of a packed count: up to 67 million cases of a class in one bin, summed over all sites."""

BoolArray = NDArray[np.bool_]


def _octaves(first: int, last: int, parts: int) -> list[FloatArray]:
    """Lower edges of ``parts`` bins to an octave from 2**first up to 2**last."""
    return [np.ldexp(1 + np.arange(parts) / parts, exponent) for exponent in range(first, last)]


def _edges() -> FloatArray:
    # 64 + 96 + 480 + 1200 + 208 bins to a tenth, then 512 to each further one.
    least = [np.array([0.0]), np.ldexp(1.0, np.array([-149, -100, -75])), *_octaves(-48, -18, 2)]
    small = [*_octaves(-18, -14, 24), *_octaves(-14, -9, 96), *_octaves(-9, -4, 240)]
    middle = [(1040 + 3 * np.arange(208)) / 16640, np.arange(512, 2560) / 5120]
    lower = np.concatenate([*least, *small, *middle])
    # Half-way between two float32 each, and the last one below 1 alone.
    top = 1 - (np.arange(63, 0, -1) - 0.5) * 2.0**-24
    return np.concatenate([lower, [0.5], 1 - lower[:63:-1], top, [1.0]])


EDGES: FloatArray = _edges()
"""Edges of the bins, shape (BINS + 1,): bin i holds EDGES[i] <= score < EDGES[i + 1], the last one also 1."""


def bins_for(findings: int) -> int:
    """Bins of each of several findings: ``BINS`` for one, halved whenever their number doubles, never below FEWEST."""
    return max(FEWEST, BINS >> (findings - 1).bit_length())


def edges_of(bins: int) -> FloatArray:
    """Edges of ``bins`` bins, shape (bins + 1,): every (BINS / bins)-th of ``EDGES``."""
    return EDGES[:: BINS // bins]


def bin_of(scores: NDArray[np.float32], bins: int = BINS) -> NDArray[np.intp]:
    """The bin of each score in [0, 1], same shape."""
    return np.searchsorted(edges_of(bins)[1:-1], scores, side="right")


def histogram(scores: NDArray[np.float32], bins: int = BINS) -> IntArray:
    """One-hot bins of scores in [0, 1]: shape (K,) becomes (K, bins)."""
    counts = np.zeros((*scores.shape, bins), np.int64)
    np.put_along_axis(counts, bin_of(scores, bins)[..., None], 1, axis=-1)
    return counts


def pack(positives: IntArray, negatives: IntArray, bits: int = FIELD) -> IntArray:
    """Two histograms in one, of ``bits`` each: positives above, negatives below. Sums of these add up too."""
    return (positives << bits) + negatives


def unpack(packed: IntArray, bits: int = FIELD) -> tuple[IntArray, IntArray]:
    """Positives and negatives of what ``pack`` made, or of a sum of such; what is above both is not looked at."""
    most = (1 << bits) - 1
    return packed >> bits & most, packed & most


def auroc(positives: IntArray, negatives: IntArray) -> FloatArray:
    """Area under the receiver operating characteristic; ties count one half."""
    twice_below = 2 * negatives.cumsum(-1) - negatives
    return ratio((positives * twice_below).sum(-1), 2 * positives.sum(-1) * negatives.sum(-1))


def tied_pairs(positives: IntArray, negatives: IntArray, loose: BoolArray | None = None) -> FloatArray:
    """Share of (positive, negative) pairs in one loose bin: twice the largest possible error of ``auroc``."""
    tied = positives * negatives if loose is None else positives * negatives * loose
    return ratio(tied.sum(-1), positives.sum(-1) * negatives.sum(-1))


def average_precision(
    positives: IntArray, negatives: IntArray, loose: BoolArray | None = None, apart: BoolArray | None = None
) -> FloatArray:
    """The middle of ``average_precision_limits``."""
    low, high = average_precision_limits(positives, negatives, loose, apart)
    return (low + high) / 2


def average_precision_limits(
    positives: IntArray, negatives: IntArray, loose: BoolArray | None = None, apart: BoolArray | None = None
) -> tuple[FloatArray, FloatArray]:
    """Smallest and largest average precision that any scores with these histograms can have; None: all are loose.

    In a loose bin the least is that all negatives come first and then one positive after the other, the most that all
    positives share one score above the negatives, or come one after the other where they are known to be ``apart``. In
    any other bin all share one score.
    """
    hits, false = from_the_top(positives), from_the_top(negatives)
    low, high = _one_by_one(positives, hits, false), positives * (hits / np.maximum(hits + false - negatives, 1))
    if apart is not None:
        high = np.where(apart, _one_by_one(positives, hits, false - negatives), high)
    if loose is not None:
        tied = positives * (hits / np.maximum(hits + false, 1))
        low, high = np.where(loose, low, tied), np.where(loose, high, tied)
    every = positives.sum(-1)
    return ratio(low.sum(-1), every), ratio(high.sum(-1), every)


def _one_by_one(positives: IntArray, hits: IntArray, false: IntArray) -> FloatArray:
    """Sum of (h + j) / (h + j + false) over j = 1 .. positives, h being the hits above the bin."""
    lost: FloatArray = false * (digamma(hits + false + 1.0) - digamma(hits - positives + false + 1.0))
    return positives - lost


def from_the_top(histograms: IntArray) -> IntArray:
    """Cases in each bin or above it: those with a score of at least the bin's lower edge."""
    return histograms[..., ::-1].cumsum(-1)[..., ::-1]
