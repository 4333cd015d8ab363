"""The coordinator's round: phases in order, one answer each, refusals that change nothing, memory that stays."""

import dataclasses
import tracemalloc
from collections.abc import Callable
from typing import Any, get_args

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from summed import CONTEXT, DEFINITION, STEPS, Sum, code_of, expected, found, held, key_of, names_of, party, run

from server.secure.round import PHASES, Phase, SumRound
from shared.errors import ConsiliumError, PlanError, UpdateRejected
from shared.secure.context import Context
from shared.secure.held import Held, Shape, masked
from shared.secure.holders import Threshold
from shared.secure.papers import Confirmation, Dealing, Revelation
from shared.secure.statements import dealers_message, offer_message

SITES = tuple(sorted(names_of(5)))
ME, *REST = SITES
ANSWERS = {site: held([number, -number, 50], [number], number + 1) for number, site in enumerate(SITES)}
OF_STEP: dict[str, Phase] = dict(zip(STEPS, PHASES, strict=False))


def accepted(sum_: Sum) -> dict[str, Callable[[str], None]]:
    """What each step gives the round, for one site."""
    return {step: lambda site, step=step: getattr(sum_, step)([site]) for step in STEPS}  # type: ignore[misc]


def answer(sum_: Sum, step: str, site: str) -> Any:
    """What ``site`` says in ``step``, not given to the round."""
    site_ = sum_.parties[site]
    return {
        "offer": lambda: site_.offer(CONTEXT, ANSWERS[site]),
        "deal": lambda: site_.deal(CONTEXT, sum_.round.offers()),
        "mask": lambda: site_.mask(CONTEXT, sum_.round.received(site)),
        "confirm": lambda: site_.confirm(CONTEXT, sum_.round.survivors()),
        "unmask": lambda: site_.unmask(CONTEXT, sum_.round.unmasking()),
    }[step]()


def give(sum_: Sum, step: str, site: str, said: Any) -> None:
    {
        "offer": sum_.round.offer,
        "deal": sum_.round.dealt,
        "mask": sum_.round.masked,
        "confirm": sum_.round.confirmed,
        "unmask": sum_.round.revealed,
    }[step](site, said)


def before(step: str) -> Sum:
    """A sum in which everybody has taken every step before ``step``."""
    at = STEPS.index(step)
    return Sum(ANSWERS) if at == 0 else Sum(ANSWERS).until(STEPS[at - 1])


def finish(sum_: Sum, step: str, sites: tuple[str, ...]) -> None:
    """``step`` of ``sites`` and all later ones of everybody, and the right total at the end."""
    getattr(sum_, step)(sites)
    for later in STEPS[STEPS.index(step) + 1 :]:
        getattr(sum_, later)(SITES)
    assert found(sum_.round.total()) == expected(ANSWERS.values())


# --- phases ----------------------------------------------------------------------------------------------------------


def test_a_sum_goes_through_its_phases_and_each_counts_its_own_answers() -> None:
    sum_ = Sum(ANSWERS)
    assert get_args(Phase) == PHASES
    for step, phase in OF_STEP.items():
        if step != "offer":
            assert sum_.round.phase == PHASES[PHASES.index(phase) - 1]
        accepted(sum_)[step](ME)
        assert (sum_.round.phase, sum_.round.answered) == (phase, (ME,))
        getattr(sum_, step)(REST)
        assert sum_.round.answered == SITES
    sum_.round.total()
    assert sum_.round.phase == "summed"


@pytest.mark.parametrize("step", STEPS)
def test_a_phase_does_not_end_before_it_has_begun(step: str) -> None:
    sum_ = before(step)
    ends: dict[str, Callable[[], object]] = {
        "deal": lambda: sum_.round.received(ME),
        "mask": sum_.round.survivors,
        "confirm": sum_.round.unmasking,
        "unmask": sum_.round.total,
    }
    for later in list(ends)[STEPS.index(step) :]:
        assert code_of(ends[later]) == "step-order"
    finish(sum_, step, SITES)


@pytest.mark.parametrize("step", STEPS)
def test_what_comes_when_its_phase_is_over_does_not_count(step: str) -> None:
    sum_ = before(step)
    getattr(sum_, step)([site for site in SITES if site != ME])
    said = answer(sum_, step, ME)
    if step == "unmask":
        sum_.round.total()
    else:
        later = STEPS[STEPS.index(step) + 1]
        getattr(sum_, later)([])
        {"deal": sum_.round.offers, "mask": lambda: sum_.round.received(REST[0])}.get(later, lambda: None)()
    assert code_of(lambda: give(sum_, step, ME, said)) == "step-order"


