"""Who masks with whom: up to ``COMPLETE_UP_TO`` sites everybody with everybody, beyond with neighbours on a ring.

Promises
- ``neighbours`` puts the sites on a ring in an order that ``seed`` draws, each order with the same probability, and
  joins each to the next k / 2 on either side (a Harary graph). Everybody computes the same, from names in any order.
- ``failure_log2`` is a bound on the probability that this fails, computed from exact integers, not estimated.
- ``degree_for`` gives the least even degree, and the number of shares that make a secret, with which that bound keeps
  to what was asked. Shares needed are always more than half of those dealt: 2t > k + 1, a site holding one of its own.

What is assumed. Of n sites c obey the coordinator and tell it all they hold, and d drop out by chance: fractions of n
rounded up. Which ones does not depend on the ring, which is drawn after they offered their keys. All honest sites of a
sum act upon the same offers, the same dealers and the same survivors. A site that was told of other dealers than its
neighbours has no masks with them, and no degree makes up for that: it lies open as soon as they open its seed. So this
is not taken on trust. With its masked answer a site signs the offers and the dealers it was told; no neighbour confirms
a sum, and so gives its share of the seed, before it has seen that signature over what it was told itself
(``client.secure.checks``, "dealers-differ"). Of t shares fewer than t are with sites that collude: at least one is
given by a site that has checked. All who reveal confirmed the same survivors: ``shared.secure.holders``.

What can fail, with h = k / 2, t shares needed, and Hyp(N, K, m) the number of marked among m drawn of N, K of them
marked. "Short" stops a sum; the others reveal more than it.

======== ===================================================================== =======================================
short    a site has fewer than t neighbours left                               n P[Hyp(n - 1, d, k) > k - t]
cut off  *the coordinator chooses who drops out.* Of the h that follow an      (n - c) P[Hyp(n - 1, c, h) >= t - h - 1]
         honest site, t - h - 1 collude
known    *chance chooses.* Of an honest site's neighbours, t collude           (n - c) P[Hyp(n - 1, c, k) >= t]
apart    *chance chooses.* The honest sites left are not connected             A C(n - k - 2, r - k) / C(n, r)
======== ===================================================================== =======================================

Why "cut off" is all that a coordinator who chooses can use. The mask between two honest sites goes away only with the
mask key of one of them, so only with a site that is said to have dropped out. What is learnt beyond the sum is then a
sum over a connected part S of the honest survivors, not all of them, of which every site's own mask goes away, too.
Order the survivors around the ring: two next to each other are joined unless h or more others lie between. So S is an
arc, and after its last site e come h places without an honest survivor. Shares of e's seed are held by e, by at most h
sites before it and by those that collude among the h after it: of these there must be t - h - 1. "Known" is part of it:
with t colluding neighbours, at least t - h of them come after a site.

Why "apart" is enough where chance chooses (the semi-honest coordinator of Bell et al.). By the same order, honest
survivors are connected unless two separate runs of h or more places are empty. A = n (n - k - 1) / 2 counts the pairs
of places where two such runs can begin, each after a survivor; r = c + d are gone.

Who can grind. The seed is made of all offers, so nobody knows the ring before the last of them is signed. The
coordinator can leave offers out, and whoever offers last can sign again and again until the ring suits: each try is a
new ring. All bounds but that of "short" are therefore multiplied by 2**``tries_log2``. The default, 2**40, is what ten
accelerators of 2**33 hashes a second try in a quarter of an hour, at 64 hashes a ring.

Sources: Bell, Bonawitz, Gascon, Lepoint and Raykova, "Secure single-server aggregation with (poly)logarithmic
overhead", CCS 2020, section 3 (good graphs, hypergeometric tails); Harary, "The maximum connectivity of a graph", PNAS
48, 1962. "Cut off" is ours. It takes more neighbours than chance does (84 instead of 40 of 200 sites, with a tenth of
both), and holds against a coordinator that says of whom it likes that they dropped out.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import count
from typing import Literal

from shared.errors import PlanError

COMPLETE_UP_TO = 64
"""Most sites among whom all are neighbours: their masks cost less than what a graph would have to explain."""

_DRAW_BYTES = 8
_OPENING = b"consilium-secure-ring-1\n"


@dataclass(frozen=True, slots=True)
class Assumed:
    """What is assumed of the sites, and what risk is taken.

    Attributes:
        colluding: fraction of the sites that obey the coordinator, [0, 1).
        dropping: fraction that drop out by chance, [0, 1), together below 1.
        failure_log2: logarithm of the most that a failure may have as probability.
        tries_log2: logarithm of how many rings the coordinator may try.
        chosen_by: who decides which sites drop out, as far as secrecy goes.
    """

    colluding: float
    dropping: float
    failure_log2: float = -40.0
    tries_log2: float = 40.0
    chosen_by: Literal["coordinator", "chance"] = "coordinator"

    def __post_init__(self) -> None:
        """Refuse what no graph can be computed for."""
        fractions = (self.colluding, self.dropping)
        if not (min(fractions) >= 0 and sum(fractions) < 1 and self.failure_log2 < 0 <= self.tries_log2):
            raise PlanError(
                f"{self.colluding:g} of the sites colluding and {self.dropping:g} dropping out, with a failure of "
                f"2**{self.failure_log2:g} and 2**{self.tries_log2:g} tries, cannot be planned for",
                hint="give fractions below 1 in all, a negative failure_log2 and no negative tries_log2",
                code="graph",
            )

    def numbers(self, sites: int) -> tuple[int, int]:
        """How many of ``sites`` collude and drop out, both rounded up."""
        colluding, dropping = (math.ceil(round(part * sites, 9)) for part in (self.colluding, self.dropping))
        return colluding, dropping


def failure_log2(sites: int, degree: int, threshold: int, assumed: Assumed) -> float:
    """Logarithm of the bound in the module's text, 0 where it says nothing; minus infinity where failure is impossible.

    Args:
        sites: how many offered keys.
        degree: neighbours of each, as ``neighbours`` takes it.
        threshold: shares that make a secret, of ``degree`` + 1 dealt.
        assumed: of the sites.
    """
    degree = _joined(sites, degree)
    if degree >= sites - 1:
        colluding, dropping = assumed.numbers(sites)
        return -math.inf if colluding < threshold <= sites - dropping else 0.0
    return _failures(sites, degree, assumed).get(threshold, 0.0)


def degree_for(sites: int, assumed: Assumed) -> tuple[int, int]:
    """The least even degree that keeps to ``assumed.failure_log2``, and the number of shares with the least failure.

    The complete graph, (n - 1, floor(2n / 3) + 1), up to ``COMPLETE_UP_TO`` sites and where no smaller one suffices.
    """
    for degree in range(2, sites - 1, 2) if sites > COMPLETE_UP_TO else ():
        failures = _failures(sites, degree, assumed)
        # Where several are as good, the one that takes most shares keeps secrets best.
        threshold = min(failures, key=lambda shares: (failures[shares], -shares))
        if failures[threshold] <= assumed.failure_log2:
            return degree, threshold
    return sites - 1, 2 * sites // 3 + 1


def neighbours(names: Sequence[str], degree: int, seed: bytes) -> Mapping[str, tuple[str, ...]]:
    """Each site's neighbours, by name; everybody where ``degree`` reaches all others. An odd degree is rounded up."""
    ordered = sorted(names)
    if len(set(ordered)) != len(ordered) or degree < 0:
        raise ValueError(f"{len(ordered)} names must differ, and a degree of {degree} must not be negative")
    degree = _joined(len(ordered), degree)
    if degree >= len(ordered) - 1:
        return {name: tuple(other for other in ordered if other != name) for name in ordered}
    ring = _shuffled(ordered, seed)
    steps = [step for reach in range(1, degree // 2 + 1) for step in (reach, -reach)]
    beside = {
        name: tuple(sorted(ring[(place + step) % len(ring)] for step in steps)) for place, name in enumerate(ring)
    }
    return {name: beside[name] for name in ordered}


def _joined(sites: int, degree: int) -> int:
    """The degree that is drawn: as many on either side, so an even one, or everybody."""
    return min(degree + degree % 2, sites - 1)


def _failures(sites: int, degree: int, assumed: Assumed) -> dict[int, float]:
    """Logarithm of the bound for every number of shares that is a majority, k / 2 + 1 to k."""
    colluding, dropping = assumed.numbers(sites)
    half, honest, apart = degree // 2, _log2(sites - colluding), -math.inf
    lost = _tails(sites - 1, dropping, degree)
    if assumed.chosen_by == "coordinator":
        exposed = dict(enumerate(_tails(sites - 1, colluding, half), start=half + 1))
    else:
        exposed = dict(enumerate(_tails(sites - 1, colluding, degree)))
        apart = _apart(sites, degree, colluding + dropping)
    failures = {}
    for shares in range(half + 1, degree + 1):
        short = _log2(sites) + lost[degree - shares + 1]
        failures[shares] = min(0.0, _either(short, assumed.tries_log2 + _either(honest + exposed[shares], apart)))
    return failures


def _apart(sites: int, degree: int, gone: int) -> float:
    """Logarithm of the expected number of pairs of runs that cut the ring."""
    places = sites * (sites - degree - 1) // 2
    return _log2(places * _choose(sites - degree - 2, gone - degree)) - _log2(math.comb(sites, gone))


def _tails(population: int, marked: int, drawn: int) -> list[float]:
    """Logarithms of P[X >= x] for x = 0 to ``drawn`` + 1, X hypergeometric, from exact integers."""
    ways = [math.comb(marked, x) * _choose(population - marked, drawn - x) for x in range(drawn + 1)]
    total, above, tails = _log2(math.comb(population, drawn)), 0, [-math.inf]
    for way in reversed(ways):
        above += way
        tails.append(_log2(above) - total)
    return tails[::-1]


def _choose(population: int, drawn: int) -> int:
    return math.comb(population, drawn) if 0 <= drawn <= population else 0


def _log2(number: int) -> float:
    return math.log2(number) if number > 0 else -math.inf


def _either(first: float, second: float) -> float:
    """Logarithm of the sum of two probabilities."""
    high, low = max(first, second), min(first, second)
    return high if low == -math.inf else high + math.log2(1 + 2 ** (low - high))


def _shuffled(ordered: Sequence[str], seed: bytes) -> list[str]:
    """Fisher and Yates's shuffle; every order has the same probability if SHA-256 of a counter is uniform."""
    ring, numbers = list(ordered), _numbers(seed)
    for last in range(len(ring) - 1, 0, -1):
        other = _below(last + 1, numbers)
        ring[last], ring[other] = ring[other], ring[last]
    return ring


def _numbers(seed: bytes) -> Iterator[int]:
    for position in count():
        said = _OPENING + position.to_bytes(_DRAW_BYTES, "big") + seed
        yield int.from_bytes(hashlib.sha256(said).digest()[:_DRAW_BYTES], "big")


def _below(bound: int, numbers: Iterator[int]) -> int:
    """Uniform in [0, bound): a remainder of the numbers below the last multiple of ``bound``."""
    whole = 2 ** (8 * _DRAW_BYTES) // bound * bound
    return next(number for number in numbers if number < whole) % bound
