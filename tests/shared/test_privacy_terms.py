"""Terms of a private plan: made of public numbers alone, and keeping what the plan promises."""

import math
from typing import Any

import dp_accounting
import pytest
from dp_accounting.pld import PLDAccountant
from small_hospitals import document

from server import rounds
from server.round_values import FINAL, Ask, Kind, Phase
from server.round_values import Event as Happened
from shared.errors import PlanError
from shared.plan import Plan, from_document
from shared.privacy.accounting import epsilon
from shared.privacy.events import Event
from shared.privacy.terms import StatisticsTerms, Terms, measured_rounds, public_patients, statistics_terms, terms_for

PROMISE: dict[str, Any] = {"unit": "patient", "epsilon": 4.0, "delta": 1e-4, "clip_norm": 0.5, "public_patients": 80}


def plan(privacy: dict[str, Any] | None = None, **changes: Any) -> Plan:
    said = document(**{"evaluation__release": "dp"} | changes)
    said["privacy"] = PROMISE | (privacy or {})
    said.pop("scenario")
    return from_document(said)


def pld(noise: float, rate: float, steps: int) -> float:
    step = dp_accounting.PoissonSampledDpEvent(rate, dp_accounting.GaussianDpEvent(noise))
    accountant = PLDAccountant().compose(dp_accounting.SelfComposedDpEvent(step, steps))
    return float(accountant.get_epsilon(PROMISE["delta"]))


# --- training --------------------------------------------------------------------------------------------------------


def test_rate_and_divisor_follow_from_public_numbers() -> None:
    terms = terms_for(plan(), "aachen")
    assert terms.sampling_rate == 4 / 80
    assert terms.denominator == 4
    assert (terms.clip_norm, terms.steps_per_round, terms.rounds) == (0.5, 3, 2)
    assert terms.noise_per_coordinate == terms.noise_multiplier * 0.5 / 4


def test_a_rate_said_by_the_plan_counts_and_the_divisor_follows_it() -> None:
    terms = terms_for(plan({"sampling_rate": 0.3}), "aachen")
    assert (terms.sampling_rate, terms.denominator) == (0.3, pytest.approx(24))


def test_a_site_smaller_than_a_step_takes_everybody() -> None:
    terms = terms_for(plan({"public_patients": 3}), "aachen")
    assert (terms.sampling_rate, terms.denominator) == (1.0, 3.0)


def test_the_noise_spends_the_plan_s_epsilon_on_all_rounds_together_by_pld_and_no_more() -> None:
    terms = terms_for(plan(plan__rounds=30), "aachen")
    spent = pld(terms.noise_multiplier, 4 / 80, 30 * 3)
    assert 0.985 * 4 <= spent <= 4


def test_the_events_of_all_rounds_cost_what_the_rounds_cost_one_by_one() -> None:
    terms = terms_for(plan(plan__rounds=7), "aachen")
    assert terms.round_event() == Event(terms.noise_multiplier, 0.05, 3)
    assert sum(event.steps for event in terms.all_events()) == 21
    assert epsilon(terms.all_events(), 1e-4) == epsilon([terms.round_event()] * 7, 1e-4) <= 4


def test_sites_have_their_own_numbers_where_the_plan_gives_them() -> None:
    both = plan({"public_patients": {"aachen": 40, "bergen": 400}})
    small, large = terms_for(both, "aachen"), terms_for(both, "bergen")
    assert (small.sampling_rate, large.sampling_rate) == (0.1, 0.01)
    assert small.denominator == large.denominator == 4
    assert small.noise_multiplier > large.noise_multiplier
    assert public_patients(both, "bergen") == 400


def test_every_site_has_the_same_terms_under_one_number() -> None:
    assert terms_for(plan(), "aachen") == terms_for(plan(), "a site that nobody knows")


def test_a_site_without_a_number_is_told_which_ones_there_are() -> None:
    with pytest.raises(PlanError, match="no number for the site bergne") as refused:
        terms_for(plan({"public_patients": {"aachen": 40, "bergen": 400}}), "bergne")
    assert refused.value.hint == "did you mean bergen?"


