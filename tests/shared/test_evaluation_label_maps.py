"""Cutting, counting voxels against counting by hand, and names of numbers that are summed first."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from numpy.typing import NDArray
from sklearn.metrics import confusion_matrix

from shared.evaluation.label_maps import cut, voxel_counts
from shared.evaluation.micro import named_totals, totals

MAPS = arrays.arrays(np.uint8, st.just((2, 5, 6)), elements=st.integers(0, 2))


@given(MAPS)
@settings(deadline=None)
def test_what_is_cut_away_is_background_in_both_and_no_smaller_box_would_do(pair: NDArray[Any]) -> None:
    prediction, truth = pair

    maps = cut(prediction, truth, (1.0, 1.0), 3)

    assert maps.prediction.shape == maps.truth.shape
    np.testing.assert_array_equal(np.sort(maps.truth[maps.truth > 0]), np.sort(truth[truth > 0]))
    np.testing.assert_array_equal(np.sort(maps.prediction[maps.prediction > 0]), np.sort(prediction[prediction > 0]))
    shown = (maps.prediction > 0) | (maps.truth > 0)
    for axis in range(2):
        edges = [np.take(shown, place, axis=axis).any() for place in (0, -1)] if shown.size else []
        assert all(edges)


def test_a_case_without_foreground_is_cut_to_nothing() -> None:
    maps = cut(np.zeros((4, 5, 6), int), np.zeros((4, 5, 6), int), (1.0, 1.0, 1.0), 3)

    assert maps.truth.size == 0
    assert voxel_counts(maps.prediction, maps.truth, 3).tolist() == [[0, 0, 0], [0, 0, 0]]


def test_the_diagonal_is_that_of_the_uncut_image() -> None:
    truth = np.zeros((30, 40), int)
    truth[3, 4] = 1

    assert cut(truth, truth, (2.0, 2.0), 2).diagonal_mm == 100.0


@pytest.mark.parametrize(("spacing_mm", "size"), [((0.5, 2.0), 1.0), ((5.0, 1.0, 0.5), 2.5)])
def test_the_size_of_a_voxel_is_the_product_of_its_edges(spacing_mm: tuple[float, ...], size: float) -> None:
    empty = np.zeros((2,) * len(spacing_mm), int)

    assert cut(empty, empty, spacing_mm, 2).voxel_size == size


@given(MAPS)
@settings(deadline=None)
def test_voxels_are_those_of_the_confusion_matrix_of_scikit_learn(pair: NDArray[Any]) -> None:
    prediction, truth = pair

    found = voxel_counts(prediction, truth, 3)

    matrix = confusion_matrix(truth.ravel(), prediction.ravel(), labels=[0, 1, 2])
    expected = [[matrix[c, c], matrix[:, c].sum(), matrix[c].sum()] for c in (1, 2)]
    assert found.tolist() == expected


@given(MAPS)
@settings(deadline=None)
def test_cutting_changes_no_count(pair: NDArray[Any]) -> None:
    maps = cut(*pair, (1.0, 1.0), 3)

    np.testing.assert_array_equal(voxel_counts(maps.prediction, maps.truth, 3), voxel_counts(*pair, 3))


def test_maps_are_copied_so_that_measuring_cannot_change_a_case() -> None:
    truth = np.ones((4, 4), np.uint8)

    maps = cut(truth, truth, (1.0, 1.0), 2)

    assert not np.shares_memory(maps.truth, truth)


def test_as_many_classes_as_a_plan_may_have_fit() -> None:
    truth = np.array([[0, 299]])

    assert cut(truth, truth, (1.0, 1.0), 300).truth.max() == 299


def test_the_first_row_of_totals_is_the_sum_of_the_others() -> None:
    counts = np.array([[1, 2], [10, 20], [100, 200]])

    assert totals(counts).tolist() == [[111, 222], [1, 2], [10, 20], [100, 200]]


def test_one_class_has_bare_names_and_several_have_one_each() -> None:
    assert named_totals({"f1": np.array([0.5, 0.5])}, ("lesion",)) == {"f1": 0.5}
    found = named_totals({"f1": np.array([0.5, 0.2, math.nan])}, ("organ", "lesion"))
    assert found == pytest.approx({"f1": 0.5, "f1_organ": 0.2, "f1_lesion": math.nan}, nan_ok=True)
