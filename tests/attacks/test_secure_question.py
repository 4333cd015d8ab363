"""A coordinator that asks twice, asks different things, or asks a few: each time for a sum less one site's numbers.

It follows the protocol to the letter; what it chooses is whom it asks, and what. Sites are real, and so is the round.
"""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from masked_federation import NAMES, MaskedFleet, masked_plan
from summed import Sum, code_of, found, held, key_of, names_of, party
from tiny_federation import Tamper, coordinate, tiny_site

import client.secure.party
import client.secure.summing
import server.rounds
from client.secure.party import Party
from client.workbench import Workbench
from server.results import read_rounds
from server.round_values import Phase
from server.secure.round import Summed, SumRound
from shared.messages import (
    About,
    Bytes,
    Confirm,
    Deal,
    Envelope,
    Evaluate,
    Mask,
    Measured,
    Offered,
    Refusal,
    Reply,
    Request,
    Train,
    Unmask,
    Update,
    Vector,
)
from shared.plan_protection import SecureAggregation
from shared.secure.context import Context
from shared.secure.held import Shape
from shared.secure.holders import Circle, Threshold
from shared.secure.papers import Confirmation, Dealing, Offer, Offers, Paper, Revelation
from shared.secure.question import definition
from shared.secure.ring import bits_for
from shared.secure.threshold import rule

VICTIM = "bergen"
HONEST = tuple(site for site in NAMES if site != VICTIM)
PLAN = masked_plan(plan__rounds=3)
REAL = Workbench.for_plan(PLAN).initial_weights()
DEAD = np.zeros_like(REAL)
"""A model that learns next to nothing: what others add to the sum is zero."""


class Refused(Exception):  # noqa: N818 - what happened to the attack
    """Codes of the sites that went no further."""

    def __init__(self, codes: Iterable[str]) -> None:
        super().__init__(*sorted(set(codes)))


def content(paper: Paper) -> Bytes:
    return np.frombuffer(paper.to_bytes(), np.uint8)


def codes(replies: Mapping[str, Reply]) -> dict[str, str]:
    return {site: reply.code for site, reply in replies.items() if isinstance(reply, Refusal)}


def answered(fleet: MaskedFleet, requests: Mapping[str, Request]) -> dict[str, Any]:
    """What sites say; ``Refused`` where one of them refuses."""
    replies = {site: fleet.sites[site].answer(request) for site, request in requests.items()}
    if codes(replies):
        raise Refused(codes(replies).values())
    return replies


def offered(fleet: MaskedFleet, requests: Mapping[str, Request]) -> dict[str, Offer]:
    replies = answered(fleet, requests)
    assert all(isinstance(reply, Offered) for reply in replies.values())
    return {site: Offer.from_bytes(reply.content.tobytes()) for site, reply in replies.items()}


def sum_of(fleet: MaskedFleet, requests: Mapping[str, Request], about: About, without: Sequence[str] = ()) -> Summed:
    """A whole sum of the answers to ``requests``; ``without`` are let down after dealing. Raises ``Refused``."""
    envelope = next(iter(requests.values())).envelope
    context = Context(envelope.plan_digest, envelope.run, envelope.round, about)
    offers = offered(fleet, requests)
    agreed = rule(PLAN.secure_aggregation, PLAN.participation.quorum)
    sum_ = SumRound(context, agreed, fleet.identities, Shape.of(next(iter(offers.values()))))
    for site, offer in offers.items():
        sum_.offer(site, offer)
    left = [site for site in offers if site not in without]
    deal = Deal(envelope, about, content(sum_.offers()))
    for site, reply in answered(fleet, dict.fromkeys(offers, deal)).items():
        sum_.dealt(site, Dealing.from_bytes(reply.content.tobytes()))
    masks = {site: Mask(envelope, about, content(sum_.received(site))) for site in left}
    for site, reply in answered(fleet, masks).items():
        sum_.masked(site, reply)
    confirm = Confirm(envelope, about, content(sum_.survivors()))
    for site, reply in answered(fleet, dict.fromkeys(left, confirm)).items():
        sum_.confirmed(site, Confirmation.from_bytes(reply.content.tobytes()))
    unmask = Unmask(envelope, about, content(sum_.unmasking()))
    for site, reply in answered(fleet, dict.fromkeys(left, unmask)).items():
        sum_.revealed(site, Revelation.from_bytes(reply.content.tobytes()))
    return sum_.total()


