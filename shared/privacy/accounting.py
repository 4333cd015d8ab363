"""What events cost: from noise, sampling rate and steps to an epsilon, and back.

Promises
- ``epsilon`` never claims more privacy than there is: it is an upper bound, by two accountants of which the lower
  counts. It exceeds the exact value by about 0.6 % (see the table), and by more only where the table says so.
- Order does not matter, nor how steps are told apart: equal events are merged before they are composed.
- ``noise_for`` and ``rounds_left`` keep what ``epsilon`` says: at the noise they give, or after the rounds they allow,
  ``epsilon`` is at or below the budget.
- Every function is a function of its arguments; results are remembered.

Rules
- The neighbouring relation is one patient with all their images, added or removed. The mechanism is the Poisson-sampled
  Gaussian. For it the direction "removed" costs the more in every case that was ever computed, though this is proved
  for one release only (Lebeda et al. 2024); the bound here is that direction's, and tests compare it with an accountant
  that takes the larger of both.
- Releases of everybody (rate 1) with multipliers s_1, s_2, … are one release with (sum of 1 / s_i^2)^(-1/2), exactly.
- No approximation by a central limit (GDP): it can fall below the truth.

==================================  ==================================================================================
case                                what ``epsilon`` returns
==================================  ==================================================================================
no events                           0
usual                               PRV's upper bound, asked for an error of 0.5 % of the result
very many steps, very small result  the same with a larger error, so that the grid stays below two million points:
                                    1 % of epsilon 0.1 after 10 000 steps, 1.6 % of 0.2 after 100 000; at least 0.00001
RDP above 200, or delta < 1e-10     RDP: nothing is promised at such epsilons, and below such deltas double precision
                                    does not carry the convolutions
PRV fails                           RDP, 5 to 15 % above PRV, far more at very small epsilons
noise 0, rate 0 or above 1, NaN     ``PlanError``
==================================  ==================================================================================

Sources: PRV: Gopi, Lee & Wutschitz, NeurIPS 2021 (arXiv 2106.02848), section 5; RDP: Mironov, Talwar & Zhang 2019
(arXiv 1908.10530), section 3.3; its conversion: Balle et al., AISTATS 2020 (arXiv 1905.09982), theorem 21; direction of
the sampled Gaussian: Lebeda, Regehr, Kamath & Steinke 2024 (arXiv 2405.20769). PRV, and RDP's series at orders that are
not whole, are Opacus's.
"""

from __future__ import annotations

import math
import warnings
from collections import defaultdict
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy.special import gammaln, logsumexp

from shared.errors import PlanError
from shared.privacy.events import Event

MOST_NOISE = 1e4
"""A noise multiplier above this trains nothing; a plan that needs it is refused."""
MOST_ROUNDS = 100_000
"""``rounds_left`` looks no further."""

_LEAST_NOISE = 1e-2
_RELATIVE_ERROR = 0.005
_LEAST_ERROR = 1e-5
_MOST_POINTS = 2_000_000
_DELTA_ERROR = 1e-3
"""Share of delta that PRV may be wrong by."""
_RDP_SUFFICES = 200.0
_LEAST_DELTA_OF_PRV = 1e-10
_ORDERS = (*range(2, 33), 36, 40, 44, 48, 56, 64, 80, 96, 128, 192, 256, 384, 512, 768, 1024, 2048, 4096)
_FRACTIONS = (1.05, 1.1, 1.15, 1.2, 1.3, 1.4, 1.5, 1.6, 1.7, 1.85, 2.25, 2.5, 2.75, 3.5, 4.5)
"""Orders of slow series, asked for only where small orders decide: at large epsilons."""
_NO_FRACTIONS_ABOVE = 100.0
"""With this much noise the series become long, and small orders decide nothing."""


@dataclass(frozen=True, slots=True)
class Cap:
    """A budget: what all events together may cost."""

    epsilon: float
    delta: float


@dataclass(frozen=True, slots=True)
class Target:
    """A budget, and the sampling rate and number of the steps that are to keep it."""

    epsilon: float
    delta: float
    sampling_rate: float
    steps: int

    def event(self, noise_multiplier: float) -> Event:
        """The steps, with this much noise."""
        return Event(noise_multiplier, self.sampling_rate, self.steps)


