"""What the approved plan lets a run ask: whatever people here did not read is not answered, whoever has signed it.

==================  ================================================================================  ===============
request             is in the plan                                                                    else
==================  ================================================================================  ===============
any                 from round 0 (training: 1) to the plan's last                                     round
evaluate            validation patients after each round that the plan measures; test patients after  not-in-plan
                    the last round; training patients never
personalise         after the last round, on test patients, if the plan has ``[personalisation]``     not-in-plan
share, cross        after the last round, if the plan has ``evaluation.cross_site``; the model that   not-in-plan
                    is measured is an active site's of this federation's roster
deal, mask,         if the plan has ``[secure_aggregation]``; which step is next in which sum is      not-in-plan
confirm, unmask     ``client.secure.party``'s to know
==================  ================================================================================  ===============

Promises
- A run gets as many answers about validation and test patients as ``shared.privacy.terms`` counts, and no more: people
  were shown that number, and the policy has judged it.
- Of models of single sites at most one for each active site is measured: nobody invents names to ask more often.
- It is checked before a question is noted: what is refused here uses nothing up, and stops no honest question.
"""

from __future__ import annotations

from client.personal import require_shared
from shared.errors import ProtocolError
from shared.messages import Cross, Evaluate, Personalise, Request, Share, SumStep, Train
from shared.plan import Plan


def require_in_plan(request: Request, plan: Plan, members: frozenset[str] = frozenset()) -> None:
    """Return where ``plan`` lets a run ask this; raise ``ProtocolError`` ("round", "not-in-plan") where not.

    ``members`` are the active sites of the federation.
    """
    number, last = request.envelope.round, plan.plan.rounds
    first = 1 if isinstance(request, Train) else 0
    if not first <= number <= last:
        raise ProtocolError(f"a round is asked for that is none of the plan's {last}", code="round")
    if isinstance(request, Evaluate) and not _measures(request, plan):
        raise ProtocolError(
            f"the plan measures no {request.split} patients after round {number}",
            hint="a run asks what its plan says, and nothing else",
            code="not-in-plan",
        )
    if isinstance(request, Personalise) and (plan.personalisation is None or (request.split, number) != ("test", last)):
        raise ProtocolError(
            f"the plan has no [personalisation] measured on {request.split} patients after round {number}",
            hint="a run asks what its plan says, and nothing else",
            code="not-in-plan",
        )
    if isinstance(request, Share | Cross):
        _require_crossing(request, plan, members)
    if isinstance(request, SumStep) and not plan.secure_aggregation.enabled:
        raise ProtocolError(
            "the plan has no secure aggregation, so there is nothing to mask",
            hint="a run asks what its plan says, and nothing else",
            code="not-in-plan",
        )


def _require_crossing(request: Share | Cross, plan: Plan, members: frozenset[str]) -> None:
    require_shared(plan)
    stranger = isinstance(request, Cross) and request.model not in members
    if stranger or request.envelope.round != plan.plan.rounds:
        raise ProtocolError(
            "models of active sites alone are measured everywhere, after the last round",
            hint="a run asks what its plan says, and nothing else",
            code="not-in-plan",
        )


def _measures(request: Evaluate, plan: Plan) -> bool:
    number, last = request.envelope.round, plan.plan.rounds
    if request.split == "validation":
        return number > 0 and (number == last or number % plan.evaluation.every == 0)
    return request.split == "test" and number == last
