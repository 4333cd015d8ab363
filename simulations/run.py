"""A scenario from images to report.

Promises
- The run folder says everything: the plan as it was run, the journal, checkpoints, rounds, results, report. A folder
  that holds a finished or another run is not touched unless asked to.
- Interrupted at any point and started again on the same folder, a run goes on after the last completed round and ends
  with the same bytes.
- What a simulation may do and a real federation may not (predictions by case, pictures) happens here and only here.
"""

from __future__ import annotations

import shutil
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import tomli_w

from client.training.device import choose
from client.training.inference import predictions
from client.workbench import Workbench
from server import results as contract
from server.coordinator import Coordinator, Outcome, Setup, Watch
from server.intake import Measurement
from server.journal import Journal
from server.report.page import write_report
from server.results import Prediction, Results, RoundRecord, Timing, write_predictions, write_results
from server.rounds import Event, Kind, Phase, State
from server.run_state import ModelFiles
from shared.errors import ScenarioError
from shared.messages import Vector
from shared.plan_errors import suggest
from simulations import baselines
from simulations.engine import LocalFleet
from simulations.examples import phantom_examples
from simulations.federation import find_hospitals, prepare_stores
from simulations.progress import Advance, Stages
from simulations.scenario import Phantoms, Scenario
from simulations.workers import Pool, Sites, SiteSpec, default_workers

JOURNAL = "journal.sqlite"
_PACKAGES = ("consilium", "flwr", "torch", "monai", "numpy")


def in_process(setup: Setup, watch: Watch, pool: Pool, specs: tuple[SiteSpec, ...]) -> Outcome:
    """Run the rounds in this process and its workers."""
    return Coordinator(setup, LocalFleet(pool, specs), watch).run()


def on_ray(setup: Setup, watch: Watch, pool: Pool, specs: tuple[SiteSpec, ...]) -> Outcome:
    """Run the rounds on Flower's own simulation engine."""
    from simulations.ray_engine import run_on_ray

    return run_on_ray(setup, watch, pool.sites, specs)


ENGINES = {"inprocess": in_process, "ray": on_ray}


@dataclass(frozen=True)
class Order:
    """How a scenario is to be run.

    Attributes:
        data: folder with real images, for scenarios that need one.
        out: the run folder.
        workers: processes to spread sites over; None for one per core.
        engine: a key of ``ENGINES``.
        existing: what to do with a folder that is not empty: refuse, go on with its run, or start anew.
        baselines: also train each site alone and all data pooled.
        save_predictions: also write predictions.csv.
        command: what the user typed, for the report.
    """

    out: Path
    data: Path | None = None
    workers: int | None = None
    engine: str = "inprocess"
    existing: str = "refuse"
    baselines: bool = False
    save_predictions: bool = False
    command: str = ""


def run(scenario: Scenario, order: Order, stages: Stages, clock: Callable[[], float] = time.time) -> Path:
    """Run ``scenario`` and return the run folder; raises ``ConsiliumError``."""
    began = time.perf_counter()
    if order.engine not in ENGINES:
        raise ScenarioError(f"there is no engine {order.engine!r}", hint=suggest(order.engine, ENGINES))
    _make_folder(scenario, order)
    sites = Sites(scenario.plan, order.out)
    device = choose(scenario.plan.training.device)
    with Pool(sites, order.workers or default_workers(device)) as pool:
        hospitals = find_hospitals(scenario, order.data, order.out, pool, stages)
        specs = prepare_stores(hospitals, order.out, pool, stages)
        with Journal.open_or_create(order.out / JOURNAL, scenario.plan, clock) as journal:
            outcome = _federate(order, journal, pool, specs, stages)
        _report(scenario, order, outcome, pool, specs, stages, began)
    return order.out