@pytest.mark.parametrize("step", STEPS)
def test_a_site_answers_once_in_each_phase(step: str) -> None:
    sum_ = before(step)
    said = answer(sum_, step, ME)
    give(sum_, step, ME, said)
    for _ in range(2):
        assert code_of(lambda: give(sum_, step, ME, said)) == "answer-repeated"
    finish(sum_, step, tuple(REST))


@pytest.mark.parametrize("step", STEPS[1:])
def test_who_dropped_out_of_one_phase_is_not_heard_in_the_next(step: str) -> None:
    sum_, whole = before(STEPS[STEPS.index(step) - 1]), before(step)
    getattr(sum_, STEPS[STEPS.index(step) - 1])(REST)
    said = answer(whole, step, ME)
    getattr(sum_, step)(REST)
    assert code_of(lambda: give(sum_, step, ME, said)) == "site-not-asked"
    assert ME not in sum_.round.answered


def test_what_others_dealt_is_for_those_alone_who_dealt() -> None:
    sum_ = before("deal")
    sum_.deal(REST)
    assert code_of(lambda: sum_.round.received(ME)) == "site-not-asked"
    assert code_of(lambda: sum_.round.received("nobody")) == "site-not-asked"
    assert sum_.round.received(REST[0]).dealers == tuple(REST)


def test_papers_and_the_total_are_the_same_however_often_they_are_asked_for() -> None:
    sum_ = Sum(ANSWERS)
    first = run(sum_)
    for get in (sum_.round.offers, sum_.round.survivors, sum_.round.unmasking, lambda: sum_.round.received(ME)):
        assert get() == get()
    assert found(sum_.round.total()) == found(first)


# --- refusals that change nothing ------------------------------------------------------------------------------------


def other_shape(**changes: object) -> Callable[[Any], Any]:
    """An offer of something else, well signed."""

    def change(offer: Any) -> Any:
        bare = offer.model_copy(update={**changes, "signature": ""})
        return bare.model_copy(update={"signature": key_of(ME).sign(offer_message(CONTEXT, bare)).hex()})

    return change


BAD: list[tuple[str, str, Callable[[Any], Any]]] = [
    ("offer", "offer-signature", lambda said: said.model_copy(update={"weight": said.weight + 1})),
    ("offer", "offer-signature", lambda said: said.model_copy(update={"signature": ""})),
    ("offer", "offer-unknown-site", lambda said: said.model_copy(update={"site": REST[0]})),
    ("offer", "offers-differ", other_shape(values=4)),
    ("offer", "offers-differ", other_shape(definition="ef" * 32)),
    ("offer", "key-weak", other_shape(mask_key="00" * 32)),
    ("offer", "offers-repeated", lambda said: other_shape(mask_key=said.cipher_key)(said)),
    ("deal", "dealing-holders", lambda said: Dealing(dealt=said.dealt[1:])),
    ("deal", "dealing-holders", lambda _: Dealing(dealt=())),
    ("mask", "masked-shape", lambda said: dataclasses.replace(said, bits=17)),
    ("mask", "masked-shape", lambda said: dataclasses.replace(said, values=2)),
    ("mask", "masked-shape", lambda said: dataclasses.replace(said, content=said.content[1:])),
    ("mask", "masked-shape", lambda said: masked(np.zeros(4, np.uint32), np.zeros(1, np.uint64), 16, said.signature)),
    ("mask", "dealers-unsigned", lambda said: dataclasses.replace(said, signature="")),
    ("mask", "dealers-unsigned", lambda said: dataclasses.replace(said, signature="00" * 64)),
    ("mask", "dealers-unsigned", lambda said: dataclasses.replace(said, signature=said.signature[:-2])),
    ("mask", "dealers-unsigned", lambda said: dataclasses.replace(said, signature=said.signature.upper())),
    ("mask", "dealers-unsigned", lambda said: dataclasses.replace(said, signature=f"{said.signature} ")),
    ("mask", "dealers-unsigned", lambda said: dataclasses.replace(said, signature="é" * 128)),
    ("confirm", "confirmation-invalid", lambda _: Confirmation(signature="00" * 64)),
    ("unmask", "share-forged", lambda said: Revelation(seeds=dict.fromkeys(said.seeds, "00" * 66), keys={})),
    ("unmask", "revealed-others", lambda said: Revelation(seeds={}, keys=said.seeds)),
    ("unmask", "revealed-others", lambda _: Revelation(seeds={}, keys={})),
]


