"""From a plan to a network: names, widths, sizes, kinds of output, seeds."""

import hashlib
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from shared.errors import ModelError
from shared.models import ARCHITECTURES, ModelSpec, build, build_network, check_size, spec_of, trainable
from shared.models.table import resolve_widths
from shared.plan import Plan, from_document

ROOT = Path(__file__).parents[2]


def plan_for(name: str, size: tuple[int, ...] = (64, 64), patch: tuple[int, ...] | None = None, **model: Any) -> Plan:
    return from_document(
        {
            "plan": {"name": "a-plan", "task": "segmentation", "rounds": 1, "seed": model.pop("seed", 7)},
            "data": {"modality": "fundus", "classes": ["background", "vessel"]},
            "preprocessing": {"size": size, "colour": model.pop("colour", "grey")},
            "model": {"name": name, **model},
            "training": {"steps": 1, "patients_per_step": 1, "learning_rate": 0.1}
            | ({"patch": patch} if patch else {}),
            "privacy": {"unit": "none"},
        }
    )


def refusal(plan: Plan, output: str = "dense") -> ModelError:
    with pytest.raises(ModelError) as caught:
        build(plan, 2, output)  # type: ignore[arg-type]
    assert caught.value.hint
    return caught.value


def weights_digest(network: nn.Module) -> str:
    return hashlib.sha256(b"".join(p.detach().numpy().tobytes() for _, p in trainable(network))).hexdigest()


def test_a_plan_decides_the_whole_network() -> None:
    plan = plan_for("unet", size=(32, 32, 16), channels=(8, 16), norm="group", dropout=0.1, colour="rgb", seed=3)
    assert spec_of(plan, 4) == ModelSpec("unet", 3, 3, 4, (8, 16), "group", 0.1)
    network = build(plan, 4, "dense")
    assert network(torch.zeros(1, 3, 32, 32, 16)).shape == (1, 4, 32, 32, 16)
    assert any(isinstance(layer, nn.Dropout) and layer.p == 0.1 for layer in network.modules())


def test_the_plans_frozen_prefixes_are_frozen() -> None:
    network = build(plan_for("cnn", freeze=("stages",)), 2, "image")
    assert [name for name, _ in trainable(network)] == ["head.weight", "head.bias"]


def test_an_unknown_prefix_stops_the_build() -> None:
    assert refusal(plan_for("cnn", freeze=("stage",)), "image").hint == "did you mean stages?"


def test_a_misspelt_name_is_answered_with_the_nearest() -> None:
    error = refusal(plan_for("resnet-18"))
    assert error.sentence == "unknown model resnet-18"
    assert error.hint == "did you mean resnet18?"
    assert "swin_unetr" in refusal(plan_for("transformer9000")).hint


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_a_network_for_the_other_kind_of_output_is_refused(name: str) -> None:
    other = "image" if ARCHITECTURES[name].output == "dense" else "dense"
    error = refusal(plan_for(name), other)
    assert error.code == "model-output"
    assert f"{name} gives one prediction per" in error.sentence
    offered = set(error.hint.removeprefix("choose one of ").split(", "))
    assert offered == {known for known, row in ARCHITECTURES.items() if row.output == other}


def test_the_small_cnn_has_the_parameters_counted_by_hand() -> None:
    kernels = 9 * (1 * 16 + 16 * 32 + 32 * 64 + 64 * 128)
    scale_and_shift = 2 * (16 + 32 + 64 + 128)
    head = 128 * 2 + 2
    network = build_network(ModelSpec("cnn", 2, 1, 2), 0)
    assert sum(parameter.numel() for parameter in network.parameters()) == kernels + scale_and_shift + head == 97_650


def test_the_small_cnn_sees_full_resolution_first_and_halves_it_between_stages() -> None:
    network = build_network(ModelSpec("cnn", 2, 1, 2), 0)
    edges = []
    for stage in network.get_submodule("stages").children():
        stage.get_submodule("conv").register_forward_hook(
            lambda _layer, _inputs, output: edges.append(output.shape[2:])
        )
    network(torch.zeros(1, 1, 96, 64))
    assert edges == [(96, 64), (48, 32), (24, 16), (12, 8)]