def train(weights: Vector, number: int = 1, run: str = "run") -> Train:
    return Train(Envelope(run, PLAN.digest(), number), weights)


def measure(number: int, run: str = "run", weights: Vector = REAL) -> Evaluate:
    return Evaluate(Envelope(run, PLAN.digest(), number), weights, "validation")


def statistics(site: str) -> Any:
    """Oracle: what a site without masks would send."""
    measured = tiny_site(site, PLAN).computed(measure(1))
    assert isinstance(measured, Measured)
    return measured.counts


def update(site: str, weights: Vector = REAL) -> Any:
    """Oracle: the update of a site without masks."""
    computed = tiny_site(site, PLAN).computed(train(weights))
    assert isinstance(computed, Update)
    return computed.values


# --- one model for one site, another for the rest --------------------------------------------------------------------


DIFFERENT: dict[str, Request] = {site: train(REAL if site == VICTIM else DEAD) for site in NAMES}


def paper_of(offers: Mapping[str, Offer]) -> Offers:
    """What a coordinator that checks nothing would send on."""
    own = offers[VICTIM]
    bits = bits_for(own.peak, sum(one.weight for one in offers.values()))
    return Offers(bits=bits, offers=tuple(offers[site] for site in sorted(offers)))


def test_sites_that_were_sent_different_models_do_not_add_up_their_updates() -> None:
    fleet = MaskedFleet(PLAN)
    deal = Deal(Envelope("run", PLAN.digest(), 1), "train", content(paper_of(offered(fleet, DIFFERENT))))
    replies = {site: fleet.sites[site].answer(deal) for site in NAMES}
    assert codes(replies) == dict.fromkeys(NAMES, "offers-differ")


@pytest.mark.parametrize("parameter", [0, REAL.size - 1])
def test_one_bit_of_one_parameter_is_enough_to_be_seen(parameter: int) -> None:
    other = REAL.copy()
    other.view(np.uint32)[parameter] ^= 1
    fleet = MaskedFleet(PLAN)
    offers = offered(fleet, {site: train(other if site == VICTIM else REAL) for site in NAMES})
    deal = Deal(Envelope("run", PLAN.digest(), 1), "train", content(paper_of(offers)))
    assert codes({site: fleet.sites[site].answer(deal) for site in NAMES}) == dict.fromkeys(NAMES, "offers-differ")


def test_nor_does_it_help_to_rewrite_which_model_an_offer_is_about() -> None:
    fleet = MaskedFleet(PLAN)
    offers = offered(fleet, DIFFERENT)
    said = {site: one.model_copy(update={"definition": offers[VICTIM].definition}) for site, one in offers.items()}
    deal = Deal(Envelope("run", PLAN.digest(), 1), "train", content(paper_of(said)))
    replies = codes({site: fleet.sites[site].answer(deal) for site in NAMES})
    assert replies == dict.fromkeys(HONEST, "offer-altered") | {VICTIM: "offer-signature"}


def test_where_a_sum_did_not_name_its_model_one_update_would_lie_open(monkeypatch: pytest.MonkeyPatch) -> None:
    """The control: the same coordinator, and sites that name their numbers only."""
    monkeypatch.setattr(
        client.secure.summing, "definition", lambda schema, _weights, run: definition(schema, DEAD[:0], run)
    )
    total, alone = sum_of(MaskedFleet(PLAN), DIFFERENT, "train"), update(VICTIM)
    assert total.sites == NAMES
    assert np.count_nonzero(alone) > 0.9 * alone.size
    assert (total.values == alone).mean() > 0.9


# --- one model, two sets of sites ------------------------------------------------------------------------------------


def asked_twice(first: Mapping[str, Request], second: Mapping[str, Request], about: About) -> tuple[Summed, Summed]:
    """Sums of all, and of all but one, from the same sites."""
    fleet = MaskedFleet(PLAN)
    return sum_of(fleet, first, about), sum_of(fleet, second, about, (VICTIM,))


def by_run_and_round(context: Context, _defined: str) -> str:
    """How questions must not be told apart."""
    return f"{context.run} {context.round} {context.about}"


AGAIN = {"round": measure(2), "run": measure(1, "another"), "round and run": measure(3, "another")}