def test_the_plan_s_own_noise_is_kept_where_it_suffices() -> None:
    least = terms_for(plan(), "aachen").noise_multiplier
    assert terms_for(plan({"noise_multiplier": 2 * least}), "aachen").noise_multiplier == 2 * least
    assert terms_for(plan({"noise_multiplier": least}), "aachen").noise_multiplier == least


def test_noise_that_breaks_the_promise_is_refused_with_its_epsilon_and_the_noise_that_keeps_it() -> None:
    least = terms_for(plan(), "aachen").noise_multiplier
    with pytest.raises(PlanError) as refused:
        terms_for(plan({"noise_multiplier": least * 2 / 3}), "aachen")
    cost = epsilon([Event(least * 2 / 3, 0.05, 6)], 1e-4)
    assert f"a patient of aachen epsilon {cost:.4g}, the plan promises 4 (delta 0.0001, 6 steps" in str(refused.value)
    assert refused.value.hint == f"set privacy.noise_multiplier to at least {least:g}, or leave it out"


def test_a_plan_without_a_promise_has_no_terms() -> None:
    unprotected = from_document({key: value for key, value in document().items() if key != "scenario"})
    for ask in (lambda: terms_for(unprotected, "aachen"), lambda: statistics_terms(unprotected, "test")):
        with pytest.raises(PlanError, match="the plan promises no privacy") as refused:
            ask()
        assert 'privacy.unit = "patient"' in refused.value.hint
    with pytest.raises(PlanError, match="no number for the site aachen") as refused:
        public_patients(unprotected, "aachen")
    assert refused.value.hint == "add privacy.public_patients"


def test_a_promise_that_no_noise_keeps_is_refused() -> None:
    with pytest.raises(PlanError, match="with no noise multiplier up to 10000"):
        terms_for(plan({"epsilon": 1e-4, "delta": 1e-9}, training__steps=5000), "aachen")


def test_views_of_an_image_and_images_of_a_patient_change_no_terms() -> None:
    assert terms_for(plan({"images_per_patient": 4, "views_per_image": 3}), "aachen") == terms_for(plan(), "aachen")


# --- statistics ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("split", ["validation", "test"])
def test_all_releases_on_a_split_keep_the_plan_s_epsilon_and_nearly_spend_it(split: Any) -> None:
    terms = statistics_terms(plan(plan__rounds=9, evaluation__every=2), split)
    assert terms.releases == {"validation": 5, "test": 1}[split]
    assert 0.985 * 4 <= pld(terms.noise_multiplier, 1.0, terms.releases) <= 4
    assert terms.event() == Event(terms.noise_multiplier, 1.0, 1)
    assert epsilon([terms.event()] * terms.releases, 1e-4) <= 4


def test_more_measurements_need_more_noise_in_each_and_testing_does_not() -> None:
    often = plan(plan__rounds=16, evaluation__every=1)
    rarely = plan(plan__rounds=16, evaluation__every=16)
    ratio = (
        statistics_terms(often, "validation").noise_multiplier / statistics_terms(rarely, "validation").noise_multiplier
    )
    assert ratio == pytest.approx(math.sqrt(16), rel=0.01)
    assert statistics_terms(often, "test") == statistics_terms(rarely, "test") == statistics_terms(rarely, "validation")


@pytest.mark.parametrize("every", [1, 2, 3, 5, 7, 12, 40])
@pytest.mark.parametrize("count", [1, 2, 5, 12])
def test_the_number_of_releases_is_how_often_the_coordinator_asks(count: int, every: int) -> None:
    """The oracle is the coordinator's own table, played through with sites that answer."""
    asked = play(plan(plan__rounds=count, evaluation__every=every))
    assert asked.count(Phase.MEASURING) == measured_rounds(plan(plan__rounds=count, evaluation__every=every))
    assert asked.count(Phase.TESTING) == 1


def play(course: Plan) -> list[Phase]:
    """The phases in which sites are asked, in order."""
    state, actions = rounds.start(rounds.shape_of(course), frozenset({"aachen", "bergen"})), ()
    asked: list[Phase] = [state.phase]
    while state.phase not in FINAL:
        kind = Kind.AGGREGATED if state.phase is Phase.AGGREGATING else Kind.ANSWERED
        state, actions = rounds.step(state, Happened(kind, min(state.asked, default="")))
        asked += [action.question.phase for action in actions if isinstance(action, Ask)]
    return asked


