"""Changes as integers: what is rounded stays within its bound, what is packed comes back, what is wrong is refused."""

from __future__ import annotations

import itertools
import math
import tracemalloc
from decimal import ROUND_HALF_EVEN, Decimal
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays_of
from numpy.typing import NDArray

from shared import fixed_point
from shared.errors import PlanError, ProtocolError, UpdateRejected
from shared.fixed_point import BLOCK, WIDTHS, dequantise, pack, packed_width, peak, quantise, resolution, unpack
from shared.messages import Bits
from shared.plan import FixedPoint

BITS: tuple[Bits, ...] = tuple(WIDTHS)
RANGES = (4.0, 3.0, 0.1, 1.0, 100.0, 2.0**-20)
GRIDS = [FixedPoint(range=reach, bits=bits) for bits, reach in itertools.product(BITS, RANGES)]


def floats(values: list[float]) -> NDArray[np.float32]:
    return np.array(values, np.float32)


@pytest.mark.parametrize("grid", GRIDS, ids=str)
def test_the_grid_is_the_least_power_of_two_that_spans_the_range(grid: FixedPoint) -> None:
    step = Fraction(resolution(grid))
    assert step.numerator == 1 or step.denominator == 1
    assert math.log2(step) == int(math.log2(step))
    assert step * 2 ** (grid.bits - 1) >= Fraction(grid.range) > step * 2 ** (grid.bits - 2)


@pytest.mark.parametrize("grid", GRIDS, ids=str)
def test_the_peak_is_inside_range_and_bits_and_close_to_the_range(grid: FixedPoint) -> None:
    reach, highest = Fraction(grid.range), peak(grid)
    assert highest < 2 ** (grid.bits - 1)
    assert int(np.float32(highest)) == highest
    loss = Fraction(1, 2 ** min(grid.bits - 2, 22))
    assert reach * (1 - loss) < highest * Fraction(resolution(grid)) <= reach


@pytest.mark.parametrize("reach", [2.0**-65, 2.0**65, 1e300, 5e-324])
def test_a_range_that_float32_cannot_use_is_refused(reach: float) -> None:
    with pytest.raises(PlanError, match="which float32 updates cannot use"):
        resolution(FixedPoint(range=reach))


def exact(change: float, grid: FixedPoint) -> int:
    """Oracle: round half to even in decimal arithmetic, then clip."""
    scaled = Fraction(change) / Fraction(resolution(grid))
    nearest = int((Decimal(scaled.numerator) / Decimal(scaled.denominator)).to_integral_value(ROUND_HALF_EVEN))
    return max(-peak(grid), min(peak(grid), nearest))


@settings(deadline=None)
@given(
    arrays_of.arrays(np.float32, st.integers(0, 20), elements=st.floats(-8, 8, width=32)),
    st.sampled_from([FixedPoint(range=reach, bits=bits) for reach in (4.0, 3.0) for bits in BITS]),
)
def test_integers_are_those_of_exact_arithmetic(change: NDArray[np.float32], grid: FixedPoint) -> None:
    values, saturated = quantise(change, grid)
    assert values.dtype == np.int32
    assert values.tolist() == [exact(float(value), grid) for value in change]
    beyond = [abs(Fraction(float(value)) / Fraction(resolution(grid))) for value in change]
    assert saturated == sum(round(value) > peak(grid) for value in beyond)


@settings(deadline=None)
@given(
    arrays_of.arrays(np.float64, st.integers(1, 20), elements=st.floats(-3.9, 3.9)),
    st.sampled_from(BITS),
)
def test_a_round_trip_is_off_by_at_most_half_a_step(change: NDArray[np.float64], bits: Bits) -> None:
    grid = FixedPoint(range=4.0, bits=bits)
    values, saturated = quantise(change, grid)
    assert saturated == 0
    assert np.abs(dequantise(values, grid) - change).max() <= resolution(grid) / 2


