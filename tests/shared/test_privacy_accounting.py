"""Accounting against two oracles: Google's PLD accountant, and the closed form of the Gaussian mechanism."""

import math
import subprocess
import sys
import warnings
from collections.abc import Callable
from functools import lru_cache
from typing import Literal

import dp_accounting
import numpy as np
import pytest
from dp_accounting.pld import PLDAccountant
from dp_accounting.rdp import RdpAccountant
from hypothesis import given, settings
from hypothesis import strategies as st
from opacus.accountants import RDPAccountant as OpacusRdp
from scipy.optimize import brentq
from scipy.special import logsumexp
from scipy.stats import norm

from shared.errors import PlanError
from shared.privacy import accounting
from shared.privacy.accounting import MOST_ROUNDS, Cap, Target, epsilon, noise_for, rounds_left
from shared.privacy.events import Event

DELTAS = (1e-4, 1e-5, 1e-6)
STEPS = (20, 500, 3000)
PAIRS = [(0.7, 0.01), (0.8, 0.05), (1.0, 0.02), (1.2, 0.1), (2.0, 0.05), (2.0, 0.3), (5.0, 0.01), (5.0, 0.5)]
PAIRS += [(20.0, 0.1), (60.0, 0.2)]
GRID = [
    (pair, steps, DELTAS[(row + column) % 3]) for row, pair in enumerate(PAIRS) for column, steps in enumerate(STEPS)
]
QUICK_FIRST = [pytest.param(*one, marks=() if place % 3 == 0 else pytest.mark.slow) for place, one in enumerate(GRID)]
"""The oracle takes most of the time: a third of the grid at every commit, all of it with the slow tests."""
SLACK = 0.003
"""PLD rounds upwards too; by less than this where its interval suits the result."""


@lru_cache
def pld(events: tuple[Event, ...], delta: float) -> float:
    """PLD's epsilon, pessimistic, with an interval that is fine enough for small results."""
    interval = 1e-4 if epsilon(events, delta, "rdp") > 0.3 else 1e-5
    return float(composed(PLDAccountant(value_discretization_interval=interval), events).get_epsilon(delta))


def composed(accountant: dp_accounting.PrivacyAccountant, events: tuple[Event, ...]) -> dp_accounting.PrivacyAccountant:
    for event in events:
        step = dp_accounting.PoissonSampledDpEvent(
            event.sampling_rate, dp_accounting.GaussianDpEvent(event.noise_multiplier)
        )
        accountant.compose(dp_accounting.SelfComposedDpEvent(step, event.steps))
    return accountant


def gaussian(noise_multiplier: float, delta: float) -> float:
    """Epsilon of one Gaussian release, exactly (Balle & Wang, ICML 2018, theorem 8)."""

    def excess(candidate: float) -> float:
        half, scaled = 0.5 / noise_multiplier, candidate * noise_multiplier
        return float(norm.cdf(half - scaled) - math.exp(candidate) * norm.cdf(-half - scaled)) - delta

    return float(brentq(excess, 0, 300)) if excess(0) > 0 else 0.0


def agrees(value: float, exact: float) -> bool:
    """Not below the oracle, and at most 2 per cent above it."""
    return (1 - SLACK) * exact <= value <= 1.02 * exact


# --- the value -------------------------------------------------------------------------------------------------------


def test_the_grid_spans_the_promises_that_are_made_in_practice() -> None:
    found = [epsilon([Event(*pair, steps)], delta) for pair, steps, delta in GRID]
    assert len(GRID) == 30
    assert min(found) < 0.05
    assert max(found) > 15
    assert sum(0.5 < value < 12 for value in found) >= 8


@pytest.mark.parametrize(("pair", "steps", "delta"), QUICK_FIRST)
def test_prv_is_within_2_per_cent_above_pld_and_below_rdp(pair: tuple[float, float], steps: int, delta: float) -> None:
    events = (Event(*pair, steps),)
    assert agrees(epsilon(events, delta), pld(events, delta))
    assert epsilon(events, delta) <= epsilon(events, delta, "rdp")


