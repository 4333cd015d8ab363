"""Errors of size against their formulas, signs that must not be lost, units, and structures that are absent."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from shared.evaluation import volumes
from shared.evaluation.additive import UNIT

ONE, TWO = ("lesion",), ("organ", "lesion")
ROUNDING = UNIT / 2 + 1e-12


def measured(
    cases: Sequence[NDArray[np.int64]], spacing_mm: tuple[float, ...] = (1.0, 1.0), names: tuple[str, ...] = ONE
) -> dict[str, float]:
    """Metrics of cases, each given by its voxels (F, 3): common, predicted, true."""
    found = volumes.observe(np.stack(cases), np.array([spacing_mm] * len(cases)))
    total = {name: of.sum(axis=0) for name, of in found.items()}
    return volumes.metrics(total, names, len(spacing_mm))


def case(*predicted_and_true: tuple[int, int]) -> NDArray[np.int64]:
    return np.array([(0, predicted, true) for predicted, true in predicted_and_true], np.int64)


def test_an_area_is_in_square_millimetres_of_the_image() -> None:
    found = measured([case((30, 20))], (0.5, 2.0))

    assert found == {
        "area_error_mm2": 10.0,
        "area_bias_mm2": 10.0,
        "area_error_relative": 0.5,
        "area_bias_relative": 0.5,
    }


def test_a_volume_is_in_millilitres() -> None:
    found = measured([case((500, 1500))], (5.0, 1.0, 2.0))

    assert found["volume_error_ml"] == pytest.approx(10.0, abs=ROUNDING)
    assert found["volume_bias_ml"] == pytest.approx(-10.0, abs=ROUNDING)
    assert found["volume_bias_relative"] == pytest.approx(-2 / 3, abs=ROUNDING)
    assert not any(name.startswith("area") for name in found)


def test_errors_of_opposite_sign_cancel_in_the_bias_and_not_in_the_error() -> None:
    found = measured([case((30, 20)), case((10, 20))])

    assert (found["area_bias_mm2"], found["area_error_mm2"]) == (0.0, 10.0)
    assert (found["area_bias_relative"], found["area_error_relative"]) == (0.0, 0.5)


def test_a_finding_in_a_healthy_case_has_a_size_but_no_relative_one() -> None:
    found = measured([case((12, 0))])

    assert (found["area_error_mm2"], found["area_bias_mm2"]) == (12.0, 12.0)
    assert math.isnan(found["area_error_relative"])
    assert math.isnan(found["area_bias_relative"])


def test_a_missed_structure_is_off_by_all_of_its_size() -> None:
    found = measured([case((0, 12))])

    assert (found["area_error_mm2"], found["area_bias_mm2"]) == (12.0, -12.0)
    assert (found["area_error_relative"], found["area_bias_relative"]) == (1.0, -1.0)


def test_a_healthy_case_called_healthy_changes_no_mean() -> None:
    cases = [case((30, 20)), case((0, 12))]

    assert measured([*cases, case((0, 0))]) == measured(cases)


def test_no_case_with_the_structure_determines_nothing() -> None:
    assert all(math.isnan(value) for value in measured([case((0, 0))]).values())


@given(st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 10**6)), min_size=1, max_size=8))
def test_means_are_those_of_the_formulas(cases: list[tuple[int, int]]) -> None:
    spacing_mm = (0.7, 0.8, 3.0)
    found = measured([case(of) for of in cases], spacing_mm)

    ml = math.prod(spacing_mm) / 1000
    shown = [(p - t) * ml for p, t in cases if p or t]
    relative = [(p - t) / t for p, t in cases if t]
    for name, values in (("bias_ml", shown), ("bias_relative", relative)):
        signed, absolute = found[f"volume_{name}"], found[f"volume_{name.replace('bias', 'error')}"]
        if not values:
            assert math.isnan(signed)
            assert math.isnan(absolute)
            continue
        assert signed == pytest.approx(np.mean(values), abs=1e-6, rel=1e-12)
        assert absolute == pytest.approx(np.mean(np.abs(values)), abs=1e-6, rel=1e-12)
        assert abs(signed) <= absolute + 1e-9


def test_classes_are_measured_apart_and_averaged() -> None:
    found = measured([case((30, 20), (5, 10))], names=TWO)

    assert (found["area_bias_mm2_organ"], found["area_bias_mm2_lesion"]) == (10.0, -5.0)
    assert found["area_bias_mm2"] == 2.5
    assert found["area_error_mm2"] == 7.5


def test_every_measure_has_a_range_and_only_a_bias_may_be_negative() -> None:
    for spacing_mm in ((1.0, 1.0), (1.0, 1.0, 1.0)):
        for name in measured([case((1, 2))], spacing_mm):
            assert volumes.RANGES[name][1] == math.inf
            assert (volumes.RANGES[name][0] < 0) == ("bias" in name)


def test_an_observation_has_the_shapes_that_are_announced() -> None:
    found = volumes.observe(case((1, 2), (3, 4), (0, 0))[None], np.ones((1, 2)))

    assert {name: of.shape[1:] for name, of in found.items()} == dict(volumes.shapes(3))
    assert all(of.dtype == np.int64 for of in found.values())


def test_sums_of_a_hundred_thousand_of_the_largest_images_fit() -> None:
    voxels = 4096 * 4096
    largest = np.abs(volumes.observe(case((voxels, 1))[None], np.ones((1, 2)))[volumes.SUMS]).max()

    assert int(largest) * 100_000 < 2**63


def test_each_case_is_measured_with_its_own_spacing() -> None:
    cases, spacings_mm = [case((30, 20)), case((7, 9))], [(0.5, 2.0), (1.5, 3.0)]

    together = volumes.observe(np.stack(cases), np.array(spacings_mm))[volumes.SUMS] * UNIT

    for found, spacing_mm, (_, predicted, true) in zip(together, spacings_mm, np.concatenate(cases), strict=True):
        unit = spacing_mm[0] * spacing_mm[1]
        assert found[0].tolist() == pytest.approx(
            [abs(predicted - true) * unit, (predicted - true) * unit, abs(predicted / true - 1), predicted / true - 1],
            abs=ROUNDING,
        )
