"""Measures of masks against MONAI and scikit-learn, their means and spread, and masks with nothing in them."""

from __future__ import annotations

import math
import statistics as reference
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from monai.metrics import compute_dice, compute_iou
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter
from sklearn.metrics import f1_score, jaccard_score, precision_score, recall_score

from shared.evaluation import segmentation as counted
from shared.evaluation.additive import collect
from shared.evaluation.by_patient import collect_patients
from shared.evaluation.lesions import FINE
from shared.evaluation.surface import agreement

Labels = NDArray[np.integer]
ONE = ("vessel",)
TWO = ("kidney", "tumour")
ROUNDING = FINE / 2 + 1e-15


def maps(classes: int, seed: int, shape: tuple[int, ...] = (40, 44)) -> tuple[Labels, Labels]:
    """A truth and a prediction that agree in part; smooth regions of every class."""
    rng = np.random.default_rng(seed)
    fields = gaussian_filter(rng.normal(size=(classes, *shape)), (0, *[3] * len(shape)))
    noisy = fields + 0.5 * gaussian_filter(rng.normal(size=fields.shape), (0, *[2] * len(shape)))
    return noisy.argmax(axis=0), fields.argmax(axis=0)


def measured(
    cases: Sequence[tuple[Labels, Labels]], names: tuple[str, ...], spacing_mm: tuple[float, ...] = (1.0, 1.0)
) -> tuple[dict[str, float], dict[str, NDArray[Any]]]:
    count = len(names) + 1
    observed = ((f"p{i}", counted.observe(*case, spacing_mm, count)) for i, case in enumerate(cases))
    total = collect_patients(counted.schema(count, len(spacing_mm)), observed, counted.of_patient).total()
    return counted.metrics(total, names, len(spacing_mm)), total


def one_hot(labels: Labels, classes: int) -> torch.Tensor:
    return torch.from_numpy((labels[None] == np.arange(classes)[:, None, None]).astype(np.float32))[None]


def by_hand(prediction: Labels, truth: Labels, spacing_mm: tuple[float, ...] = (1.0, 1.0)) -> dict[str, float]:
    surfaces = agreement(prediction == 1, truth == 1, spacing_mm, counted.TOLERANCE_MM)
    one, other = one_hot(prediction, 2), one_hot(truth, 2)
    return {
        "dice": float(compute_dice(one, other, include_background=False)),
        "iou": float(compute_iou(one, other, include_background=False)),
        "precision": precision_score(truth.ravel() == 1, prediction.ravel() == 1),
        "recall": recall_score(truth.ravel() == 1, prediction.ravel() == 1),
        "hd95": surfaces.hd95_mm,
        "nsd": surfaces.nsd,
    }


def voxelwise(found: dict[str, float]) -> dict[str, float]:
    return {name: found[name] for name in counted.MEASURES}


@pytest.mark.parametrize("seed", range(4))
def test_measures_of_one_case_are_those_of_monai_and_scikit_learn(seed: int) -> None:
    prediction, truth = maps(2, seed)

    found, _ = measured([(prediction, truth)], ONE)

    assert voxelwise(found) == pytest.approx(by_hand(prediction, truth), abs=1e-6)
    assert found["dice_micro"] == pytest.approx(found["dice"], abs=ROUNDING)


def test_metrics_of_many_cases_are_means_over_cases() -> None:
    cases = [maps(2, seed) for seed in range(6)]

    found, _ = measured(cases, ONE)

    single = [by_hand(*case) for case in cases]
    for name in counted.MEASURES:
        assert found[name] == pytest.approx(np.mean([of[name] for of in single]), abs=2e-6)


def test_dice_micro_is_the_dice_of_all_voxels_laid_side_by_side() -> None:
    cases = [maps(2, seed) for seed in range(5)]

    found, _ = measured(cases, ONE)

    predictions, truths = (np.concatenate(side) for side in zip(*cases, strict=True))
    expected = float(compute_dice(one_hot(predictions, 2), one_hot(truths, 2), include_background=False))
    assert found["dice_micro"] == pytest.approx(expected, abs=1e-6)
    assert found["dice_micro"] != pytest.approx(found["dice"], abs=1e-4)


def test_several_classes_are_measured_one_by_one_and_averaged() -> None:
    cases = [maps(3, seed) for seed in range(4)]

    found, _ = measured(cases, TWO)

    for index, name in enumerate(TWO, start=1):
        alone, _ = measured([((p == index) * 1, (t == index) * 1) for p, t in cases], ONE)
        for measure in counted.MEASURES:
            assert found[f"{measure}_{name}"] == alone[measure]
    for measure in counted.MEASURES:
        assert found[measure] == pytest.approx(np.mean([found[f"{measure}_{name}"] for name in TWO]), abs=1e-12)


