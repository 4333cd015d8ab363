"""What is signed and committed to: bound to the question, to the parties and to the kind; no two say the same."""

import dataclasses
import hashlib
import itertools
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from summed import CONTEXT, held, key_of, party

from shared.crypto.signing import SigningKey
from shared.secure.holders import Threshold
from shared.secure.papers import Offer
from shared.secure.statements import (
    graph_seed,
    offer_message,
    seed_commitment,
    share_commitment,
    survivors_digest,
    survivors_message,
)

OTHERS = [
    dataclasses.replace(CONTEXT, plan_digest="0" * 64),
    dataclasses.replace(CONTEXT, run="run-2"),
    dataclasses.replace(CONTEXT, round=4),
    dataclasses.replace(CONTEXT, about="test"),
]


def an_offer() -> Offer:
    return party("aachen", {}, Threshold()).offer(CONTEXT, held([1], [2]))


def test_every_field_of_an_offer_but_its_signature_is_signed() -> None:
    offer = an_offer()
    body = offer_message(CONTEXT, offer).split(b"\n")[2]
    assert json.loads(body).keys() == Offer.model_fields.keys() - {"signature"}
    key_of("aachen").verify_key.verify(bytes.fromhex(offer.signature), offer_message(CONTEXT, offer))
    unsigned = offer.model_copy(update={"signature": ""})
    assert offer_message(CONTEXT, unsigned) == offer_message(CONTEXT, offer)


def test_statements_can_be_signed_as_they_are_and_name_their_kind() -> None:
    said = offer_message(CONTEXT, an_offer()), survivors_message(CONTEXT, "ab" * 32, ["a"], ["a"])
    assert [one.split(b"\n")[0] for one in said] == [b"consilium-secure-offer-1", b"consilium-secure-survivors-1"]
    assert all(SigningKey.generate().sign(one) for one in said)
    assert all(len(one.split(b"\n")) == 3 for one in said)


@pytest.mark.parametrize("other", OTHERS, ids=["plan", "run", "round", "question"])
def test_nothing_said_of_one_question_holds_for_another(other: object) -> None:
    assert isinstance(other, type(CONTEXT))
    offer, seed, share = an_offer(), bytes(32), bytes(66)
    for statement in (
        lambda context: offer_message(context, offer),
        lambda context: survivors_message(context, "ab" * 32, ["a"], ["a"]),
        lambda context: seed_commitment(context, "a", seed),
        lambda context: share_commitment(context, "a", "b", "seed", share),
        lambda context: graph_seed(context, "ab" * 32),
    ):
        assert statement(CONTEXT) != statement(other)


def test_commitments_tell_dealer_holder_and_kind_apart() -> None:
    share = bytes(66)
    parties = [("a", "b"), ("b", "a"), ("a", "a"), ("ab", "c"), ("a", "bc")]
    told = [share_commitment(CONTEXT, *of, kind, share) for of in parties for kind in ("seed", "key")]  # type: ignore[arg-type]
    told += [seed_commitment(CONTEXT, site, seed) for site in ("a", "b") for seed in (bytes(32), b"\1" * 32)]
    told += [share_commitment(CONTEXT, "a", "b", "seed", b"\1" + share[1:])]
    assert len(set(told)) == len(told)


def test_a_commitment_is_the_sha_256_of_what_its_text_says() -> None:
    fields = '{"about":"train","plan_digest":"' + "ab" * 32 + '","round":3,"run":"run-1"}'
    text = f'consilium-secure-share-dealt-1\n{fields}\n{{"dealer":"a","holder":"b","of":"key"}}\n'.encode()
    share = bytes(range(66))
    assert share_commitment(CONTEXT, "a", "b", "key", share) == hashlib.sha256(text + share).hexdigest()


names = st.lists(st.text("abc-", min_size=1, max_size=3), unique=True, max_size=5)


@given(names, names, names, names)
def test_two_confirmations_are_the_same_only_of_the_same_sites(
    dealers: list[str], survivors: list[str], others: list[str], left: list[str]
) -> None:
    first = survivors_message(CONTEXT, "ab" * 32, dealers, survivors)
    second = survivors_message(CONTEXT, "ab" * 32, others, left)
    assert (first == second) == ((sorted(dealers), sorted(survivors)) == (sorted(others), sorted(left)))
    assert first != survivors_message(CONTEXT, "cd" * 32, dealers, survivors)


def test_a_set_of_names_has_one_digest_whatever_their_order() -> None:
    sites = ["aachen", "bergen", "coimbra"]
    assert len({survivors_digest(order) for order in itertools.permutations(sites)}) == 1
    assert survivors_digest(sites) != survivors_digest(sites[:2])
    assert survivors_digest(sites) == hashlib.sha256(b'["aachen","bergen","coimbra"]').hexdigest()
