"""``consilium-site approve``: what a plan will do here and what it costs, and then the decision to let it.

Promises
- Nobody is asked about a plan that the pinned lead did not sign, or that the policy refuses on this cohort, all its
  runs together: the first refusal is the answer.
- Nobody is asked about a plan whose sites share the noise where the federation, as it is now, cannot bear as many
  colluding sites as the plan says ("colluding").
- What people are shown is computed from the plan, the cohort and the ledger as they are now (``approve_shown``).
- The case store is prepared before the approval holds, so that the first round waits for no image; what cannot be
  prepared is not approved. Weights to start from are copied into the approval's folder, by their SHA-256.

Keeping approvals is ``client.governance.approvals``'.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from client.commands.check import check, events_of
from client.commands.clock import Clock
from client.custodian.warm import open_site
from client.data.cohort import files
from client.data.progress import Progress, silent
from client.enrolment import require_pinned
from client.governance.approvals import MOST_RUNS, Approval, Terms, folder_of, record, served
from client.governance.judgement import permits_sender, require_none
from client.governance.ledger import Ledger
from client.governance.policy import cap
from client.governance.spending import Account, CohortPatients, cost, if_all_collude, merged
from client.pinned import Pinned
from client.site_folder import LEDGER, SiteFolder
from client.workbench import Workbench
from shared.durable import replace_file
from shared.errors import ModelError, PolicyError
from shared.messages import Split
from shared.plan import Plan
from shared.privacy.accounting import epsilon, rounds_left
from shared.privacy.events import Event
from shared.privacy.terms import terms_for
from shared.secure.threshold import needed, tolerated
from shared.trust.plans import open_plan, weights_file

if TYPE_CHECKING:
    from client.data.cohort.manifest import Cohort


@dataclass(frozen=True, slots=True)
class Wanted:
    """What is asked for.

    Attributes:
        content: the file of the signed plan.
        beside: folder that the plan's weights to start from lie in.
        dataset: whose current cohort is to be trained on.
        runs: how many more runs of the plan.
    """

    content: bytes
    beside: Path
    dataset: str
    runs: int = 1


@dataclass(frozen=True, slots=True)
class Cost:
    """What the patients who have paid most will have paid, at the policy's delta.

    Attributes:
        plan: epsilon of all runs by themselves.
        before: what was paid so far.
        after: what will have been.
        cap: most that may be.
        delta: that all of these are at.
        rounds_left: further rounds of this plan that the cap then still allows.
        alone: epsilon of all runs by themselves if all other sites collude; None where sites share no noise.
    """

    plan: float
    before: float
    after: float
    cap: float
    delta: float
    rounds_left: int
    alone: float | None


@dataclass(frozen=True, slots=True)
class Offer:
    """A plan that may be approved here; ``cost`` is None where it protects nobody."""

    wanted: Wanted
    plan: Plan
    pinned: Pinned
    cohort: str
    patients: Mapping[Split, int]
    parameters: int
    cost: Cost | None


@dataclass(frozen=True, slots=True)
class _Opening:
    plan: Plan
    dataset: str
    cohort: str
    folder: Path


def offered(site: SiteFolder, wanted: Wanted) -> Offer:
    """A plan that may be approved; nothing is written.

    Raises:
        ProtocolError: it is not signed by the pinned lead.
        PolicyError: the policy refuses it, nothing was accepted yet, or too many sites may collude ("colluding").
        ConsiliumError: it cannot be set up here.
    """
    pinned, policy = require_pinned(site), site.policy
    plan = open_plan(wanted.content, pinned.lead)
    if not 1 <= wanted.runs <= MOST_RUNS:
        raise PolicyError(f"{wanted.runs} runs cannot be approved", hint=f"1 to {MOST_RUNS}", code="runs")
    judged = check(site, plan, wanted.dataset)
    lead = pinned.lead.fingerprint()
    stranger = permits_sender(policy, lead, lead)
    unmet = tuple(one.refusal() for one in judged.verdicts if one.outcome != "permits")
    require_none(((stranger,) if stranger else ()) + unmet)
    _require_borne(plan, len(pinned.roster.active))
    cohort = _cohort(site, wanted.dataset)
    weights(plan, wanted.beside)
    bench = Workbench.for_plan(plan, wanted.beside)
    patients = CohortPatients.of(cohort)
    return Offer(
        wanted=wanted,
        plan=plan,
        pinned=pinned,
        cohort=patients.digest,
        patients={split: len(names) for split, names in patients.patients.items()},
        parameters=bench.parameters.length,
        cost=_cost(site, plan, patients, wanted.runs) if plan.privacy.unit == "patient" else None,
    )


def require_automatic(site: SiteFolder, offer: Offer) -> None:
    """Raise ``PolicyError`` ("not-automatic") where a person has to decide."""
    most = site.policy.approval.auto_max_epsilon
    asked = _beyond(offer, most)
    if asked:
        raise PolicyError(
            f"policy.toml [approval] auto_max_epsilon = {most:g} approves no plan by itself that {asked}",
            hint="let somebody read it: the same command without --auto",
            code="not-automatic",
        )


def approve(site: SiteFolder, offer: Offer, by: str, now: Clock, progress: Progress = silent) -> Approval:
    """Prepare what the plan needs, and let it run here; raises ``ConsiliumError`` where that is not possible."""
    site.audit.require_sound()
    folder = folder_of(site, offer.plan.digest())
    for made in (folder.parent, folder):
        made.mkdir(mode=0o700, exist_ok=True)
    kept = weights(offer.plan, offer.wanted.beside)
    if kept is not None and offer.plan.model.pretrained is not None:
        path = folder / offer.plan.model.pretrained.file
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        replace_file(path, kept)
    open_site(site, _Opening(offer.plan, offer.wanted.dataset, offer.cohort, folder), now, progress)
    terms = Terms(offer.wanted.dataset, offer.cohort, offer.wanted.runs, by)
    return record(site, offer.wanted.content, terms, now())


def weights(plan: Plan, beside: Path) -> bytes | None:
    """The plan's weights to start from, as it names them; None where it names none.

    Raises:
        PlanError: it names a file outside ``beside``, or none of weights ("weights-path").
        ModelError: the file cannot be read, or is another one.
    """
    said, path = plan.model.pretrained, weights_file(plan)
    if said is None or path is None:
        return None
    try:
        content = (beside / path).read_bytes()
    except OSError as error:
        raise ModelError(
            f"the weights that the plan starts from cannot be read: {error.strerror}",
            hint="put the file that the lead has sent beside the plan, under the name that the plan has for it",
            code="pretrained-file",
        ) from None
    if hashlib.sha256(content).hexdigest() != said.sha256:
        raise ModelError(
            "the weights beside the plan are not those that it starts from",
            hint="ask the lead for the file with the SHA-256 that the plan names",
            code="pretrained-file",
        )
    return content


def runs_before(site: SiteFolder, offer: Offer) -> int:
    """How many runs of the plan were served here already."""
    return served(folder_of(site, offer.plan.digest()))


def _beyond(offer: Offer, most: float) -> str:
    """What a person has to decide about; "" where there is nothing."""
    found = offer.cost
    if found is None or offer.plan.evaluation.release != "dp":
        return "lets figures out without noise"
    if found.plan > most:
        return f"costs epsilon {found.plan:.4g}"
    if found.alone is not None and found.alone > most:
        return f"costs epsilon {found.alone:.4g} if all other sites collude"
    return ""


def _require_borne(plan: Plan, sites: int) -> None:
    """Raise ``PolicyError`` where a lying coordinator could unmask too little noise with the plan's colluding sites."""
    colluding = plan.privacy.colluding_sites
    if colluding is None:
        return
    least = needed(plan.secure_aggregation, plan.participation.quorum, sites)
    if colluding <= tolerated(least, sites) and 2 * least > sites:
        return
    raise PolicyError(
        f"noise that sites share is planned for privacy.colluding_sites = {colluding}, which sums over {least} or more "
        f"of the federation's {sites} active sites do not bear",
        hint="ask the lead for a plan with fewer colluding_sites, or with secure_aggregation.threshold of at least "
        f"{max((sites + colluding) // 2 + 1, colluding + 2)}",
        code="colluding",
    )