def epsilon(events: Sequence[Event], delta: float, accountant: Literal["prv", "rdp"] = "prv") -> float:
    """Upper bound of the epsilon at ``delta`` that ``events`` cost together; the module says how tight.

    Raises:
        PlanError: an event or a delta that is none.
    """
    _check_delta(delta)
    merged = _merged(tuple(events))
    if not merged:
        return 0.0
    return _rdp_with_fractions(merged, delta) if accountant == "rdp" else _epsilon(merged, delta)


def noise_for(target: Target, before: Sequence[Event] = ()) -> float:
    """Least noise multiplier, rounded up to 4 significant digits, with which ``before`` and the target's steps keep it.

    Raises:
        PlanError: ``before`` has spent the budget, or no multiplier up to ``MOST_NOISE`` suffices.
    """
    _check_delta(target.delta)
    return _noise_for(target, _merged(tuple(before)))


def rounds_left(before: Sequence[Event], round_event: Event, cap: Cap) -> int:
    """Largest number of further rounds, each ``round_event``, that keep ``cap`` after ``before``; at most MOST_ROUNDS.

    Raises:
        PlanError: an event or a delta that is none.
    """
    _check_delta(cap.delta)
    return _rounds_left(_merged(tuple(before)), _merged((round_event,)), cap)


@lru_cache(maxsize=4096)
def _epsilon(merged: tuple[Event, ...], delta: float) -> float:
    return _upper(merged, delta, _estimate(merged, delta))


def _estimate(merged: tuple[Event, ...], delta: float) -> float:
    """About the epsilon, within some per cent: what the error of the final computation is measured by."""
    estimate = _rdp(merged, delta)
    if not _prv_serves(estimate, delta):
        return estimate
    while True:
        # RDP can be forty times too large at small epsilons; a coarse PRV is then asked again.
        last, error = estimate, _error(merged, delta, 4 * estimate)
        estimate = max(0.0, min(last, _prv(merged, delta, error) - error))
        if estimate >= last / 2 or estimate == 0:
            return estimate


def _upper(merged: tuple[Event, ...], delta: float, about: float) -> float:
    """Upper bound of the epsilon, computed with the error that suits a result of ``about``; RDP where PRV fails."""
    rdp = _rdp(merged, delta)
    prv = _prv(merged, delta, _error(merged, delta, about)) if _prv_serves(rdp, delta) else math.inf
    return max(0.0, min(rdp, prv)) if math.isfinite(prv) else _rdp_with_fractions(merged, delta)


def _prv_serves(rdp: float, delta: float) -> bool:
    return rdp <= _RDP_SUFFICES and delta >= _LEAST_DELTA_OF_PRV


def _error(merged: tuple[Event, ...], delta: float, about: float) -> float:
    """The error to ask PRV for: relative to the result, and no smaller than its grid can afford."""
    affordable = 2 * (_reach(merged, delta) + 3) * _fineness(merged, delta) / _MOST_POINTS
    return max(_RELATIVE_ERROR * about, affordable, _LEAST_ERROR)


def _reach(merged: tuple[Event, ...], delta: float) -> float:
    """Privacy loss beyond which the grid may end, less its margin of 3 (Gopi et al., remark 5.6)."""
    wrong, steps = _DELTA_ERROR * delta, sum(event.steps for event in merged)
    single = [(Event(event.noise_multiplier, event.sampling_rate, 1),) for event in merged]
    return max(_rdp(merged, wrong / 4), *(_rdp(one, wrong / (8 * steps)) for one in single))


def _fineness(merged: tuple[Event, ...], delta: float) -> float:
    """Error in epsilon over distance of grid points (Gopi et al., theorem 5.5)."""
    return math.sqrt(sum(event.steps for event in merged) * math.log(12 / (_DELTA_ERROR * delta)) / 2)


