"""The coordinator: carries out what the table of rounds says, against any fleet.

Promises
- Durable before effect: the checkpoint is on disk before the journal's line, and the journal's line before the next
  request is sent. A run that was killed goes on from the last completed round and ends with the same bytes.
- Updates are added as they arrive and forgotten; memory does not grow with the number of sites.
- A reply that does not count is journalled with its code, and the round goes on with the rest.

Transitions are ``server.rounds``', checks ``server.intake``'s, deadlines and transport the fleet's.
"""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import numpy as np

from server import measured, rounds
from server.aggregation.exact import Total
from server.aggregation.methods import METHODS
from server.crossing import Crossed, Models
from server.differences import FEDERATION, PERSONALISED, Entry, Pair, measured_entry
from server.fleet import Fleet
from server.intake import (
    Admission,
    Intake,
    Measurement,
    Measurements,
    NoisedMeasurements,
    Updates,
    judge,
    measurements,
)
from server.journal import Journal
from server.results import Participation, RoundRecord, append_round, keep_rounds
from server.rounds import (
    Abort,
    Action,
    Aggregate,
    Ask,
    Closed,
    Event,
    Finish,
    Ignore,
    Kind,
    Phase,
    Question,
    Record,
    State,
)
from server.run_state import ModelFiles
from shared.admission import fingerprint_of
from shared.errors import RunError
from shared.evaluation.explanations import Measuring
from shared.messages import Cross, Envelope, Evaluate, Hello, Personalise, Reply, Request, Share, Train, Vector
from shared.plan import Plan
from shared.tasks.task import Task

ROUNDS = "rounds.jsonl"
_MEASURED: dict[Phase, Measuring] = {Phase.MEASURING: "validation", Phase.TESTING: "final"}


