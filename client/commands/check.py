"""``consilium-site check``: a plan compared with what this hospital permits, before anybody approves it.

Promises
- Nothing is written, noted or sent. Without a data set no private fact is looked at, and rules that need one say so.
- With a data set, the plan is priced as the ledger would: what its patients have paid, in this cohort and in others,
  composed with everything that the plan asks for.
- What is shown is for this site alone: whether rules about patients permit tells something about the cohort.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Literal

from client.data.cohort import files
from client.data.cohort.manifest import Cohort
from client.governance.judgement import Refusal, Verdict, verdicts
from client.governance.ledger import Ledger
from client.governance.policy import FILE
from client.governance.rules import Facts
from client.governance.spending import Account, CohortPatients, cost, if_all_collude, merged
from client.site_folder import LEDGER, SiteFolder
from client.terminal import listing
from shared.messages import Split
from shared.plan import Plan
from shared.privacy.accounting import epsilon
from shared.privacy.events import Event
from shared.privacy.terms import statistics_terms, terms_for

if TYPE_CHECKING:
    from rich.console import RenderableType


@dataclass(frozen=True, slots=True)
class Checked:
    """A plan's digest, where the policy came from, and what each of its rules says about the plan."""

    digest: str
    policy: Literal["policy.toml", "defaults"]
    verdicts: tuple[Verdict, ...]

    @property
    def refusals(self) -> tuple[Refusal, ...]:
        """The rules that refuse; those that lack a fact are none of them."""
        return tuple(one.refusal() for one in self.verdicts if one.outcome == "refuses")


def check(site: SiteFolder, plan: Plan, dataset: str | None) -> Checked:
    """Judge ``plan`` by the site's policy; with a data set, as if it were begun now on its current cohort.

    Raises:
        PolicyError: ``policy.toml`` is wrong ("policy-file").
        PlanError: the plan cannot be kept at this site, whatever the policy says.
        SiteDataError: there is no such data set, cohort or ledger.
    """
    facts = _facts(site, plan, dataset)
    return Checked(plan.digest(), "policy.toml" if site.has_policy else "defaults", verdicts(site.policy, plan, facts))


def events_of(plan: Plan, site: str) -> dict[Split, tuple[Event, ...]]:
    """Everything that a protected plan asks of the patients of each split at ``site``."""
    asked: dict[Split, tuple[Event, ...]] = {"train": terms_for(plan, site).all_events()}
    measured: tuple[Literal["validation", "test"], ...] = ("validation", "test")
    if plan.evaluation.release != "dp":
        return asked
    for split in measured:
        terms = statistics_terms(plan, split)
        asked[split] = (terms.event(),) * terms.releases
    return asked


def shown(checked: Checked) -> Iterator[RenderableType]:
    """The rules in the order of the file, then what to do about those that refuse."""
    rows = [(one.setting, one.outcome, one.reason) for one in checked.verdicts]
    yield listing((FILE, "verdict", "why"), rows)
    hints = [(one.rule, one.hint) for one in checked.verdicts if one.hint]
    if hints:
        yield listing(("rule", "what to do"), hints)


def document(checked: Checked) -> dict[str, object]:
    """The same for programs."""
    return {
        "digest": checked.digest,
        "policy": checked.policy,
        "permitted": not checked.refusals,
        "rules": [asdict(one) for one in checked.verdicts],
    }


def _facts(site: SiteFolder, plan: Plan, dataset: str | None) -> Facts:
    name, protected = site.settings.site.name, plan.privacy.unit == "patient"
    noise = terms_for(plan, name).noise_multiplier if protected else None
    of_plan = Facts(name, noise_multiplier=noise, sites=_sites(site), alone_epsilon=_alone(site, plan))
    if dataset is None:
        return of_plan
    patients = CohortPatients.of(_cohort(site, dataset))
    own, lifetime = _spent(site, plan, patients) if protected else (None, None)
    return replace(
        of_plan,
        patients=len(patients.patients["train"]),
        cohort=patients.digest,
        cohort_epsilon=own,
        lifetime_epsilon=lifetime,
    )


def _alone(site: SiteFolder, plan: Plan) -> float | None:
    """What a run costs a patient if all other sites collude; None where sites share no noise."""
    if plan.privacy.noise == "own":
        return None
    events = events_of(plan, site.settings.site.name)
    return if_all_collude(events.values(), site.policy.privacy.delta, epsilon)


def _sites(site: SiteFolder) -> int | None:
    return None if site.pinned is None else len(site.pinned.roster.active)


def _cohort(site: SiteFolder, dataset: str) -> Cohort:
    folder = site.dataset(dataset)
    folder.require_begun()
    return files.load(folder.cohorts, site.signing_key().verify_key)


def _spent(site: SiteFolder, plan: Plan, patients: CohortPatients) -> tuple[float, float]:
    """Epsilon of the cohort, and over all cohorts, of the patients who will have paid most when the plan is done."""
    splits = Ledger.open(site.path / LEDGER).outlook(patients).spending.splits
    asked, delta = events_of(plan, site.settings.site.name), site.policy.privacy.delta

    def after(account: Account, split: Split) -> float:
        return cost(merged((*account.all(), *asked.get(split, ()))), delta, epsilon)

    own = max(after(spent.own, split) for split, spent in splits.items())
    return own, max(after(account, split) for split, spent in splits.items() for account in spent.accounts)