@lru_cache(maxsize=4096)
def _prv(merged: tuple[Event, ...], delta: float, error: float) -> float:
    """PRV's upper bound; infinite where it fails."""
    from opacus.accountants.analysis import prv  # noqa: PLC0415 - imports torch: a second or two
    from scipy.fft import next_fast_len  # noqa: PLC0415 - with it

    mesh = error / _fineness(merged, delta)
    # Points of equal weight on both sides, as its composition expects, and a number that Fourier transforms like.
    half = next_fast_len(1 + math.ceil((max(_reach(merged, delta), error) + 3) / mesh))
    try:
        # At rate 1 it takes log(0), and its quadrature complains of kinks; the bound holds in spite of both.
        with np.errstate(all="ignore"), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            grid = prv.Domain(-(half - 1) * mesh, half * mesh, 2 * half)
            losses = [prv.PoissonSubsampledGaussianPRV(event.sampling_rate, event.noise_multiplier) for event in merged]
            cut = [prv.TruncatedPrivacyRandomVariable(loss, grid.t_min, grid.t_max) for loss in losses]
            composed = prv.compose_heterogeneous(
                [prv.discretize(loss, grid) for loss in cut], [event.steps for event in merged]
            )
            _, _, found = composed.compute_epsilon(delta, _DELTA_ERROR * delta, error)
    except (ArithmeticError, IndexError, MemoryError, RuntimeError, ValueError):
        return math.inf
    return float(found) if math.isfinite(found) else math.inf


def _rdp(merged: tuple[Event, ...], delta: float) -> float:
    """RDP's bound, from whole orders."""
    return _converted(merged, delta, _ORDERS, _divergences)


def _rdp_with_fractions(merged: tuple[Event, ...], delta: float) -> float:
    """RDP's bound; tighter than that from whole orders alone where epsilon is large, and slower."""
    fractions = _converted(merged, delta, _FRACTIONS, _fractional_divergences)
    return min(_rdp(merged, delta), fractions)


def _converted(
    merged: tuple[Event, ...],
    delta: float,
    orders: tuple[float, ...],
    divergences: Callable[[float, float], NDArray[np.float64]],
) -> float:
    """Least epsilon of all orders for the sum of the events' divergences (Balle et al. 2020, theorem 21)."""
    order = np.asarray(orders)
    total = sum(event.steps * divergences(event.noise_multiplier, event.sampling_rate) for event in merged)
    found = total + np.log1p(-1 / order) - (math.log(delta) + np.log(order)) / (order - 1)
    return max(0.0, float(np.min(found)))


@lru_cache(maxsize=4096)
def _divergences(noise_multiplier: float, sampling_rate: float) -> NDArray[np.float64]:
    """Renyi divergences of one step at whole orders; sums of positive terms only, so no digits are lost."""
    if sampling_rate == 1:
        return np.asarray(_ORDERS) / (2 * noise_multiplier**2)
    found = []
    for order in _ORDERS:
        k = np.arange(order + 1.0)
        chosen = gammaln(order + 1) - gammaln(k + 1) - gammaln(order - k + 1)
        sampled = k * math.log(sampling_rate) + (order - k) * math.log1p(-sampling_rate)
        found.append(logsumexp(chosen + sampled + k * (k - 1) / (2 * noise_multiplier**2)) / (order - 1))
    return np.maximum(found, 0.0)


@lru_cache(maxsize=1024)
def _fractional_divergences(noise_multiplier: float, sampling_rate: float) -> NDArray[np.float64]:
    """Renyi divergences of one step at the other orders.

    These series alternate: they can lose their digits and give too little, or fail. One that failed is infinite here,
    and each is at least its predecessor, as divergences never fall with the order (van Erven & Harremoes 2014, thm. 3).
    """
    from opacus.accountants.analysis.rdp import compute_rdp  # noqa: PLC0415 - imports torch: a second or two

    found = np.full(len(_FRACTIONS), np.inf)
    for place, order in enumerate(_FRACTIONS if noise_multiplier <= _NO_FRACTIONS_ABOVE else ()):
        with suppress(ArithmeticError, ValueError):
            found[place] = compute_rdp(q=sampling_rate, noise_multiplier=noise_multiplier, steps=1, orders=order)
    found[np.isnan(found)] = np.inf
    return np.where(np.isfinite(found), np.maximum.accumulate(np.where(np.isfinite(found), found, 0.0)), np.inf)


@lru_cache(maxsize=1024)
def _noise_for(target: Target, before: tuple[Event, ...]) -> float:
    def log_ratio(log_noise: float) -> float:
        """Below 0 where this noise is enough; nearly a straight line."""
        events = _merged((*before, target.event(math.exp(log_noise))))
        return math.log(max(_upper(events, target.delta, target.epsilon), 1e-300) / target.epsilon)

    low, high = _bracket(target, before, log_ratio)
    root = _root(log_ratio, low, high)
    digits = _rounded_up(math.exp(root))
    while epsilon((*before, target.event(digits)), target.delta) > target.epsilon:
        digits = _rounded_up(digits * (1 + 1e-6))
    return digits


