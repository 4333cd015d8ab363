"""One small secure sum, byte for byte, and the same again from the primitives: hmac, AES, X25519 and Lagrange by hand.

Four sites, of which one drops out after dealing. Entropy is seeded, so that every byte repeats.
"""

import hashlib
import hmac
import json
from fractions import Fraction
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from cryptography.hazmat.primitives.ciphers.algorithms import AES256
from cryptography.hazmat.primitives.ciphers.modes import CTR
from summed import CONTEXT, Sum, expected, found, held, key_of

from shared.secure.entropy import seeded
from shared.secure.holders import Threshold

GOLDEN = Path(__file__).parents[1] / "golden" / "secure_sum.json"

ANSWERS = {
    "aachen": held([1, -2, 100], [7, 1], 5),
    "bergen": held([-100, 50, 3], [0, 2], 1),
    "coimbra": held([99, 98, 97], [1, 0], 2),
    "delft": held([0, 0, -1], [9, 9], 3),
}
LATE = "bergen"
MASKED = tuple(site for site in ANSWERS if site != LATE)
PRIME = 2**521 - 1


def whole() -> tuple[Sum, dict[str, Any]]:
    """The sum, and all papers of it as text."""
    sum_ = Sum(ANSWERS, Threshold(3)).until("deal")
    dealt = {site: sum_.parties[site].deal(CONTEXT, sum_.round.offers()) for site in ANSWERS}
    sum_.mask(MASKED)
    sum_.confirm(MASKED)
    survivors = sum_.round.survivors()
    confirmed = {site: sum_.parties[site].confirm(CONTEXT, survivors) for site in MASKED}
    sum_.unmask(MASKED)
    papers = {
        "1 offers": sum_.round.offers(),
        **{f"2 dealing {site}": paper for site, paper in dealt.items()},
        **{f"3 received {site}": sum_.round.received(site) for site in MASKED},
        "5 survivors": survivors,
        **{f"6 confirmation {site}": paper for site, paper in confirmed.items()},
        "7 unmasking": sum_.round.unmasking(),
        **{f"8 revelation {site}": paper for site, paper in sum_.revealed.items()},
    }
    texts: dict[str, Any] = {name: paper.to_bytes().decode("ascii") for name, paper in papers.items()}
    masked = {f"4 masked {site}": one.content.tobytes().hex() for site, one in sum_.masked.items()}
    return sum_, {**texts, **masked, "9 total": found(sum_.round.total())}


def everything() -> dict[str, Any]:
    """All papers, masked values and the total, for a golden file."""
    return whole()[1]


def test_the_bytes_are_those_of_the_golden_file() -> None:
    """Whoever changes them changes a protocol that both sides speak: python tests/golden/regenerate.py."""
    assert json.loads(json.dumps(everything())) == json.loads(GOLDEN.read_text())


def test_the_golden_sum_is_the_sum() -> None:
    values, counts, weight = json.loads(GOLDEN.read_text())["9 total"]
    assert (values, counts, weight) == expected(ANSWERS[site] for site in MASKED)


# --- the same from the primitives, with nothing of ours but the seeded bytes ------------------------------------------


def context(kind: str) -> bytes:
    fields = '{"about":"train","plan_digest":"' + "ab" * 32 + '","round":3,"run":"run-1"}'
    return f"consilium-secure-{kind}-1\n{fields}".encode()


def hkdf(secret: bytes, info: bytes) -> bytes:
    """RFC 5869 with SHA-256, no salt, 32 bytes."""
    extracted = hmac.digest(bytes(32), secret, "sha256")
    return hmac.digest(extracted, info + b"\x01", "sha256")


def stream(key: bytes, count: int) -> bytes:
    return Cipher(AES256(key), CTR(bytes(16))).encryptor().update(bytes(count))


def secrets(site: str) -> tuple[bytes, bytes, bytes]:
    """Cipher key, mask key, seed: the first that a site draws."""
    entropy = seeded(f"{site} 0".encode())
    return entropy(32), entropy(32), entropy(32)


def exchanged(private: bytes, public: bytes) -> bytes:
    return X25519PrivateKey.from_private_bytes(private).exchange(X25519PublicKey.from_public_bytes(public))


def public(private: bytes) -> bytes:
    return X25519PrivateKey.from_private_bytes(private).public_key().public_bytes_raw()


def words(key: bytes, count: int, width: int, skip: int = 0) -> list[int]:
    drawn = stream(key, skip + count * width)[skip:]
    return [int.from_bytes(drawn[place : place + width], "little") for place in range(0, count * width, width)]


