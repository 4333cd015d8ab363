"""The sum with masks is the sum without, to the bit: whoever drops out when, in any order, of any size. Or none is had.

The oracle for values is numpy's sum of 64-bit integers, that for what must be refused is counting sites in a list.
"""

import random
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from summed import DEFINITION, STEPS, Sum, expected, found, held, names_of, run

from shared.errors import ConsiliumError
from shared.secure.held import Held
from shared.secure.holders import Threshold

ALL = len(STEPS)


@dataclass(frozen=True)
class Case:
    """A federation: its answers, how many steps each site takes part in, the threshold, and how papers are shuffled."""

    answers: dict[str, Held]
    stays: dict[str, int]
    threshold: int | None
    order: int

    def left(self, step: str) -> list[str]:
        """Who takes part in ``step``."""
        return sorted(site for site, steps in self.stays.items() if steps > STEPS.index(step))

    def fate(self) -> str:
        """The code of the refusal, by counting; empty where there is a sum."""
        enrolled = len(self.answers)
        least = max(2, 2 * enrolled // 3 + 1) if self.threshold is None else self.threshold
        if least < 2 or 2 * least <= enrolled:
            return "threshold-low"
        if any(len(self.left(step)) < least for step in STEPS[:-1]):
            return "below-threshold"
        return "shares-missing" if len(self.left("unmask")) < least else ""


@st.composite
def cases(draw: Any, most: int = 14) -> Case:
    sites = names_of(draw(st.integers(2, most)))
    peak = draw(st.sampled_from([0, 1, 127, 32_767, 8_388_607]))
    weights = [draw(st.integers(1, max(1, min(1000, 2**31 // (max(1, peak) * len(sites) * 2))))) for _ in sites]
    values, counts = draw(st.integers(0, 40)), draw(st.integers(0, 9))
    numbers = np.random.default_rng(draw(st.integers(0, 2**32)))

    def answer(weight: int) -> Held:
        drawn = numbers.integers(-peak, peak, values, np.int32, endpoint=True)
        drawn[numbers.random(values) < 0.2] = peak
        return Held(drawn, numbers.integers(-(2**40), 2**40, counts, np.int64), weight, peak, DEFINITION)

    answers = {site: answer(weight) for site, weight in zip(sites, weights, strict=True)}
    losing = draw(st.sampled_from([0.0, 0.1, 0.3, 0.6]))
    gone = {site: int(numbers.integers(0, ALL)) for site in sites if numbers.random() < losing}
    threshold = draw(st.one_of(st.none(), st.integers(2, len(sites))))
    return Case(answers, {**dict.fromkeys(sites, ALL), **gone}, threshold, draw(st.integers(0, 99)))


def outcome(case: Case, rule: Threshold) -> tuple[Sum, Any]:
    sum_ = Sum(case.answers, rule)
    try:
        return sum_, found(run(sum_, case.stays, random.Random(case.order)))
    except ConsiliumError as error:
        return sum_, error.code


def require_one_secret_each(sum_: Sum) -> None:
    """Nobody's shares of both secrets have left, from whichever holders."""
    seeds = {dealer for one in sum_.revealed.values() for dealer in one.seeds}
    assert not seeds.intersection(dealer for one in sum_.revealed.values() for dealer in one.keys)


def check(case: Case) -> None:
    sum_, came = outcome(case, Threshold(case.threshold))
    require_one_secret_each(sum_)
    fate = case.fate()
    if fate:
        assert came == fate
        assert not sum_.revealed or fate == "shares-missing", "below the threshold nobody reveals anything"
    else:
        assert came == expected(case.answers[site] for site in case.left("mask"))
        assert list(sum_.round.total().sites) == case.left("mask")


@given(cases())
@settings(max_examples=80)
def test_masks_cancel_whoever_drops_out_when(case: Case) -> None:
    check(case)


@given(cases(most=50))
@settings(max_examples=6)
@pytest.mark.slow
def test_masks_cancel_among_up_to_50_sites(case: Case) -> None:
    check(case)


def everybody(count: int, **gone: int) -> Case:
    sites = names_of(count)
    numbers = np.random.default_rng(count)
    answers = {
        site: held(numbers.integers(-100, 101, 3).tolist(), numbers.integers(0, 9, 2).tolist(), 1 + number % 5)
        for number, site in enumerate(sites)
    }
    return Case(answers, {site: gone.get(f"at{number}", ALL) for number, site in enumerate(sites)}, None, count)


@pytest.mark.parametrize("step", range(1, ALL))
def test_a_site_may_drop_out_after_any_step(step: int) -> None:
    case = everybody(7, at2=step)
    assert case.fate() == ""
    check(case)


def test_fifty_sites_and_a_third_of_them_gone_one_by_one() -> None:
    case = everybody(50, **{f"at{number}": 1 + number % 4 for number in range(16)})
    assert case.fate() == ""
    check(case)


def test_two_sites_are_enough_for_a_sum_and_one_is_not() -> None:
    check(everybody(2))
    assert outcome(everybody(1), Threshold())[1] == "below-threshold"


def test_one_parameter_is_enough_and_none_leaves_the_counts() -> None:
    for values, counts in (([3], []), ([], [5]), ([-3], [0, -1]), ([], [])):
        answers = {site: held(values, counts, 2) for site in names_of(3)}
        assert found(run(Sum(answers))) == expected(answers.values())


@pytest.mark.parametrize("bits", range(16, 33))
def test_the_sum_is_right_at_its_extremes_in_every_width(bits: int) -> None:
    """All sites at the peak with one sign: the ring is filled but for one place at most."""
    sites = names_of(3)
    peak, weight = (2 ** (bits - 1) - 1) // 3, 1
    for values in ([peak, -peak, 0], [-peak] * 3):
        answers = {site: held(values, [2**62 // 3], weight, peak) for site in sites}
        sum_ = Sum(answers)
        assert found(run(sum_)) == expected(answers.values())
        assert sum_.round.offers().bits == bits


def on_a_ring(_sites: int) -> tuple[int, int]:
    """Six neighbours each, four shares make a secret."""
    return 6, 4


RING = Threshold(degree=on_a_ring, complete_up_to=8)


@given(cases(most=16))
@settings(max_examples=25)
@example(everybody(24, at0=2, at1=3, at2=4, at3=1, at4=2))
def test_on_a_graph_there_is_the_exact_sum_or_none(case: Case) -> None:
    sum_, came = outcome(case, Threshold(case.threshold, on_a_ring, complete_up_to=8))
    require_one_secret_each(sum_)
    if isinstance(came, str):
        assert came == case.fate() or (came in {"neighbours-few", "shares-missing"} and len(case.left("offer")) > 8)
        assert came == "shares-missing" or not sum_.revealed
    else:
        assert case.fate() in {"", "shares-missing"}
        assert came == expected(case.answers[site] for site in case.left("mask"))


def test_on_a_graph_sites_deal_to_their_neighbours_alone_and_some_may_drop_out() -> None:
    case = everybody(30, at4=2, at11=2, at17=3, at20=4)
    sum_ = Sum(case.answers, RING)
    came = run(sum_, case.stays, random.Random(1))
    assert found(came) == expected(case.answers[site] for site in case.left("mask"))
    assert {len(one.seeds) + len(one.keys) for one in sum_.revealed.values()} <= {5, 6, 7}
    site = names_of(30)[0]
    assert len(sum_.round.received(site).dealt) == 6


def test_the_graph_changes_with_the_offers_and_is_one_for_all() -> None:
    answers = everybody(20).answers
    first, again, other = (Sum(answers, RING, seed=seed).until("deal") for seed in (1, 1, 2))
    site = names_of(20)[0]
    neighbours = [[one.dealer for one in of.round.received(site).dealt] for of in (first, again, other)]
    assert neighbours[0] == neighbours[1] != neighbours[2]


def test_a_round_without_enough_holders_of_one_secret_ends_before_anything_is_revealed() -> None:
    """Enough sites are left, but of the neighbours of one, all are gone: its secrets cannot be had."""
    answers = everybody(30).answers
    sum_ = Sum(answers, RING).until("deal")
    lonely = names_of(30)[0]
    beside = [one.dealer for one in sum_.round.received(lonely).dealt]
    left = [site for site in answers if site not in beside[:4]]
    sum_.mask(left)
    with pytest.raises(ConsiliumError) as caught:
        sum_.round.survivors()
    assert caught.value.code == "neighbours-few"
    assert sum_.round.phase == "masking"
    sum_.mask(beside[:4])
    assert lonely in sum_.round.survivors().survivors
