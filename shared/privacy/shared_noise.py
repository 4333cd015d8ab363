"""Noise that sites share: each adds a part of it, and only their sum, which masks let nobody take apart, holds all.

Whoever adds noise alone protects their patients against everybody and pays with a worse model: of n sites the sum holds
n times the variance that one of them needs. Under secure aggregation only sums are seen. If at least h honest sites are
in each, the patients' own among them, a part of 1 / h of the variance at each site is enough.

Formal guarantee. Let each of m >= h honest sites send y_i = rint(x_i + d z_i), with z_i standard normal and d at least
``LEAST_DEVIATION`` in units of the grid, and let everybody else see the sum of the y_i, and no other function of them.
There is a randomised function T, of no data, such that the sum is distributed as T(sum of x_i + N(0, h d^2 - LOST^2)),
but for a factor between e^-eta and e^eta on the probability of every set of outcomes, where eta, over all parameters
and rounds of a run, is ``closeness``: below 1e-12 for any network and run. What is (epsilon, delta)-private with that
Gaussian noise is (epsilon + 2 eta, e^eta delta)-private here, whoever is sampled and however rounds are composed.

Proof. Write phi_s for the normal density with deviation s; sums run over integers k.

1. By Poisson's summation formula, the sum of phi_s(k - c) is within theta(s) of 1 for every real c.
2. rint(x + d z) is k with probability E phi_d(k - x - u), where u is uniform in (-1/2, 1/2).
3. The product of two normal densities is a normal density in their sum, times one of deviation s_1 s_2 / s in the rest.
   So of values with densities phi_s1(k - c_1) and phi_s2(k - c_2) on integers, the sum has phi_s(k - c_1 - c_2), with
   s^2 = s_1^2 + s_2^2, but for a factor within theta(s_1 s_2 / s) of 1 (after Peikert, CRYPTO 2010, theorem 3.1). Added
   one after the other, m values of deviation d give s^2 = m d^2 and m - 1 factors within theta(d / sqrt 2) of 1.
4. Draw v from N(c, m d^2 - LOST^2), and then an integer k with probabilities that are as phi_LOST(k - v). By 1 and 3
   this k has phi_s(k - c), but for a factor within theta(LOST) of 1.
5. So the sum of the y_i is, but for these factors, such a k with c the sum of all x_i and u_i. Drawing the u_i, adding
   them and the noise that m sites have more than h, and drawing k is what T does; none of it looks at data.
6. Parameters are independent given the x_i, and rounds given what came before: their factors multiply.

What one patient can move the sum of x_i by is ``shared.privacy.terms``'s: the bound of a clipped gradient, since the
x_i are clipped once more, value by value, which brings no two of them further apart. They are clipped before the noise,
and so far within the range that no noise leads out of it: a clip after the noise would be of one site's value, and not
of the sum.

Not covered
- More than ``colluding`` sites that tell the coordinator what they added: what is then left is said beside each promise
  (``Share.alone``). A site that adds no noise at all is such a site.
- Whoever sees one site's y_i: its masks are all that hides it.
- Several local steps: a patient who moves the first moves where the others are taken, by more than anybody has bounded.
- That doubles are reals, and noise beyond 8.7 deviations: see ``shared.privacy.noise``.

Distributed noise with discrete mechanisms: Kairouz, Liu & Steinke, ICML 2021; Agarwal, Kairouz & Liu, NeurIPS 2021.
Rounding a continuous normal is a choice of ours; the proof above is too.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from shared.fixed_point import BLOCK, Integers, peak, resolution
from shared.plan import FixedPoint
from shared.privacy.noise import Noise

LEAST_DEVIATION = 3.0
"""Of the noise of one site, in units of the grid: with less, rounding would be seen through the noise."""
LOST = 2.0
"""Deviation that rounding costs the sum, in units of the grid."""
FURTHEST = 9.0
"""Deviations beyond which no noise goes (``shared.privacy.noise``: 8.7)."""


@dataclass(frozen=True, slots=True)
class Share:
    """Of how many sites' noise a promise is made.

    Attributes:
        least: sites without whom no sum is unmasked (t).
        colluding: sites that may tell the coordinator what they added (c).
    """

    least: int
    colluding: int

    @property
    def honest(self) -> int:
        """Sites in every sum whose noise the coordinator does not know (h)."""
        return self.least - self.colluding

    def alone(self, noise_multiplier: float) -> float:
        """What is left of a multiplier for whoever knows the noise of all sites but one."""
        return noise_multiplier / math.sqrt(self.honest)

    def deviation(self, wanted: float, fixed_point: FixedPoint) -> float:
        """Standard deviation of the noise that each site adds to a value, in units of the grid.

        Args:
            wanted: that of the noise which the sum is to hold, in the units of a change; at least 0.
            fixed_point: the plan's grid.
        """
        units = wanted / resolution(fixed_point)
        return max(LEAST_DEVIATION, math.sqrt((units**2 + LOST**2) / self.honest))


def room(deviation: float, fixed_point: FixedPoint) -> int:
    """Largest integer that a value may be before the noise is added; below 0 where the noise alone leaves the range."""
    return peak(fixed_point) - math.ceil(FURTHEST * deviation) - 1


def noised(change: NDArray[np.float64], deviation: float, fixed_point: FixedPoint, noise: Noise) -> Integers:
    """One site's part of the sum: clipped, with noise, and rounded to the grid.

    Args:
        change: without noise, shape (P,), finite.
        deviation: of the noise, in units of the grid; at least ``LEAST_DEVIATION``.
        fixed_point: the plan's grid.
        noise: what hides the change.

    Returns:
        Integers of shape (P,), int32, in [-peak, peak].
    """
    enough = LEAST_DEVIATION <= deviation < math.inf and room(deviation, fixed_point) > 0
    if not (enough and np.isfinite(change).all()):
        raise ValueError(f"noise of {deviation:g} units of the grid cannot hide this change within its range")
    limit, scale = room(deviation, fixed_point), 1.0 / resolution(fixed_point)
    values = np.empty(change.size, np.int32)
    for start in range(0, change.size, BLOCK):
        grid = np.clip(change[start : start + BLOCK] * scale, -limit, limit)
        grid += deviation * noise.normal(grid.size)
        values[start : start + grid.size] = np.rint(grid)
    return values


def theta(deviation: float) -> float:
    """How far the sum of a normal density over a shifted grid of unit width can be from 1; deviation above 0.

    Twice the sum over j of exp(-2 pi^2 deviation^2 j^2), which falls faster than a geometric series.
    """
    first = math.exp(-2.0 * (math.pi * deviation) ** 2)
    return 2.0 * first / (1.0 - first)


def closeness(sites: int, values: int, deviation: float = LEAST_DEVIATION, lost: float = LOST) -> float:
    """eta: the logarithm of the factor by which a probability can differ from what the Gaussian gives.

    Args:
        sites: in a sum, at most.
        values: parameters times rounds: what a run sends.
        deviation: of the noise of each site.
        lost: what is taken off the Gaussian's, squared.
    """
    return values * ((sites - 1) * _factor(theta(deviation / math.sqrt(2.0))) + _factor(theta(lost)))


def _factor(away: float) -> float:
    """-log(1 - away): the larger of the two directions in which a factor can be away from 1."""
    return -math.log1p(-away)