def _bracket(target: Target, before: tuple[Event, ...], log_ratio: Callable[[float], float]) -> tuple[float, float]:
    """Two logarithms of the noise, at most a factor of 2 apart: too little, and enough."""
    spent = epsilon(before, target.delta)
    if spent >= target.epsilon:
        raise PlanError(
            f"epsilon {spent:.4g} of {target.epsilon:.4g} (delta {target.delta:g}) is spent before the first step",
            hint="raise epsilon, or use patients of whom less has been asked",
        )
    high = _LEAST_NOISE
    while high < MOST_NOISE and _rdp(_merged((*before, target.event(high))), target.delta) > target.epsilon:
        high = min(2 * high, MOST_NOISE)
    if log_ratio(math.log(high)) > 0:
        raise PlanError(
            f"{target.steps} steps at rate {target.sampling_rate:.4g} keep epsilon {target.epsilon:.4g} (delta "
            f"{target.delta:g}) with no noise multiplier up to {MOST_NOISE:g}",
            hint="plan fewer rounds or steps, fewer patients per step, or a larger epsilon",
        )
    low = high / 2
    while low > _LEAST_NOISE and log_ratio(math.log(low)) <= 0:
        low, high = low / 2, low
    return math.log(low), math.log(high)


def _root(function: Callable[[float], float], low: float, high: float) -> float:
    from scipy.optimize import brentq  # noqa: PLC0415 - only planning needs it

    if function(low) <= 0:
        return low
    return float(brentq(function, low, high, xtol=2e-5))


def _rounded_up(value: float) -> float:
    """The least number of 4 significant digits that is not below ``value``."""
    digits = 3 - math.floor(math.log10(value))
    found = round(value, digits)
    return found if found >= value else round(found + 10.0**-digits, digits)


@lru_cache(maxsize=1024)
def _rounds_left(before: tuple[Event, ...], one: tuple[Event, ...], cap: Cap) -> int:
    def after(rounds: int) -> tuple[Event, ...]:
        return _merged((*before, *_repeated(one, rounds)))

    by_rdp = _largest(0, lambda rounds: _rdp(after(rounds), cap.delta) <= cap.epsilon)
    found = _largest(by_rdp, lambda rounds: _upper(after(rounds), cap.delta, cap.epsilon) <= cap.epsilon)
    while found > 0 and epsilon(after(found), cap.delta) > cap.epsilon:
        found -= 1
    return found


def _repeated(one: tuple[Event, ...], rounds: int) -> tuple[Event, ...]:
    return tuple(Event(each.noise_multiplier, each.sampling_rate, each.steps * rounds) for each in one if rounds)


def _largest(known: int, fits: Callable[[int], bool]) -> int:
    """Largest number that fits, up to ``MOST_ROUNDS``; ``known`` is taken to fit, and numbers above a misfit not to."""
    low, stride = known, max(1, known // 8)
    while low < MOST_ROUNDS and fits(high := min(low + stride, MOST_ROUNDS)):
        low, stride = high, 2 * stride
    high = min(low + stride, MOST_ROUNDS + 1)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low


def _merged(events: tuple[Event, ...]) -> tuple[Event, ...]:
    """The events in a fixed order, equal ones as one with the sum of their steps; those of everybody as one release."""
    steps: defaultdict[tuple[float, float], int] = defaultdict(int)
    precision = 0.0
    for event in events:
        _check(event)
        if event.sampling_rate == 1:
            precision += event.steps / event.noise_multiplier**2
        else:
            steps[event.noise_multiplier, event.sampling_rate] += event.steps
    of_everybody = [Event(precision**-0.5, 1.0, 1)] if precision else []
    return tuple(sorted([*of_everybody, *(Event(noise, rate, count) for (noise, rate), count in steps.items())]))


def _check(event: Event) -> None:
    sound = event.noise_multiplier > 0 and math.isfinite(event.noise_multiplier) and 0 < event.sampling_rate <= 1
    if not sound or event.steps < 1:
        raise PlanError(
            f"{event.steps} steps with noise multiplier {event.noise_multiplier:g} and sampling rate "
            f"{event.sampling_rate:g} cannot be accounted for",
            hint="noise above 0, a rate in (0, 1], at least 1 step",
        )


def _check_delta(delta: float) -> None:
    if not 0 < delta < 1:
        raise PlanError(f"delta {delta:g} is not between 0 and 1", hint="choose delta well below 1 / patients")
