"""A site under secure aggregation: what it has computed stays with it, whatever it is asked and in whatever order."""

import dataclasses
from collections.abc import Iterator
from typing import Any, get_args

import numpy as np
import pytest
from guarded_site import private_plan
from hypothesis import given, settings
from hypothesis import strategies as st
from masked_federation import NAMES, SUMMED, masked_plan, masked_site
from summed import key_of
from tiny_federation import tiny_plan, tiny_site

from client.secure.summing import Summing
from client.site import Site, refusal
from client.workbench import Workbench
from shared.errors import BudgetError, CaseError, ProtocolError, SiteDataError, UpdateRejected
from shared.fixed_point import peak
from shared.messages import (
    About,
    Confirm,
    Cross,
    Deal,
    Envelope,
    Evaluate,
    Hello,
    Mask,
    Masked,
    Measured,
    Offered,
    Personalise,
    Refusal,
    Reply,
    Request,
    Share,
    Shared,
    Train,
    Unmask,
    Update,
    Welcome,
)
from shared.plan import Plan
from shared.secure.papers import Offer
from shared.secure.question import definition

OWN: dict[str, Any] = {"personalisation__steps": 1, "personalisation__learning_rate": 0.01}
PLAN = masked_plan(**OWN)
WEIGHTS = Workbench.for_plan(PLAN).initial_weights()
MEMBERS = {name: key_of(name).verify_key for name in NAMES}
PAPER = np.frombuffer(b"{}", np.uint8)


@pytest.fixture(scope="module")
def site() -> Site:
    return masked_site("aachen", PLAN, MEMBERS)


def envelope(plan: Plan = PLAN, round_number: int = 1) -> Envelope:
    return Envelope("run", plan.digest(), round_number)


QUESTIONS: dict[About, Request] = {
    "train": Train(envelope(), WEIGHTS),
    "validation": Evaluate(envelope(), WEIGHTS, "validation"),
    "test": Evaluate(envelope(round_number=2), WEIGHTS, "test"),
    "personalise": Personalise(envelope(round_number=2), WEIGHTS, "test"),
}


def everything() -> Iterator[Request]:
    """One of each request that there is."""
    yield Hello(envelope(round_number=0))
    yield from QUESTIONS.values()
    yield Share(envelope(round_number=2))
    yield Cross(envelope(round_number=2), WEIGHTS, "bergen")
    yield from (kind(envelope(), "train", PAPER) for kind in (Deal, Mask, Confirm, Unmask))


def offer_in(reply: Reply) -> Offer:
    assert isinstance(reply, Offered), reply
    return Offer.from_bytes(reply.content.tobytes())


def code(reply: Reply) -> str:
    assert isinstance(reply, Refusal), type(reply)
    return reply.code


def test_every_request_is_asked_here() -> None:
    assert {type(request) for request in everything()} == set(get_args(Request))


def test_no_request_gets_an_update_statistics_or_a_model(site: Site) -> None:
    replies = [site.answer(request) for request in everything()]
    assert not [reply for reply in replies if isinstance(reply, Update | Measured | Shared)]
    assert [type(reply) for reply in replies[:5]] == [Welcome, Offered, Offered, Offered, Offered]


def test_the_same_site_without_masks_would_send_them() -> None:
    """A control: what is kept back was there."""
    plain = tiny_plan(**(SUMMED | OWN))
    bare = tiny_site("aachen", plain)
    found = [
        type(bare.answer(dataclasses.replace(request, envelope=envelope(plain, request.envelope.round))))
        for request in QUESTIONS.values()
    ]
    assert found == [Update, Measured, Measured, Measured]


@settings(max_examples=15, deadline=None)
@given(st.lists(st.integers(0, 10), min_size=1, max_size=8))
def test_nor_in_any_order_of_asking(order: list[int]) -> None:
    asked = masked_site("aachen", PLAN, MEMBERS)
    requests = list(everything())
    replies = [asked.answer(requests[at]) for at in order]
    assert {type(reply) for reply in replies} <= {Welcome, Offered, Refusal}


@pytest.mark.parametrize("at", range(11))
def test_a_site_without_masks_answers_nothing_of_such_a_plan(site: Site, at: int) -> None:
    bare = dataclasses.replace(site, summing=None)
    assert code(bare.answer(list(everything())[at])) == "no-masks"


@pytest.mark.parametrize("kind", [Deal, Mask, Confirm, Unmask], ids=lambda one: one.__name__)
def test_a_site_of_a_plan_without_secure_aggregation_takes_no_step(kind: type[Any]) -> None:
    plain = tiny_plan(**SUMMED)
    assert code(tiny_site("aachen", plain).answer(kind(envelope(plain), "train", PAPER))) == "not-in-plan"


def test_what_is_offered_is_as_long_as_what_was_computed_and_says_nothing_else_of_it(site: Site) -> None:
    for about, request in QUESTIONS.items():
        offer, computed = offer_in(site.answer(request)), site.computed(request)
        if about == "train":
            assert isinstance(computed, Update)
            lengths, most = (computed.values.size, 4), peak(PLAN.aggregation.fixed_point)
        else:
            assert isinstance(computed, Measured)
            lengths, most = (0, computed.counts.size), 0
        assert offer.definition == definition(computed.schema, WEIGHTS, "")
        assert ((offer.values, offer.counts), offer.peak, offer.weight) == (lengths, most, 1)


