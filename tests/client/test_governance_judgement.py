"""Judging plans: every rule refuses one plan and permits its neighbour, and says so without a word about patients."""

import math
import re
import tomllib
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from client.governance import judgement, policy
from client.governance.judgement import judge, permits_now, permits_sender, require, verdicts
from client.governance.policy import Policy
from client.governance.rules import RULES, Facts
from shared.errors import PolicyError
from shared.plan import Plan, from_document
from simulations import scenario

Case = tuple[str, dict[str, Any], dict[str, Any]]
"""(text of a policy, changes of the plan, changes of the facts)."""

PROMISE: dict[str, Any] = {
    "unit": "patient",
    "epsilon": 4.0,
    "delta": 1e-5,
    "clip_norm": 1.0,
    "public_patients": 100,
}
KNOWN = Facts(
    "north",
    patients=100,
    cohort="c0ffee" * 10,
    noise_multiplier=1.0,
    cohort_epsilon=4,
    lifetime_epsilon=4,
    alone_epsilon=20,
)
LEAD, OTHER = "0123 4567 89ab cdef " * 2, "fedc ba98 7654 3210 " * 2


BASE: dict[str, Any] = {
    "plan": {"name": "squares", "task": "classification", "rounds": 2},
    "data": {"modality": "other", "classes": ["dark", "bright"]},
    "preprocessing": {"size": [16, 16]},
    "model": {"name": "cnn"},
    "training": {"steps": 3, "patients_per_step": 4, "learning_rate": 0.02},
    "privacy": PROMISE,
    "evaluation": {"every": 1, "release": "dp"},
}


def plan(**changes: Any) -> Plan:
    """A plan that the defaults permit; ``section__key=value`` changes it, None drops the key."""
    said = {section: dict(table) for section, table in BASE.items()}
    for dotted, value in changes.items():
        section, _, key = dotted.partition("__")
        table = said.setdefault(section, {})
        if value is None:
            del table[key]
        else:
            table[key] = value
    return from_document(said)


def unprotected(**changes: Any) -> dict[str, Any]:
    nothing = {f"privacy__{key}": None for key in PROMISE if key != "unit"}
    return nothing | {"privacy__unit": "none", "evaluation__release": "site"} | changes


LOOSE = "[statistics]\nrelease = ['dp', 'sum', 'site']\nrequire_secure_aggregation = false\n"
PILOT = f"[privacy]\nunsafe_allow_unprotected = true\n{LOOSE}"
TRAINING = {"privacy__covers": "training"}
CROSSING = unprotected(
    personalisation__steps=5, personalisation__learning_rate=0.01, evaluation__cross_site=True, evaluation__every=1
)
SHARED: dict[str, Any] = {
    "privacy__noise": "shared",
    "privacy__colluding_sites": 1,
    "secure_aggregation__enabled": True,
    "secure_aggregation__threshold": 3,
    "aggregation__weights": "equal",
    "aggregation__fixed_point": {"bits": 24},
    "training__steps": 1,
    "training__optimizer": "sgd",
}
"""Noise that sites share, of which 20 is paid if all other sites collude."""

REFUSED: dict[str, Case] = {
    "plans.tasks": ("[plans]\ntasks = ['segmentation']", {}, {}),
    "plans.models": ("[plans]\nmodels = ['unet', 'segresnet']", {}, {}),
    "privacy.unsafe_allow_unprotected": (LOOSE, unprotected(), {}),
    "privacy.delta": ("", {"privacy__delta": 1.1e-5}, {}),
    "privacy.max_epsilon_per_plan": ("", {"privacy__epsilon": 8.1}, {}),
    "privacy.max_epsilon_per_cohort": ("", {}, {"cohort_epsilon": 10.001}),
    "privacy.max_epsilon_lifetime": ("", {}, {"lifetime_epsilon": 10.001}),
    "privacy.max_epsilon_alone": ("[privacy]\nmax_epsilon_alone = 19.9", SHARED, {}),
    "privacy.min_noise_multiplier": ("[privacy]\nmin_noise_multiplier = 1.01", {}, {}),
    "privacy.min_patients": ("", {}, {"patients": 19}),
    "privacy.max_delta_times_patients": ("", {}, {"patients": 10_001}),
    "statistics.release": ("", TRAINING | {"evaluation__release": "site"}, {}),
    "statistics.require_secure_aggregation": (
        "[statistics]\nrelease = ['sum']",
        TRAINING | {"evaluation__release": "sum"},
        {},
    ),
    "statistics.max_releases_per_run": ("[statistics]\nmax_releases_per_run = 2", {}, {}),
    "statistics.unsafe_share_models": (PILOT, CROSSING, {"sites": 3}),
}
"""Rule -> what it alone refuses."""

