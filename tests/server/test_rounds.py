"""The table of rounds: whatever happens, in whatever order, a run ends, counts nobody twice and keeps its quorum."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from server import rounds
from server.round_values import (
    FINAL,
    NO_ANSWER,
    PASSING,
    WAITING,
    Abort,
    Action,
    Aggregate,
    Ask,
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
from server.rounds import TABLE, advance, on_entry, shape_of, start, step
from server.rounds_page import as_markdown
from shared.plan import parse

SITES = ("a", "b", "c")
SHAPE = Shape(rounds=3, quorum=2, every=2, below_quorum="abort", personalise="never")
SKIPPING = replace(SHAPE, below_quorum="skip-round")

AGGREGATED = Event(Kind.AGGREGATED)
DEADLINE = Event(Kind.DEADLINE)


def answered(site: str, question: Question | None = None) -> Event:
    return Event(Kind.ANSWERED, site, question=question)


def failed(site: str, code: str = "update-not-finite") -> Event:
    return Event(Kind.FAILED, site, code)


def after(state: State, *events: Event) -> State:
    for event in events:
        state = advance(state, event)
    return state


def everybody(sites: Sequence[str] = SITES) -> list[Event]:
    return [answered(site) for site in sites]


def training(shape: Shape = SHAPE, sites: Sequence[str] = SITES) -> State:
    """A run whose sites were all admitted."""
    return after(start(shape, frozenset(sites)), *everybody(sites))


def drive(state: State, answer: Callable[[State], Sequence[Event]]) -> tuple[State, list[Action]]:
    """Carry out a run: ``answer`` says what happens in each phase."""
    done: list[Action] = [on_entry(state)]
    while state.phase not in FINAL:
        question = state.question
        for event in answer(state):
            if state.question == question:
                state, actions = step(state, event)
                done += actions
    return state, done


def all_well(state: State) -> list[Event]:
    return [AGGREGATED] if state.phase is Phase.AGGREGATING else everybody(sorted(state.asked))


def test_an_undisturbed_run_asks_sums_and_records_in_this_order() -> None:
    state, done = drive(start(SHAPE, frozenset(SITES)), all_well)
    assert state.phase is Phase.FINISHED
    assert done == [
        Ask(Question(Phase.ADMITTING, 0), SITES),
        Ask(Question(Phase.TRAINING, 1), SITES),
        Aggregate(1, SITES),
        Record(1, "aggregated"),
        Ask(Question(Phase.TRAINING, 2), SITES),
        Aggregate(2, SITES),
        Ask(Question(Phase.MEASURING, 2), SITES),
        Record(2, "aggregated"),
        Ask(Question(Phase.TRAINING, 3), SITES),
        Aggregate(3, SITES),
        Ask(Question(Phase.MEASURING, 3), SITES),
        Record(3, "aggregated"),
        Ask(Question(Phase.TESTING, 3), SITES),
        Finish(),
    ]


@pytest.mark.parametrize(
    ("every", "total", "measured"), [(1, 3, [1, 2, 3]), (2, 5, [2, 4, 5]), (5, 4, [4]), (3, 6, [3, 6])]
)
def test_models_are_measured_every_few_rounds_and_after_the_last(every: int, total: int, measured: list[int]) -> None:
    _, done = drive(start(replace(SHAPE, every=every, rounds=total), frozenset(SITES)), all_well)
    asked = [action.question for action in done if isinstance(action, Ask)]
    assert [question.round for question in asked if question.phase is Phase.MEASURING] == measured


def test_sites_personalise_once_after_testing_where_the_plan_asks_for_it() -> None:
    shape = replace(SHAPE, personalise="after-last-round")
    _, done = drive(start(shape, frozenset(SITES)), all_well)
    assert done[-3:] == [Ask(Question(Phase.TESTING, 3), SITES), Ask(Question(Phase.PERSONALISING, 3), SITES), Finish()]


SHARING = replace(SHAPE, personalise="after-last-round", share="after-personalising")


def test_models_are_shared_after_personalising_and_each_is_measured_everywhere_in_order() -> None:
    state, done = drive(start(SHARING, frozenset(SITES)), all_well)
    assert state.phase is Phase.FINISHED
    assert done[-6:] == [
        Ask(Question(Phase.PERSONALISING, 3), SITES),
        Ask(Question(Phase.SHARING, 3), SITES),
        *(Ask(Question(Phase.CROSSING, 3, model), SITES) for model in SITES),
        Finish(),
    ]


def sharing() -> State:
    state = start(SHARING, frozenset(SITES))
    while state.phase is not Phase.SHARING:
        state = after(state, *all_well(state))
    return state


def test_a_model_that_was_not_shared_is_not_measured_and_its_site_still_measures_the_others() -> None:
    state = after(sharing(), answered("c"), failed("b", "not-kept"), answered("a"))
    assert (state.question, state.asked) == (Question(Phase.CROSSING, 3, "a"), frozenset(SITES))
    state = after(state, *everybody())
    assert state.question == Question(Phase.CROSSING, 3, "c")
    assert state.closed is not None
    assert state.closed.model == "a"
    assert after(state, DEADLINE).phase is Phase.FINISHED


def test_where_nobody_shares_the_run_is_finished() -> None:
    assert after(sharing(), DEADLINE).phase is Phase.FINISHED


def test_what_was_measured_of_one_model_is_no_answer_about_another() -> None:
    first = after(sharing(), *everybody())
    second = after(first, *everybody())
    assert second.question == Question(Phase.CROSSING, 3, "b")
    assert step(second, answered("c", first.question)) == (second, (Ignore("c", "late"),))
    assert step(second, Event(Kind.DEADLINE, question=first.question)) == (second, ())


def test_a_site_that_is_not_admitted_stays_out_with_its_reason() -> None:
    state = after(start(SHAPE, frozenset(SITES)), answered("a"), failed("b", "fingerprint"), answered("c"))
    assert state.phase is Phase.TRAINING
    assert state.admitted == state.asked == {"a", "c"}
    assert state.closed is not None
    assert state.closed.missing == (("b", "fingerprint"),)
    assert step(state, answered("b")) == (state, (Ignore("b", "not-asked"),))


def test_a_site_that_is_silent_at_admission_stays_out() -> None:
    state = after(start(SHAPE, frozenset(SITES)), answered("a"), answered("b"), DEADLINE)
    assert state.admitted == {"a", "b"}
    assert state.closed is not None
    assert state.closed.missing == (("c", NO_ANSWER),)


@pytest.mark.parametrize("shape", [SHAPE, SKIPPING])
def test_a_run_with_too_few_admitted_sites_aborts_and_says_so_with_the_numbers(shape: Shape) -> None:
    waiting = after(start(shape, frozenset(SITES)), answered("a"), failed("b", "fingerprint"))
    state, actions = step(waiting, DEADLINE)
    assert state.phase is Phase.ABORTED
    assert actions == (Abort("1 sites were admitted, the plan's quorum is 2; without b (fingerprint), c (no-answer)"),)


def test_a_run_without_sites_ends_at_the_first_deadline() -> None:
    assert advance(start(SHAPE, frozenset()), DEADLINE).phase is Phase.ABORTED


def test_a_site_that_failed_in_one_round_is_asked_again_in_the_next() -> None:
    state = after(training(), answered("a"), failed("b"), answered("c"), AGGREGATED)
    assert (state.phase, state.round) == (Phase.TRAINING, 2)
    assert state.asked == set(SITES)
    assert state.missing == ()


def test_sites_that_failed_in_training_are_still_measured() -> None:
    state = after(training(replace(SHAPE, every=1)), answered("a"), failed("b"), answered("c"), AGGREGATED)
    assert state.phase is Phase.MEASURING
    assert state.asked == set(SITES)


def test_who_was_missing_and_why_is_kept_when_a_phase_closes() -> None:
    state = after(training(), failed("c", "out-of-memory"), answered("a"), DEADLINE)
    assert state.closed is not None
    assert (state.closed.phase, state.closed.round) == (Phase.TRAINING, 1)
    assert state.closed.answered == {"a"}
    assert state.closed.missing == (("b", NO_ANSWER), ("c", "out-of-memory"))


def test_a_deadline_with_a_quorum_aggregates_those_who_answered() -> None:
    _, actions = step(after(training(), answered("c"), answered("a")), DEADLINE)
    assert actions == (Aggregate(1, ("a", "c")),)


def test_below_quorum_the_run_aborts_with_the_numbers_where_the_plan_says_abort() -> None:
    state, actions = step(after(training(), failed("a"), failed("b")), answered("c"))
    assert state.phase is Phase.ABORTED
    why = "a (update-not-finite), b (update-not-finite)"
    assert actions == (Abort(f"1 sites delivered an update in round 1, the plan's quorum is 2; without {why}"),)


def test_below_quorum_the_round_is_skipped_where_the_plan_says_so() -> None:
    state, actions = step(after(training(SKIPPING), failed("a"), failed("b")), answered("c"))
    assert (state.phase, state.round) == (Phase.TRAINING, 2)
    assert actions == (Record(1, "skipped"), Ask(Question(Phase.TRAINING, 2), SITES))


def test_a_skipped_round_that_is_due_is_measured_and_recorded_as_skipped() -> None:
    state = training(replace(SKIPPING, every=1))
    state = advance(state, DEADLINE)
    assert state.phase is Phase.MEASURING
    _, actions = step(state, DEADLINE)
    assert actions[0] == Record(1, "skipped")


def test_a_run_in_which_every_round_is_skipped_still_ends_with_a_test() -> None:
    def silent_after_admission(state: State) -> list[Event]:
        return everybody() if state.phase is Phase.ADMITTING else [DEADLINE]

    state, done = drive(start(SKIPPING, frozenset(SITES)), silent_after_admission)
    assert state.phase is Phase.FINISHED
    assert [action for action in done if isinstance(action, Record)] == [Record(r, "skipped") for r in (1, 2, 3)]
    assert not [action for action in done if isinstance(action, Aggregate)]


def test_a_site_counts_once_however_often_it_answers() -> None:
    state = after(training(), answered("a"))
    for again in (answered("a"), failed("a")):
        assert step(state, again) == (state, (Ignore("a", "repeated"),))


def test_a_site_that_failed_cannot_answer_after_all() -> None:
    state = after(training(), failed("a"))
    assert step(state, answered("a")) == (state, (Ignore("a", "repeated"),))


def test_an_unknown_site_does_not_count() -> None:
    state = training()
    assert step(state, answered("stranger")) == (state, (Ignore("stranger", "not-asked"),))


@pytest.mark.parametrize(
    "question", [Question(Phase.TRAINING, 1), Question(Phase.MEASURING, 2), Question(Phase.TRAINING, 3)]
)
def test_an_answer_to_another_question_does_not_count(question: Question) -> None:
    second = after(training(), *everybody(), AGGREGATED)
    assert second.question == Question(Phase.TRAINING, 2)
    assert step(second, answered("a", question)) == (second, (Ignore("a", "late"),))
    assert "a" in advance(second, answered("a", second.question)).answered


def test_an_answer_while_the_coordinator_works_is_late() -> None:
    state = after(training(), *everybody())
    assert state.phase is Phase.AGGREGATING
    assert step(state, answered("a")) == (state, (Ignore("a", "late"),))


def test_a_timer_of_an_earlier_phase_does_not_end_the_present_one() -> None:
    second = after(training(), *everybody(), AGGREGATED)
    assert step(second, Event(Kind.DEADLINE, question=Question(Phase.TRAINING, 1))) == (second, ())


def test_an_event_that_a_phase_does_not_answer_changes_nothing() -> None:
    assert step(training(), AGGREGATED) == (training(), ())


@pytest.mark.parametrize("completed", [0, 1, 2, 3])
def test_a_resumed_run_admits_its_sites_again_and_goes_on_after_the_last_complete_round(completed: int) -> None:
    state = start(SHAPE, frozenset(SITES), completed)
    assert state.phase is Phase.ADMITTING
    expected = Question(Phase.TRAINING, completed + 1) if completed < 3 else Question(Phase.TESTING, 3)
    assert after(state, *everybody()).question == expected


def test_a_resumed_run_records_the_rounds_that_were_left() -> None:
    _, done = drive(start(SHAPE, frozenset(SITES), completed=1), all_well)
    assert [action.round for action in done if isinstance(action, Record)] == [2, 3]


def two_of_three(code: str = "transport") -> State:
    """A run that began without c."""
    return after(start(SHAPE, frozenset(SITES)), answered("a"), answered("b"), failed("c", code))


@pytest.mark.parametrize("code", sorted(PASSING))
def test_a_site_that_could_not_be_reached_is_greeted_with_each_round(code: str) -> None:
    state = two_of_three(code)
    assert on_entry(state) == Ask(Question(Phase.TRAINING, 1), ("a", "b"), ("c",))
    state = after(state, answered("a"), answered("b"), AGGREGATED)
    assert on_entry(state) == Ask(Question(Phase.TRAINING, 2), ("a", "b"), ("c",))


def test_a_site_that_was_refused_is_not_greeted() -> None:
    assert on_entry(two_of_three("fingerprint")) == Ask(Question(Phase.TRAINING, 1), ("a", "b"))


def test_a_late_site_takes_part_from_the_round_after_its_answer_and_nobody_waits_for_it() -> None:
    state = after(two_of_three(), answered("a"), answered("c"))
    assert state.phase is Phase.TRAINING
    assert state.asked == {"b"}
    state, actions = step(state, answered("b"))
    assert actions == (Aggregate(1, ("a", "b")),)
    state = after(state, AGGREGATED)
    assert on_entry(state) == Ask(Question(Phase.TRAINING, 2), ("a", "b", "c"))


def test_a_late_site_that_is_silent_delays_nothing() -> None:
    heard = [answered("a"), answered("b"), DEADLINE, AGGREGATED]
    state, done = drive(start(SHAPE, frozenset(SITES)), lambda _: heard)
    assert state.phase is Phase.FINISHED
    trained = [action for action in done if isinstance(action, Ask) and action.question.phase is Phase.TRAINING]
    assert [ask.greet for ask in trained] == [("c",)] * 3


def test_a_late_site_that_is_refused_at_last_is_not_asked_again() -> None:
    state = after(two_of_three(), failed("c", "fingerprint"), answered("a"), answered("b"), AGGREGATED)
    assert on_entry(state) == Ask(Question(Phase.TRAINING, 2), ("a", "b"))


def test_an_answer_of_a_late_site_is_counted_once_and_never_as_an_update() -> None:
    state = after(two_of_three(), answered("c"))
    state, actions = step(state, answered("c"))
    assert actions == (Ignore("c", "repeated"),)
    assert "c" not in state.answered


def test_every_phase_that_waits_for_sites_answers_a_deadline() -> None:
    assert WAITING
    for phase in WAITING:
        line = TABLE[phase, Kind.DEADLINE]
        assert phase not in line.leads_to - {Phase.TRAINING, Phase.CROSSING}


def test_every_phase_that_waits_for_sites_answers_them() -> None:
    assert all((phase, kind) in TABLE for phase in WAITING for kind in (Kind.ANSWERED, Kind.FAILED, Kind.COMPLETE))


def test_final_phases_have_no_way_out() -> None:
    assert FINAL
    assert not [phase for phase, _ in TABLE if phase in FINAL]
    for phase in FINAL:
        state = replace(training(), phase=phase, asked=frozenset())
        assert all(advance(state, Event(kind, "a")) == state for kind in Kind)


def test_every_phase_is_waiting_working_or_final_and_leads_somewhere() -> None:
    assert set(Phase) - WAITING - FINAL == {Phase.AGGREGATING}
    assert {phase for phase, _ in TABLE} == set(Phase) - FINAL
    assert set().union(*(line.leads_to for line in TABLE.values())) == set(Phase)


def test_from_every_phase_a_final_one_can_be_reached() -> None:
    reached = set(FINAL)
    for _ in Phase:
        reached |= {phase for (phase, _), line in TABLE.items() if line.leads_to & reached}
    assert reached == set(Phase)


SHAPES = st.builds(
    Shape,
    rounds=st.integers(1, 4),
    quorum=st.integers(1, 4),
    every=st.integers(1, 5),
    below_quorum=st.sampled_from(["abort", "skip-round"]),
    personalise=st.sampled_from(["never", "after-last-round"]),
    share=st.sampled_from(["never", "after-personalising"]),
)
QUESTIONS = st.none() | st.builds(
    Question, st.sampled_from(Phase), st.integers(0, 4), st.sampled_from(["", *SITES, "stranger"])
)
EVENTS = st.builds(
    Event,
    st.sampled_from([Kind.ANSWERED, Kind.ANSWERED, Kind.ANSWERED, Kind.FAILED, Kind.DEADLINE, Kind.AGGREGATED]),
    st.sampled_from([*SITES, "stranger"]),
    st.sampled_from(["code", NO_ANSWER, "transport"]),
    QUESTIONS | st.none(),
)


def counts(
    events: Sequence[Event], shape: Shape, completed: int
) -> list[tuple[State, Event, State, tuple[Action, ...]]]:
    """Each event that changed something, with the states around it and the actions."""
    state, seen = start(shape, frozenset(SITES), completed), []
    for event in events:
        then, actions = step(state, event)
        if then != state:
            seen.append((state, event, then, actions))
        state = then
    return seen


def most_phases(shape: Shape) -> int:
    """Three a round; admitting, testing, personalising, sharing; and crossing once for each site's model."""
    return 3 * shape.rounds + 4 + len(SITES)


