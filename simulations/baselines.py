"""What a federation must be compared with: each site alone, and all data in one room.

Promises
- A single site trains for rounds x steps: as many optimizer steps as it makes in the federation, in one go.
- Pooled training makes rounds x steps x sites steps of the same batch size: it sees as many images as the federation.
- Both use the federation's own training code, initial weights, schedule (stretched) and test patients. Every model is
  measured on every site's test patients, so that "elsewhere" and "at home" can be told apart.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate, chain

from client.data.prepared.site_data import SiteData
from client.training import local
from client.training.batches import TrainingData
from client.training.inference import statistics
from shared.arrays import read_vector
from shared.errors import SiteDataError
from shared.evaluation.additive import Statistics
from shared.evaluation.summary import final_block, summarise
from shared.messages import Vector
from shared.preprocessing.image import Case
from shared.seeds import generator
from shared.tasks.task import Task
from simulations.progress import Stages
from simulations.workers import Pool, Sites, SiteSpec

CENTRAL = "all data pooled"


@dataclass(frozen=True)
class Baselines:
    """Test statistics by site of each baseline model.

    Attributes:
        local: training site -> test site -> statistics.
        central: test site -> statistics.
        models: training site -> weights of its own model.
    """

    local: Mapping[str, Mapping[str, Statistics]]
    central: Mapping[str, Statistics]
    models: Mapping[str, Vector] = field(default_factory=dict)


@dataclass(frozen=True)
class Arm:
    """A baseline's model, and its statistics by test site."""

    weights: Vector
    statistics: Mapping[str, Statistics]


def run_baselines(pool: Pool, specs: tuple[SiteSpec, ...], initial: Vector, stages: Stages) -> Baselines:
    """Train and measure all baselines over the sites of ``specs``, side by side; the longest starts first."""
    plan = pool.sites.plan
    alone = plan.plan.rounds * plan.training.steps
    arms = {CENTRAL: (specs, alone * len(specs)), **{spec.name: ((spec,), alone) for spec in specs}}
    jobs = {name: (name, own, specs, initial, steps) for name, (own, steps) in arms.items()}
    measured: dict[str, Arm] = {}
    with stages.stage("baselines: alone and pooled", len(jobs)) as advance:
        for name, found in pool.each(train_and_measure, jobs):
            measured[name] = found
            advance(name)
    alone_at = {spec.name: measured[spec.name] for spec in specs}
    return Baselines(
        {site: arm.statistics for site, arm in alone_at.items()},
        measured[CENTRAL].statistics,
        {site: arm.weights for site, arm in alone_at.items()},
    )


def train_and_measure(
    sites: Sites, name: str, own: Sequence[SiteSpec], everywhere: Sequence[SiteSpec], initial: Vector, steps: int
) -> Arm:
    """Train on the patients of ``own`` and measure on the test patients of ``everywhere``, site by site."""
    bench, plan = sites.workbench, sites.plan
    data = pooled([sites.site(spec).data for spec in own])
    rng = generator(plan.plan.seed, "baseline", name)
    assignment = local.long_assignment(plan, steps)
    local.train(bench.load(initial), data, bench.task, plan, assignment, rng=rng, device=bench.device)
    trained = read_vector(bench.model)
    return Arm(trained, {spec.name: measure(sites, spec, trained) for spec in everywhere})


def measure(sites: Sites, spec: SiteSpec, weights: Vector) -> Statistics:
    """Statistics of a model on one site's test patients: a simulation may know them whatever the plan releases."""
    bench = sites.workbench
    return statistics(bench.load(weights), sites.site(spec).data.test, bench.task, sites.plan, bench.device)


def pooled(parts: Sequence[SiteData]) -> TrainingData:
    """The training patients of several sites as if they were one; raises ``SiteDataError`` when there are none."""
    if not parts:
        raise SiteDataError("there is no site to pool", hint="check why all sites were refused")
    cases: list[Case] = list(chain.from_iterable(part.train for part in parts))
    starts = [0, *accumulate(len(part.train) for part in parts)]
    patients = tuple(
        tuple(start + position for position in patient)
        for start, part in zip(starts, parts, strict=False)
        for patient in part.train_patients
    )
    return TrainingData(cases, patients)


def baseline_block(found: Baselines, federation: Mapping[str, Statistics], task: Task) -> dict[str, object]:
    """As results.json holds it, with the federation's model beside the others wherever they are compared.

    ``local`` and ``central`` are measured on all test patients, ``at_home`` on a site's own, ``elsewhere`` on others'.
    """

    def block(parts: Mapping[str, Statistics]) -> object:
        return final_block(summarise(task, sum(parts.values(), Statistics.zero(task.schema))))["pooled"]

    def compared(wanted: Callable[[str, str], bool]) -> dict[str, object]:
        """For each site, its own and the federation's model on the test patients of wanted(site, other) sites."""
        return {
            site: {
                name: block({other: part for other, part in parts.items() if wanted(site, other)})
                for name, parts in (("local", own), ("federation", federation))
            }
            for site, own in found.local.items()
        }

    return {
        "central": block(found.central),
        "local": {site: block(parts) for site, parts in found.local.items()},
        "at_home": compared(lambda site, other: site == other),
        "elsewhere": compared(lambda site, other: site != other),
    }