PERMITTED: dict[str, Case] = {
    "plans.tasks": ("[plans]\ntasks = ['segmentation', 'classification']", {}, {}),
    "plans.models": ("[plans]\nmodels = ['cnn']", {}, {}),
    "privacy.unsafe_allow_unprotected": (PILOT, unprotected(), {}),
    "privacy.delta": ("", {"privacy__delta": 1e-5}, {}),
    "privacy.max_epsilon_per_plan": ("", {"privacy__epsilon": 8.0}, {}),
    "privacy.max_epsilon_per_cohort": ("", {}, {"cohort_epsilon": 10.0}),
    "privacy.max_epsilon_lifetime": ("", {}, {"lifetime_epsilon": 10.0}),
    "privacy.max_epsilon_alone": ("[privacy]\nmax_epsilon_alone = 20.0", SHARED, {}),
    "privacy.min_noise_multiplier": ("[privacy]\nmin_noise_multiplier = 1.0", {}, {}),
    "privacy.min_patients": ("", {}, {"patients": 20}),
    "privacy.max_delta_times_patients": ("", {}, {"patients": 10_000}),
    "statistics.release": (LOOSE, TRAINING | {"evaluation__release": "site"}, {}),
    "statistics.require_secure_aggregation": (
        "[statistics]\nrelease = ['sum']",
        TRAINING
        | {"evaluation__release": "sum", "secure_aggregation__enabled": True}
        | {"aggregation__fixed_point": {"bits": 24}},
        {},
    ),
    "statistics.max_releases_per_run": ("[statistics]\nmax_releases_per_run = 3", {}, {}),
    "statistics.unsafe_share_models": (f"{PILOT}unsafe_share_models = true\n", CROSSING, {"sites": 3}),
}
"""The same, a step on the other side of the rule: nothing refuses it."""


def judged(case: Case) -> tuple[judgement.Refusal, ...]:
    text, changes, facts = case
    return judge(policy.parse(text), plan(**changes), replace(KNOWN, **facts))


# --- the table -------------------------------------------------------------------------------------------------------


def test_no_row_of_the_table_of_rules_is_untested() -> None:
    assert set(REFUSED) == set(PERMITTED) == set(RULES)
    assert len(RULES) == 15


def test_every_key_of_a_policy_about_plans_has_its_rule() -> None:
    """Hours and leads are asked of requests; nothing else is without a rule."""
    written = tomllib.loads(policy.template())
    assert {f"{section}.{key}" for section in ("plans", "privacy", "statistics") for key in written[section]} == set(
        RULES
    )


@pytest.mark.parametrize("rule", sorted(RULES))
def test_a_rule_refuses_a_plan_that_no_other_rule_refuses(rule: str) -> None:
    assert [one.rule for one in judged(REFUSED[rule])] == [rule]


@pytest.mark.parametrize("rule", sorted(RULES))
def test_a_rule_permits_a_plan_on_the_other_side_of_its_limit(rule: str) -> None:
    assert judged(PERMITTED[rule]) == ()


@pytest.mark.parametrize("rule", sorted(RULES))
def test_a_refusal_names_the_line_of_the_file_that_refuses_and_says_what_to_do(rule: str) -> None:
    """The line can be put into a policy as it stands, and is then the value it was."""
    (found,) = judged(REFUSED[rule])
    section, _, key = rule.partition(".")
    line = re.fullmatch(rf"policy\.toml \[{section}\] ({key} = .+) refuses this plan: .+", found.sentence)
    assert line is not None
    read = policy.parse(f"[{section}]\n{line[1]}")
    assert getattr(getattr(read, section), key) == getattr(getattr(policy.parse(REFUSED[rule][0]), section), key)
    assert found.hint


def test_the_sentence_is_the_one_that_the_documentation_promises() -> None:
    (found,) = judged(("", {"privacy__epsilon": 12.0}, {}))
    assert found.sentence == "policy.toml [privacy] max_epsilon_per_plan = 8 refuses this plan: it asks for 12"
    assert found.hint == "ask the lead for a plan with privacy.epsilon of at most 8"


def test_a_limit_and_what_exceeds_it_by_little_do_not_look_the_same() -> None:
    (found,) = judged(("", {"privacy__epsilon": 8.0000001}, {}))
    assert "it asks for 8.0000001" in found.sentence


