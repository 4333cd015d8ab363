"""Surface distances against MONAI and against comparing every pair of surface pixels."""

from __future__ import annotations

import math
import os
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from monai.metrics import compute_hausdorff_distance, compute_surface_dice
from numpy.typing import NDArray
from PIL import Image
from scipy.ndimage import binary_erosion, gaussian_filter
from scipy.spatial.distance import cdist

from shared.evaluation.label_maps import Pair, cut
from shared.evaluation.surface import Mask, agreement, agreements, surface

DATA = Path(os.environ.get("CONSILIUM_DATA", Path(__file__).parents[3] / "shared" / "data"))


def blobs(shape: tuple[int, ...], seed: int, sigma: float = 2.0, share: float = 0.2) -> Mask:
    field = gaussian_filter(np.random.default_rng(seed).normal(size=shape), sigma)
    return field > np.quantile(field, 1 - share)


def nearly(mask: Mask, seed: int, sigma: float = 1.5) -> Mask:
    shifted = np.roll(mask, 2, axis=0) | blobs(mask.shape, seed, sigma, 0.03)
    return shifted & ~blobs(mask.shape, seed + 1, sigma, 0.03)


def by_monai(prediction: Mask, truth: Mask, spacing_mm: tuple[float, ...], tolerance_mm: float) -> tuple[float, float]:
    one, other = (torch.from_numpy(mask)[None, None].float() for mask in (prediction, truth))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        distance = compute_hausdorff_distance(
            one, other, include_background=True, percentile=95, spacing=list(spacing_mm)
        )
        share = compute_surface_dice(one, other, [tolerance_mm], include_background=True, spacing=list(spacing_mm))
    return float(distance), float(share)


def by_every_pair(
    prediction: Mask, truth: Mask, spacing_mm: tuple[float, ...], tolerance_mm: float
) -> tuple[float, float]:
    edges = [np.argwhere(mask & ~binary_erosion(mask)) * np.array(spacing_mm) for mask in (prediction, truth)]
    pairs = cdist(*edges)
    there, back = pairs.min(axis=1), pairs.min(axis=0)
    limit_mm = tolerance_mm * (1 + 1e-9)  # at the tolerance but for the last digits is within, by definition
    within = (there <= limit_mm).sum() + (back <= limit_mm).sum()
    return max(np.percentile(there, 95), np.percentile(back, 95)), within / (len(there) + len(back))


@pytest.mark.parametrize(
    ("shape", "spacing_mm"),
    [
        ((64, 80), (1.0, 1.0)),
        ((64, 80), (0.7, 1.3)),
        ((24, 32, 28), (1.0, 1.0, 1.0)),
        ((12, 40, 36), (5.0, 0.8, 0.8)),
    ],
)
@pytest.mark.parametrize("seed", [0, 10])
def test_distances_are_those_of_monai_in_two_and_three_dimensions_with_any_spacing(
    shape: tuple[int, ...], spacing_mm: tuple[float, ...], seed: int
) -> None:
    truth = blobs(shape, seed)
    prediction = nearly(truth, seed + 1)

    found = agreement(prediction, truth, spacing_mm, 2.0)

    distance, share = by_monai(prediction, truth, spacing_mm, 2.0)
    assert 0 < distance < math.inf
    assert found.hd95_mm == pytest.approx(distance, rel=1e-5)
    assert found.nsd == pytest.approx(share, abs=1e-6)


@given(arrays.arrays(bool, (2, 6, 7)), st.tuples(st.floats(0.3, 4), st.floats(0.3, 4)))
@settings(max_examples=50, deadline=None)
def test_distances_are_those_of_comparing_every_pair_of_surface_pixels(
    masks: NDArray[Any], spacing_mm: tuple[float, ...]
) -> None:
    prediction, truth = masks
    if not (prediction.any() and truth.any()):
        return

    found = agreement(prediction, truth, spacing_mm, 1.1)

    distance, share = by_every_pair(prediction, truth, spacing_mm, 1.1)
    assert found.hd95_mm == pytest.approx(distance, abs=1e-9)
    assert found.nsd == pytest.approx(share, abs=1e-9)


SPACINGS_MM = [(1.0, 1.0), (0.7, 1.3), (3.0, 0.5), (0.4, 0.4)]