@pytest.mark.parametrize(("step", "code", "change"), BAD, ids=[f"{number}-{one[1]}" for number, one in enumerate(BAD)])
def test_what_is_refused_has_changed_nothing(step: str, code: str, change: Callable[[Any], Any]) -> None:
    """The site may still answer rightly; and it may be missing, while the others' sum is exact."""
    sum_ = before(step)
    getattr(sum_, step)(REST[:2])
    said = answer(sum_, step, ME)
    for _ in range(2):
        assert code_of(lambda: give(sum_, step, ME, change(said))) == code
    assert sum_.round.answered == tuple(REST[:2])
    finish(sum_, step, (ME, *REST[2:]))


@pytest.mark.parametrize(
    "other",
    [dataclasses.replace(CONTEXT, round=2), dataclasses.replace(CONTEXT, about="test"), CONTEXT],
    ids=["round", "question", "keys"],
)
def test_a_signature_of_the_dealers_of_another_sum_is_none_of_this(other: Context) -> None:
    """Same names, same sites; other offers, where nothing else is different."""
    elsewhere = Sum(ANSWERS, context=other, seed=1).until("mask")
    sum_ = before("mask")
    honest = sum_.parties[ME].mask(CONTEXT, sum_.round.received(ME))
    replayed = dataclasses.replace(honest, signature=elsewhere.masked[ME].signature)
    assert code_of(lambda: sum_.round.masked(ME, replayed)) == "dealers-unsigned"
    finish(sum_, "mask", SITES)


def test_whom_a_site_masked_with_is_passed_on_as_it_was_signed_and_of_nobody_else() -> None:
    sum_ = Sum(ANSWERS).until("deal")
    sum_.mask(REST)
    told = sum_.round.survivors()
    assert told.survivors == tuple(REST)
    assert told.signatures == {site: sum_.masked[site].signature for site in REST}
    said = dealers_message(CONTEXT, sum_.round.offers().sha256(), SITES)
    for site, signature in told.signatures.items():
        key_of(site).verify_key.verify(bytes.fromhex(signature), said)


def test_a_key_that_another_site_offered_is_refused() -> None:
    sum_ = Sum(ANSWERS)
    sum_.offer(REST)
    taken = sum_.parties[REST[0]].offer(CONTEXT, ANSWERS[REST[0]]).mask_key
    false = other_shape(cipher_key=taken)(sum_.parties[ME].offer(CONTEXT, ANSWERS[ME]))
    assert code_of(lambda: sum_.round.offer(ME, false)) == "offers-repeated"


@pytest.mark.parametrize("gone", [1, 2])
def test_a_phase_that_too_few_have_answered_waits_for_more(gone: int) -> None:
    """Whoever ends it too early is refused; a late answer still counts, and the sum is of all that answered."""
    for step in STEPS[1:4]:
        sum_ = before(step)
        getattr(sum_, step)(REST[gone:])
        ends: Callable[[], object] = {
            "deal": lambda sum_=sum_: sum_.round.received(REST[-1]),
            "mask": sum_.round.survivors,
            "confirm": sum_.round.unmasking,
        }[step]
        assert code_of(ends) == "below-threshold"
        assert sum_.round.phase == OF_STEP[step]
        assert not sum_.revealed
        finish(sum_, step, (ME, *REST[:gone]))


def test_a_total_that_lacks_shares_can_be_had_when_they_come() -> None:
    sum_ = Sum(ANSWERS).until("confirm")
    sum_.unmask(REST[:3])
    assert code_of(sum_.round.total) == "shares-missing"
    sum_.unmask([ME])
    assert found(sum_.round.total()) == expected(ANSWERS.values())


# --- bounds --------------------------------------------------------------------------------------------------------


def test_weights_that_would_need_more_than_32_bits_end_the_sum_before_it_begins() -> None:
    answers = {site: held([1], [], 2**20, peak=2**12) for site in SITES}
    sum_ = Sum(answers)
    sum_.offer(SITES)
    with pytest.raises(PlanError) as caught:
        sum_.round.offers()
    assert caught.value.code == "ring"


def test_a_sum_beyond_what_was_offered_is_refused_and_stays_refused() -> None:
    """What no check of a single site can see: masked values of more than the peak."""
    answers = {site: held([0] * 32, [], 1, peak=1) for site in SITES}
    sum_ = Sum(answers).until("deal")
    sum_.mask(REST)
    honest = sum_.parties[ME].mask(CONTEXT, sum_.round.received(ME))
    sum_.round.masked(ME, dataclasses.replace(honest, content=honest.content ^ np.uint8(0x40)))
    sum_.confirm(SITES)
    sum_.unmask(SITES)
    for _ in range(2):
        with pytest.raises(UpdateRejected) as caught:
            sum_.round.total()
        assert caught.value.code == "sum-range"


