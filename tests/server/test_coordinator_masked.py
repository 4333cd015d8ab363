"""The coordinator under secure aggregation: who is in the sum, who is missing and why, and what it never learns."""

import dataclasses
import math
import sqlite3
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from masked_federation import NAMES, SUMMED, MaskedFleet, masked_plan
from tiny_federation import Tamper, coordinate, tiny_plan, tiny_site

from client.workbench import Workbench
from server.results import RoundRecord, read_rounds
from server.round_values import Event, Phase, State
from server.run_setup import Watch
from shared.errors import PlanError, RunError
from shared.messages import (
    Confirmed,
    Dealt,
    Evaluate,
    Masked,
    Offered,
    Refusal,
    Reply,
    Request,
    Revealed,
    SumStep,
    Train,
    Update,
    Welcome,
)

STEPS: tuple[type[Any], ...] = (Offered, Dealt, Masked, Confirmed, Revealed)
THREE = tuple(name for name in NAMES if name != "bergen")
ONE = {"plan__rounds": 1}
SKIP = {**ONE, "participation__below_quorum": "skip-round"}


def about(request: Request) -> str:
    """The question that a request belongs to."""
    if isinstance(request, Train):
        return "train"
    if isinstance(request, Evaluate):
        return request.split
    return request.about if isinstance(request, SumStep) else ""


def instead(kind: type[Any], change: Tamper, *sites: str, question: str = "train") -> Tamper:
    """Change the replies of ``sites`` to one step of one question."""

    def tamper(name: str, request: Request, reply: Reply) -> Reply | None:
        meant = name in sites and isinstance(reply, kind) and about(request) == question
        return change(name, request, reply) if meant else reply

    return tamper


def nothing(_name: str, _request: Request, _reply: Reply) -> None:
    """A site that is gone."""


def says(reply: Reply) -> Tamper:
    return lambda _name, _request, _honest: reply


def events(folder: Path, kind: str) -> list[tuple[int, str, str, str]]:
    with sqlite3.connect(folder / "journal.sqlite") as connection:
        rows = "select round, phase, site, code from events where kind = ? order by number"
        return connection.execute(rows, (kind,)).fetchall()


def plain(folder: Path, *without: str) -> bytes:
    """The model of a run whose coordinator saw every update, ``without`` some sites' in training."""
    plan = tiny_plan(**{**SUMMED, **ONE})
    fleet = MaskedFleet(plan, tamper=instead(Update, nothing, *without))
    return coordinate(plan, fleet, folder).weights.tobytes()


