"""The phantom: the same everywhere because it is made of integers, and telling because of what it holds."""

import hashlib
import math
from typing import Any

import numpy as np
import pytest
import torch
from tiny_federation import tiny_plan

from shared import phantom
from shared.plan import Plan, from_document

WORD = 2**64


def plan_of(size: list[int], classes: int = 3, **changes: Any) -> Plan:
    document = tiny_plan(**{"preprocessing__size": size, **changes}).model_dump(mode="json", exclude_none=True)
    document["data"]["classes"] = [f"class-{index}" for index in range(classes)]
    return from_document(document)


def mixed(state: int) -> int:
    """SplitMix64's output for a state, in Python's own integers."""
    state = (state ^ (state >> 30)) * 0xBF58476D1CE4E5B9 % WORD
    state = (state ^ (state >> 27)) * 0x94D049BB133111EB % WORD
    return state ^ (state >> 31)


def test_integers_are_those_of_the_published_generator() -> None:
    """The first outputs for seed 0 are widely printed; the vectorised form must agree with that in plain integers."""
    step = 0x9E3779B97F4A7C15
    assert [mixed(step * k % WORD) for k in (1, 2, 3)] == [
        0xE220A8397B1DCDAF,
        0x6E789E6AA1B965F4,
        0x06C45D188009454F,
    ]
    found = phantom.integers("any name", 1000)
    first = int.from_bytes(hashlib.sha256(b"consilium-phantom-1any name").digest()[:8], "big")
    assert [int(value) for value in found] == [mixed((first + step * k) % WORD) for k in range(1, 1001)]


def test_integers_depend_on_their_name_and_begin_alike_however_many_are_asked_for() -> None:
    np.testing.assert_array_equal(phantom.integers("a", 9), phantom.integers("a", 99)[:9])
    assert not np.intersect1d(phantom.integers("a", 999), phantom.integers("b", 999)).size


def test_the_signs_of_a_sketch_are_balanced_and_do_not_follow_one_another() -> None:
    """1,000,000 fair coins for each projection: within four standard deviations, also of neighbours' products."""
    bits = phantom.integers("signs-0", 10**6)
    for bit in range(phantom.PROJECTIONS):
        signs = 2.0 * ((bits >> np.uint64(bit)) & np.uint64(1)) - 1
        assert abs(signs.mean()) < 4e-3
        assert abs((signs[1:] * signs[:-1]).mean()) < 4e-3


@pytest.mark.parametrize("size", [7, 1000, 2**18 + 5])
def test_the_distance_of_two_sketches_is_about_the_root_mean_square_difference_of_the_arrays(size: int) -> None:
    rng = np.random.default_rng(1)
    estimates = []
    for _ in range(20):
        one, change = rng.normal(size=(2, size)).astype(np.float32)
        far = np.subtract(phantom.sketch(one + change), phantom.sketch(one))
        estimates.append(math.sqrt(np.mean(far**2)) / math.sqrt(np.mean(change.astype(np.float64) ** 2)))
    assert np.mean(estimates) == pytest.approx(1, abs=0.2)
    assert min(estimates) > 0.2
    assert max(estimates) < 2


def test_a_sketch_of_nothing_is_nothing_and_order_matters() -> None:
    assert phantom.sketch(np.zeros((3, 0))) == [0.0] * phantom.PROJECTIONS
    values = np.arange(100, dtype=np.float32)
    assert phantom.sketch(values) != phantom.sketch(values[::-1])


@pytest.mark.parametrize("size", [[24, 32], [8, 16, 16]], ids=["2-D", "3-D"])
@pytest.mark.parametrize("modality", ["ct", "fundus"])
def test_scans_hold_a_dark_border_a_textured_body_and_every_class(size: list[int], modality: str) -> None:
    for image, mask in phantom.scans(plan_of(size, data__modality=modality)):
        assert image.voxels[0][(0,) * len(size)] == image.voxels.min()
        body = image.voxels[:, phantom.blob(image.shape, 56, 50)]
        assert body.min() > image.voxels.min()
        assert len(np.unique(body)) > 60
        np.testing.assert_array_equal(image.voxels, np.rint(image.voxels))
        assert set(np.unique(mask)) == {0, 1, 2}
        assert mask.shape == image.shape
        assert len(set(image.shape)) == len(size), "unequal edges, so that swapped axes show"
        assert len(set(image.spacing_mm)) == len(size)


