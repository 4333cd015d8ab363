"""``consilium-site self-test``: is privacy kept on this machine, under this plan? All checks, before anybody joins.

Promises
- The mechanism is tested with the plan's network on this machine's device, the audit with canaries is never left out,
  and the ledger is tried in a folder of its own that is gone afterwards. No image is read; the site's ledger is not
  touched.
- At a site, what was found goes into the audit log as counts.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from client.commands import ledger_checks
from client.commands.clock import Clock
from client.commands.ledger_checks import MADE_UP, LedgerTrial, one_round_till
from client.data.cohort import files
from client.data.progress import Progress
from client.governance.audit import Event
from client.governance.spending import CohortPatients
from client.site_folder import SiteFolder
from client.terminal import listing
from client.training import self_test as mechanism_checks
from client.training.self_test import Check
from client.workbench import Workbench
from shared.errors import ModelError, PlanError
from shared.plan import Plan

if TYPE_CHECKING:
    from rich.console import RenderableType

_WITHOUT_SITE = "self-test"
_TOTAL = len(mechanism_checks.CHECKS) + len(("untouched", "canary")) + len(ledger_checks.CHECKS)


@dataclass(frozen=True, slots=True)
class Order:
    """What is tested.

    Attributes:
        plan: whose promise is tested.
        weights_folder: where the plan's pretrained weights lie.
        site: whose audit log says so; None where there is no site yet.
        dataset: whose cohort pays in the ledger on trial; None takes a made-up one.
    """

    plan: Plan
    weights_folder: Path
    site: SiteFolder | None = None
    dataset: str | None = None


@dataclass(frozen=True, slots=True)
class Bars:
    """Progress of all checks, and of the canaries that one of them needs."""

    checks: Progress
    canaries: Progress


def self_test(order: Order, bars: Bars, now: Clock) -> tuple[Check, ...]:
    """Do all checks, and note at the site how they went.

    Raises:
        PlanError: the plan promises no privacy ("no-privacy"), or cannot be kept.
        ConsiliumError: the network cannot be set up here, or there is no such data set.
    """
    if order.plan.privacy.unit == "none":
        raise PlanError(
            'the plan says privacy.unit = "none": it promises nothing that could be tested',
            hint='test a plan with privacy.unit = "patient"',
            code="no-privacy",
        )
    found = []
    bars.checks(0, _TOTAL)
    for check in _checks(order, bars.canaries, now):
        found.append(check)
        bars.checks(len(found), _TOTAL)
    if order.site is not None:
        counts = {"checks": len(found), "failed": sum(not one.passed for one in found)}
        event = Event("self-test", order.dataset or "", counts, {"plan": order.plan.digest()})
        order.site.audit.append(event, now())
    return tuple(found)


def require_passed(checks: Sequence[Check]) -> None:
    """Raise ``ModelError`` ("self-test") where one of ``checks`` failed."""
    failed = [one.name for one in checks if not one.passed]
    if failed:
        raise ModelError(
            f"{len(failed)} of {len(checks)} checks failed: {', '.join(failed)}",
            hint="do not train under this plan on this machine, and report what was found; a right mechanism fails "
            "the canary once in 1000 tests",
            code="self-test",
        )


def shown(checks: Sequence[Check]) -> Iterator[RenderableType]:
    """A table."""
    rows = [(one.name, "passed" if one.passed else "FAILED", one.said) for one in checks]
    yield listing(("check", "verdict", "found"), rows)


def document(checks: Sequence[Check]) -> list[dict[str, object]]:
    """The same for programs."""
    return [asdict(one) for one in checks]


def _checks(order: Order, canaries: Progress, now: Clock) -> Iterator[Check]:
    name, cohort = _name(order), _cohort(order)
    bench = Workbench.for_plan(order.plan, order.weights_folder)
    weights = bench.initial_weights()
    yield from bench.checks(progress=canaries)
    with tempfile.TemporaryDirectory() as folder:
        till = one_round_till(order.plan, name, cohort, Path(folder), now)
        yield from ledger_checks.run(LedgerTrial(name, bench, cohort, till, weights))


def _name(order: Order) -> str:
    """The site's name; on a machine without one, a name that the plan's public numbers know."""
    if order.site is not None:
        return order.site.settings.site.name
    said = order.plan.privacy.public_patients
    return min(said) if isinstance(said, Mapping) and said else _WITHOUT_SITE


def _cohort(order: Order) -> CohortPatients:
    if order.site is None or order.dataset is None:
        return MADE_UP
    folder = order.site.dataset(order.dataset)
    folder.require_begun()
    return CohortPatients.of(files.load(folder.cohorts, order.site.signing_key().verify_key))