def test_volumes_are_measured_with_their_spacing() -> None:
    prediction, truth = maps(2, 1, (10, 24, 20))
    spacing_mm = (4.0, 0.9, 0.9)

    found, _ = measured([(prediction, truth)], ONE, spacing_mm)

    expected = agreement(prediction == 1, truth == 1, spacing_mm, 2.0)
    assert found["hd95"] == pytest.approx(expected.hd95_mm, abs=ROUNDING)
    assert found["nsd"] == pytest.approx(expected.nsd, abs=ROUNDING)


EMPTY = np.zeros((30, 40), int)
SOME = np.zeros((30, 40), int)
SOME[4:9, 4:9] = 1


def test_a_case_without_the_structure_and_without_a_finding_is_not_counted() -> None:
    found, total = measured([(EMPTY, EMPTY)], ONE)

    false_positives = {name for name in found if name.startswith("lesion_false_positives")}
    assert {name for name, value in found.items() if not math.isnan(value)} == false_positives
    assert not total[counted.DEFINED].any()
    assert not total[counted.DICE_HISTOGRAM].any()


def test_a_finding_in_a_healthy_case_is_a_dice_of_0_and_no_recall() -> None:
    found, _ = measured([(SOME, EMPTY)], ONE)

    assert (found["dice"], found["iou"], found["precision"], found["nsd"], found["hd95"]) == (0, 0, 0, 0, 50.0)
    assert math.isnan(found["recall"])


def test_a_missed_structure_is_0_in_every_measure_and_the_diagonal_in_hd95() -> None:
    found, _ = measured([(EMPTY, SOME)], ONE)

    assert voxelwise(found) == {"dice": 0, "iou": 0, "precision": 0, "recall": 0, "hd95": 50.0, "nsd": 0}
    assert (found["dice_micro"], found["iou_micro"], found["nsd_micro"]) == (0, 0, 0)


def test_a_healthy_case_called_healthy_changes_no_mean() -> None:
    cases = [maps(2, seed) for seed in range(3)]
    healthy = (np.zeros((40, 44), int), np.zeros((40, 44), int))

    with_healthy, without = (measured(of, ONE)[0] for of in ([*cases, healthy], cases))
    changed = {name for name in without if with_healthy[name] != pytest.approx(without[name], nan_ok=True)}
    assert {name.partition("_per_case")[0] for name in changed} == {"lesion_false_positives"}


def test_a_class_absent_from_all_cases_is_left_out_of_the_macro_mean() -> None:
    cases = [maps(2, seed) for seed in range(3)]

    found, _ = measured(cases, TWO)

    assert math.isnan(found["dice_tumour"])
    assert found["dice"] == found["dice_kidney"]


def test_perfect_agreement_is_1_everywhere_and_falls_into_the_last_bin() -> None:
    found, total = measured([(SOME, SOME)], ONE)

    assert voxelwise(found) == {"dice": 1, "iou": 1, "precision": 1, "recall": 1, "hd95": 0, "nsd": 1}
    assert (found["dice_micro"], found["nsd_micro"], found["lesion_f1"], found["area_error_mm2"]) == (1, 1, 1, 0)
    assert total[counted.DICE_HISTOGRAM][0].nonzero()[0].tolist() == [19]


@pytest.mark.parametrize(("overlapping", "expected"), [(0, 0), (29, 5), (30, 6), (55, 11), (99, 19), (100, 19)])
def test_the_histogram_of_dice_has_bins_of_exactly_five_percent(overlapping: int, expected: int) -> None:
    # Two rows of 100 pixels that share ``overlapping`` of them: Dice is overlapping / 100, also where 0.55 * 20 > 11.
    truth, prediction = np.zeros((2, 300), int), np.zeros((2, 300), int)
    truth[0, 100:200] = 1
    prediction[0, 200 - overlapping : 300 - overlapping] = 1

    _, total = measured([(prediction, truth)], ONE)

    assert total[counted.DICE_HISTOGRAM][0].nonzero()[0].tolist() == [expected]


def test_standard_deviations_are_those_of_the_cases() -> None:
    cases = [maps(2, seed) for seed in range(7)]

    _, total = measured(cases, ONE)

    single = [by_hand(*case) for case in cases]
    found = counted.standard_deviations(total, ONE)
    for name in counted.MEASURES:
        assert found[name] == pytest.approx(reference.stdev([of[name] for of in single]), abs=1e-4)


