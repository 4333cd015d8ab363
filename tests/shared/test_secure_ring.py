"""Sums modulo a power of two: never ambiguous, packed without loss, refused when damaged."""

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays_of
from numpy.typing import NDArray

from shared.errors import PlanError, ProtocolError
from shared.fixed_point import peak
from shared.plan import FixedPoint
from shared.secure import ring
from shared.secure.ring import (
    BLOCK,
    LEAST_BITS,
    MOST_BITS,
    bits_for,
    lift,
    lift_counts,
    pack,
    packed_bytes,
    to_ring,
    unpack,
)

WIDTHS = range(LEAST_BITS, MOST_BITS + 1)
LENGTHS = (0, 1, 2, 3, 7, 8, 9, 1000)
HIGHEST = 2 ** (MOST_BITS - 1) - 1


@st.composite
def federations(draw: st.DrawFn) -> tuple[int, list[int], list[int]]:
    """A peak, weights, and a value within the peak for each: everything that fits the ring, the edges too."""
    weights = draw(st.lists(st.integers(1, 50), min_size=1, max_size=12))
    highest = draw(st.integers(0, HIGHEST // sum(weights)))
    values = st.one_of(st.integers(-highest, highest), st.sampled_from([-highest, highest]))
    return highest, weights, draw(st.lists(values, min_size=len(weights), max_size=len(weights)))


def residues(length: int, bits: int, seed: int = 0) -> NDArray[np.uint32]:
    return np.random.default_rng(seed).integers(0, 2**bits, length, dtype=np.uint32)


def by_hand(values: NDArray[np.uint32], bits: int) -> bytes:
    """The packed form from the module's text, with integers of Python, bit by bit."""
    if bits == 32:
        return b"".join(int(value).to_bytes(4, "little") for value in values)
    out, shift = b"".join((int(value) % 2**16).to_bytes(2, "little") for value in values), 16
    for width in (8, 4, 2, 1):
        if (bits - 16) // width % 2:
            plane = 0
            for place, value in enumerate(values):
                plane |= (int(value) >> shift) % 2**width << place * width
            out += plane.to_bytes(-(-len(values) * width // 8), "little")
            shift += width
    return out


@given(federations())
def test_a_sum_in_the_ring_is_the_sum(federation: tuple[int, list[int], list[int]]) -> None:
    highest, weights, values = federation
    bits = bits_for(highest, sum(weights))
    total = np.zeros(1, np.uint32)
    for value, weight in zip(values, weights, strict=True):
        total += to_ring(np.array([value], np.int32), weight, bits)
    expected = sum(value * weight for value, weight in zip(values, weights, strict=True))
    assert lift(total, bits).tolist() == [expected]
    assert lift(unpack(pack(total, bits), bits, 1), bits).tolist() == [expected]


@given(st.integers(0, HIGHEST), st.integers(0, 1000))
@example(0, 0)
@example(2**15 - 1, 1)
@example(2**15, 1)
@example(HIGHEST, 1)
def test_the_width_is_the_least_in_which_every_sum_has_a_remainder_of_its_own(highest: int, weights: int) -> None:
    reach = highest * weights
    if 2 * reach + 1 > 2**MOST_BITS:
        with pytest.raises(PlanError):
            bits_for(highest, weights)
        return
    bits = bits_for(highest, weights)
    assert 2 * reach + 1 <= 2**bits
    assert bits == LEAST_BITS or 2 * reach + 1 > 2 ** (bits - 1)


@pytest.mark.parametrize("bits", WIDTHS)
def test_the_largest_sums_of_a_width_keep_their_sign_and_one_more_takes_another_bit(bits: int) -> None:
    reach = 2 ** (bits - 1) - 1
    assert bits_for(reach, 1) == bits_for(1, reach) == bits
    ends = np.array([reach, -reach, 0, 1, -1], np.int32)
    assert lift(to_ring(ends, 1, bits), bits).tolist() == ends.tolist()
    if bits < MOST_BITS:
        assert bits_for(reach + 1, 1) == bits + 1
        assert lift(to_ring(np.array([reach + 1], np.int32), 1, bits), bits).tolist() != [reach + 1]


def test_a_plan_whose_sums_do_not_fit_is_refused_with_the_numbers() -> None:
    assert bits_for(HIGHEST, 1) == MOST_BITS
    with pytest.raises(PlanError, match=r"up to 2147483648 under weights of 1 in all need 33 bits") as refused:
        bits_for(2**31, 1)
    assert refused.value.code == "ring"
    assert "by 1 or more" in refused.value.hint


@pytest.mark.parametrize(("highest", "weights"), [(-1, 1), (1, -1)])
def test_a_negative_bound_is_a_mistake(highest: int, weights: int) -> None:
    with pytest.raises(ValueError, match="neither can be negative"):
        bits_for(highest, weights)


@pytest.mark.parametrize(("bits", "sites", "expected"), [(16, 1, 16), (16, 4, 18), (16, 8, 19), (16, 64, 22)])
def test_updates_of_16_bits_stay_within_the_share_of_float32_that_was_promised(
    bits: int, sites: int, expected: int
) -> None:
    """At most 0.55 of float32 up to 8 sites and 0.7 up to 64, each of weight one, would be 17.6 and 22.4 bits."""
    highest = peak(FixedPoint(range=4.0, bits=16))
    assert bits_for(highest, sites) == expected
    assert packed_bytes(10**6, expected) == 10**6 * expected // 8
    assert bits == 16


@given(
    arrays_of.arrays(np.int32, st.integers(0, 20), elements=st.integers(-(2**31), 2**31 - 1)),
    st.integers(-(2**40), 2**40),
    st.sampled_from(WIDTHS),
)
def test_remainders_are_those_of_integers_of_any_size(values: NDArray[np.int32], weight: int, bits: int) -> None:
    expected = [int(value) * weight % 2**bits for value in values]
    assert to_ring(values, weight, bits).tolist() == expected


@given(
    arrays_of.arrays(np.uint32, st.integers(0, 20), elements=st.integers(0, 2**32 - 1)),
    st.sampled_from(WIDTHS),
)
def test_what_lies_above_the_ring_changes_nothing(words: NDArray[np.uint32], bits: int) -> None:
    """Words may stay unreduced until the end: the module says so, and masks rely on it."""
    reduced = words & np.uint32(2**bits - 1)
    assert lift(words, bits).tolist() == lift(reduced, bits).tolist()
    assert pack(words, bits).tobytes() == pack(reduced, bits).tobytes()
    centred = [int(word) - 2**bits * (int(word) >= 2 ** (bits - 1)) for word in reduced]
    assert lift(words, bits).tolist() == centred


@given(arrays_of.arrays(np.int64, st.integers(0, 8), elements=st.integers(-(2**63), 2**63 - 1)))
def test_counts_come_back_from_words_of_64_bits(counts: NDArray[np.int64]) -> None:
    assert lift_counts(counts.astype(np.uint64)).tolist() == counts.tolist()


@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize("bits", WIDTHS)
def test_what_is_packed_comes_back_and_is_packed_as_the_text_says(bits: int, length: int) -> None:
    values = residues(length, bits)
    packed = pack(values, bits)
    assert packed.tobytes() == by_hand(values, bits)
    assert packed.size == packed_bytes(length, bits)
    assert unpack(packed, bits, length).tolist() == values.tolist()


@given(st.sampled_from(WIDTHS), st.integers(0, 200), st.integers(0, 99))
def test_any_length_and_width_comes_back(bits: int, length: int, seed: int) -> None:
    values = residues(length, bits, seed)
    assert np.array_equal(unpack(pack(values, bits), bits, length), values)


@pytest.mark.parametrize("bits", [16, 21, 23, 31, 32])
@pytest.mark.parametrize("beyond", [-1, 0, 1, 7, BLOCK])
def test_blocks_are_seen_nowhere_in_the_packed_form(bits: int, beyond: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """As many values as a block, one fewer, a few more: the same bytes as in one block of all."""
    values = residues(BLOCK + beyond, bits)
    packed, lifted, weighted = pack(values, bits), lift(values, bits), to_ring(values.view(np.int32), 3, bits)
    opened = unpack(packed, bits, values.size)
    monkeypatch.setattr(ring, "BLOCK", 4 * BLOCK)
    assert np.array_equal(pack(values, bits), packed)
    assert np.array_equal(lift(values, bits), lifted)
    assert np.array_equal(to_ring(values.view(np.int32), 3, bits), weighted)
    assert np.array_equal(opened, values)


def test_the_packed_form_of_a_few_values_is_these_bytes() -> None:
    """23 bits: 16 low bits, then planes of 4, 2 and 1 bits, the first value lowest."""
    values = np.array([0x000001, 0x7F0002, 0x050003], np.uint32)
    assert pack(values, 23).tobytes().hex(" ") == "01 00 02 00 03 00 f0 05 0c 02"
    assert pack(values, 24).tobytes().hex(" ") == "01 00 02 00 03 00 00 7f 05"
    assert pack(values, 32).tobytes().hex(" ") == "01 00 00 00 02 00 7f 00 03 00 05 00"


def test_numbers_of_bytes_are_the_bits_rounded_up_plane_by_plane() -> None:
    assert [packed_bytes(9, bits) for bits in (16, 17, 19, 23, 24, 31, 32)] == [18, 20, 23, 28, 27, 37, 36]
    assert all(packed_bytes(8 * 10**6, bits) == bits * 10**6 for bits in WIDTHS)
    assert all(packed_bytes(0, bits) == 0 for bits in WIDTHS)


@pytest.mark.parametrize("bits", [17, 18, 19, 20, 21, 22, 23, 29, 31])
@pytest.mark.parametrize("length", [1, 3, 7, 9])
def test_every_bit_of_the_packed_form_matters_or_is_refused(bits: int, length: int) -> None:
    """Each bit flipped in turn: another value, or "ring-padding" as often as there are bits that fill up."""
    values = residues(length, bits)
    packed = pack(values, bits)
    flipped = np.packbits(np.eye(8 * packed.size, dtype=np.uint8), axis=1) ^ packed
    refused = [row for row in flipped if code_of(row, bits, length) == "ring-padding"]
    others = [unpack(row, bits, length).tobytes() for row in flipped if code_of(row, bits, length) is None]
    assert len(refused) == 8 * packed.size - bits * length
    assert len(refused) + len(others) == 8 * packed.size
    assert len({values.tobytes(), *others}) == 1 + bits * length


def code_of(data: NDArray[np.uint8], bits: int, length: int) -> str | None:
    """With which code ``data`` is refused, if it is."""
    try:
        unpack(data, bits, length)
    except ProtocolError as error:
        return error.code
    return None


@pytest.mark.parametrize("bits", WIDTHS)
@pytest.mark.parametrize("change", [-1, 1])
def test_another_number_of_bytes_is_refused(bits: int, change: int) -> None:
    size = packed_bytes(9, bits) + change
    with pytest.raises(ProtocolError, match=f"{size} bytes do not hold 9 values of {bits} bits") as refused:
        unpack(np.zeros(size, np.uint8), bits, 9)
    assert refused.value.code == "ring-length"


@pytest.mark.parametrize("bits", [0, 15, 33, 64])
def test_widths_that_no_plan_has_are_refused(bits: int) -> None:
    words = np.zeros(1, np.uint32)
    for call in (
        lambda: pack(words, bits),
        lambda: lift(words, bits),
        lambda: to_ring(words.view(np.int32), 1, bits),
        lambda: unpack(np.zeros(4, np.uint8), bits, 1),
    ):
        with pytest.raises(ProtocolError) as refused:
            call()
        assert refused.value.code == "ring-bits"


def test_a_vector_of_another_type_is_a_mistake_and_never_converted() -> None:
    """A silent conversion of float or int64 would send other numbers."""
    for call in (
        lambda: to_ring(np.zeros(2, np.int64), 1, 16),  # type: ignore[arg-type]
        lambda: to_ring(np.zeros((2, 2), np.int32), 1, 16),
        lambda: lift(np.zeros(2, np.int32), 16),  # type: ignore[arg-type]
        lambda: lift_counts(np.zeros(2, np.float64)),  # type: ignore[arg-type]
        lambda: pack(np.zeros(2, np.uint64), 16),  # type: ignore[arg-type]
        lambda: unpack(np.zeros(2, np.uint16), 16, 1),  # type: ignore[arg-type]
    ):
        with pytest.raises(ValueError, match="a vector of"):
            call()


def test_views_with_gaps_and_read_only_bytes_are_read_as_well() -> None:
    values = residues(50, 21)
    packed = pack(values, 21)
    frozen = np.frombuffer(packed.tobytes(), np.uint8)
    assert np.array_equal(unpack(frozen, 21, 50), values)
    assert np.array_equal(unpack(np.repeat(packed, 2)[::2], 21, 50), values)
    assert np.array_equal(unpack(np.concatenate([packed[:1], packed])[1:], 21, 50), values)
    assert np.array_equal(pack(np.repeat(values, 2)[::2], 21), packed)
    assert np.array_equal(to_ring(np.repeat(values, 2)[::2].view(np.int32), 1, 21), values)


def test_what_comes_in_is_not_changed() -> None:
    words = residues(100, 32)
    before = words.copy()
    pack(words, 23)
    lift(words, 23)
    to_ring(words.view(np.int32), 5, 23)
    assert np.array_equal(words, before)