HISTORIES = st.lists(EVENTS, max_size=120)


@settings(max_examples=300, deadline=None)
@given(HISTORIES, SHAPES, st.integers(0, 4))
def test_whatever_happens_the_invariants_hold(events: list[Event], shape: Shape, completed: int) -> None:
    completed = min(completed, shape.rounds)
    heard: Counter[tuple[Question, str]] = Counter()
    for before, event, then, actions in counts(events, shape, completed):
        if event.kind in {Kind.ANSWERED, Kind.FAILED}:
            heard[before.question, event.site] += 1
            assert event.site in before.asked | before.greeted
        assert then.round in {before.round, before.round + 1}
        assert then.round <= shape.rounds
        assert not then.answered & then.asked
        assert then.greeted <= then.late
        assert not then.late & (then.admitted | then.asked | then.answered) or then.phase is Phase.ADMITTING
        assert then.phase is Phase.ADMITTING or then.answered | then.asked <= then.admitted
        for action in actions:
            if isinstance(action, Aggregate):
                assert len(action.sites) >= shape.quorum
                assert set(action.sites) <= before.admitted
        missing = [site for site, _ in then.missing]
        assert len(set(missing)) == len(missing)
        assert not set(missing) & then.answered
    assert not heard or max(heard.values()) == 1