def test_one_case_has_no_standard_deviation_and_two_equal_ones_have_0() -> None:
    case = maps(2, 1)

    one = counted.standard_deviations(measured([case], ONE)[1], ONE)
    equal = counted.standard_deviations(measured([case, case], ONE)[1], ONE)

    assert all(math.isnan(value) for value in one.values())
    assert all(value == pytest.approx(0, abs=5e-3) for value in equal.values())


@pytest.mark.parametrize("classes", [2, 3, 5])
def test_what_is_observed_has_the_shapes_that_the_schema_announces(classes: int) -> None:
    observation = counted.observe(*maps(classes, 0), (1.0, 1.0), classes)

    assert {name: values.shape for name, values in observation.items()} == dict(counted.schema(classes, 2).shapes)
    assert all(values.dtype == np.int64 for values in observation.values())


def test_the_tolerance_is_part_of_the_definition() -> None:
    assert "tolerance 2 mm" in counted.schema(2, 2).definition


def test_voxels_are_counted_as_by_hand() -> None:
    truth = np.array([[0, 1, 1], [2, 2, 0]])
    prediction = np.array([[0, 1, 2], [2, 0, 0]])

    assert counted.voxel_counts(prediction, truth, 3).tolist() == [[1, 1, 2], [1, 2, 2]]


def test_errors_have_no_upper_limit_and_all_else_is_a_proportion() -> None:
    ranges = counted.limits(measured([maps(3, 0)], TWO)[0])

    unlimited = {name for name, (_, highest) in ranges.items() if math.isinf(highest)}
    families = ("hd95", "area_error", "area_bias", "lesion_false_positives")
    assert unlimited == {name for name in ranges if name.startswith(families)}
    assert {"hd95", "hd95_kidney", "hd95_tumour", "hd95_patient", "area_bias_mm2_kidney"} <= unlimited
    assert {highest for _, highest in ranges.values() if math.isfinite(highest)} == {1.0}
    assert {name for name, (lowest, _) in ranges.items() if lowest != 0} == {name for name in ranges if "bias" in name}


def test_no_case_determines_no_metric() -> None:
    assert all(math.isnan(value) for value in measured([], TWO)[0].values())


@pytest.mark.parametrize("seed", range(4))
def test_dice_and_iou_are_those_of_scikit_learn_to_a_billionth(seed: int) -> None:
    cases = [maps(3, 10 * seed + number) for number in range(5)]

    found, _ = measured(cases, TWO)

    for label, name in enumerate(TWO, start=1):
        for measure, of in (("dice", f1_score), ("iou", jaccard_score)):
            single = [of(truth.ravel() == label, prediction.ravel() == label) for prediction, truth in cases]
            assert found[f"{measure}_{name}"] == pytest.approx(np.mean(single), abs=1e-9)


@pytest.mark.parametrize("seed", range(3))
def test_micro_measures_are_those_of_all_voxels_of_one_class_laid_side_by_side(seed: int) -> None:
    cases = [maps(3, 10 * seed + number) for number in range(4)]

    found, _ = measured(cases, TWO)

    predictions, truths = (np.concatenate(side).ravel() for side in zip(*cases, strict=True))
    for label, name in enumerate(TWO, start=1):
        assert found[f"dice_micro_{name}"] == pytest.approx(f1_score(truths == label, predictions == label), abs=1e-12)
        expected = jaccard_score(truths == label, predictions == label)
        assert found[f"iou_micro_{name}"] == pytest.approx(expected, abs=1e-12)


def test_nsd_micro_is_the_share_of_all_surface_voxels() -> None:
    cases = [maps(2, seed, (20 + 10 * seed, 44)) for seed in range(4)]

    found, _ = measured(cases, ONE)

    single = [agreement(prediction == 1, truth == 1, (1.0, 1.0), 2.0) for prediction, truth in cases]
    assert found["nsd_micro"] == sum(of.within for of in single) / sum(of.voxels for of in single)
    assert found["nsd_micro"] != pytest.approx(found["nsd"], abs=1e-5)


def test_a_mean_over_patients_is_another_number_than_one_over_cases() -> None:
    cases = [maps(2, seed) for seed in range(6)]
    patients = ["a", "a", "a", "a", "b", "c"]
    observed = [(of, counted.observe(*case, (1.0, 1.0), 2)) for of, case in zip(patients, cases, strict=True)]

    total = collect_patients(counted.schema(2, 2), observed, counted.of_patient).total()
    found = counted.metrics(total, ONE, 2)

    single = [by_hand(*case) for case in cases]
    for name in counted.PATIENT_MEASURES:
        values = [of[name] for of in single]
        expected = np.mean([np.mean(values[:4]), values[4], values[5]])
        assert found[f"{name}_patient"] == pytest.approx(expected, abs=2e-6)
        assert found[f"{name}_patient"] != pytest.approx(found[name], abs=1e-4)


