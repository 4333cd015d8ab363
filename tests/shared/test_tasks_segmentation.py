"""The loss against its formula and against MONAI, structures that are absent, refusals, and predictions.csv."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from monai.losses import DiceLoss
from numpy.typing import NDArray
from torch.nn import functional

from shared.errors import CaseError, PlanError
from shared.evaluation.additive import collect
from shared.plan import from_document
from shared.preprocessing.image import Case
from shared.tasks import segmentation, task_for
from shared.tasks.task import Task, observations

SHAPES = [(12, 10), (6, 7, 5)]


def task_of(*classes: str, size: tuple[int, ...] = (12, 10), labels: str = "exclusive") -> Task:
    document: dict[str, Any] = {
        "plan": {"name": "masks", "task": "segmentation", "rounds": 1},
        "data": {"modality": "fundus", "classes": list(classes), "labels": labels},
        "preprocessing": {"size": list(size)},
        "model": {"name": "unet"},
        "training": {"steps": 1, "patients_per_step": 1, "learning_rate": 0.1},
        "privacy": {"unit": "none"},
    }
    return task_for(from_document(document))


ONE = task_of("background", "vessel")
TWO = task_of("background", "kidney", "tumour")


def case_of(mask: NDArray[np.integer] | None, shape: tuple[int, ...] = (12, 10)) -> Case:
    stored = None if mask is None else mask.astype(np.uint8)
    return Case("c", "p", np.zeros((1, *shape), np.float32), stored, None, (1.0,) * len(shape))


def drawn(shape: tuple[int, ...], classes: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    logits = 2 * torch.randn(3, classes, *shape, generator=generator, dtype=torch.float64)
    return logits, torch.randint(0, classes, (3, *shape), generator=generator)


def sure_of(mask: NDArray[np.integer], classes: int) -> NDArray[np.float32]:
    return np.stack([mask == index for index in range(classes)]).astype(np.float32)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("classes", [2, 4])
def test_the_loss_is_cross_entropy_plus_1_minus_soft_dice_written_out(shape: tuple[int, ...], classes: int) -> None:
    logits, targets = drawn(shape, classes)

    losses = segmentation.cross_entropy_and_dice(logits, targets)

    for image in range(3):
        scores, truth = logits[image].softmax(0).numpy(), targets[image].numpy()
        chance = np.take_along_axis(scores, truth[None], axis=0)
        dice = [
            (2 * scores[c][truth == c].sum() + 1) / (scores[c].sum() + (truth == c).sum() + 1)
            for c in range(1, classes)
        ]
        assert losses[image].item() == pytest.approx(-np.log(chance).mean() + 1 - np.mean(dice), rel=1e-5)


@pytest.mark.parametrize("shape", SHAPES)
def test_the_loss_is_that_of_monai_with_the_same_smoothing(shape: tuple[int, ...]) -> None:
    logits, targets = drawn(shape, 3)
    dice = DiceLoss(
        include_background=False, to_onehot_y=True, softmax=True, reduction="none", smooth_nr=1.0, smooth_dr=1.0
    )

    losses = segmentation.cross_entropy_and_dice(logits, targets)

    of_dice = dice(logits, targets[:, None]).flatten(1).mean(1)
    of_entropy = functional.cross_entropy(logits, targets, reduction="none").flatten(1).mean(1)
    torch.testing.assert_close(losses.double(), of_dice + of_entropy, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("shape", SHAPES)
def test_a_confident_right_answer_costs_nothing(shape: tuple[int, ...]) -> None:
    _, targets = drawn(shape, 3)
    logits = 60 * (functional.one_hot(targets, 3).movedim(-1, 1).float() - 0.5)

    assert segmentation.cross_entropy_and_dice(logits, targets).tolist() == pytest.approx([0, 0, 0], abs=1e-5)


def test_an_empty_target_costs_nothing_once_the_prediction_is_empty() -> None:
    logits = torch.zeros(1, 2, 8, 8)
    logits[:, 0] = 40

    assert segmentation.cross_entropy_and_dice(logits, torch.zeros(1, 8, 8, dtype=torch.int64)).item() < 1e-6


@pytest.mark.parametrize("confidence", [-40.0, -5.0, 0.0, 5.0, 40.0])
def test_gradients_of_an_empty_target_are_finite_and_bounded(confidence: float) -> None:
    logits = torch.zeros(1, 2, 16, 16)
    logits[:, 1] = confidence
    logits.requires_grad_()

    segmentation.cross_entropy_and_dice(logits, torch.zeros(1, 16, 16, dtype=torch.int64)).sum().backward()

    assert logits.grad is not None
    # 1/4 is the steepest a softmax is in its logit, 1 / SMOOTHING the steepest Dice is in a score; 1/256 is entropy's.
    assert logits.grad.abs().max() <= 1 / 4 / segmentation.SMOOTHING + 1 / 256 + 1e-6


def test_an_empty_target_still_pulls_a_false_finding_down() -> None:
    logits = torch.zeros(1, 2, 16, 16)
    logits[0, 1, :2, :2] = 6.0
    logits[0, 0] += 6.0
    logits.requires_grad_()
    scores = logits.log_softmax(1).flatten(2)[:, 1:].exp()

    (1 - segmentation._soft_dice(scores, torch.zeros(1, 256, dtype=torch.int64))).sum().backward()

    # With the customary smoothing of 1e-5 this is below 1e-5.
    assert logits.grad is not None
    assert logits.grad[0, 1, 0, 0].item() > 0.01


def test_the_gradient_of_the_loss_is_that_of_finite_differences() -> None:
    logits, targets = drawn((3, 4), 3)

    def loss(values: torch.Tensor) -> torch.Tensor:
        return segmentation.cross_entropy_and_dice(values, targets)

    step, direction = 1e-2, torch.randn(logits.shape, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    moved = (loss(logits + step * direction) - loss(logits - step * direction)) / (2 * step)
    _, slope = torch.func.jvp(loss, (logits,), (direction,))
    torch.testing.assert_close(slope, moved, rtol=1e-2, atol=1e-3)


def test_half_precision_logits_give_single_precision_losses_and_scores() -> None:
    logits, targets = drawn((12, 10), 2)

    assert ONE.loss(logits.bfloat16(), targets).dtype == torch.float32
    assert ONE.decode(logits.bfloat16()).dtype == np.float32


@pytest.mark.parametrize("shape", SHAPES)
def test_scores_have_the_shape_of_logits_and_sum_to_1_at_every_voxel(shape: tuple[int, ...]) -> None:
    logits, _ = drawn(shape, 3)

    scores = TWO.decode(logits.requires_grad_())

    assert scores.shape == (3, 3, *shape)
    np.testing.assert_allclose(scores.sum(axis=1), 1, atol=1e-6)


def test_the_target_is_the_mask_as_class_indices() -> None:
    mask = np.arange(120).reshape(12, 10) % 3

    target = TWO.target(case_of(mask))

    assert target.dtype == np.int64
    np.testing.assert_array_equal(target, mask)


@pytest.mark.parametrize(
    ("mask", "code", "shown"),
    [
        (None, "mask-missing", "no mask"),
        (np.full((12, 10), 255), "mask-values", "255"),
        (np.full((12, 10), 2), "mask-values", "classes 0 to 1"),
        (np.zeros((10, 12)), "mask-shape", "(10, 12)"),
        (np.zeros((12, 10, 1)), "mask-shape", "(12, 10, 1)"),
    ],
)
def test_a_mask_that_does_not_fit_is_refused_wherever_it_is_needed(
    mask: NDArray[Any] | None, code: str, shown: str
) -> None:
    scores, case = np.full((2, 12, 10), 0.5, np.float32), case_of(mask)

    for use in (ONE.target, lambda case: ONE.observe(scores, case), lambda case: ONE.describe(scores, case)):
        with pytest.raises(CaseError) as refused:
            use(case)
        assert refused.value.code == code
        assert shown in refused.value.sentence
        assert refused.value.hint


def test_a_diverged_network_is_refused_at_the_case_and_not_counted() -> None:
    scores = np.full((2, 12, 10), 0.5, np.float32)
    scores[1, 3, 4] = np.nan

    with pytest.raises(CaseError) as refused:
        ONE.observe(scores, case_of(np.zeros((12, 10))))

    assert refused.value.code == "score-not-finite"


def test_scores_on_another_grid_than_the_image_are_refused() -> None:
    with pytest.raises(CaseError, match=r"\(6, 5\)") as refused:
        ONE.observe(np.full((2, 6, 5), 0.5, np.float32), case_of(np.zeros((12, 10))))

    assert refused.value.code == "score-shape"


def test_predictions_of_one_structure_have_its_dice() -> None:
    truth, found = np.zeros((12, 10), int), np.zeros((12, 10), int)
    truth[:2, :4], found[:2, 2:6] = 1, 1

    assert ONE.describe(sure_of(found, 2), case_of(truth)) == {"dice": 0.5}


def test_predictions_of_several_structures_have_the_dice_of_each_and_their_mean() -> None:
    truth, found = np.zeros((12, 10), int), np.zeros((12, 10), int)
    truth[:2, :4], found[:2, 2:6] = 1, 1
    truth[5], found[5] = 2, 2

    row = TWO.describe(sure_of(found, 3), case_of(truth))

    assert row == {"dice": 0.75, "dice_kidney": 0.5, "dice_tumour": 1.0}


def test_predictions_of_an_absent_structure_say_nothing() -> None:
    row = ONE.describe(sure_of(np.zeros((12, 10), int), 2), case_of(np.zeros((12, 10))))

    assert math.isnan(float(row["dice"]))


@pytest.mark.parametrize("shape", SHAPES)
def test_a_perfect_case_goes_from_logits_to_metrics(shape: tuple[int, ...]) -> None:
    mask = np.zeros(shape, int)
    mask[2:5, 2:5] = 1
    case = case_of(mask, shape)
    [scores] = ONE.decode(torch.from_numpy(8 * sure_of(mask, 2)[None]))

    metrics = ONE.metrics(collect(ONE.schema, [(case.patient, ONE.observe(scores, case))]).total())

    assert metrics[ONE.headline] == 1.0
    assert metrics["hd95"] == 0.0


def test_errors_are_better_when_lower_and_neither_overlap_nor_bias_is() -> None:
    errors = {"hd95", "hd95_patient", "area_error_mm2", "area_error_relative", "lesion_false_positives_per_case"}

    assert errors <= ONE.lower_is_better
    assert {"hd95", "hd95_kidney", "hd95_tumour", "area_error_mm2_tumour"} <= TWO.lower_is_better
    assert not [name for name in ONE.lower_is_better if "dice" in name or "bias" in name or "sensitivity" in name]


def test_sizes_are_areas_in_images_and_volumes_in_scans() -> None:
    shape = (8, 8, 8)
    solid = task_of("background", "tumour", size=shape)

    flat, deep = ONE.limits, solid.limits

    assert "area_error_mm2" in flat
    assert "volume_error_ml" in deep
    assert not set(flat) & {"volume_error_ml", "volume_bias_ml"}
    assert ONE.schema.digest() != solid.schema.digest()


def test_structures_that_overlap_are_refused_with_a_way_out() -> None:
    with pytest.raises(PlanError, match="multilabel") as refused:
        task_of("background", "kidney", "tumour", labels="multilabel")

    assert "one plan for each" in refused.value.hint


@pytest.mark.parametrize("names", [("micro",), ("kidney", "micro"), ("kidney", "patient"), ("micro_x", "x")])
def test_a_class_cannot_have_a_name_that_gives_two_metrics_one_name(names: tuple[str, ...]) -> None:
    with pytest.raises(PlanError, match="two metrics one name") as refused:
        task_of("background", *names)

    assert refused.value.hint


@pytest.mark.parametrize("names", [("microaneurysm",), ("patient_bed", "micro_x"), ("dice", "under_3mm_")])
def test_a_class_that_only_looks_like_the_name_of_a_metric_is_measured(names: tuple[str, ...]) -> None:
    assert task_of("background", *names).headline == "dice"


@pytest.mark.parametrize("classes", [2, 3, 5, 300])
def test_the_class_decided_for_a_voxel_is_the_first_of_the_largest(classes: int) -> None:
    scores = np.random.default_rng(classes).integers(0, 4, (classes, 9, 8)).astype(np.float32)

    decided = segmentation._largest(scores)

    np.testing.assert_array_equal(decided, scores.argmax(axis=0))


def test_deciding_leaves_the_scores_as_they_were() -> None:
    scores = np.random.default_rng(1).random((3, 9, 8)).astype(np.float32)
    before = scores.copy()

    segmentation._largest(scores)

    np.testing.assert_array_equal(scores, before)


@pytest.mark.parametrize("at_once", [1, 700, 10**9])
def test_a_stream_of_cases_is_observed_in_order_and_as_one_by_one(
    monkeypatch: pytest.MonkeyPatch, at_once: int
) -> None:
    monkeypatch.setattr("shared.tasks.segmentation._SCORES_AT_ONCE", at_once)
    rng = np.random.default_rng(3)
    cases = [case_of(rng.integers(0, 3, (12, 10))) for _ in range(7)]
    scored = [(case, rng.random((3, 12, 10), np.float32)) for case in cases]

    found = list(observations(TWO, iter(scored)))

    assert [case for case, _ in found] == cases
    for (_, together), (case, scores) in zip(found, scored, strict=True):
        alone = TWO.observe(scores, case)
        for name, values in alone.items():
            np.testing.assert_array_equal(together[name], values)


def test_a_stream_of_no_case_is_no_observation() -> None:
    assert list(observations(ONE, [])) == []


def test_a_case_that_cannot_be_measured_is_refused_in_a_stream_as_well() -> None:
    mask = np.zeros((12, 10))
    unsure = np.full((2, 12, 10), 0.5, np.float32)
    unsure[0, 3, 3] = np.nan

    with pytest.raises(CaseError, match="not finite"):
        list(observations(ONE, [(case_of(mask), unsure)]))


@pytest.mark.parametrize("wrong", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("at", [(0, 0, 0), (1, 11, 9)])
def test_one_score_that_is_not_finite_is_enough_to_refuse_a_case(wrong: float, at: tuple[int, ...]) -> None:
    scores = np.random.default_rng(1).random((2, 12, 10), np.float32)
    scores[at] = wrong

    with pytest.raises(CaseError, match="not finite"):
        ONE.observe(scores, case_of(np.zeros((12, 10))))