@settings(max_examples=300, deadline=None)
@given(HISTORIES, SHAPES)
def test_events_that_count_are_bounded(events: list[Event], shape: Shape) -> None:
    seen = counts(events, shape, 0)
    assert len(seen) <= most_phases(shape) * (len(SITES) + 1)


@settings(max_examples=200, deadline=None)
@given(HISTORIES, SHAPES)
def test_deadlines_alone_end_any_run_from_any_state(events: list[Event], shape: Shape) -> None:
    state = after(start(shape, frozenset(SITES)), *events)
    for _ in range(most_phases(shape)):
        state = after(state, DEADLINE, AGGREGATED)
    assert state.phase in FINAL


@settings(max_examples=300, deadline=None)
@given(HISTORIES, SHAPES)
def test_every_transition_is_one_that_the_table_names(events: list[Event], shape: Shape) -> None:
    for before, event, then, _ in counts(events, shape, 0):
        named = TABLE[before.phase, event.kind].leads_to
        completed = TABLE[before.phase, Kind.COMPLETE].leads_to if before.phase in WAITING else frozenset()
        assert then.phase in named | completed


@settings(max_examples=200, deadline=None)
@given(HISTORIES, SHAPES)
def test_each_round_is_recorded_once_and_in_order(events: list[Event], shape: Shape) -> None:
    recorded = [a.round for *_, actions in counts(events, shape, 0) for a in actions if isinstance(a, Record)]
    assert recorded == list(range(1, len(recorded) + 1))


