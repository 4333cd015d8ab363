"""Fingerprints in words: the same at both ends, other words for other keys, and BIP-39's own vectors as the oracle."""

import hashlib
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from mnemonic import Mnemonic

from shared.crypto.signing import SigningKey, VerifyKey
from shared.trust.words import _list, spoken, words_of

LIST = Mnemonic("english").wordlist


def by_hand(key: VerifyKey) -> list[str]:
    """BIP-39 for 128 bits: four bits of SHA-256 behind them, eleven bits a word."""
    digest = hashlib.sha256(key.raw).digest()[:16]
    check = hashlib.sha256(digest).digest()[0] >> 4
    number = int.from_bytes(digest, "big") << 4 | check
    return [LIST[number >> 11 * place & 2047] for place in reversed(range(12))]


@given(st.binary(min_size=32, max_size=32))
def test_words_are_those_that_bip_39_gives_to_the_first_128_bits_of_the_sha_256(raw: bytes) -> None:
    assert list(words_of(VerifyKey(raw))) == by_hand(VerifyKey(raw))


@pytest.mark.parametrize(
    ("entropy", "said"),
    [
        ("00" * 16, "abandon " * 11 + "about"),
        ("7f" * 16, "legal winner thank year wave sausage worth useful legal winner thank yellow"),
        ("ff" * 16, "zoo " * 11 + "wrong"),
    ],
)
def test_the_list_is_the_published_one(entropy: str, said: str) -> None:
    """The first test vectors of BIP-39."""
    assert _list().to_mnemonic(bytes.fromhex(entropy)) == said


def test_the_list_has_2048_words_told_apart_by_four_letters() -> None:
    assert len(LIST) == 2048
    assert len({word[:4] for word in LIST}) == 2048


@given(st.binary(min_size=32, max_size=32), st.integers(0, 255))
def test_a_key_that_differs_in_one_bit_has_other_words_almost_everywhere(raw: bytes, bit: int) -> None:
    other = bytearray(raw)
    other[bit // 8] ^= 1 << bit % 8
    ours, theirs = words_of(VerifyKey(raw)), words_of(VerifyKey(bytes(other)))
    assert sum(one != two for one, two in zip(ours, theirs, strict=True)) >= 6


def test_both_ends_show_the_same_words_of_one_key() -> None:
    key = SigningKey.generate()
    theirs = VerifyKey.from_hex(key.verify_key.hex())
    assert spoken(key.verify_key) == spoken(theirs)


def test_words_are_shown_in_numbered_rows_of_four() -> None:
    key = SigningKey.generate().verify_key
    rows = spoken(key).split("\n")
    assert len(rows) == 3
    assert all(len(row) <= 60 for row in rows)
    found = re.findall(r"(\d+) ([a-z]+)", spoken(key))
    assert [int(number) for number, _ in found] == list(range(1, 13))
    assert tuple(word for _, word in found) == words_of(key)
