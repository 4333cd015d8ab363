"""A coordinator in hostile hands, or a site, against a secure sum: what is tried, and the code it is refused with.

Sites are real and so is the coordinator's round; the attacker changes what is carried between them, and signs with
whatever keys it really has.
"""

import dataclasses
import hashlib
import random
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from summed import CONTEXT, DEFINITION, Sum, carried, code_of, expected, found, held, key_of, names_of, party, run

from client.secure.party import Party
from client.secure.released import Notes
from shared.errors import ConsiliumError
from shared.plan_protection import SecureAggregation
from shared.secure.agreement import KeyPair, agreed, seal_shares
from shared.secure.context import Context
from shared.secure.entropy import seeded
from shared.secure.held import Held
from shared.secure.holders import Threshold
from shared.secure.papers import (
    Confirmation,
    Dealing,
    Offer,
    Offers,
    Paper,
    Received,
    Revelation,
    Survivors,
    Unmasking,
)
from shared.secure.question import question
from shared.secure.shamir import SHARE_BYTES, split
from shared.secure.statements import offer_message, share_commitment, survivors_message
from shared.secure.threshold import rule

SITES = tuple(sorted(names_of(5)))
VICTIM, LIAR, *OTHERS = SITES
ANSWERS: dict[str, Held] = {
    site: held([10 * number, -number, 100], [number, 1], number + 1) for number, site in enumerate(SITES)
}


def until(step: str, **given: Any) -> Sum:
    return Sum(ANSWERS, **given).until(step)


def with_offer(offers: Offers, changed: Offer) -> Offers:
    kept = {one.site: one for one in offers.offers} | {changed.site: changed}
    return offers.model_copy(update={"offers": tuple(kept[site] for site in sorted(kept))})


def signed(offer: Offer, signer: str, context: Context = CONTEXT, **changes: object) -> Offer:
    """``offer`` with changes, signed anew by ``signer``."""
    bare = offer.model_copy(update={**changes, "signature": ""})
    return bare.model_copy(update={"signature": key_of(signer).sign(offer_message(context, bare)).hex()})


def own_keys() -> dict[str, str]:
    """Two keys whose private halves the attacker has."""
    entropy = seeded(b"attacker")
    return {name: KeyPair.generate(entropy).public.hex() for name in ("cipher_key", "mask_key")}


def offer_of(sum_: Sum, site: str) -> Offer:
    return next(one for one in sum_.round.offers().offers if one.site == site)


# --- keys ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("signer", ["as it was", LIAR, "mallory"], ids=["unsigned", "colluding-site", "coordinator"])
def test_a_coordinator_in_the_middle_cannot_put_its_keys_in_place_of_a_site_s(signer: str) -> None:
    sum_ = until("offer")
    true = offer_of(sum_, VICTIM)
    false = true.model_copy(update=own_keys()) if signer == "as it was" else signed(true, signer, **own_keys())
    offers = with_offer(sum_.round.offers(), false)
    for site in (LIAR, *OTHERS):
        assert code_of(lambda site=site: sum_.parties[site].deal(CONTEXT, offers)) == "offer-signature"  # type: ignore[misc]
    assert code_of(lambda: sum_.parties[VICTIM].deal(CONTEXT, offers)) == "offer-altered"


@pytest.mark.parametrize("changed", ["cipher_key", "mask_key", "commitment"])
def test_one_swapped_key_or_commitment_is_enough_to_be_seen(changed: str) -> None:
    sum_ = until("offer")
    false = offer_of(sum_, LIAR).model_copy(update={changed: own_keys()["cipher_key"]})
    assert code_of(lambda: sum_.parties[VICTIM].deal(CONTEXT, with_offer(sum_.round.offers(), false))) == (
        "offer-signature"
    )


ELSEWHERE = {
    "round": dataclasses.replace(CONTEXT, round=CONTEXT.round - 1),
    "run": dataclasses.replace(CONTEXT, run="run-0"),
    "plan": dataclasses.replace(CONTEXT, plan_digest="0" * 64),
    "question": dataclasses.replace(CONTEXT, about="test"),
}


@pytest.mark.parametrize("which", ELSEWHERE)
def test_offers_of_another_round_run_plan_or_question_are_refused(which: str) -> None:
    earlier = until("offer", context=ELSEWHERE[which])
    sum_ = until("offer", seed=1)
    replayed = with_offer(sum_.round.offers(), offer_of(earlier, LIAR))
    assert code_of(lambda: sum_.parties[VICTIM].deal(CONTEXT, replayed)) == "offer-signature"
    late = Sum(ANSWERS, seed=1)
    assert code_of(lambda: late.round.offer(LIAR, offer_of(earlier, LIAR))) == "offer-signature"