@pytest.fixture(scope="module")
def of_all(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """Oracle: the sum of all, without masks."""
    return plain(tmp_path_factory.mktemp("all"))


@pytest.fixture(scope="module")
def of_three(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """Oracle: the sum of all but bergen, without masks."""
    return plain(tmp_path_factory.mktemp("three"), "bergen")


def masked(folder: Path, tamper: Tamper | None = None) -> bytes:
    plan = masked_plan(**ONE)
    return coordinate(plan, MaskedFleet(plan, tamper=tamper), folder).weights.tobytes()


def participation(folder: Path) -> tuple[tuple[str, ...], dict[str, str]]:
    """Who was in the sum of the only round, and who was missing and why."""
    (record,) = read_rounds(folder / "rounds.jsonl")
    return record.participation.participants, dict(record.participation.missing)


@pytest.mark.parametrize("kind", STEPS, ids=lambda one: one.__name__)
def test_a_site_that_is_gone_from_a_step_on_is_in_the_sum_if_its_masked_answer_came(
    tmp_path: Path, kind: type[Any], of_all: bytes, of_three: bytes
) -> None:
    found = masked(tmp_path, instead(kind, nothing, "bergen"))
    if kind in {Confirmed, Revealed}:
        assert participation(tmp_path) == (NAMES, {})
        assert found == of_all
    else:
        assert participation(tmp_path) == (THREE, {"bergen": "no-answer"})
        assert found == of_three


def test_the_models_of_all_who_answered_and_of_all_but_one_differ(of_all: bytes, of_three: bytes) -> None:
    """Else the two cases above would be one."""
    assert of_all != of_three


@pytest.mark.parametrize("reverse", [False, True], ids=["forwards", "backwards"])
def test_a_run_is_the_same_to_the_bit_with_and_without_masks(tmp_path: Path, reverse: bool) -> None:  # noqa: FBT001
    plans = (tiny_plan(**SUMMED), masked_plan())
    found = [coordinate(plan, MaskedFleet(plan, reverse=reverse), tmp_path / plan.digest()[:8]) for plan in plans]
    assert found[0].weights.tobytes() == found[1].weights.tobytes()
    task = Workbench.for_plan(plans[0]).task
    assert found[0].test is not None
    assert found[1].test is not None
    assert found[0].test.block(task)["pooled"] == found[1].test.block(task)["pooled"]
    records = [read_rounds(tmp_path / plan.digest()[:8] / "rounds.jsonl") for plan in plans]
    said = [[(one.loss, one.metrics, one.participation) for one in read] for read in records]
    assert said[0] == said[1]


def test_seconds_and_steps_of_training_come_with_the_sum_to_the_millisecond(tmp_path: Path) -> None:
    plan = masked_plan(**ONE)
    outcome = coordinate(plan, MaskedFleet(plan), tmp_path)
    assert outcome.training_s == round(outcome.training_s, 3) > 0


WRONG: list[tuple[str, type[Any], Tamper, str]] = [
    ("refuses", Offered, says(Refusal("out-of-memory", "the card is full")), "out-of-memory"),
    ("refuses to deal", Dealt, says(Refusal("offers-few", "two offers are too few")), "offers-few"),
    ("sends a welcome", Offered, says(Welcome((), 1)), "kind"),
    ("sends what belongs to another step", Masked, says(Confirmed(np.zeros(2, np.uint8))), "kind"),
    ("sends noise", Offered, says(Offered(np.arange(9, dtype=np.uint8))), "paper-form"),
    ("sends nothing of a paper", Dealt, says(Dealt(np.zeros(0, np.uint8))), "paper-form"),
]


@pytest.mark.parametrize(("kind", "change", "code"), [one[1:] for one in WRONG], ids=[one[0] for one in WRONG])
def test_an_answer_that_does_not_count_is_left_out_with_its_code_and_the_sum_is_of_the_rest(
    tmp_path: Path, kind: type[Any], change: Tamper, code: str, of_three: bytes
) -> None:
    found = masked(tmp_path, instead(kind, change, "bergen"))
    assert participation(tmp_path) == (THREE, {"bergen": code})
    assert [row[3] for row in events(tmp_path, "failed")] == [code]
    assert found == of_three


def test_an_update_in_clear_is_no_answer_and_is_in_no_sum(tmp_path: Path, of_three: bytes) -> None:
    """A site of an older version, say: what it sent is not used."""
    plan = masked_plan(**ONE)
    site = tiny_site("bergen", tiny_plan(**(SUMMED | ONE)))

    def clear(_name: str, request: Request, _reply: Reply) -> Reply:
        assert isinstance(request, Train)
        known = dataclasses.replace(request.envelope, plan_digest=site.workbench.plan.digest())
        return site.answer(dataclasses.replace(request, envelope=known))

    fleet = MaskedFleet(plan, tamper=instead(Offered, clear, "bergen"))
    found = coordinate(plan, fleet, tmp_path).weights.tobytes()
    assert participation(tmp_path) == (THREE, {"bergen": "kind"})
    assert found == of_three


def test_a_site_whose_revealed_share_is_forged_is_in_the_sum_and_its_lie_in_the_journal(
    tmp_path: Path, of_all: bytes
) -> None:
    def forged(_name: str, _request: Request, reply: Reply) -> Reply:
        assert isinstance(reply, Revealed)
        text = reply.content.tobytes()
        at = text.index(b'":"') + 3
        other = b"0" if text[at + 9 : at + 10] != b"0" else b"1"
        return Revealed(np.frombuffer(text[: at + 9] + other + text[at + 10 :], np.uint8))

    found = masked(tmp_path, instead(Revealed, forged, "bergen"))
    assert participation(tmp_path) == (NAMES, {})
    assert events(tmp_path, "failed") == [(1, "unmasking", "bergen", "share-forged")]
    assert found == of_all


@pytest.mark.parametrize(
    ("changes", "code"),
    [({"weight": 2}, "update-weight"), ({"values": 3}, "offers-differ"), ({"definition": "0" * 64}, "offers-differ")],
    ids=["weight", "length", "definition"],
)
def test_an_offer_of_something_else_than_was_agreed_is_left_out(
    tmp_path: Path, changes: dict[str, Any], code: str
) -> None:
    """Signed rightly, by a site that would add more than its part."""
    plan = masked_plan(**ONE)
    fleet = MaskedFleet(plan)
    cheating = fleet.sites["bergen"].summing
    assert cheating is not None
    honest = cheating.party.offer

    def offer(context: Any, held: Any) -> Any:
        known = {"weight": held.weight, "definition": held.definition} | changes
        length = known.pop("values", held.values.size)
        return honest(context, dataclasses.replace(held, values=held.values[:length], **known))

    cheating.party.offer = offer  # type: ignore[method-assign]
    coordinate(plan, fleet, tmp_path)
    taken, missing = participation(tmp_path)
    assert (taken, missing) == (THREE, {"bergen": code})


def test_a_site_that_adds_more_than_it_offered_loses_the_sum_and_the_round_is_skipped(tmp_path: Path) -> None:
    """Weights of 5 in all leave three eighths of the ring outside what the offers allow."""
    heavy = {
        "aggregation__weights": "public",
        "aggregation__public_weights": dict(zip(NAMES, (2, 1, 1, 1), strict=True)),
    }

    def louder(_name: str, _request: Request, reply: Reply) -> Reply:
        assert isinstance(reply, Masked)
        content = reply.content.copy()
        # Of 27 bits the highest lies behind planes of 16, 8 and 2.
        content[3 * reply.values + math.ceil(reply.values / 4)] ^= 1
        return dataclasses.replace(reply, content=content)

    before = Workbench.for_plan(masked_plan()).initial_weights()
    plan = masked_plan(**SKIP, **heavy)
    outcome = coordinate(plan, MaskedFleet(plan, tamper=instead(Masked, louder, "bergen")), tmp_path)
    assert events(tmp_path, "lost") == [(1, "aggregating", "", "sum-range")]
    assert participation(tmp_path) == ((), {})
    assert np.array_equal(outcome.weights, before)
    assert outcome.test is not None


def test_where_too_few_reveal_the_round_is_skipped_and_they_are_named(tmp_path: Path) -> None:
    before = Workbench.for_plan(masked_plan()).initial_weights()
    plan = masked_plan(**SKIP)
    fleet = MaskedFleet(plan, tamper=instead(Revealed, nothing, "bergen", "drive"))
    outcome = coordinate(plan, fleet, tmp_path)
    assert participation(tmp_path) == ((), {"bergen": "no-answer", "drive": "no-answer"})
    assert np.array_equal(outcome.weights, before)
    (record,) = read_rounds(tmp_path / "rounds.jsonl")
    assert record.loss is None


def test_where_too_few_reveal_the_run_ends_where_the_plan_says_abort(tmp_path: Path) -> None:
    plan = masked_plan(**ONE)
    fleet = MaskedFleet(plan, tamper=instead(Revealed, nothing, "bergen", "drive"))
    with pytest.raises(
        RunError, match=r"0 sites delivered an update in round 1, .*; without bergen \(no-answer\), drive"
    ):
        coordinate(plan, fleet, tmp_path)


def test_a_threshold_that_is_no_safe_one_for_so_many_sites_is_journalled_and_nobody_deals(tmp_path: Path) -> None:
    plan = masked_plan(**SKIP, secure_aggregation__threshold=2)
    fleet = MaskedFleet(plan)
    coordinate(plan, fleet, tmp_path)
    assert {row[3] for row in events(tmp_path, "lost")} == {"threshold-low"}
    assert {kind for _, kind, _ in fleet.asked} == {"Hello", "Train", "Evaluate"}
    assert participation(tmp_path)[0] == ()


def test_a_plan_whose_integers_leave_no_room_for_so_many_sites_ends_before_anybody_trains(tmp_path: Path) -> None:
    """Room for the quorum was asked for when the plan was read; how many sites come is known after they greeted."""
    plan = masked_plan(**SKIP, aggregation__fixed_point={"range": 4.0, "bits": 31})
    with pytest.raises(PlanError) as refused:
        coordinate(plan, MaskedFleet(plan), tmp_path)
    assert refused.value.code == "ring"
    assert "fixed_point.bits" in refused.value.hint
    assert not events(tmp_path, "answered") or {one[1] for one in events(tmp_path, "answered")} == {"admitting"}


@pytest.mark.parametrize(("deadline_s", "step_s"), [(60.0, 5.0), (60.0, 90.0)])
def test_a_step_has_a_time_of_its_own_and_never_more_than_a_question(
    tmp_path: Path, deadline_s: float, step_s: float
) -> None:
    plan = masked_plan(**ONE, participation__deadline_s=deadline_s, secure_aggregation__step_s=step_s)
    fleet = MaskedFleet(plan)
    coordinate(plan, fleet, tmp_path)
    short = min(deadline_s, step_s)
    assert fleet.deadlines_s == {
        **dict.fromkeys(("Hello", "Train", "Evaluate"), deadline_s),
        **dict.fromkeys(("Deal", "Mask", "Confirm", "Unmask"), short),
    }


@pytest.mark.parametrize("question", ["validation", "test"])
def test_statistics_that_cannot_be_summed_leave_a_run_without_those_numbers(
    tmp_path: Path, question: str, of_all: bytes
) -> None:
    plan = masked_plan(**ONE)
    fleet = MaskedFleet(plan, tamper=instead(Masked, nothing, "bergen", "drive", question=question))
    outcome = coordinate(plan, fleet, tmp_path)
    (record,) = read_rounds(tmp_path / "rounds.jsonl")
    assert record.participation.participants == NAMES
    assert (record.metrics is None) == (question == "validation")
    assert (outcome.test is None) == (question == "test")
    assert outcome.weights.tobytes() == of_all


def test_steps_ask_only_those_who_answered_the_step_before(tmp_path: Path) -> None:
    plan = masked_plan(**ONE)
    fleet = MaskedFleet(plan, tamper=instead(Dealt, nothing, "bergen"))
    coordinate(plan, fleet, tmp_path)
    asked = [kind for name, kind, _ in fleet.asked if name == "bergen"]
    steps = ["Deal", "Mask", "Confirm", "Unmask"]
    assert asked == ["Hello", "Train", "Deal", "Evaluate", *steps, "Evaluate", *steps]


class Killed(BaseException):
    """The coordinator's process is gone."""


def killed_in(phase: Phase, after: int) -> Watch:
    """A coordinator that dies when ``after`` sites have answered in ``phase`` of training in round 2."""
    heard: list[str] = []

    def event(state: State, one: Event) -> None:
        if state.question.phase is phase and state.round == 2 and state.about in {None, Phase.TRAINING}:
            heard.append(one.site)
        if len(heard) > after:
            raise Killed

    return Watch(event=event)


@pytest.mark.parametrize(
    "phase",
    [Phase.TRAINING, Phase.DEALING, Phase.MASKING, Phase.CONFIRMING, Phase.UNMASKING],
    ids=lambda one: one.value,
)
def test_a_run_killed_in_any_step_of_a_sum_goes_on_to_the_same_bytes(tmp_path: Path, phase: Phase) -> None:
    plan = masked_plan()
    whole = coordinate(plan, MaskedFleet(plan), tmp_path / "whole")
    fleet = MaskedFleet(plan)
    with pytest.raises(Killed):
        coordinate(plan, fleet, tmp_path / "cut", killed_in(phase, 2))
    assert coordinate(plan, fleet, tmp_path / "cut").checkpoint == whole.checkpoint


def test_a_sum_that_was_unmasked_before_a_crash_is_not_unmasked_again_with_a_site_less(tmp_path: Path) -> None:
    """The two sums would differ by what that site sent."""
    plan = masked_plan(participation__below_quorum="skip-round")
    fleet = MaskedFleet(plan)
    with pytest.raises(Killed):
        coordinate(plan, fleet, tmp_path, killed_in(Phase.UNMASKING, 3))

    def away(name: str, request: Request, reply: Reply) -> Reply | None:
        gone = name == "bergen" and isinstance(reply, Masked) and request.envelope.round == 2
        return None if gone and about(request) == "train" else reply

    coordinate(plan, fleet.tampered_with(away), tmp_path)
    refused = [row for row in events(tmp_path, "failed") if row[3] == "unmasked-otherwise"]
    assert refused
    assert {row[:2] for row in refused} == {(2, "confirming")}
    second = read_rounds(tmp_path / "rounds.jsonl")[1].participation
    assert second.participants == ()


def test_without_the_keys_of_its_sites_a_coordinator_asks_nobody_to_train(tmp_path: Path) -> None:
    plan = masked_plan(**ONE)
    fleet = MaskedFleet(plan)
    fleet.identities = {}
    with pytest.raises(RunError) as caught:
        coordinate(plan, fleet, tmp_path)
    assert caught.value.code == "no-identities"
    assert {kind for _, kind, _ in fleet.asked} == {"Hello"}


def test_a_round_that_was_skipped_says_so_to_who_looks_on(tmp_path: Path) -> None:
    seen: list[RoundRecord] = []
    plan = masked_plan(**SKIP)
    fleet = MaskedFleet(plan, tamper=instead(Offered, nothing, "bergen", "drive", "coimbra"))
    coordinate(plan, fleet, tmp_path, Watch(round=seen.append))
    assert [(one.participation.participants, one.loss) for one in seen] == [((), None)]
    assert set(seen[0].participation.missing) == {"bergen", "drive", "coimbra"}


def test_own_site_steps_are_measured_by_a_sum_too(tmp_path: Path) -> None:
    own = {"personalisation__steps": 2, "personalisation__learning_rate": 0.01}
    plans = (tiny_plan(**SUMMED, **own), masked_plan(**own))
    found = [coordinate(plan, MaskedFleet(plan), tmp_path / plan.digest()[:8]).personalised for plan in plans]
    task = Workbench.for_plan(plans[0]).task
    assert found[0] is not None
    assert found[1] is not None
    assert found[0].block(task)["pooled"] == found[1].block(task)["pooled"]
