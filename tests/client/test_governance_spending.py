"""What patients pay, without a file: sums of events, caps, refusals."""

import math
from collections.abc import Sequence

import dp_accounting
import pytest
from dp_accounting.pld import PLDAccountant
from hypothesis import given
from hypothesis import strategies as st
from small_ledger import EVENT, added_up, claim, sha

from client.data.cohort.manifest import Cohort, Member, SplitRule
from client.governance.spending import (
    Account,
    CohortPatients,
    cost,
    if_all_collude,
    merged,
    require_within,
    within,
)
from shared.errors import BudgetError
from shared.messages import Split
from shared.privacy.accounting import Cap, epsilon
from shared.privacy.events import Event

CAP = Cap(10, 1e-5)
events = st.builds(Event, st.sampled_from([0.5, 1.0, 2.0]), st.sampled_from([0.1, 0.5, 1.0]), st.integers(1, 50))


def by_pld(noise: float, rate: float, steps: int, delta: float) -> float:
    """An accountant that nobody here wrote."""
    accountant = PLDAccountant(value_discretization_interval=1e-3)
    step = dp_accounting.PoissonSampledDpEvent(rate, dp_accounting.GaussianDpEvent(noise))
    return float(accountant.compose(dp_accounting.SelfComposedDpEvent(step, steps)).get_epsilon(delta))


def test_a_cost_is_an_upper_bound_and_a_close_one() -> None:
    said = cost((Event(1.2, 0.064, 150),), 1e-5, epsilon)
    truth = by_pld(1.2, 0.064, 150, 1e-5)
    assert truth * 0.999 < said < truth * 1.02
    assert cost((Event(1.2, 0.064, 300),), 1e-5, epsilon) > truth * 1.02, "the control: twice the steps are not that"


def test_nothing_costs_nothing_and_no_accountant_is_asked() -> None:
    def never(*_: object) -> float:
        raise AssertionError

    assert cost((), 1e-5, never) == 0.0


@given(st.lists(events, max_size=8))
def test_merging_loses_no_step_and_says_the_same_in_any_order(found: list[Event]) -> None:
    together = merged(found)
    assert merged(reversed(found)) == together == merged(together)
    assert len({(event.noise_multiplier, event.sampling_rate) for event in together}) == len(together)
    assert added_up(together, 0, "") == pytest.approx(added_up(found, 0, ""))
    assert sum(event.steps for event in together) == sum(event.steps for event in found)


shared = st.builds(Event, st.just(2.0), st.just(0.5), st.integers(1, 50), st.sampled_from([0.0, 0.5, 1.0]))


@given(st.lists(shared, max_size=8))
def test_merging_keeps_apart_what_is_left_of_the_noise_if_all_other_sites_collude(found: list[Event]) -> None:
    together = merged(found)
    for alone in (0.0, 0.5, 1.0):
        steps = sum(event.steps for event in found if event.alone == alone)
        assert sum(event.steps for event in together if event.alone == alone) == steps
    assert len(together) == len({event.alone for event in found})


@given(st.lists(st.lists(shared, max_size=5), min_size=1, max_size=4))
def test_the_worst_case_is_the_dearest_s_with_the_noise_that_is_this_site_s(found: list[list[Event]]) -> None:
    """By hand: each step pays with its own part of the noise, where there is one, and else with all of it."""
    by_hand = [sum(one.steps * 0.5 / (one.alone if one.alone else 2.0) for one in each) for each in found]
    said = if_all_collude(found, 1e-5, added_up)
    if any(event.alone for each in found for event in each):
        assert said == pytest.approx(max(by_hand))
        assert said is not None
        assert said >= max(added_up(each, 0, "") for each in found)
    else:
        assert said is None


def test_the_worst_case_of_a_shared_noise_is_that_of_a_site_s_part_and_of_no_less() -> None:
    """Of four honest sites, a part has half the deviation; an accountant that nobody here wrote is asked about that."""
    truth = by_pld(1.2, 0.064, 150, 1e-5)
    said = if_all_collude([[Event(2.4, 0.064, 100, 1.2), Event(1.2, 0.064, 50)]], 1e-5, epsilon)
    assert said is not None
    assert truth * 0.999 < said < truth * 1.02
    assert cost((Event(2.4, 0.064, 100, 1.2), Event(1.2, 0.064, 50)), 1e-5, epsilon) < truth * 0.9