def test_an_offer_of_an_abandoned_session_of_the_same_question_comes_to_nothing() -> None:
    """Its signature holds; but its site refuses, and what it dealt then does not open with the others' new keys."""
    abandoned = until("deal")
    stale = abandoned.round.received(VICTIM)
    sum_ = until("offer", seed=1)
    replayed = with_offer(sum_.round.offers(), offer_of(abandoned, LIAR))
    assert code_of(lambda: sum_.parties[LIAR].deal(CONTEXT, replayed)) == "offer-altered"
    dealings = {site: sum_.parties[site].deal(CONTEXT, replayed) for site in SITES if site != LIAR}
    dealt = [one for site in OTHERS for one in dealings[site].dealt if one.holder == VICTIM]
    dealt += [one for one in stale.dealt if one.dealer == LIAR]
    received = Received(dealers=SITES, dealt=tuple(sorted(dealt, key=lambda one: one.dealer)))
    assert code_of(lambda: sum_.parties[VICTIM].mask(CONTEXT, received)) == "share-sealed"


def test_nobody_but_active_members_of_the_roster_has_a_part() -> None:
    sum_ = until("offer")
    mallory = signed(offer_of(sum_, LIAR), "mallory", site="mallory", **own_keys())
    offers = with_offer(sum_.round.offers(), mallory)
    assert code_of(lambda: sum_.parties[VICTIM].deal(CONTEXT, offers)) == "offer-unknown-site"
    assert code_of(lambda: Sum(ANSWERS).round.offer("mallory", mallory)) == "offer-unknown-site"
    assert code_of(lambda: Sum(ANSWERS).round.offer(LIAR, offer_of(sum_, VICTIM))) == "offer-unknown-site"


def test_a_site_suspended_since_it_offered_has_no_part() -> None:
    sum_ = until("offer")
    del sum_.members[LIAR]
    assert code_of(lambda: sum_.parties[VICTIM].deal(CONTEXT, sum_.round.offers())) == "offer-unknown-site"


def test_no_key_is_offered_twice_by_one_or_by_two() -> None:
    sum_ = until("offer")
    true = offer_of(sum_, VICTIM)
    for changes in ({"cipher_key": true.cipher_key}, {"mask_key": true.cipher_key}):
        twice = signed(offer_of(sum_, LIAR), LIAR, **changes)
        offers = with_offer(sum_.round.offers(), twice)
        assert code_of(lambda offers=offers: sum_.parties[VICTIM].deal(CONTEXT, offers)) == "offers-repeated"  # type: ignore[misc]
        late = Sum(ANSWERS)
        late.offer([VICTIM])
        assert code_of(lambda twice=twice, late=late: late.round.offer(LIAR, twice)) == "offers-repeated"  # type: ignore[misc]


def test_no_site_is_there_twice() -> None:
    sum_ = until("offer")
    offers = sum_.round.offers()
    other = signed(offer_of(sum_, LIAR), LIAR, **own_keys())
    doubled = offers.model_copy(update={"offers": tuple(sorted((*offers.offers, other), key=lambda one: one.site))})
    assert code_of(lambda: sum_.parties[VICTIM].deal(CONTEXT, doubled)) == "offers-repeated"


def test_a_site_sees_its_own_offer_as_it_made_it_or_refuses() -> None:
    sum_ = until("offer")
    offers = sum_.round.offers()
    heavier = signed(offer_of(sum_, VICTIM), VICTIM, weight=1000)
    without = offers.model_copy(update={"offers": tuple(one for one in offers.offers if one.site != VICTIM)})
    for false in (with_offer(offers, heavier), without):
        assert code_of(lambda false=false: sum_.parties[VICTIM].deal(CONTEXT, false)) == "offer-altered"  # type: ignore[misc]


@pytest.mark.parametrize("order", [0, 1, 325606250916557431795983626356110631294008115727848805560023387167927233504])
def test_a_key_that_makes_a_known_secret_is_refused(order: int) -> None:
    """Points of small order (RFC 7748, section 6.1): whatever the other's key is, the secret is zero."""
    sum_ = Sum(ANSWERS)
    true = sum_.parties[LIAR].offer(CONTEXT, ANSWERS[LIAR])
    for which in ("cipher_key", "mask_key"):
        weak = signed(true, LIAR, **{which: order.to_bytes(32, "little").hex()})
        assert code_of(lambda weak=weak: sum_.round.offer(LIAR, weak)) == "key-weak"  # type: ignore[misc]


