"""One contract for both engines and every network of the table: what one patient can do to a sum."""

import functools
import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
import torch
from patients import (
    WIDTHS,
    EngineName,
    clipped_by_hand,
    engine_of,
    out_of_memory_above,
    patient,
    reference_gradient,
    small_network,
    some_patients,
    state_of,
)
from tiny_training import CPU
from torch import Tensor

from client.training.batches import Batch
from client.training.per_patient import Network, PatientGradients
from shared.errors import CapacityError, ModelError
from shared.models import ARCHITECTURES
from shared.models.spec import Norm
from shared.privacy.clipping import Clip

UNREACHED = Clip(1e12)
REFUSED = {"swin_unetr"}
"""Vectorised: its table of relative positions is a parameter outside any layer."""
SLOW = {"densenet121", "swin_unetr"}
ILL_CONDITIONED = {"densenet121", "resnet18", "resnet50"}
"""Untrained, a few channels wide and a few voxels deep: a last digit of an activation is a hundredth of a gradient."""


@dataclass(frozen=True)
class Row:
    """One row of the suite."""

    name: str
    dimensions: int
    norm: Norm
    engine: EngineName

    def __str__(self) -> str:
        return f"{self.name}-{self.dimensions}d-{self.norm}-{self.engine}"

    @property
    def slow(self) -> bool:
        other_norm = self.norm == ("instance" if self.dimensions == 3 or self.name in ILL_CONDITIONED else "group")
        return (self.name in SLOW and self.dimensions == 3) or other_norm or self.name == "densenet121"


ROWS = [
    Row(name, dimensions, norm, engine)
    for name in WIDTHS
    for dimensions in (2, 3)
    for norm in ("instance", "group")
    for engine in ("loop", "vectorised")
    if not (engine == "vectorised" and name in REFUSED)
    # One voxel and instance norm: nothing to take gradients of. 64 voxels long, these two take minutes.
    if not (name in SLOW and dimensions == 3 and norm == "instance")
]


@dataclass(frozen=True)
class Made:
    """An engine, three patients with two, one and one image, and what it makes of them."""

    row: Row
    network: Network
    engine: PatientGradients
    clip: Clip
    patients: list[Batch]
    everybody: Tensor
    before: list[Any]


@functools.lru_cache(maxsize=2)
def references(name: str, dimensions: int, norm: Norm) -> list[np.ndarray[Any, np.dtype[np.float64]]]:
    network = small_network(name, dimensions, norm)
    return [reference_gradient(network, one) for one in some_patients(name, dimensions, norm, (2, 1, 1))]


def gradients_of(row: Row) -> list[np.ndarray[Any, np.dtype[np.float64]]]:
    return references(row.name, row.dimensions, row.norm)


@pytest.fixture(
    scope="module", params=[pytest.param(row, id=str(row), marks=[pytest.mark.slow] * row.slow) for row in ROWS]
)
def made(request: pytest.FixtureRequest) -> Made:
    row: Row = request.param
    network = small_network(row.name, row.dimensions, row.norm)
    before = state_of(network.model)
    patients = some_patients(row.name, row.dimensions, row.norm, (2, 1, 1))
    # The middle one of three lengths: one patient is clipped, one is not.
    clip = Clip(float(np.median([np.linalg.norm(one) for one in gradients_of(row)])))
    engine = engine_of(row.engine, network, clip)
    return Made(row, network, engine, clip, patients, engine(patients).values, before)


def test_the_suite_covers_the_whole_table_in_both_dimensions_with_both_norms() -> None:
    assert WIDTHS.keys() == ARCHITECTURES.keys()
    looped = {(row.name, row.dimensions) for row in ROWS if row.engine == "loop"}
    assert looped == {(name, dimensions) for name in ARCHITECTURES for dimensions in (2, 3)}
    vectorised = {(row.name, row.dimensions) for row in ROWS if row.engine == "vectorised"}
    assert vectorised == {one for one in looped if one[0] not in REFUSED}
    assert {(row.dimensions, row.norm) for row in ROWS} == {(d, n) for d in (2, 3) for n in ("instance", "group")}
    fast = {row.name for row in ROWS if not row.slow}
    assert fast == ARCHITECTURES.keys() - {"densenet121"}


def test_leaving_one_patient_out_moves_the_sum_by_at_most_the_clip_norm(made: Made) -> None:
    for place in range(3):
        others = made.engine([one for other, one in enumerate(made.patients) if other != place])
        moved = float((made.everybody - others.values).norm())
        assert moved <= made.clip.norm * (1 + 1e-5)
    assert max(np.linalg.norm(one) for one in gradients_of(made.row)) > made.clip.norm * 1.0001, "nobody is clipped"


