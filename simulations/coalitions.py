"""A coalition of sites as a small federation: trained, measured on all test patients, worth its headline metric.

Promises
- A coalition is trained by the coordinator and the sites of any run, from the run's initial weights, for ``rounds``
  rounds. Nobody at all is worth what the initial weights are worth.
- Every coalition is measured on the same patients: the test patients of all sites of the run. So worths can be
  compared, and each value has a standard error over patients besides that over random orders.
- Whether coalitions train side by side changes nothing.

Under a private plan coalitions are trained without protection: values would cost budget for every coalition, and a
simulation may look. Values say what a site's data are worth to this plan at this budget of rounds, and to no other.
"""

from __future__ import annotations

import tempfile
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy.special import stdtrit

from server.coordinator import Coordinator
from server.journal import Journal
from server.run_setup import Setup
from server.run_state import CHECKPOINTS, SERVER_STATE, ModelFiles
from shared.evaluation.additive import CASES, Statistics
from shared.evaluation.intervals import replicates
from shared.evaluation.summary import final_block, summarise
from shared.messages import Vector
from shared.plan import Plan, from_document
from shared.seeds import generator
from shared.tasks.task import Task
from simulations.baselines import measure
from simulations.contribution import (
    EXACT_UP_TO,
    Coalition,
    FloatArray,
    Known,
    Shapley,
    exact_shapley,
    jackknife_se,
    leave_one_out,
    truncated_shapley,
)
from simulations.engine import LocalFleet
from simulations.progress import Advance, Stages
from simulations.workers import Pool, Sites, SiteSpec

ROUNDS = 5
TOLERANCE = 0.01
"""Of the headline metric: less is what two seeds of one federation differ by."""
_WEEK_S = 7 * 24 * 3600.0
_QUANTILE = 0.975


@dataclass(frozen=True)
class Budget:
    """How much contributions may cost.

    Attributes:
        permutations: random orders of the sites; with up to ``EXACT_UP_TO`` sites none are drawn.
        rounds: that a coalition is trained for; the plan's where it has fewer.
    """

    permutations: int = 20
    rounds: int = ROUNDS


@dataclass(frozen=True, eq=False)
class Contributions:
    """What came out.

    Attributes:
        shapley: values by site.
        left_out: worth of all sites minus worth of all but one, rows as in ``shapley``.
        measured: coalition -> site of the patients -> statistics.
        rounds: that each coalition was trained for.
    """

    shapley: Shapley
    left_out: FloatArray
    measured: Mapping[Coalition, Mapping[str, Statistics]]
    rounds: int


def shortened(plan: Plan, rounds: int) -> Plan:
    """The plan with at most ``rounds`` rounds, for any number of sites, without protection, masks or deadline."""
    said = plan.model_dump(mode="json", exclude_none=True)
    fewer = min(rounds, plan.plan.rounds)
    said["plan"]["rounds"] = fewer
    said["training"]["warmup_rounds"] = min(plan.training.warmup_rounds, max(0, fewer - 1))
    said["aggregation"]["average_last"] = min(plan.aggregation.average_last, fewer)
    said["privacy"], said["secure_aggregation"] = {"unit": "none"}, {"enabled": False}
    said["participation"] = {"quorum": 1, "deadline_s": _WEEK_S}
    said["evaluation"] = said["evaluation"] | {"every": fewer, "release": "sum", "cross_site": False}
    said.pop("personalisation", None)
    return from_document(said)


def contributions(
    pool: Pool, specs: tuple[SiteSpec, ...], initial: Vector, budget: Budget, stages: Stages
) -> Contributions:
    """Shapley values and leave-one-out of ``specs``; ``pool`` is of the plan as ``shortened``."""
    names, plan = tuple(spec.name for spec in specs), pool.sites.plan
    exact = len(names) <= EXACT_UP_TO
    most = 2 ** len(names) if exact else budget.permutations * len(names)
    with stages.stage("contributions: coalitions", most) as advance:
        game = _Federations(pool, specs, initial, advance, {})
        known = Known(game.worths)
        if exact:
            shapley = exact_shapley(names, known)
        else:
            rng = generator(plan.plan.seed, "contribution")
            shapley = truncated_shapley(names, known, budget.permutations, TOLERANCE, rng)
        left_out = leave_one_out(names, known)
    return Contributions(shapley, left_out, game.measured, plan.plan.rounds)


