"""A run as a table: (phase, event) -> what happens. Pure: no clock, no network, no weights.

Promises
- ``step`` is a function of a state and an event; it returns the next state and what is to be done, as values.
- Every phase that waits for sites answers a deadline, so no run waits for ever; final phases have no way out.
- A site counts once a phase, and only while it is asked: late, repeated and unbidden answers change nothing and are
  reported as ``Ignore``, with the reason.
- Nothing is aggregated below the plan's quorum; what happens then (abort, or skip the round) is the plan's choice.
- Under secure aggregation four phases follow a question before its answers are a sum. Each asks those who answered the
  one before; with fewer than the threshold, or of updates than the quorum, the question counts as answered by nobody,
  and nothing is unmasked. A model that was measured is not measured again.
- A site that failed in one round is asked again in the next. One that could not be reached when sites were admitted, or
  whose people had not approved yet (``PASSING``), is greeted again with each round, and takes part from the round after
  its answer; nobody waits for it. One that was refused stays out.
- Who answered the last phase, who did not, and the code of the reason stay in ``State.closed``.

A run ends after a bounded number of events that count: a phase hears each site once and then ends, by itself or by
its deadline; there are at most three phases a round, and beside the rounds four and one for each model that is shared.
Under secure aggregation there are four more for each question that is a sum.

Carrying out actions (asking, summing, writing) is left to ``server.coordinator``, durability to ``server.journal``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Literal

from server.round_values import (
    NO_ANSWER,
    PASSING,
    SUMMING,
    WAITING,
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
    Record,
    Shape,
    State,
)
from shared.plan import Plan
from shared.secure.threshold import needed

_TOLD = 5
Transition = Callable[[State, Event], State]


@dataclass(frozen=True, slots=True)
class Line:
    """A line of the table: what an event does in a phase, where that can lead, and the same in words."""

    apply: Transition
    leads_to: frozenset[Phase]
    words: str


def shape_of(plan: Plan, enrolled: int = 0) -> Shape:
    """The course that a plan prescribes where ``enrolled`` sites may take part in a sum."""
    return Shape(
        rounds=plan.plan.rounds,
        quorum=plan.participation.quorum,
        every=plan.evaluation.every,
        below_quorum=plan.participation.below_quorum,
        personalise="never" if plan.personalisation is None else "after-last-round",
        share="after-personalising" if plan.evaluation.cross_site else "never",
        secure=plan.secure_aggregation,
        enrolled=enrolled,
    )


def start(shape: Shape, sites: frozenset[str], completed: int = 0) -> State:
    """A run that asks ``sites`` whether they take part, and goes on after ``completed`` rounds."""
    return State(shape, Phase.ADMITTING, completed, completed, frozenset(), sites)


def step(state: State, event: Event) -> tuple[State, tuple[Action, ...]]:
    """The state after ``event``, and what is to be done, in order."""
    after = advance(state, event)
    if after == state:
        return state, (Ignore(event.site, _why_ignored(state, event)),) if event.site else ()
    if after.question == state.question:
        return after, ()
    recorded = (Record(state.round, _outcome(after, state.round)),) if _ends_round(state, after) else ()
    return after, (*recorded, on_entry(after))


def advance(state: State, event: Event) -> State:
    """The state after ``event``; the same state where the table has no line for it or the event does not count."""
    if event.question not in {None, state.question}:
        return state
    line = TABLE.get((state.phase, event.kind))
    after = state if line is None else line.apply(state, event)
    everybody_in = after.phase is state.phase and after.phase in WAITING and not after.asked
    return advance(after, Event(Kind.COMPLETE)) if everybody_in and event.kind is not Kind.COMPLETE else after


def on_entry(state: State) -> Action:
    """What entering a phase asks the coordinator to do: how a run begins, and how each phase follows another."""
    match state.phase:
        case Phase.AGGREGATING:
            return Aggregate(state.round, tuple(sorted(state.answered)))
        case Phase.FINISHED:
            return Finish()
        case Phase.ABORTED:
            return Abort(state.reason)
        case _:
            return Ask(state.question, tuple(sorted(state.asked)), tuple(sorted(state.greeted)))


def _why_ignored(state: State, event: Event) -> str:
    heard = state.answered | state.late | {site for site, _ in state.missing}
    if event.site not in state.admitted | state.asked | heard:
        return "not-asked"
    return "repeated" if event.question in {None, state.question} and state.phase in WAITING else "late"


def _ends_round(state: State, after: State) -> bool:
    within = {Phase.TRAINING, Phase.AGGREGATING, Phase.MEASURING} | SUMMING
    return state.phase in within and after.phase in {Phase.TRAINING, Phase.TESTING}


def _outcome(after: State, round_number: int) -> Literal["aggregated", "skipped"]:
    return "aggregated" if after.aggregated == round_number else "skipped"


def _count(state: State, event: Event) -> State:
    if event.site in state.greeted:
        return replace(_unheard(state, event), late=state.late - {event.site}, admitted=state.admitted | {event.site})
    if event.site not in state.asked:
        return state
    return replace(state, asked=state.asked - {event.site}, answered=state.answered | {event.site})


def _unheard(state: State, event: Event) -> State:
    return replace(state, greeted=state.greeted - {event.site})


def _miss(state: State, event: Event) -> State:
    if event.site in state.greeted:
        late = state.late if event.code in PASSING else state.late - {event.site}
        return replace(_unheard(state, event), late=late)
    if event.site not in state.asked:
        return state
    return replace(state, asked=state.asked - {event.site}, missing=(*state.missing, (event.site, event.code)))


def _give_up_on_the_rest(close: Callable[[State], State]) -> Transition:
    """Close a phase with the sites that have not answered as missing."""

    def transition(state: State, _event: Event) -> State:
        silent = tuple((site, NO_ANSWER) for site in sorted(state.asked))
        missing = tuple(sorted(state.missing + silent))
        closed = Closed(state.phase, state.round, state.answered, missing, state.question.model, state.about)
        return close(replace(state, asked=frozenset(), missing=closed.missing, closed=closed))

    return transition


def _after_admission(state: State) -> State:
    late = frozenset(site for site, code in state.missing if code in PASSING)
    admitted = replace(state, admitted=state.answered, late=late)
    if len(state.answered) < state.shape.quorum:
        return _abort(admitted)
    return _next_round(admitted)


def _after_training(state: State) -> State:
    if len(state.answered) >= state.shape.quorum:
        return replace(state, phase=Phase.AGGREGATING, greeted=frozenset())
    return _abort(state) if state.shape.below_quorum == "abort" else _after_round(state)


def _after_aggregation(state: State, _event: Event) -> State:
    return _after_round(replace(state, aggregated=state.round))


def _after_loss(state: State, _event: Event) -> State:
    return _after_training(replace(state, answered=frozenset()))


def _after_round(state: State) -> State:
    due = state.round == state.shape.rounds or state.round % state.shape.every == 0
    # Measured twice at different sites, one model would show the statistics of those that differ.
    again = state.shape.secure.enabled and state.aggregated != state.round
    return _ask(state, Phase.MEASURING) if due and not again else _next_round(state)


def _next_round(state: State) -> State:
    # Resuming a plan whose rounds are all done leads here with nothing left to train.
    if state.round >= state.shape.rounds:
        return _ask(state, Phase.TESTING)
    return _ask(replace(state, round=state.round + 1), Phase.TRAINING)


def _after_testing(state: State) -> State:
    return _finish(state) if state.shape.personalise == "never" else _ask(state, Phase.PERSONALISING)


def _after_personalising(state: State) -> State:
    return _finish(state) if state.shape.share == "never" else _ask(state, Phase.SHARING)


def _after_sharing(state: State) -> State:
    return _next_model(replace(state, models=tuple(sorted(state.answered))))


def _after_crossing(state: State) -> State:
    return _next_model(replace(state, models=state.models[1:]))


def _next_model(state: State) -> State:
    return _ask(state, Phase.CROSSING) if state.models else _finish(state)


def _summed(close: Callable[[State], State]) -> Callable[[State], State]:
    """Close a question whose answers are a sum: under secure aggregation, after the phases that make it one."""

    def transition(state: State) -> State:
        if not state.shape.secure.enabled:
            return close(state)
        shape = state.shape
        least = needed(shape.secure, shape.quorum, max(shape.enrolled, len(state.answered)))
        return _go_on_summing(replace(state, about=state.phase, needed=least, summed=frozenset()), Phase.DEALING)

    return transition


def _go_on_summing(state: State, phase: Phase) -> State:
    if len(state.answered) < state.needed:
        return _end_sum(state, frozenset())
    return replace(state, phase=phase, asked=state.answered, answered=frozenset(), missing=(), greeted=frozenset())


def _after_dealing(state: State) -> State:
    return _go_on_summing(state, Phase.MASKING)


def _after_masking(state: State) -> State:
    if state.about is Phase.TRAINING and len(state.answered) < state.shape.quorum:
        return _end_sum(state, frozenset())
    return _go_on_summing(replace(state, summed=state.answered), Phase.CONFIRMING)


def _after_confirming(state: State) -> State:
    return _go_on_summing(state, Phase.UNMASKING)


def _after_unmasking(state: State) -> State:
    return _end_sum(state, state.summed if len(state.answered) >= state.needed else frozenset())


def _end_sum(state: State, sites: frozenset[str]) -> State:
    """Close the question that was asked, as answered by ``sites``."""
    assert state.about is not None  # noqa: S101 - there is no sum without a question
    return _CLOSES_SUM[state.about](replace(state, phase=state.about, about=None, answered=sites))


def _ask(state: State, phase: Phase) -> State:
    greeted = state.late if phase is Phase.TRAINING else frozenset()
    return replace(state, phase=phase, asked=state.admitted, answered=frozenset(), missing=(), greeted=greeted)


def _finish(state: State) -> State:
    return replace(state, phase=Phase.FINISHED, asked=frozenset(), greeted=frozenset())


def _abort(state: State) -> State:
    what = "were admitted" if state.phase is Phase.ADMITTING else f"delivered an update in round {state.round}"
    without = ", ".join(f"{site} ({code})" for site, code in state.missing[:_TOLD])
    reason = f"{len(state.answered)} sites {what}, the plan's quorum is {state.shape.quorum}"
    reason += f"; without {without}" if without else ""
    return replace(state, phase=Phase.ABORTED, asked=frozenset(), greeted=frozenset(), reason=reason)


def _line(apply: Transition, leads_to: tuple[Phase, ...], words: str) -> Line:
    return Line(apply, frozenset(leads_to), words)


_CLOSES_SUM: Mapping[Phase, Callable[[State], State]] = {
    Phase.TRAINING: _after_training,
    Phase.MEASURING: _next_round,
    Phase.TESTING: _after_testing,
    Phase.PERSONALISING: _after_personalising,
}
"""Questions whose answers are only ever added up, and what follows their sum."""

_ROUND_GOES_ON = (Phase.MEASURING, Phase.TRAINING, Phase.TESTING)
_SUM_ENDS = (Phase.AGGREGATING, Phase.PERSONALISING, Phase.FINISHED, Phase.ABORTED, *_ROUND_GOES_ON)

_CLOSING: Mapping[Phase, Line] = {
    Phase.ADMITTING: _line(
        _give_up_on_the_rest(_after_admission),
        (Phase.TRAINING, Phase.TESTING, Phase.ABORTED),
        "abort below quorum; else train, or test if all rounds were done before",
    ),
    Phase.TRAINING: _line(
        _give_up_on_the_rest(_summed(_after_training)),
        (Phase.AGGREGATING, Phase.DEALING, Phase.ABORTED, *_ROUND_GOES_ON),
        "aggregate; below quorum abort or skip the round, as the plan says",
    ),
    Phase.MEASURING: _line(
        _give_up_on_the_rest(_summed(_next_round)),
        (Phase.DEALING, Phase.TRAINING, Phase.TESTING),
        "train; test after the last round",
    ),
    Phase.TESTING: _line(
        _give_up_on_the_rest(_summed(_after_testing)),
        (Phase.DEALING, Phase.PERSONALISING, Phase.FINISHED),
        "personalise if planned; else finish",
    ),
    Phase.PERSONALISING: _line(
        _give_up_on_the_rest(_summed(_after_personalising)),
        (Phase.DEALING, Phase.SHARING, Phase.FINISHED),
        "ask for the fine-tuned models if planned; else finish",
    ),
    Phase.SHARING: _line(
        _give_up_on_the_rest(_after_sharing),
        (Phase.CROSSING, Phase.FINISHED),
        "measure the first shared model at every site; finish if none was shared",
    ),
    Phase.CROSSING: _line(
        _give_up_on_the_rest(_after_crossing),
        (Phase.CROSSING, Phase.FINISHED),
        "measure the next shared model at every site; finish after the last",
    ),
    Phase.DEALING: _line(
        _give_up_on_the_rest(_after_dealing),
        (Phase.MASKING, *_SUM_ENDS),
        "ask for masked answers; below the threshold go on without a sum",
    ),
    Phase.MASKING: _line(
        _give_up_on_the_rest(_after_masking),
        (Phase.CONFIRMING, *_SUM_ENDS),
        "tell whose answers came; below threshold or quorum go on without a sum",
    ),
    Phase.CONFIRMING: _line(
        _give_up_on_the_rest(_after_confirming),
        (Phase.UNMASKING, *_SUM_ENDS),
        "ask for shares of what masks the sum; below the threshold go on without one",
    ),
    Phase.UNMASKING: _line(
        _give_up_on_the_rest(_after_unmasking),
        _SUM_ENDS,
        "unmask the sum, and go on as after the question itself",
    ),
}

TABLE: Mapping[tuple[Phase, Kind], Line] = {
    **{
        (phase, Kind.ANSWERED): _line(
            _count, (phase,), "count the site, once; one that was greeted takes part from the next round"
        )
        for phase in _CLOSING
    },
    **{(phase, Kind.FAILED): _line(_miss, (phase,), "note the site and the reason") for phase in _CLOSING},
    **{(phase, Kind.COMPLETE): line for phase, line in _CLOSING.items()},
    **{
        (phase, Kind.DEADLINE): replace(line, words="note who is silent; then as complete")
        for phase, line in _CLOSING.items()
    },
    (Phase.AGGREGATING, Kind.AGGREGATED): _line(
        _after_aggregation, _ROUND_GOES_ON, "measure every few rounds and after the last; else train"
    ),
    (Phase.AGGREGATING, Kind.LOST): _line(
        _after_loss, (Phase.ABORTED, *_ROUND_GOES_ON), "abort or skip the round, as the plan says"
    ),
}
"""What happens in each phase. A phase in which nobody is left to answer is complete at once."""
