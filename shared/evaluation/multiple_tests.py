"""Tests of many hypotheses at once: p-values from random draws, and Holm's correction.

Promises
- ``drawn_p`` is a valid p-value whatever the number of draws: P(p <= a) <= a under the null hypothesis for every a.
- It stops as soon as it is clear that nothing is there, so an honest site costs some fifty draws and only a suspicious
  one costs them all.
- ``holm`` keeps the chance of one false rejection or more below the level, whatever the tests have in common.

Sources: Besag & Clifford, "Sequential Monte Carlo p-values", Biometrika 1991 (stopping at ``ENOUGH`` draws that reach
what was observed: p is ``ENOUGH`` over the draws made); Phipson & Smyth, SAGMB 2010 (the observed one counts as a
draw, so p is never 0); Holm, Scand J Statistics 1979.

===============================================  =======================================
edge case                                        p
===============================================  =======================================
what was observed is NaN (nothing to test)       1
every draw equals what was observed              1
===============================================  =======================================
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]

ENOUGH = 10
_BATCH = 512
_TIE = 1e-9
"""Sums of the same numbers in another order are ties."""


def drawn_p(observed: float, draw: Callable[[int], FloatArray], most: int) -> float:
    """How often a draw under the null hypothesis is at least ``observed``.

    Args:
        observed: the statistic; larger means further from the null hypothesis.
        draw: k -> k independent statistics under the null hypothesis, shape (k,).
        most: draws after which it ends; the smallest possible p is 1 / (most + 1).
    """
    if math.isnan(observed):
        return 1.0
    reached = done = 0
    while done < most:
        batch = draw(min(_BATCH, most - done))
        reaching = reached + np.cumsum(batch >= observed - _TIE)
        if reaching[-1] >= ENOUGH:
            return min(1.0, ENOUGH / (done + int(np.searchsorted(reaching, ENOUGH)) + 1))
        reached, done = int(reaching[-1]), done + len(batch)
    return (reached + 1) / (most + 1)


def draws_for(tests: int, level: float) -> int:
    """Draws with which the smallest of ``tests`` p-values can be a twentieth of what Holm's correction asks for."""
    return max(1999, math.ceil(20 * tests / level))


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjusted p-values, in the given order: reject where one is at most the family-wise level."""
    order = sorted(range(len(p_values)), key=lambda place: p_values[place])
    adjusted, largest = [1.0] * len(p_values), 0.0
    for rank, place in enumerate(order):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[place]))
        adjusted[place] = largest
    return adjusted


def sign_flips(differences: FloatArray, rng: np.random.Generator) -> Callable[[int], FloatArray]:
    """Draws of the mean of ``differences``, shape (n,), each under a random sign: the null of symmetry about 0."""
    return lambda count: (rng.choice((-1.0, 1.0), (count, len(differences))) @ differences) / max(1, len(differences))


def rank_shuffles(table: FloatArray, rng: np.random.Generator) -> Callable[[int], FloatArray]:
    """Draws of sum_a table[a, pi(a)] over random permutations pi, for ``table`` of shape (n, n)."""
    rows = np.arange(len(table))

    def draw(count: int) -> FloatArray:
        columns = rng.permuted(np.tile(rows, (count, 1)), axis=1)
        found: FloatArray = table[rows, columns].sum(axis=1)
        return found

    return draw
