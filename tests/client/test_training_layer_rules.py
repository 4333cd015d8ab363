"""Rules for single layers, against autograd of one patient at a time; and what the vectorised engine must refuse."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from patients import private_plan, state_of
from tiny_training import CPU
from torch import Tensor, nn
from torch.nn import functional

from client.training import engines
from client.training.batches import Batch
from client.training.layer_rules import RULES, rule_for
from client.training.per_patient import Network, OneByOne
from client.training.vectorised import SideBySide
from shared.errors import ModelError
from shared.plan import Plan
from shared.privacy.clipping import Clip

UNREACHED = Clip(1e12)


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def refilled(module: nn.Module) -> nn.Module:
    """No parameter is one or zero, so that one left out shows."""
    with torch.no_grad():
        for place, parameter in enumerate(module.parameters()):
            parameter.copy_(drawn(*parameter.shape, seed=place + 1))
    return module


def squares(outputs: Tensor, targets: Tensor) -> Tensor:
    """A loss whose gradient differs from output to output: shape (B,)."""
    weights = torch.linspace(0.5, 2, outputs[0].numel()).view_as(outputs[0])
    return (weights * (outputs - targets.view(-1, *(1,) * (outputs.ndim - 1))).pow(2)).flatten(1).mean(dim=1)


def patients_of(shape: tuple[int, ...], rows: int = 2, count: int = 3) -> list[Batch]:
    return [Batch(drawn(rows, *shape, seed=10 + place), drawn(rows, seed=20 + place)) for place in range(count)]


def disagreement(model: nn.Module, patients: list[Batch]) -> float:
    """Largest relative distance of a patient's gradient from autograd of that patient alone."""
    network = Network(model, squares, CPU)
    found = SideBySide(network, UNREACHED, 64).gradients(patients)
    worst = 0.0
    for ours, one in zip(found, patients, strict=True):
        loss = squares(model(one.images), one.targets).mean()
        parts = torch.autograd.grad(loss, network.parameters(), allow_unused=True)
        pairs = zip(parts, network.parameters(), strict=True)
        theirs = torch.cat([(torch.zeros_like(like) if part is None else part).flatten() for part, like in pairs])
        worst = max(worst, float((ours - theirs).norm() / theirs.norm()))
    return worst


@st.composite
def convolutions(draw: st.DrawFn) -> tuple[nn.Module, tuple[int, ...]]:
    """Any convolution that torch allows, plain or transposed, and the shape of an image for it."""
    dimensions = draw(st.sampled_from([2, 3]))
    transposed = draw(st.booleans())
    groups = draw(st.sampled_from([1, 2, 3]))
    inputs, outputs = groups * draw(st.integers(1, 2)), groups * draw(st.integers(1, 2))

    def axes(least: int, most: int) -> tuple[int, ...]:
        return tuple(draw(st.integers(least, most)) for _ in range(dimensions))

    stride, dilation = axes(1, 3), axes(1, 2)
    settings_: dict[str, Any] = {
        "kernel_size": axes(1, 3),
        "stride": stride,
        "padding": axes(0, 2),
        "dilation": dilation,
        "groups": groups,
        "bias": draw(st.booleans()),
    }
    if transposed:
        settings_["output_padding"] = tuple(draw(st.integers(0, step - 1)) for step in stride)
    kinds: dict[tuple[int, bool], Callable[..., nn.Module]] = {
        (2, False): nn.Conv2d,
        (3, False): nn.Conv3d,
        (2, True): nn.ConvTranspose2d,
        (3, True): nn.ConvTranspose3d,
    }
    return refilled(kinds[dimensions, transposed](inputs, outputs, **settings_)), (inputs, *axes(6, 8))


@settings(max_examples=60)
@given(convolutions(), st.integers(1, 3))
def test_every_convolution_gives_each_patient_their_own_gradient(
    made: tuple[nn.Module, tuple[int, ...]], rows: int
) -> None:
    layer, shape = made
    assert disagreement(layer, patients_of(shape, rows)) < 1e-4