def test_several_refusals_come_in_the_order_of_the_file() -> None:
    found = judged(("[plans]\ntasks = []", {"privacy__epsilon": 9.0, "privacy__delta": 1e-4}, {"patients": 3}))
    assert [one.rule for one in found] == [
        "plans.tasks",
        "privacy.delta",
        "privacy.max_epsilon_per_plan",
        "privacy.min_patients",
    ]


def test_an_empty_list_permits_nothing() -> None:
    for key, rule in (("plans]\ntasks", "plans.tasks"), ("statistics]\nrelease", "statistics.release")):
        (found,) = judged((f"[{key} = []", {}, {}))
        assert (found.rule, found.hint) == (rule, "none is permitted")


def test_the_defaults_permit_no_built_in_scenario_that_protects_nobody() -> None:
    plans = [scenario.load(name).plan for name in scenario.names()]
    bare = [one for one in plans if one.privacy.unit == "none"]
    assert bare
    for one in bare:
        assert "privacy.unsafe_allow_unprotected" in {found.rule for found in judge(Policy(), one, KNOWN)}


# --- what is not known -----------------------------------------------------------------------------------------------

NEEDS = {
    "patients": {"privacy.min_patients", "privacy.max_delta_times_patients"},
    "cohort_epsilon": {"privacy.max_epsilon_per_cohort"},
    "lifetime_epsilon": {"privacy.max_epsilon_lifetime"},
    "noise_multiplier": {"privacy.min_noise_multiplier"},
}
NOISY = "[privacy]\nmin_noise_multiplier = 0.5"


@pytest.mark.parametrize("fact", sorted(NEEDS))
def test_what_is_not_known_is_no_permission(fact: str) -> None:
    facts = replace(KNOWN, **{fact: None})  # type: ignore[arg-type]
    said = verdicts(policy.parse(NOISY), plan(), facts)
    assert {one.rule for one in said if one.outcome == "unknown"} == NEEDS[fact]
    assert {one.rule for one in said if one.outcome == "refuses"} == set()
    assert {one.rule for one in judge(policy.parse(NOISY), plan(), facts)} == NEEDS[fact]
    with pytest.raises(PolicyError, match="cannot be judged: it is not known"):
        require(policy.parse(NOISY), plan(), facts)


def test_with_every_fact_known_nothing_is_left_open() -> None:
    said = verdicts(policy.parse(NOISY), plan(), KNOWN)
    assert [one.outcome for one in said] == ["permits"] * len(RULES)


def test_an_unprotected_plan_spends_nothing_that_could_be_known() -> None:
    said = verdicts(policy.parse(PILOT), plan(**unprotected()), Facts("north", patients=20))
    assert {one.outcome for one in said} == {"permits"}


@pytest.mark.parametrize("fact", ["cohort_epsilon", "lifetime_epsilon", "noise_multiplier"])
def test_a_number_that_is_none_is_refused(fact: str) -> None:
    worst = -math.inf if fact == "noise_multiplier" else math.inf
    for value in (math.nan, worst):
        facts = replace(KNOWN, **{fact: value})  # type: ignore[arg-type]
        assert {one.rule for one in judge(policy.parse(NOISY), plan(), facts)} == NEEDS[fact]


def test_noise_that_the_plan_states_is_known_and_what_the_site_computed_goes_before_it() -> None:
    stated, strict = plan(privacy__noise_multiplier=2.0), policy.parse("[privacy]\nmin_noise_multiplier = 1.5")
    assert judge(strict, stated, replace(KNOWN, noise_multiplier=None)) == ()
    assert [one.rule for one in judge(strict, stated, replace(KNOWN, noise_multiplier=1.0))] == [
        "privacy.min_noise_multiplier"
    ]


# --- noise that sites share ------------------------------------------------------------------------------------------


def test_without_a_policy_that_says_otherwise_no_site_shares_noise() -> None:
    """Whatever it would cost, and also where nobody has computed that."""
    for paid in (20.0, 0.001, None):
        (found,) = judge(Policy(), plan(**SHARED), replace(KNOWN, alone_epsilon=paid))
        assert found.sentence == (
            "policy.toml [privacy] max_epsilon_alone = 0 refuses this plan: it asks for noise that sites share"
        )
        assert found.hint == 'ask the lead for a plan with privacy.noise = "own"'