# --- what is summed --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"values": 4}, "offers-differ"),
        ({"counts": 0}, "offers-differ"),
        ({"peak": 1}, "offers-differ"),
        ({"definition": "ef" * 32}, "offers-differ"),
        ({"weight": 2**31 - 1}, "ring"),
        ({"weight": 1000}, "ring-announced"),
    ],
    ids=str,
)
def test_a_colluding_site_cannot_make_the_others_add_up_something_else(changes: dict[str, int], code: str) -> None:
    sum_ = until("offer")
    offers = with_offer(sum_.round.offers(), signed(offer_of(sum_, LIAR), LIAR, **changes))
    assert code_of(lambda: sum_.parties[VICTIM].deal(CONTEXT, offers)) == code


@pytest.mark.parametrize("bits", [17, 20, 32])
def test_a_ring_of_another_width_than_the_offers_need_is_refused(bits: int) -> None:
    sum_ = until("offer")
    offers = sum_.round.offers().model_copy(update={"bits": bits})
    assert code_of(lambda: sum_.parties[VICTIM].deal(CONTEXT, offers)) == "ring-announced"


def test_a_ring_that_is_too_narrow_for_the_sum_is_refused_by_everybody() -> None:
    answers = {site: held([30_000], [], 9, peak=30_000) for site in SITES}
    sum_ = Sum(answers).until("offer")
    assert sum_.round.offers().bits == (2 * 30_000 * 45).bit_length() == 22
    narrow = sum_.round.offers().model_copy(update={"bits": 16})
    for site in SITES:
        assert code_of(lambda site=site: sum_.parties[site].deal(CONTEXT, narrow)) == "ring-announced"  # type: ignore[misc]
    sum_.deal(SITES)
    message = sum_.parties[VICTIM].mask(CONTEXT, sum_.round.received(VICTIM))
    assert code_of(lambda: sum_.round.masked(VICTIM, dataclasses.replace(message, bits=16))) == "masked-shape"


def test_whoever_masks_what_it_has_not_offered_spoils_the_sum_and_that_is_seen() -> None:
    answers = {site: dataclasses.replace(one, values=np.zeros(64, np.int32)) for site, one in ANSWERS.items()}
    sum_ = Sum(answers).until("deal")
    sum_.mask(site for site in SITES if site != LIAR)
    honest = sum_.parties[LIAR].mask(CONTEXT, sum_.round.received(LIAR))
    sum_.round.masked(LIAR, dataclasses.replace(honest, content=honest.content ^ np.uint8(64)))
    sum_.confirm(SITES)
    sum_.unmask(SITES)
    for _ in range(2):
        assert code_of(sum_.round.total) == "sum-range"


# --- thresholds and who is in the sum ---------------------------------------------------------------------------------


def test_a_site_among_too_few_takes_no_step() -> None:
    sum_ = until("offer")
    offers = sum_.round.offers()
    few = offers.model_copy(update={"offers": offers.offers[:2]})
    assert code_of(lambda: at_threshold(sum_, 4).deal(CONTEXT, few)) == "below-threshold"
    sum_.deal(SITES)
    received = sum_.round.received(VICTIM)
    cut = Received(dealers=received.dealers[:3], dealt=received.dealt[:2])
    assert code_of(lambda: sum_.parties[VICTIM].mask(CONTEXT, cut)) == "below-threshold"
    sum_.mask(SITES)
    assert code_of(lambda: sum_.parties[VICTIM].confirm(CONTEXT, told(sum_, SITES[:3]))) == "below-threshold"


def told(sum_: Sum, survivors: tuple[str, ...]) -> Survivors:
    """Those of ``survivors`` who masked with what they signed, as the coordinator would tell it."""
    signatures = {site: sum_.masked[site].signature for site in survivors if site in sum_.masked}
    return Survivors(survivors=survivors, signatures=signatures)


def at_threshold(sum_: Sum, least: int) -> Party:
    """The victim, with another rule."""
    site = party(VICTIM, sum_.members, Threshold(least))
    site.offer(CONTEXT, ANSWERS[VICTIM])
    return site


@pytest.mark.parametrize("least", [1, 2])
def test_a_threshold_that_two_groups_of_sites_could_reach_is_refused(least: int) -> None:
    sum_ = until("offer")
    assert code_of(lambda: at_threshold(sum_, least).deal(CONTEXT, sum_.round.offers())) == "threshold-low"
    assert code_of(lambda: run(Sum(ANSWERS, Threshold(least)))) == "threshold-low"


def test_a_sum_of_one_site_is_none() -> None:
    sum_ = until("offer")
    alone = Offers(bits=16, offers=(offer_of(sum_, VICTIM),))
    assert code_of(lambda: sum_.parties[VICTIM].deal(CONTEXT, alone)) == "below-threshold"


