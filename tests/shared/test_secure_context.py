"""What keys and signatures are bound to, and where their randomness comes from."""

import hashlib
import json
from dataclasses import FrozenInstanceError, replace

import pytest
from Crypto.Cipher import AES
from hypothesis import given
from hypothesis import strategies as st

from shared.crypto.signing import SigningKey
from shared.secure.context import Context
from shared.secure.entropy import seeded

SIGNER = SigningKey.generate()
HERE = Context(plan_digest="ab" * 32, run="run-7", round=3, about="train")

NAMES = st.text(max_size=8)
CONTEXTS = st.builds(Context, plan_digest=NAMES, run=NAMES, round=st.integers(0, 9), about=NAMES)
KINDS = st.from_regex(r"[a-z]+(-[a-z]+)*", fullmatch=True)


def test_the_bytes_of_a_context_are_these() -> None:
    expected = (
        b'consilium-secure-offer-1\n{"about":"train","plan_digest":"' + b"ab" * 32 + b'","round":3,"run":"run-7"}'
    )
    assert HERE.bytes("offer") == expected
    assert HERE.digest() == hashlib.sha256(expected.replace(b"offer", b"context")).digest()


@pytest.mark.parametrize(
    "other",
    [
        replace(HERE, plan_digest="ac" * 32),
        replace(HERE, run="run-8"),
        replace(HERE, round=4),
        replace(HERE, about="validation"),
    ],
    ids=["plan", "run", "round", "question"],
)
def test_another_plan_run_round_or_question_is_another_context(other: Context) -> None:
    assert other.bytes("offer") != HERE.bytes("offer")
    assert other.digest() != HERE.digest()


@given(CONTEXTS, CONTEXTS, KINDS, KINDS)
def test_no_two_contexts_or_kinds_share_their_bytes(first: Context, second: Context, kind: str, other: str) -> None:
    assert (first.bytes(kind) == second.bytes(other)) == ((first, kind) == (second, other))


@given(CONTEXTS, KINDS)
def test_a_context_is_two_lines_of_ascii_whatever_its_names_hold(context: Context, kind: str) -> None:
    """What is appended after a line break can therefore be told from it."""
    opening, fields = context.bytes(kind).decode("ascii").split("\n")
    assert opening == f"consilium-secure-{kind}-1"
    assert Context(**json.loads(fields)) == context


@given(CONTEXTS, KINDS)
def test_a_context_can_be_signed_as_it_is(context: Context, kind: str) -> None:
    SIGNER.verify_key.verify(SIGNER.sign(context.bytes(kind)), context.bytes(kind))


@pytest.mark.parametrize("kind", ["", "Offer", "offer-", "-offer", "offer 1", "offer\n", "a--b", "offer-1"])
def test_a_kind_that_could_be_read_in_two_ways_is_refused(kind: str) -> None:
    with pytest.raises(ValueError, match="a-z and hyphens"):
        HERE.bytes(kind)


def test_a_context_cannot_be_changed() -> None:
    with pytest.raises(FrozenInstanceError):
        HERE.round = 4  # type: ignore[misc]


@given(st.binary(max_size=40), st.lists(st.integers(0, 100), max_size=8))
def test_a_seeded_source_is_one_stream_however_it_is_cut(seed: bytes, cuts: list[int]) -> None:
    """Against AES of another library."""
    source = seeded(seed)
    pieces = [source(cut) for cut in cuts]
    cipher = AES.new(hashlib.sha256(seed).digest(), AES.MODE_CTR, nonce=b"", initial_value=bytes(16))
    assert [len(piece) for piece in pieces] == cuts
    assert b"".join(pieces) == cipher.encrypt(bytes(sum(cuts)))


def test_two_seeds_give_two_streams() -> None:
    assert seeded(b"a")(32) != seeded(b"b")(32)
    assert seeded(b"a")(32) == seeded(b"a")(32)