@pytest.mark.parametrize("release", ["sum", "site"])
def test_statistics_without_noise_have_no_terms(release: str) -> None:
    said = plan({"covers": "training"}, evaluation__release=release)
    with pytest.raises(PlanError, match=f'evaluation.release = "{release}" adds no noise') as refused:
        statistics_terms(said, "test")
    assert refused.value.hint == 'set evaluation.release = "dp"'


def test_terms_are_values() -> None:
    assert Terms(0.1, 1.0, 1.0, 4.0, 3, 2) == Terms(0.1, 1.0, 1.0, 4.0, 3, 2)
    assert StatisticsTerms(1.0, 3) != StatisticsTerms(1.0, 4)


# --- noise that sites share ------------------------------------------------------------------------------------------


def sharing(privacy: dict[str, Any] | None = None, **changes: Any) -> Plan:
    said: dict[str, Any] = {
        "training__steps": 1,
        "training__optimizer": "sgd",
        "training__learning_rate": 0.1,
        "aggregation__weights": "equal",
        "aggregation__fixed_point": {"range": 1.0, "bits": 20},
        "secure_aggregation__enabled": True,
        "secure_aggregation__threshold": 5,
    }
    return plan({"noise": "shared", "colluding_sites": 1} | (privacy or {}), **said | changes)


def test_sites_alike_share_what_each_would_have_added_alone() -> None:
    own = terms_for(sharing({"noise": "own", "colluding_sites": None}), "aachen")
    shared = terms_for(sharing(), "aachen")
    assert shared.noise_multiplier == pytest.approx(own.noise_multiplier, rel=1e-12)
    assert (own.share, own.alone) == (None, 0.0)
    assert shared.share is not None
    assert shared.share.honest == 4
    assert shared.alone == pytest.approx(own.noise_multiplier / 2)
    assert shared.round_event() == Event(shared.noise_multiplier, 0.05, 1, shared.alone)
    assert shared.all_events() == (Event(shared.noise_multiplier, 0.05, 2, shared.alone),)


def test_a_patient_counts_the_same_wherever_they_are_and_all_have_the_noise_of_the_site_that_needs_most() -> None:
    numbers = {"public_patients": {"aachen": 3, "bergen": 400}}
    both, alone = sharing(numbers), plan(numbers, training__steps=1)
    shared = {site: terms_for(both, site) for site in ("aachen", "bergen")}
    own = {site: terms_for(alone, site) for site in ("aachen", "bergen")}
    assert shared["aachen"].noise_multiplier == pytest.approx(own["aachen"].noise_multiplier)
    assert shared["bergen"].noise_multiplier > 1.2 * own["bergen"].noise_multiplier
    assert {terms.denominator for terms in shared.values()} == {(3 + 4) / 2}
    assert shared["aachen"].noise_per_coordinate == shared["bergen"].noise_per_coordinate
    assert [terms.sampling_rate for terms in shared.values()] == [1.0, 0.01]
    for site, terms in shared.items():
        assert epsilon(terms.all_events(), 1e-4) <= epsilon(own[site].all_events(), 1e-4) <= 4


def test_if_all_others_collude_the_promise_is_that_of_a_part_of_the_noise() -> None:
    terms = terms_for(sharing(plan__rounds=40), "aachen")
    (event,) = terms.all_events()
    worst = epsilon([event.if_alone()], 1e-4)
    assert worst == epsilon([Event(terms.noise_multiplier / 2, 0.05, 40)], 1e-4)
    assert 1.5 * 4 < worst < 100
    assert Event(1.0, 0.5, 3).if_alone() == Event(1.0, 0.5, 3)


def test_a_range_that_noise_would_fill_is_refused_and_the_hint_is_enough() -> None:
    narrow = {"range": 0.01, "bits": 20}
    with pytest.raises(PlanError, match=r"aggregation\.fixed_point\.range is 0\.01") as refused:
        terms_for(sharing(aggregation__fixed_point=narrow), "aachen")
    enough = float(refused.value.hint.split("range to ")[1].split(" ")[0])
    assert enough < 10
    assert terms_for(sharing(aggregation__fixed_point=narrow | {"range": enough}), "aachen")
    with pytest.raises(PlanError):
        terms_for(sharing(aggregation__fixed_point=narrow | {"range": enough / 2}), "aachen")
