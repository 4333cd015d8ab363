"""What patients of a site have paid at most in a run, and what the plan still holds.

Every round that was begun counts, whether or not the site answered: it may have paid before its answer was lost. The
site's own ledger knows better, and does not tell.
"""

from __future__ import annotations

from dataclasses import dataclass

from server.dashboard.look import RunLook
from server.shared_noise import assumption
from shared.errors import PlanError
from shared.plan import Plan
from shared.privacy.accounting import epsilon
from shared.privacy.terms import share_of, terms_for


@dataclass(frozen=True, slots=True)
class Spent:
    """Most that a training patient of ``site`` has paid by now, of the plan's ``epsilon`` at ``delta``."""

    site: str
    paid: float
    epsilon: float
    delta: float

    @property
    def share(self) -> float:
        """Of the plan's epsilon."""
        return self.paid / self.epsilon


def rounds_begun(run: RunLook) -> int:
    """Rounds that sites were asked to train."""
    last = run.rounds[-1].participation.round if run.rounds else 0
    return max(last, run.live.round if run.live else 0)


def spent(run: RunLook) -> tuple[Spent, ...]:
    """One entry for each site that was asked; none where the plan protects nobody, or cannot be read."""
    if run.plan is None or run.plan.privacy.unit == "none":
        return ()
    begun, plan = rounds_begun(run), run.plan
    return tuple(one for site in run.sites if (one := _spent(plan, site, begun)) is not None)


def assumed(run: RunLook) -> str:
    """What the promise assumes of the other sites, where they share the noise; else empty."""
    share = share_of(run.plan) if run.plan else None
    return assumption(share) if share else ""


def _spent(plan: Plan, site: str, begun: int) -> Spent | None:
    said, delta = plan.privacy.epsilon, plan.privacy.delta
    assert said is not None  # noqa: S101 - a plan with unit "patient" has both
    assert delta is not None  # noqa: S101
    try:
        paid = epsilon([terms_for(plan, site).round_event()] * begun, delta)
    except PlanError:
        return None
    return Spent(site, paid, said, delta)
