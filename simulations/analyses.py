"""What a simulation may find out beyond its run: baselines, every model at every site, what each site contributes.

Promises
- Each analysis is made where it was asked for, from the run's own sites and initial weights, and its results stand in
  ``baselines`` of results.json beside the others. The federation's own result is not touched.
- The cross-site matrix needs each site's own model, so asking for it makes the baselines too.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from shared.messages import Vector
from simulations import baselines
from simulations.coalitions import Budget, contribution_block, contributions, shortened
from simulations.cross_site import cross_site, cross_site_block
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


def analyse(
    wanted: Wanted, pool: Pool, specs: tuple[SiteSpec, ...], models: tuple[Vector, Vector], stages: Stages
) -> Mapping[str, object]:
    """Make the analyses that are ``wanted``; ``models`` are the initial and the final one of the federation."""
    initial, final = models
    task, said = pool.sites.workbench.task, dict[str, object]()
    if wanted.baselines or wanted.cross_site:
        found = baselines.run_baselines(pool, specs, initial, stages)
        federation = dict(pool.each(baselines.measure, {spec.name: (spec, final) for spec in specs}))
        said |= baselines.baseline_block(found, federation, task)
        if wanted.cross_site:
            crossed = cross_site(pool, specs, found.models, stages)
            for finding in crossed.findings:
                stages.tell(f"warning: {finding.sentence}")
            said |= cross_site_block(crossed, task)
    if wanted.contribution is not None:
        short = replace(pool.sites, plan=shortened(pool.sites.plan, wanted.contribution.rounds))
        with Pool(short, pool.workers) as small:
            said |= contribution_block(contributions(small, specs, initial, wanted.contribution, stages), task)
    return said
