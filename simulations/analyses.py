"""What a simulation may find out beyond its run: baselines, every model at every site, what each site contributes.

Promises
- Each analysis is made where it was asked for, from the run's own sites and initial weights, and its results stand in
  ``baselines``, ``checks`` and ``differences`` of results.json. The federation's own result is not touched.
- Differences are paired: every model is measured on the test patients of all sites, whatever the plan releases.
- The cross-site matrix needs each site's own model, so asking for it makes the baselines too.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from server.differences import CENTRAL, FEDERATION, INITIAL, LOCAL_MEAN, Entry, Pair, entry
from shared.evaluation.additive import Statistics
from shared.messages import Vector
from shared.tasks.task import Task
from simulations import baselines
from simulations.coalitions import Budget, contribution_block, contributions, shortened
from simulations.cross_site import checks_block, cross_site, cross_site_block
from simulations.progress import Stages
from simulations.workers import Pool, SiteSpec


@dataclass(frozen=True)
class Wanted:
    """Which analyses to make.

    Attributes:
        baselines: each site alone and all data pooled.
        cross_site: each site's own model at every site, and the tests of the sites' data.
        contribution: what each site contributes, at this budget; None does not ask.
    """

    baselines: bool = False
    cross_site: bool = False
    contribution: Budget | None = None


@dataclass(frozen=True)
class Analysed:
    """What came out, each part under its name in results.json."""

    baselines: Mapping[str, object] = field(default_factory=dict)
    checks: Mapping[str, object] = field(default_factory=dict)
    differences: tuple[Entry, ...] = ()


def analyse(
    wanted: Wanted, pool: Pool, specs: tuple[SiteSpec, ...], models: tuple[Vector, Vector], stages: Stages
) -> Analysed:
    """Make the analyses that are ``wanted``; ``models`` are the initial and the final one of the federation."""
    made = _compared(wanted, pool, specs, models, stages) if wanted.baselines or wanted.cross_site else Analysed()
    if wanted.contribution is None:
        return made
    short = replace(pool.sites, plan=shortened(pool.sites.plan, wanted.contribution.rounds))
    with Pool(short, pool.workers) as small:
        found = contributions(small, specs, models[0], wanted.contribution, stages)
    return replace(made, baselines={**made.baselines, **contribution_block(found, pool.sites.workbench.task)})


def differences(
    task: Task, found: baselines.Baselines, federation: Statistics, initial: Statistics
) -> tuple[Entry, ...]:
    """The federation minus what it was before, minus pooled training, and minus the mean of sites alone."""
    zero = Statistics.zero(task.schema)
    others = {
        INITIAL: [initial],
        CENTRAL: [sum(found.central.values(), zero)],
        LOCAL_MEAN: [sum(parts.values(), zero) for parts in found.local.values()],
    }
    return tuple(entry(task, Pair(name, FEDERATION), models, federation) for name, models in others.items())


def _compared(
    wanted: Wanted, pool: Pool, specs: tuple[SiteSpec, ...], models: tuple[Vector, Vector], stages: Stages
) -> Analysed:
    task = pool.sites.workbench.task
    found = baselines.run_baselines(pool, specs, models[0], stages)
    before, federation = (
        dict(pool.each(baselines.measure, {spec.name: (spec, weights) for spec in specs})) for weights in models
    )
    zero = Statistics.zero(task.schema)
    totals = [sum(parts.values(), zero) for parts in (federation, before)]
    made = Analysed(baselines.baseline_block(found, federation, task), differences=differences(task, found, *totals))
    if not wanted.cross_site:
        return made
    crossed = cross_site(pool, specs, found.models, stages)
    for finding in crossed.findings:
        stages.tell(f"warning: {finding.sentence}")
    return replace(made, baselines={**made.baselines, **cross_site_block(crossed, task)}, checks=checks_block(crossed))
