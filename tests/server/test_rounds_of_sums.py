"""The table of rounds under secure aggregation: whatever happens, nothing is unmasked below the threshold."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from server import rounds
from server.round_values import (
    FINAL,
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
    Question,
    Record,
    Shape,
    State,
)
from server.rounds import TABLE, advance, on_entry, start, step
from shared.plan_protection import SecureAggregation

SITES = ("a", "b", "c", "d", "e")
STEPS = (Phase.DEALING, Phase.MASKING, Phase.CONFIRMING, Phase.UNMASKING)
SHAPE = Shape(3, 2, 2, "abort", "never", "never", SecureAggregation(enabled=True))
SKIPPING = replace(SHAPE, below_quorum="skip-round")
AGGREGATED, LOST, DEADLINE = Event(Kind.AGGREGATED), Event(Kind.LOST), Event(Kind.DEADLINE)


def answered(site: str, question: Question | None = None) -> Event:
    return Event(Kind.ANSWERED, site, question=question)


def failed(site: str, code: str = "code") -> Event:
    return Event(Kind.FAILED, site, code)


def after(state: State, *events: Event) -> State:
    for event in events:
        state = advance(state, event)
    return state


def all_of(state: State) -> list[Event]:
    return [AGGREGATED] if state.phase is Phase.AGGREGATING else [answered(site) for site in sorted(state.asked)]


def without(*gone: str) -> Callable[[State], list[Event]]:
    """Everybody that is asked answers, but those."""

    def answer(state: State) -> list[Event]:
        came = [answered(site) for site in sorted(state.asked - set(gone))]
        return [*came, Event(Kind.DEADLINE, question=state.question)]

    return answer


def until(phase: Phase, state: State, answer: Callable[[State], Sequence[Event]] = all_of) -> State:
    """Go on until ``phase`` comes next."""
    state = after(state, *answer(state))
    while state.phase not in {phase, *FINAL}:
        state = after(state, *answer(state))
    return state


def begun(phase: Phase, shape: Shape = SHAPE, sites: Sequence[str] = SITES) -> State:
    """A run in which all went well until ``phase`` of the first round."""
    return until(phase, start(shape, frozenset(sites)))


def drive(state: State, answer: Callable[[State], Sequence[Event]]) -> tuple[State, list[Action]]:
    done: list[Action] = [on_entry(state)]
    while state.phase not in FINAL:
        question = state.question
        for event in answer(state):
            if state.question == question:
                state, actions = step(state, event)
                done += actions
    return state, done


def test_four_steps_follow_each_question_and_what_follows_the_question_follows_them() -> None:
    state, done = drive(start(replace(SHAPE, rounds=2, personalise="after-last-round"), frozenset(SITES)), all_of)
    assert state.phase is Phase.FINISHED

    def summed(phase: Phase, number: int) -> list[Action]:
        steps = [Ask(Question(one, number, about=phase), SITES) for one in STEPS]
        return [Ask(Question(phase, number), SITES), *steps]

    assert done == [
        Ask(Question(Phase.ADMITTING, 0), SITES),
        *summed(Phase.TRAINING, 1),
        Aggregate(1, SITES),
        Record(1, "aggregated"),
        *summed(Phase.TRAINING, 2),
        Aggregate(2, SITES),
        *summed(Phase.MEASURING, 2),
        Record(2, "aggregated"),
        *summed(Phase.TESTING, 2),
        *summed(Phase.PERSONALISING, 2),
        Finish(),
    ]


@pytest.mark.parametrize("phase", STEPS, ids=lambda one: one.value)
def test_a_plan_without_secure_aggregation_never_gets_there(phase: Phase) -> None:
    plain = replace(SHAPE, secure=SecureAggregation())
    assert begun(phase, plain).phase is Phase.FINISHED


@pytest.mark.parametrize(
    ("gone_in", "summed"),
    [
        (Phase.TRAINING, ("a", "c", "d", "e")),
        (Phase.DEALING, ("a", "c", "d", "e")),
        (Phase.MASKING, ("a", "c", "d", "e")),
        (Phase.CONFIRMING, SITES),
        (Phase.UNMASKING, SITES),
    ],
    ids=lambda one: getattr(one, "value", ""),
)
def test_a_site_is_in_the_sum_if_its_masked_answer_came_whatever_it_does_then(
    gone_in: Phase, summed: tuple[str, ...]
) -> None:
    state = begun(gone_in)
    state = after(state, *without("b")(state))
    if gone_in is not Phase.UNMASKING:
        assert "b" not in state.asked
        state = until(Phase.AGGREGATING, state, without("b"))
    assert on_entry(state) == Aggregate(1, summed)


def test_a_site_that_dropped_out_of_one_sum_is_asked_the_next_question() -> None:
    state = until(Phase.TRAINING, until(Phase.AGGREGATING, begun(Phase.DEALING), without("b")), all_of)
    assert (state.round, state.asked) == (2, frozenset(SITES))


@pytest.mark.parametrize("phase", STEPS, ids=lambda one: one.value)
@pytest.mark.parametrize("left", [4, 3], ids=["threshold", "one less"])
def test_with_fewer_than_two_thirds_of_those_that_offered_there_is_no_sum(phase: Phase, left: int) -> None:
    """Of five offers the least number above two thirds is four."""
    state = begun(phase, SKIPPING)
    state = until(Phase.AGGREGATING if left == 4 else Phase.TRAINING, state, without(*SITES[left:]))
    assert state.phase is (Phase.AGGREGATING if left == 4 else Phase.TRAINING)
    assert state.aggregated == 0
    assert state.round == (1 if left == 4 else 2)


@pytest.mark.parametrize("phase", STEPS, ids=lambda one: one.value)
def test_a_sum_that_is_lost_aborts_the_run_or_skips_the_round_as_the_plan_says(phase: Phase) -> None:
    few = without("c", "d", "e")
    aborted, actions = step(after(begun(phase), *few(begun(phase))[:-1]), DEADLINE)
    assert aborted.phase is Phase.ABORTED
    (abort,) = actions
    assert isinstance(abort, Abort)
    assert abort.reason.startswith("0 sites delivered an update in round 1, the plan's quorum is 2; without")
    assert f"c ({NO_ANSWER})" in abort.reason
    skipped, actions = step(after(begun(phase, SKIPPING), *few(begun(phase))[:-1]), DEADLINE)
    assert actions == (Record(1, "skipped"), Ask(Question(Phase.TRAINING, 2), SITES))
    assert skipped.about is None


def test_the_quorum_counts_those_whose_updates_are_in_the_sum() -> None:
    """A threshold of five, a quorum of six: it is missed where a masked answer does not come, and only there."""
    sites = (*SITES, "f")
    shape = replace(SKIPPING, quorum=6, secure=SecureAggregation(enabled=True, threshold=5))
    short = begun(Phase.MASKING, shape, sites)
    short = after(short, *without("f")(short))
    assert (short.phase, short.round) == (Phase.TRAINING, 2)
    whole = begun(Phase.CONFIRMING, shape, sites)
    whole = until(Phase.AGGREGATING, whole, without("f"))
    assert on_entry(whole) == Aggregate(1, sites)


@pytest.mark.parametrize("quorum", [4, 5])
def test_without_a_threshold_of_its_own_a_plan_s_quorum_holds_for_statistics_and_at_every_step(quorum: int) -> None:
    """Two thirds of five would be four."""
    state = begun(Phase.MEASURING, replace(SHAPE, quorum=quorum, every=1))
    for phase in STEPS:
        state = until(phase, state)
        assert state.needed == quorum
        left = after(state, *without("e")(state))
        assert (left.phase in SUMMING or phase is Phase.UNMASKING) == (quorum == 4 or phase is Phase.UNMASKING)
        assert left.round == (2 if quorum == 5 or phase is Phase.UNMASKING else 1)


@pytest.mark.parametrize("about", [Phase.MEASURING, Phase.TESTING, Phase.PERSONALISING], ids=lambda one: one.value)
def test_statistics_that_cannot_be_summed_cost_no_round_and_no_run(about: Phase) -> None:
    shape = replace(SHAPE, rounds=1, every=1, personalise="after-last-round")

    def fails(state: State) -> list[Event]:
        return [DEADLINE] if state.about is about else all_of(state)

    state, done = drive(start(shape, frozenset(SITES)), fails)
    assert state.phase is Phase.FINISHED
    assert [one for one in done if isinstance(one, Record)] == [Record(1, "aggregated")]


def test_a_threshold_of_the_plan_holds_instead_of_two_thirds() -> None:
    shape = replace(SKIPPING, secure=SecureAggregation(enabled=True, threshold=5))
    state = begun(Phase.CONFIRMING, shape)
    assert until(Phase.AGGREGATING, state).needed == 5
    assert after(state, *without("a")(state)).phase is Phase.TRAINING


@pytest.mark.parametrize(("offered", "needed"), [(2, 2), (3, 3), (4, 3), (5, 4), (6, 5), (9, 7), (64, 43)])
def test_two_thirds_are_of_those_that_offered_and_never_less_than_two(offered: int, needed: int) -> None:
    sites = [f"s{number}" for number in range(64)]
    state = begun(Phase.TRAINING, SHAPE, sites)
    state = after(state, *without(*sites[offered:])(state))
    assert (state.phase, state.needed) == (Phase.DEALING, needed)


def test_one_site_alone_is_no_sum() -> None:
    state = begun(Phase.TRAINING, replace(SKIPPING, quorum=1), ["a", "b"])
    assert after(state, answered("a"), DEADLINE).round == 2


@pytest.mark.parametrize("below", ["abort", "skip-round"])
def test_a_sum_that_the_coordinator_cannot_make_is_a_round_without_a_quorum(below: str) -> None:
    shape = SHAPE if below == "abort" else SKIPPING
    state, actions = step(begun(Phase.AGGREGATING, shape), LOST)
    if below == "abort":
        assert state.phase is Phase.ABORTED
    else:
        assert actions == (Record(1, "skipped"), Ask(Question(Phase.TRAINING, 2), SITES))


def test_a_round_whose_sum_was_lost_measures_nothing_again_and_is_recorded_as_skipped() -> None:
    """Its model is that of the round before, which was measured: of other sites, it would show who differs."""
    _, actions = step(begun(Phase.AGGREGATING, replace(SKIPPING, every=1)), LOST)
    assert actions == (Record(1, "skipped"), Ask(Question(Phase.TRAINING, 2), SITES))
    plain = begun(Phase.TRAINING, replace(SKIPPING, every=1, secure=SecureAggregation()))
    assert after(plain, DEADLINE).phase is Phase.MEASURING, "a control: without masks it is measured"


def test_a_round_that_was_aggregated_is_recorded_so_even_if_its_statistics_were_lost() -> None:
    state = until(Phase.MEASURING, begun(Phase.AGGREGATING, replace(SHAPE, every=1)))
    state, actions = step(after(state, answered("c")), DEADLINE)
    assert (state.phase, state.about) == (Phase.TRAINING, None)
    assert actions[0] == Record(1, "aggregated")


def test_an_answer_about_one_question_is_none_about_another() -> None:
    training = begun(Phase.DEALING, replace(SHAPE, every=1))
    measuring = until(Phase.DEALING, until(Phase.MEASURING, training))
    assert measuring.question == Question(Phase.DEALING, 1, about=Phase.MEASURING)
    assert step(measuring, answered("a", training.question)) == (measuring, (Ignore("a", "late"),))
    assert step(measuring, Event(Kind.DEADLINE, question=training.question)) == (measuring, ())


def test_a_site_that_is_not_part_of_a_sum_cannot_slip_into_it() -> None:
    state = begun(Phase.DEALING)
    state = after(state, *without("b")(state))
    assert step(state, answered("b")) == (state, (Ignore("b", "repeated"),))
    assert "b" not in until(Phase.CONFIRMING, after(state, answered("b"))).asked


def test_a_late_site_that_answers_while_a_sum_is_made_waits_for_the_next_round() -> None:
    passing = sorted(PASSING)[0]
    state = after(start(SHAPE, frozenset(SITES)), failed("e", passing), *map(answered, "abcd"))
    assert on_entry(state) == Ask(Question(Phase.TRAINING, 1), SITES[:4], ("e",))
    state = after(state, *map(answered, "abcd"))
    assert state.phase is Phase.DEALING
    assert step(state, answered("e"))[0] == state
    state = until(Phase.AGGREGATING, state)
    assert state.answered == frozenset("abcd")
    assert on_entry(until(Phase.TRAINING, state)) == Ask(Question(Phase.TRAINING, 2), SITES[:4], ("e",))


SHAPES = st.builds(
    Shape,
    rounds=st.integers(1, 3),
    quorum=st.integers(1, 5),
    every=st.integers(1, 4),
    below_quorum=st.sampled_from(["abort", "skip-round"]),
    personalise=st.sampled_from(["never", "after-last-round"]),
    share=st.just("never"),
    secure=st.builds(SecureAggregation, enabled=st.just(value=True), threshold=st.none() | st.integers(2, 5)),
)
NEVER_ASKED = (
    Question(Phase.TRAINING, 2),
    Question(Phase.DEALING, 1, about=Phase.MEASURING),
    Question(Phase.TESTING, 0),
)


def history(seed: int, length: int, trouble: float) -> list[Event]:
    """Long enough to come to sums: lists that are drawn one event at a time are short.

    ``trouble`` is how likely an event is to be something else than a site's answer to what is asked.
    """
    draw = random.Random(seed)
    events = []
    for _ in range(length):
        kind, site, question = Kind.ANSWERED, draw.choice(SITES), None
        if draw.random() < trouble:
            kind = draw.choice([Kind.FAILED, Kind.FAILED, Kind.DEADLINE, Kind.LOST, Kind.ANSWERED])
            site = draw.choice([*SITES, "stranger"])
            question = draw.choice([None, None, None, *NEVER_ASKED])
        if draw.random() < 1 / 8:
            kind = Kind.AGGREGATED
        events.append(Event(kind, site, draw.choice(["code", NO_ANSWER, "transport"]), question))
    return events


HISTORIES = st.builds(history, st.integers(0, 2**32), st.integers(0, 400), st.floats(0, 0.4))
BEFORE = dict(zip(STEPS, (None, *STEPS), strict=False))


def seen(events: Sequence[Event], shape: Shape) -> list[tuple[State, Event, State, tuple[Action, ...]]]:
    """Each event that changed something, with the states around it and the actions."""
    state, found = start(shape, frozenset(SITES)), []
    for event in events:
        then, actions = step(state, event)
        if then != state:
            found.append((state, event, then, actions))
        state = then
    return found


def most_events(shape: Shape) -> int:
    """Three phases a round, and admitting, testing, personalising; four more for each question that is a sum."""
    phases = 3 * shape.rounds + 3 + 4 * (2 * shape.rounds + 2)
    return phases * (len(SITES) + 1)


def require_sums_of_enough(events: list[Event], shape: Shape) -> None:
    heard: Counter[tuple[Question, str]] = Counter()
    for before, event, then, actions in seen(events, shape):
        if event.kind in {Kind.ANSWERED, Kind.FAILED}:
            heard[before.question, event.site] += 1
            assert event.site in before.asked | before.greeted
        if then.question != before.question and then.phase in SUMMING:
            closed = then.closed
            assert closed is not None
            assert closed.phase is (BEFORE[then.phase] or then.about)
            assert then.asked == closed.answered
            assert len(then.asked) >= then.needed >= 2
        assert (then.about is None) == (then.phase not in SUMMING)
        for action in actions:
            if isinstance(action, Aggregate):
                assert before.phase is Phase.UNMASKING
                assert before.about is Phase.TRAINING
                assert frozenset(action.sites) == before.summed
                assert len(action.sites) >= max(shape.quorum, before.needed)
    assert not heard or max(heard.values()) == 1


@settings(max_examples=100, deadline=None)
@given(HISTORIES, SHAPES)
def test_whatever_happens_sums_are_of_enough_sites_and_of_nobody_who_dropped_out(
    events: list[Event], shape: Shape
) -> None:
    require_sums_of_enough(events, shape)


@settings(max_examples=100, deadline=None)
@given(HISTORIES, SHAPES)
def test_nobody_is_asked_who_did_not_answer_the_step_before(events: list[Event], shape: Shape) -> None:
    """Told from answers alone, without what the table says of itself."""
    heard: dict[Question, set[str]] = {}
    for before, event, then, actions in seen(events, shape):
        if event.kind is Kind.ANSWERED and event.site in before.asked:
            heard.setdefault(before.question, set()).add(event.site)
        asks = [action for action in actions if isinstance(action, Ask) and action.question.phase in SUMMING]
        for ask in asks:
            last = BEFORE[ask.question.phase]
            about = ask.question.about
            question = Question(last or Phase(about), then.round, about=about if last else None)
            assert set(ask.sites) <= heard[question]


@settings(max_examples=100, deadline=None)
@given(HISTORIES, SHAPES)
def test_rounds_are_recorded_once_in_order_and_as_what_they_were(events: list[Event], shape: Shape) -> None:
    aggregated, recorded = set(), []
    for before, event, _, actions in seen(events, shape):
        if before.phase is Phase.AGGREGATING and event.kind is Kind.AGGREGATED:
            aggregated.add(before.round)
        recorded += [action for action in actions if isinstance(action, Record)]
    assert [one.round for one in recorded] == list(range(1, len(recorded) + 1))
    assert all((one.outcome == "aggregated") == (one.round in aggregated) for one in recorded)


@settings(max_examples=100, deadline=None)
@given(HISTORIES, SHAPES)
def test_no_model_is_measured_in_two_rounds(events: list[Event], shape: Shape) -> None:
    """Models are told from what was aggregated, and not from what the table keeps."""
    model, measured = 0, []
    for before, event, then, actions in seen(events, shape):
        if before.phase is Phase.AGGREGATING and event.kind is Kind.AGGREGATED:
            model = before.round
        if any(isinstance(one, Ask) and one.question.phase is Phase.MEASURING for one in actions):
            measured.append(model)
            assert model == then.round
    assert len(set(measured)) == len(measured)


@settings(max_examples=80, deadline=None)
@given(HISTORIES, SHAPES)
def test_events_that_count_are_bounded_and_deadlines_alone_end_any_run(events: list[Event], shape: Shape) -> None:
    counted = seen(events, shape)
    assert len(counted) <= most_events(shape)
    state = after(start(shape, frozenset(SITES)), *events)
    for _ in range(most_events(shape)):
        state = after(state, DEADLINE, AGGREGATED)
    assert state.phase in FINAL


@settings(max_examples=80, deadline=None)
@given(HISTORIES, SHAPES)
def test_every_transition_is_one_that_the_table_names(events: list[Event], shape: Shape) -> None:
    for before, event, then, _ in seen(events, shape):
        named = TABLE[before.phase, event.kind].leads_to
        completed = TABLE[before.phase, Kind.COMPLETE].leads_to if before.phase in WAITING else frozenset()
        assert then.phase in named | completed


def test_the_histories_reach_models_lost_sums_and_ends_or_they_would_show_nothing() -> None:
    reached: Counter[str] = Counter()
    for seed in range(60):
        found = seen(history(seed, 400, seed / 150), SKIPPING)
        reached["model"] += any(isinstance(action, Aggregate) for *_, actions in found for action in actions)
        reached["lost"] += any(one.phase in SUMMING and two.phase is one.about for one, _, two, _ in found) or any(
            one.phase in SUMMING - {Phase.UNMASKING} and two.phase not in SUMMING for one, _, two, _ in found
        )
        reached["end"] += bool(found) and found[-1][2].phase in FINAL
    assert min(reached[name] for name in ("model", "lost", "end")) >= 10


def test_the_invariants_would_notice_a_table_that_unmasks_for_too_few(monkeypatch: pytest.MonkeyPatch) -> None:
    def careless(state: State, _event: Event) -> State:
        closed = Closed(state.phase, state.round, state.answered, (), "", state.about)
        asked = state.answered
        return replace(state, phase=Phase.UNMASKING, asked=asked, answered=frozenset(), missing=(), closed=closed)

    line = replace(TABLE[Phase.CONFIRMING, Kind.DEADLINE], apply=careless)
    events = [answered(site) for _ in range(4) for site in SITES] + [answered("a"), DEADLINE]
    require_sums_of_enough(events, SHAPE)
    monkeypatch.setattr(rounds, "TABLE", {**TABLE, (Phase.CONFIRMING, Kind.DEADLINE): line})
    with pytest.raises(AssertionError, match="needed"):
        require_sums_of_enough(events, SHAPE)
