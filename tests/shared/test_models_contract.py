"""One suite for every network in the table, in two and three dimensions."""

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from shared.models import ARCHITECTURES, ModelSpec, build_network, data_dependent_buffers, trainable
from shared.models.norms import group_count
from shared.models.spec import Norm

INPUTS, OUTPUTS = 2, 3

# Narrow networks; those without widths (None) are fixed. What is tested does not depend on the width.
CHANNELS: dict[str, tuple[int, ...] | None] = {
    "cnn": (8, 16),
    "whitened_cnn": (8, 16, 6),
    "densenet121": None,
    "resnet18": (8, 8, 16, 16),
    "resnet50": (4, 4, 8, 8),
    "unet": (4, 8, 8),
    "fine_unet": (4, 4, 8),
    "basic_unet": (4, 4, 8, 8, 8),
    "dynunet": (4, 8, 8),
    "segresnet": (4,),
    "attention_unet": (4, 8, 8),
    "swin_unetr": (12,),
}
HEAVY = {"densenet121", "resnet50", "swin_unetr"}
CASES = [
    pytest.param(name, dimensions, marks=[pytest.mark.slow] if name in HEAVY or dimensions == 3 else [])
    for name in CHANNELS
    for dimensions in (2, 3)
]
every_network = pytest.mark.parametrize(("name", "dimensions"), CASES)


def make(name: str, dimensions: int, *, seed: int = 0, **changes: Any) -> nn.Module:
    norm: Norm = "instance" if dimensions == 2 else "group"
    spec = {"channels": CHANNELS[name], "norm": norm, **changes}
    return build_network(ModelSpec(name, dimensions, INPUTS, OUTPUTS, **spec), seed)


def images(dimensions: int, count: int = 2) -> Tensor:
    """Unequal edges; at 1/32 there are 6 voxels in 2-D, 2 in 3-D (where group norm is tested)."""
    edges = (96, 64) if dimensions == 2 else (64, 32, 32)
    return torch.randn(count, INPUTS, *edges, generator=torch.Generator().manual_seed(3))


def flat(network: nn.Module) -> Tensor:
    return torch.cat([parameter.detach().flatten() for _, parameter in trainable(network)])


@contextmanager
def global_draws_unchanged() -> Iterator[None]:
    before = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()  # type: ignore[index]  # noqa: NPY002
    yield
    assert torch.equal(torch.get_rng_state(), before[0])
    assert random.getstate() == before[1]
    assert np.random.get_state()[1].tolist() == before[2]  # type: ignore[index]  # noqa: NPY002


def test_the_suite_covers_the_whole_table() -> None:
    assert len(CHANNELS) == 12
    assert CHANNELS.keys() == ARCHITECTURES.keys()
    assert {case.values for case in CASES} == {(name, dimensions) for name in ARCHITECTURES for dimensions in (2, 3)}


@every_network
def test_the_output_is_one_tensor_per_voxel_or_per_image(name: str, dimensions: int) -> None:
    inputs = images(dimensions)
    spatial = inputs.shape[2:] if ARCHITECTURES[name].output == "dense" else ()
    for network in (make(name, dimensions).train(), make(name, dimensions).eval()):
        outputs = network(inputs)
        assert isinstance(outputs, Tensor)
        assert outputs.shape == (2, OUTPUTS, *spatial)
        assert outputs.dtype == torch.float32
        assert outputs.isfinite().all()


@every_network
def test_gradient_reaches_every_trainable_parameter(name: str, dimensions: int) -> None:
    """Finite everywhere, and not zero for kernels and matrices.

    A bias in front of a normalisation has gradient zero by construction, as has the table of relative positions of an
    attention window that the image does not fill; those need only be finite.
    """
    network = make(name, dimensions)
    outputs = network(images(dimensions))
    (outputs * torch.randn(outputs.shape, generator=torch.Generator().manual_seed(4))).sum().backward()
    for parameter_name, parameter in trainable(network):
        assert parameter.grad is not None, parameter_name
        assert parameter.grad.isfinite().all(), parameter_name
        if parameter.ndim >= 2 and not parameter_name.endswith("relative_position_bias_table"):
            assert parameter.grad.abs().max() > 0, parameter_name


@every_network
def test_a_training_step_leaves_no_trace_of_the_images_but_in_the_parameters(name: str, dimensions: int) -> None:
    network = make(name, dimensions).train()
    before = {key: buffer.clone() for key, buffer in network.named_buffers()}
    network(images(dimensions)).square().mean().backward()
    assert data_dependent_buffers(network) == []
    assert before.keys() == dict(network.named_buffers()).keys()
    for key, buffer in network.named_buffers():
        assert torch.equal(buffer, before[key]), key


@every_network
def test_an_image_is_predicted_the_same_whatever_else_is_in_its_batch(name: str, dimensions: int) -> None:
    network = make(name, dimensions).train()
    batch = images(dimensions)
    other = torch.stack([batch[0], 100 * batch[1] + 7])
    with torch.no_grad():
        alone, together, beside = network(batch[:1])[0], network(batch)[0], network(other)[0]
    scale = float(alone.abs().max())
    torch.testing.assert_close(together, alone, rtol=0, atol=1e-4 * scale)
    torch.testing.assert_close(beside, alone, rtol=0, atol=1e-4 * scale)


@every_network
def test_every_normalisation_is_the_one_asked_for(name: str, dimensions: int) -> None:
    kinds: tuple[Norm, ...] = ("instance", "group")
    for norm in kinds:
        network = make(name, dimensions, norm=norm)
        layers = [layer for layer in network.modules() if isinstance(layer, nn.GroupNorm)]
        assert layers
        assert all(layer.num_groups == group_count(norm, layer.num_channels) and layer.affine for layer in layers)
        assert not any(
            "Batch" in type(layer).__name__ or "Instance" in type(layer).__name__ for layer in network.modules()
        )


@every_network
def test_a_state_survives_a_round_trip(name: str, dimensions: int) -> None:
    one, other = make(name, dimensions, seed=1), make(name, dimensions, seed=2)
    other.load_state_dict(one.state_dict())
    with torch.no_grad():
        assert torch.equal(one(images(dimensions, 1)), other(images(dimensions, 1)))


@every_network
def test_the_seed_decides_the_weights_and_no_global_generator_is_touched(name: str, dimensions: int) -> None:
    with global_draws_unchanged():
        first = flat(make(name, dimensions, seed=1))
    torch.rand(1)  # another global state must not matter
    assert torch.equal(flat(make(name, dimensions, seed=1)), first)
    assert not torch.equal(flat(make(name, dimensions, seed=2)), first)


@every_network
def test_a_few_steps_lower_the_loss(name: str, dimensions: int) -> None:
    network, inputs = make(name, dimensions), images(dimensions)
    optimizer = torch.optim.Adam([parameter for _, parameter in trainable(network)], lr=2e-3)
    losses = []
    for _ in range(4):
        loss = (network(inputs) - 1).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]


@every_network
def test_dropout_acts_in_training_only_and_adds_no_parameter(name: str, dimensions: int) -> None:
    plain, network = make(name, dimensions), make(name, dimensions, dropout=0.5)
    inputs = images(dimensions, 1)
    assert [key for key, _ in trainable(network)] == [key for key, _ in trainable(plain)]
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(5)
        assert torch.equal(plain(inputs), plain(inputs))
        # Whole channels are dropped in some networks: two draws of four channels may well agree.
        first = network(inputs)
        assert any(not torch.equal(network(inputs), first) for _ in range(5))
        network.eval()
        assert torch.equal(network(inputs), network(inputs))