def test_one_honest_site_among_those_that_obey_the_coordinator_is_no_sum_below_the_plan_s_quorum() -> None:
    """Asked alone, with two that collude, it would be all that the coordinator does not know."""
    three = (VICTIM, LIAR, OTHERS[0])
    answers = {site: ANSWERS[site] for site in three}
    sum_ = Sum(answers).until("offer")
    for agreement in (Threshold(least=4), Threshold(4), rule(SecureAggregation(), 4)):
        site = party(VICTIM, sum_.members, agreement)
        assert site.offer(CONTEXT, ANSWERS[VICTIM]) == offer_of(sum_, VICTIM)
        for _ in range(2):
            refused = code_of(lambda site=site: site.deal(CONTEXT, sum_.round.offers()))  # type: ignore[misc]
            assert refused == "below-threshold"


def test_control_without_a_quorum_two_colluding_sites_and_the_coordinator_have_the_third_s_values() -> None:
    """Nothing is wrong with the sum: they subtract what they added."""
    victim, *colluding = VICTIM, LIAR, OTHERS[0]
    sum_ = Sum({site: ANSWERS[site] for site in (victim, *colluding)})
    values, counts, weight = found(run(sum_))
    known = expected(ANSWERS[site] for site in colluding)
    left = [total - known_ for total, known_ in zip(flat((values, counts, weight)), flat(known), strict=True)]
    assert left == flat(expected([ANSWERS[victim]]))


def flat(sums: tuple[list[int], list[int], int]) -> list[int]:
    return [*sums[0], *sums[1], sums[2]]


@pytest.mark.parametrize(
    ("dealers", "code"),
    [(SITES[1:], "dealers-unknown"), ((*SITES, "zzz"), "dealers-unknown")],
    ids=["without-the-reader", "with-a-stranger"],
)
def test_those_who_dealt_are_those_who_offered(dealers: tuple[str, ...], code: str) -> None:
    sum_ = until("deal")
    received = sum_.round.received(VICTIM).model_copy(update={"dealers": dealers})
    assert code_of(lambda: sum_.parties[VICTIM].mask(CONTEXT, received)) == code


def test_a_site_masks_with_each_neighbour_that_dealt_or_not_at_all() -> None:
    """Else the coordinator would choose with whom: with none but those who obey it."""
    sum_ = until("deal")
    received, other = sum_.round.received(VICTIM), sum_.round.received(LIAR)
    addressed = received.dealt[0].model_copy(update={"holder": LIAR})
    false = (
        received.dealt[1:],
        (),
        (*received.dealt, received.dealt[0]),
        other.dealt,
        (addressed, *received.dealt[1:]),
    )
    for dealt in false:
        cut = received.model_copy(update={"dealt": dealt})
        assert code_of(lambda cut=cut: sum_.parties[VICTIM].mask(CONTEXT, cut)) == "shares-dealt"  # type: ignore[misc]


@pytest.mark.parametrize("survivors", [SITES[1:], (*SITES, "zzz")], ids=["without-the-reader", "with-a-stranger"])
def test_survivors_are_those_who_dealt_with_the_reader_among_them(survivors: tuple[str, ...]) -> None:
    sum_ = until("mask")
    code = code_of(lambda: sum_.parties[VICTIM].confirm(CONTEXT, told(sum_, survivors)))
    assert code == "survivors-unknown"


def test_sites_that_are_told_different_survivors_reveal_nothing() -> None:
    """The attack that confirmations are for: seeds from some sites, keys from others, both of the same victim."""
    sum_ = until("mask")
    with_it, without = SITES, tuple(site for site in SITES if site != VICTIM)
    shown = {site: with_it if number % 2 else without for number, site in enumerate(SITES)} | {VICTIM: with_it}
    signatures = {site: sum_.parties[site].confirm(CONTEXT, told(sum_, shown[site])).signature for site in SITES}
    for site in SITES:
        survivors = shown[site]
        for named in (survivors, tuple(one for one in survivors if shown[one] == survivors)):
            asked = Unmasking(
                survivors=survivors,
                dropped=tuple(sorted(set(SITES) - set(survivors))),
                confirmations={one: signatures[one] for one in named},
            )
            with pytest.raises(ConsiliumError) as caught:
                sum_.parties[site].unmask(CONTEXT, asked)
            assert caught.value.code == ("confirmation-invalid" if named == survivors else "confirmations-few")


def test_a_site_that_was_shown_other_dealers_is_in_no_sum_with_its_neighbours() -> None:
    """``LIAR`` was not told of one dealer, who then drops out: its names of survivors are right, its word is not.

    An honest coordinator does not take its values; what one that lies gets of it: ``test_secure_dealers``.
    """
    sum_ = until("deal")
    kept, gone = tuple(site for site in SITES if site != OTHERS[0]), OTHERS[0]
    received = sum_.round.received(LIAR)
    shown = Received(dealers=kept, dealt=tuple(one for one in received.dealt if one.dealer != gone))
    message = sum_.parties[LIAR].mask(CONTEXT, shown)
    assert code_of(lambda: sum_.round.masked(LIAR, message)) == "dealers-unsigned"
    sum_.mask(site for site in kept if site != LIAR)
    sum_.masked[LIAR] = message
    for site in kept:
        assert code_of(lambda site=site: sum_.parties[site].confirm(CONTEXT, told(sum_, kept))) == "dealers-differ"  # type: ignore[misc]


