"""Losses against formulas written out, targets and refusals, and the columns of predictions.csv."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch

from shared.errors import CaseError, PlanError
from shared.evaluation.additive import collect
from shared.plan import from_document
from shared.preprocessing.image import Case
from shared.tasks import task_for
from shared.tasks.task import Task

Label = int | tuple[int, ...] | None


def task_of(*classes: str, labels: str = "exclusive") -> Task:
    document: dict[str, Any] = {
        "plan": {"name": "classes", "task": "classification", "rounds": 1},
        "data": {"modality": "us", "classes": list(classes), "labels": labels},
        "preprocessing": {"size": [8, 8]},
        "model": {"name": "cnn"},
        "training": {"steps": 1, "patients_per_step": 1, "learning_rate": 0.1},
        "privacy": {"unit": "none"},
    }
    return task_for(from_document(document))


def case_of(label: Label) -> Case:
    return Case("c", "p", np.zeros((1, 8, 8), np.float32), None, label, (1.0, 1.0))


BINARY = task_of("benign", "malignant")
THREE = task_of("normal", "benign", "malignant")
FINDINGS = task_of("effusion", "nodule", "fracture", labels="multilabel")


def test_cross_entropy_is_minus_the_logarithm_of_the_true_class() -> None:
    logits, targets = torch.tensor([[2.0, 0.0, -1.0], [0.5, 0.5, 0.5]]), torch.tensor([0, 2])

    losses = THREE.loss(logits, targets)

    total = math.exp(2) + 1 + math.exp(-1)
    assert losses.tolist() == pytest.approx([-math.log(math.exp(2) / total), math.log(3)])


def test_binary_cross_entropy_is_averaged_over_findings() -> None:
    logits, targets = torch.tensor([[2.0, -1.0, 0.0]]), torch.tensor([[1.0, 0.0, 1.0]])

    [loss] = FINDINGS.loss(logits, targets).tolist()

    chances = [1 / (1 + math.exp(-2)), 1 - 1 / (1 + math.exp(1)), 0.5]
    assert loss == pytest.approx(-sum(math.log(chance) for chance in chances) / 3)


@pytest.mark.parametrize(("task", "label"), [(BINARY, 1), (THREE, 2), (FINDINGS, (1, 0, 1))])
def test_a_confident_right_answer_costs_nothing_and_a_wrong_one_its_margin(task: Task, label: Label) -> None:
    targets = torch.from_numpy(np.stack([task.target(case_of(label))]))
    right = torch.full((1, task.output_channels), -60.0)
    right[0, [i for i in range(task.output_channels) if label in (i,) or (isinstance(label, tuple) and label[i])]] = (
        60.0
    )

    assert task.loss(right, targets).item() == pytest.approx(0, abs=1e-6)
    assert task.loss(-right, targets).item() >= 60


@pytest.mark.parametrize("task", [THREE, FINDINGS])
def test_half_precision_logits_give_single_precision_losses_and_scores(task: Task) -> None:
    logits = torch.tensor([[1.0, -2.0, 0.5]], dtype=torch.bfloat16)
    targets = torch.from_numpy(np.stack([task.target(case_of((1, 0, 0) if task is FINDINGS else 0))]))

    assert task.loss(logits, targets).dtype == torch.float32
    assert task.decode(logits).dtype == np.float32


def test_exclusive_scores_sum_to_1_and_findings_stand_alone() -> None:
    logits = torch.tensor([[2.0, 0.0, -1.0]], requires_grad=True)

    assert THREE.decode(logits).sum() == pytest.approx(1)
    assert FINDINGS.decode(logits)[0].tolist() == pytest.approx([1 / (1 + math.exp(-x)) for x in (2.0, 0.0, -1.0)])


def test_two_exclusive_classes_are_two_logits() -> None:
    assert (BINARY.output_channels, THREE.output_channels, FINDINGS.output_channels) == (2, 3, 3)


def test_targets_are_an_index_or_one_number_for_each_finding() -> None:
    index, findings = THREE.target(case_of(2)), FINDINGS.target(case_of((0, 1, 1)))

    assert (index.shape, index.dtype, int(index)) == ((), np.int64, 2)
    assert (findings.dtype, findings.tolist()) == (np.float32, [0.0, 1.0, 1.0])


@pytest.mark.parametrize("task", [BINARY, THREE, FINDINGS])
def test_a_case_without_a_label_is_refused(task: Task) -> None:
    with pytest.raises(CaseError, match="no label") as refused:
        task.target(case_of(None))

    assert refused.value.code == "label-missing"


@pytest.mark.parametrize(
    ("task", "label"),
    [
        (BINARY, 2),
        (BINARY, -1),
        (THREE, 3),
        (THREE, (0, 0, 1)),
        (FINDINGS, 1),
        (FINDINGS, (0, 1)),
        (FINDINGS, (0, 1, 2)),
        (FINDINGS, (0, 1, 0, 1)),
    ],
)
def test_a_label_that_the_plan_does_not_know_is_refused_wherever_it_is_needed(task: Task, label: Label) -> None:
    scores = np.full(task.output_channels, 0.5, np.float32)

    for use in (task.target, lambda case: task.observe(scores, case), lambda case: task.describe(scores, case)):
        with pytest.raises(CaseError) as refused:
            use(case_of(label))
        assert refused.value.code == "label-unknown"
        assert refused.value.hint


def test_refusals_do_not_repeat_the_label() -> None:
    with pytest.raises(CaseError) as refused:
        THREE.target(case_of(987))

    assert "987" not in refused.value.sentence + refused.value.hint


def test_a_diverged_network_is_refused_at_the_case_and_not_counted() -> None:
    scores = THREE.decode(torch.tensor([[float("nan"), 0.0, 0.0]]))[0]

    with pytest.raises(CaseError) as refused:
        THREE.observe(scores, case_of(1))

    assert refused.value.code == "score-not-finite"


def test_predictions_of_two_classes_have_a_label_and_the_score_of_the_second() -> None:
    row = BINARY.describe(np.array([0.25, 0.75], np.float32), case_of(0))

    assert row == {"label": 0, "score": 0.75}


def test_predictions_of_three_classes_have_a_score_for_each() -> None:
    row = THREE.describe(np.array([0.25, 0.5, 0.25], np.float32), case_of(2))

    assert row == {"label": 2, "score_normal": 0.25, "score_benign": 0.5, "score_malignant": 0.25}


def test_predictions_of_findings_have_a_label_and_a_score_for_each() -> None:
    row = FINDINGS.describe(np.array([0.25, 0.5, 0.75], np.float32), case_of((0, 1, 1)))

    assert row == {
        "label_effusion": 0,
        "label_nodule": 1,
        "label_fracture": 1,
        "score_effusion": 0.25,
        "score_nodule": 0.5,
        "score_fracture": 0.75,
    }


@pytest.mark.parametrize(("task", "label"), [(BINARY, 1), (THREE, 0), (FINDINGS, (1, 1, 0))])
def test_one_case_goes_from_logits_to_metrics(task: Task, label: Label) -> None:
    case = case_of(label)
    signs = np.array(label if isinstance(label, tuple) else np.arange(task.output_channels) == label) * 2.0 - 1
    [scores] = task.decode(torch.from_numpy(4 * signs[None]))

    metrics = task.metrics(collect(task.schema, [(case.patient, task.observe(scores, case))]).total())

    assert metrics["accuracy"] == 1.0
    assert task.headline == "auroc"
    assert {name.split("_")[0] for name in task.lower_is_better} == {"brier", "log", "ece"}
    assert task.lower_is_better <= metrics.keys() == task.limits.keys()


def test_both_kinds_count_under_different_definitions() -> None:
    assert len({task.schema.digest() for task in (BINARY, THREE, FINDINGS)}) == 3


def test_a_plan_that_trains_on_parts_of_images_is_refused_since_a_label_belongs_to_the_whole() -> None:
    whole = {
        "plan": {"name": "lesions", "task": "classification", "rounds": 1},
        "data": {"modality": "us", "classes": ["benign", "malignant"]},
        "preprocessing": {"size": [32, 32]},
        "model": {"name": "cnn"},
        "privacy": {"unit": "none"},
    }
    training = {"steps": 1, "patients_per_step": 1, "learning_rate": 1e-3}
    assert task_for(from_document({**whole, "training": training})).output == "image"
    with pytest.raises(PlanError, match=r"training\.patch = \[16, 16\]"):
        task_for(from_document({**whole, "training": {**training, "patch": [16, 16]}}))
