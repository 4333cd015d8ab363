"""The coordinator: carries out what the table of rounds says, against any fleet.

Promises
- Durable before effect: the checkpoint is on disk before the journal's line, and the journal's line before the next
  request is sent. A run that was killed goes on from the last completed round and ends with the same bytes.
- Updates are added as they arrive and forgotten; memory does not grow with the number of sites.
- A reply that does not count is journalled with its code, and the round goes on with the rest.

Transitions are ``server.rounds``', checks ``server.intake``'s, deadlines and transport the fleet's.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace

from server import rounds
from server.aggregation.methods import METHODS
from server.fleet import Fleet
from server.intake import Admission, Intake, Measurement, Measurements, Updates, judge
from server.journal import Journal
from server.results import Participation, RoundRecord, append_round, keep_rounds
from server.rounds import Closed, Event, Kind, Phase, State
from server.run_state import ModelFiles
from shared import fingerprint
from shared.errors import RunError
from shared.messages import Envelope, Evaluate, Hello, Personalise, Request, Train, Vector
from shared.plan import Plan
from shared.tasks.task import Task

ROUNDS = "rounds.jsonl"


@dataclass(frozen=True)
class Watch:
    """Who looks on: called with the state before each event, and after each finished round."""

    event: Callable[[State, Event], None] = lambda _state, _event: None
    round: Callable[[RoundRecord], None] = lambda _record: None


@dataclass(frozen=True)
class Setup:
    """What a run is made of.

    Attributes:
        plan: what to do.
        task: the plan's task.
        files: where models are kept, and their schema.
        journal: of this run; says where to go on.
        initial: flat weights of the first round.
    """

    plan: Plan
    task: Task
    files: ModelFiles
    journal: Journal
    initial: Vector


@dataclass
class Outcome:
    """What a finished run leaves behind.

    Attributes:
        weights: the final global model, and ``checkpoint`` its digest.
        test: of the final global model on test patients.
        personalised: of each site's own model on its own test patients.
        participation: who took part in each round.
        refused: (site, code) of sites that were not admitted.
        training_s: seconds that sites spent training, added up.
    """

    weights: Vector
    checkpoint: str
    test: Measurement | None = None
    personalised: Measurement | None = None
    refused: tuple[tuple[str, str], ...] = ()
    training_s: float = 0.0


class Coordinator:
    """One run of one plan over one fleet."""

    def __init__(self, setup: Setup, fleet: Fleet, watch: Watch | None = None) -> None:
        self._setup, self._fleet, self._watch = setup, fleet, watch or Watch()
        self._weights: dict[str, int] = {}
        self._round: RoundRecord | None = None
        self._began = 0.0
        done = setup.journal.last_completed()
        checkpoint = done.checkpoint if done else setup.files.save(setup.initial, 0)
        self._models = setup.journal.checkpoints()
        self._server = setup.files.load_server(setup.files.load(checkpoint), done.server_state if done else "")
        keep_rounds(setup.files.folder / ROUNDS, done.round if done else 0)
        self._outcome = Outcome(self._server.weights, checkpoint)
        self._state = rounds.start(
            rounds.shape_of(setup.plan), frozenset(fleet.names()), completed=done.round if done else 0
        )

    def run(self) -> Outcome:
        """Go through all phases; raises ``RunError`` when the run cannot go on."""
        while self._state.phase not in rounds.FINAL:
            if self._state.phase in rounds.WAITING:
                self._wait()
            else:
                self._advance(Event(Kind.AGGREGATED))
        if self._state.phase is Phase.ABORTED:
            raise RunError(
                self._state.reason,
                hint="see journal.sqlite for the reasons; then resume the run, or lower participation.quorum",
            )
        return self._outcome

    def _wait(self) -> None:
        """Ask everybody, count what comes until the deadline, then leave the phase."""
        state, intake = self._state, self._intake(self._state.phase)
        if state.phase is Phase.TRAINING:
            self._began = time.perf_counter()
        requests = {site: self._request(state) for site in sorted(state.asked)}
        for site, reply in self._fleet.ask(requests, self._setup.plan.participation.deadline_s):
            code, sentence = judge(intake, site, reply)
            event = Event(Kind.FAILED, site, code) if code else Event(Kind.ANSWERED, site)
            self._setup.journal.record(state.round, state.phase.value, event.kind.value, site, code, sentence)
            self._watch.event(self._state, event)
            self._state = rounds.advance(self._state, event)
        if self._state.closed is state.closed:
            self._state = rounds.advance(self._state, Event(Kind.DEADLINE))
        closed = self._state.closed
        assert closed is not None  # noqa: S101 - every way out of a waiting phase sets it
        self._close(closed, intake)

    def _advance(self, event: Event) -> None:
        self._state = rounds.advance(self._state, event)
        self._end_round_if_over()

    def _request(self, state: State) -> Request:
        plan = self._setup.plan
        envelope = Envelope(self._setup.journal.run, plan.digest(), state.round)
        match state.phase:
            case Phase.ADMITTING:
                return Hello(envelope)
            case Phase.TRAINING:
                return Train(envelope, self._server.weights)
            case Phase.MEASURING:
                return Evaluate(envelope, self._server.weights, "validation")
            case Phase.TESTING:
                return Evaluate(envelope, self._final(), "test")
            case _:
                return Personalise(envelope, self._final(), "test")

    def _intake(self, phase: Phase) -> Intake:
        setup = self._setup
        schema = setup.files.schema
        if phase is Phase.ADMITTING:
            return Admission(fingerprint.collect(schema.digest(), setup.task.schema.digest()))
        if phase is Phase.TRAINING:
            return Updates(schema.digest(), schema.length, setup.plan.aggregation.fixed_point, self._weights)
        return Measurements(setup.task.schema, setup.plan.evaluation.release)

    def _close(self, closed: Closed, intake: Intake) -> None:
        """Keep what a phase that has just ended brought."""
        match intake:
            case Admission():
                self._weights = intake.weights
                self._outcome.refused = closed.missing
            case Updates():
                self._aggregate(closed, intake)
            case Measurements():
                self._keep(closed, intake.result())
        self._end_round_if_over()

    def _aggregate(self, closed: Closed, updates: Updates) -> None:
        """Make the next global model of the sum; below quorum keep the last one."""
        plan, files = self._setup.plan, self._setup.files
        self._outcome.training_s += updates.training_s
        loss, checkpoint = None, self._outcome.checkpoint
        if self._state.phase is Phase.AGGREGATING:
            total = updates.total()
            change = total.mean(plan.aggregation.fixed_point)
            self._server, _ = METHODS[plan.aggregation.method](self._server, change, plan.aggregation)
            loss = total.mean_loss()
            checkpoint = files.save(self._server.weights, closed.round)
            self._models.append(checkpoint)
        self._outcome.checkpoint = checkpoint
        participation = Participation(closed.round, tuple(sorted(closed.answered)), dict(closed.missing))
        self._round = RoundRecord(participation, loss, checkpoint)

    def _keep(self, closed: Closed, measured: Measurement) -> None:
        if closed.phase is Phase.TESTING:
            self._outcome.test = measured
        elif closed.phase is Phase.PERSONALISING:
            self._outcome.personalised = measured
        elif self._round is not None:
            self._round = replace(self._round, metrics=measured.block(self._setup.task))

    def _end_round_if_over(self) -> None:
        record = self._round
        if record is None or self._state.phase in {Phase.AGGREGATING, Phase.MEASURING, Phase.ABORTED}:
            return
        self._round = None
        record = replace(record, seconds=time.perf_counter() - self._began)
        append_round(self._setup.files.folder / ROUNDS, record)
        server_state = self._setup.files.save_server(self._server)
        self._setup.journal.complete_round(record.participation.round, record.checkpoint, server_state)
        self._watch.round(record)

    def _final(self) -> Vector:
        """The last global model, or the mean of the last few; written once as the run's result."""
        files, last = self._setup.files, self._models[-self._setup.plan.aggregation.average_last :]
        self._outcome.weights = files.mean(last) if last else self._server.weights
        self._outcome.checkpoint = files.save(self._outcome.weights, self._setup.plan.plan.rounds)
        return self._outcome.weights
