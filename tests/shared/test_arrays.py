"""Vectors and integers: what is written is read, what is rounded stays within its bound, what is wrong is refused."""

from __future__ import annotations

import hashlib
import math

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import nn

from shared.arrays import ParameterSchema, read_vector, schema_of, write_vector
from shared.errors import ModelError, ProtocolError


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
    linear, norm = nn.Linear(2, 2), nn.BatchNorm1d(2)
    module = nn.Sequential(linear.requires_grad_(requires_grad=False), norm)
    frozen = linear.weight.detach().clone()
    assert schema_of(module).names == ("1.weight", "1.bias")
    write_vector(module, floats([5, 6, 7, 8]))
    assert torch.equal(linear.weight, frozen)
    assert norm.running_mean is not None
    assert norm.running_mean.tolist() == [0, 0]


def test_a_parameter_that_two_layers_share_travels_once() -> None:
    shared = nn.Linear(2, 2, bias=False)
    assert schema_of(nn.Sequential(shared, nn.ReLU(), shared)).length == 4


def test_memory_layout_does_not_change_the_vector() -> None:
    plain = nn.Conv2d(3, 4, 3)
    expected = read_vector(plain)
    plain.weight.data = plain.weight.data.contiguous(memory_format=torch.channels_last)
    assert not plain.weight.is_contiguous()
    assert np.array_equal(read_vector(plain), expected)


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


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_network_on_a_gpu_reads_and_writes_like_one_on_the_cpu() -> None:
    module = network()
    expected = read_vector(module)
    on_device = network().cuda()
    write_vector(on_device, expected)
    assert np.array_equal(read_vector(on_device), expected)