def test_a_confirmation_that_says_other_dealers_does_not_count() -> None:
    """Whoever signs for both sets of dealers, or is let: a confirmation holds the dealers once more."""
    sum_ = until("mask")
    digest, kept = sum_.round.offers().sha256(), SITES[:4]
    other = key_of(LIAR).sign(survivors_message(CONTEXT, digest, kept, SITES)).hex()
    survivors = sum_.round.survivors()
    assert code_of(lambda: sum_.round.confirmed(LIAR, Confirmation(signature=other))) == "confirmation-invalid"
    sum_.confirm(site for site in SITES if site != LIAR)
    asked = sum_.round.unmasking()
    false = asked.model_copy(update={"confirmations": asked.confirmations | {LIAR: other}})
    assert asked.survivors == survivors.survivors
    assert code_of(lambda: sum_.parties[VICTIM].unmask(CONTEXT, false)) == "confirmation-invalid"


def test_shares_sealed_to_a_key_that_only_one_site_was_shown_do_not_open() -> None:
    """``OTHERS[0]`` colludes and signed two offers: ``LIAR`` was shown the second."""
    sum_ = until("offer")
    second = signed(offer_of(sum_, OTHERS[0]), OTHERS[0], **own_keys())
    sum_.round.dealt(LIAR, sum_.parties[LIAR].deal(CONTEXT, with_offer(sum_.round.offers(), second)))
    sum_.deal(site for site in SITES if site != LIAR)
    assert code_of(lambda: sum_.parties[OTHERS[0]].mask(CONTEXT, sum_.round.received(OTHERS[0]))) == "share-sealed"


# --- unmasking -------------------------------------------------------------------------------------------------------


def confirmed_without(dropped: str = OTHERS[-1]) -> Sum:
    """A sum that one site has dropped out of, before it is unmasked."""
    sum_ = until("deal")
    kept = [site for site in SITES if site != dropped]
    sum_.mask(kept)
    sum_.confirm(kept)
    return sum_


def test_both_shares_of_a_site_are_not_had_in_one_request() -> None:
    sum_ = confirmed_without()
    asked = sum_.round.unmasking()
    both = asked.model_copy(update={"dropped": tuple(sorted((*asked.dropped, VICTIM)))})
    for site in asked.survivors:
        assert code_of(lambda site=site: sum_.parties[site].unmask(CONTEXT, both)) == "both-shares"  # type: ignore[misc]


def test_both_shares_of_a_site_are_not_had_in_two_requests() -> None:
    sum_ = confirmed_without()
    asked = sum_.round.unmasking()
    moved = asked.model_copy(
        update={
            "survivors": tuple(site for site in asked.survivors if site != VICTIM),
            "dropped": tuple(sorted((*asked.dropped, VICTIM))),
        }
    )
    assert code_of(lambda: sum_.parties[LIAR].unmask(CONTEXT, moved)) == "survivors-changed"
    sum_.parties[LIAR].unmask(CONTEXT, asked)
    assert code_of(lambda: sum_.parties[LIAR].unmask(CONTEXT, moved)) == "step-repeated"


def test_a_second_set_of_survivors_is_not_confirmed_after_the_first() -> None:
    sum_ = confirmed_without()
    fewer = told(sum_, tuple(site for site in sum_.round.survivors().survivors if site != VICTIM))
    assert code_of(lambda: sum_.parties[LIAR].confirm(CONTEXT, fewer)) == "step-repeated"


@pytest.mark.parametrize("field", ["survivors", "dropped"])
def test_nobody_is_left_out_of_what_was_confirmed(field: str) -> None:
    sum_ = confirmed_without()
    asked = sum_.round.unmasking()
    fewer = asked.model_copy(update={field: getattr(asked, field)[1:]})
    assert code_of(lambda: sum_.parties[LIAR].unmask(CONTEXT, fewer)) == "survivors-changed"


def test_confirmations_are_by_enough_survivors_over_the_same() -> None:
    sum_ = confirmed_without()
    asked, gone = sum_.round.unmasking(), OTHERS[-1]
    said = survivors_message(CONTEXT, sum_.round.offers().sha256(), SITES, asked.survivors)
    by_gone = {gone: key_of(gone).sign(said).hex()}
    forged = {LIAR: key_of("mallory").sign(said).hex()}
    few = dict(list(asked.confirmations.items())[:3])
    for changed, code in (
        (asked.confirmations | by_gone, "confirmation-unknown"),
        (asked.confirmations | forged, "confirmation-invalid"),
        (few, "confirmations-few"),
        ({}, "confirmations-few"),
    ):
        false = asked.model_copy(update={"confirmations": changed})
        assert code_of(lambda false=false: sum_.parties[VICTIM].unmask(CONTEXT, false)) == code  # type: ignore[misc]


