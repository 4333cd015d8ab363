"""What a hospital permits: ``policy.toml``, written by its data-protection officer, read whenever something is asked.

Promises
- A policy is a value: frozen, checked whole when read. An unknown key, a wrong type or an impossible value is one
  sentence with the key, the value and a suggestion.
- Every key has a default, and the default is the careful choice: a site without ``policy.toml`` has a policy.
- ``template`` is a file that explains every key and says nothing but the defaults.
- A policy only takes away. What it permits, people at the site still have to approve, or let be approved up to an
  epsilon of their choice, and the ledger has to afford.

What follows for a plan is ``client.governance.judgement``'s; keeping the budget, with every event that was ever paid
for, is ``client.governance.ledger``'s. docs/policy.md explains each key to those who answer for it.
"""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from client.governance.hours import Hours
from shared.errors import PolicyError
from shared.plan_errors import describe
from shared.privacy.accounting import Cap

FILE = "policy.toml"
FINGERPRINT = r"^[0-9a-f]{4}( [0-9a-f]{4}){7}$"
"""A key as people compare it: ``shared.crypto.signing.VerifyKey.fingerprint``."""

Name = Annotated[str, Field(min_length=1)]
Release = Literal["dp", "sum", "site"]
Switch = Annotated[bool, Field(strict=True)]
Count = Annotated[int, Field(ge=1, strict=True)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False, strict=True)]
NonNegative = Annotated[float, Field(ge=0, allow_inf_nan=False, strict=True)]
Probability = Annotated[float, Field(gt=0, lt=1, strict=True)]


class _Table(BaseModel):
    """A table of the policy: frozen, closed to keys it does not know."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Plans(_Table):
    """``[plans]``: what may be trained at all. An empty list permits nothing."""

    tasks: Literal["any"] | tuple[Name, ...] = "any"
    models: Literal["any"] | tuple[Name, ...] = "any"


class Privacy(_Table):
    """``[privacy]``: what a plan must promise patients, and how much they may spend."""

    unsafe_allow_unprotected: Switch = False
    delta: Probability = 1e-5
    max_epsilon_per_plan: Positive = 8.0
    max_epsilon_per_cohort: Positive = 10.0
    max_epsilon_lifetime: Positive = 10.0
    max_epsilon_alone: NonNegative = 0.0
    min_noise_multiplier: NonNegative = 0.0
    min_patients: Count = 20
    max_delta_times_patients: Positive = 0.1


class Statistics(_Table):
    """``[statistics]``: which figures about validation and test patients may leave."""

    release: tuple[Release, ...] = ("dp",)
    require_secure_aggregation: Switch = True
    max_releases_per_run: Count = 50
    unsafe_share_models: Switch = False


class Who(_Table):
    """``[who]``: who may ask."""

    leads: tuple[Annotated[str, Field(pattern=FINGERPRINT)], ...] = ()


class Approval(_Table):
    """``[approval]``: what may be approved without a person."""

    auto_max_epsilon: NonNegative = 0.0


class Policy(_Table):
    """The whole file. Build it with ``load`` or ``parse``; ``Policy()`` is what holds where there is no file."""

    plans: Plans = Plans()
    privacy: Privacy = Privacy()
    statistics: Statistics = Statistics()
    hours: Hours = Hours()
    who: Who = Who()
    approval: Approval = Approval()


def cap(policy: Policy, per: Literal["cohort", "lifetime", "both"] = "both") -> Cap:
    """The most that patients may spend on a cohort, or on all cohorts of the site; "both" is the smaller of the two."""
    said = policy.privacy
    limits = {"cohort": said.max_epsilon_per_cohort, "lifetime": said.max_epsilon_lifetime}
    return Cap(limits.get(per, min(limits.values())), said.delta)


def parse(text: str) -> Policy:
    """Read a policy from TOML text; raises ``PolicyError`` ("policy-file")."""
    try:
        return Policy.model_validate(tomllib.loads(text))
    except tomllib.TOMLDecodeError as error:
        raise PolicyError(
            f"{FILE} is not valid TOML: {error}", hint="check quotes, brackets and the line named", code="policy-file"
        ) from None
    except ValidationError as error:
        sentence, hint = describe(error, Policy)
        raise PolicyError(f"{FILE}: {sentence}", hint=hint.partition(";")[0], code="policy-file") from None


def load(path: Path) -> Policy:
    """Read a policy from a file; raises ``PolicyError`` ("policy-file")."""
    try:
        return parse(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "not UTF-8 text"
        raise PolicyError(
            f"{path.name} cannot be read: {reason}", hint="check the path and its permissions", code="policy-file"
        ) from None


def template() -> str:
    """The text of a new ``policy.toml``: all defaults, each key explained."""
    return _TEMPLATE


_TEMPLATE = """\
# What this hospital permits. Read anew whenever something is asked; an unknown key is an
# error. A key that is left out has the value that stands here. What is permitted here
# still has to be approved, plan by plan.

[plans]
# Tasks that may be trained: "any", or a list such as ["segmentation"]; [] permits none.
tasks = "any"
# Networks that may be trained, likewise, such as ["unet", "segresnet"].
models = "any"

[privacy]
# true lets plans in that protect nobody ([privacy] unit = "none"): what leaves may then
# show who was trained on. For pilots with public images only.
unsafe_allow_unprotected = false
# All epsilons here are stated at this delta, the small probability that epsilon does not
# bound. Plans with a larger one are refused.
delta = 1e-5
# Largest epsilon that a plan may ask for.
max_epsilon_per_plan = 8.0
# Largest epsilon of all plans together that were ever trained on one frozen cohort.
max_epsilon_per_cohort = 10.0
# Largest epsilon of a patient over all cohorts of this site that the patient was in.
max_epsilon_lifetime = 10.0
# Largest epsilon of a run of a plan in which sites share the noise, if all other sites
# collude; 0 permits no such plan.
max_epsilon_alone = 0.0
# Smallest standard deviation of the noise in units of the clipping norm; 0 asks for none
# beyond what epsilon asks for.
min_noise_multiplier = 0.0
# Fewest training patients of a cohort. Whoever hears the answer learns one bit about it.
min_patients = 20
# Largest product of a plan's delta and the number of training patients.
max_delta_times_patients = 0.1

[statistics]
# How figures about validation and test patients may leave:
#   "dp"    with noise, paid for from the budget
#   "sum"   exact, meant to be seen only added up over sites
#   "site"  exact, for this site alone
release = ["dp"]
# Whether "sum" may leave only where the coordinator cannot see single sites.
require_secure_aggregation = true
# How often a run may measure this site's validation and test patients.
max_releases_per_run = 50
# true lets plans in that send this site's own fine-tuned model to the other sites
# ([evaluation] cross_site), exactly as it is.
unsafe_share_models = false

[hours]
# Time zone of the windows, such as "Europe/Berlin".
zone = "UTC"
# When rounds may begin; [] permits any time. An end before the start is the next day's:
# [{ days = ["mon", "tue", "wed", "thu", "fri"], start = "19:00", end = "06:30" },
#  { days = ["sat", "sun"], start = "00:00", end = "24:00" }]
windows = []

[who]
# Fingerprints of the keys of leads who may ask, eight groups of four digits each; [] is
# the one lead that this site has enrolled with.
leads = []

[approval]
# consilium-site approve --auto asks nobody where all runs of a plan cost a patient at
# most this epsilon, also if all other sites collude, and everything that leaves is
# noised; 0 permits that for no plan.
auto_max_epsilon = 0.0
"""