@pytest.mark.parametrize("where", AGAIN)
def test_a_model_that_was_measured_is_not_measured_without_one_site(where: str) -> None:
    with pytest.raises(Refused, match=r"^unmasked-otherwise$"):
        asked_twice(dict.fromkeys(NAMES, measure(1)), dict.fromkeys(NAMES, AGAIN[where]), "validation")


@pytest.mark.parametrize("where", AGAIN)
def test_were_it_measured_statistics_of_one_site_would_lie_open(where: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client.secure.party, "question", by_run_and_round)
    first, second = asked_twice(dict.fromkeys(NAMES, measure(1)), dict.fromkeys(NAMES, AGAIN[where]), "validation")
    assert (first.sites, second.sites) == (NAMES, HONEST)
    assert np.array_equal(first.counts - second.counts, statistics(VICTIM))
    assert statistics(VICTIM).any()


def test_of_the_same_sites_it_is_measured_again_and_says_nothing_new() -> None:
    fleet = MaskedFleet(PLAN)
    first, second = (sum_of(fleet, dict.fromkeys(NAMES, measure(number)), "validation") for number in (1, 2))
    assert found(first) == found(second)


def test_another_model_may_be_measured_at_other_sites() -> None:
    fleet, other = MaskedFleet(PLAN), (REAL + np.float32(0.1)).astype(np.float32)
    sum_of(fleet, dict.fromkeys(NAMES, measure(1)), "validation")
    again = dict.fromkeys(NAMES, measure(2, weights=other))
    assert sum_of(fleet, again, "validation", (VICTIM,)).sites == HONEST


def test_a_second_run_does_not_train_the_same_round_without_one_site() -> None:
    with pytest.raises(Refused, match=r"^unmasked-otherwise$"):
        asked_twice(dict.fromkeys(NAMES, train(REAL)), dict.fromkeys(NAMES, train(REAL, run="two")), "train")


def test_did_it_one_update_would_lie_open(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client.secure.party, "question", by_run_and_round)
    first, second = asked_twice(
        dict.fromkeys(NAMES, train(REAL)), dict.fromkeys(NAMES, train(REAL, run="two")), "train"
    )
    assert np.array_equal(first.values - second.values, update(VICTIM))


# --- a few sites, and a few others -----------------------------------------------------------------------------------


EIGHT = tuple(sorted(names_of(8)))
HALF = Threshold(4)


