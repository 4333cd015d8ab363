"""Lesions against flood fill and every pair in fractions, the table of edge cases, bands, and bounded time."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from numpy.typing import NDArray

from shared.evaluation import lesions
from shared.evaluation.additive import CASES
from shared.evaluation.label_maps import Pair, cut
from shared.evaluation.lesions import Mask, match

Labels = NDArray[np.integer]
Voxel = tuple[int, ...]
ONE, TWO = ("lesion",), ("organ", "lesion")
ROUNDING = lesions.FINE / 2 + 1e-15


def flooded(mask: Mask) -> list[set[Voxel]]:
    """Components by walking from voxel to voxel, in reading order of their first voxel."""
    left = {tuple(voxel) for voxel in np.argwhere(mask).tolist()}
    steps = list(product((-1, 0, 1), repeat=mask.ndim))
    components = []
    for first in sorted(left):
        if first not in left:
            continue
        component, edge = {first}, [first]
        left.discard(first)
        while edge:
            here = edge.pop()
            near = {tuple(a + b for a, b in zip(here, step, strict=True)) for step in steps} & left
            left -= near
            component |= near
            edge += near
        components.append(component)
    return components


@dataclass
class ByHand:
    true: list[set[Voxel]]
    predicted: list[set[Voxel]]
    pairs: dict[int, int]

    @property
    def dice(self) -> list[float]:
        return [
            0.0
            if number not in self.pairs
            else 2
            * len(lesion & self.predicted[self.pairs[number]])
            / (len(lesion) + len(self.predicted[self.pairs[number]]))
            for number, lesion in enumerate(self.true)
        ]


def by_hand(prediction: Mask, truth: Mask) -> ByHand:
    """Every true lesion with every predicted one, in exact fractions."""
    true, predicted = flooded(truth), flooded(prediction)
    ranked = sorted(
        (-Fraction(len(one & other), len(one | other)), row, column)
        for row, one in enumerate(true)
        for column, other in enumerate(predicted)
        if Fraction(len(one & other), len(one | other)) >= Fraction(1, 10)
    )
    pairs: dict[int, int] = {}
    for _, row, column in ranked:
        if row not in pairs and column not in pairs.values():
            pairs[row] = column
    return ByHand(true, predicted, pairs)


def disc(shape: tuple[int, ...], centre: Sequence[float], radius: float) -> Mask:
    return sum((axis - at) ** 2 for axis, at in zip(np.indices(shape), centre, strict=True)) <= radius**2


def counts_of(
    cases: Sequence[tuple[Labels, Labels]], spacing_mm: tuple[float, ...] = (1.0, 1.0), classes: int = 2
) -> dict[str, NDArray[np.int64]]:
    found = lesions.observe(cut([Pair(*case, spacing_mm) for case in cases], classes))
    total = {name: of.sum(axis=0) for name, of in found.items()}
    return total | {CASES: np.array(len(cases))}


def measured(
    cases: Sequence[tuple[Labels, Labels]], spacing_mm: tuple[float, ...] = (1.0, 1.0), names: tuple[str, ...] = ONE
) -> dict[str, float]:
    return lesions.metrics(counts_of(cases, spacing_mm, len(names) + 1), names)


def labels(*masks: Mask) -> NDArray[np.uint8]:
    found = np.zeros(masks[0].shape, np.uint8)
    for label, mask in enumerate(masks, start=1):
        found[mask] = label
    return found


def random_masks(seed: int, shape: tuple[int, ...], lesions_drawn: int = 8) -> tuple[Mask, Mask]:
    rng = np.random.default_rng(seed)
    truth, prediction = np.zeros(shape, bool), np.zeros(shape, bool)
    for _ in range(lesions_drawn):
        centre, radius = [rng.uniform(0, edge) for edge in shape], rng.uniform(0.5, 4)
        truth |= disc(shape, centre, radius) & (rng.random() < 0.8)
        moved = [at + rng.normal(0, 1.2) for at in centre]
        prediction |= disc(shape, moved, radius * rng.uniform(0.6, 1.5)) & (rng.random() < 0.8)
    return prediction, truth


EMPTY = np.zeros((24, 30), bool)
LEFT = disc(EMPTY.shape, (10, 7), 4)
RIGHT = disc(EMPTY.shape, (10, 21), 4)


@pytest.mark.parametrize("shape", [(36, 40), (14, 16, 12)])
@pytest.mark.parametrize("seed", range(6))
def test_lesions_and_pairs_are_those_of_flood_fill_and_every_pair(seed: int, shape: tuple[int, ...]) -> None:
    prediction, truth = random_masks(seed, shape)

    found, expected = match(prediction, truth), by_hand(prediction, truth)

    assert found.true_voxels.tolist() == [len(of) for of in expected.true]
    assert found.predicted_voxels.tolist() == [len(of) for of in expected.predicted]
    assert found.dice.tolist() == expected.dice
    assert np.flatnonzero(~found.false).tolist() == sorted(expected.pairs.values())


@given(arrays.arrays(bool, (2, 7, 9)))
@settings(max_examples=80, deadline=None)
def test_small_random_masks_are_matched_as_by_every_pair(masks: NDArray[np.bool_]) -> None:
    found, expected = match(*masks), by_hand(*masks)

    assert found.dice.tolist() == expected.dice
    assert np.flatnonzero(~found.false).tolist() == sorted(expected.pairs.values())


def test_a_large_number_of_components_is_matched_as_a_small_one(monkeypatch: pytest.MonkeyPatch) -> None:
    masks = random_masks(3, (40, 44), 14)
    dense = match(*masks)
    monkeypatch.setattr(lesions, "_DENSE", 0)

    sorted_ = match(*masks)

    assert sorted_.dice.tolist() == dense.dice.tolist()
    assert sorted_.false.tolist() == dense.false.tolist()
    assert dense.found.any()


@pytest.mark.parametrize("shape", [(512, 512), (48, 64, 64)])
@pytest.mark.parametrize("share", [0.05, 0.3, 0.6])
def test_noise_of_thousands_of_components_is_counted_in_seconds(shape: tuple[int, ...], share: float) -> None:
    rng = np.random.default_rng(5)
    prediction, truth = (rng.random(shape) < share for _ in range(2))

    began = time.process_time()
    found = match(prediction, truth)

    assert time.process_time() - began < 4
    assert len(found.true_voxels) > (1000 if share == 0.05 else 0)
    assert found.true_voxels.sum() == truth.sum()
    assert int(found.found.sum()) == int((~found.false).sum())


def test_voxels_that_share_a_corner_are_one_lesion_in_any_dimension() -> None:
    for axes in (2, 3):
        corner = np.zeros((4,) * axes, bool)
        corner[(1,) * axes] = corner[(2,) * axes] = True
        assert match(corner, corner).true_voxels.tolist() == [2]


def test_an_iou_of_a_tenth_finds_and_a_voxel_less_does_not() -> None:
    truth, ten, eleven = np.zeros((1, 40), bool), np.zeros((1, 40), bool), np.zeros((1, 40), bool)
    truth[0, 10] = True
    ten[0, 10:20] = True
    eleven[0, 10:21] = True

    assert match(ten, truth).found.tolist() == [True]
    assert match(eleven, truth).found.tolist() == [False]
    assert match(eleven, truth).false.tolist() == [True]


def test_a_prediction_of_everything_finds_no_small_lesion() -> None:
    found = match(np.ones_like(EMPTY), LEFT)

    assert (found.found.tolist(), found.false.tolist()) == ([False], [True])


def test_nothing_in_truth_and_nothing_predicted_counts_only_the_case() -> None:
    counts = counts_of([(labels(EMPTY), labels(EMPTY))])
    found = measured([(labels(EMPTY), labels(EMPTY))])

    assert not any(values.any() for name, values in counts.items() if name != CASES)
    assert found.pop("lesion_false_positives_per_case") == 0.0
    assert all(of == 0.0 or math.isnan(of) for of in found.values())
    assert math.isnan(found["lesion_f1"])
    assert math.isnan(found["lesion_sensitivity_micro"])


def test_a_finding_in_a_healthy_case_is_a_false_positive_and_an_f1_of_0() -> None:
    found = measured([(labels(LEFT | RIGHT), labels(EMPTY)), (labels(EMPTY), labels(EMPTY))])

    assert found["lesion_false_positives_per_case"] == 1.0
    assert (found["lesion_f1"], found["lesion_f1_micro"]) == (0.0, 0.0)
    assert math.isnan(found["lesion_sensitivity"])
    assert math.isnan(found["lesion_dice_micro"])


def test_missed_lesions_are_a_sensitivity_and_an_f1_of_0() -> None:
    found = measured([(labels(EMPTY), labels(LEFT | RIGHT))])

    zeros = ("lesion_sensitivity", "lesion_sensitivity_micro", "lesion_f1", "lesion_f1_micro", "lesion_dice_micro")
    assert all(found[name] == 0.0 for name in zeros)
    assert found["lesion_false_positives_per_case"] == 0.0


def test_lesions_that_touch_in_truth_are_one() -> None:
    touching = disc(EMPTY.shape, (10, 7), 4) | disc(EMPTY.shape, (10, 16), 4)

    assert len(match(EMPTY, touching).true_voxels) == 1
    assert len(match(EMPTY, LEFT | RIGHT).true_voxels) == 2


def test_a_prediction_that_joins_two_lesions_finds_the_one_with_the_higher_iou() -> None:
    small = disc(EMPTY.shape, (10, 21), 3)
    joined = LEFT | small
    joined[10, 7:21] = True

    found = match(joined, LEFT | small)

    assert found.found.tolist() == [True, False]
    assert found.false.tolist() == [False]


def test_a_prediction_that_splits_a_lesion_finds_it_once_and_its_rest_is_false() -> None:
    split = LEFT.copy()
    split[:, 8] = False

    found = match(split, LEFT)

    assert found.found.tolist() == [True]
    assert sorted(found.false.tolist()) == [False, True]
    assert found.predicted_voxels[~found.false] == found.predicted_voxels.max()


def test_of_equal_overlaps_the_first_in_reading_order_is_taken() -> None:
    truth, prediction = np.zeros((3, 9), bool), np.zeros((3, 9), bool)
    truth[1, 1:8] = True
    prediction[1, 1:4] = prediction[1, 5:8] = True

    assert match(prediction, truth).false.tolist() == [False, True]


def test_swapping_prediction_and_truth_swaps_missed_and_false() -> None:
    one, other = random_masks(11, (40, 40))

    there, back = match(one, other), match(other, one)

    assert int(there.found.sum()) == int(back.found.sum())
    assert int((~there.found).sum()) == int(back.false.sum())


def test_metrics_of_many_cases_are_those_of_all_lesions_on_a_list() -> None:
    masks = [random_masks(seed, (36, 40)) for seed in range(8)]

    found = measured([(labels(p), labels(t)) for p, t in masks])

    hands = [by_hand(*pair) for pair in masks]
    hits = [len(of.pairs) for of in hands]
    trues, predictions = [len(of.true) for of in hands], [len(of.predicted) for of in hands]
    f1 = [2 * hit / (one + other) for hit, one, other in zip(hits, trues, predictions, strict=True) if one + other]
    shares = [hit / one for hit, one in zip(hits, trues, strict=True) if one]
    assert found["lesion_sensitivity_micro"] == sum(hits) / sum(trues)
    assert found["lesion_f1_micro"] == 2 * sum(hits) / (sum(trues) + sum(predictions))
    assert found["lesion_false_positives_per_case"] == (sum(predictions) - sum(hits)) / len(masks)
    assert found["lesion_sensitivity"] == pytest.approx(np.mean(shares), abs=1e-9)
    assert found["lesion_f1"] == pytest.approx(np.mean(f1), abs=1e-9)
    assert found["lesion_dice_micro"] == pytest.approx(np.mean([dice for of in hands for dice in of.dice]), abs=1e-9)
    assert found["lesion_f1"] != pytest.approx(found["lesion_f1_micro"], abs=1e-4)


def diameter_mm(voxels: int, voxel_size: float, dimensions: int) -> float:
    size = voxels * voxel_size
    return 2 * math.sqrt(size / math.pi) if dimensions == 2 else (6 * size / math.pi) ** (1 / 3)


@given(st.integers(1, 20_000), st.floats(0.05, 20), st.sampled_from([2, 3]))
def test_the_band_of_a_lesion_is_that_of_its_diameter(voxels: int, voxel_size: float, dimensions: int) -> None:
    wide = diameter_mm(voxels, voxel_size, dimensions)
    edges = [0.0, *lesions.BANDS_MM, math.inf]

    [band] = lesions.bands_of(np.array([voxels]), voxel_size, dimensions).tolist()

    assert edges[band] * (1 - 1e-9) <= wide <= edges[band + 1] * (1 + 1e-9)


@pytest.mark.parametrize(
    ("radius_mm", "band"),
    [(1.0, "under_3mm"), (2.2, "3_to_6mm"), (4.0, "6_to_10mm"), (7.5, "10_to_20mm"), (12, "over_20mm")],
)
@pytest.mark.parametrize("spacing_mm", [(1.0, 1.0, 1.0), (2.0, 0.5, 0.5)])
def test_a_ball_falls_into_the_band_of_its_diameter_whatever_the_spacing(
    radius_mm: float, band: str, spacing_mm: tuple[float, ...]
) -> None:
    shape = tuple(math.ceil(30 / mm) for mm in spacing_mm)
    grid = np.indices(shape).T * spacing_mm
    ball = (((grid - 15) ** 2).sum(axis=-1) <= radius_mm**2).T

    found = measured([(labels(ball), labels(ball))], spacing_mm)

    determined = [name for name in lesions.BANDS if not math.isnan(found[f"lesion_sensitivity_micro_{name}"])]
    assert determined == [band]
    assert found[f"lesion_dice_micro_{band}"] == 1.0


def test_bands_add_up_to_all_lesions_and_false_ones_go_by_their_own_size() -> None:
    large, speck = disc((60, 60), (30, 30), 12), np.zeros((60, 60), bool)
    speck[2, 2] = True

    found = measured([(labels(large | speck), labels(large))])

    assert found["lesion_false_positives_per_case_under_3mm"] == 1.0
    assert found["lesion_false_positives_per_case_over_20mm"] == 0.0
    assert found["lesion_sensitivity_micro_over_20mm"] == found["lesion_sensitivity_micro"] == 1.0
    assert found["lesion_false_positives_per_case"] == sum(
        found[f"lesion_false_positives_per_case_{band}"] for band in lesions.BANDS
    )


def test_classes_are_counted_apart_and_the_overall_micro_numbers_are_their_sums() -> None:
    prediction, truth = labels(LEFT, EMPTY), labels(LEFT, RIGHT)

    found = measured([(prediction, truth)], names=TWO)

    assert (found["lesion_sensitivity_micro_organ"], found["lesion_sensitivity_micro_lesion"]) == (1.0, 0.0)
    assert found["lesion_sensitivity_micro"] == 0.5
    assert found["lesion_f1"] == 0.5
    assert found["lesion_f1_micro"] == pytest.approx(2 / 3)


def test_one_class_inside_another_does_not_join_the_pieces_around_it() -> None:
    organ, hole = disc(EMPTY.shape, (10, 10), 6), disc(EMPTY.shape, (10, 10), 2)

    counts = counts_of([(labels(organ, hole), labels(organ, hole))], classes=3)

    assert counts[lesions.LESIONS].sum(axis=1).tolist() == [[1, 1, 0], [1, 1, 0]]


def test_an_observation_has_the_shapes_that_are_announced_with_and_without_lesions() -> None:
    for mask in (LEFT, EMPTY):
        found = lesions.observe(cut([Pair(labels(mask), labels(LEFT), (1.0, 1.0))], 4))
        assert {name: of.shape[1:] for name, of in found.items()} == dict(lesions.shapes(3))
        assert all(of.dtype == np.int64 for of in found.values())


def test_bands_have_a_name_each() -> None:
    assert len(lesions.BANDS) == len(lesions.BANDS_MM) + 1


def test_the_dice_of_a_lesion_is_rounded_within_the_stated_bound() -> None:
    cases = [tuple(labels(mask) for mask in random_masks(seed, (30, 30), 1)) for seed in range(30)]
    for prediction, truth in cases:
        counts = counts_of([(prediction, truth)])
        expected = sum(by_hand(prediction > 0, truth > 0).dice)
        assert counts[lesions.DICE].sum() * lesions.FINE == pytest.approx(expected, abs=ROUNDING * 4)


@pytest.mark.parametrize("seed", range(5))
def test_lesions_of_several_cases_are_those_of_each_case_by_hand(seed: int) -> None:
    masks = [random_masks(10 * seed + number, (20 + 5 * number, 34), number) for number in range(6)]
    pairs = [Pair(labels(prediction), labels(truth), (1.0, 1.0)) for prediction, truth in masks]

    found = lesions.matches(cut(pairs, 2).masks[0])

    for number, (prediction, truth) in enumerate(masks):
        hand = by_hand(prediction, truth)
        true, predicted = found.true_cases == number, found.predicted_cases == number
        assert found.true_voxels[true].tolist() == [len(lesion) for lesion in hand.true]
        assert found.predicted_voxels[predicted].tolist() == [len(lesion) for lesion in hand.predicted]
        assert found.dice[true].tolist() == pytest.approx(hand.dice, abs=1e-12)
        assert int((~found.false[predicted]).sum()) == len(hand.pairs)


def test_lesions_at_the_same_place_in_two_images_do_not_find_each_other() -> None:
    pairs = [Pair(labels(LEFT), labels(EMPTY), (1.0, 1.0)), Pair(labels(EMPTY), labels(LEFT), (1.0, 1.0))]

    found = lesions.matches(cut(pairs, 2).masks[0])

    assert (found.found.tolist(), found.false.tolist()) == ([False], [True])
    assert (found.true_cases.tolist(), found.predicted_cases.tolist()) == ([1], [0])
