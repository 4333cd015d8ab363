"""What two sites agree on without meeting: X25519, the keys derived from it, and shares sealed under one of them.

Promises
- ``agreed`` is the same from either side, and unknown to whoever has neither private key (gap Diffie-Hellman on
  Curve25519). A public key of low order, with which everybody knows the result, is refused ("key-weak").
- Each key is HKDF-SHA256 of a secret for one kind, context and names: another plan, run, round, question, pair or
  direction is another key, and no key of one kind is one of another.
- ``mask_key`` is the same from either side; ``sign_of`` is opposite, so that a pair's masks cancel.
- What is sealed opens for the receiver, from the sender, in this context, or not at all ("share-sealed").

Rules for who calls
- A key pair belongs to one question. That is why the nonce may be zero and a mask begin at counter zero: **no key is
  used twice**. A sender seals once for each receiver, and sends the same bytes again when it is asked again.
- Whose public key it is, is told by the signature over the offer. X25519 gives the same secret for a few encodings of
  a key; offers are signed and compared as bytes, so that nothing depends on it.

Sources: RFC 7748, sections 5, 6.1 and 7 (the check for zero); RFC 5869; RFC 8439, 2.8; Bonawitz et al., "Practical
secure aggregation for privacy-preserving machine learning", CCS 2017, section 4.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from shared.errors import ProtocolError
from shared.secure.context import Context
from shared.secure.entropy import Entropy

KEY_BYTES = 32
TAG_BYTES = 16
_NONCE = bytes(12)


@dataclass(frozen=True, slots=True)
class KeyPair:
    """An X25519 key of one site for one question; its ``repr`` shows the public half alone."""

    private: bytes = field(repr=False)
    public: bytes

    @classmethod
    def generate(cls, entropy: Entropy) -> KeyPair:
        """A new pair from 32 bytes of ``entropy``."""
        return cls.from_private(entropy(KEY_BYTES))

    @classmethod
    def from_private(cls, private: bytes) -> KeyPair:
        """The pair of a private key: how a key put together from shares is compared with the one that was offered."""
        return cls(private, X25519PrivateKey.from_private_bytes(private).public_key().public_bytes_raw())


def agreed(private: bytes, public: bytes) -> bytes:
    """The secret of two sites, 32 bytes: X25519 of one's private key and the other's public key.

    Raises:
        ProtocolError: "key-weak" for a public key with which the secret is no secret, or that is none.
    """
    mine = X25519PrivateKey.from_private_bytes(private)
    try:
        return mine.exchange(X25519PublicKey.from_public_bytes(public))
    except ValueError:
        raise ProtocolError(
            f"the public key of {len(public)} bytes that a site offered gives no secret with any key",
            hint="no honest site makes such a key: find out who signed the offer",
            code="key-weak",
        ) from None


def mask_key(agreed: bytes, context: Context, low: str, high: str) -> bytes:
    """Key of the mask between two sites, 32 bytes; their order does not matter."""
    sign_of(low, high)
    return _derived(agreed, context, "pair-mask", sorted((low, high)))


def self_key(seed: bytes, context: Context, site: str) -> bytes:
    """Key of the mask that ``site`` adds for itself, 32 bytes."""
    return _derived(seed, context, "self-mask", [site])


def sign_of(me: str, peer: str) -> Literal[1, -1]:
    """The sign with which ``me`` adds the mask of the pair: plus for the one whose name comes first."""
    if me == peer:
        raise ValueError("a site has no mask with itself: self_key is for that")
    return 1 if me < peer else -1


def seal_shares(agreed: bytes, context: Context, sender: str, receiver: str, plain: bytes) -> bytes:
    """``plain`` for ``receiver`` alone, ``TAG_BYTES`` longer; once for each ``agreed``, context and direction."""
    key = _derived(agreed, context, "share", [sender, receiver])
    return ChaCha20Poly1305(key).encrypt(_NONCE, plain, None)


def open_shares(agreed: bytes, context: Context, sender: str, receiver: str, sealed: bytes) -> bytes:
    """Inverse of ``seal_shares``; raises ``ProtocolError`` ("share-sealed")."""
    key = _derived(agreed, context, "share", [sender, receiver])
    try:
        return ChaCha20Poly1305(key).decrypt(_NONCE, sealed, None)
    except InvalidTag:
        raise ProtocolError(
            f"{len(sealed)} bytes of shares from {sender} do not open at {receiver}",
            hint="they were changed, or sealed for another site or question",
            code="share-sealed",
        ) from None


def _derived(secret: bytes, context: Context, kind: str, names: Sequence[str]) -> bytes:
    """HKDF-SHA256 without salt; the label is two lines and a list, so that no two labels run into each other."""
    label = context.bytes(kind) + b"\n" + json.dumps(list(names), separators=(",", ":")).encode()
    return HKDF(SHA256(), KEY_BYTES, None, label).derive(secret)
