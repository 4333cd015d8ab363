"""A scenario from images to report.

Promises
- The run folder says everything: the plan as it was run, the journal, checkpoints, rounds, results, report.
- Whatever can be refused is refused before anything is written: an impossible network, missing images, a folder that
  holds something else. Starting anew removes what a run writes and nothing else.
- Interrupted at any point and started again on the same folder, a run goes on after the last completed round and ends
  with the same bytes. On other images than those of its first round it does not go on.
- What a simulation may do and a real federation may not (predictions by case, pictures) happens here and only here.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import tomli_w

from client.data.prepared.site_data import unusable
from client.training.inference import predictions
from server import results as contract
from server.coordinator import Coordinator
from server.intake import Measurement
from server.journal import Journal
from server.report.document import PDF, write_pdf
from server.report.page import REPORT, write_report
from server.results import (
    Prediction,
    Results,
    RoundRecord,
    Timing,
    write_details,
    write_predictions,
    write_results,
)
from server.round_values import Event, Kind, Phase, State
from server.run_setup import Outcome, Setup, Watch
from server.run_state import CHECKPOINTS, SERVER_STATE, ModelFiles
from shared.durable import SHARED, replace_file
from shared.errors import ScenarioError
from shared.messages import Vector
from shared.plan import Plan
from shared.plan_errors import suggest
from simulations.analyses import Analysed, Wanted, analyse
from simulations.coalitions import Budget
from simulations.cohorts import Frozen, forget, freeze_cohorts, prepare_stores, remarks
from simulations.engine import LocalFleet
from simulations.examples import phantom_examples
from simulations.federation import HOSPITALS, PLANTED, find_hospitals, require_source
from simulations.masks import identities
from simulations.progress import Advance, Stages
from simulations.protection import NoiseKind, require_terms, spent
from simulations.scenario import Phantoms, Scenario
from simulations.workers import OWN, SITES_DATA, Pool, Sites, SiteSpec, default_workers

JOURNAL = "journal.sqlite"
DOCTOR_PAGE = "doctor.html"
_FOLDERS = (CHECKPOINTS, SERVER_STATE, HOSPITALS, PLANTED, SITES_DATA, OWN)
_FILES = (contract.PLAN, contract.RESULTS, contract.DETAILS, contract.ROUNDS, contract.PREDICTIONS, REPORT, PDF)
_PACKAGES = ("consilium", "flwr", "torch", "monai", "numpy")


def in_process(setup: Setup, watch: Watch, pool: Pool, specs: tuple[SiteSpec, ...]) -> Outcome:
    """Run the rounds in this process and its workers."""
    return Coordinator(setup, LocalFleet(pool, specs), watch).run()


def on_ray(setup: Setup, watch: Watch, pool: Pool, specs: tuple[SiteSpec, ...]) -> Outcome:
    """Run the rounds on Flower's own simulation engine."""
    from simulations.ray_engine import run_on_ray  # noqa: PLC0415 - needs the optional extra

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
        cross_site: also measure each site's own model at every site, and test the sites' data with them.
        contribution: also find out what each site contributes, at this budget.
        save_predictions: also write predictions.csv.
        noise: what protects patients under a private plan.
        command: what the user typed, for the report.
    """

    out: Path
    data: Path | None = None
    workers: int | None = None
    engine: str = "inprocess"
    existing: str = "refuse"
    baselines: bool = False
    cross_site: bool = False
    contribution: Budget | None = None
    save_predictions: bool = False
    noise: NoiseKind = "secure"
    command: str = ""


def run(scenario: Scenario, order: Order, stages: Stages, clock: Callable[[], float] = time.time) -> Path:
    """Run ``scenario`` and return the run folder; raises ``ConsiliumError``."""
    began = time.perf_counter()
    if order.engine not in ENGINES:
        raise ScenarioError(f"there is no engine {order.engine!r}", hint=suggest(order.engine, ENGINES))
    if order.engine == "ray" and scenario.plan.secure_aggregation.enabled:
        raise ScenarioError(
            "sites of the engine ray keep nothing between two questions, and secure aggregation needs that",
            hint="leave --engine out",
        )
    require_source(scenario, order.data)
    sites = Sites(scenario.plan, order.out, noise=order.noise)
    initial = sites.workbench.initial_weights()
    _require_folder(order)
    order.out.mkdir(parents=True, exist_ok=True)
    with Journal.open_or_create(order.out / JOURNAL, scenario.plan, clock) as journal:
        _lay_out(scenario.plan, order.out)
        with Pool(sites, order.workers or default_workers(sites.workbench.device)) as pool:
            if journal.last_completed() is None:
                # Nothing was trained on these cohorts yet: a hospital may still be repaired.
                forget(order.out)
            hospitals = find_hospitals(scenario, order.data, order.out, pool, stages)
            require_terms(scenario.plan, [hospital.name for hospital in hospitals])
            cohorts = freeze_cohorts(hospitals, order.out, pool, stages, _page(scenario))
            specs = prepare_stores(cohorts, order.out, pool, stages)
            for remark in remarks(sites, specs):
                stages.tell(remark)
            running = _Running(scenario, order, pool, specs, cohorts, stages, initial)
            started = time.perf_counter()
            outcome = _federate(running, journal)
            federated_s = time.perf_counter() - started
            _report(running, outcome, began, _overhead(outcome, federated_s, pool.workers))
    return order.out


def _overhead(outcome: Outcome, federated_s: float, workers: int) -> float | None:
    """Time for all rounds over time spent training; None where sites trained side by side."""
    return federated_s / outcome.training_s if workers == 1 and outcome.training_s else None


def _page(scenario: Scenario) -> str | None:
    return DOCTOR_PAGE if scenario.setting.doctor_pages else None


@dataclass(frozen=True)
class _Running:
    """What the steps of a run share; ``initial`` holds the weights before the first round."""

    scenario: Scenario
    order: Order
    pool: Pool
    specs: tuple[SiteSpec, ...]
    cohorts: Mapping[str, Frozen]
    stages: Stages
    initial: Vector


def _require_folder(order: Order) -> None:
    """Accept an empty folder, or the run in it if it is to go on or to make room."""
    folder = order.out
    if not folder.exists() or not any(folder.iterdir()):
        return
    if order.existing == "refuse":
        raise ScenarioError(f"{folder} is not empty", hint="choose another --out, or say --resume or --overwrite")
    if not any(folder.glob(f"{JOURNAL}*")):
        raise ScenarioError(f"{folder} holds no run (no {JOURNAL})", hint="choose another --out")
    if order.existing == "overwrite":
        _clear(folder)


def _clear(folder: Path) -> None:
    """Remove what runs write; whatever else somebody keeps there stays."""
    for name in _FOLDERS:
        shutil.rmtree(folder / name, ignore_errors=True)
    for path in (*map(folder.joinpath, _FILES), *folder.glob(f"{JOURNAL}*")):
        path.unlink(missing_ok=True)


def _lay_out(plan: Plan, folder: Path) -> None:
    for name in (CHECKPOINTS, SERVER_STATE):
        (folder / name).mkdir(exist_ok=True)
    document = plan.model_dump(mode="json", exclude_none=True)
    replace_file(folder / contract.PLAN, tomli_w.dumps(document).encode(), SHARED)


def _federate(running: _Running, journal: Journal) -> Outcome:
    order, bench, plan = running.order, running.pool.sites.workbench, running.scenario.plan
    files = ModelFiles(order.out, bench.parameters, plan.digest())
    setup = Setup(plan, bench.task, files, journal, running.initial, identities(running.specs))
    done = journal.last_completed()
    rounds = plan.plan.rounds - (done.round if done else 0)
    with running.stages.stage("federated training", rounds * len(running.specs)) as advance:
        try:
            return ENGINES[order.engine](setup, _watch(advance, bench.task.headline), running.pool, running.specs)
        finally:
            for site, sentence in _troubles(journal).items():
                running.stages.tell(f"{site} sits out: {sentence}")


def _troubles(journal: Journal) -> dict[str, str]:
    """The last word of each site that was a refusal, or an answer that did not count."""
    last = {entry.row.site: entry.row for entry in journal.events()}
    return {site: row.sentence for site, row in sorted(last.items()) if row.kind == Kind.FAILED.value}


def _watch(advance: Advance, headline: str) -> Watch:
    """Move the bar with every trained site; show round, loss and headline metric."""

    def on_event(state: State, event: Event) -> None:
        if state.phase is Phase.TRAINING and event.kind in {Kind.ANSWERED, Kind.FAILED}:
            advance()

    def on_round(record: RoundRecord) -> None:
        loss = f" loss {record.loss:.3f}" if record.loss is not None else ""
        loss = loss if record.participation.participants else " skipped"
        found = (record.metrics or {}).get("pooled", {}).get(headline, {}).get("value")
        measured = f" {headline} {found:.3f}" if found is not None else ""
        advance(f"round {record.participation.round}{loss}{measured}", 0)

    return Watch(on_event, on_round)


def _report(running: _Running, outcome: Outcome, began: float, overhead: float | None) -> None:
    order, pool = running.order, running.pool
    refused = {name for name, _ in outcome.refused}
    taking_part = tuple(spec for spec in running.specs if spec.name not in refused)
    wanted = Wanted(order.baselines, order.cross_site, order.contribution)
    compared = analyse(wanted, pool, taking_part, (running.initial, outcome.weights), running.stages)
    if order.save_predictions:
        write_predictions(order.out / contract.PREDICTIONS, _predictions(outcome.weights, pool, taking_part))
    timing = Timing(time.perf_counter() - began, outcome.training_s, overhead)
    results = _results(running, outcome, compared, timing)
    write_details(order.out, results)
    write_results(order.out, results)
    setting = running.scenario.setting
    synthetic = isinstance(setting.source, Phantoms) and setting.overlays == "synthetic"
    pictures = phantom_examples(pool.sites, taking_part, outcome.weights) if synthetic else ()
    with running.stages.stage("writing the report", 2) as advance:
        write_report(order.out, pictures)
        advance(REPORT)
        write_pdf(order.out, pictures)
        advance(PDF)


def _predictions(weights: Vector, pool: Pool, specs: tuple[SiteSpec, ...]) -> Iterator[Prediction]:
    jobs = {spec.name: (spec, weights) for spec in specs}
    for _, rows in pool.each(_predict, jobs):
        yield from rows


def _predict(sites: Sites, spec: SiteSpec, weights: Vector) -> list[Prediction]:
    site, bench = sites.site(spec), sites.workbench
    bench.load(weights)
    found = predictions(site.scored("test"), bench.task)
    return [Prediction(spec.name, case.patient, case.case_id, values, dict(case.subgroups)) for case, values in found]


def _results(running: _Running, outcome: Outcome, compared: Analysed, timing: Timing) -> Results:
    plan, sites, specs = running.scenario.plan, running.pool.sites, running.specs
    records = contract.read_rounds(running.order.out / contract.ROUNDS)
    return Results(
        run=plan.digest()[:12],
        plan_digest=plan.digest(),
        seed=plan.plan.seed,
        versions={name: version(name) for name in _PACKAGES},
        headline=sites.workbench.task.headline,
        final=outcome.test.final(sites.workbench.task, _thresholds(records)) if outcome.test else {},
        timing=timing,
        lower_is_better=tuple(sorted(sites.workbench.task.lower_is_better)),
        checkpoint=outcome.checkpoint,
        command=running.order.command,
        personalised=_block(outcome.personalised, sites) if outcome.personalised else None,
        baselines={**outcome.crossed.block(sites.workbench.task), **compared.baselines},
        checks=compared.checks,
        differences=(*compared.differences, *outcome.differences(sites.workbench.task)),
        privacy={spec.name: spent(spec.name, spec.data, sites.cohort(spec), plan, sites.noise) for spec in specs},
        participation=tuple(record.participation for record in records),
        data={spec.name: _site_data(sites, spec, running.cohorts[spec.name]) for spec in specs},
    )


def _thresholds(records: Sequence[RoundRecord]) -> Mapping[str, float | None] | None:
    """Of the plan's operating point, as the last validation patients gave them."""
    return (records[-1].metrics or {}).get("thresholds") if records else None


def _block(measured: Measurement | None, sites: Sites) -> Mapping[str, object]:
    return measured.block(sites.workbench.task) if measured else {}


def _site_data(sites: Sites, spec: SiteSpec, frozen: Frozen) -> contract.SiteData:
    """What a site could use, and what its doctor noted; known also for a site that was refused."""
    store = sites.store(spec)
    return contract.SiteData(
        patients=len({entry.patient for entry in store.entries}),
        cases=len(store),
        quarantined=unusable(store, sites.cohort(spec)),
        cohort=frozen.digest,
        doctor=frozen.doctor,
    )