@pytest.mark.parametrize("axes", [2, 3])
@pytest.mark.parametrize("seed", range(6))
def test_cases_of_any_size_and_spacing_measured_together_are_as_near_as_every_pair_says(seed: int, axes: int) -> None:
    rng = np.random.default_rng(seed)
    pairs = []
    for number in range(5):
        shape = tuple(rng.integers(12, 18 if axes == 3 else 70, axes).tolist())
        fields = gaussian_filter(rng.normal(size=(2, 3, *shape)), (0, 0, *[2] * axes))
        fields[1] += rng.uniform(0, 1) * fields[0]
        spacing_mm = (*SPACINGS_MM[(seed + number) % 4], 1.1)[:axes]
        pairs.append(Pair(*fields.argmax(axis=1), spacing_mm))

    maps = cut(pairs, 3)

    for label, masks in enumerate(maps.masks, start=1):
        found = agreements(maps, masks, 1.5)
        for number, pair in enumerate(pairs):
            distance, share = by_every_pair(pair.prediction == label, pair.truth == label, pair.spacing_mm, 1.5)
            assert found.hd95_mm[number] == pytest.approx(distance, abs=1e-9)
            assert found.nsd[number] == pytest.approx(share, abs=1e-12)


def test_cases_with_and_without_the_structure_are_told_apart_when_measured_together() -> None:
    square, empty = np.zeros((30, 40), np.uint8), np.zeros((30, 40), np.uint8)
    square[3:5, 3:5] = 1
    spacing_mm = (2.0, 2.0)
    maps = cut([Pair(*masks, spacing_mm) for masks in ((empty, empty), (square, empty), (empty, square))], 2)

    found = agreements(maps, maps.masks[0], 2.0)

    np.testing.assert_array_equal(found.hd95_mm, [math.nan, 100.0, 100.0])
    np.testing.assert_array_equal(found.nsd, [math.nan, 0.0, 0.0])
    assert (found.within.tolist(), found.voxels.tolist()) == ([0, 0, 0], [0, 4, 4])


@pytest.mark.parametrize("at", range(1, 12))
def test_what_is_exactly_as_far_as_the_tolerance_is_within_wherever_it_lies(at: int) -> None:
    """5 steps of 0.4 mm are 2 mm; as differences of positions they are that, or a little more, depending on ``at``."""
    for axis in range(2):
        truth = np.zeros((20, 20), bool)
        truth[at, at] = True
        prediction = np.roll(truth, 5, axis=axis)

        assert agreement(prediction, truth, (0.4, 0.4), 2.0).nsd == 1.0
        assert agreement(np.roll(prediction, 1, axis=axis), truth, (0.4, 0.4), 2.0).nsd == 0.0


def test_a_difference_of_positions_would_depend_on_where_a_structure_lies() -> None:
    """The control of the test above: the tolerance without slack, on positions in mm."""
    assert len({(at + 5) * 0.4 - at * 0.4 <= 2.0 for at in range(1, 12)}) == 2


@pytest.mark.parametrize("spacing_mm", [(1.0, 1.0, 1.0), (3.3, 1.5, 1.5), (0.4, 0.4, 0.4)])
def test_a_prediction_far_off_is_measured_as_by_every_pair(spacing_mm: tuple[float, ...]) -> None:
    """Most of its voxels are never looked up one by one: their tiles tell enough. No distance is exactly 2.05 mm."""
    truth, prediction = np.zeros((16, 30, 32), bool), blobs((16, 30, 32), 4, 1.0, 0.3)
    truth[3:7, 3:9, 3:9] = True

    found = agreement(prediction, truth, spacing_mm, 2.05)

    assert (found.hd95_mm, found.nsd) == pytest.approx(by_every_pair(prediction, truth, spacing_mm, 2.05), abs=1e-9)


@given(arrays.arrays(bool, (2, 6, 7)))
@settings(max_examples=50, deadline=None)
def test_the_size_of_a_tile_changes_no_bit(masks: NDArray[Any]) -> None:
    found = []
    for edge in (1, 2, 4, 100):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("shared.evaluation.surface._TILE", edge)
            found.append(repr(agreement(*masks, (0.7, 1.1), 1.4)))

    assert len(set(found)) == 1


def test_the_nearest_surface_of_another_class_does_not_count() -> None:
    prediction, truth = np.zeros((30, 30), int), np.zeros((30, 30), int)
    prediction[2:5, 2:5], truth[20:23, 20:23] = 1, 1
    prediction[20:23, 20:23], truth[2:5, 2:5] = 2, 2
    maps = cut([Pair(prediction, truth, (1.0, 1.0))], 3)

    found = [agreements(maps, masks, 2.0) for masks in maps.masks]

    assert [float(one.hd95_mm[0]) for one in found] == [pytest.approx(math.hypot(18, 18) - 2 * math.sqrt(2), abs=3)] * 2
    assert [float(one.nsd[0]) for one in found] == [0.0, 0.0]