def test_the_whitened_cnn_reads_the_mean_of_every_stage_of_the_cnn() -> None:
    plain = build_network(ModelSpec("cnn", 2, 1, 2, channels=(4, 8)), 0)
    whitened = build_network(ModelSpec("whitened_cnn", 2, 1, 2, channels=(4, 8, 3)), 0)
    plain.get_submodule("stages").load_state_dict(whitened.get_submodule("stages").state_dict())
    image = torch.randn(2, 1, 16, 16, generator=torch.Generator().manual_seed(0))
    first = plain.get_submodule("stages.0")(image)
    second = plain.get_submodule("stages.1")(first)
    features = torch.cat([first.mean(dim=(2, 3)), second.mean(dim=(2, 3))], dim=1)
    whiten, head = whitened.get_submodule("whiten"), whitened.get_submodule("head")
    assert torch.allclose(whitened(image), head(whiten(features)), atol=1e-6)
    assert [tuple(layer.weight.shape) for layer in (whiten, head)] == [(3, 12), (2, 3)]


def test_a_frozen_body_leaves_the_head_alone_to_train() -> None:
    network = build(plan_for("whitened_cnn", freeze=("stages", "whiten")), 2, "image")
    assert [name for name, _ in trainable(network)] == ["head.weight", "head.bias"]


def test_the_last_width_of_the_whitened_cnn_halves_no_edge() -> None:
    """Five widths with four stages need 8 pixels, as the cnn of four stages does."""
    assert build(plan_for("whitened_cnn", size=(8, 8), norm="group"), 2, "image") is not None
    assert refusal(plan_for("whitened_cnn", size=(7, 8), norm="group"), "image").code == "model-size"


def test_five_widths_of_the_basic_unet_repeat_the_first_as_the_last() -> None:
    five = build_network(ModelSpec("basic_unet", 2, 1, 2, channels=(4, 6, 8, 8, 8)), 5)
    six = build_network(ModelSpec("basic_unet", 2, 1, 2, channels=(4, 6, 8, 8, 8, 4)), 5)
    assert weights_digest(five) == weights_digest(six)


@pytest.mark.parametrize("name", ["resnet18", "resnet50"])
def test_gradient_flows_through_a_residual_blocks_shortcut_where_the_image_is_halved(name: str) -> None:
    """With its convolutions switched off, a halving block still passes a gradient to the layers before it."""
    network = build_network(ModelSpec(name, 2, 1, 2, channels=(4, 4, 4, 4)), 0)
    for block in ("layer2.0", "layer3.0", "layer4.0"):
        last = "bn3" if name == "resnet50" else "bn2"
        nn.init.zeros_(network.get_parameter(f"{block}.{last}.weight"))
    network(torch.randn(1, 1, 96, 96, generator=torch.Generator().manual_seed(0))).sum().backward()
    gradient = network.get_parameter("conv1.weight").grad
    assert gradient is not None
    assert gradient.abs().max() > 1e-4


@pytest.mark.parametrize(
    ("name", "channels", "sentence"),
    [
        ("densenet121", (8, 16), "the channels of densenet121 are fixed, got model.channels = [8, 16]"),
        ("resnet18", (8, 16), "resnet18 takes 4 channels, got model.channels = [8, 16]"),
        ("unet", (8,), "unet takes 2 to 8 channels, got model.channels = [8]"),
        ("basic_unet", (8, 8, 8, 8), "basic_unet takes 5 to 6 channels, got model.channels = [8, 8, 8, 8]"),
        ("segresnet", (8, 16), "segresnet takes 1 channels, got model.channels = [8, 16]"),
        (
            "attention_unet",
            (8, 7),
            "attention_unet takes channels that are multiples of 2, got model.channels = [8, 7]",
        ),
        ("swin_unetr", (16,), "swin_unetr takes channels that are multiples of 12, got model.channels = [16]"),
    ],
)
def test_channels_that_a_network_cannot_have_are_refused(name: str, channels: tuple[int, ...], sentence: str) -> None:
    error = refusal(plan_for(name, channels=channels), ARCHITECTURES[name].output)
    assert error.sentence == sentence


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_an_architectures_own_widths_pass_its_own_rules(name: str) -> None:
    own = ARCHITECTURES[name].widths
    assert resolve_widths(name, None) == own
    assert not own or resolve_widths(name, own) == own


