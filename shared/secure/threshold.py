"""What a plan says about secure sums, as the one rule that sites and the coordinator go by.

Promises
- ``rule`` is the same at every party: nothing but the plan goes into it.
- Beyond ``graph.COMPLETE_UP_TO`` sites neighbours are drawn, under ``ASSUMED``: of all sites a tenth work with a
  dishonest coordinator, and a fifth drop out: 64 neighbours of 100 sites, 124 of 200, 392 of 1000. What is borne with
  fewer sites: ``shared.secure.holders``.
- Where sites share the noise, as many colluding sites as the plan says are borne, or there is no sum.
"""

from __future__ import annotations

from dataclasses import replace
from functools import cache, partial
from typing import TYPE_CHECKING

from shared.plan_protection import SecureAggregation
from shared.secure.graph import Assumed, degree_for
from shared.secure.holders import LEAST_SITES, Threshold, two_thirds

if TYPE_CHECKING:
    from shared.plan import Plan

ASSUMED = Assumed(colluding=0.1, dropping=0.2)


def rule_of(plan: Plan) -> Threshold:
    """The rule of a whole plan."""
    return rule(plan.secure_aggregation, plan.participation.quorum, plan.privacy.colluding_sites or 0)


def rule(settings: SecureAggregation, quorum: int, colluding: int = 0) -> Threshold:
    """The plan's rule: of fewer sites than its quorum there is no sum, whomever a coordinator asks.

    ``colluding`` sites must be borne whatever the coordinator does; 0 leaves it at what the threshold bears.
    """
    degree = partial(_degree, colluding=colluding)
    return Threshold(settings.threshold, degree, least=max(LEAST_SITES, quorum), colluding=colluding)


def needed(settings: SecureAggregation, quorum: int, enrolled: int) -> int:
    """Sites without whom no sum is unmasked, where ``enrolled`` sites are active; ``rule`` refuses a bad number."""
    return max(LEAST_SITES, quorum, two_thirds(enrolled)) if settings.threshold is None else settings.threshold


def tolerated(least: int, enrolled: int) -> int:
    """Most other sites that may tell a lying coordinator all they know, and a site's numbers still stay hidden.

    With t = ``least``, n = ``enrolled`` and c of them colluding: 2 t > n + c, or there could be two sums of a question;
    and t >= c + 2, or the smallest sum less what the c have added is one site's. Never below 0.
    """
    return max(0, min(least - 2, 2 * least - enrolled - 1))


@cache
def _degree(sites: int, *, colluding: int) -> tuple[int, int]:
    """Neighbours and local threshold; a matter of seconds from a thousand sites on, so worked out once."""
    return degree_for(sites, replace(ASSUMED, colluding=max(ASSUMED.colluding, colluding / sites)))