@given(st.lists(st.integers(-(2**31) + 128, 2**31 - 128), max_size=20), st.sampled_from([4.0, 2.0**-8]))
def test_a_change_on_the_grid_survives_unchanged(steps: list[int], reach: float) -> None:
    grid = FixedPoint(range=reach, bits=32)
    on_grid = np.array(steps, np.float64) * resolution(grid)
    assert quantise(on_grid, grid)[0].tolist() == steps
    assert np.array_equal(dequantise(np.array(steps, np.int32), grid), on_grid)


@settings(deadline=None)
@given(
    arrays_of.arrays(
        np.float32, st.integers(0, 30), elements=st.floats(width=32, allow_nan=False, allow_infinity=False)
    )
)
def test_float32_and_float64_of_the_same_numbers_give_the_same_integers(change: NDArray[np.float32]) -> None:
    for bits in BITS:
        grid = FixedPoint(bits=bits)
        single, double = quantise(change, grid), quantise(change.astype(np.float64), grid)
        assert np.array_equal(single[0], double[0])
        assert single[1] == double[1]


@pytest.mark.parametrize("bits", BITS)
def test_changes_beyond_the_range_saturate_symmetrically_and_are_counted(bits: Bits) -> None:
    grid = FixedPoint(range=1.0, bits=bits)
    values, saturated = quantise(floats([0.5, 1.0, -1.0, 7.0, -3e38, 3e38]), grid)
    assert values[1:].tolist() == [peak(grid) * sign for sign in (1, -1, 1, -1, 1)]
    assert saturated == 5


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("position", [0, BLOCK - 1, BLOCK, BLOCK + 5])
@pytest.mark.parametrize("kind", [np.float32, np.float64])
def test_a_change_that_is_not_finite_is_rejected_wherever_it_stands(
    bad: float, position: int, kind: type[np.float32] | type[np.float64]
) -> None:
    change: NDArray[np.float32] | NDArray[np.float64] = np.zeros(BLOCK + 6, kind)
    change[position] = bad
    with pytest.raises(UpdateRejected, match="1 or more parameters is not finite") as caught:
        quantise(change, FixedPoint())
    assert caught.value.code == "update-not-finite"


@pytest.mark.parametrize("wrong", [np.zeros(3, np.int32), np.zeros((2, 2), np.float32), np.zeros(3, np.float16)])
def test_what_is_no_vector_of_reals_is_rejected(wrong: NDArray[np.float32]) -> None:
    with pytest.raises(UpdateRejected) as caught:
        quantise(wrong, FixedPoint())
    assert caught.value.code == "update-type"


def test_blocks_leave_no_seam(monkeypatch: pytest.MonkeyPatch) -> None:
    change = np.random.default_rng(5).normal(0, 3, 1000).astype(np.float32)
    whole = quantise(change, FixedPoint())
    monkeypatch.setattr(fixed_point, "BLOCK", 7)
    parts = quantise(change, FixedPoint())
    assert np.array_equal(whole[0], parts[0])
    assert whole[1] == parts[1] > 0


def test_quantising_does_not_change_its_argument() -> None:
    change = floats([9.0, -9.0, 0.1])
    before = change.copy()
    quantise(change, FixedPoint())
    assert np.array_equal(change, before)


def test_quantising_needs_scratch_space_of_one_block_only() -> None:
    change = np.full(8 * BLOCK, 0.1, np.float32)
    tracemalloc.start()
    quantise(change, FixedPoint())
    _, highest = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert highest < 4 * change.size + 8 * BLOCK


@settings(deadline=None)
@given(st.data(), st.sampled_from(BITS))
def test_unpacking_undoes_packing(data: st.DataObject, bits: Bits) -> None:
    bound = 2 ** (bits - 1)
    values = np.array(data.draw(st.lists(st.integers(-bound, bound - 1), max_size=40)), np.int32)
    packed = pack(values, bits)
    assert len(packed) == values.size * math.ceil(bits / 8)
    unpacked = unpack(packed, bits)
    assert unpacked.dtype == np.int32
    assert np.array_equal(unpacked, values)