def test_who_shares_no_noise_has_no_worst_case_beside_what_is_paid() -> None:
    assert if_all_collude([], 1e-5, epsilon) is None
    assert if_all_collude([(), (EVENT,)], 1e-5, epsilon) is None


@given(st.lists(events, max_size=5), st.lists(events, max_size=5))
def test_an_account_pays_for_what_left_and_for_what_may_leave(released: list[Event], reserved: list[Event]) -> None:
    assert Account(tuple(released), tuple(reserved)).all() == merged([*released, *reserved])


def test_the_tighter_bound_is_asked_only_where_the_other_says_no() -> None:
    asked: list[str] = []

    def price(events: Sequence[Event], delta: float, accountant: str) -> float:  # noqa: ARG001
        asked.append(accountant)
        return {"rdp": 11.0, "prv": 9.0}[accountant]

    assert within((EVENT,), Cap(12, 1e-5), price)
    assert asked == ["rdp"]
    assert within((EVENT,), CAP, price)
    assert not within((EVENT,), Cap(8, 1e-5), price)
    assert asked == ["rdp", "rdp", "prv", "rdp", "prv"]


def test_the_cap_itself_may_be_spent_and_nothing_above() -> None:
    require_within(claim(), (EVENT,), [Account((EVENT,))], CAP, added_up)
    with pytest.raises(BudgetError):
        require_within(claim(), (EVENT,), [Account((EVENT,))], Cap(math.nextafter(10, 0), 1e-5), added_up)


def test_every_account_has_to_stay_within_the_cap() -> None:
    accounts = [Account((EVENT,)), Account((EVENT,), (EVENT,)), Account()]
    with pytest.raises(BudgetError, match="to epsilon 15 at"):
        require_within(claim(), (EVENT,), accounts, CAP, added_up)
    require_within(claim(), (EVENT,), [accounts[0], accounts[2]], CAP, added_up)


@pytest.mark.parametrize(
    ("price", "said"),
    [(10.000001, "10.0001"), (10.23456, "10.2346"), (12.0, "12"), (float("inf"), "inf"), (float("nan"), "nan")],
)
def test_a_refusal_names_a_number_that_is_above_the_cap(price: float, said: str) -> None:
    with pytest.raises(BudgetError, match=f"to epsilon {said} at delta 1e-05, the cap is 10; 0 rounds remain") as told:
        require_within(claim(), (EVENT,), [Account()], CAP, lambda *_: price)
    assert told.value.code == "budget"
    assert "consilium-site budget" in told.value.hint


@given(st.lists(events, min_size=1, max_size=4), st.floats(0.5, 40))
def test_what_is_granted_keeps_the_cap_by_real_accounting_and_what_is_refused_does_not(
    asked: list[Event], most: float
) -> None:
    cap = Cap(most, 1e-5)
    try:
        require_within(claim(), asked, [Account()], cap, epsilon)
    except BudgetError:
        assert epsilon(asked, cap.delta, "prv") > most
        assert epsilon(asked, cap.delta, "rdp") > most
    else:
        assert min(epsilon(asked, cap.delta, "prv"), epsilon(asked, cap.delta, "rdp")) <= most


def test_a_patient_in_two_splits_is_none_of_a_cohort() -> None:
    with pytest.raises(ValueError, match="more than one split") as refused:
        CohortPatients(sha("c"), "lesions", {"train": ["secret-1", "b"], "test": ["secret-1"]})
    assert "secret" not in str(refused.value)
    assert CohortPatients(sha("c"), "lesions", {"train": ["a", "a"]}).pairs() == [("train", "a")]


def test_the_patients_of_a_manifest_are_counted_once_each_and_in_their_split() -> None:
    def member(number: int, patient: str, split: Split) -> Member:
        return Member(f"{number:024x}", patient, split, "s", "c", (1, 4, 4), (1.0, 1.0), "other", False, None)

    frozen = Cohort(
        site="north",
        dataset="lesions",
        rule=SplitRule(7, 0.6, 0.15),
        members=(member(1, "a", "train"), member(2, "a", "train"), member(3, "b", "test")),
    )
    assert CohortPatients.of(frozen) == CohortPatients(
        frozen.digest(), "lesions", {"train": {"a"}, "validation": set(), "test": {"b"}}
    )


def test_no_plan_has_a_round_below_0() -> None:
    with pytest.raises(ValueError, match="round -1 is below 0"):
        claim(number=-1)