@settings(max_examples=200, deadline=None)
@given(st.permutations(SITES), st.permutations(SITES))
def test_the_order_of_answers_does_not_change_the_state(one: list[str], other: list[str]) -> None:
    assert after(training(), *everybody(one)) == after(training(), *everybody(other))


def test_the_invariants_would_notice_a_table_that_counts_below_quorum(monkeypatch: pytest.MonkeyPatch) -> None:
    def careless(state: State, _event: Event) -> State:
        return replace(state, phase=Phase.AGGREGATING)

    line = replace(TABLE[Phase.TRAINING, Kind.DEADLINE], apply=careless)
    monkeypatch.setattr(rounds, "TABLE", {**TABLE, (Phase.TRAINING, Kind.DEADLINE): line})
    _, actions = step(training(), DEADLINE)
    assert isinstance(actions[-1], Aggregate)
    assert len(actions[-1].sites) < SHAPE.quorum


def plan_text(**sections: str) -> str:
    base = {
        "plan": 'name = "p"\ntask = "segmentation"\nrounds = 7',
        "data": 'modality = "fundus"\nclasses = ["a", "b"]',
        "preprocessing": "size = [32, 32]",
        "model": 'name = "unet"',
        "training": "steps = 1\npatients_per_step = 1\nlearning_rate = 0.1",
        "privacy": 'unit = "none"',
        **sections,
    }
    return "\n".join(f"[{name}]\n{body}" for name, body in base.items())


