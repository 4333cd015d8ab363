"""Approving plans whose sites share the noise: what is asked of the policy and of the roster, and what people read."""

import io
import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from deciding_hospital import DATASET, PILOT, PRIVATE, SHARED, SHARING, Hospital, plan_of
from dp_accounting import GaussianDpEvent, PoissonSampledDpEvent, SelfComposedDpEvent
from dp_accounting.pld import PLDAccountant
from rich.console import Console
from small_trust import Member

from client.commands import approve, check
from client.commands.approve import Offer, Wanted
from client.commands.approve_shown import document, shown
from client.commands.check import events_of
from client.site_folder import SiteFolder
from shared.errors import PolicyError
from shared.plan import Plan
from shared.privacy.terms import terms_for

OTHERS = ("como", "delft", "evora", "fulda", "ghent")


@pytest.fixture
def hospital(tmp_path: Path) -> Hospital:
    found = Hospital(tmp_path)
    found.policy(SHARING)
    return found


def hospital_of(folder: Path, sites: int) -> Hospital:
    """One of a federation of so many active sites."""
    found = Hospital(folder, others=tuple(map(Member, OTHERS[: sites - 2])))
    found.policy(SHARING)
    return found


def shared(least: int = 2, colluding: int = 0, **changes: Any) -> Plan:
    said = {**SHARED, **changes}
    said["privacy"] = {**said["privacy"], "colluding_sites": colluding}
    said["secure_aggregation"] = {"enabled": True, "threshold": least}
    return plan_of(**said)


def offered(hospital: Hospital, plan: Plan, runs: int = 1) -> Offer:
    return approve.offered(hospital.site, Wanted(hospital.signed(plan), hospital.folder, DATASET, runs))


def words(offer: Offer) -> str:
    said = io.StringIO()
    for part in shown(offer, 0):
        Console(width=300, file=said).print(part)
    return said.getvalue()


def google(plan: Plan, runs: int, honest: int) -> float:
    """Google's accountant, told the noise per honest site: variances add up, so a part has 1 / sqrt(honest) of it."""
    terms = terms_for(plan, "aachen")
    step = PoissonSampledDpEvent(terms.sampling_rate, GaussianDpEvent(terms.noise_multiplier / math.sqrt(honest)))
    accountant = PLDAccountant(value_discretization_interval=1e-3)
    return float(accountant.compose(SelfComposedDpEvent(step, plan.plan.rounds * runs)).get_epsilon(1e-5))


def verdict(site: SiteFolder, plan: Plan, dataset: str | None = None) -> tuple[str, str]:
    (found,) = [one for one in check.check(site, plan, dataset).verdicts if one.rule == "privacy.max_epsilon_alone"]
    return found.outcome, found.reason


# --- the policy ------------------------------------------------------------------------------------------------------


def test_a_hospital_that_says_nothing_shares_no_noise(hospital: Hospital) -> None:
    hospital.policy(PILOT)
    with pytest.raises(PolicyError, match="max_epsilon_alone = 0 refuses this plan: it asks for noise that sites sha"):
        offered(hospital, shared())
    assert offered(hospital, plan_of(**PRIVATE)).cost is not None, "the control: the same promise with own noise"


def test_a_run_is_judged_by_what_it_costs_if_all_other_sites_collude(hospital: Hospital) -> None:
    """What it is by an accountant of others, a little more and a little less of it permitted."""
    plan = shared()
    paid = google(plan, runs=1, honest=2)
    for most, outcome in ((paid * 1.02, "permits"), (paid * 0.98, "refuses")):
        hospital.policy(PILOT.replace("[privacy]", f"[privacy]\nmax_epsilon_alone = {most}"))
        assert verdict(hospital.site, plan)[0] == verdict(hospital.site, plan, DATASET)[0] == outcome
    with pytest.raises(PolicyError, match=r"a run of it costs a patient epsilon [\d.]+ if all other sites collude"):
        offered(hospital, plan)


def test_the_worst_case_is_known_without_looking_at_a_cohort(hospital: Hospital) -> None:
    outcomes = {one.rule: one.outcome for one in check.check(hospital.site, shared(), None).verdicts}
    assert outcomes["privacy.max_epsilon_alone"] == "permits"
    assert outcomes["privacy.max_epsilon_per_cohort"] == "unknown", "the control: this one needs a cohort"


