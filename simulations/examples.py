"""Pictures for the report: what the final model draws on generated images.

Promises
- Only synthetic cases are ever turned into pictures; the caller makes sure that the scenario's source is one.
- One picture per site: the test case in the middle of the site's own ranking by Dice, neither the best nor the worst.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from client.training.inference import scores
from server.report.examples import PhantomExample
from shared.messages import Vector
from simulations.workers import Sites, SiteSpec

_MOST = 4


def phantom_examples(sites: Sites, specs: Sequence[SiteSpec], weights: Vector) -> list[PhantomExample]:
    """Up to four median cases of 2-D segmentation; an empty list for other tasks."""
    bench = sites.workbench
    if bench.task.output != "dense" or sites.plan.dimensions != 2:
        return []
    bench.load(weights)
    found = (_median_case(sites, spec) for spec in specs[:_MOST])
    return [example for example in found if example is not None]


def _median_case(sites: Sites, spec: SiteSpec) -> PhantomExample | None:
    bench = sites.workbench
    cases = [case for case in sites.site(spec).data.test if case.mask is not None and case.mask.any()]
    scored = list(scores(bench.model, cases, bench.task, sites.plan, bench.device))
    ranked = sorted(scored, key=lambda pair: (float(bench.task.describe(pair[1], pair[0])["dice"]), pair[0].case_id))
    if not ranked:
        return None
    case, found = ranked[len(ranked) // 2]
    assert case.mask is not None  # noqa: S101 - chosen for having one
    dice = float(bench.task.describe(found, case)["dice"])
    return PhantomExample(f"{spec.name}, Dice {dice:.2f}", case.voxels[0], case.mask, np.argmax(found, axis=0))