def test_only_ct_is_in_hounsfield_units() -> None:
    (ct, _), _ = phantom.scans(plan_of([24, 32], data__modality="ct"))
    (fundus, _), (colour, _) = phantom.scans(plan_of([24, 32], data__modality="fundus"))
    assert (ct.voxels.min(), fundus.voxels.min()) == (-1024, 0)
    assert colour.voxels.max() < 256
    assert len(colour.voxels) == 3
    np.testing.assert_array_equal(ct.voxels, 8 * fundus.voxels - 1024)


def test_blobs_of_a_mask_are_where_their_centres_are_in_any_shape() -> None:
    for shape in ((64, 64), (32, 128), (16, 24, 40)):
        found = np.argwhere(phantom.blob(shape, 64, 20))
        np.testing.assert_allclose(found.mean(axis=0), (np.array(shape) - 1) / 2, atol=0.6)
        assert found.max(axis=0).tolist() != [edge - 1 for edge in shape]


@pytest.mark.parametrize("labels", ["exclusive", "multilabel"])
@pytest.mark.parametrize("classes", [2, 3, 7])
def test_known_scores_are_exact_in_float32_and_hold_right_and_wrong_and_every_label(labels: str, classes: int) -> None:
    scored = phantom.scored_images(plan_of([24, 32], classes, data__labels=labels))
    assert len(scored) == phantom.CASES
    assert len({case.patient for case, _ in scored}) == phantom.CASES // 2
    every = np.stack([scores for _, scores in scored])
    np.testing.assert_array_equal(every * 256, np.rint(every * 256))
    assert every.min() >= 0
    assert every.max() <= 1
    if labels == "exclusive":
        np.testing.assert_array_equal(every.sum(axis=1), np.ones(len(every)))
        right = [scores.argmax() == case.label for case, scores in scored]
        assert 3 < sum(right) < phantom.CASES - 3
        assert {case.label for case, _ in scored} == set(range(classes))
    else:
        truth = np.array([case.label for case, _ in scored])
        assert (truth.min(axis=0) == 0).all()
        assert (truth.max(axis=0) == 1).all()


@pytest.mark.parametrize("size", [[24, 32], [8, 16, 16]], ids=["2-D", "3-D"])
def test_known_masks_are_right_shifted_absent_and_invented(size: list[int]) -> None:
    found = phantom.scored_masks(plan_of(size))
    decided = [scores.argmax(axis=0) for _, scores in found]
    truths = [case.mask for case, _ in found]
    assert all(truth is not None for truth in truths)
    np.testing.assert_array_equal(decided[0], truths[0])
    kinds = {(bool(np.any(truth)), bool(np.any(said))) for truth, said in zip(truths, decided, strict=True)}
    assert kinds == {(True, True), (True, False), (False, True), (False, False)}
    overlap, shifted = (int(np.sum((said == truths[0]) & (said > 0))) for said in decided[:2])
    assert overlap > shifted > 0


def test_pattern_weights_depend_on_names_and_shapes_alone_and_are_exact_in_float32() -> None:
    conv, norm = torch.nn.Conv2d(3, 5, 3), torch.nn.GroupNorm(1, 5)
    one = torch.nn.Sequential(conv, norm)
    other = torch.nn.Sequential(torch.nn.Conv2d(3, 5, 3), torch.nn.GroupNorm(1, 5))
    for network in (one, other):
        phantom.set_weights(network)
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))
    kernel, factor, offset = conv.weight.detach(), norm.weight.detach(), norm.bias.detach()
    assert float(kernel.square().mean()) == pytest.approx(2 / 27, rel=0.3), "He et al.: variance 2 / fan-in"
    assert float((factor - 1).abs().max()) < 0.25 + 1e-6
    assert 0 < float(offset.abs().max()) < 0.25 + 1e-6
    assert len(torch.unique(kernel)) == kernel.numel()


def test_pattern_weights_of_a_large_layer_repeat_after_a_prime_number_of_values() -> None:
    layer = torch.nn.Linear(512, 512, bias=False)
    phantom.set_weights(torch.nn.ModuleDict({"layer": layer}))
    flat = layer.weight.detach().ravel()
    assert torch.equal(flat[:1000], flat[65521:66521])
    assert not torch.equal(layer.weight[0], layer.weight[128]), "no two rows are the same"


def test_frozen_layers_get_the_pattern_too() -> None:
    layer = torch.nn.Linear(4, 4)
    layer.weight.requires_grad_(False)
    before = layer.weight.detach().clone()
    phantom.set_weights(layer)
    assert not torch.equal(layer.weight, before)
    assert not layer.weight.requires_grad
