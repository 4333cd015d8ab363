"""Shares of secrets, against linear algebra over the same field by another library (sympy)."""

from collections.abc import Callable, Iterator
from itertools import combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from sympy import GF, isprime
from sympy.polys.matrices import DomainMatrix

from shared.errors import ProtocolError
from shared.secure.entropy import Entropy, seeded
from shared.secure.shamir import PRIME, SECRET_BYTES, SHARE_BYTES, combine, split

FIELD = GF(PRIME, symmetric=False)
SECRET = bytes(range(200, 232))
SECRETS = st.binary(min_size=SECRET_BYTES, max_size=SECRET_BYTES)
LARGEST = b"\xff" * SECRET_BYTES
LEAST_P = 1e-6


@st.composite
def rules(draw: st.DrawFn) -> tuple[int, int]:
    """Holders, and how many of them a secret takes."""
    holders = draw(st.integers(1, 9))
    return holders, draw(st.integers(1, holders))


def powers(places: list[int], count: int) -> DomainMatrix:
    """Vandermonde's matrix: row x holds x**0 to x**(count - 1)."""
    rows = [[FIELD(pow(place, power, PRIME)) for power in range(count)] for place in places]
    return DomainMatrix(rows, (len(places), count), FIELD)


def column(values: list[int]) -> DomainMatrix:
    return DomainMatrix([[FIELD(value)] for value in values], (len(values), 1), FIELD)


def coefficients(points: dict[int, int]) -> list[int]:
    """The polynomial of degree below ``len(points)`` through them, lowest power first."""
    solved = powers(list(points), len(points)).lu_solve(column(list(points.values())))
    return [int(row[0]) for row in solved.to_list()]


def points(shares: tuple[bytes, ...]) -> dict[int, int]:
    return {index + 1: int.from_bytes(share, "big") for index, share in enumerate(shares)}


def scripted(*draws: int) -> Entropy:
    """A source that gives these numbers, 66 bytes each."""
    left: Iterator[int] = iter(draws)

    def give(count: int) -> bytes:
        assert count == SHARE_BYTES
        return next(left).to_bytes(SHARE_BYTES, "big")

    return give


def test_the_modulus_is_a_prime_that_holds_every_secret_and_fits_a_share() -> None:
    assert isprime(PRIME)
    assert PRIME > 2 ** (8 * SECRET_BYTES)
    assert (PRIME - 1).bit_length() <= 8 * SHARE_BYTES


@given(SECRETS, rules(), st.binary(min_size=1, max_size=8), st.randoms())
def test_any_holders_that_are_enough_put_the_secret_together(
    secret: bytes, rule: tuple[int, int], seed: bytes, order: object
) -> None:
    holders, threshold = rule
    shares = split(secret, holders, threshold, seeded(seed))
    assert [len(share) for share in shares] == [SHARE_BYTES] * holders
    for some in combinations(range(holders), threshold):
        chosen = list(some)
        order.shuffle(chosen)  # type: ignore[attr-defined]
        assert combine({index: shares[index] for index in chosen}, threshold) == secret


@given(SECRETS, rules(), st.binary(min_size=1, max_size=8))
def test_shares_are_values_of_one_polynomial_with_the_secret_as_constant(
    secret: bytes, rule: tuple[int, int], seed: bytes
) -> None:
    """Solved by sympy: the first ``threshold`` shares fix it, and all others lie on it."""
    holders, threshold = rule
    found = points(split(secret, holders, threshold, seeded(seed)))
    solved = coefficients({place: found[place] for place in range(1, threshold + 1)})
    assert solved[0] == int.from_bytes(secret, "big")
    values = powers(list(found), threshold) * column(solved)
    assert [int(row[0]) for row in values.to_list()] == list(found.values())


@given(SECRETS, st.lists(st.integers(0, PRIME - 1), max_size=5))
def test_shares_are_those_that_the_other_library_makes(secret: bytes, drawn: list[int]) -> None:
    threshold = len(drawn) + 1
    shares = split(secret, threshold + 2, threshold, scripted(*drawn))
    constants = column([int.from_bytes(secret, "big"), *drawn])
    expected = powers(list(range(1, threshold + 3)), threshold) * constants
    assert [int.from_bytes(share, "big") for share in shares] == [int(row[0]) for row in expected.to_list()]


@given(st.data())
def test_the_secret_is_the_one_that_the_other_library_solves_for(data: st.DataObject) -> None:
    places = data.draw(st.lists(st.integers(0, 300), min_size=1, max_size=6, unique=True))
    secret = data.draw(st.integers(0, 2**256 - 1))
    values = data.draw(st.lists(st.integers(0, PRIME - 1), min_size=len(places) - 1, max_size=len(places) - 1))
    through = coefficients({0: secret} | {place + 1: value for place, value in zip(places[:-1], values, strict=True)})
    last = int((powers([places[-1] + 1], len(places)) * column(through)).to_list()[0][0])
    shares = dict(zip(places, [*values, last], strict=True))
    given_shares = {index: value.to_bytes(SHARE_BYTES, "big") for index, value in shares.items()}
    assert combine(given_shares, len(places)) == secret.to_bytes(SECRET_BYTES, "big")


@pytest.mark.parametrize("other", [bytes(SECRET_BYTES), LARGEST, SECRET[::-1]], ids=["zero", "largest", "reversed"])
def test_one_share_too_few_fits_every_secret(other: bytes) -> None:
    """For the same ``threshold - 1`` shares, one polynomial has the other secret; its shares combine to it."""
    threshold = 4
    shares = split(SECRET, 6, threshold, seeded(b"secrecy"))
    known = {place: value for place, value in points(shares).items() if place in (2, 3, 5)}
    through = coefficients({0: int.from_bytes(other, "big")} | known)
    forged = split(other, 6, threshold, scripted(*through[1:]))
    assert [forged[index] for index in (1, 2, 4)] == [shares[index] for index in (1, 2, 4)]
    assert combine({index: forged[index] for index in (0, 1, 2, 4)}, threshold) == other


