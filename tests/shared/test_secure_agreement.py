"""Keys that two sites agree on, against the vectors of RFC 7748, 5869 and 8439 and HKDF by hand."""

import hashlib
import hmac
import json
from collections.abc import Callable
from dataclasses import replace
from itertools import combinations

import pytest
from Crypto.Cipher import ChaCha20_Poly1305
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from hypothesis import given
from hypothesis import strategies as st

from shared.errors import ProtocolError
from shared.secure.agreement import (
    KEY_BYTES,
    TAG_BYTES,
    KeyPair,
    agreed,
    mask_key,
    open_shares,
    seal_shares,
    self_key,
    sign_of,
)
from shared.secure.context import Context
from shared.secure.entropy import seeded

HERE = Context(plan_digest="ab" * 32, run="run-7", round=3, about="train")
ELSEWHERE = [
    replace(HERE, plan_digest="ac" * 32),
    replace(HERE, run="run-8"),
    replace(HERE, round=4),
    replace(HERE, about="validation"),
]
SECRET = bytes(range(32))
SHARES = b"two shares of 66 bytes each"
NAMES = st.text(max_size=6)
FIELD = 2**255 - 19
_ORDER_8 = (
    325606250916557431795983626356110631294008115727848805560023387167927233504,
    39382357235489614581723060781553021112529911719440698176882885853963445705823,
)
LOW_ORDER = {
    "0": 0,
    "1": 1,
    "order 8": _ORDER_8[0],
    "order 8, the other": _ORDER_8[1],
    "p - 1": FIELD - 1,
    "p": FIELD,
    "p + 1": FIELD + 1,
    "0 with the unused bit": 2**255,
    "1 with the unused bit": 2**255 + 1,
    "p - 1 with the unused bit": FIELD - 1 + 2**255,
}


def raw(text: str) -> bytes:
    return bytes.fromhex(text)