@pytest.mark.parametrize(("pair", "steps", "delta"), GRID[::7])
def test_the_comparison_rejects_an_accountant_that_is_told_of_half_as_much_noise_again(
    pair: tuple[float, float], steps: int, delta: float
) -> None:
    """The control: events with 2/3 of the noise are compared with what the accountant says of the whole."""
    noise, rate = pair
    assert not agrees(epsilon((Event(noise, rate, steps),), delta), pld((Event(noise * 2 / 3, rate, steps),), delta))


@pytest.mark.parametrize(("noise", "rate", "steps"), [(50.0, 0.05, 500), (26.0, 0.01, 2000), (9.0, 0.01, 200)])
def test_prv_is_within_2_per_cent_of_pld_at_epsilon_a_twentieth(noise: float, rate: float, steps: int) -> None:
    events = (Event(noise, rate, steps),)
    assert 0.03 < pld(events, 1e-5) < 0.07
    assert agrees(epsilon(events, 1e-5), pld(events, 1e-5))


@pytest.mark.parametrize(
    ("noise", "rate", "steps", "delta", "exact"),
    [
        (20.0, 0.01, 10_000, 1e-5, 0.160289),
        (5.0, 0.001, 100_000, 1e-5, 0.209318),
        (1.0, 0.001, 1_000_000, 1e-6, 6.694289),
        (3.0, 0.01, 30_000, 1e-10, 3.744803),
    ],
)
def test_a_million_steps_and_a_delta_of_1e_10_are_no_trouble(
    noise: float, rate: float, steps: int, delta: float, exact: float
) -> None:
    """The exact values are PLD's at an interval of 2e-6, which takes it minutes."""
    assert agrees(epsilon([Event(noise, rate, steps)], delta), exact)


@pytest.mark.parametrize("noise", [0.5, 1.0, 3.0, 10.0, 100.0])
@pytest.mark.parametrize("delta", [1e-3, 1e-6])
def test_at_rate_1_prv_agrees_with_the_closed_form_of_the_gaussian(noise: float, delta: float) -> None:
    exact = gaussian(noise, delta)
    assert exact * (1 - 1e-9) <= epsilon([Event(noise, 1.0, 1)], delta) <= max(1.01 * exact, exact + 2e-5)


def sampled_gaussian(noise: float, rate: float, delta: float) -> float:
    """Epsilon of one sampled release, exactly: the larger of the directions "removed" and "added".

    Outputs are N(0, noise^2) without the patient and (1 - rate) N(0, noise^2) + rate N(1, noise^2) with them; their
    ratio grows with the output, so the worst event of either direction is a half-line.
    """

    def threshold(ratio: float) -> float:
        """Where the density with the patient is ``ratio`` times the one without."""
        return noise**2 * math.log((ratio - (1 - rate)) / rate) + 0.5 if ratio > 1 - rate else -math.inf

    def with_patient(place: float) -> float:
        return (1 - rate) * float(norm.cdf(place / noise)) + rate * float(norm.cdf((place - 1) / noise))

    def removed(candidate: float) -> float:
        place = threshold(math.exp(candidate))
        return 1 - with_patient(place) - math.exp(candidate) * float(norm.sf(place / noise))

    def added(candidate: float) -> float:
        place = threshold(math.exp(-candidate))
        return float(norm.cdf(place / noise)) - math.exp(candidate) * with_patient(place)

    def smallest(excess: Callable[[float], float]) -> float:
        return float(brentq(lambda value: excess(value) - delta, 0, 100)) if excess(0) > delta else 0.0

    return max(smallest(removed), smallest(added))


@pytest.mark.parametrize(("noise", "rate"), [(0.5, 0.01), (0.8, 0.2), (1.0, 0.5), (2.0, 0.05), (3.0, 0.9)])
@pytest.mark.parametrize("delta", [1e-3, 1e-6])
def test_one_sampled_release_costs_what_its_closed_form_says(noise: float, rate: float, delta: float) -> None:
    exact = sampled_gaussian(noise, rate, delta)
    assert exact * (1 - 1e-9) <= epsilon([Event(noise, rate, 1)], delta) <= max(1.02 * exact, exact + 1e-4)


