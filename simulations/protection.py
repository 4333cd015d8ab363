"""How simulated sites protect their patients: each with a ledger of its own, as a hospital has one.

Promises
- A simulated site pays for every update and every statistic through the code that a hospital runs: reserved, stored,
  released, in ``ledger.sqlite`` beside its data. The cap is what the plan promises.
- Noise comes from the operating system, here too: a run with privacy does not repeat itself. ``unsafe-seeded`` noise
  does; it protects nobody, and the results say so.
- What is reported as spent is computed from the ledger's events; where sites share the noise, both as the plan assumes
  and as it is if all other sites collude.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from client.data.cohort.manifest import Cohort
from client.governance.ledger import Ledger
from client.governance.paid import Till
from client.governance.replies import Replies
from client.governance.spending import Claim, CohortPatients, Spent, cost, merged
from client.protected import Guard, secure
from server.shared_noise import told
from shared.messages import Split
from shared.plan import Plan
from shared.privacy.accounting import Cap, epsilon
from shared.privacy.noise import Noise, UnsafeSeededNoise
from shared.privacy.terms import terms_for
from shared.seeds import derive

LEDGER, REPLIES = "ledger.sqlite", "replies"
"""A site's ledger, and what it has answered, in the folder of its data set."""

NoiseKind = Literal["secure", "unsafe-seeded"]


def guard_for(site: str, folder: Path, cohort: Cohort, plan: Plan, noise: NoiseKind) -> Guard | None:
    """What guards a simulated site's cohort; None under a plan that protects nobody."""
    if plan.privacy.unit == "none":
        return None
    ledger = _ledger(folder)
    ledger.enrol(CohortPatients.of(cohort), _now())

    def seeded(claim: Claim) -> Noise:
        return UnsafeSeededNoise(derive(plan.plan.seed, "unsafe", site, claim.round, claim.split, claim.purpose))

    till = Till(ledger, Replies(folder / REPLIES), _cap(plan), _now)
    return Guard(cohort.digest(), till, secure if noise == "secure" else seeded)


def require_terms(plan: Plan, sites: Iterable[str]) -> None:
    """Refuse a plan that cannot keep its promise at one of ``sites``; raises ``PlanError``."""
    if plan.privacy.unit == "patient":
        for site in sites:
            terms_for(plan, site)


def spent(site: str, folder: Path, cohort: Cohort, plan: Plan, noise: NoiseKind) -> Mapping[str, Any]:
    """What a site's patients have paid, as results.json holds it."""
    if plan.privacy.unit == "none" or not (folder / LEDGER).exists():
        return {"unit": plan.privacy.unit}
    terms, cap = terms_for(plan, site), _cap(plan)
    splits = _ledger(folder).spending(cohort.digest()).splits
    return {
        "unit": "patient",
        "epsilon": _epsilon(splits["train"], cap),
        "delta": cap.delta,
        "sigma": terms.noise_multiplier,
        "q": terms.sampling_rate,
        "steps": _steps(splits["train"]),
        "clip_norm": terms.clip_norm,
        "denominator": terms.denominator,
        "covers": plan.privacy.covers,
        "noise": noise,
        "statistics": {split: _statistics(splits[split], cap) for split in _measured(plan)},
        **told(terms, [account.all() for account in splits["train"].accounts], cap.delta),
    }


def _measured(plan: Plan) -> tuple[Split, ...]:
    return ("validation", "test") if plan.evaluation.release == "dp" else ()


def _statistics(spent: Spent, cap: Cap) -> dict[str, Any]:
    sigmas = [event.noise_multiplier for event in spent.own.all()]
    return {"epsilon": _epsilon(spent, cap), "sigma": min(sigmas, default=None), "releases": _steps(spent)}


def _epsilon(spent: Spent, cap: Cap) -> float:
    return max(cost(account.all(), cap.delta, epsilon) for account in spent.accounts)


def _steps(spent: Spent) -> int:
    return sum(event.steps for event in merged(spent.own.all()))


def _ledger(folder: Path) -> Ledger:
    path = folder / LEDGER
    return Ledger.open(path) if path.exists() else Ledger.create(path)


def _cap(plan: Plan) -> Cap:
    privacy = plan.privacy
    assert privacy.epsilon is not None  # noqa: S101 - a plan with unit "patient" has both
    assert privacy.delta is not None  # noqa: S101
    return Cap(privacy.epsilon, privacy.delta)


def _now() -> datetime:
    return datetime.now(UTC)