def of_those_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Thresholds as they must not be: of those that a coordinator asks."""
    whole = Threshold.circle

    def circle(self: Threshold, names: Sequence[str], seed: bytes, _enrolled: int = 0) -> Circle:
        return whole(self, names, seed)

    monkeypatch.setattr(Threshold, "circle", circle)


def parties(names: Sequence[str], threshold: Threshold) -> dict[str, Party]:
    members = {name: key_of(name).verify_key for name in names}
    return {name: party(name, members, threshold) for name in names}


def asking(sites: Sequence[str], of: Mapping[str, Party], threshold: Threshold) -> Sum:
    """A sum of ``sites`` by a coordinator that looks into no roster; the answer of each is another power of two."""
    answers = {site: held([], [1 << sorted(of).index(site)]) for site in sites}
    sum_ = Sum(answers, threshold=threshold, parties={site: of[site] for site in sites})
    sum_.round = SumRound(sum_.context, threshold, None, answers[sites[0]].shape)
    return sum_


def both_halves() -> tuple[Summed, Summed]:
    """Seven of eight, confirmed by four; then seven others, confirmed by the other four."""
    of = parties(EIGHT, HALF)
    totals = []
    for asked, confirming in ((EIGHT[:7], EIGHT[:4]), (EIGHT[1:], EIGHT[4:])):
        sum_ = asking(asked, of, HALF).until("mask")
        sum_.confirm(confirming)
        sum_.unmask(confirming)
        totals.append(sum_.round.total())
    return totals[0], totals[1]


def test_no_two_sets_of_sites_are_made_of_one_question_by_asking_some_for_each() -> None:
    of = parties(EIGHT, HALF)
    for asked in (EIGHT[:7], EIGHT[1:]):
        sum_ = asking(asked, of, HALF).until("offer")
        offers = sum_.round.offers()
        for site in asked:
            assert code_of(lambda site=site, paper=offers: of[site].deal(sum_.context, paper)) == "threshold-low"  # type: ignore[misc]  # noqa: B023


def test_could_they_be_two_sites_would_be_told_from_all_others(monkeypatch: pytest.MonkeyPatch) -> None:
    of_those_asked(monkeypatch)
    one, two = both_halves()
    assert (one.sites, two.sites) == (EIGHT[:7], EIGHT[1:])
    assert int((one.counts - two.counts)[0]) == (1 << 0) - (1 << 7)


DEFAULT = rule(SecureAggregation(enabled=True), 1)
THIRTY = names_of(30)


@pytest.mark.parametrize("asked", [2, 20])
def test_whoever_asks_a_few_of_thirty_gets_no_sum_of_a_few(asked: int) -> None:
    of = parties(THIRTY, DEFAULT)
    sum_ = asking(THIRTY[:asked], of, DEFAULT).until("offer")
    offers = sum_.round.offers()
    for site in THIRTY[:asked]:
        assert code_of(lambda site=site: of[site].deal(sum_.context, offers)) == "below-threshold"  # type: ignore[misc]


def test_two_thirds_of_thirty_are_a_sum_and_were_they_of_those_asked_two_would_be(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    enough = asking(THIRTY[:21], parties(THIRTY, DEFAULT), DEFAULT)
    members = {name: key_of(name).verify_key for name in THIRTY}
    enough.round = SumRound(enough.context, DEFAULT, members, held([], [0]).shape)
    assert len(enough.until("unmask").round.total().sites) == 21
    of_those_asked(monkeypatch)
    assert asking(THIRTY[:2], parties(THIRTY, DEFAULT), DEFAULT).until("unmask").round.total().sites == tuple(
        sorted(THIRTY[:2])
    )


# --- rounds of an honest coordinator ---------------------------------------------------------------------------------


SKIPPING = masked_plan(participation__below_quorum="skip-round", participation__quorum=3)


def second_round_lost(name: str, request: Request, reply: Reply) -> Reply | None:
    """In round 2 two updates do not come; then the victim's statistics do not."""
    training = isinstance(request, Train) and name in {"aachen", "drive"}
    measuring = isinstance(request, Evaluate) and request.split == "validation" and name == VICTIM
    return None if request.envelope.round == 2 and (training or measuring) else reply


def ran(folder: Path, tamper: Tamper = second_round_lost) -> tuple[MaskedFleet, Any]:
    fleet = MaskedFleet(SKIPPING, tamper=tamper)
    return fleet, coordinate(SKIPPING, fleet, folder)


def test_after_a_round_that_was_skipped_the_model_of_the_round_before_is_not_measured_again(tmp_path: Path) -> None:
    fleet, outcome = ran(tmp_path)
    first, second = read_rounds(tmp_path / "rounds.jsonl")
    assert (len(first.participation.participants), len(second.participation.participants)) == (4, 0)
    assert first.checkpoint == second.checkpoint
    assert second.metrics is None
    asked = [one for one in fleet.asked if one[1:] == ("Evaluate", 2)]
    assert len(asked) == len(NAMES), "once: to be tested"
    assert outcome.first[0] == 1
    assert outcome.last is None or outcome.last[0] == 1


def by_rounds(state: Any) -> Any:
    """How a coordinator must not go on after a round that was lost."""
    due = state.round == state.shape.rounds or state.round % state.shape.every == 0
    return server.rounds._ask(state, Phase.MEASURING) if due else server.rounds._next_round(state)


def test_were_it_measured_again_sites_would_refuse_and_if_not_one_would_lie_open(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server.rounds, "_after_round", by_rounds)
    fleet, outcome = ran(tmp_path / "refused")
    assert len([one for one in fleet.asked if one[1:] == ("Evaluate", 2)]) == 2 * len(NAMES)
    assert outcome.last is None or outcome.last[0] == 1, "notes hold, whatever the coordinator does"
    monkeypatch.setattr(client.secure.party, "question", by_run_and_round)
    _, outcome = ran(tmp_path / "open")
    (first, one), (last, two) = outcome.first, outcome.last
    assert (first, last) == (1, 2)
    asked = Evaluate(Envelope("run", SKIPPING.digest(), 1), outcome.weights, "validation")
    alone = tiny_site(VICTIM, SKIPPING).computed(asked)
    assert isinstance(alone, Measured)
    assert np.array_equal(one.pooled.flat() - two.pooled.flat(), alone.counts)