def test_the_closed_form_of_a_sampled_release_is_the_gaussian_s_at_rate_1() -> None:
    """The oracle has an oracle."""
    assert sampled_gaussian(2.0, 1 - 1e-12, 1e-5) == pytest.approx(gaussian(2.0, 1e-5), rel=1e-6)


@pytest.mark.parametrize(("noise", "rate"), [(0.7, 0.01), (1.0, 0.3), (4.0, 0.05), (20.0, 0.5)])
@pytest.mark.parametrize("order", [2, 5, 32, 128])
def test_divergences_are_the_integral_that_defines_them(noise: float, rate: float, order: int) -> None:
    """exp((order - 1) D) is the mean of (density with / density without) ^ order under the density without."""
    outputs = np.linspace(-40 * noise, 40 * noise + 1.5 * order, 400_001)
    ratio = np.logaddexp(math.log1p(-rate), math.log(rate) + (2 * outputs - 1) / (2 * noise**2))
    exact = logsumexp(order * ratio + norm.logpdf(outputs, scale=noise)) + math.log(outputs[1] - outputs[0])
    found = accounting._divergences(noise, rate)[accounting._ORDERS.index(order)]
    assert found == pytest.approx(exact / (order - 1), rel=1e-6, abs=1e-12)


def test_a_ledger_of_sixty_different_rounds_is_accounted_for() -> None:
    events = [Event(1.0 + 0.01 * place, 0.02 + 0.0005 * place, 10) for place in range(60)]
    cost = epsilon(events, 1e-5)
    assert epsilon([Event(1.6, 0.02, 600)], 1e-5) < cost < epsilon([Event(1.0, 0.05, 600)], 1e-5)
    assert cost < epsilon(events, 1e-5, "rdp")


def test_the_same_question_has_the_same_answer_in_lists_and_tuples_and_after_forgetting() -> None:
    events = [Event(1.7, 0.03, 123), Event(6.0, 1.0, 2)]
    first = epsilon(events, 1e-5)
    for cached in (accounting._epsilon, accounting._prv, accounting._divergences):
        cached.cache_clear()
    assert epsilon(tuple(events), 1e-5) == first


def test_importing_it_does_not_import_torch() -> None:
    """Commands that only read a ledger's caps start at once."""
    code = "import sys, shared.privacy.accounting, shared.privacy.terms; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120)
    assert done.stdout == "False\n"


def test_many_releases_of_everybody_are_one_with_less_noise() -> None:
    several = [Event(4.0, 1.0, 3), Event(7.0, 1.0, 5), Event(4.0, 1.0, 1)]
    together = (4 / 16 + 5 / 49) ** -0.5
    assert epsilon(several, 1e-5) == pytest.approx(gaussian(together, 1e-5), rel=0.01)
    assert epsilon(several, 1e-5) >= gaussian(together, 1e-5)


def test_different_events_compose_as_pld_composes_them() -> None:
    events = (Event(1.2, 0.064, 300), Event(10.0, 1.0, 3), Event(2.0, 0.01, 2000), Event(0.9, 0.02, 50))
    assert agrees(epsilon(events, 1e-5), pld(events, 1e-5))
    assert epsilon(events, 1e-5) > max(epsilon([event], 1e-5) for event in events)


def test_neither_order_nor_the_way_steps_are_told_apart_matters() -> None:
    told = [Event(1.0, 0.1, 20), Event(3.0, 0.2, 5), Event(1.0, 0.1, 30)]
    assert epsilon(told, 1e-5) == epsilon([Event(3.0, 0.2, 5), Event(1.0, 0.1, 50)], 1e-5)


@pytest.mark.parametrize("accountant", ["prv", "rdp"])
def test_nothing_done_costs_nothing(accountant: Literal["prv", "rdp"]) -> None:
    assert epsilon([], 1e-5, accountant) == 0