LAYERS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "linear": (lambda: nn.Linear(5, 3), (5,)),
    "linear without bias": (lambda: nn.Linear(5, 3, bias=False), (5,)),
    "linear over tokens": (lambda: nn.Linear(5, 3), (4, 6, 5)),
    "group norm": (lambda: nn.GroupNorm(2, 6), (6, 5, 4)),
    "group norm in 3-D": (lambda: nn.GroupNorm(6, 6), (6, 5, 4, 3)),
    "layer norm": (lambda: nn.LayerNorm(5), (7, 5)),
    "layer norm over two axes": (lambda: nn.LayerNorm((4, 5)), (7, 4, 5)),
    "layer norm without bias": (lambda: nn.LayerNorm(5, bias=False), (7, 5)),
    "one slope": (nn.PReLU, (3, 5, 4)),
    "a slope for each channel": (lambda: nn.PReLU(3), (3, 5, 4)),
    "slopes in 3-D": (lambda: nn.PReLU(3), (3, 5, 4, 3)),
    "convolution without bias": (lambda: nn.Conv2d(2, 3, 3, bias=False), (2, 6, 6)),
    "odd transposed convolution": (lambda: nn.ConvTranspose2d(2, 3, 3, 2, 1, output_padding=1), (2, 5, 4)),
}


@pytest.mark.parametrize("rows", [1, 3])
@pytest.mark.parametrize("name", sorted(LAYERS))
def test_a_layer_gives_each_patient_their_own_gradient(name: str, rows: int) -> None:
    make, shape = LAYERS[name]
    # In front of it a layer of known rule, so that its input needs a gradient; alone, it does not.
    assert disagreement(refilled(make()), patients_of(shape, rows)) < 1e-5
    behind = nn.Sequential(refilled(nn.PReLU()), refilled(make()))
    assert disagreement(behind, patients_of(shape, rows)) < 1e-5


def test_every_rule_of_the_table_has_a_layer_here() -> None:
    tested = {type(make()) for make, _ in LAYERS.values()} | {nn.Conv3d, nn.ConvTranspose3d}
    assert set(RULES) <= tested


def test_layers_without_anything_to_train_need_no_rule() -> None:
    model = nn.Sequential(nn.LayerNorm(5, elementwise_affine=False), nn.GroupNorm(1, 7, affine=False), nn.Linear(5, 2))
    assert disagreement(model, patients_of((7, 5))) < 1e-5


class Mine(nn.Conv2d):
    """A subclass, which may compute something else."""


@pytest.mark.parametrize(
    ("layer", "known"),
    [
        pytest.param(nn.Conv2d(1, 1, 3), True, id="plain"),
        pytest.param(nn.Conv2d(1, 1, 3, padding=1), True, id="zero padding"),
        pytest.param(nn.Conv2d(1, 1, 3, padding=1, padding_mode="reflect"), False, id="reflected"),
        pytest.param(nn.Conv2d(1, 1, 3, padding=1, padding_mode="circular"), False, id="circular"),
        pytest.param(nn.Conv2d(1, 1, 3, padding="same"), False, id="padding by name"),
        pytest.param(nn.ConvTranspose2d(1, 1, 3, 2, output_padding=1), True, id="output padding"),
        pytest.param(nn.ConvTranspose2d(1, 1, 3, 1, output_padding=1, dilation=2), False, id="much output padding"),
        pytest.param(Mine(1, 1, 3), False, id="subclass"),
        pytest.param(nn.Conv1d(1, 1, 3), False, id="1-D"),
        pytest.param(nn.Embedding(3, 2), False, id="embedding"),
        pytest.param(nn.Bilinear(2, 2, 1), False, id="bilinear"),
        pytest.param(nn.RMSNorm(3), False, id="rms norm"),
    ],
)
def test_only_exactly_known_layers_have_a_rule(layer: nn.Module, known: object) -> None:
    assert (rule_for(layer) is not None) == known


def small_chain() -> nn.Sequential:
    first, second = nn.Conv2d(1, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1)
    chain = nn.Sequential(first, nn.GroupNorm(2, 4), nn.ReLU(inplace=True), second, nn.PReLU(4), nn.Flatten())
    chain.append(nn.Linear(4 * 36, 2))
    refilled(chain)
    return chain