def test_the_refusal_says_what_would_be_paid_if_all_other_sites_collude() -> None:
    (found,) = judged(REFUSED["privacy.max_epsilon_alone"])
    assert found.sentence == (
        "policy.toml [privacy] max_epsilon_alone = 19.9 refuses this plan: a run of it costs a patient epsilon 20 if "
        "all other sites collude"
    )
    assert "a smaller privacy.epsilon" in found.hint


@pytest.mark.parametrize("paid", [None, math.nan, math.inf])
def test_where_the_worst_case_is_not_known_or_no_number_nothing_is_permitted(paid: float | None) -> None:
    wide = policy.parse("[privacy]\nmax_epsilon_alone = 1e9")
    assert judge(wide, plan(**SHARED), KNOWN) == ()
    found = judge(wide, plan(**SHARED), replace(KNOWN, alone_epsilon=paid))
    assert [one.rule for one in found] == ["privacy.max_epsilon_alone"]
    assert ("it is not known what a patient pays" in found[0].sentence) == (paid is None)


def test_a_plan_whose_sites_add_all_of_their_own_noise_has_no_worst_case() -> None:
    for paid in (None, math.inf, math.nan, 1e6):
        assert judge(Policy(), plan(), replace(KNOWN, alone_epsilon=paid)) == ()


# --- patients are not told -------------------------------------------------------------------------------------------


def test_a_refusal_is_the_same_whatever_the_number_of_patients() -> None:
    for rule, counts in (("privacy.min_patients", range(20)), ("privacy.max_delta_times_patients", (10_001, 99_999))):
        said = {found for count in counts for found in judged(("", {}, {"patients": count}))}
        assert {one.rule for one in said} == {rule}
        assert len(said) == 1


def test_a_refusal_over_a_patient_s_lifetime_does_not_tell_how_cohorts_overlap() -> None:
    said = {judged(("", {}, {"lifetime_epsilon": spent})) for spent in (10.1, 11.0, 40.0)}
    assert len(said) == 1


def test_the_control_a_cohort_s_own_budget_follows_from_plans_and_is_told() -> None:
    said = {judged(("", {}, {"cohort_epsilon": spent})) for spent in (10.1, 11.0, 40.0)}
    assert len(said) == 3


def test_the_public_number_of_patients_refuses_without_looking_at_the_cohort() -> None:
    """1e-5 of 20,000 is 0.2; a plan may name patients by site, and another site's number is not this one's."""
    for public in (20_000, {"north": 20_000, "south": 5}):
        (found,) = judged(("", {"privacy__public_patients": public}, {}))
        assert found.rule == "privacy.max_delta_times_patients"
        assert "20000 public patients is 0.2" in found.sentence
        assert found.hint == "ask the lead for a plan with privacy.delta of at most 5e-06"
    assert judged(("", {"privacy__public_patients": {"north": 100, "south": 20_000}}, {})) == ()


@given(st.integers(1, 10**6), st.integers(0, 10**6), st.floats(1e-9, 0.9), st.floats(1e-3, 10))
def test_delta_is_held_against_the_larger_of_both_numbers_of_patients(
    public: int, patients: int, delta: float, limit: float
) -> None:
    said = policy.parse(f"[privacy]\ndelta = 0.95\nmin_patients = 1\nmax_delta_times_patients = {limit}")
    facts = replace(KNOWN, patients=patients)
    asked = plan(privacy__public_patients=public, privacy__delta=delta)
    refused = "privacy.max_delta_times_patients" in {one.rule for one in judge(said, asked, facts)}
    assert refused == (max(public * delta, patients * delta) > limit)


# --- how often it measures -------------------------------------------------------------------------------------------


@given(st.integers(1, 60), st.integers(1, 60))
def test_releases_are_the_rounds_that_a_run_measures_after_and_the_test(rounds: int, every: int) -> None:
    """The oracle counts rounds one by one, as the coordinator does: every so many, and the last."""
    measured = sum(1 for number in range(1, rounds + 1) if number % every == 0 or number == rounds)
    asked = plan(plan__rounds=rounds, evaluation__every=every)
    for limit, outcome in ((measured + 1, set()), (measured, {"statistics.max_releases_per_run"})):
        said = policy.parse(f"[statistics]\nmax_releases_per_run = {limit}")
        assert {one.rule for one in judge(said, asked, KNOWN)} == outcome