def test_what_no_delta_can_notice_costs_nothing_or_next_to_nothing() -> None:
    assert 0 <= epsilon([Event(10_000.0, 1.0, 1)], 1e-3) < 1e-4


@pytest.mark.parametrize(("pair", "steps", "delta"), QUICK_FIRST)
def test_rdp_agrees_with_the_rdp_of_two_others(pair: tuple[float, float], steps: int, delta: float) -> None:
    """Each has its own orders; a bound may be lower than the others', but not than PRV's."""
    events, opacus = (Event(*pair, steps),), OpacusRdp()
    opacus.history = [(*pair, steps)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it warns where its orders end
        others = (composed(RdpAccountant(), events).get_epsilon(delta), opacus.get_epsilon(delta))
    ours = epsilon(events, delta, "rdp")
    assert epsilon(events, delta) <= ours <= 1.03 * min(others)


# --- where PRV does not serve ----------------------------------------------------------------------------------------


def test_enormous_epsilons_and_tiny_deltas_are_left_to_rdp() -> None:
    for events, delta in (([Event(0.1, 0.5, 10)], 1e-4), ([Event(3.0, 0.01, 1000)], 1e-11)):
        assert epsilon(events, delta) == epsilon(events, delta, "rdp")
    assert epsilon([Event(0.1, 0.5, 10)], 1e-4) > 500


def test_a_failure_of_prv_gives_the_larger_bound_and_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    event = Event(1.2345, 0.0678, 321)
    usual = epsilon([event], 1e-5)
    monkeypatch.setattr(accounting, "_prv", lambda *_: math.inf)
    accounting._epsilon.cache_clear()
    assert epsilon([event], 1e-5) == epsilon([event], 1e-5, "rdp") > usual
    accounting._epsilon.cache_clear()


@pytest.mark.parametrize(
    "event",
    [Event(0.0, 0.1, 5), Event(math.nan, 0.1, 5), Event(1.0, 0.0, 5), Event(1.0, 1.5, 5), Event(1.0, 0.1, 0)],
    ids=["no noise", "noise NaN", "rate 0", "rate above 1", "no steps"],
)
def test_what_is_no_event_is_refused_and_not_counted_as_free(event: Event) -> None:
    for ask in (
        lambda: epsilon([event], 1e-5),
        lambda: noise_for(Target(1.0, 1e-5, 0.1, 10), [event]),
        lambda: rounds_left([], event, Cap(1.0, 1e-5)),
    ):
        with pytest.raises(PlanError, match="cannot be accounted for") as refused:
            ask()
        assert refused.value.hint


@pytest.mark.parametrize("delta", [0.0, 1.0, -1e-5, math.nan])
def test_a_delta_outside_0_and_1_is_refused(delta: float) -> None:
    with pytest.raises(PlanError, match="delta"):
        epsilon([Event(1.0, 0.1, 10)], delta)


# --- monotone --------------------------------------------------------------------------------------------------------

NOISES = st.floats(0.6, 30)
RATES = st.floats(0.005, 0.9)
COUNTS = st.integers(1, 400)
MORE = st.floats(1.02, 2)


@settings(max_examples=5)
@given(noise=NOISES, rate=RATES, steps=COUNTS, more=MORE)
def test_less_noise_a_higher_rate_or_more_steps_never_cost_less(
    noise: float, rate: float, steps: int, more: float
) -> None:
    cost = epsilon([Event(noise, rate, steps)], 1e-5)
    dearer = [Event(noise / more, rate, steps), Event(noise, min(1.0, rate * more), steps)]
    dearer.append(Event(noise, rate, math.ceil(steps * more)))
    assert all(epsilon([event], 1e-5) >= cost * (1 - 1e-3) for event in dearer)


@settings(max_examples=3)
@given(noise=NOISES, rate=RATES, steps=COUNTS)
def test_a_larger_delta_never_costs_more_epsilon(noise: float, rate: float, steps: int) -> None:
    costs = [epsilon([Event(noise, rate, steps)], delta) for delta in (1e-7, 1e-5, 1e-3)]
    assert costs == sorted(costs, reverse=True)


# --- the way back ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "target",
    [
        Target(8.0, 1e-4, 0.1, 800),
        Target(1.0, 1e-5, 0.05, 500),
        pytest.param(Target(0.1, 1e-5, 0.02, 800), marks=pytest.mark.slow),
        pytest.param(Target(30.0, 1e-4, 0.5, 300), marks=pytest.mark.slow),
        Target(4.0, 1e-6, 1.0, 8),
        Target(1.0, 1e-5, 1.0, 1),
    ],
    ids=str,
)
def test_the_noise_found_spends_the_target_by_pld_to_within_1_5_per_cent_and_never_more(target: Target) -> None:
    events = (target.event(noise_for(target)),)
    assert 0.985 * target.epsilon <= pld(events, target.delta) <= target.epsilon
    assert epsilon(events, target.delta) <= target.epsilon