def by_hand(secret: bytes, salt: bytes, info: bytes, size: int = KEY_BYTES) -> bytes:
    """HKDF-SHA256: extract, then expand block by block (RFC 5869, 2.2 and 2.3)."""
    extracted, out, block = hmac.digest(salt or bytes(32), secret, hashlib.sha256), b"", b""
    for position in range(-(-size // 32)):
        block = hmac.digest(extracted, block + info + bytes([position + 1]), hashlib.sha256)
        out += block
    return out[:size]


def label(kind: str, *names: str) -> bytes:
    """What a key is bound to, as the module's text has it: two lines and a list."""
    return HERE.bytes(kind) + b"\n" + json.dumps(list(names), separators=(",", ":")).encode()


@pytest.mark.parametrize(
    ("scalar", "point", "expected"),
    [
        (
            "a546e36bf0527c9d3b16154b82465edd62144c0ac1fc5a18506a2244ba449ac4",
            "e6db6867583030db3594c1a424b15f7c726624ec26b3353b10a903a6d0ab1c4c",
            "c3da55379de9c6908e94ea4df28d084f32eccf03491c71f754b4075577a28552",
        ),
        (
            "4b66e9d4d1b4673c5ad22691957d6af5c11b6421e0ea01d42ca4169e7918ba0d",
            "e5210f12786811d3f4b7959d0538ae2c31dbe7106fc03c3efc4cd549c715a493",
            "95cbde9476e8907d7aade45cb4b873f88b595a68799fa152e6f8f7647aac7957",
        ),
    ],
    ids=["first", "second, with the unused bit set"],
)
def test_an_agreement_is_x25519_of_the_standard(scalar: str, point: str, expected: str) -> None:
    """RFC 7748, 5.2."""
    assert agreed(raw(scalar), raw(point)).hex() == expected


def test_a_thousand_agreements_in_a_row_are_those_of_the_standard() -> None:
    """RFC 7748, 5.2: each result is the next scalar, each scalar the next point."""
    scalar = point = raw("09" + "00" * 31)
    for position in range(1000):
        scalar, point = agreed(scalar, point), scalar
        if position == 0:
            assert scalar.hex() == "422c8e7a6227d7bca1350b3e2bb7279f7897b87bb6854b783c60e80311ae3079"
    assert scalar.hex() == "684cf59ba83309552800ef566f2f4d3c1c3887c49360e3875f2eb94d99532c51"


def test_pairs_and_what_they_agree_on_are_those_of_the_standard() -> None:
    """RFC 7748, 6.1."""
    first = KeyPair.from_private(raw("77076d0a7318a57d3c16c17251b26645df4c2f87ebc0992ab177fba51db92c2a"))
    second = KeyPair.from_private(raw("5dab087e624a8a4b79e17f8b83800ee66f3bb1292618b6fd1c2f8b27ff88e0eb"))
    assert first.public.hex() == "8520f0098930a754748b7ddcb43ef75a0dbf3a0d26381af4eba4a98eaa9b4e6a"
    assert second.public.hex() == "de9edb7d7b7dc1b4d35b61c2ece435373f8343c85b78674dadfc7e146f882b4f"
    expected = "4a5d9d5ba4ce2de1728e3bf480350f25e07e21c947d19e3376f09b3c1e161742"
    assert agreed(first.private, second.public).hex() == agreed(second.private, first.public).hex() == expected


HKDF_VECTORS = {
    "A.1": (
        b"\x0b" * 22,
        bytes(range(13)),
        bytes(range(0xF0, 0xFA)),
        "3cb25f25faacd57a90434f64d0362f2a2d2d0a90cf1a5a4c5db02d56ecc4c5bf34007208d5b887185865",
    ),
    "A.2": (
        bytes(range(0x50)),
        bytes(range(0x60, 0xB0)),
        bytes(range(0xB0, 0x100)),
        "b11e398dc80327a1c8e7f78c596a49344f012eda2d4efad8a050cc4c19afa97c59045a99cac7827271cb41c65e590e09"
        "da3275600c2f09b8367793a9aca3db71cc30c58179ec3e87c14c01d5c1f3434f1d87",
    ),
    "A.3": (
        b"\x0b" * 22,
        b"",
        b"",
        "8da4e775a563c18f715f802a063c5a31b8a11f5c5ee1879ec3454e5f3c738d2d9d201395faa4b61a96c8",
    ),
}


@pytest.mark.parametrize("vector", HKDF_VECTORS.values(), ids=HKDF_VECTORS.keys())
def test_the_primitive_and_the_oracle_are_hkdf_of_the_standard(vector: tuple[bytes, bytes, bytes, str]) -> None:
    """RFC 5869, A.1 to A.3; the third is the form without salt, which this module uses."""
    secret, salt, info, expected = vector
    size = len(expected) // 2
    assert by_hand(secret, salt, info, size).hex() == expected
    assert HKDF(SHA256(), size, salt or None, info).derive(secret).hex() == expected


@given(st.binary(min_size=32, max_size=32), NAMES, NAMES)
def test_keys_are_hkdf_of_the_secret_with_kind_context_and_names(secret: bytes, first: str, second: str) -> None:
    assert self_key(secret, HERE, first) == by_hand(secret, b"", label("self-mask", first))
    if first != second:
        expected = by_hand(secret, b"", label("pair-mask", *sorted([first, second])))
        assert mask_key(secret, HERE, first, second) == mask_key(secret, HERE, second, first) == expected


def test_every_kind_context_pair_and_direction_has_a_key_of_its_own() -> None:
    """Names that could run into each other are among them."""
    names = ["a", "b", "ab", "", 'a","b', "a\n"]
    keys = [
        key
        for context in (HERE, *ELSEWHERE)
        for key in (
            *(self_key(SECRET, context, name) for name in names),
            *(mask_key(SECRET, context, *pair) for pair in combinations(names, 2)),
            *(seal_shares(SECRET, context, *pair, bytes(32)) for pair in combinations(names, 2)),
            *(seal_shares(SECRET, context, *pair[::-1], bytes(32)) for pair in combinations(names, 2)),
        )
    ]
    assert len(set(keys)) == len(keys) == 5 * (6 + 3 * 15)


def test_two_sites_agree_and_a_third_does_not() -> None:
    first, second, third = (KeyPair.generate(seeded(seed)) for seed in (b"1", b"2", b"3"))
    secret = agreed(first.private, second.public)
    assert secret == agreed(second.private, first.public)
    assert len({secret, agreed(third.private, first.public), agreed(third.private, second.public)}) == 3


def test_a_pair_is_made_of_the_next_32_bytes_and_its_private_half_can_be_compared() -> None:
    pair = KeyPair.generate(seeded(b"pair"))
    assert pair.private == seeded(b"pair")(32)
    assert KeyPair.from_private(pair.private) == pair
    assert KeyPair.generate(seeded(b"other")) != pair


def test_nothing_that_is_printed_holds_a_private_key() -> None:
    pair = KeyPair.generate(seeded(b"printed"))
    shown = f"{pair!r} {pair}"
    assert repr(pair.public) in shown
    assert repr(pair.private) not in shown
    assert "private" not in shown


def on_the_curve(point: int) -> bool:
    """Whether v**2 = u**3 + 486662 u**2 + u has a solution v in the field."""
    square = (point**3 + 486662 * point**2 + point) % FIELD
    return pow(square, (FIELD - 1) // 2, FIELD) in (0, 1)


def test_the_two_coordinates_of_order_eight_are_that() -> None:
    """Doubling u gives (u**2 - 1)**2 / (4u (u**2 + 486662 u + 1)): first 1, then 0, whose double is infinite."""
    for point in _ORDER_8:
        twice = doubled(point)
        assert on_the_curve(point)
        assert twice == 1
        assert doubled(1) == 0


def doubled(point: int) -> int:
    below = 4 * point * (point**2 + 486662 * point + 1) % FIELD
    return (point**2 - 1) ** 2 * pow(below, -1, FIELD) % FIELD


@pytest.mark.parametrize("point", LOW_ORDER.values(), ids=LOW_ORDER.keys())
def test_a_point_of_low_order_is_refused(point: int) -> None:
    """With it, everybody would know the key: the shared secret is zero whatever the private key."""
    with pytest.raises(ProtocolError) as refused:
        agreed(KeyPair.generate(seeded(b"low")).private, point.to_bytes(32, "little"))
    assert refused.value.code == "key-weak"


@pytest.mark.parametrize("size", [0, 31, 33])
def test_bytes_that_are_no_public_key_are_refused_with_their_number(size: int) -> None:
    with pytest.raises(ProtocolError, match=f"of {size} bytes") as refused:
        agreed(SECRET, bytes(size))
    assert refused.value.code == "key-weak"


def test_a_private_key_of_another_length_is_a_mistake_of_ours_and_no_fault_of_the_peer() -> None:
    with pytest.raises(ValueError, match="32"):
        agreed(SECRET[1:], KeyPair.generate(seeded(b"peer")).public)


@given(NAMES, NAMES)
def test_of_a_pair_one_adds_and_the_other_subtracts(first: str, second: str) -> None:
    if first != second:
        assert sign_of(first, second) == -sign_of(second, first)
        assert sign_of(*sorted([first, second])) == 1


@pytest.mark.parametrize(
    "call", [lambda: sign_of("a", "a"), lambda: mask_key(SECRET, HERE, "a", "a")], ids=["sign", "key"]
)
def test_a_site_has_no_mask_with_itself(call: Callable[[], object]) -> None:
    with pytest.raises(ValueError, match="no mask with itself"):
        call()


def test_the_cipher_is_chacha20_poly1305_of_the_standard() -> None:
    """RFC 8439, 2.8.2, by the primitive that seals and by another library."""
    key, nonce, beside = bytes(range(0x80, 0xA0)), raw("070000004041424344454647"), raw("50515253c0c1c2c3c4c5c6c7")
    plain = (
        b"Ladies and Gentlemen of the class of '99: If I could offer you only one tip for the future, sunscreen "
        b"would be it."
    )
    expected = raw(
        "d31a8d34648e60db7b86afbc53ef7ec2a4aded51296e08fea9e2b5a736ee62d63dbea45e8ca9671282fafb69da92728b"
        "1a71de0a9e060b2905d6a5b67ecd3b3692ddbd7f2d778b8c9803aee328091b58fab324e4fad675945585808b4831d7bc"
        "3ff4def08e4b7a9de576d26586cec64b6116"
    )
    tag = raw("1ae10b594f09e26a7e902ecbd0600691")
    assert ChaCha20Poly1305(key).encrypt(nonce, plain, beside) == expected + tag
    other = ChaCha20_Poly1305.new(key=key, nonce=nonce)
    other.update(beside)
    assert other.encrypt_and_digest(plain) == (expected, tag)


@given(st.binary(max_size=200))
def test_sealed_shares_are_the_cipher_of_another_library_under_the_key_of_their_direction(plain: bytes) -> None:
    sealed = seal_shares(SECRET, HERE, "a", "b", plain)
    other = ChaCha20_Poly1305.new(key=by_hand(SECRET, b"", label("share", "a", "b")), nonce=bytes(12))
    assert sealed == b"".join(other.encrypt_and_digest(plain))
    assert len(sealed) == len(plain) + TAG_BYTES
    assert open_shares(SECRET, HERE, "a", "b", sealed) == plain


@pytest.mark.parametrize(
    "call",
    [
        lambda sealed: open_shares(SECRET, HERE, "b", "a", sealed),
        lambda sealed: open_shares(SECRET, HERE, "c", "b", sealed),
        lambda sealed: open_shares(SECRET, HERE, "a", "c", sealed),
        lambda sealed: open_shares(SECRET[::-1], HERE, "a", "b", sealed),
        *(lambda sealed, there=there: open_shares(SECRET, there, "a", "b", sealed) for there in ELSEWHERE),
    ],
    ids=["direction", "sender", "receiver", "key", "plan", "run", "round", "question"],
)
def test_shares_open_nowhere_but_where_they_were_sealed_for(call: Callable[[bytes], bytes]) -> None:
    with pytest.raises(ProtocolError) as refused:
        call(seal_shares(SECRET, HERE, "a", "b", SHARES))
    assert refused.value.code == "share-sealed"


@given(st.integers(0, 8 * (len(SHARES) + TAG_BYTES) - 1))
def test_a_flipped_bit_of_sealed_shares_is_refused_wherever_it_is(bit: int) -> None:
    sealed = bytearray(seal_shares(SECRET, HERE, "a", "b", SHARES))
    sealed[bit // 8] ^= 1 << bit % 8
    with pytest.raises(ProtocolError, match="do not open at b"):
        open_shares(SECRET, HERE, "a", "b", bytes(sealed))


@pytest.mark.parametrize("left", range(TAG_BYTES + 1))
def test_shares_cut_short_are_refused(left: int) -> None:
    sealed = seal_shares(SECRET, HERE, "a", "b", SHARES)
    with pytest.raises(ProtocolError) as refused:
        open_shares(SECRET, HERE, "a", "b", sealed[:left])
    assert refused.value.code == "share-sealed"