def test_a_confirmation_of_an_earlier_session_is_none_of_a_later_one() -> None:
    earlier, later = until("confirm"), until("mask", seed=1)
    confirmed = earlier.parties[VICTIM].confirm(CONTEXT, earlier.round.survivors())
    assert earlier.round.survivors().survivors == later.round.survivors().survivors
    assert code_of(lambda: later.round.confirmed(VICTIM, confirmed)) == "confirmation-invalid"


@pytest.mark.parametrize("notes", ["memory", "disk"])
def test_a_later_sum_of_the_question_is_unmasked_for_the_same_sites_only(notes: str, tmp_path: Path) -> None:
    """Two sums that differ by one site are that site's values."""
    members = {site: key_of(site).verify_key for site in SITES}
    kept = {
        site: party(site, members, Threshold(), released=Notes(tmp_path / site) if notes == "disk" else None)
        for site in SITES
    }
    first = Sum(ANSWERS, parties=kept)
    assert found(run(first)) == expected(ANSWERS.values())
    if notes == "disk":
        kept = {site: party(site, members, Threshold(), seed=9, released=Notes(tmp_path / site)) for site in SITES}
    second = Sum(ANSWERS, parties=kept).until("deal")
    left = [site for site in SITES if site != VICTIM]
    second.mask(left)
    survivors = second.round.survivors()
    for site in left:
        assert code_of(lambda site=site: kept[site].confirm(CONTEXT, survivors)) == "unmasked-otherwise"  # type: ignore[misc]
    assert found(run(Sum(ANSWERS, parties=kept))) == expected(ANSWERS.values())


def test_a_sum_confirmed_for_one_set_and_unmasked_for_another_in_between_stays_masked() -> None:
    """Whatever was confirmed meanwhile: what counts is the note when shares are about to leave."""
    sum_ = until("confirm")
    other = tuple(site for site in SITES if site != VICTIM)
    sum_.parties[LIAR]._released.note(question(CONTEXT, DEFINITION), other)
    assert code_of(lambda: sum_.parties[LIAR].unmask(CONTEXT, sum_.round.unmasking())) == "unmasked-otherwise"


# --- forged shares ---------------------------------------------------------------------------------------------------


def flipped(share: str) -> str:
    return format(int(share, 16) ^ 1, f"0{2 * SHARE_BYTES}x")


def forged(revelation: Revelation, dealer: str) -> Revelation:
    return revelation.model_copy(update={"seeds": revelation.seeds | {dealer: flipped(revelation.seeds[dealer])}})


def test_forged_shares_are_told_and_the_sum_of_the_others_is_exact() -> None:
    sum_ = until("confirm")
    revealed = {site: sum_.parties[site].unmask(CONTEXT, sum_.round.unmasking()) for site in SITES}
    assert code_of(lambda: sum_.round.revealed(LIAR, forged(revealed[LIAR], VICTIM))) == "share-forged"
    for site in SITES:
        if site != LIAR:
            sum_.round.revealed(site, revealed[site])
    assert sum_.round.answered == (VICTIM, *OTHERS)
    assert found(sum_.round.total()) == expected(ANSWERS.values())


def test_more_forgers_than_the_threshold_allows_cost_the_sum_and_nothing_else() -> None:
    sum_ = until("confirm")
    asked = sum_.round.unmasking()
    for number, site in enumerate(SITES):
        revelation = sum_.parties[site].unmask(CONTEXT, asked)
        if number < 2:
            assert code_of(lambda: sum_.round.revealed(site, forged(revelation, VICTIM))) == "share-forged"  # noqa: B023
        else:
            sum_.round.revealed(site, revelation)
    assert code_of(sum_.round.total) == "shares-missing"


def test_a_share_of_somebody_else_or_of_the_other_secret_does_not_count() -> None:
    sum_ = confirmed_without()
    asked = sum_.round.unmasking()
    mine, other = (sum_.parties[site].unmask(CONTEXT, asked) for site in (VICTIM, LIAR))
    assert code_of(lambda: sum_.round.revealed(VICTIM, other)) == "share-forged"
    turned = Revelation(seeds=mine.keys, keys=mine.seeds)
    assert code_of(lambda: sum_.round.revealed(VICTIM, turned)) == "revealed-others"
    fewer = mine.model_copy(update={"seeds": dict(list(mine.seeds.items())[1:])})
    assert code_of(lambda: sum_.round.revealed(VICTIM, fewer)) == "revealed-others"
    sum_.round.revealed(VICTIM, mine)