def test_noise_has_4_significant_digits_and_2_units_of_the_last_less_are_too_little() -> None:
    target = Target(3.0, 1e-5, 0.03, 400)
    noise = noise_for(target)
    assert float(f"{noise:.4g}") == noise
    assert epsilon([target.event(noise - 2e-3)], target.delta) > target.epsilon


def test_what_was_done_before_is_counted() -> None:
    target, before = Target(4.0, 1e-5, 0.05, 400), (Event(1.5, 0.05, 300), Event(8.0, 1.0, 2))
    noise = noise_for(target, before)
    assert noise > noise_for(target)
    assert 0.985 * 4 <= pld((*before, target.event(noise)), 1e-5) <= 4


def test_a_budget_that_is_spent_leaves_no_noise_to_choose() -> None:
    with pytest.raises(PlanError, match=r"epsilon 12\.\d+ of 2 \(delta 1e-05\) is spent") as found:
        noise_for(Target(2.0, 1e-5, 0.1, 10), [Event(1.0, 0.1, 300)])
    assert found.value.hint


def test_an_absurd_target_is_refused_with_its_numbers() -> None:
    with pytest.raises(PlanError, match=r"100000 steps at rate 1 keep epsilon 0\.001 .* up to 10000") as found:
        noise_for(Target(1e-3, 1e-10, 1.0, 100_000))
    assert "fewer" in found.value.hint


# --- rounds ----------------------------------------------------------------------------------------------------------

ROUND = Event(1.2, 0.064, 50)
CAP = Cap(4.0, 1e-4)


def test_rounds_left_is_the_largest_number_that_keeps_the_cap() -> None:
    """The oracle counts up one by one."""
    costs = [epsilon([ROUND] * rounds, CAP.delta) for rounds in range(8)]
    fits = max(rounds for rounds, cost in enumerate(costs) if cost <= CAP.epsilon)
    assert 2 <= fits < 7
    assert rounds_left([], ROUND, CAP) == fits
    assert [rounds_left([ROUND] * done, ROUND, CAP) for done in range(fits + 3)] == [*range(fits, -1, -1), 0, 0]


def test_other_events_leave_fewer_rounds() -> None:
    before = (Event(3.0, 0.1, 100), Event(5.0, 1.0, 1))
    left = rounds_left(before, ROUND, Cap(8.0, 1e-4))
    assert 1 <= left < rounds_left([], ROUND, Cap(8.0, 1e-4))
    assert epsilon([*before, *[ROUND] * left], 1e-4) <= 8 < epsilon([*before, *[ROUND] * (left + 1)], 1e-4)


def test_a_round_that_alone_breaks_the_cap_leaves_none() -> None:
    assert rounds_left([], Event(0.5, 0.5, 50), Cap(1.0, 1e-5)) == 0


def test_rounds_that_cost_next_to_nothing_are_counted_up_to_a_bound() -> None:
    assert rounds_left([], Event(1000.0, 0.01, 20), CAP) == MOST_ROUNDS
