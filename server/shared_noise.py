"""What people are told where sites share the noise: whose noise a promise is made of, and what is left without it.

Promises
- Wherever such a promise is shown, its assumption stands beside it: how many sites a sum holds at least, and how many
  of the other sites may tell the coordinator what they added (``shared.privacy.shared_noise.Share``).
- Nothing is said where each site adds all of its own noise.

Leaves to others: the noise itself (``client.protected``), and what a site has paid (its ledger).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from shared.plan import Plan
from shared.privacy.accounting import epsilon
from shared.privacy.events import Event
from shared.privacy.shared_noise import Share
from shared.privacy.terms import Terms, share_of, terms_for


def told(terms: Terms, paid: Iterable[Sequence[Event]], delta: float) -> dict[str, Any]:
    """The key ``shared`` of a site in ``results.json``; no key where the noise is the site's own.

    Args:
        terms: on which the site trained.
        paid: all that training patients have paid, one entry for each group of them that has paid the same.
        delta: that of the plan.
    """
    share = terms.share
    if share is None:
        return {}
    assumed = {"least": share.least, "colluding": share.colluding, "honest": share.honest}
    worst = max((if_all_collude(events, delta) for events in paid), default=0.0)
    return {"shared": assumed | {"sigma_alone": terms.alone, "epsilon_alone": worst}}


def if_all_collude(events: Iterable[Event], delta: float) -> float:
    """Epsilon of what was done, for a coordinator to whom all other sites tell what they have added."""
    return epsilon([event.if_alone() for event in events], delta)


def assumption(share: Share) -> str:
    """What a promise assumes, as a sentence of its own."""
    tell = "tell the coordinator what they added" if share.colluding > 1 else "tells the coordinator what it added"
    return (
        f"Sites share the noise: the promise holds for sums of at least {share.least} sites, as long as "
        f"{_others(share)} {tell}."
    )


def colluding(share: Share) -> str:
    """The same in a few words, to go on with after "if"."""
    return f"{_others(share)} collude" + "s" * (share.colluding < 2)


def promised(plan: Plan) -> Iterator[str]:
    """For whoever is about to submit a plan: its assumption, and its epsilon without it; empty for noise of one's own.

    Raises:
        PlanError: the plan cannot keep its promise.
    """
    share, privacy = share_of(plan), plan.privacy
    if share is None or privacy.epsilon is None or privacy.delta is None:
        return
    said = privacy.public_patients
    sites = sorted(said) if isinstance(said, dict) else ["every site"]
    worst = max(if_all_collude(terms_for(plan, site).all_events(), privacy.delta) for site in sites)
    yield assumption(share)
    yield (
        f"A patient then pays at most epsilon {privacy.epsilon:g} at delta {privacy.delta:g}, and epsilon {worst:.4g} "
        "if all other sites collude."
    )


def _others(share: Share) -> str:
    return f"at most {share.colluding} of the other sites" if share.colluding else "none of the other sites"