def dealing(sum_: Sum, change: Callable[[int, bytes], bytes], commit: str) -> Dealing:
    """What ``LIAR`` deals with shares changed by holder; commitments to the changed ones, or to the true ones."""
    honest = sum_.parties[LIAR].deal(CONTEXT, sum_.round.offers())
    secrets = sum_.parties[LIAR]._sessions[CONTEXT.run].state.secrets  # type: ignore[union-attr]
    entropy = seeded(b"liar")
    shares = zip(split(secrets.seed, 5, 4, entropy), split(secrets.mask.private, 5, 4, entropy), strict=True)
    dealt = []
    for number, (one, (seed, key)) in enumerate(zip(honest.dealt, shares, strict=True)):
        public = bytes.fromhex(offer_of(sum_, one.holder).cipher_key)
        sent = change(number, seed)
        sealed = b""
        if one.holder != LIAR:
            secret = agreed(secrets.cipher.private, public)
            sealed = seal_shares(secret, CONTEXT, LIAR, one.holder, sent + key)
        told = sent if commit == "changed" else seed
        seed_told, key_told = (
            share_commitment(CONTEXT, LIAR, one.holder, "seed", told),
            share_commitment(CONTEXT, LIAR, one.holder, "key", key),
        )
        dealt.append(one.model_copy(update={"sealed": sealed.hex(), "seed": seed_told, "key": key_told}))
    return Dealing(dealt=tuple(dealt))


@pytest.mark.parametrize("change", [lambda _, share: share[1:], lambda _, share: share + b"x"], ids=["short", "long"])
def test_shares_of_another_length_are_refused_although_their_dealer_stands_by_them(change: Any) -> None:
    """Else they would spoil what their holder reveals of everybody."""
    sum_ = until("offer")
    sum_.round.dealt(LIAR, dealing(sum_, change, "changed"))
    sum_.deal(site for site in SITES if site != LIAR)
    code = code_of(lambda: sum_.parties[VICTIM].mask(CONTEXT, sum_.round.received(VICTIM)))
    assert code == "share-inconsistent"


def test_shares_beyond_the_field_make_no_secret_and_their_dealer_is_named() -> None:
    sum_ = until("offer")
    sum_.round.dealt(LIAR, dealing(sum_, lambda _, share: b"\xff" * len(share), "changed"))
    sum_.deal(site for site in SITES if site != LIAR)
    sum_.mask(SITES)
    sum_.confirm(SITES)
    sum_.unmask(site for site in SITES if site != LIAR)
    with pytest.raises(ConsiliumError, match=LIAR) as caught:
        sum_.round.total()
    assert caught.value.code == "secret-inconsistent"


def another(_number: int, share: bytes) -> bytes:
    return bytes.fromhex(flipped(share.hex()))


def test_a_dealer_whose_shares_are_not_what_it_committed_itself_to_is_told_by_those_who_get_them() -> None:
    sum_ = until("offer")
    sum_.round.dealt(LIAR, dealing(sum_, another, "true"))
    sum_.deal(site for site in SITES if site != LIAR)
    for site in (VICTIM, *OTHERS):
        assert (
            code_of(lambda site=site: sum_.parties[site].mask(CONTEXT, sum_.round.received(site)))  # type: ignore[misc]
            == "share-inconsistent"
        )


def test_a_dealer_whose_shares_make_no_secret_is_named_when_they_are_put_together() -> None:
    sum_ = until("offer")
    sum_.round.dealt(LIAR, dealing(sum_, another, "changed"))
    sum_.deal(site for site in SITES if site != LIAR)
    sum_.mask(site for site in SITES if site != LIAR)
    honest = sum_.parties[LIAR].mask(CONTEXT, sum_.round.received(LIAR))
    sum_.round.masked(LIAR, honest)
    sum_.confirm(SITES)
    sum_.unmask(site for site in SITES if site != LIAR)
    with pytest.raises(ConsiliumError, match=LIAR) as caught:
        sum_.round.total()
    assert caught.value.code == "secret-inconsistent"


def test_shares_for_others_than_a_dealer_s_holders_are_refused() -> None:
    sum_ = until("offer")
    honest = sum_.parties[LIAR].deal(CONTEXT, sum_.round.offers())
    for dealt in (honest.dealt[1:], honest.dealt[::-1], (*honest.dealt, honest.dealt[0])):
        false = Dealing(dealt=dealt)
        assert code_of(lambda false=false: sum_.round.dealt(LIAR, false)) == "dealing-holders"  # type: ignore[misc]
    assert code_of(lambda: sum_.round.dealt(VICTIM, honest)) == "dealing-holders"


# --- order of steps --------------------------------------------------------------------------------------------------