FROZEN: dict[str, Callable[[nn.Sequential], list[nn.Parameter]]] = {
    "nothing": lambda _: [],
    "first layers": lambda chain: [*chain[:3].parameters()],
    "all but the head": lambda chain: [*chain[:-1].parameters()],
    "all but the first": lambda chain: [*chain[1:].parameters()],
    "one bias": lambda chain: [chain[3].bias],
    "one weight": lambda chain: [chain[3].weight],
    "every other": lambda chain: [*chain.parameters()][::2],
}


@pytest.mark.parametrize("which", sorted(FROZEN))
def test_frozen_parameters_get_no_gradient_and_change_none(which: str) -> None:
    chain = small_chain()
    frozen = FROZEN[which](chain)
    for parameter in frozen:
        parameter.requires_grad_(False)
    before = state_of(chain)
    assert disagreement(chain, patients_of((1, 6, 6))) < 1e-5
    trained = sum(one.numel() for one in chain.parameters()) - sum(one.numel() for one in frozen)
    sums = SideBySide(Network(chain, squares, CPU), UNREACHED, 8)(patients_of((1, 6, 6))).values
    assert sums.shape == (trained,)
    assert state_of(chain) == before


class Written(nn.Module):
    """A network written as one function of named layers."""

    def __init__(self, run: Callable[["Written", Tensor], Tensor], **layers: nn.Module) -> None:
        super().__init__()
        self.run = run
        for name, layer in layers.items():
            self.add_module(name, layer)
        refilled(self)

    def __getattr__(self, name: str) -> Any:
        return super().__getattr__(name)

    def forward(self, images: Tensor) -> Tensor:
        return self.run(self, images)


def conv(inputs: int = 2, outputs: int = 2) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, 3, padding=1)


def test_a_layer_used_twice_gets_the_gradient_of_both_uses() -> None:
    model = Written(lambda net, x: net.a(net.a(x).relu()), a=conv())
    assert disagreement(model, patients_of((2, 5, 5))) < 1e-5


def test_a_module_under_two_names_is_one_layer() -> None:
    shared = conv()
    model = Written(lambda net, x: net.b(net.a(x).relu()), a=shared, b=shared)
    assert len(list(model.parameters())) == 2
    assert disagreement(model, patients_of((2, 5, 5))) < 1e-5


def test_two_layers_that_share_one_weight_get_the_gradient_of_both() -> None:
    model = Written(lambda net, x: net.b(net.a(x).relu()), a=conv(), b=conv())
    model.b.weight = model.a.weight
    assert disagreement(model, patients_of((2, 5, 5))) < 1e-5


def test_a_branch_that_the_loss_does_not_see_gets_zeros() -> None:
    model = Written(lambda net, x: (net.b(x), net.a(x))[1], a=conv(), b=conv())
    assert disagreement(model, patients_of((2, 5, 5))) < 1e-5


def test_changing_a_layer_s_output_in_place_does_no_harm() -> None:
    model = Written(lambda net, x: net.b(net.a(x).add_(1).relu_()), a=conv(), b=conv())
    assert disagreement(model, patients_of((2, 5, 5))) < 1e-5


def changed_in_place(net: Written, images: Tensor) -> Tensor:
    between = net.a(images) * 1
    found: Tensor = net.b(between)
    between += 1
    return found + between


def changed_through_a_view(net: Written, images: Tensor) -> Tensor:
    between = net.a(images) * 1
    found: Tensor = net.b(between)
    between[:, :1].mul_(2)
    return found + between


@pytest.mark.parametrize("run", [changed_in_place, changed_through_a_view], ids=["whole", "view"])
def test_an_input_that_is_changed_after_use_is_refused_by_name(run: Callable[[Written, Tensor], Tensor]) -> None:
    model = Written(run, a=conv(), b=conv())
    for parameter in model.b.parameters():
        parameter.requires_grad_(True)
    before = state_of(model)
    with pytest.raises(ModelError, match=r"the layer b \(Conv2d\) had its input changed") as caught:
        SideBySide(Network(model, squares, CPU), UNREACHED, 8).gradients(patients_of((2, 5, 5)))
    assert caught.value.code == "model-layers"
    assert state_of(model) == before, "an engine that gives up leaves the network as it was"