def test_a_patient_none_of_whose_images_determine_a_measure_is_in_no_mean() -> None:
    observed = [("a", counted.observe(SOME, SOME, (1.0, 1.0), 2)), ("b", counted.observe(EMPTY, EMPTY, (1.0, 1.0), 2))]

    total = collect_patients(counted.schema(2, 2), observed, counted.of_patient).total()

    assert counted.metrics(total, ONE, 2)["dice_patient"] == 1.0


def test_without_patients_their_means_are_undetermined_and_not_those_of_cases() -> None:
    total = collect(counted.schema(2, 2), [("a", counted.observe(SOME, SOME, (1.0, 1.0), 2))]).total()

    found = counted.metrics(total, ONE, 2)

    assert found["dice"] == 1.0
    assert math.isnan(found["dice_patient"])


@pytest.mark.parametrize(("classes", "largest_kb"), [(2, 14), (3, 27), (16, 200)])
def test_the_statistics_of_a_site_stay_below_their_stated_size(classes: int, largest_kb: int) -> None:
    assert counted.schema(classes, 3).length * 8 <= largest_kb * 1000


def test_images_and_volumes_have_different_definitions() -> None:
    assert counted.schema(2, 2).digest() != counted.schema(2, 3).digest()


def test_cutting_to_the_foreground_changes_no_measure() -> None:
    prediction, truth = (np.pad(labels, ((5, 9), (0, 7))) for labels in maps(3, 2))
    wide = [np.pad(labels, 30) for labels in (prediction, truth)]

    near, far = (counted.observe(*case, (1.0, 2.0), 3) for case in ((prediction, truth), wide))

    for name, values in near.items():
        np.testing.assert_array_equal(values, far[name])


@pytest.mark.parametrize("names", [("kidney", "micro"), ("patient", "kidney"), ("micro_x", "x")])
def test_names_that_would_make_two_metrics_one_are_found(names: tuple[str, ...]) -> None:
    assert counted.ambiguous(names, 2) in names
    assert counted.ambiguous(TWO, 2) is None


@pytest.mark.parametrize("seed", range(4))
def test_cases_observed_together_are_observed_as_one_by_one_to_the_last_bit(seed: int) -> None:
    rng = np.random.default_rng(seed)
    pairs = []
    for number in range(7):
        prediction, truth = maps(3, 10 * seed + number, tuple(rng.integers(8, 50, 2).tolist()))
        kinds = (prediction, truth), (prediction * 0, truth), (prediction, truth * 0), (truth, truth), (truth * 0,) * 2
        pairs.append(counted.Pair(*kinds[number % 5], tuple(rng.uniform(0.3, 4, 2).tolist())))

    together = counted.observe_all(pairs, 3)

    for number, pair in enumerate(pairs):
        alone = counted.observe(pair.prediction, pair.truth, pair.spacing_mm, 3)
        for name, values in alone.items():
            np.testing.assert_array_equal(together[name][number], values)


def test_where_a_structure_lies_changes_no_measure() -> None:
    prediction, truth = (np.pad(labels, 12) for labels in maps(3, 4))

    found = [
        counted.observe(np.roll(prediction, shift, (0, 1)), np.roll(truth, shift, (0, 1)), (0.4, 0.7), 3)
        for shift in (0, 3, 7, 11)
    ]

    for other in found[1:]:
        for name, values in found[0].items():
            np.testing.assert_array_equal(other[name], values)


def test_patients_in_one_array_add_what_each_adds_alone() -> None:
    observed = [counted.observe(*maps(3, seed), (1.0, 1.0), 3) for seed in range(4)]

    together = counted.of_patient({name: np.stack([of[name] for of in observed]) for name in observed[0]})

    for number, one in enumerate(observed):
        for name, values in counted.of_patient(one).items():
            np.testing.assert_array_equal(together[name][number], values)


def test_a_level_needs_no_more_than_it_counts_for_every_metric() -> None:
    whole = counted.schema(3, 2)
    level = counted.coarser(whole)
    observed = [(f"p{seed}", counted.observe(*maps(3, seed), (1.0, 1.0), 3)) for seed in range(3)]

    full = collect_patients(whole, observed, counted.of_patient).total()
    spared = collect_patients(level.schema, [(who, level.of(one)) for who, one in observed], counted.of_patient).total()

    assert counted.metrics(spared, TWO, 2) == counted.metrics(full, TWO, 2)
    assert level.schema.length < 0.7 * whole.length
    assert level.schema.digest() != whole.digest()