@pytest.mark.parametrize(
    ("sections", "expected"),
    [
        ({}, Shape(7, 1, 5, "abort", "never")),
        (
            {
                "participation": 'quorum = 3\nbelow_quorum = "skip-round"',
                "evaluation": "every = 2",
                "personalisation": "steps = 5\nlearning_rate = 0.01",
            },
            Shape(7, 3, 2, "skip-round", "after-last-round"),
        ),
        (
            {
                "evaluation": 'cross_site = true\nrelease = "site"',
                "personalisation": "steps = 5\nlearning_rate = 0.01",
            },
            Shape(7, 1, 5, "abort", "after-last-round", "after-personalising"),
        ),
    ],
)
def test_the_shape_is_what_the_plan_says(sections: dict[str, Any], expected: Shape) -> None:
    assert shape_of(parse(plan_text(**sections))) == expected


def test_the_printed_table_has_a_line_for_every_line_of_the_table_and_every_final_phase() -> None:
    lines = as_markdown().splitlines()[2:]
    printed = {tuple(cell.strip() for cell in line.split("|")[1:3]) for line in lines}
    expected = {(phase.value, kind.value) for phase, kind in TABLE} | {(phase.value, "any") for phase in FINAL}
    assert printed == expected
    assert len(lines) == len(printed)


def test_the_printed_table_names_where_each_line_leads() -> None:
    row = next(line for line in as_markdown().splitlines() if line.startswith("| testing | complete |"))
    assert row == "| testing | complete | personalise if planned; else finish | personalising, dealing, finished |"
