"""The rules of a policy: for each key that can refuse a plan, one pure function.

Promises
- ``RULES`` has one line for each such key, under the name that it has in ``policy.toml``; a rule looks at the plan, at
  facts about the site and at the policy, and at nothing else.
- A rule that lacks a fact says which, and permits nothing.
- No reason tells how many patients there are, or how cohorts overlap: it may be sent.

What rules say together is ``client.governance.judgement``'s.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

from client.governance.policy import Policy
from shared.plan import Plan
from shared.privacy.terms import measured_rounds


@dataclass(frozen=True, slots=True)
class Facts:
    """What rules have to know about a site. None is what nobody has found out yet.

    Attributes:
        site: as enrolled; plans speak of sites by name.
        patients: training patients of the cohort; private.
        cohort: digest of the cohort, "" while none is chosen.
        noise_multiplier: of the plan at this site (``shared.privacy.terms``).
        cohort_epsilon: what the patients of the cohort will have spent on it once the plan is done, at the policy's
            delta.
        lifetime_epsilon: the same over all cohorts, of the patient of this cohort who will have spent most; private.
        sites: active ones of the federation.
        alone_epsilon: what one run of the plan costs a patient if all other sites collude, at the policy's delta, where
            sites share the noise.
    """

    site: str
    patients: int | None = None
    cohort: str = ""
    noise_multiplier: float | None = None
    cohort_epsilon: float | None = None
    lifetime_epsilon: float | None = None
    sites: int | None = None
    alone_epsilon: float | None = None


@dataclass(frozen=True, slots=True)
class Against:
    """Why a rule refuses, and what to do about it."""

    reason: str
    hint: str


@dataclass(frozen=True, slots=True)
class Unknown:
    """What a rule would have to know."""

    fact: str


Rule = Callable[[Plan, Facts, Policy], Against | Unknown | None]
"""None permits."""

_OWN_NOISE = 'ask the lead for a plan with privacy.noise = "own"'
_COHORT = "which cohort it would be trained on: name its data set"


def _task(plan: Plan, _: Facts, policy: Policy) -> Against | None:
    return _named("plan.task", plan.plan.task, policy.plans.tasks)


def _model(plan: Plan, _: Facts, policy: Policy) -> Against | None:
    return _named("model.name", plan.model.name, policy.plans.models)


def _named(key: str, asked: str, permitted: Literal["any"] | tuple[str, ...]) -> Against | None:
    if permitted == "any" or asked in permitted:
        return None
    return Against(
        f'it asks for {key} = "{asked}"',
        f"permitted here: {', '.join(permitted)}" if permitted else "none is permitted",
    )


def _protected(plan: Plan, _: Facts, policy: Policy) -> Against | None:
    if plan.privacy.unit == "patient" or policy.privacy.unsafe_allow_unprotected:
        return None
    return Against(
        f'it protects nobody: privacy.unit = "{plan.privacy.unit}"',
        'ask the lead for a plan with privacy.unit = "patient"',
    )


def _delta(plan: Plan, _: Facts, policy: Policy) -> Against | None:
    return _at_most("delta", plan.privacy.delta, policy.privacy.delta)


def _plan_epsilon(plan: Plan, _: Facts, policy: Policy) -> Against | None:
    return _at_most("epsilon", plan.privacy.epsilon, policy.privacy.max_epsilon_per_plan)


def _at_most(name: str, asked: float | None, limit: float) -> Against | None:
    if asked is None or asked <= limit:
        return None
    return Against(f"it asks for {asked:.12g}", f"ask the lead for a plan with privacy.{name} of at most {limit:.12g}")


def _cohort_epsilon(plan: Plan, facts: Facts, policy: Policy) -> Against | Unknown | None:
    spent = facts.cohort_epsilon
    if plan.privacy.unit == "none":
        return None
    if spent is None:
        return Unknown(_COHORT)
    if spent <= policy.privacy.max_epsilon_per_cohort:
        return None
    return Against(
        f"with it, epsilon of the cohort {facts.cohort[:12]} would come to {spent:.4g}",
        "ask the lead for a plan with a smaller privacy.epsilon",
    )


def _lifetime_epsilon(plan: Plan, facts: Facts, policy: Policy) -> Against | Unknown | None:
    spent = facts.lifetime_epsilon
    if plan.privacy.unit == "none":
        return None
    if spent is None:
        return Unknown(_COHORT)
    if spent <= policy.privacy.max_epsilon_lifetime:
        return None
    # Without the number: it would tell which patients are in several cohorts.
    return Against(
        "a patient of the cohort would have spent more, over all cohorts",
        "leave patients out who were trained on before, or ask the lead for a plan with a smaller privacy.epsilon",
    )


def _alone_epsilon(plan: Plan, facts: Facts, policy: Policy) -> Against | Unknown | None:
    most, paid = policy.privacy.max_epsilon_alone, facts.alone_epsilon
    if plan.privacy.noise != "shared":
        return None
    if most == 0:
        return Against("it asks for noise that sites share", _OWN_NOISE)
    if paid is None:
        return Unknown("what a patient pays if all other sites collude")
    if paid <= most:
        return None
    return Against(
        f"a run of it costs a patient epsilon {paid:.4g} if all other sites collude",
        f"{_OWN_NOISE}, or with a smaller privacy.epsilon",
    )


def _noise(plan: Plan, facts: Facts, policy: Policy) -> Against | Unknown | None:
    least = policy.privacy.min_noise_multiplier
    found = plan.privacy.noise_multiplier if facts.noise_multiplier is None else facts.noise_multiplier
    if plan.privacy.unit == "none" or least == 0:
        return None
    if found is None:
        return Unknown("how much noise the plan adds at this site")
    if found >= least:
        return None
    return Against(
        f"its noise multiplier is {found:.4g}", f"ask the lead for a plan with privacy.noise_multiplier = {least:g}"
    )


def _patients(_: Plan, facts: Facts, policy: Policy) -> Against | Unknown | None:
    if facts.patients is None:
        return Unknown(_COHORT)
    if facts.patients >= policy.privacy.min_patients:
        return None
    # Without the number: it is private, and this sentence may leave.
    return Against("the cohort has fewer training patients", "freeze a cohort of more patients")


def _delta_of_all(plan: Plan, facts: Facts, policy: Policy) -> Against | Unknown | None:
    delta, public = plan.privacy.delta, _public_patients(plan, facts.site)
    limit = policy.privacy.max_delta_times_patients
    if delta is None:
        return None
    if delta * public > limit:
        return Against(
            f"its delta of {delta:g} times its {public} public patients is {delta * public:g}",
            f"ask the lead for a plan with privacy.delta of at most {limit / public:.2g}",
        )
    if facts.patients is None:
        return Unknown(_COHORT)
    if delta * facts.patients <= limit:
        return None
    return Against(
        f"its delta of {delta:g} is too large for the cohort's patients", "ask the lead for a smaller privacy.delta"
    )


def _public_patients(plan: Plan, site: str) -> int:
    said = plan.privacy.public_patients or 0
    return said if isinstance(said, int) else said.get(site, 0)


def _release(plan: Plan, _: Facts, policy: Policy) -> Against | None:
    asked, permitted = plan.evaluation.release, policy.statistics.release
    if asked in permitted:
        return None
    return Against(
        f'it asks for evaluation.release = "{asked}"',
        f"permitted here: {', '.join(permitted)}" if permitted else "none is permitted",
    )


def _secure_sum(plan: Plan, _: Facts, policy: Policy) -> Against | None:
    exact_sum = plan.evaluation.release == "sum" and not plan.secure_aggregation.enabled
    if not (exact_sum and policy.statistics.require_secure_aggregation):
        return None
    return Against(
        'it asks for evaluation.release = "sum", and the coordinator would see this site\'s part of the sum',
        "ask the lead for a plan with secure_aggregation.enabled = true",
    )


def releases(plan: Plan, sites: int) -> int:
    """How often a run measures a site: every so many rounds and after the last, then the test, also of own models.

    Where the plan measures every model at every site there is one more for each of the federation's ``sites``.
    """
    crossed = sites if plan.evaluation.cross_site else 0
    return measured_rounds(plan) + (1 if plan.personalisation is None else 2) + crossed


def _releases(plan: Plan, facts: Facts, policy: Policy) -> Against | Unknown | None:
    if plan.evaluation.cross_site and facts.sites is None:
        return Unknown("how many sites there are, each with a model to measure: enrol first")
    asked = releases(plan, facts.sites or 0)
    if asked <= policy.statistics.max_releases_per_run:
        return None
    return Against(f"it asks for {asked} releases", "ask the lead for a plan with a larger evaluation.every")


def _share_models(plan: Plan, _: Facts, policy: Policy) -> Against | None:
    if policy.statistics.unsafe_share_models or not plan.evaluation.cross_site:
        return None
    return Against(
        "it asks for evaluation.cross_site = true, and this site's own fine-tuned model would go to the other sites",
        "ask the lead for a plan with evaluation.cross_site = false",
    )


RULES: Mapping[str, Rule] = MappingProxyType(
    {
        "plans.tasks": _task,
        "plans.models": _model,
        "privacy.unsafe_allow_unprotected": _protected,
        "privacy.delta": _delta,
        "privacy.max_epsilon_per_plan": _plan_epsilon,
        "privacy.max_epsilon_per_cohort": _cohort_epsilon,
        "privacy.max_epsilon_lifetime": _lifetime_epsilon,
        "privacy.max_epsilon_alone": _alone_epsilon,
        "privacy.min_noise_multiplier": _noise,
        "privacy.min_patients": _patients,
        "privacy.max_delta_times_patients": _delta_of_all,
        "statistics.release": _release,
        "statistics.require_secure_aggregation": _secure_sum,
        "statistics.max_releases_per_run": _releases,
        "statistics.unsafe_share_models": _share_models,
    }
)
"""Name of a rule, as it is spelled in the file -> the rule. ``hours`` and ``who`` are no rules about plans."""
