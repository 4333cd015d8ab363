"""Vectors and integers: what is written is read, what is rounded stays within its bound, what is wrong is refused."""

from __future__ import annotations

import hashlib
import itertools
import math
import tracemalloc
from decimal import ROUND_HALF_EVEN, Decimal
from fractions import Fraction
from typing import get_args

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays_of
from numpy.typing import NDArray
from torch import nn

from shared import arrays
from shared.arrays import (
    BLOCK,
    Bits,
    ParameterSchema,
    dequantise,
    pack,
    peak,
    quantise,
    read_vector,
    resolution,
    schema_of,
    unpack,
    write_vector,
)
from shared.errors import ModelError, PlanError, ProtocolError, UpdateRejected
from shared.plan import FixedPoint

BITS: tuple[Bits, ...] = get_args(Bits)
RANGES = (4.0, 3.0, 0.1, 1.0, 100.0, 2.0**-20)
GRIDS = [FixedPoint(range=reach, bits=bits) for bits, reach in itertools.product(BITS, RANGES)]


def network() -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(1, 3, 3), nn.InstanceNorm2d(3, affine=True), nn.Linear(4, 2, bias=False))


def floats(values: list[float]) -> NDArray[np.float32]:
    return np.array(values, np.float32)


def test_a_vector_lists_every_trainable_parameter_in_the_order_of_named_parameters() -> None:
    module = network()
    expected = np.concatenate([p.detach().numpy().ravel() for _, p in module.named_parameters()])
    vector = read_vector(module)
    assert vector.dtype == np.float32
    assert np.array_equal(vector, expected)
    assert schema_of(module).names == tuple(name for name, _ in module.named_parameters())


def test_what_was_written_is_read_back_to_the_bit() -> None:
    module, vector = network(), np.random.default_rng(3).normal(size=44).astype(np.float32)
    write_vector(module, vector)
    assert np.array_equal(read_vector(module), vector)


def test_writing_puts_each_value_into_its_own_parameter() -> None:
    module = network()
    write_vector(module, np.arange(44, dtype=np.float32))
    weight = dict(module.named_parameters())["2.weight"]
    assert weight.tolist() == [[36, 37, 38, 39], [40, 41, 42, 43]]


def test_reading_copies_so_that_training_on_does_not_change_the_vector() -> None:
    module = nn.Linear(1, 1, bias=False)
    vector = read_vector(module)
    before = vector.copy()
    with torch.no_grad():
        module.weight.add_(1.0)
    assert np.array_equal(vector, before)


def test_a_vector_in_read_only_memory_can_be_written() -> None:
    module, vector = nn.Linear(2, 1), np.frombuffer(floats([1, 2, 3]).tobytes(), np.float32)
    write_vector(module, vector)
    assert read_vector(module).tolist() == [1, 2, 3]


def test_frozen_parameters_and_buffers_do_not_travel() -> None:
    module = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    module[0].requires_grad_(requires_grad=False)
    frozen = module[0].weight.detach().clone()
    assert schema_of(module).names == ("1.weight", "1.bias")
    write_vector(module, floats([5, 6, 7, 8]))
    assert torch.equal(module[0].weight, frozen)
    assert module[1].running_mean.tolist() == [0, 0]


def test_a_parameter_that_two_layers_share_travels_once() -> None:
    shared = nn.Linear(2, 2, bias=False)
    assert schema_of(nn.Sequential(shared, nn.ReLU(), shared)).length == 4


def test_memory_layout_does_not_change_the_vector() -> None:
    plain = nn.Conv2d(3, 4, 3)
    expected = read_vector(plain)
    assert np.array_equal(read_vector(plain.to(memory_format=torch.channels_last)), expected)


def test_a_vector_of_another_length_is_refused_with_both_numbers() -> None:
    with pytest.raises(ProtocolError, match="expected 3 float32 weights, got float32 of shape \\(4,\\)"):
        write_vector(nn.Linear(2, 1), np.zeros(4, np.float32))


def test_a_vector_of_another_type_is_refused() -> None:
    with pytest.raises(ProtocolError, match="float64"):
        write_vector(nn.Linear(2, 1), np.zeros(3))  # type: ignore[arg-type]


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_weights_that_are_not_finite_are_refused_and_nothing_is_written(bad: float) -> None:
    module = nn.Linear(2, 1)
    before = read_vector(module)
    with pytest.raises(ProtocolError, match="1 of 3 weights received are not finite") as caught:
        write_vector(module, floats([1, 2, bad]))
    assert caught.value.code == "weights-not-finite"
    assert np.array_equal(read_vector(module), before)