@pytest.mark.parametrize("name", [name for name, row in ARCHITECTURES.items() if row.counts])
def test_channels_set_the_widths(name: str) -> None:
    own = ARCHITECTURES[name].widths
    wide, narrow = (
        sum(p.numel() for p in build_network(ModelSpec(name, 2, 1, 2, channels=widths), 0).parameters())
        for widths in (own, tuple(width // 2 for width in own))
    )
    assert 2.5 * narrow < wide < 4.5 * narrow


@pytest.mark.parametrize(
    ("name", "channels", "multiple"),
    [
        ("unet", (4, 4, 4), 4),
        ("dynunet", (4, 4, 4), 4),
        ("attention_unet", (4, 4, 4), 4),
        ("segresnet", (4,), 8),
    ],
)
def test_a_size_is_accepted_exactly_if_the_network_returns_it(
    name: str, channels: tuple[int, ...], multiple: int
) -> None:
    network = build_network(ModelSpec(name, 2, 1, 2, channels=channels, norm="group"), 0)
    accepted, works = set(), set()
    for edge in range(8, 41):
        try:
            check_size(plan_for(name, size=(edge, 40), channels=channels, norm="group"))
            accepted.add(edge)
        except ModelError:
            pass
        try:
            with torch.no_grad():
                shape = network(torch.zeros(1, 1, edge, 40)).shape
            works |= {edge} if shape == (1, 2, edge, 40) else set()
        except RuntimeError:
            pass
    assert accepted == works == set(range(8, 41, multiple))


@pytest.mark.parametrize("edge", [16, 17, 31, 50])
def test_the_basic_unet_takes_odd_edges(edge: int) -> None:
    network = build(plan_for("basic_unet", size=(edge, 48), channels=(4, 4, 4, 4, 4)), 2, "dense")
    assert network(torch.zeros(1, 1, edge, 48)).shape == (1, 2, edge, 48)


def test_an_indivisible_size_is_refused_with_the_number_and_a_size_that_fits() -> None:
    error = refusal(plan_for("unet", size=(100, 64), channels=(4, 8, 8, 16)))
    assert error.sentence == "unet needs each edge divisible by 8, got preprocessing.size = [100, 64]"
    assert error.hint == "such as [104, 64]"
    assert error.code == "model-size"


def test_a_patch_is_checked_like_the_image() -> None:
    error = refusal(plan_for("segresnet", patch=(40, 36)))
    assert error.sentence == "segresnet needs each edge divisible by 8, got training.patch = [40, 36]"


@pytest.mark.parametrize(
    ("name", "size", "fit"), [("densenet121", (31, 64), "[32, 64]"), ("basic_unet", (64, 15), "[64, 16]")]
)
def test_a_small_edge_is_refused_with_the_least_that_fits(name: str, size: tuple[int, int], fit: str) -> None:
    error = refusal(plan_for(name, size=size), ARCHITECTURES[name].output)
    assert "each edge to be at least" in error.sentence
    assert error.hint == f"such as {fit}"


@pytest.mark.parametrize("size", [(32, 32), (32, 64), (64, 32)])
def test_instance_norm_over_one_or_two_voxels_is_refused_and_group_norm_is_not(size: tuple[int, int]) -> None:
    error = refusal(plan_for("resnet18", size=size), "image")
    assert error.sentence.startswith(
        "resnet18 needs 3 voxels for instance norm at its deepest level, 1/32 of each edge"
    )
    check_size(plan_for("resnet18", size=size, norm="group"))
    check_size(plan_for("resnet18", size=(64, 64)))


@pytest.mark.parametrize("voxels", [1, 2, 3])
def test_no_gradient_passes_an_instance_norm_over_fewer_than_three_voxels(voxels: int) -> None:
    """Why the size rule says three: what two voxels normalise to does not depend on them."""
    inputs = torch.tensor([5.0, -3.0, 40.0])[:voxels].repeat(2, 1, 1).requires_grad_()
    (nn.GroupNorm(1, 1)(inputs) * torch.arange(1.0, voxels + 1)).sum().backward()
    assert inputs.grad is not None
    assert (float(inputs.grad.abs().max()) > 1e-3) is (voxels >= 3)


def test_seeds_that_agree_in_their_lower_half_give_different_networks() -> None:
    """Torch's CPU generator looks at 32 bits of its seed."""
    digests = {weights_digest(build(plan_for("cnn", seed=seed), 2, "image")) for seed in (0, 1, 2**32, 2**62)}
    assert len(digests) == 4


def test_building_twice_in_a_row_does_not_draw_on() -> None:
    assert weights_digest(build(plan_for("cnn"), 2, "image")) == weights_digest(build(plan_for("cnn"), 2, "image"))


@pytest.mark.slow
def test_another_process_builds_the_same_network() -> None:
    code = """
import torch, hashlib
torch.rand(5)
from shared.models import ModelSpec, build_network, trainable
network = build_network(ModelSpec("basic_unet", 2, 1, 2, channels=(4, 4, 8, 8, 8)), 7)
print(hashlib.sha256(b"".join(p.detach().numpy().tobytes() for _, p in trainable(network))).hexdigest())
"""
    elsewhere = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    here = build_network(ModelSpec("basic_unet", 2, 1, 2, channels=(4, 4, 8, 8, 8)), 7)
    assert elsewhere.stdout.strip() == weights_digest(here)