def test_a_site_takes_its_steps_in_order_and_each_once() -> None:
    sum_ = until("offer")
    party_, rest = sum_.parties[VICTIM], [site for site in SITES if site != VICTIM]
    survivors = Survivors(survivors=SITES, signatures={})
    empty = Received(dealers=SITES, dealt=())
    assert code_of(lambda: party_.mask(CONTEXT, empty)) == "step-order"
    assert code_of(lambda: party_.confirm(CONTEXT, survivors)) == "step-order"
    offers = sum_.round.offers()
    first = party_.deal(CONTEXT, offers)
    assert party_.deal(CONTEXT, offers) == first, "asked again: the same bytes, not new shares"
    other = with_offer(offers, signed(offer_of(sum_, LIAR), LIAR, **own_keys()))
    assert code_of(lambda: party_.deal(CONTEXT, other)) == "step-repeated"
    sum_.round.dealt(VICTIM, first)
    sum_.deal(rest)
    sum_.mask(SITES)
    assert code_of(lambda: party_.deal(CONTEXT, offers)) == "step-order"


def test_a_question_without_a_session_is_refused() -> None:
    sum_ = until("offer")
    for context in ELSEWHERE.values():
        assert code_of(lambda c=context: sum_.parties[VICTIM].deal(c, sum_.round.offers())) == "session-unknown"  # type: ignore[misc]
    sum_.parties[VICTIM].forget(CONTEXT.run)
    assert code_of(lambda: sum_.parties[VICTIM].deal(CONTEXT, sum_.round.offers())) == "session-unknown"


# --- anything else ---------------------------------------------------------------------------------------------------


def papers_for(site: str) -> Mapping[str, tuple[Sum, Paper]]:
    """What ``site`` is asked, with the sum just before it answers."""
    sums = {step: Sum(ANSWERS) for step in ("deal", "mask", "confirm", "unmask")}
    before = {"deal": "offer", "mask": "deal", "confirm": "mask", "unmask": "confirm"}
    asks: dict[str, Callable[[Sum], Paper]] = {
        "deal": lambda of: of.round.offers(),
        "mask": lambda of: of.round.received(site),
        "confirm": lambda of: of.round.survivors(),
        "unmask": lambda of: of.round.unmasking(),
    }
    return {step: (of.until(before[step]), asks[step](of)) for step, of in sums.items()}


ASKED = papers_for(VICTIM)


@given(st.sampled_from(sorted(ASKED)), st.floats(0, 1, exclude_max=True), st.integers(0, 127))
@example("unmask", 0.5, 48)
def test_no_changed_character_of_what_is_carried_to_a_site_is_accepted(step: str, place: float, code: int) -> None:
    sum_, paper = ASKED[step]
    content = bytearray(paper.to_bytes())
    position = int(place * len(content))
    if content[position] == code:
        return
    content[position] = code
    with pytest.raises(ConsiliumError):
        getattr(sum_.parties[VICTIM], step)(CONTEXT, type(paper).from_bytes(bytes(content)))


def test_what_was_refused_a_hundred_times_is_answered_when_it_is_right() -> None:
    for step, (sum_, paper) in papers_for(VICTIM).items():
        numbers, content = random.Random(1), paper.to_bytes()
        for _ in range(25):
            place = numbers.randrange(len(content))
            changed = content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :]
            with pytest.raises(ConsiliumError):
                getattr(sum_.parties[VICTIM], step)(CONTEXT, type(paper).from_bytes(changed))
        getattr(sum_.parties[VICTIM], step)(CONTEXT, carried(paper))


def test_what_a_site_holds_after_each_step_has_no_secret_that_it_needs_no_longer() -> None:
    sum_ = until("mask")
    state = repr(dataclasses.asdict(sum_.parties[VICTIM]._sessions[CONTEXT.run].state.agreed))  # type: ignore[union-attr]
    after = sum_.parties[VICTIM]._sessions[CONTEXT.run].state
    assert {field.name for field in dataclasses.fields(after)} == {"agreed", "dealers", "shares"}
    assert "private" not in state
    sum_.confirm(SITES)
    sum_.unmask(SITES)
    assert dataclasses.fields(sum_.parties[VICTIM]._sessions[CONTEXT.run].state) == ()


def test_no_secret_shows_itself_when_printed() -> None:
    sum_ = until("offer")
    state = sum_.parties[VICTIM]._sessions[CONTEXT.run].state
    secrets = state.secrets  # type: ignore[union-attr]
    for secret in (secrets.seed, secrets.mask.private, secrets.cipher.private):
        assert repr(secret) not in repr(state)
        assert hashlib.sha256(secret).hexdigest() not in repr(state)
    assert repr(ANSWERS[VICTIM].values) not in repr(ANSWERS[VICTIM])
