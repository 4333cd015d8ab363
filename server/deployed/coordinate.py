"""The process that coordinates one run of a real federation, from a signed order to a report.

Promises
- It runs what is in the run's folder and was signed; the site's names and keys come from the roster, the nodes from the
  link, and neither from whoever answers.
- Killed at any moment, it goes on where the journal stands when it is started again for the same run; finished, it
  writes nothing but the report anew.
- Why a run ended stands in its folder, whoever started it.

The sites' data are not described in the results: in a simulation they are, because they are at hand.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from server.coordinator import Coordinator
from server.deployed.board import Board
from server.deployed.live import LIVE, Live
from server.deployed.run_folder import JOURNAL, RunFolder, open_run
from server.federation_folder import LOG, FederationFolder
from server.fleet import Fleet
from server.journal import Journal
from server.post import Post, Signed
from server.report.document import write_pdf
from server.report.page import write_report
from server.results import ROUNDS, Results, RoundRecord, Timing, read_rounds, write_details, write_results
from server.run_setup import Outcome, Setup, Watch
from server.run_state import ModelFiles
from server.shared_noise import told
from shared import models, tasks
from shared.arrays import read_vector, schema_of
from shared.checkpoint import DISK_FULL
from shared.crypto.signing import VerifyKey
from shared.errors import ConsiliumError, RunError
from shared.logs import EVENTS, Log, Value
from shared.plan import Plan
from shared.privacy.accounting import epsilon
from shared.privacy.terms import terms_for
from shared.tasks.task import Task
from shared.trust.roster import Roster

Reach = Callable[[Mapping[str, int], Post], Fleet]
"""(node of each site, the run's post) -> the sites."""
Nodes = Callable[[], Mapping[str, int]]
"""The registered nodes by the name of their site."""

_PACKAGES = ("consilium", "flwr", "torch", "monai", "numpy")


@dataclass(frozen=True)
class Link:
    """How the sites are reached: which nodes there are, and a fleet of them."""

    nodes: Nodes
    reach: Reach


def coordinate(root: Path, run: str, link: Link, clock: Callable[[], float] = time.time) -> Path:
    """Carry the run on to its end and return its folder; raises ``ConsiliumError``, after writing down why."""
    federation = FederationFolder.open(root)
    found = open_run(federation, run)
    task = tasks.task_for(found.plan)
    board = Board(found.path / LIVE, clock, Live(found.run, found.plan.plan.name, found.plan.plan.rounds))
    board.say(headline=task.headline)
    note = _Notes(Log(root / LOG / EVENTS, "coordinator", lambda: datetime.fromtimestamp(clock(), UTC)), found.run)
    note.say("run-begun")
    try:
        _run(federation, found, link, board, note)
    except BaseException as error:
        note.say("run-failed", code=error.code if isinstance(error, ConsiliumError) else "unforeseen")
        sentence, hint = _why(error, found.run)
        with suppress(OSError):  # where nothing can be written, whoever follows the run sees that the disk is full
            board.say(state="failed", sentence=sentence, hint=hint)
        raise
    board.say(state="finished", phase="finished")
    note.say("run-finished")
    return found.path


@dataclass(frozen=True)
class _Notes:
    """Lines about one run in the federation's log; a full disk costs the line and stops nothing."""

    log: Log
    run: str

    def say(self, event: str, **fields: Value) -> None:
        with suppress(OSError):
            self.log.say(event, run=self.run, **fields)

    def looking_on(self, watch: Watch) -> Watch:
        """``watch``, with a line for each finished round."""

        def round_over(record: RoundRecord) -> None:
            watch.round(record)
            there = record.participation
            self.say("round-completed", round=there.round, count=len(there.participants))

        return replace(watch, round=round_over)


def _why(error: BaseException, run: str) -> tuple[str, str]:
    """Why a run ended, and what to do."""
    if isinstance(error, ConsiliumError):
        return error.sentence, error.hint
    if isinstance(error, OSError) and error.errno in DISK_FULL:
        return "the disk is full", "free some space, then resume the run"
    return f"the coordinator failed: {type(error).__name__}", f"consilium-server log {run[:12]} shows where"


def _run(federation: FederationFolder, found: RunFolder, link: Link, board: Board, note: _Notes) -> None:
    began = time.perf_counter()
    roster, signed = federation.roster(), federation.roster_file().decode("ascii")
    with Journal.open_or_create(found.path / JOURNAL, found.plan, board.clock, found.run) as journal:
        identities = _identities(roster)
        setup = replace(_setup(found, journal), identities=identities, roster=signed)
        post = Signed(found.order_file, found.key(), identities)
        fleet = link.reach(_nodes(roster, link.nodes()), post)
        outcome = Coordinator(setup, fleet, note.looking_on(board.watch())).run()
    board.say(phase="writing the report")
    results = _results(found, setup.task, outcome, time.perf_counter() - began)
    write_details(found.path, results)
    write_results(found.path, results)
    write_report(found.path)
    write_pdf(found.path)


def _setup(found: RunFolder, journal: Journal) -> Setup:
    plan = found.plan
    task = tasks.task_for(plan)
    model = models.build(plan, task.output_channels, task.output)
    if plan.model.pretrained is not None:
        models.load_pretrained(model, found.path / plan.model.pretrained.file, plan.model.pretrained.sha256)
    files = ModelFiles(found.path, schema_of(model), plan.digest())
    return Setup(plan, task, files, journal, read_vector(model))


def _identities(roster: Roster) -> dict[str, VerifyKey]:
    return {one.site: VerifyKey.from_hex(one.identity) for one in roster.sites if one.state == "active"}


def _nodes(roster: Roster, registered: Mapping[str, int]) -> dict[str, int]:
    """Node of each active site that has one; raises ``RunError`` where no site ever connected."""
    active = {one.site for one in roster.sites if one.state == "active"}
    found = {site: node for site, node in registered.items() if site in active}
    if not found:
        raise RunError(
            f"none of {len(active)} enrolled sites has ever connected",
            hint="each hospital starts its site with consilium-site start",
            code="nobody",
        )
    return found


def _results(found: RunFolder, task: Task, outcome: Outcome, total_s: float) -> Results:
    plan, records = found.plan, read_rounds(found.path / ROUNDS)
    thresholds = (records[-1].metrics or {}).get("thresholds") if records else None
    return Results(
        run=found.run,
        plan_digest=plan.digest(),
        seed=plan.plan.seed,
        versions={name: version(name) for name in _PACKAGES},
        headline=task.headline,
        final=outcome.test.final(task, thresholds) if outcome.test else {},
        timing=Timing(total_s, outcome.training_s),
        lower_is_better=tuple(sorted(task.lower_is_better)),
        checkpoint=outcome.checkpoint,
        personalised=outcome.personalised.block(task) if outcome.personalised else None,
        baselines=outcome.crossed.block(task),
        differences=tuple(outcome.differences(task)),
        privacy={site: _spent(plan, site, len(records)) for site in _took_part(records)},
        participation=tuple(record.participation for record in records),
    )


def _took_part(records: tuple[Any, ...]) -> tuple[str, ...]:
    sites = {site for record in records for site in (*record.participation.participants, *record.participation.missing)}
    return tuple(sorted(sites))


def _spent(plan: Plan, site: str, rounds: int) -> dict[str, Any]:
    """At most what patients of ``site`` have paid: a round that a site missed may have been paid for, too."""
    if plan.privacy.unit == "none":
        return {"unit": "none"}
    terms = terms_for(plan, site)
    events, delta = [terms.round_event()] * rounds, plan.privacy.delta
    assert delta is not None  # noqa: S101 - a plan with unit "patient" has one
    return {
        "unit": "patient",
        "epsilon": epsilon(events, delta),
        "delta": delta,
        "sigma": terms.noise_multiplier,
        "q": terms.sampling_rate,
        "steps": terms.steps_per_round * rounds,
        "clip_norm": terms.clip_norm,
        "denominator": terms.denominator,
        "covers": plan.privacy.covers,
        **told(terms, [events], delta),
    }