@given(st.data(), st.sampled_from(BITS))
def test_packed_bytes_are_those_that_python_writes(data: st.DataObject, bits: Bits) -> None:
    bound = 2 ** (bits - 1)
    values = data.draw(st.lists(st.integers(-bound, bound - 1), max_size=9))
    expected = b"".join(value.to_bytes(math.ceil(bits / 8), "little", signed=True) for value in values)
    assert pack(np.array(values, np.int32), bits) == expected


@given(st.binary(max_size=60), st.sampled_from(BITS))
def test_any_bytes_unpack_to_values_that_pack_to_them_or_are_refused(data: bytes, bits: Bits) -> None:
    width = math.ceil(bits / 8)
    whole = data[: len(data) // width * width]
    written = [int.from_bytes(whole[at : at + width], "little", signed=True) for at in range(0, len(whole), width)]
    if all(-(2 ** (bits - 1)) <= value < 2 ** (bits - 1) for value in written):
        assert pack(unpack(whole, bits), bits) == whole
    else:
        with pytest.raises(ProtocolError, match=f"do not fit {bits} bits"):
            unpack(whole, bits)


@pytest.mark.parametrize("bits", BITS)
def test_an_integer_takes_the_fewest_whole_bytes_that_hold_it(bits: Bits) -> None:
    assert packed_width(bits) == next(width for width in itertools.count(1) if 8 * width >= bits)


@pytest.mark.parametrize(
    ("bits", "value"),
    [(bits, sign) for bits in BITS if bits < 32 for sign in (2 ** (bits - 1), -(2 ** (bits - 1)) - 1)],
)
def test_an_integer_that_does_not_fit_is_refused_rather_than_cut(bits: Bits, value: int) -> None:
    with pytest.raises(ProtocolError, match=f"do not fit {bits} bits"):
        pack(np.array([0, value], np.int32), bits)


@pytest.mark.parametrize(("bits", "size"), [(9, 3), (16, 3), (17, 4), (24, 4), (25, 6), (32, 6)])
def test_bytes_that_are_no_whole_number_of_integers_are_refused(bits: Bits, size: int) -> None:
    with pytest.raises(ProtocolError, match=f"{size} bytes are no whole number of {bits}-bit integers"):
        unpack(bytes(size), bits)


def stochastic(bits: Bits, reach: float = 1.0) -> FixedPoint:
    return FixedPoint(range=reach, bits=bits, rounding="stochastic")


def mean_error_over_its_bound(grid: FixedPoint, draws: int) -> float:
    """How far the mean of many draws lies from the change, at worst; 1 is what chance alone passes once in 4e7.

    The oracle is exact: a change x of n and a fraction f is n with probability 1 - f and n + 1 with probability f, so
    the mean of ``draws`` of them has variance f (1 - f) / draws; six standard deviations of a normal, and for each
    fraction one step of the mean itself.
    """
    rng, worst = np.random.default_rng(7), 0.0
    for fraction in (0.1, 0.25, 0.5, 0.9):
        for whole in (-3, 0, 5):
            change = np.full(draws, (whole + fraction) * resolution(grid))
            values, saturated = quantise(change, grid, rng)
            assert saturated == 0
            bound = 6 * math.sqrt(fraction * (1 - fraction) / draws) + 1 / draws
            worst = max(worst, abs(values.mean(dtype=np.float64) - (whole + fraction)) / bound)
    return worst


@pytest.mark.parametrize("bits", [8, 12, 16, 24, 32])
def test_stochastic_rounding_keeps_the_mean_and_nearest_does_not(bits: Bits) -> None:
    assert mean_error_over_its_bound(stochastic(bits), 20_000) < 1
    assert mean_error_over_its_bound(FixedPoint(range=1.0, bits=bits), 20_000) > 10


@settings(deadline=None)
@given(
    arrays_of.arrays(np.float64, st.integers(1, 20), elements=st.floats(-3.9, 3.9)),
    st.sampled_from(BITS),
    st.integers(0, 2**32),
)
def test_stochastic_rounding_gives_a_neighbour_on_the_grid(change: NDArray[np.float64], bits: Bits, seed: int) -> None:
    grid = stochastic(bits, 4.0)
    values, _ = quantise(change, grid, np.random.default_rng(seed))
    for value, found in zip(change, values.tolist(), strict=True):
        exactly = Fraction(float(value)) / Fraction(resolution(grid))
        assert found in {max(-peak(grid), min(peak(grid), near)) for near in (math.floor(exactly), math.ceil(exactly))}


class AlmostOne(np.random.Generator):
    """Draws the largest number below one, for ever."""

    def random(self, *size: Any, **_said: Any) -> Any:
        return np.full(size, np.nextafter(1.0, 0.0))


@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("kind", [np.float32, np.float64])
def test_a_change_on_the_grid_is_itself_whatever_is_drawn(
    bits: Bits, kind: type[np.float32] | type[np.float64]
) -> None:
    """Added to an integer of 31 bits, the largest draw would make the next one of it."""
    grid = stochastic(bits)
    steps = np.array([peak(grid), peak(grid) // 2, 3, 0, -1, -peak(grid)])
    steps[1] &= ~0xFF
    change: Any = (steps * resolution(grid)).astype(kind)
    for rng in (AlmostOne(np.random.PCG64(1)), np.random.default_rng(2)):
        values, saturated = quantise(change, grid, rng)
        assert values.tolist() == steps.tolist()
        assert saturated == 0


@pytest.mark.parametrize("bits", BITS)
def test_stochastic_rounding_saturates_and_counts_as_nearest_does(bits: Bits) -> None:
    far = floats([7.0, -7.0, 3e38, -3e38, 0.0])
    for grid in (stochastic(bits), FixedPoint(range=1.0, bits=bits)):
        values, saturated = quantise(far, grid, np.random.default_rng(1))
        assert (values[:4] * np.array([1, -1, 1, -1])).tolist() == [peak(grid)] * 4
        assert saturated == 4


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_stochastic_rounding_makes_no_integer_of_what_is_not_finite(bad: float) -> None:
    with pytest.raises(UpdateRejected, match="not finite"):
        quantise(floats([0.1, bad]), stochastic(8), np.random.default_rng(1))


def test_the_same_seed_rounds_the_same_way_and_another_does_not(monkeypatch: pytest.MonkeyPatch) -> None:
    change = np.random.default_rng(5).normal(0, 0.3, 1000).astype(np.float32)
    once, again, other = (quantise(change, stochastic(8), np.random.default_rng(seed))[0] for seed in (3, 3, 4))
    assert np.array_equal(once, again)
    assert not np.array_equal(once, other)
    monkeypatch.setattr(fixed_point, "BLOCK", 7)
    assert np.array_equal(quantise(change, stochastic(8), np.random.default_rng(3))[0], once)


def test_changes_below_half_a_step_add_up_over_rounds_only_where_rounding_is_stochastic() -> None:
    """What stochastic rounding is for: fifty rounds of a tenth of a step."""
    rng, grid = np.random.default_rng(11), stochastic(8)
    small = np.full(400, resolution(grid) / 10)
    moved = sum(dequantise(quantise(small, grid, rng)[0], grid).mean() for _ in range(50))
    stuck = sum(np.abs(quantise(small, FixedPoint(range=1.0, bits=8))[0]).sum() for _ in range(50))
    assert abs(moved / resolution(grid) - 5) < 6 * math.sqrt(50 * 0.09 / 400)
    assert stuck == 0


@pytest.mark.parametrize("bits", [7, 33, 0, -8, 16.5])
def test_a_plan_cannot_ask_for_integers_of_another_width(bits: Any) -> None:
    with pytest.raises(ValueError, match="bits"):
        FixedPoint(bits=bits)