def test_the_sum_is_that_of_clipped_mean_gradients_in_double_precision(made: Made) -> None:
    """Oracle: autograd of each image in float64, clipped by hand; the engine on the same network in float64."""
    wanted = clipped_by_hand(gradients_of(made.row), made.clip.norm)
    double = made.network.in_double_precision()
    engine = engine_of(made.row.engine, double, made.clip)
    found = engine([Batch(one.images.double(), one.targets) for one in made.patients]).values
    assert distance(found, wanted) < 1e-5
    # In single precision, as it trains.
    assert distance(made.everybody, wanted) < (0.15 if made.row.name in ILL_CONDITIONED else 5e-3)


def distance(found: Tensor, wanted: np.ndarray[Any, Any]) -> float:
    return float(np.linalg.norm(found.numpy() - wanted) / np.linalg.norm(wanted))


def test_images_twenty_times_as_bright_still_move_it_by_at_most_the_clip_norm(made: Made) -> None:
    for one in made.patients:
        contributed = made.engine([Batch(one.images * 20, one.targets)]).values
        assert float(contributed.norm()) <= made.clip.norm * (1 + 1e-9)


@pytest.mark.parametrize("broken", [math.nan, math.inf])
def test_a_patient_with_a_voxel_that_is_not_finite_neither_contributes_nor_harms(made: Made, broken: float) -> None:
    _, second, third = made.patients
    images = second.images.clone()
    images[0, 0].view(-1)[7] = broken
    found = made.engine([Batch(images, second.targets), third])  # as many rows: they share a pass
    alone = made.engine([third])
    assert found.contributing == alone.contributing == 1
    assert float((found.values - alone.values).norm()) <= rounding(made) * made.clip.norm


def rounding(made: Made) -> float:
    """Rows in another company are added up in another order."""
    return 0.05 if made.row.name in ILL_CONDITIONED else 1e-3


def test_nobody_s_sum_is_zero(made: Made) -> None:
    found = made.engine([])
    assert found.values.shape == made.everybody.shape
    assert found.contributing == 0
    assert not found.values.any()


def test_nothing_of_the_network_changes(made: Made) -> None:
    """Values, buffers, gradients to the bit; what trains, and modes. ``before`` is older than all tests above."""
    assert state_of(made.network.model) == made.before
    parameters = made.network.parameters()
    for parameter in parameters:
        parameter.grad = torch.full_like(parameter, 3.0)
    try:
        made.engine(made.patients[1:])
        assert all(one.grad is not None and bool((one.grad == 3).all()) for one in parameters)
    finally:
        for parameter in parameters:
            parameter.grad = None
    assert state_of(made.network.model) == made.before