@dataclass(frozen=True)
class _Federations:
    pool: Pool
    specs: tuple[SiteSpec, ...]
    initial: Vector
    advance: Advance
    measured: dict[Coalition, Mapping[str, Statistics]]

    def worths(self, coalitions: Collection[Coalition]) -> dict[Coalition, FloatArray]:
        """Train and measure ``coalitions``, side by side."""
        by_key = {" + ".join(sorted(one)): one for one in coalitions}
        jobs = {
            key: (tuple(spec for spec in self.specs if spec.name in one), self.specs, self.initial)
            for key, one in by_key.items()
        }
        found: dict[Coalition, FloatArray] = {}
        for key, statistics in self.pool.each(train_coalition, jobs):
            self.measured[by_key[key]] = statistics
            found[by_key[key]] = worth(self.pool.sites.workbench.task, statistics)
            self.advance(key)
        return found


def train_coalition(
    sites: Sites, members: tuple[SiteSpec, ...], everywhere: tuple[SiteSpec, ...], initial: Vector
) -> dict[str, Statistics]:
    """Run a federation of ``members`` and measure its model at every site of ``everywhere``."""
    weights = federate(sites, members, initial) if members else initial
    return {spec.name: measure(sites, spec, weights) for spec in everywhere}


def federate(sites: Sites, members: tuple[SiteSpec, ...], initial: Vector) -> Vector:
    """The final model of a federation of ``members`` alone."""
    bench, plan = sites.workbench, sites.plan
    with tempfile.TemporaryDirectory(prefix="consilium-coalition-") as name:
        folder = Path(name)
        for part in (CHECKPOINTS, SERVER_STATE):
            (folder / part).mkdir()
        with Journal.open_or_create(folder / "journal.sqlite", plan, lambda: 0.0) as journal:
            files = ModelFiles(folder, bench.parameters, plan.digest())
            setup = Setup(plan, bench.task, files, journal, initial)
            return Coordinator(setup, LocalFleet(Pool(sites, 1), members)).run().weights


def worth(task: Task, measured: Mapping[str, Statistics]) -> FloatArray:
    """Headline metric over all sites' patients, then without each group of them; higher is better."""
    pooled = sum(measured.values(), Statistics.zero(task.schema))
    groups = np.flatnonzero(pooled.counts[CASES])
    found = replicates(pooled, task.metrics)[task.headline]
    sign = -1.0 if task.headline in task.lower_is_better else 1.0
    return sign * np.append(found.value, found.left_out[groups])


def contribution_block(found: Contributions, task: Task) -> dict[str, object]:
    """As ``baselines`` of results.json holds it: values with 95 % intervals, and models of all sites but one."""
    sites, everyone = found.shapley.sites, frozenset(found.shapley.sites)
    none, together = (worth(task, found.measured[one])[0] for one in (frozenset[str](), everyone))
    rows = zip(
        sites,
        _intervals(found.shapley.values, found.shapley.drawn_se),
        _intervals(found.left_out, np.zeros(len(sites))),
        strict=True,
    )
    return {
        "contribution": {
            "metric": task.headline,
            "method": "exact" if found.shapley.permutations is None else "truncated-monte-carlo",
            "permutations": found.shapley.permutations,
            "rounds": found.rounds,
            "coalitions": len(found.measured),
            "worth": {"none": float(none), "all": float(together)},
            "sites": {site: {"shapley": value, "leave_one_out": left} for site, value, left in rows},
        },
        "cross_site_without": {
            site: {
                other: final_block(summarise(task, cell))["pooled"]
                for other, cell in found.measured[everyone - {site}].items()
            }
            for site in sites
        },
    }


def _intervals(values: FloatArray, drawn_se: FloatArray) -> list[dict[str, float]]:
    """Value, standard errors over orders and over patients, and both together as an interval."""
    of_patients = jackknife_se(values)
    half = float(stdtrit(max(1, values.shape[1] - 2), _QUANTILE)) * np.hypot(drawn_se, of_patients)
    rows = zip(values[:, 0].tolist(), drawn_se.tolist(), of_patients.tolist(), half.tolist(), strict=True)
    return [
        {"value": value, "low": value - by, "high": value + by, "se_orders": drawn, "se_patients": patients}
        for value, drawn, patients, by in rows
    ]