@given(st.integers(0, 6), st.integers(0, 4), st.sampled_from([0, 1, 1000]))
@settings(max_examples=20)
def test_a_sum_of_any_shape_has_that_shape(values: int, counts: int, peak: int) -> None:
    numbers = np.random.default_rng(values)
    answers = {
        site: Held(
            numbers.integers(-peak, peak, values, np.int32, endpoint=True),
            numbers.integers(-(2**62), 2**62, counts) // len(SITES),
            3,
            peak,
            DEFINITION,
        )
        for site in SITES
    }
    total = run(Sum(answers))
    assert (total.values.shape, total.counts.shape) == ((values,), (counts,))
    assert (total.values.dtype, total.counts.dtype) == (np.int64, np.int64)
    assert found(total) == expected(answers.values())


def test_in_a_simulation_without_a_roster_the_coordinator_takes_keys_on_trust() -> None:
    sum_ = Sum(ANSWERS)
    sum_.round = SumRound(CONTEXT, Threshold(), None, ANSWERS[ME].shape)
    assert found(run(sum_)) == expected(ANSWERS.values())


def test_without_a_roster_too_what_cannot_be_passed_on_is_refused() -> None:
    sum_ = Sum(ANSWERS)
    sum_.round = SumRound(CONTEXT, Threshold(), None, ANSWERS[ME].shape)
    sum_.until("deal")
    honest = sum_.parties[ME].mask(CONTEXT, sum_.round.received(ME))
    for signature in ("", "no signature", honest.signature.upper()):
        false = dataclasses.replace(honest, signature=signature)
        assert code_of(lambda false=false: sum_.round.masked(ME, false)) == "dealers-unsigned"  # type: ignore[misc]
    finish(sum_, "mask", SITES)


def peak_bytes(sites: int, parameters: int) -> int:
    """Most that the coordinator holds while a sum of ``sites`` is added up and its masks are taken off."""
    names = names_of(sites)
    answers = {
        name: Held(np.full(parameters, number, np.int32), np.zeros(3, np.int64), 1, 100, DEFINITION)
        for number, name in enumerate(names)
    }
    sum_ = Sum(answers).until("deal")
    kept, gone = names[:-1], names[-1]
    sum_.round.received(gone)
    tracemalloc.start()
    try:
        for name in kept:
            message = sum_.parties[name].mask(CONTEXT, sum_.round.received(name))
            sum_.round.masked(name, message)
            del message
            # The session keeps its answer for being asked again: that is the site's memory, not the coordinator's.
            forget_answer(sum_, name)
        sum_.confirm(kept)
        sum_.unmask(kept)
        sum_.round.total()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def forget_answer(sum_: Sum, name: str) -> None:
    session = sum_.parties[name]._sessions[CONTEXT.run]
    sum_.parties[name]._sessions[CONTEXT.run] = dataclasses.replace(session, answer=None)


def test_memory_is_that_of_one_sum_however_many_sites_there_are() -> None:
    parameters = 500_000
    few, many = peak_bytes(4, parameters), peak_bytes(16, parameters)
    assert many - few < 4 * parameters, "not one vector more for twelve more sites"


def test_control_what_keeps_every_vector_would_be_seen() -> None:
    """The same measurement of a coordinator that keeps what it is sent."""
    tracemalloc.start()
    try:
        kept = [np.ones(500_000, np.uint32) for _ in range(16)]
        assert tracemalloc.get_traced_memory()[1] > 12 * 4 * 500_000
        assert len(kept) == 16
    finally:
        tracemalloc.stop()


def test_the_round_of_one_question_takes_no_answer_to_another() -> None:
    other = dataclasses.replace(CONTEXT, about="test")
    sum_ = Sum(ANSWERS)
    offer = party(ME, sum_.members, Threshold()).offer(other, ANSWERS[ME])
    assert code_of(lambda: sum_.round.offer(ME, offer)) == "offer-signature"


def test_the_shape_is_the_question_s_and_not_the_first_answer_s() -> None:
    """Else the first liar would shut everybody else out."""
    members = {site: key_of(site).verify_key for site in SITES}
    round_ = SumRound(CONTEXT, Threshold(), members, Shape(3, 1, 100, DEFINITION))
    liar = party(ME, members, Threshold()).offer(CONTEXT, held([1] * 9, [1]))
    with pytest.raises(ConsiliumError) as caught:
        round_.offer(ME, liar)
    assert caught.value.code == "offers-differ"
    for site in REST:
        round_.offer(site, party(site, members, Threshold()).offer(CONTEXT, ANSWERS[site]))
    assert round_.answered == tuple(REST)