def test_the_weight_that_is_offered_is_the_plan_s() -> None:
    weights = dict(zip(NAMES, (3, 1, 1, 2), strict=True))
    plan = masked_plan(aggregation__weights="public", aggregation__public_weights=weights)
    for name in ("aachen", "drive"):
        heavy = masked_site(name, plan, MEMBERS)
        asked = Train(envelope(plan), WEIGHTS)
        assert offer_in(heavy.answer(asked)).weight == weights[name]
        counted = Evaluate(envelope(plan), WEIGHTS, "validation")
        assert offer_in(heavy.answer(counted)).weight == 1, "patients are counted once, whatever a site weighs"


def test_loss_steps_saturation_and_time_are_in_the_sum_of_training_and_nowhere_else(site: Site) -> None:
    assert site.summing is not None
    kept: list[Any] = []
    spy = dataclasses.replace(site, summing=Summing(_Seen(site.summing.party, kept), PLAN))  # type: ignore[arg-type]
    spy.answer(QUESTIONS["train"])
    computed = site.computed(QUESTIONS["train"])
    assert isinstance(computed, Update)
    (held,) = kept
    assert np.array_equal(held.values, computed.values)
    assert held.counts[:3].tolist() == [computed.loss_sum, computed.steps, computed.saturated]
    assert 0 <= held.counts[3] < 60_000
    assert held.counts.dtype == np.int64


class _Seen:
    """A party that a test may look into: what it is given to hide."""

    def __init__(self, party: Any, kept: list[Any]) -> None:
        self._party, self._kept = party, kept

    def offer(self, context: Any, held: Any) -> Any:
        self._kept.append(held)
        return self._party.offer(context, held)


def test_the_same_question_asked_twice_before_anything_is_dealt_gets_the_same_offer(site: Site) -> None:
    """Though training takes another time: an answer that was lost on its way is asked for again."""
    for request in QUESTIONS.values():
        assert offer_in(site.answer(request)) == offer_in(site.answer(request))
    other = Train(envelope(), WEIGHTS + np.float32(0.1))
    assert offer_in(site.answer(QUESTIONS["train"])) != offer_in(site.answer(other))


def test_what_is_kept_of_a_run_is_of_its_present_sum_however_long_it_lasts() -> None:
    """A site that answers a thousand rounds holds no more than one that answers one."""
    asked = masked_site("aachen", PLAN, MEMBERS)
    assert asked.summing is not None
    update = asked.computed(QUESTIONS["train"])
    for number in range(50):
        question = Train(Envelope(f"run-{number % 2}", PLAN.digest(), number), WEIGHTS)
        asked.summing.held(question, update)
    assert len(asked.summing._took) == 2
    assert {context.round for context, _ in asked.summing._took.values()} == {48, 49}
    assert asked.summing.runs == ("run-0", "run-1")


def test_a_run_that_is_forgotten_leaves_nothing_and_others_stay() -> None:
    asked = masked_site("aachen", PLAN, MEMBERS)
    assert asked.summing is not None
    for run in ("run", "other"):
        asked.answer(Train(Envelope(run, PLAN.digest(), 1), WEIGHTS))
    asked.summing.forget("run")
    asked.summing.forget("run")
    assert asked.summing.runs == tuple(asked.summing._took) == asked.summing.party.runs == ("other",)


def test_the_time_of_the_first_answer_is_that_of_its_repetitions_and_of_no_other_sum() -> None:
    asked = masked_site("aachen", PLAN, MEMBERS)
    assert asked.summing is not None
    update = asked.computed(QUESTIONS["train"])
    assert isinstance(update, Update)
    took: list[int] = []
    for number, seconds in ((1, 2.0), (1, 5.0), (2, 7.0), (2, 9.0)):
        question = Train(Envelope("run", PLAN.digest(), number), WEIGHTS)
        asked.summing.held(question, dataclasses.replace(update, seconds=seconds))
        took.append(asked.summing._took["run"][1])
    assert took == [2000, 2000, 7000, 7000]


def test_a_question_that_fails_is_refused_as_without_masks_and_leaves_no_session(site: Site) -> None:
    fresh = masked_site("aachen", PLAN, MEMBERS)
    short = np.zeros(3, np.float32)
    refused = fresh.answer(Train(envelope(), short))
    plain = tiny_plan(**(SUMMED | OWN))
    assert code(refused) == code(tiny_site("aachen", plain).answer(Train(envelope(plain), short)))
    assert code(fresh.answer(Deal(envelope(), "train", _offers(site)))) == "session-unknown"


def _offers(site: Site) -> Any:
    from shared.secure.papers import Offers

    own = offer_in(site.answer(QUESTIONS["train"]))
    return np.frombuffer(Offers(bits=26, offers=(own,)).to_bytes(), np.uint8)