def _make_folder(scenario: Scenario, order: Order) -> None:
    """Lay out the run folder, or refuse one that holds something else."""
    folder = order.out
    if folder.exists() and any(folder.iterdir()):
        if order.existing == "refuse":
            raise ScenarioError(f"{folder} is not empty", hint="choose another --out, or say --resume or --overwrite")
        if order.existing == "overwrite":
            _clear(folder)
    for name in ("checkpoints", "server-state"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    plan = scenario.plan.model_dump(mode="json", exclude_none=True)
    contract.replace_file(folder / contract.PLAN, tomli_w.dumps(plan).encode())


def _clear(folder: Path) -> None:
    """Empty a run folder; anything that does not look like one is left alone."""
    if not (folder / contract.PLAN).exists():
        raise ScenarioError(f"{folder} is not a run folder (no {contract.PLAN})", hint="choose another --out")
    shutil.rmtree(folder)


def _federate(order: Order, journal: Journal, pool: Pool, specs: tuple[SiteSpec, ...], stages: Stages) -> Outcome:
    plan = pool.sites.plan
    bench = Workbench.for_plan(plan, pool.sites.weights_folder)
    files = ModelFiles(order.out, bench.parameters, plan.digest())
    setup = Setup(plan, bench.task, files, journal, bench.initial_weights())
    done = journal.last_completed()
    rounds = plan.plan.rounds - (done.round if done else 0)
    with stages.stage("federated training", max(1, rounds * len(specs))) as advance:
        return ENGINES[order.engine](setup, _watch(advance, bench.task.headline), pool, specs)


def _watch(advance: Advance, headline: str) -> Watch:
    """Move the bar with every trained site; show round, loss and headline metric."""
    note = ""

    def on_event(state: State, event: Event) -> None:
        if state.phase is Phase.TRAINING and event.kind in {Kind.ANSWERED, Kind.FAILED}:
            advance(note)

    def on_round(record: RoundRecord) -> None:
        nonlocal note
        loss = f" loss {record.loss:.3f}" if record.loss is not None else " skipped"
        found = (record.metrics or {}).get("pooled", {}).get(headline, {}).get("value")
        measured = f" {headline} {found:.3f}" if found is not None else ""
        note = f"round {record.participation.round}{loss}{measured}"

    return Watch(on_event, on_round)


def _report(  # noqa: PLR0913 - everything that a report is about
    scenario: Scenario,
    order: Order,
    outcome: Outcome,
    pool: Pool,
    specs: tuple[SiteSpec, ...],
    stages: Stages,
    began: float,
) -> None:
    refused = {name for name, _ in outcome.refused}
    taking_part = tuple(spec for spec in specs if spec.name not in refused)
    compared = _baselines(outcome, pool, taking_part, stages) if order.baselines else {}
    if order.save_predictions:
        write_predictions(order.out / contract.PREDICTIONS, _predictions(outcome.weights, pool, taking_part))
    total = time.perf_counter() - began
    write_results(order.out, _results(scenario, order, outcome, pool.sites, specs, compared, total))
    synthetic = isinstance(scenario.setting.source, Phantoms) and scenario.setting.overlays == "synthetic"
    write_report(order.out, phantom_examples(pool.sites, taking_part, outcome.weights) if synthetic else ())


def _baselines(outcome: Outcome, pool: Pool, specs: tuple[SiteSpec, ...], stages: Stages) -> Mapping[str, object]:
    bench = pool.sites.workbench
    initial = Workbench.for_plan(pool.sites.plan, pool.sites.weights_folder).initial_weights()
    found = baselines.run_baselines(pool, specs, initial, stages)
    federation = dict(pool.each(baselines.measure, {spec.name: (spec, outcome.weights) for spec in specs}))
    return baselines.baseline_block(found, federation, bench.task)


def _predictions(weights: Vector, pool: Pool, specs: tuple[SiteSpec, ...]) -> Iterator[Prediction]:
    jobs = {spec.name: (spec, weights) for spec in specs}
    for _, rows in pool.each(_predict, jobs):
        yield from rows


def _predict(sites: Sites, spec: SiteSpec, weights: Vector) -> list[Prediction]:
    bench, cases = sites.workbench, sites.site(spec).data.test
    bench.load(weights)
    found = predictions(bench.model, cases, bench.task, sites.plan, bench.device)
    return [Prediction(spec.name, case.patient, case.case_id, values, dict(case.subgroups)) for case, values in found]


def _results(  # noqa: PLR0913 - everything that results.json says
    scenario: Scenario,
    order: Order,
    outcome: Outcome,
    sites: Sites,
    specs: tuple[SiteSpec, ...],
    compared: Mapping[str, object],
    total_s: float,
) -> Results:
    plan, task = scenario.plan, sites.workbench.task
    records = contract.read_rounds(order.out / contract.ROUNDS)
    return Results(
        run=plan.digest()[:12],
        plan_digest=plan.digest(),
        seed=plan.plan.seed,
        versions={name: version(name) for name in _PACKAGES},
        headline=task.headline,
        final=_block(outcome.test, sites),
        timing=Timing(total_s, outcome.training_s),
        lower_is_better=tuple(sorted(task.lower_is_better)),
        checkpoint=outcome.checkpoint,
        command=order.command,
        personalised=_block(outcome.personalised, sites) if outcome.personalised else None,
        baselines=compared,
        privacy={spec.name: {"unit": plan.privacy.unit} for spec in specs},
        participation=tuple(record.participation for record in records),
        data={spec.name: _site_data(sites, spec) for spec in specs},
    )


def _block(measured: Measurement | None, sites: Sites) -> Mapping[str, object]:
    return measured.block(sites.workbench.task) if measured else {}


def _site_data(sites: Sites, spec: SiteSpec) -> contract.SiteData:
    """What a site could use, from its store; known also for a site that was refused."""
    store = sites.store(spec)
    reasons = Counter(one.code for one in store.quarantined)
    return contract.SiteData(len({entry.patient for entry in store.entries}), len(store), dict(reasons))