@pytest.mark.parametrize("spacing_mm", [(1.0, 1.0, 1.0), (3.0, 1.0, 1.0), (1.0, 2.9, 1.0)])
@pytest.mark.parametrize("gap", range(1, 7))
def test_distances_are_right_where_looking_around_ends_and_the_tree_begins(
    spacing_mm: tuple[float, ...], gap: int
) -> None:
    for axis in range(3):
        truth = np.zeros((9, 9, 9), bool)
        truth[1, 1, 1] = True
        prediction = np.roll(truth, gap, axis=axis)
        assert agreement(prediction, truth, spacing_mm, 2.0).hd95_mm == pytest.approx(gap * spacing_mm[axis])


def test_surface_voxels_are_counted_whichever_mask_is_empty() -> None:
    square = np.zeros((9, 9), bool)
    square[2:5, 2:5] = True
    empty = np.zeros_like(square)

    found = [agreement(*masks, (1.0, 1.0), 2.0) for masks in ((square, empty), (empty, square), (square, square))]

    assert [(one.within, one.voxels) for one in found] == [(0, 8), (0, 8), (16, 16)]


@given(arrays.arrays(bool, arrays.array_shapes(min_dims=2, max_dims=3, max_side=6)))
@settings(max_examples=50, deadline=None)
def test_the_surface_is_what_erosion_by_face_neighbours_takes_away(mask: Mask) -> None:
    np.testing.assert_array_equal(surface(mask), mask & ~binary_erosion(mask))


def test_two_squares_three_columns_apart_are_three_times_the_column_spacing_apart() -> None:
    truth = np.zeros((20, 20), bool)
    truth[5:6, 5:6] = True

    found = agreement(np.roll(truth, 3, axis=1), truth, (1.0, 0.5), 2.0)

    assert (found.hd95_mm, found.nsd) == (1.5, 1.0)
    assert agreement(np.roll(truth, 3, axis=0), truth, (1.0, 0.5), 2.0).nsd == 0.0


def test_a_mask_agrees_with_itself() -> None:
    mask = blobs((40, 40), 3)

    found = agreement(mask, mask, (1.0, 1.0), 0.0)

    assert (found.hd95_mm, found.nsd) == (0.0, 1.0)


def test_agreement_is_the_same_in_both_directions() -> None:
    one, other = blobs((40, 40), 3), blobs((40, 40), 4)

    assert agreement(one, other, (1.0, 2.0), 2.0) == agreement(other, one, (1.0, 2.0), 2.0)


def test_distances_scale_with_spacing() -> None:
    one, other = blobs((40, 40), 3), blobs((40, 40), 4)

    near, far = agreement(one, other, (1.0, 2.0), 1.0), agreement(one, other, (3.0, 6.0), 3.0)

    assert far.hd95_mm == pytest.approx(3 * near.hd95_mm)
    assert far.nsd == near.nsd


def test_two_empty_masks_determine_nothing() -> None:
    empty = np.zeros((8, 8), bool)

    found = agreement(empty, empty, (1.0, 1.0), 2.0)

    assert math.isnan(found.hd95_mm)
    assert math.isnan(found.nsd)
    assert math.isnan(by_monai(empty, empty, (1.0, 1.0), 2.0)[1])


@pytest.mark.parametrize("empty_one", [0, 1])
def test_one_empty_mask_is_as_far_away_as_the_image_is_wide(empty_one: int) -> None:
    masks = [np.zeros((30, 40), bool), np.zeros((30, 40), bool)]
    masks[1 - empty_one][3:5, 3:5] = True

    found = agreement(masks[0], masks[1], (2.0, 2.0), 2.0)

    assert (found.hd95_mm, found.nsd) == (100.0, 0.0)
    distance, share = by_monai(*masks, (2.0, 2.0), 2.0)
    assert not math.isfinite(distance)
    assert share == 0.0


def test_the_diagonal_is_no_smaller_than_any_distance_in_the_image() -> None:
    corner, other = np.zeros((9, 12), bool), np.zeros((9, 12), bool)
    corner[0, 0] = other[-1, -1] = True

    worst = agreement(corner, other, (1.0, 3.0), 1.0).hd95_mm

    assert worst == pytest.approx(math.hypot(8, 33))
    assert worst < agreement(corner, np.zeros_like(other), (1.0, 3.0), 1.0).hd95_mm


@pytest.mark.realdata
def test_real_vessel_masks_are_measured_as_by_monai() -> None:
    files = sorted((DATA / "retina_vessels_4cam").glob("*/masks/*.png"))[::40]
    if not files:
        pytest.skip("needs the retinal vessel set: set CONSILIUM_DATA")
    for file in files:
        truth = np.asarray(Image.open(file).convert("L").resize((256, 256), Image.Resampling.NEAREST)) > 127
        prediction = nearly(truth, 5)

        found = agreement(prediction, truth, (1.0, 1.0), 2.0)

        assert (found.hd95_mm, found.nsd) == pytest.approx(by_monai(prediction, truth, (1.0, 1.0), 2.0), rel=1e-5)
