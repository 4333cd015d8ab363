"""Dice of patients on nodes: the mean is kept exactly, and what an image does not show is not counted."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from noisy_patients import DICE

from shared.evaluation import private_segmentation as private
from shared.evaluation.additive import UNIT
from shared.evaluation.estimates import Noised, estimates
from shared.evaluation.private_segmentation import NODES


@given(st.floats(0, 1))
def test_weights_are_a_mean_of_two_neighbouring_nodes_with_the_dice_itself_as_mean(dice: float) -> None:
    [weights] = private.spread(np.array([dice]))

    assert np.count_nonzero(weights) <= 2
    assert (weights >= 0).all()
    assert weights.sum() == pytest.approx(1.0)
    assert weights @ np.linspace(0, 1, NODES) == pytest.approx(dice)


def test_an_image_without_the_structure_in_truth_and_prediction_determines_nothing() -> None:
    empty, filled = np.zeros((4, 4), np.int64), np.eye(4, dtype=np.int64)

    assert np.isnan(private.observe(empty, empty, 2)).all()
    missed = private.observe(empty, filled, 2)
    assert missed[0] == 1.0
    assert private.observe(filled, filled, 2)[NODES - 1] == 1.0


def test_dice_of_two_structures_is_that_of_each_and_their_mean() -> None:
    truth = np.array([[1, 1, 0, 2], [1, 1, 0, 2]])
    prediction = np.array([[1, 1, 1, 2], [1, 0, 0, 0]])

    weights = private.observe(prediction, truth, 3)
    found = {name: float(values[0]) for name, values in private.metrics(weights[None], ("cup", "disc")).items()}

    cup, disc = 2 * 3 / (4 + 4), 2 * 1 / (1 + 2)
    assert found["dice_cup"] == pytest.approx(cup)
    assert found["dice_disc"] == pytest.approx(disc)
    assert found["dice"] == pytest.approx((cup + disc) / 2)
    assert found["patients"] == 1.0


def test_a_patient_with_many_images_weighs_as_much_as_one_with_a_single_image() -> None:
    nodes = {dice: private.spread(np.array([dice])).ravel() for dice in (0.2, 0.9)}
    observed = [("many", nodes[0.2])] * 50 + [("one", nodes[0.9])]

    sums = Noised(DICE.schema, DICE.schema.collect(observed), 0.0)
    found = estimates(DICE, sums)["dice"]

    assert found.value == pytest.approx((0.2 + 0.9) / 2, abs=1e-4)
    assert found.n_patients == 2


def test_a_patient_s_dice_is_the_mean_over_the_images_that_show_the_structure() -> None:
    shown = private.spread(np.array([0.6])).ravel()
    hidden = np.full(NODES, math.nan)

    assert DICE.schema.collect([("p", shown), ("p", hidden)]).tolist() == DICE.schema.collect([("p", shown)]).tolist()


def test_three_numbers_leave_for_each_structure() -> None:
    assert private.schema(4).length == 9
    assert private.schema(4).sensitivity == math.sqrt(3)


def test_no_patient_determines_no_dice() -> None:
    nothing = Noised(DICE.schema, np.zeros(3, np.int64), 0.0)
    found = estimates(DICE, nothing)["dice"]

    assert math.isnan(found.value)
    assert math.isnan(found.low)
    assert found.n_patients == 0


@given(st.lists(st.floats(0, 1), min_size=1, max_size=30))
def test_without_noise_the_mean_is_that_of_the_patients(dice: list[float]) -> None:
    rows = private.spread(np.array(dice))
    sums = Noised(DICE.schema, DICE.schema.collect((str(n), row) for n, row in enumerate(rows)), 0.0)

    # Rounded towards zero in three numbers for each patient.
    assert estimates(DICE, sums)["dice"].value == pytest.approx(np.mean(dice), abs=20 * UNIT)
