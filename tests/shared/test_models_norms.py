"""Group normalisation in place of everything that remembers images."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from shared.errors import ModelError
from shared.models.norms import (
    MOST_GROUPS,
    data_dependent_buffers,
    group_count,
    replace_norms,
    require_no_running_statistics,
)


def drawn(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(1))


def conv_net(norm: nn.Module) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), norm, nn.ReLU(), nn.Conv2d(4, 2, 1))


def first_prediction(network: nn.Module, second_image: Tensor) -> Tensor:
    network.train()
    with torch.no_grad():
        prediction: Tensor = network(torch.stack([drawn(1, 6, 6), second_image]))[0]
    return prediction


@given(st.integers(1, 2048))
def test_groups_divide_the_channels_and_hold_at_least_two(channels: int) -> None:
    groups = group_count("group", channels)
    assert channels % groups == 0
    assert 1 <= groups <= MOST_GROUPS
    assert channels == 1 or channels // groups >= 2
    larger = [more for more in range(groups + 1, MOST_GROUPS + 1) if channels % more == 0 and channels // more >= 2]
    assert larger == []


def test_the_group_counts_of_common_widths() -> None:
    assert [group_count("group", channels) for channels in (1, 2, 3, 7, 12, 16, 24, 64, 100)] == [
        1,
        1,
        1,
        1,
        6,
        8,
        8,
        8,
        5,
    ]
    assert [group_count("instance", channels) for channels in (1, 7, 64)] == [1, 7, 64]


@pytest.mark.parametrize(("oracle", "shape"), [(nn.InstanceNorm2d, (3, 6, 5, 4)), (nn.InstanceNorm3d, (2, 6, 3, 4, 5))])
def test_one_channel_per_group_is_torchs_instance_norm_forward_and_backward(
    oracle: type[nn.InstanceNorm2d | nn.InstanceNorm3d], shape: tuple[int, ...]
) -> None:
    known = nn.Sequential(oracle(6, affine=True))
    ours = replace_norms(nn.Sequential(oracle(6, affine=True)), "instance")
    results = []
    for network in (known, ours):
        for parameter in network.parameters():
            parameter.data = drawn(6)
        inputs = drawn(*shape).requires_grad_()
        outputs = network(inputs)
        (outputs * drawn(*shape).sin()).sum().backward()
        results.append([outputs, inputs.grad, *(parameter.grad for parameter in network.parameters())])
    torch.testing.assert_close(results[1], results[0], rtol=1e-4, atol=1e-5)


def test_group_norm_of_one_group_is_the_mean_and_deviation_of_the_whole_image() -> None:
    network = replace_norms(nn.Sequential(nn.BatchNorm2d(3)), "group")
    image = drawn(1, 3, 8, 8)
    by_hand = (image - image.mean()) / (image.var(unbiased=False) + 1e-5).sqrt()
    torch.testing.assert_close(network(image), by_hand)


def test_only_batch_and_instance_norms_are_replaced() -> None:
    network = nn.Sequential(
        nn.BatchNorm1d(4), nn.BatchNorm3d(4), nn.InstanceNorm2d(4), nn.LayerNorm(4), nn.GroupNorm(4, 4)
    )
    layer_norm, group_norm = network[3], network[4]
    assert replace_norms(network, "group") is network
    assert [type(layer) for layer in network] == [nn.GroupNorm, nn.GroupNorm, nn.GroupNorm, nn.LayerNorm, nn.GroupNorm]
    assert network[3] is layer_norm
    assert network[4] is group_norm


def test_a_layer_known_under_two_names_stays_one_layer() -> None:
    shared, network = nn.BatchNorm2d(4), nn.Module()
    network.first, network.second = nn.Sequential(shared), nn.ModuleDict({"inner": nn.Sequential(shared)})
    replace_norms(network, "group")
    assert isinstance(network.first[0], nn.GroupNorm)
    assert network.first[0] is network.get_submodule("second.inner.0")
    assert len(list(network.parameters())) == 2


def test_replacing_uses_no_random_number() -> None:
    network = conv_net(nn.BatchNorm2d(4))
    before = torch.get_rng_state()
    replace_norms(network, "group")
    assert torch.equal(torch.get_rng_state(), before)


def test_running_statistics_are_found_by_name() -> None:
    network = nn.Sequential(nn.BatchNorm2d(4), nn.InstanceNorm2d(4), nn.InstanceNorm2d(4, track_running_stats=True))
    network.register_buffer("positions", torch.arange(4))
    statistics = ["running_mean", "running_var", "num_batches_tracked"]
    assert data_dependent_buffers(network) == [f"{layer}.{name}" for layer in (0, 2) for name in statistics]


@pytest.mark.parametrize(
    "norm",
    [nn.BatchNorm2d(4), nn.BatchNorm2d(4, track_running_stats=False), nn.InstanceNorm2d(4, track_running_stats=True)],
    ids=["batch", "batch-without-statistics", "instance-with-statistics"],
)
def test_a_network_that_remembers_or_mixes_images_is_refused_until_it_is_repaired(norm: nn.Module) -> None:
    network = conv_net(norm)
    with pytest.raises(ModelError, match=r"statistics of the images .* in [13] places: 1") as caught:
        require_no_running_statistics(network)
    assert "replace_norms" in caught.value.hint
    require_no_running_statistics(replace_norms(network, "group"))


def test_batch_norm_lets_one_image_change_the_prediction_of_another_and_its_replacement_does_not() -> None:
    """The control for the contract suite: with batch normalisation its check of independence fails."""
    network = conv_net(nn.BatchNorm2d(4))
    dark, bright = drawn(1, 6, 6), 50 + 10 * drawn(1, 6, 6)
    assert (first_prediction(network, dark) - first_prediction(network, bright)).abs().max() > 0.1
    replace_norms(network, "group")
    torch.testing.assert_close(first_prediction(network, dark), first_prediction(network, bright))
