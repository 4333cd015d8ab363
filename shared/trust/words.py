"""Fingerprints of keys as words, to be read out over a telephone.

Promises
- Twelve words stand for the first 128 bits of the key's SHA-256, those that ``VerifyKey.fingerprint`` shows in digits,
  and four bits that check them. Both ends get the same words from the same key, and nobody can make another key with
  the words of a given one: that takes 2^128 trials.
- The words are the English list of BIP-39: 2048, told apart by their first four letters.
"""

from __future__ import annotations

from functools import cache

from mnemonic import Mnemonic

from shared.crypto.signing import VerifyKey

_ROW = 4


def words_of(key: VerifyKey) -> tuple[str, ...]:
    """Twelve words."""
    digest = bytes.fromhex(key.fingerprint().replace(" ", ""))
    return tuple(_list().to_mnemonic(digest).split(" "))


def spoken(key: VerifyKey) -> str:
    """The words in numbered rows of four, so that two people on a telephone do not lose their place."""
    words = [f"{place:>2} {word:<9}" for place, word in enumerate(words_of(key), start=1)]
    return "\n".join("".join(words[start : start + _ROW]).rstrip() for start in range(0, len(words), _ROW))


@cache
def _list() -> Mnemonic:
    return Mnemonic("english")
