"""``consilium-site budget``: what patients have paid, cohort by cohort and split by split, and how far the rest goes.

Nothing is written: a cohort that is frozen and not enrolled yet is shown with what it would inherit.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Literal

from client.data.cohort import files
from client.governance import policy
from client.governance.ledger import Ledger
from client.governance.spending import CohortPatients, Spending, cost, if_all_collude
from client.site_folder import DATASETS, LEDGER, SiteFolder
from client.terminal import listing
from shared.messages import Split
from shared.plan import Plan
from shared.privacy.accounting import Cap, epsilon, rounds_left
from shared.privacy.events import Event
from shared.privacy.terms import statistics_terms, terms_for

if TYPE_CHECKING:
    from rich.console import RenderableType

State = Literal["enrolled", "not enrolled"]
_ALONE = "if all collude"


@dataclass(frozen=True, slots=True)
class Line:
    """The budget of one split.

    Attributes:
        dataset: whose cohort it is.
        cohort: its digest.
        state: whether the ledger knows it; a cohort is enrolled when it is first asked for something.
        split: of the cohort.
        spent: epsilon that the patient who paid most has paid for what left, in all cohorts.
        reserved: the same with what was granted and has not left yet.
        if_all_collude: ``reserved`` if all other sites collude; None where no site has shared the noise of anything.
        cap: most that ``reserved`` may be.
        delta: that all epsilons are at.
        left: how many more rounds of the plan fit, for test patients and validation patients how many more
            measurements; None without a plan, or where it asks nothing of this split.
        inherited: digests of other cohorts that patients of this split have paid in.
    """

    dataset: str
    cohort: str
    state: State
    split: Split
    spent: float
    reserved: float
    if_all_collude: float | None
    cap: float
    delta: float
    left: int | None
    inherited: tuple[str, ...]


def budget(site: SiteFolder, name: str | None, plan: Plan | None) -> tuple[Line, ...]:
    """A line for each split of each cohort, of all data sets or of one.

    Args:
        site: whose ledger is read.
        name: of a data set; None means all.
        plan: whose rounds are counted.

    Raises:
        ConsiliumError: there is no such data set, the ledger or the policy cannot be read, or the plan protects nobody.
    """
    ledger, cap = Ledger.open(site.path / LEDGER), policy.cap(site.policy)
    asked = {} if plan is None else events_of(plan, site.settings.site.name)
    return tuple(
        _line(dataset, state, spending, split, cap, asked.get(split))
        for dataset, state, spending in _spendings(site, ledger, name)
        for split in spending.splits
    )


def shown(lines: Sequence[Line]) -> Iterator[RenderableType]:
    """A table, and what its epsilons are."""
    if not lines:
        yield "No cohort was frozen yet: nobody has paid anything."
        return
    shared = any(line.if_all_collude is not None for line in lines)
    cells = [_cells(line) for line in lines]
    header = tuple(name for name in cells[0] if shared or name != _ALONE)
    yield listing(header, [tuple(row[name] for name in header) for row in cells])
    yield (
        f"Spent: epsilon at delta {lines[0].delta:g} of the patient who paid most, in all cohorts. Reserved: the same, "
        "with what was granted and has not left."
    )
    if shared:
        yield (
            "If all collude: what is reserved, if all other sites collude, which know all but this site's part of the "
            "noise that sites share. The cap holds as long as no more of them collude than a plan says."
        )


def document(lines: Sequence[Line]) -> list[dict[str, object]]:
    """The same for programs."""
    return [asdict(line) for line in lines]


def events_of(plan: Plan, name: str) -> dict[Split, Event]:
    """What one round of ``plan`` asks of each split at the site ``name``; raises ``PlanError``."""
    asked: dict[Split, Event] = {"train": terms_for(plan, name).round_event()}
    if plan.evaluation.release == "dp":
        asked |= {split: statistics_terms(plan, split).event() for split in ("validation", "test")}
    return asked


def _spendings(site: SiteFolder, ledger: Ledger, name: str | None) -> Iterator[tuple[str, State, Spending]]:
    """All enrolled cohorts, then those that are frozen and not enrolled."""
    enrolled = ledger.cohorts()
    for one in enrolled:
        if name in (None, one.dataset):
            yield one.dataset, "enrolled", ledger.spending(one.digest)
    for dataset in _datasets(site, name):
        digest = files.current(site.dataset(dataset).cohorts)
        if digest and digest not in {one.digest for one in enrolled}:
            cohort = files.load(site.dataset(dataset).cohorts, site.signing_key().verify_key, digest)
            yield dataset, "not enrolled", ledger.outlook(CohortPatients.of(cohort)).spending


def _datasets(site: SiteFolder, name: str | None) -> list[str]:
    if name is None:
        return sorted(path.parent.name for path in (site.path / DATASETS).glob("*/dataset.toml"))
    site.dataset(name).require_begun()
    return [name]


def _line(dataset: str, state: State, spending: Spending, split: Split, cap: Cap, asked: Event | None) -> Line:
    spent = spending.splits[split]
    events = [account.all() for account in spent.accounts]
    return Line(
        dataset=dataset,
        cohort=spending.cohort,
        state=state,
        split=split,
        spent=max(cost(account.released, cap.delta, epsilon) for account in spent.accounts),
        reserved=max(cost(paid, cap.delta, epsilon) for paid in events),
        if_all_collude=if_all_collude(events, cap.delta, epsilon),
        cap=cap.epsilon,
        delta=cap.delta,
        left=None if asked is None else min(rounds_left(paid, asked, cap) for paid in events),
        inherited=spent.inherited,
    )


def _cells(line: Line) -> dict[str, str]:
    alone = line.if_all_collude
    return {
        "data set": line.dataset,
        "cohort": line.cohort[:12],
        "state": line.state,
        "split": line.split,
        "spent": f"{line.spent:.3f}",
        "reserved": f"{line.reserved:.3f}",
        _ALONE: "-" if alone is None else f"{alone:.3f}",
        "cap": f"{line.cap:g}",
        "left": "-" if line.left is None else str(line.left),
        "inherits from": " ".join(digest[:12] for digest in line.inherited) or "-",
    }
