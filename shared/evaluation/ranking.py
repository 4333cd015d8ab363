"""AUROC and average precision from histograms of scores, which add up where lists of scores do not.

Promises
- Scores fall into at most ``BINS`` fixed bins. The edges are the same doubles on every machine (sums of powers of two
  and one correctly rounded division), so a score falls into the same bin at every site.
- The tenths are edges, so bins of a reliability curve are unions of these. Half as many bins are pairs of neighbours,
  down to ``FEWEST``: ``bins_for`` says how many each finding gets, so that a site's statistics stay small.
- ``pack`` puts both histograms of a finding into one integer a bin, and adding up keeps them apart.
- Each metric below is exact for the binned scores, with scores in one bin treated as tied. How far that can be from
  the metric of the unbinned scores is itself a function of the histograms:

====================  =====================================================  ==========================================
metric                formula                                                distance from the unbinned metric
====================  =====================================================  ==========================================
AUROC                 P(s+ > s-) + P(s+ = s-) / 2 over pairs of a positive   at most ``tied_pairs`` / 2
                      and a negative (Hanley & McNeil, Radiology 1982)
average precision     sum over thresholds of (R_k - R_(k-1)) P_k, as in      within ``average_precision_limits``
                      scikit-learn (no interpolation)
====================  =====================================================  ==========================================

Without a positive both are NaN; without a negative AUROC is NaN and average precision is 1.

The bins are narrow near 0 and 1, where networks are confident: 16 to an octave from 2**-15 to 1/16 of the distance to
0 or 1, then 3/5120 wide to a tenth, and 1/640 wide between .1 and .9. On simulated rare findings (scores of about .01)
the error of AUROC is sixty times smaller than with equal bins.

Arrays here are histograms of shape (..., bins), int64; results have shape (...).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from shared.evaluation.additive import IntArray
from shared.evaluation.undetermined import FloatArray, ratio

BINS = 1024
FEWEST = 64
_PER_OCTAVE = 16
_FIELD = 26
"""Bits of a packed count: up to 67 million cases of a class in one bin, summed over all sites."""


def _edges() -> FloatArray:
    steps = np.arange(_PER_OCTAVE) / _PER_OCTAVE
    octaves = [np.ldexp(steps, -15), *(np.ldexp(1 + steps, exponent) for exponent in range(-15, -4))]
    half = np.concatenate([*octaves, (320 + 3 * np.arange(64)) / 5120, np.arange(64, 320) / 640])
    return np.concatenate([half, [0.5], 1 - half[::-1]])


EDGES: FloatArray = _edges()
"""Edges of the bins, shape (BINS + 1,): bin i holds EDGES[i] <= score < EDGES[i + 1], the last one also 1."""


def bins_for(findings: int) -> int:
    """Bins of each of several findings: ``BINS`` for one, halved whenever their number doubles, never below FEWEST."""
    return max(FEWEST, BINS >> (findings - 1).bit_length())


def edges_of(bins: int) -> FloatArray:
    """Edges of ``bins`` bins, shape (bins + 1,): every (BINS / bins)-th of ``EDGES``."""
    return EDGES[:: BINS // bins]


def histogram(scores: NDArray[np.float32], bins: int = BINS) -> IntArray:
    """One-hot bins of scores in [0, 1]: shape (K,) becomes (K, bins)."""
    which = np.searchsorted(edges_of(bins)[1:-1], scores, side="right")
    counts = np.zeros((*scores.shape, bins), np.int64)
    np.put_along_axis(counts, which[..., None], 1, axis=-1)
    return counts


def pack(positives: IntArray, negatives: IntArray) -> IntArray:
    """Two histograms in one: positives in the upper bits, negatives in the lower ones. Sums of these add up too."""
    return (positives << _FIELD) + negatives


def unpack(packed: IntArray) -> tuple[IntArray, IntArray]:
    """Positives and negatives of what ``pack`` made, or of a sum of such."""
    return packed >> _FIELD, packed & ((1 << _FIELD) - 1)


def auroc(positives: IntArray, negatives: IntArray) -> FloatArray:
    """Area under the receiver operating characteristic; ties count one half."""
    twice_below = 2 * negatives.cumsum(-1) - negatives
    return ratio((positives * twice_below).sum(-1), 2 * positives.sum(-1) * negatives.sum(-1))


def tied_pairs(positives: IntArray, negatives: IntArray) -> FloatArray:
    """Share of (positive, negative) pairs in one bin: twice the largest possible error of ``auroc``."""
    return ratio((positives * negatives).sum(-1), positives.sum(-1) * negatives.sum(-1))


def average_precision(positives: IntArray, negatives: IntArray) -> FloatArray:
    """Mean, over positives, of the precision at the threshold that admits them."""
    true_positives, false_positives = from_the_top(positives), from_the_top(negatives)
    return _mean_over(positives, true_positives, false_positives)


def average_precision_limits(positives: IntArray, negatives: IntArray) -> tuple[FloatArray, FloatArray]:
    """Smallest and largest average precision that any scores with these histograms can have.

    A positive of a bin is admitted with at least itself and at most its whole bin of positives, and with none to all of
    the bin's negatives, whatever the order or the ties inside the bin.
    """
    true_positives, false_positives = from_the_top(positives), from_the_top(negatives)
    low = _mean_over(positives, true_positives - positives + 1, false_positives)
    high = _mean_over(positives, true_positives, false_positives - negatives)
    return low, high


def from_the_top(histograms: IntArray) -> IntArray:
    """Cases in each bin or above it: those with a score of at least the bin's lower edge."""
    return histograms[..., ::-1].cumsum(-1)[..., ::-1]


def _mean_over(positives: IntArray, true_positives: IntArray, false_positives: IntArray) -> FloatArray:
    # Bins without a positive carry no weight, and may hold 0 / 0.
    admitted = np.maximum(true_positives + false_positives, 1)
    return ratio((positives * (true_positives / admitted)).sum(-1), positives.sum(-1))