def test_the_rule_looks_at_one_run_and_people_see_all_of_them(hospital: Hospital) -> None:
    plan = shared()
    one, three = (offered(hospital, plan, runs).cost for runs in (1, 3))
    assert one is not None
    assert three is not None
    assert one.alone is not None
    assert three.alone is not None
    assert three.alone > one.alone
    hospital.policy(PILOT.replace("[privacy]", f"[privacy]\nmax_epsilon_alone = {(one.alone + three.alone) / 2}"))
    assert offered(hospital, plan, 3).cost == three


def test_events_of_which_nobody_says_what_is_left_are_not_taken_to_cost_nothing(
    hospital: Hospital, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A plan that shares noise, and terms that forget it: not known, and so refused."""

    def forgetful(plan: Plan, site: str) -> Any:
        return {
            split: tuple(replace(one, alone=0.0) for one in events) for split, events in events_of(plan, site).items()
        }

    monkeypatch.setattr(check, "events_of", forgetful)
    assert verdict(hospital.site, shared()) == (
        "unknown",
        "it is not known what a patient pays if all other sites collude",
    )
    with pytest.raises(PolicyError, match="max_epsilon_alone = 40 cannot be judged"):
        offered(hospital, shared())


# --- the roster ------------------------------------------------------------------------------------------------------


def bears(least: int, sites: int, colluding: int) -> bool:
    """By trying: no two sums of which no honest site is in both, and two honest sites in each.

    Colluding sites take part in both sums of a lying coordinator; honest ones confirm one of them.
    """
    honest = range(sites - colluding + 1)
    split = any(
        first + second <= sites - colluding and first + colluding >= least and second + colluding >= least
        for first in honest
        for second in honest
    )
    return not split and least - colluding >= 2


@pytest.mark.parametrize("sites", range(2, 8))
def test_a_federation_bears_the_sites_that_no_split_of_it_defeats(sites: int) -> None:
    for least in range(2, sites + 1):
        for colluding in range(least - 1):
            plan = shared(least, colluding)
            if bears(least, sites, colluding):
                approve._require_borne(plan, sites)
                continue
            with pytest.raises(PolicyError) as refused:
                approve._require_borne(plan, sites)
            assert refused.value.code == "colluding"
            enough = int(refused.value.hint.rpartition(" ")[2])
            assert bears(enough, sites, colluding)
            assert not bears(enough - 1, sites, colluding)


@pytest.mark.parametrize(("sites", "offered_at_all"), [(4, True), (5, False), (6, False)])
def test_a_plan_that_a_grown_federation_does_not_bear_is_not_offered(
    tmp_path: Path, sites: int, offered_at_all: bool
) -> None:
    """Sums of 3 bear one colluding site among 4; among 5, two pairs of honest ones could make a sum each with it."""
    hospital, plan = hospital_of(tmp_path, sites), shared(3, 1)
    if offered_at_all:
        assert offered(hospital, plan).cost is not None
        return
    with pytest.raises(PolicyError) as refused:
        offered(hospital, plan)
    assert refused.value.code == "colluding"
    assert refused.value.sentence == (
        "noise that sites share is planned for privacy.colluding_sites = 1, which sums over 3 or more of the "
        f"federation's {sites} active sites do not bear"
    )
    assert refused.value.hint.endswith("secure_aggregation.threshold of at least 4")


def test_a_plan_with_own_noise_is_not_asked_what_it_bears(tmp_path: Path) -> None:
    secure = {"secure_aggregation": {"enabled": True, "threshold": 3}, "aggregation": SHARED["aggregation"]}
    assert offered(hospital_of(tmp_path, 6), plan_of(**(PRIVATE | secure))).cost is not None


# --- what is shown ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("runs", [1, 2])
def test_both_costs_are_what_an_independent_accountant_finds(hospital: Hospital, runs: int) -> None:
    plan = shared()
    cost = offered(hospital, plan, runs).cost
    assert cost is not None
    # Validation patients pay for noise of their own, about as much; no less than training does.
    assert cost.plan >= google(plan, runs, honest=1) * 0.99
    assert cost.alone == pytest.approx(google(plan, runs, honest=2), rel=0.02)
    assert cost.alone != pytest.approx(google(plan, runs, honest=3), rel=0.02), "the control: the parts are told apart"
    assert cost.after == cost.plan, "the ledger is asked for what the plan assumes"


def test_more_honest_sites_leave_less_if_all_collude(tmp_path: Path) -> None:
    hospital = hospital_of(tmp_path, 5)
    found = [offered(hospital, shared(least, 1)).cost for least in (4, 5)]
    (few, many) = (one.alone for one in found if one is not None and one.alone is not None)
    assert few < many
    assert many == pytest.approx(google(shared(5, 1), 1, honest=4), rel=0.02)


def test_people_read_that_noise_is_shared_what_is_assumed_and_both_prices(hospital: Hospital) -> None:
    offer = offered(hospital, shared())
    assert offer.cost is not None
    said = words(offer)
    assert "with a part of the noise that sites share" in said
    assert (
        "noise that sites share: each adds a part, and the sum of the parts hides patients, as long as none of" in said
    )
    assert f"at most epsilon {offer.cost.plan:.4g} at delta 1e-05 for all of it, as long as none of the other" in said
    assert f"at most epsilon {offer.cost.alone:.4g} for all of it if all other sites collude" in said


@pytest.mark.parametrize(
    ("sites", "least", "colluding", "assumed"),
    [(4, 3, 1, "at most 1 of the other sites colludes"), (6, 5, 2, "at most 2 of the other sites collude.")],
)
def test_the_assumption_is_said_with_its_number(
    tmp_path: Path, sites: int, least: int, colluding: int, assumed: str
) -> None:
    offer = offered(hospital_of(tmp_path, sites), shared(least, colluding))
    assert assumed in words(offer)
    assert document(offer, 0)["noise"] == {"whose": "shared", "colluding_sites": colluding}


def test_a_plan_with_own_noise_says_nothing_of_sites_that_collude(hospital: Hospital) -> None:
    offer = offered(hospital, plan_of(**PRIVATE))
    assert "collude" not in words(offer)
    told = json.loads(json.dumps(document(offer, 0)))
    assert told["cost"]["alone"] is None
    assert told["noise"] == {"whose": "own", "colluding_sites": None}
    hospital.policy(PILOT)
    assert document(offered(hospital, plan_of()), 0)["noise"] is None


def test_programs_are_told_the_worst_case_too(hospital: Hospital) -> None:
    offer = offered(hospital, shared())
    told = json.loads(json.dumps(document(offer, 0)))
    assert offer.cost is not None
    assert told["cost"]["alone"] == offer.cost.alone
    assert told["cost"]["alone"] > told["cost"]["plan"]


# --- asking nobody ---------------------------------------------------------------------------------------------------


def test_asking_nobody_needs_room_for_the_worst_case(hospital: Hospital) -> None:
    """The promise alone would be within the limit, and is not enough."""
    offer = offered(hospital, shared())
    assert offer.cost is not None
    assert offer.cost.alone is not None
    for most, automatic in ((offer.cost.plan * 1.01, False), (offer.cost.alone * 1.01, True)):
        hospital.policy(f"{SHARING}[approval]\nauto_max_epsilon = {most}\n")
        if automatic:
            approve.require_automatic(hospital.site, offer)
            continue
        with pytest.raises(PolicyError, match=r"that costs epsilon [\d.]+ if all other sites collude$") as refused:
            approve.require_automatic(hospital.site, offer)
        assert refused.value.code == "not-automatic"


def test_with_own_noise_the_promise_is_enough_to_ask_nobody(hospital: Hospital) -> None:
    """The control of the test above, at the same limit."""
    offer = offered(hospital, plan_of(**PRIVATE))
    assert offer.cost is not None
    hospital.policy(f"{SHARING}[approval]\nauto_max_epsilon = {offer.cost.plan * 1.01}\n")
    approve.require_automatic(hospital.site, offer)
    hospital.policy(f"{SHARING}[approval]\nauto_max_epsilon = {offer.cost.plan * 0.99}\n")
    with pytest.raises(PolicyError, match=r"that costs epsilon [\d.]+$"):
        approve.require_automatic(hospital.site, offer)


def test_exact_figures_are_never_let_out_without_asking_however_the_noise_is_made(hospital: Hospital) -> None:
    hospital.policy(f"{SHARING}[approval]\nauto_max_epsilon = 1000.0\n")
    training = {**SHARED["privacy"], "covers": "training"}
    offer = offered(hospital, shared(privacy=training, evaluation__release="sum"))
    with pytest.raises(PolicyError, match="lets figures out without noise"):
        approve.require_automatic(hospital.site, offer)