@pytest.mark.parametrize("dimensions", [2, pytest.param(3, marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", sorted(WIDTHS))
def test_only_transformers_are_refused_side_by_side(name: str, dimensions: int) -> None:
    network = small_network(name, dimensions, "group")
    if name not in REFUSED:
        engine_of("vectorised", network, UNREACHED)
        return
    with pytest.raises(ModelError) as caught:
        engine_of("vectorised", network, UNREACHED)
    assert caught.value.code == "model-layers"
    assert "(WindowAttention) has no rule for single patients' gradients" in caught.value.sentence
    assert "loop" in caught.value.hint


@pytest.mark.parametrize("engine", ["loop", "vectorised"])
@pytest.mark.parametrize("rows", [(1, 1, 1, 1, 1), (3, 3, 3), (5,), (1, 4, 2, 1, 4)], ids=["1x5", "3x3", "5", "mixed"])
@pytest.mark.parametrize("name", ["cnn", "unet"])
def test_sums_do_not_depend_on_what_memory_holds(name: str, rows: tuple[int, ...], engine: EngineName) -> None:
    network = small_network(name, 2, "instance")
    patients = some_patients(name, 2, "instance", rows)
    wanted = engine_of(engine, network, Clip(0.5))(patients)
    for limit in (1, 2, 3, 4):
        undo = out_of_memory_above(network.model, limit)
        try:
            tight = engine_of(engine, network, Clip(0.5))
            for _ in range(2):  # the second time it knows the limit
                found = tight(patients)
                assert found.contributing == len(rows)
                assert float((found.values - wanted.values).norm()) < 1e-5 * float(wanted.values.norm())
        finally:
            undo()


@pytest.mark.parametrize("engine", ["loop", "vectorised"])
def test_where_not_even_one_image_fits_the_error_says_what_to_reduce(engine: EngineName) -> None:
    network = small_network("cnn", 2, "group")
    undo = out_of_memory_above(network.model, 0)
    try:
        with pytest.raises(CapacityError) as caught:
            engine_of(engine, network, UNREACHED)(some_patients("cnn", 2, "group", (2, 2)))
    finally:
        undo()
    assert "training.patch" in caught.value.hint
    assert state_of(network.model)[-1] is True


@pytest.mark.parametrize("at_once", [1, 2, 3, 7, 64])
def test_how_many_patients_share_a_pass_does_not_matter(at_once: int) -> None:
    network = small_network("unet", 2, "group")
    patients = some_patients("unet", 2, "group", (1, 2, 1, 1, 2, 1, 1))
    wanted = engine_of("loop", network, Clip(0.5))(patients)
    found = engine_of("vectorised", network, Clip(0.5), at_once)(iter(patients))
    assert found.contributing == wanted.contributing == 7
    np.testing.assert_allclose(found.values.numpy(), wanted.values.numpy(), rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("engine", ["loop", "vectorised"])
def test_the_same_image_many_times_is_one_patient_s_worth(engine: EngineName) -> None:
    """Control: the same images as patients of their own reach further than the bound of one."""
    network = small_network("unet", 2, "instance")
    one = patient(1, (32, 32), 1, dense=True)
    clip = Clip(0.5 * float(np.linalg.norm(reference_gradient(network, one))))
    repeated = Batch(one.images[[0] * 4], one.targets[[0] * 4])
    gradients = engine_of(engine, network, clip)
    assert float(gradients([repeated]).values.norm()) <= clip.norm * (1 + 1e-9)
    assert float(gradients([one] * 4).values.norm()) == pytest.approx(4 * clip.norm, rel=1e-4)


@pytest.mark.parametrize("engine", ["loop", "vectorised"])
def test_automatic_clipping_bounds_every_patient_and_shortens_each(engine: EngineName) -> None:
    network = small_network("unet", 2, "group")
    patients = some_patients("unet", 2, "group", (2, 1, 1))
    clip = Clip(0.7, "automatic")
    wanted = sum(one * 0.7 / (np.linalg.norm(one) + 0.01) for one in references("unet", 2, "group"))
    found = engine_of(engine, network, clip)(patients).values
    assert distance(found, np.asarray(wanted)) < 1e-4
    for one in patients:
        assert float(engine_of(engine, network, clip)([one]).values.norm()) < 0.7


def test_a_channels_last_layout_gives_the_same_gradients() -> None:
    """GroupNorm(1, C) stays out of it: over channels_last its backward crashes torch 2.13 on a CPU."""
    plain = small_network("basic_unet", 2, "group")
    assert all(getattr(layer, "num_groups", 2) > 1 for layer in plain.model.modules())
    model = plain.in_double_precision().model.float().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    last = replace(plain, model=model, layout=torch.channels_last)
    patients = some_patients("basic_unet", 2, "group", (1, 1, 1))
    wanted = engine_of("loop", plain, UNREACHED)(patients).values
    for engine in ("loop", "vectorised"):
        found = engine_of(engine, last, UNREACHED)(patients).values
        assert distance(found, wanted.numpy()) < 1e-4


@pytest.mark.parametrize("engine", ["loop", "vectorised"])
def test_images_that_are_views_give_the_same_gradients(engine: EngineName) -> None:
    network = small_network("unet", 2, "group")
    (one,) = some_patients("unet", 2, "group", (2,))
    turned = Batch(one.images.transpose(2, 3).contiguous().transpose(2, 3), one.targets.flip(2).flip(2))
    padded = torch.zeros(4, 1, 40, 40)
    padded[::2, :, 3:35, 5:37] = one.images
    cut = Batch(padded[::2, :, 3:35, 5:37], one.targets)
    assert not turned.images.is_contiguous() or not cut.images.is_contiguous()
    gradients = engine_of(engine, network, UNREACHED)
    wanted = gradients([one]).values.numpy()
    assert distance(gradients([turned]).values, wanted) < 1e-5
    assert distance(gradients([cut]).values, wanted) < 1e-5


def test_half_precision_on_request_stays_within_its_tolerance_and_the_bound() -> None:
    network = replace(small_network("unet", 2, "group"), precision="bfloat16")
    patients = some_patients("unet", 2, "group", (1, 1, 1))
    wanted = clipped_by_hand(references("unet", 2, "group")[1:], 0.4)
    for engine in ("loop", "vectorised"):
        gradients = engine_of(engine, network, Clip(0.4))
        assert all(float(gradients([one]).values.norm()) <= 0.4 * (1 + 1e-9) for one in patients)
        found = gradients(some_patients("unet", 2, "group", (2, 1, 1))[1:]).values
        assert 1e-5 < distance(found, wanted) < network.tolerance
    assert network.device == CPU