def masked_by_hand(site: str) -> str:
    """Weighted values, own mask, and the mask with each other site: added where its name comes later."""
    _, mask_private, seed = secrets(site)
    keys = [(hkdf(seed, context("self-mask") + b"\n" + json.dumps([site]).encode()), 1)]
    for peer in ANSWERS:
        if peer != site:
            both = json.dumps(sorted((site, peer)), separators=(",", ":")).encode()
            secret = exchanged(mask_private, public(secrets(peer)[1]))
            keys.append((hkdf(secret, context("pair-mask") + b"\n" + both), 1 if site < peer else -1))
    answer = ANSWERS[site]
    values = [answer.weight * int(value) for value in answer.values]
    counts = [int(count) for count in answer.counts]
    for key, sign in keys:
        values = [value + sign * word for value, word in zip(values, words(key, 3, 4), strict=True)]
        # Three words of four bytes fill one block of sixteen up to its last four.
        counts = [count + sign * word for count, word in zip(counts, words(key, 2, 8, skip=16), strict=True)]
    packed = b"".join((value % 2**16).to_bytes(2, "little") for value in values)
    return (packed + b"".join((count % 2**64).to_bytes(8, "little") for count in counts)).hex()


def test_masked_values_are_what_the_description_says() -> None:
    golden = json.loads(GOLDEN.read_text())
    assert {site: golden[f"4 masked {site}"] for site in MASKED} == {site: masked_by_hand(site) for site in MASKED}


def test_offers_are_signed_over_the_question_and_all_that_they_say() -> None:
    for offer in json.loads(json.loads(GOLDEN.read_text())["1 offers"])["offers"]:
        signature = bytes.fromhex(offer.pop("signature"))
        body = json.dumps(offer, sort_keys=True, separators=(",", ":")).encode()
        key = Ed25519PublicKey.from_public_bytes(key_of(offer["site"]).verify_key.raw)
        key.verify(signature, context("offer") + b"\n" + body)
        cipher, mask, seed = secrets(offer["site"])
        assert (offer["cipher_key"], offer["mask_key"]) == (public(cipher).hex(), public(mask).hex())
        told = context("seed") + b"\n" + json.dumps({"site": offer["site"]}, separators=(",", ":")).encode()
        assert offer["commitment"] == hashlib.sha256(told + b"\n" + seed).hexdigest()


def test_with_its_masked_values_each_site_signed_the_offers_and_who_dealt_and_later_also_who_is_in_the_sum() -> None:
    golden = json.loads(GOLDEN.read_text())
    offers = hashlib.sha256(golden["1 offers"].encode()).hexdigest()
    dealers = {"dealers": sorted(ANSWERS), "offers": offers}
    for kind, said, signatures in (
        ("dealers", dealers, json.loads(golden["5 survivors"])["signatures"]),
        ("survivors", dealers | {"survivors": sorted(MASKED)}, json.loads(golden["7 unmasking"])["confirmations"]),
    ):
        assert sorted(signatures) == sorted(MASKED)
        message = context(kind) + b"\n" + json.dumps(said, sort_keys=True, separators=(",", ":")).encode()
        for site, signature in signatures.items():
            Ed25519PublicKey.from_public_bytes(key_of(site).verify_key.raw).verify(bytes.fromhex(signature), message)


def at_zero(points: dict[int, int]) -> int:
    """The polynomial through ``points`` at zero, modulo the prime; Lagrange over the rationals."""
    total = 0
    for place, value in points.items():
        weight = Fraction(1)
        for other in points:
            if other != place:
                weight *= Fraction(other, other - place)
        total += value * weight.numerator * pow(weight.denominator, -1, PRIME)
    return total % PRIME


def test_what_was_revealed_makes_the_seeds_of_those_in_the_sum_and_the_key_of_the_one_that_is_not() -> None:
    golden = json.loads(GOLDEN.read_text())
    revealed = {site: json.loads(golden[f"8 revelation {site}"]) for site in MASKED}
    places = {site: number for number, site in enumerate(sorted(ANSWERS), start=1)}
    for dealer in ANSWERS:
        kind, secret = ("keys", secrets(dealer)[1]) if dealer == LATE else ("seeds", secrets(dealer)[2])
        points = {places[holder]: int(said[kind][dealer], 16) for holder, said in revealed.items()}
        assert at_zero(points) == int.from_bytes(secret, "big")
        assert all(dealer not in said["seeds" if kind == "keys" else "keys"] for said in revealed.values())


def test_sealed_shares_open_with_the_recipient_s_key_and_are_those_revealed_later() -> None:
    golden = json.loads(GOLDEN.read_text())
    for dealt in json.loads(golden["3 received aachen"])["dealt"]:
        both = json.dumps([dealt["dealer"], "aachen"], separators=(",", ":")).encode()
        secret = exchanged(secrets("aachen")[0], public(secrets(dealt["dealer"])[0]))
        key = hkdf(secret, context("share") + b"\n" + both)
        plain = ChaCha20Poly1305(key).decrypt(bytes(12), bytes.fromhex(dealt["sealed"]), None)
        said = json.loads(golden["8 revelation aachen"])
        late = dealt["dealer"] == LATE
        assert (plain[66:] if late else plain[:66]).hex() == said["keys" if late else "seeds"][dealt["dealer"]]