@dataclass(frozen=True)
class Watch:
    """Who looks on: called with the state before each event, after each finished round, and when sites are asked."""

    event: Callable[[State, Event], None] = lambda _state, _event: None
    round: Callable[[RoundRecord], None] = lambda _record: None
    asked: Callable[[State], None] = lambda _state: None


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
        crossed: of each site's own model on everybody's, where the plan asks.
        participation: who took part in each round.
        refused: (site, code) of sites that were not admitted.
        training_s: seconds that sites spent training, added up.
        first, last: the first measured round and the last, each with its number, on validation patients; both are kept
            on disk (``server.measured``), so that a resumed run knows them.
    """

    weights: Vector
    checkpoint: str
    test: Measurement | None = None
    personalised: Measurement | None = None
    refused: tuple[tuple[str, str], ...] = ()
    training_s: float = 0.0
    first: tuple[int, Measurement] | None = None
    last: tuple[int, Measurement] | None = None
    crossed: Crossed = field(default_factory=Crossed)

    def differences(self, task: Task) -> list[Entry]:
        """What own-site steps and later rounds have changed, on the same patients."""
        found = []
        if self.personalised and self.test:
            found.append(measured_entry(task, Pair(FEDERATION, PERSONALISED), self.test, self.personalised))
        if self.first and self.last and self.first[0] < self.last[0]:
            pair = Pair(f"round-{self.first[0]}", f"round-{self.last[0]}", "validation")
            found.append(measured_entry(task, pair, self.first[1], self.last[1]))
        return found


class Coordinator:
    """One run of one plan over one fleet."""

    def __init__(self, setup: Setup, fleet: Fleet, watch: Watch | None = None) -> None:
        self._setup, self._fleet, self._watch = setup, fleet, watch or Watch()
        setup.files.sweep()
        done = setup.journal.last_completed()
        completed = done.round if done else 0
        checkpoint = done.checkpoint if done else setup.files.save(setup.initial, 0)
        self._server = setup.files.load_server(setup.files.load(checkpoint), done.server_state if done else "")
        self._models = setup.journal.checkpoints()
        self._weights: dict[str, int] = {}
        self._draft = RoundRecord(Participation(completed, ()), None, checkpoint)
        self._sum = Total(np.zeros(0, np.int64))
        self._began = 0.0
        self._outcome = Outcome(self._server.weights, checkpoint)
        self._outcome.first, self._outcome.last = (
            self._measured_before(completed, name) for name in (measured.FIRST, measured.LAST)
        )
        self._state = rounds.start(rounds.shape_of(setup.plan), frozenset(fleet.names()), completed)
        keep_rounds(setup.files.folder / ROUNDS, completed)

    def run(self) -> Outcome:
        """Carry out actions until there is none left; raises ``RunError`` when the run cannot go on."""
        pending = deque([rounds.on_entry(self._state)])
        while pending:
            action = pending.popleft()
            match action:
                case Ask():
                    pending.extend(self._ask(action))
                case Record():
                    self._complete()
                case Ignore():
                    self._journal("ignored", action.site, action.code)
                case Abort():
                    raise RunError(
                        action.reason,
                        hint="journal.sqlite says why sites are missing; resume the run, or lower participation.quorum",
                    )
                case Aggregate():
                    self._aggregate(action.round)
                    pending.extend(self._step(Event(Kind.AGGREGATED)))
                case Finish():
                    break
        return self._outcome

    def _step(self, event: Event) -> tuple[Action, ...]:
        self._watch.event(self._state, event)
        self._state, actions = rounds.step(self._state, event)
        return actions

    def _ask(self, ask: Ask) -> list[Action]:
        """Ask everybody, count what comes until the deadline, keep what it brought; returns what is to be done next."""
        self._watch.asked(self._state)
        question, intake = ask.question, self._intake(ask.question.phase)
        greeting = self._admission() if ask.greet else None
        if question.phase is Phase.TRAINING:
            self._began = time.perf_counter()
        requests = dict.fromkeys(ask.greet, self._hello()) | dict.fromkeys(ask.sites, self._request(question))
        actions: list[Action] = []
        for site, reply in self._fleet.ask(requests, self._deadline_s(question.phase)):
            counted = greeting if greeting is not None and site in ask.greet else intake
            actions += self._step(self._heard(question, counted, site, reply))
            if greeting is not None and self._state.question != question:
                break
        if self._state.question == question:
            actions += self._step(Event(Kind.DEADLINE, question=question))
        closed = self._state.closed
        assert closed is not None  # noqa: S101 - every way out of a waiting phase sets it
        self._keep(closed, intake)
        if greeting is not None:
            self._join(greeting)
        return actions

    def _join(self, greeting: Admission) -> None:
        """Sites that were late take part from now on."""
        self._weights |= greeting.weights
        self._outcome.refused = tuple(pair for pair in self._outcome.refused if pair[0] not in greeting.weights)

    def _deadline_s(self, phase: Phase) -> float:
        said = self._setup.plan.participation
        return said.admission_s or said.deadline_s if phase is Phase.ADMITTING else said.deadline_s

    def _hello(self) -> Hello:
        return Hello(Envelope(self._setup.journal.run, self._setup.plan.digest(), self._state.round))

    def _heard(self, question: Question, intake: Intake, site: str, reply: Reply) -> Event:
        """Let ``intake`` check and count a reply that is due; one that is not due is left to the table to ignore."""
        code = sentence = ""
        if self._state.question == question and site in self._state.asked | self._state.greeted:
            code, sentence = judge(intake, site, reply)
            if isinstance(intake, Models):
                intake.put_away()
            kind = Kind.FAILED if code else Kind.ANSWERED
            self._journal(kind.value, site, code, sentence)
        return Event(Kind.FAILED if code else Kind.ANSWERED, site, code, question)

    def _journal(self, kind: str, site: str, code: str = "", sentence: str = "") -> None:
        self._setup.journal.record(self._state.round, self._state.phase.value, kind, site, code, sentence)

    def _request(self, question: Question) -> Request:
        plan = self._setup.plan
        envelope = Envelope(self._setup.journal.run, plan.digest(), question.round)
        match question.phase:
            case Phase.ADMITTING:
                return self._hello()
            case Phase.TRAINING:
                return Train(envelope, self._server.weights)
            case Phase.MEASURING:
                return Evaluate(envelope, self._server.weights, "validation")
            case Phase.TESTING:
                self._finalise()
                return Evaluate(envelope, self._outcome.weights, "test")
            case _:
                return self._own_models_request(question, envelope)

    def _own_models_request(self, question: Question, envelope: Envelope) -> Request:
        if question.phase is Phase.PERSONALISING:
            return Personalise(envelope, self._outcome.weights, "test")
        if question.phase is Phase.SHARING:
            return Share(envelope)
        model = self._setup.files.load(self._outcome.crossed.models[question.model])
        return Cross(envelope, model, question.model)

    def _intake(self, phase: Phase) -> Intake:
        setup = self._setup
        schema = setup.files.schema
        if phase is Phase.ADMITTING:
            return self._admission()
        if phase is Phase.TRAINING:
            return Updates(schema.digest(), schema.length, setup.plan.aggregation.fixed_point, self._weights)
        if phase is Phase.SHARING:
            return Models(setup.files)
        return measurements(setup.task, setup.plan, _MEASURED.get(phase, "test"))

    def _admission(self) -> Admission:
        plan = self._setup.plan
        return Admission(fingerprint_of(plan, self._setup.task), plan.aggregation)

    def _keep(self, closed: Closed, intake: Intake) -> None:
        """Keep what a phase that has just ended brought."""
        match intake, closed.phase:
            case Admission(), _:
                self._weights, self._outcome.refused = intake.weights, closed.missing
            case Updates(), _:
                missing = dict(self._outcome.refused + closed.missing)
                participation = Participation(closed.round, tuple(sorted(closed.answered)), missing)
                self._draft = RoundRecord(participation, None, self._draft.checkpoint)
                self._outcome.training_s += intake.training_s
                self._sum = intake.total()
            case ((Measurements() | NoisedMeasurements()), Phase.MEASURING):
                self._keep_measured(closed.round, intake.result())
            case ((Measurements() | NoisedMeasurements()), Phase.TESTING):
                self._outcome.test = intake.result()
                measured.keep(self._setup.files.folder, measured.TEST, closed.round, self._outcome.test)
            case ((Measurements() | NoisedMeasurements()), Phase.CROSSING):
                self._outcome.crossed.row(closed.model, intake.result(), dict(closed.missing))
            case ((Measurements() | NoisedMeasurements()), _):
                self._outcome.personalised = intake.result()
            case Models(), _:
                self._outcome.crossed.shared(intake, self._state.admitted, dict(closed.missing))

    def _keep_measured(self, round_number: int, found: Measurement) -> None:
        setup = self._setup
        self._draft = replace(self._draft, metrics=found.while_training(setup.task, setup.plan))
        self._outcome.last = (round_number, found)
        measured.keep(setup.files.folder, measured.LAST, round_number, found)
        if self._outcome.first is None:
            self._outcome.first = self._outcome.last
            measured.keep(setup.files.folder, measured.FIRST, round_number, found)

    def _measured_before(self, completed: int, name: str) -> tuple[int, Measurement] | None:
        """What was kept of a measured round; a round that was not completed is measured again."""
        try:
            found = measured.kept(self._setup.files.folder, name, self._setup.task.schema)
        except RunError:  # damaged, or of an older version: a comparison less, and no reason to lose the run
            return None
        return found if found and found[0] <= completed else None

    def _aggregate(self, round_number: int) -> None:
        """Make the next global model of the sum."""
        settings = self._setup.plan.aggregation
        change = self._sum.mean(settings.fixed_point)
        self._server, weights = METHODS[settings.method](self._server, change, settings)
        checkpoint = self._setup.files.save(weights, round_number)
        loss = self._sum.mean_loss()
        self._draft = replace(self._draft, loss=loss if math.isfinite(loss) else None, checkpoint=checkpoint)

    def _complete(self) -> None:
        """Make the finished round durable: rounds.jsonl first, since the journal's line is what counts."""
        record = replace(self._draft, seconds=time.perf_counter() - self._began)
        self._models.append(record.checkpoint)
        append_round(self._setup.files.folder / ROUNDS, record)
        server_state = self._setup.files.save_server(self._server)
        self._setup.journal.complete_round(record.participation.round, record.checkpoint, server_state)
        self._watch.round(record)

    def _finalise(self) -> None:
        """The result of the run: the last global model, or the mean of the last few."""
        files, last = self._setup.files, self._models[-self._setup.plan.aggregation.average_last :]
        self._outcome.weights = files.mean(last)
        self._outcome.checkpoint = files.save(self._outcome.weights, self._setup.plan.plan.rounds)