def test_a_single_share_of_two_very_different_secrets_is_distributed_alike() -> None:
    """Top bytes of 2 000 shares (chi-squared); a source with 8 bits of randomness is rejected."""

    def tops(secret: bytes, source: Entropy) -> list[int]:
        bits = [int.from_bytes(split(secret, 2, 2, source)[1], "big") >> 513 for _ in range(2000)]
        return [bits.count(top) for top in range(256)]

    for secret, seed in ((bytes(SECRET_BYTES), b"one"), (LARGEST, b"two")):
        assert stats.chisquare(tops(secret, seeded(seed))).pvalue > LEAST_P
    weak = seeded(b"weak")
    assert stats.chisquare(tops(LARGEST, lambda count: bytes(count - 1) + weak(1))).pvalue < LEAST_P


def test_a_number_that_is_no_element_of_the_field_is_drawn_again() -> None:
    """All ones are the modulus itself: taken as zero, that coefficient would be twice as probable as others."""
    shares = split(SECRET, 2, 2, scripted(2**528 - 1, PRIME, 5))
    assert points(shares) == {place: int.from_bytes(SECRET, "big") + 5 * place for place in (1, 2)}


def test_bits_beyond_the_field_are_left_out() -> None:
    assert split(SECRET, 2, 2, scripted(2**527 + 5)) == split(SECRET, 2, 2, scripted(5))


@given(rules(), st.binary(min_size=1, max_size=8))
def test_more_shares_than_needed_change_nothing_and_the_lowest_are_used(rule: tuple[int, int], seed: bytes) -> None:
    holders, threshold = rule
    shares = dict(enumerate(split(SECRET, holders, threshold, seeded(seed))))
    broken = {index: share if index < threshold else bytes(SHARE_BYTES) for index, share in shares.items()}
    backwards = dict(reversed(broken.items()))
    assert combine(broken, threshold) == combine(backwards, threshold) == SECRET


def test_a_share_made_up_by_chance_is_noticed() -> None:
    """It leads anywhere below 2**521, and below 2**256 once in 2**265 trials."""
    shares = dict(enumerate(split(SECRET, 5, 3, seeded(b"forged"))))
    for index in range(3):
        with pytest.raises(ProtocolError) as refused:
            combine(shares | {index: shares[4]}, 3)
        assert refused.value.code == "share-forged"


@pytest.mark.parametrize(("index", "shift"), [(0, 3), (1, -3), (2, 1)])
def test_a_share_moved_by_one_moves_the_secret_and_nothing_here_notices(index: int, shift: int) -> None:
    """Why every share is compared with its commitment: Lagrange's weights for the places 1, 2 and 3 are 3, -3 and 1."""
    shares = dict(enumerate(split(SECRET, 5, 3, seeded(b"moved"))))
    moved = (int.from_bytes(shares[index], "big") + 1).to_bytes(SHARE_BYTES, "big")
    found = int.from_bytes(combine(shares | {index: moved}, 3), "big")
    assert found == int.from_bytes(SECRET, "big") + shift


def test_the_bound_of_a_secret_is_exact() -> None:
    """With one share needed, the share is the secret: 2**256 - 1 is one, 2**256 is none."""
    assert combine({0: (2**256 - 1).to_bytes(SHARE_BYTES, "big")}, 1) == LARGEST
    with pytest.raises(ProtocolError, match="do not belong together"):
        combine({0: (2**256).to_bytes(SHARE_BYTES, "big")}, 1)


@pytest.mark.parametrize(
    "share",
    [b"", bytes(SHARE_BYTES - 1), bytes(SHARE_BYTES + 1), PRIME.to_bytes(SHARE_BYTES, "big"), b"\xff" * SHARE_BYTES],
    ids=["empty", "short", "long", "the modulus", "all ones"],
)
def test_bytes_that_are_no_share_are_refused(share: bytes) -> None:
    """The modulus would be zero in another form, and a share has one form."""
    with pytest.raises(ProtocolError) as refused:
        combine({0: share}, 1)
    assert refused.value.code == "share-forged"


@pytest.mark.parametrize("threshold", [0, 3])
def test_too_few_shares_are_refused(threshold: int) -> None:
    shares = dict(enumerate(split(SECRET, 3, 3, seeded(b"few"))[:2]))
    with pytest.raises(ProtocolError, match="2 shares of a secret") as refused:
        combine(shares, threshold)
    assert refused.value.code == "shares-missing"


@pytest.mark.parametrize(
    "call",
    [
        lambda: split(SECRET[1:], 3, 2, seeded(b"")),
        lambda: split(SECRET + b"0", 3, 2, seeded(b"")),
        lambda: split(SECRET, 3, 4, seeded(b"")),
        lambda: split(SECRET, 3, 0, seeded(b"")),
        lambda: split(SECRET, 0, 0, seeded(b"")),
    ],
    ids=["31 bytes", "33 bytes", "threshold above holders", "threshold 0", "no holder"],
)
def test_a_split_that_protects_nothing_or_cannot_be_undone_is_a_mistake(call: Callable[[], object]) -> None:
    with pytest.raises(ValueError, match=r"a secret has 32 bytes|a threshold of"):
        call()


def test_the_shares_of_a_known_polynomial_are_these() -> None:
    """By hand: 7 + 2x + 3x**2 at x = 1, 2, 3."""
    shares = split((7).to_bytes(SECRET_BYTES, "big"), 3, 3, scripted(2, 3))
    assert points(shares) == {1: 12, 2: 23, 3: 40}