class OutsideOfItsLayer(nn.Module):
    """The weight of ``a`` is used once by its layer and once without."""

    def __init__(self) -> None:
        super().__init__()
        self.a = refilled(nn.Linear(4, 4))

    def forward(self, images: Tensor) -> Tensor:
        found: Tensor = functional.linear(self.a(images).relu(), self.a.weight)
        return found


class AcrossRows(nn.Module):
    """Every row sees the mean of all: what batch normalisation does, without its name."""

    def __init__(self) -> None:
        super().__init__()
        self.a = refilled(nn.Linear(4, 4))

    def forward(self, images: Tensor) -> Tensor:
        found: Tensor = self.a(images)
        return found - found.mean(dim=0, keepdim=True)


def tokens(count: int = 3) -> list[Batch]:
    return [Batch(drawn(1, 4, seed=place), drawn(1, seed=place)) for place in range(count)]


def plan_for_trials() -> Plan:
    return private_plan(training__patients_per_step=4)


@pytest.mark.parametrize("model", [OutsideOfItsLayer(), AcrossRows()], ids=["outside", "rows"])
def test_what_no_rule_can_see_is_found_by_comparing_with_the_loop(model: nn.Module) -> None:
    network = Network(model.train(), squares, CPU)
    assert disagreement(model, tokens()) > 0.01, "the engine by itself is wrong here"
    with pytest.raises(ModelError, match="differ from those of one patient at a time") as caught:
        engines.checked(network, UNREACHED, plan_for_trials(), tokens())
    assert caught.value.code == "model-layers"


def test_comparing_with_the_loop_passes_what_is_right() -> None:
    """Control of the test above."""
    network = Network(refilled(nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2))), squares, CPU)
    assert isinstance(engines.checked(network, UNREACHED, plan_for_trials(), tokens()), SideBySide)


@pytest.mark.parametrize("engine", ["loop", "vectorised"])
def test_dropout_is_refused_by_both_engines_and_told_how_to_go_on(engine: str) -> None:
    """A patient more would move everybody's place in the one stream that masks are drawn from."""
    network = Network(nn.Sequential(nn.Linear(4, 4), nn.Dropout(0.1)), squares, CPU)
    with pytest.raises(ModelError, match=r"the layer 1 \(Dropout\) draws one stream") as caught:
        OneByOne(network, UNREACHED) if engine == "loop" else SideBySide(network, UNREACHED, 4)
    assert "model.dropout = 0" in caught.value.hint
    silent = Network(nn.Sequential(nn.Linear(4, 4), nn.Dropout(0.0)), squares, CPU)
    assert OneByOne(silent, UNREACHED)(tokens()).contributing == 3


def test_rows_of_patients_do_not_meet() -> None:
    """One patient's images change; the others' gradients stay as they were, to the bit."""
    chain, patients = small_chain(), patients_of((1, 6, 6), rows=2, count=4)
    engine = SideBySide(Network(chain, squares, CPU), UNREACHED, 64)
    before = engine.gradients(patients)
    patients[1] = Batch(patients[1].images * 50 + 3, patients[1].targets)
    after = engine.gradients(patients)
    assert not torch.equal(before[1], after[1])
    assert torch.equal(before[[0, 2, 3]], after[[0, 2, 3]])


def test_a_frozen_layer_may_be_of_a_kind_without_rule() -> None:
    model = nn.Sequential(nn.Conv2d(1, 2, 3, padding="same"), nn.ReLU(), nn.Flatten(), nn.Linear(72, 2))
    refilled(model)
    with pytest.raises(ModelError, match=r"the layer 0 \(Conv2d\) has no rule"):
        SideBySide(Network(model, squares, CPU), UNREACHED, 4)
    for parameter in model[0].parameters():
        parameter.requires_grad_(False)
    assert disagreement(model, patients_of((1, 6, 6))) < 1e-5
