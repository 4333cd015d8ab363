"""The coordinator: carries out what the table of rounds says, against any fleet.

Promises
- Durable before effect: the checkpoint is on disk before the journal's line, and the journal's line before the next
  request is sent. A run that was killed goes on from the last completed round and ends with the same bytes.
- Updates are added as they arrive and forgotten; memory does not grow with the number of sites.
- A reply that does not count is journalled with its code, and the round goes on with the rest.
- Under secure aggregation what is known of a question is the sum of its answers, and nothing of a single site.

Transitions are ``server.rounds``', checks ``server.intake``'s, deadlines and transport the fleet's.
"""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Collection
from dataclasses import replace

import numpy as np

from server import measured, rounds
from server.aggregation.exact import Total
from server.aggregation.methods import METHODS
from server.crossing import Models
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
from server.results import Participation, RoundRecord, append_round, keep_rounds
from server.round_values import (
    SUMMING,
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
)
from server.run_setup import Outcome, Setup, Watch
from server.secure.masked_sum import ABOUT, Expected, MaskedSum, training_total
from server.secure.round import Summed
from shared.admission import fingerprint_of
from shared.errors import ConsiliumError, RunError
from shared.evaluation.explanations import Measuring
from shared.fixed_point import peak
from shared.messages import Cross, Envelope, Evaluate, Hello, Personalise, Reply, Request, Share, Train
from shared.secure.question import definition, noised_run
from shared.secure.ring import bits_for

