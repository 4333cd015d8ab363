"""One decision per image: which of several classes, or which of several findings.

Promises
- Exclusive classes: one logit per class, softmax, cross-entropy. Two classes are two logits; the second is positive.
- Findings that may occur together (``data.labels = "multilabel"``): one logit per finding, sigmoid, and the mean binary
  cross-entropy over findings.
- The loss of an image depends on that image alone. Classes are not weighted by their frequency: such a weight is fitted
  on private data and moves with every patient, which the sensitivity of patient-level privacy forbids.
- A case without a label, or with one that the plan does not know, is refused: ``label-missing``, ``label-unknown``.

What is counted and measured is in ``shared.evaluation.classification``; where statistics get noise, in
``shared.evaluation.private_classification``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from shared.errors import CaseError, PlanError
from shared.evaluation import classification as counted
from shared.evaluation import private_classification as noisy
from shared.evaluation.additive import IntArray, Observation, Statistics
from shared.evaluation.estimates import PrivateMeasures
from shared.evaluation.undetermined import FloatArray
from shared.plan import Plan
from shared.preprocessing.image import Case
from shared.tasks.decoding import Scores, sigmoid, softmax
from shared.tasks.task import Metrics, Task


def build(plan: Plan) -> Task:
    """The classification task of ``plan``; raises ``PlanError`` where it would train on parts of an image."""
    if plan.training.patch is not None:
        raise PlanError(
            f"training.patch = {list(plan.training.patch)} cuts images, but a label belongs to the whole image",
            hint="remove training.patch; preprocessing.size and preprocessing.crop decide what is seen",
        )
    classes = plan.data.classes
    return _multilabel(classes) if plan.data.labels == "multilabel" else _exclusive(classes)


def cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """Cross-entropy of logits (B, K) and class indices (B,): shape (B,)."""
    return functional.cross_entropy(logits.float(), targets, reduction="none")


def binary_cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """Mean binary cross-entropy over findings of logits and 0/1 targets (B, K): shape (B,)."""
    return functional.binary_cross_entropy_with_logits(logits.float(), targets, reduction="none").mean(dim=1)


def class_index(case: Case, classes: int) -> int:
    """The index of an exclusive class; raises ``CaseError``."""
    label = _label(case)
    if isinstance(label, tuple) or not 0 <= label < classes:
        raise CaseError(
            f"the label is not a class index from 0 to {classes - 1}",
            hint="labels are positions in the plan's data.classes",
            code="label-unknown",
        )
    return label


def findings(case: Case, classes: int) -> tuple[int, ...]:
    """A 0 or 1 for each finding; raises ``CaseError``."""
    label = _label(case)
    if not isinstance(label, tuple) or len(label) != classes or not set(label) <= {0, 1}:
        raise CaseError(
            f"the label is not one 0 or 1 for each of {classes} findings",
            hint="a multi-label case has one value for each of the plan's data.classes",
            code="label-unknown",
        )
    return label


def _label(case: Case) -> int | tuple[int, ...]:
    if case.label is None:
        raise CaseError("the case has no label", hint="classification needs one for every case", code="label-missing")
    return case.label


def _exclusive(classes: Sequence[str]) -> Task:
    count = len(classes)
    schema = counted.exclusive_schema(count)

    def target(case: Case) -> NDArray[np.generic]:
        return np.array(class_index(case, count), np.int64)

    def observe(scores: Scores, case: Case) -> Observation:
        return counted.observe_exclusive(scores, class_index(case, count))

    def metrics(counts: Mapping[str, IntArray]) -> Metrics:
        return counted.exclusive_metrics(counts, classes)

    def bounds(counts: Mapping[str, IntArray]) -> Metrics:
        return counted.exclusive_bounds(counts, classes)

    names = tuple(metrics(Statistics.zero(schema).total()))

    def describe(scores: Scores, case: Case) -> Mapping[str, float | int | str]:
        columns = {"score": float(scores[1])} if count == 2 else _columns("score", classes, scores.tolist())
        return {"label": class_index(case, count), **columns}

    return Task(
        name="classification",
        output_channels=count,
        output="image",
        headline="auroc",
        target=target,
        loss=cross_entropy,
        decode=softmax,
        schema=schema,
        observe=observe,
        metrics=metrics,
        describe=describe,
        lower_is_better=counted.lower_is_better(names),
        limits=counted.limits(names),
        bounds=bounds,
        by_level=counted.coarser(schema),
        private=_private_exclusive(classes),
    )


def _multilabel(classes: Sequence[str]) -> Task:
    count = len(classes)
    schema = counted.multilabel_schema(count)

    def target(case: Case) -> NDArray[np.generic]:
        return np.array(findings(case, count), np.float32)

    def observe(scores: Scores, case: Case) -> Observation:
        return counted.observe_multilabel(scores, findings(case, count))

    def metrics(counts: Mapping[str, IntArray]) -> Metrics:
        return counted.multilabel_metrics(counts, classes)

    def bounds(counts: Mapping[str, IntArray]) -> Metrics:
        return counted.multilabel_bounds(counts, classes)

    names = tuple(metrics(Statistics.zero(schema).total()))

    def describe(scores: Scores, case: Case) -> Mapping[str, float | int | str]:
        labels = _columns("label", classes, findings(case, count))
        return {**labels, **_columns("score", classes, scores.tolist())}

    return Task(
        name="classification",
        output_channels=count,
        output="image",
        headline="auroc",
        target=target,
        loss=binary_cross_entropy,
        decode=sigmoid,
        schema=schema,
        observe=observe,
        metrics=metrics,
        describe=describe,
        lower_is_better=counted.lower_is_better(names),
        limits=counted.limits(names),
        bounds=bounds,
        by_level=counted.coarser(schema),
        private=_private_multilabel(classes),
    )


def _private_exclusive(classes: Sequence[str]) -> PrivateMeasures:
    count = len(classes)

    def observe(scores: Scores, case: Case) -> FloatArray:
        return noisy.observe_exclusive(scores, class_index(case, count))

    return PrivateMeasures(
        schema=noisy.schema("exclusive", count),
        observe=observe,
        metrics=lambda cells: noisy.exclusive_metrics(cells, classes),
        binning=lambda cells: noisy.binning(cells, "exclusive", classes),
    )


def _private_multilabel(classes: Sequence[str]) -> PrivateMeasures:
    count = len(classes)

    def observe(scores: Scores, case: Case) -> FloatArray:
        return noisy.observe_multilabel(scores, findings(case, count))

    return PrivateMeasures(
        schema=noisy.schema("multilabel", count),
        observe=observe,
        metrics=lambda cells: noisy.multilabel_metrics(cells, classes),
        binning=lambda cells: noisy.binning(cells, "multilabel", classes),
    )


def _columns(what: str, classes: Sequence[str], values: Sequence[float]) -> dict[str, float]:
    return {f"{what}_{name}": value for name, value in zip(classes, values, strict=True)}
