"""Random federations of segmented cases: the pooled numbers are those of all cases in one room, by other people's code.

A federation has one to five sites of very different size, patients with several images, and cases in which a structure
is absent, missed or invented. Its reference knows nothing of statistics: it holds a list of all cases.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import ndimage
from sklearn.metrics import f1_score, jaccard_score

from shared.evaluation import segmentation as counted
from shared.evaluation.additive import Statistics
from shared.evaluation.by_patient import collect_patients

CLASSES, NAMES = 3, ("organ", "lesion")
SCHEMA = counted.schema(CLASSES, 2)
SPACING_MM = (1.0, 2.0)

Labels = NDArray[np.integer]


@dataclass(frozen=True)
class Drawn:
    """One case of a federation."""

    site: int
    patient: str
    prediction: Labels
    truth: Labels


def drawn(rng: np.random.Generator, site: int, patient: str) -> Drawn:
    fields = ndimage.gaussian_filter(rng.normal(size=(CLASSES, 14, 16)), (0, 1.2, 1.2))
    fields[0] += rng.choice([-0.1, 0.1, 5.0], p=[0.5, 0.3, 0.2])
    moved = fields + rng.choice([0.0, 0.3, 1.0]) * ndimage.gaussian_filter(rng.normal(size=fields.shape), (0, 1, 1))
    moved[0] += rng.choice([0.0, 0.2, 5.0], p=[0.5, 0.3, 0.2])
    return Drawn(site, patient, moved.argmax(axis=0), fields.argmax(axis=0))


def federation(seed: int) -> list[Drawn]:
    rng = np.random.default_rng(seed)
    cases = []
    for site in range(rng.integers(1, 6)):
        for number in range(rng.choice([1, 2, 5, 8])):
            cases += [drawn(rng, site, f"{site}-{number}") for _ in range(rng.integers(1, 4))]
    return cases


def pooled(cases: list[Drawn]) -> Statistics:
    """As sites would answer: each counts its own cases, and the sums are added."""
    answers = []
    for site in sorted({case.site for case in cases}):
        own = [case for case in cases if case.site == site]
        seen = ((of.patient, counted.observe(of.prediction, of.truth, SPACING_MM, CLASSES)) for of in own)
        answers.append(Statistics.from_flat(SCHEMA, collect_patients(SCHEMA, seen, counted.of_patient).flat()))
    return sum(answers[1:], start=answers[0])


def mean(values: list[float]) -> float:
    return float(np.mean(values)) if values else float("nan")


def in_one_room(cases: list[Drawn], label: int) -> dict[str, float]:
    """A class's metrics from the list of all cases."""
    pairs = [(case.patient, case.prediction == label, case.truth == label) for case in cases]
    shown = [(patient, p, t) for patient, p, t in pairs if p.any() or t.any()]
    dice = [(patient, f1_score(t.ravel(), p.ravel(), zero_division=0.0)) for patient, p, t in shown]
    of_patients = [[value for who, value in dice if who == patient] for patient in {who for who, _ in dice}]
    bias = [(int(p.sum()) - int(t.sum())) * 2.0 for _, p, t in shown]
    everything = [np.concatenate([pair[side].ravel() for pair in pairs]) for side in (1, 2)]
    any_voxel = bool(everything[0].any() or everything[1].any())
    return {
        "dice": mean([value for _, value in dice]),
        "iou": mean([jaccard_score(t.ravel(), p.ravel(), zero_division=0.0) for _, p, t in shown]),
        "dice_patient": mean([mean(values) for values in of_patients]),
        "dice_micro": f1_score(everything[1], everything[0], zero_division=0.0) if any_voxel else float("nan"),
        "area_bias_mm2": mean(bias),
        "area_error_mm2": mean([abs(value) for value in bias]),
        **lesions_in_one_room([(p, t) for _, p, t in pairs]),
    }


def lesions_in_one_room(pairs: list[tuple[NDArray[np.bool_], NDArray[np.bool_]]]) -> dict[str, float]:
    found = true = predicted = 0
    for prediction, truth in pairs:
        (one, ones), (other, others) = (ndimage.label(mask, np.ones((3, 3))) for mask in (truth, prediction))
        ious = [
            (float(both.sum() / ((one == row) | (other == column)).sum()), -row, -column)
            for row in range(1, ones + 1)
            for column in range(1, others + 1)
            if (both := (one == row) & (other == column)).any()
        ]
        rows: set[int] = set()
        columns: set[int] = set()
        for iou, row, column in sorted(ious, reverse=True):
            if iou >= 0.1 and row not in rows and column not in columns:
                rows.add(row)
                columns.add(column)
        found, true, predicted = found + len(rows), true + ones, predicted + others
    return {
        "lesion_sensitivity_micro": found / true if true else float("nan"),
        "lesion_false_positives_per_case": (predicted - found) / len(pairs),
    }


@given(st.integers(0, 2**32))
@settings(max_examples=15, deadline=None)
def test_pooled_numbers_are_those_of_all_cases_in_one_room_to_a_billionth(seed: int) -> None:
    cases = federation(seed)

    found = counted.metrics(pooled(cases).total(), NAMES, 2)

    for label, name in enumerate(NAMES, start=1):
        expected = in_one_room(cases, label)
        measured = {metric: found[f"{metric}_{name}"] for metric in expected}
        assert measured == pytest.approx(expected, abs=1e-9, nan_ok=True)


@given(st.integers(0, 2**32))
@settings(max_examples=6, deadline=None)
def test_where_a_case_is_counted_changes_no_bit(seed: int) -> None:
    cases = federation(seed)
    one_site = [Drawn(0, case.patient, case.prediction, case.truth) for case in reversed(cases)]

    np.testing.assert_array_equal(pooled(cases).flat(), pooled(one_site).flat())


def test_a_mean_of_sites_would_be_another_number() -> None:
    cases = federation(7)
    sites = sorted({case.site for case in cases})

    found = counted.metrics(pooled(cases).total(), NAMES, 2)
    by_site = [counted.metrics(pooled([of for of in cases if of.site == site]).total(), NAMES, 2) for site in sites]

    assert len(sites) > 1
    assert np.nanmean([of["dice_lesion"] for of in by_site]) != pytest.approx(found["dice_lesion"], abs=1e-4)


@pytest.mark.slow
def test_two_hundred_federations_are_pooled_exactly() -> None:
    for seed in range(200):
        cases = federation(seed)
        found = counted.metrics(pooled(cases).total(), NAMES, 2)
        for label, name in enumerate(NAMES, start=1):
            expected = in_one_room(cases, label)
            measured = {metric: found[f"{metric}_{name}"] for metric in expected}
            assert measured == pytest.approx(expected, abs=1e-9, nan_ok=True)