ROUNDS = "rounds.jsonl"
_MEASURED: dict[Phase, Measuring] = {Phase.MEASURING: "validation", Phase.TESTING: "final"}


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
        self._masked: MaskedSum | None = None
        self._lost: dict[str, str] = {}
        self._began = 0.0
        self._outcome = Outcome(self._server.weights, checkpoint)
        self._outcome.first, self._outcome.last = (
            self._measured_before(completed, name) for name in (measured.FIRST, measured.LAST)
        )
        self._state = rounds.start(
            rounds.shape_of(setup.plan, len(setup.identities)), frozenset(fleet.names()), completed
        )
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
                    pending.extend(self._step(Event(self._aggregate(action.round))))
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
        if ask.question.phase is Phase.TESTING:
            self._finalise()
        question, intake = ask.question, self._intake(ask.question)
        greeting = self._admission() if ask.greet else None
        if question.phase is Phase.TRAINING:
            self._began = time.perf_counter()
        requests = dict.fromkeys(ask.greet, self._hello()) | self._requests(question, ask.sites)
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
        said, sums = self._setup.plan.participation, self._setup.plan.secure_aggregation
        if phase in SUMMING:
            return min(said.deadline_s, sums.step_s)
        return said.admission_s or said.deadline_s if phase is Phase.ADMITTING else said.deadline_s

    def _hello(self) -> Hello:
        setup = self._setup
        return Hello(Envelope(setup.journal.run, setup.plan.digest(), self._state.round), setup.roster)

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

    def _requests(self, question: Question, sites: tuple[str, ...]) -> dict[str, Request]:
        envelope = Envelope(self._setup.journal.run, self._setup.plan.digest(), question.round)
        if self._masked is None or question.phase not in SUMMING:
            return dict.fromkeys(sites, self._request(question, envelope))
        try:
            return self._masked.requests(question.phase, envelope, sites)
        except ConsiliumError as error:
            self._journal(Kind.LOST.value, "", error.code, error.sentence)
            return {}

    def _request(self, question: Question, envelope: Envelope) -> Request:
        match question.phase:
            case Phase.ADMITTING:
                return self._hello()
            case Phase.TRAINING:
                return Train(envelope, self._server.weights)
            case Phase.MEASURING:
                return Evaluate(envelope, self._server.weights, "validation")
            case Phase.TESTING:
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

    def _intake(self, question: Question) -> Intake:
        setup, phase = self._setup, question.phase
        if setup.plan.secure_aggregation.enabled and phase in ABOUT:
            self._masked, self._lost = MaskedSum.begin(setup.journal.run, question, self._expected(phase), setup), {}
        if self._masked is not None and phase in SUMMING | ABOUT.keys():
            return self._masked.intake(phase)
        schema = setup.files.schema
        if phase is Phase.ADMITTING:
            return self._admission()
        if phase is Phase.TRAINING:
            return Updates(schema.digest(), schema.length, setup.plan.aggregation.fixed_point, self._weights)
        if phase is Phase.SHARING:
            return Models(setup.files)
        return self._measurements(phase)

    def _admission(self) -> Admission:
        plan = self._setup.plan
        return Admission(fingerprint_of(plan, self._setup.task), plan.aggregation)

    def _expected(self, phase: Phase) -> Expected:
        """What the answers to a question are, where they are to be added up under masks."""
        setup, final = self._setup, phase in {Phase.TESTING, Phase.PERSONALISING}
        model = self._outcome.weights if final else self._server.weights
        run = noised_run(setup.plan, ABOUT[phase], setup.journal.run)
        if phase is Phase.TRAINING:
            schema = setup.files.schema
            grid, defined = setup.plan.aggregation.fixed_point, definition(schema.digest(), model, run)
            return Expected(defined, schema.length, grid, self._weights)
        digest, length = self._measurements(phase).definition
        return Expected(definition(digest, model, run), length)

    def _measurements(self, phase: Phase) -> Measurements | NoisedMeasurements:
        return measurements(self._setup.task, self._setup.plan, _MEASURED.get(phase, "test"))

    def _keep(self, closed: Closed, intake: Intake) -> None:
        """Keep what a phase that has just ended brought."""
        match intake:
            case Admission():
                self._weights, self._outcome.refused = intake.weights, closed.missing
                self._require_room()
            case Updates():
                self._keep_updates(closed.round, closed.answered, dict(closed.missing), intake.total())
                self._outcome.training_s += intake.training_s
            case Measurements() | NoisedMeasurements():
                self._keep_measurement(closed.phase, closed, intake.result())
            case Models():
                self._outcome.crossed.shared(intake, self._state.admitted, dict(closed.missing))
            case _:
                self._keep_masked(closed)

    def _require_room(self) -> None:
        """Refuse before anybody trains what could not be added up under masks; raises ``PlanError`` ("ring")."""
        plan = self._setup.plan
        if plan.secure_aggregation.enabled and self._weights:
            bits_for(peak(plan.aggregation.fixed_point), sum(self._weights.values()))

    def _keep_updates(self, number: int, sites: Collection[str], missing: dict[str, str], total: Total) -> None:
        participation = Participation(number, tuple(sorted(sites)), dict(self._outcome.refused) | missing)
        self._draft = RoundRecord(participation, None, self._draft.checkpoint)
        self._sum = total

    def _keep_measurement(self, phase: Phase, closed: Closed, found: Measurement) -> None:
        match phase:
            case Phase.MEASURING:
                self._keep_measured(closed.round, found)
            case Phase.TESTING:
                self._outcome.test = found
                measured.keep(self._setup.files.folder, measured.TEST, closed.round, found)
            case Phase.CROSSING:
                self._outcome.crossed.row(closed.model, found, dict(closed.missing))
            case _:
                self._outcome.personalised = found

    def _keep_masked(self, closed: Closed) -> None:
        """Keep the sum of a question once the last phase about it has ended; one that cannot be had leaves nothing."""
        self._lost |= dict(closed.missing)
        if self._state.phase in SUMMING:
            return
        assert self._masked is not None  # noqa: S101 - its intake has just ended
        about = closed.about or closed.phase
        summed = self._summed(self._masked) if self._state.unmasked(closed) else None
        sites = frozenset(summed.sites if summed else ())
        if about is Phase.TRAINING:
            total, seconds = training_total(summed)
            missing = {site: code for site, code in self._lost.items() if site not in sites}
            self._keep_updates(closed.round, sites, missing, total)
            self._outcome.training_s += seconds
        elif summed is not None:
            self._keep_measurement(about, closed, self._measurements(about).of_sum(summed.counts, len(sites)))

    def _summed(self, masked: MaskedSum) -> Summed | None:
        try:
            return masked.summed()
        except ConsiliumError as error:
            self._journal(Kind.LOST.value, "", error.code, error.sentence)
            return None

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

    def _aggregate(self, round_number: int) -> Kind:
        """Make the next global model of the sum, if there is one."""
        settings = self._setup.plan.aggregation
        if self._sum.weight == 0:
            return Kind.LOST
        change = self._sum.mean(settings.fixed_point)
        self._server, weights = METHODS[settings.method](self._server, change, settings)
        checkpoint = self._setup.files.save(weights, round_number)
        loss = self._sum.mean_loss()
        self._draft = replace(self._draft, loss=loss if math.isfinite(loss) else None, checkpoint=checkpoint)
        return Kind.AGGREGATED

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