@pytest.mark.parametrize(
    ("change", "expected"),
    [({"plan_digest": "0" * 64}, "plan-digest"), ({"round": 9}, "round"), ({"protocol": 9}, "protocol")],
    ids=["plan", "round", "protocol"],
)
def test_steps_are_of_the_plan_the_rounds_and_the_protocol_or_refused(
    site: Site, change: dict[str, Any], expected: str
) -> None:
    asked = dataclasses.replace(envelope(), **change)
    for kind in (Deal, Mask, Confirm, Unmask):
        assert code(site.answer(kind(asked, "train", PAPER))) == expected


@pytest.mark.parametrize("kind", [Deal, Mask, Confirm, Unmask], ids=lambda one: one.__name__)
@pytest.mark.parametrize("content", [b"", b"{", b"\xff\x00", b"[" * 9000], ids=["none", "cut", "noise", "deep"])
def test_a_step_without_a_paper_is_refused_and_does_not_end_the_session(
    site: Site, kind: type[Any], content: bytes
) -> None:
    before = offer_in(site.answer(QUESTIONS["train"]))
    assert code(site.answer(kind(envelope(), "train", np.frombuffer(content, np.uint8)))) == "paper-form"
    assert offer_in(site.answer(QUESTIONS["train"])) == before


def test_what_is_no_part_of_a_sum_is_refused_should_a_plan_ever_ask(site: Site) -> None:
    assert site.summing is not None
    shared = Shared(np.zeros(3, np.float32), "ab" * 32)
    masked = Masked(PAPER, 16, 1, 0, "ab" * 64)
    for reply in (shared, masked, Offered(PAPER)):
        with pytest.raises(ProtocolError) as caught:
            site.summing.held(QUESTIONS["train"], reply)
        assert caught.value.code == "not-in-plan"
    for odd in (Share(envelope()), Hello(envelope())):
        with pytest.raises(ProtocolError, match="only answers"):
            site.summing.held(odd, Measured(np.zeros(2, np.int64), "ab" * 32))


@pytest.mark.parametrize("place", range(4), ids=["loss", "steps", "saturated", "milliseconds"])
@pytest.mark.parametrize("sign", [1, -1], ids=["above", "below"])
def test_a_count_of_which_many_could_not_be_added_is_refused_and_the_largest_is_not(place: int, sign: int) -> None:
    """Of 2,047 sites sums stay in 64 bits; one more than the largest is no count."""
    computed = masked_site("aachen", PLAN, MEMBERS).computed(QUESTIONS["train"])
    assert isinstance(computed, Update)
    summing = masked_site("aachen", PLAN, MEMBERS).summing
    assert summing is not None

    def said(number: int) -> Update:
        name = ("loss_sum", "steps", "saturated", "seconds")[place]
        changes: dict[str, Any] = {name: number / 1000 if name == "seconds" else number}
        return dataclasses.replace(computed, **changes)

    with pytest.raises(UpdateRejected) as caught:
        summing.held(QUESTIONS["train"], said(sign * 2**53))
    assert caught.value.code == "update-counts"
    assert str(2**53) not in caught.value.sentence
    fresh = masked_site("aachen", PLAN, MEMBERS).summing
    assert fresh is not None
    assert isinstance(fresh.held(QUESTIONS["train"], said(sign * 2**52)), Offered)
    assert 2047 * 2**52 < 2**63


def test_statistics_beyond_that_are_refused_too(site: Site) -> None:
    assert site.summing is not None
    for number, refused in ((2**52, False), (2**52 + 1, True), (-(2**52) - 1, True), (-(2**63), True)):
        measured = Measured(np.array([0, number], np.int64), "ab" * 32)
        if refused:
            with pytest.raises(UpdateRejected):
                site.summing.held(QUESTIONS["validation"], measured)
        else:
            assert isinstance(site.summing.held(QUESTIONS["validation"], measured), Offered)


OF_CASES = [SiteDataError, CaseError, BudgetError, UpdateRejected]
SENTENCE = "none of the 7 patients of this site falls into the training split, and 0.31 was spent"


@pytest.mark.parametrize("kind", OF_CASES, ids=lambda one: one.__name__)
@pytest.mark.parametrize("hides", ["masks", "privacy", "neither"])
def test_under_masks_or_privacy_a_refusal_says_nothing_of_cases_or_costs(kind: type[Any], hides: str) -> None:
    plans = {"masks": PLAN, "privacy": private_plan(), "neither": tiny_plan(**SUMMED)}
    told = refusal(kind(SENTENCE, hint="ask the 7", code="some-code"), plans[hides])
    assert told.code == "some-code"
    assert (told.sentence == SENTENCE) == (hides == "neither")
    assert hides == "neither" or not any(one in f"{told.sentence} {told.hint}" for one in ("7", "0.31"))


def test_what_is_wrong_with_a_request_is_said_under_masks_as_well() -> None:
    told = refusal(ProtocolError("round 9 of 3", hint="ask for 3", code="round"), PLAN)
    assert (told.code, told.sentence, told.hint) == ("round", "round 9 of 3", "ask for 3")