def test_a_network_without_trainable_parameters_is_an_error_with_a_hint() -> None:
    with pytest.raises(ModelError, match="no trainable parameter") as caught:
        schema_of(nn.ReLU())
    assert "freeze" in caught.value.hint


def test_a_schema_splits_a_vector_into_named_views() -> None:
    module, vector = network(), np.arange(44, dtype=np.float32)
    write_vector(module, vector)
    parts = schema_of(module).split(vector)
    assert list(parts) == [name for name, _ in module.named_parameters()]
    for name, parameter in module.named_parameters():
        assert np.array_equal(parts[name], parameter.detach().numpy())
        assert np.shares_memory(parts[name], vector)


def test_splitting_a_vector_of_another_length_is_refused() -> None:
    with pytest.raises(ProtocolError, match="expected 44"):
        schema_of(network()).split(np.zeros(43, np.float32))


def test_a_scalar_parameter_is_one_value() -> None:
    schema = ParameterSchema(("temperature", "bias"), ((), (2,)))
    assert schema.length == 3
    assert schema.split(floats([7, 8, 9]))["temperature"] == 7


def test_digests_tell_schemas_apart() -> None:
    schemas = [
        ParameterSchema(("a", "b"), ((2,), (3,))),
        ParameterSchema(("b", "a"), ((2,), (3,))),
        ParameterSchema(("a", "b"), ((3,), (2,))),
        ParameterSchema(("a", "b"), ((2,), (3, 1))),
        ParameterSchema(("a",), ((2,),)),
        ParameterSchema((), ()),
    ]
    assert len({schema.digest() for schema in schemas}) == len(schemas)


def test_the_digest_of_a_schema_never_changes() -> None:
    said = b'["consilium-parameters-1", ["weight", "bias"], [[2, 3], [2]]]'
    assert ParameterSchema(("weight", "bias"), ((2, 3), (2,))).digest() == hashlib.sha256(said).hexdigest()


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
    loss = Fraction(1, 2**14 if grid.bits == 16 else 2**22)
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
    monkeypatch.setattr(arrays, "BLOCK", 7)
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
    assert len(packed) == values.size * bits // 8
    unpacked = unpack(packed, bits)
    assert unpacked.dtype == np.int32
    assert np.array_equal(unpacked, values)


@given(st.data(), st.sampled_from(BITS))
def test_packed_bytes_are_those_that_python_writes(data: st.DataObject, bits: Bits) -> None:
    bound = 2 ** (bits - 1)
    values = data.draw(st.lists(st.integers(-bound, bound - 1), max_size=9))
    expected = b"".join(value.to_bytes(bits // 8, "little", signed=True) for value in values)
    assert pack(np.array(values, np.int32), bits) == expected


@given(st.binary(max_size=60), st.sampled_from(BITS))
def test_any_bytes_unpack_to_values_that_pack_to_them(data: bytes, bits: Bits) -> None:
    whole = data[: len(data) // (bits // 8) * (bits // 8)]
    assert pack(unpack(whole, bits), bits) == whole


@pytest.mark.parametrize(("bits", "value"), [(16, 2**15), (16, -(2**15) - 1), (24, 2**23), (24, -(2**23) - 1)])
def test_an_integer_that_does_not_fit_is_refused_rather_than_cut(bits: Bits, value: int) -> None:
    with pytest.raises(ProtocolError, match=f"do not fit {bits} bits"):
        pack(np.array([0, value], np.int32), bits)


@pytest.mark.parametrize(("bits", "size"), [(16, 3), (24, 4), (32, 6)])
def test_bytes_that_are_no_whole_number_of_integers_are_refused(bits: Bits, size: int) -> None:
    with pytest.raises(ProtocolError, match=f"{size} bytes are no whole number of {bits}-bit integers"):
        unpack(bytes(size), bits)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_network_on_a_gpu_reads_and_writes_like_one_on_the_cpu() -> None:
    module = network()
    expected = read_vector(module)
    on_device = network().cuda()
    write_vector(on_device, expected)
    assert np.array_equal(read_vector(on_device), expected)