def test_a_plan_with_own_models_measures_the_test_twice() -> None:
    own = {"personalisation": {"steps": 1, "learning_rate": 0.1}}
    changes = unprotected(plan__rounds=2, evaluation__every=2)
    base = plan(**changes)
    with_own = from_document(base.model_dump(mode="json", exclude_none=True) | own)
    for asked, count in ((base, 2), (with_own, 3)):
        for limit in (count - 1, count):
            said = policy.parse(f"{PILOT}max_releases_per_run = {limit}")
            assert bool(judge(said, asked, KNOWN)) == (limit < count)


# --- require ---------------------------------------------------------------------------------------------------------


def test_require_returns_for_a_permitted_plan_and_raises_the_first_refusal_with_how_many_there_are() -> None:
    require(Policy(), plan(), KNOWN)
    with pytest.raises(PolicyError) as one:
        require(Policy(), plan(privacy__epsilon=12.0), KNOWN)
    assert (one.value.code, one.value.sentence) == (
        "policy",
        "policy.toml [privacy] max_epsilon_per_plan = 8 refuses this plan: it asks for 12",
    )
    with pytest.raises(PolicyError, match=r"it asks for 12 \(2 rules refuse it in all\)$"):
        require(Policy(), plan(privacy__epsilon=12.0), replace(KNOWN, patients=1))


# --- time and sender -------------------------------------------------------------------------------------------------

NIGHT = policy.parse("[hours]\nzone = 'Europe/Berlin'\nwindows = [{ days = ['mon'], start = '19:00', end = '06:30' }]")


def test_a_round_begins_within_the_hours_and_else_is_told_when_it_may() -> None:
    assert permits_now(NIGHT, datetime(2025, 3, 3, 18, tzinfo=UTC)) is None
    found = permits_now(NIGHT, datetime(2025, 3, 3, 17, 59, tzinfo=UTC))
    assert found is not None
    assert found.rule == "hours.windows"
    assert found.sentence == "policy.toml [hours] windows refuses this time: it is mon 18:59 in Europe/Berlin"
    assert found.hint == "permitted: mon 19:00-06:30"


def test_without_hours_any_time_is_permitted() -> None:
    assert permits_now(Policy(), datetime(2025, 3, 3, tzinfo=UTC)) is None


@pytest.mark.parametrize(
    ("leads", "enrolled", "sender", "said"),
    [
        ([], None, LEAD, "refuses"),
        ([], LEAD, LEAD, "permits"),
        ([], LEAD, OTHER, "refuses"),
        ([OTHER], LEAD, OTHER, "permits"),
        ([OTHER], LEAD, LEAD, "refuses"),
        ([LEAD, OTHER], None, LEAD, "permits"),
        ([], None, "", "refuses"),
        ([], "", "", "refuses"),
        ([LEAD], None, LEAD[:-6], "refuses"),
    ],
)
def test_who_may_ask_is_whom_the_policy_names_else_the_enrolled_lead_else_nobody(
    leads: list[str], enrolled: str | None, sender: str, said: str
) -> None:
    named = policy.parse(f"[who]\nleads = {[lead.strip() for lead in leads]}")
    found = permits_sender(named, sender.strip(), enrolled and enrolled.strip())
    assert (found is None) == (said == "permits")
    if found:
        assert found.sentence.startswith("policy.toml [who] leads refuses this sender: ")
        assert not sender or sender.strip() not in found.sentence


# --- the policies of the page ----------------------------------------------------------------------------------------


def examples() -> list[Policy]:
    page = (Path(__file__).parents[2] / "docs" / "policy.md").read_text(encoding="utf-8")
    return [policy.parse(text) for text in re.findall(r"```toml\n(.*?)```", page, re.DOTALL)]


def test_the_page_s_policies_permit_what_the_page_says() -> None:
    """Each permits one plan that the one before it refuses, and the strict one refuses the others' plans."""
    strict, consortium, pilot = examples()
    night = datetime(2025, 3, 3, 23, tzinfo=UTC)
    modest = plan(plan__task="segmentation", model__name="unet", privacy__epsilon=1.0, privacy__delta=1e-6)
    usual = plan(privacy__epsilon=8.0)
    bare = plan(**unprotected())
    facts = replace(KNOWN, patients=400, cohort_epsilon=1.0, lifetime_epsilon=1.0, noise_multiplier=1.2)
    assert [bool(judge(said, modest, facts)) for said in (strict, consortium)] == [False, False]
    assert [bool(judge(said, usual, facts)) for said in (strict, consortium)] == [True, False]
    assert [bool(judge(said, bare, facts)) for said in (strict, consortium, pilot)] == [True, True, False]
    assert permits_now(strict, night) is None
    assert permits_now(strict, night.replace(hour=12)) is not None