def _cohort(site: SiteFolder, dataset: str) -> Cohort:
    return files.load(site.dataset(dataset).cohorts, site.signing_key().verify_key)


def _cost(site: SiteFolder, plan: Plan, patients: CohortPatients, runs: int) -> Cost:
    splits = Ledger.open(site.path / LEDGER).outlook(patients).spending.splits
    limit = cap(site.policy)
    asked = {
        split: tuple(replace(one, steps=one.steps * runs) for one in events)
        for split, events in events_of(plan, site.settings.site.name).items()
    }

    def most(paid: Callable[[Account, Split], tuple[Event, ...]]) -> float:
        return max(
            cost(paid(account, split), limit.delta, epsilon)
            for split, spent in splits.items()
            for account in spent.accounts
        )

    after = most(lambda account, split: merged((*account.all(), *asked.get(split, ()))))
    found = Cost(
        plan=max(cost(merged(events), limit.delta, epsilon) for events in asked.values()),
        before=most(lambda account, _: account.all()),
        after=after,
        cap=limit.epsilon,
        delta=limit.delta,
        rounds_left=_rounds_left(plan, site, splits["train"].accounts, asked["train"]),
        alone=if_all_collude(asked.values(), limit.delta, epsilon),
    )
    if after > limit.epsilon:
        raise PolicyError(
            f"{runs} runs of this plan would bring patients to epsilon {after:.4g} at delta {limit.delta:g}, "
            f"the cap is {limit.epsilon:g}",
            hint="approve fewer runs with --runs, or ask the lead for a plan with a smaller privacy.epsilon",
        )
    return found


def _rounds_left(plan: Plan, site: SiteFolder, accounts: tuple[Account, ...], asked: tuple[Event, ...]) -> int:
    one = terms_for(plan, site.settings.site.name).round_event()
    return min(rounds_left(merged((*account.all(), *asked)), one, cap(site.policy)) for account in accounts)
