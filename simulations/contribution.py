"""What each site contributes: the Shapley value of a game whose players are sites, and leave-one-out beside it.

Promises
- A game is any function from coalitions of sites to worth. How a coalition is trained and measured is left to
  ``simulations.coalitions``; a coalition is asked for once.
- ``exact_shapley`` is the definition, with 2**n coalitions. ``truncated_shapley`` is its estimate from random orders of
  the sites, with a standard error; it stops following an order once the coalition is worth what all sites are worth.
- Worth may be a vector, shape (k,): the value is linear in it, so replicates of a jackknife give the value's own.

What a Shapley value is (Shapley 1953): the mean, over all orders in which sites can join, of what a site adds when it
joins. It is the only value for which all four hold, and the tests hold them against both functions:

===============  ======================================================================================
efficiency       values add up to worth of all minus worth of none
symmetry         sites that add the same to every coalition have the same value
null player      a site that adds nothing to any coalition has value 0
additivity       values of the sum of two games are the sums of the values
===============  ======================================================================================

Truncation keeps symmetry on average alone, and efficiency up to the tolerance: what comes after the cut counts as 0.

Sources: Ghorbani & Zou, "Data Shapley", ICML 2019, Algorithm 1 (truncated Monte Carlo); leave-one-out as there, eq. 1.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]
Coalition = frozenset[str]
Game = Callable[[Collection[Coalition]], Mapping[Coalition, FloatArray]]
"""Coalitions -> worth of each, shape (k,); the first entry is the worth itself. Asked for many at a time, so that they
can be trained side by side."""

EXACT_UP_TO = 4
"""Sites for which all coalitions are trained: 16 at most."""


@dataclass(frozen=True, eq=False)
class Shapley:
    """Values by site.

    Attributes:
        sites: in the order of the rows below.
        values: shape (n, k).
        drawn_se: standard error from the random orders alone, shape (n,); 0 where no order was drawn at random.
        permutations: orders drawn; None where all coalitions were looked at.
    """

    sites: tuple[str, ...]
    values: FloatArray
    drawn_se: FloatArray
    permutations: int | None = None


@dataclass
class Known:
    """A game that remembers what it has said."""

    game: Game
    worth: dict[Coalition, FloatArray] = field(default_factory=dict)

    def ask(self, coalitions: Collection[Coalition]) -> None:
        """Find out what ``coalitions`` are worth, as far as it is not known."""
        new = sorted({one for one in coalitions if one not in self.worth}, key=lambda one: (-len(one), sorted(one)))
        if new:
            self.worth.update(self.game(new))


def exact_shapley(sites: Sequence[str], known: Known) -> Shapley:
    """Shapley values by definition: each site's gains, weighted by how many orders begin with the coalition."""
    everyone = tuple(sites)
    known.ask(list(_coalitions(everyone)))
    values = np.stack([_expected_gain(site, everyone, known.worth) for site in everyone])
    return Shapley(everyone, values, np.zeros(len(everyone)))


def truncated_shapley(
    sites: Sequence[str], known: Known, permutations: int, tolerance: float, rng: np.random.Generator
) -> Shapley:
    """Shapley values estimated from ``permutations`` (2 or more) random orders.

    Args:
        sites: the players.
        known: the game.
        permutations: orders to draw.
        tolerance: an order is left once its coalition is worth that of all sites within less than this; 0 never.
        rng: draws the orders.
    """
    everyone = tuple(sites)
    orders = [[everyone[place] for place in rng.permutation(len(everyone))] for _ in range(permutations)]
    known.ask([frozenset(), frozenset(everyone)])
    going = list(range(permutations))
    gains = np.zeros((permutations, len(everyone), len(known.worth[frozenset()])))
    for place in range(len(everyone)):
        going = [one for one in going if not _reached(frozenset(orders[one][:place]), everyone, known.worth, tolerance)]
        # All orders go on side by side, so that their coalitions can be trained side by side.
        known.ask([frozenset(orders[one][: place + 1]) for one in going])
        for one in going:
            before, after = frozenset(orders[one][:place]), frozenset(orders[one][: place + 1])
            gains[one, everyone.index(orders[one][place])] = known.worth[after] - known.worth[before]
    spread = gains[..., 0].std(axis=0, ddof=1) / math.sqrt(permutations)
    return Shapley(everyone, gains.mean(axis=0), spread, permutations)


def leave_one_out(sites: Sequence[str], known: Known) -> FloatArray:
    """What all sites are worth beyond all but one, shape (n, k)."""
    everyone = frozenset(sites)
    known.ask([everyone, *(everyone - {site} for site in sites)])
    return np.stack([known.worth[everyone] - known.worth[everyone - {site}] for site in sites])


def jackknife_se(values: FloatArray) -> FloatArray:
    """Standard error over groups of patients from (n, 1 + g) values: all patients, then all but each group; (n,)."""
    groups = values.shape[1] - 1
    if groups < 2:
        return np.full(len(values), np.nan)
    apart = values[:, 1:] - values[:, :1]
    found: FloatArray = np.sqrt((groups - 1) / groups * (apart**2).sum(axis=1))
    return found


def _coalitions(sites: tuple[str, ...]) -> Iterator[Coalition]:
    for size in range(len(sites) + 1):
        yield from map(frozenset, combinations(sites, size))


def _expected_gain(site: str, everyone: tuple[str, ...], worth: Mapping[Coalition, FloatArray]) -> FloatArray:
    others = tuple(other for other in everyone if other != site)
    gains = [
        (worth[before | {site}] - worth[before]) / math.comb(len(others), len(before)) for before in _coalitions(others)
    ]
    return np.asarray(np.sum(gains, axis=0) / len(everyone))


def _reached(
    before: Coalition, everyone: tuple[str, ...], worth: Mapping[Coalition, FloatArray], tolerance: float
) -> bool:
    return bool(abs(worth[frozenset(everyone)][0] - worth[before][0]) < tolerance)
