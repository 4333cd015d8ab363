"""One class per pixel or voxel, in 2-D and 3-D; class 0 is the background.

Promises
- One channel per class, softmax. Two classes are two channels.
- The loss of an image is its mean cross-entropy plus 1 - soft Dice, meaned over foreground classes (Milletari et al.,
  3DV 2016; the sum as in nnU-Net, Isensee et al., Nature Methods 2021). It depends on that image alone. No class is
  weighted by its frequency: that would be a constant fitted on private data.
- A structure that an image does not show is no special case. Soft Dice adds ``SMOOTHING`` voxels of agreement: with an
  empty target the loss falls to 0 as the prediction empties, with a derivative of at most 1 / SMOOTHING per voxel.
  (The customary 1e-5 leaves no gradient at all until the prediction is nearly empty, and then 1e5.)
- A case without a mask, or with one that does not fit, is refused: ``mask-missing``, ``mask-values``, ``mask-shape``.

What is counted and measured is in ``shared.evaluation.segmentation``; where statistics get noise, in
``shared.evaluation.private_segmentation``.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from shared.errors import CaseError, PlanError
from shared.evaluation import private_segmentation as noisy
from shared.evaluation import segmentation as counted
from shared.evaluation.additive import IntArray, Observation, Statistics
from shared.evaluation.estimates import PrivateMeasures
from shared.evaluation.undetermined import FloatArray, named
from shared.plan import Plan
from shared.preprocessing.image import Case, MaskArray
from shared.tasks.decoding import Scores, softmax
from shared.tasks.task import Metrics, Scored, Task

SMOOTHING = 1.0

_SCORES_AT_ONCE = 2**19
"""Scores of cases that are counted together: 2 MB, some tens of small images, or one volume."""


def build(plan: Plan) -> Task:
    """The segmentation task of ``plan``; raises ``PlanError`` for classes that it cannot measure."""
    _refuse_unusable(plan)
    count, foreground = len(plan.data.classes), plan.data.classes[1:]
    schema = counted.schema(count, plan.dimensions)

    def target(case: Case) -> NDArray[np.generic]:
        return class_map(case, count).astype(np.int64)

    def observe(scores: Scores, case: Case) -> Observation:
        return counted.observe(_decided(scores, case), class_map(case, count), case.spacing_mm, count)

    def observe_all(scored: Iterable[Scored]) -> Iterator[tuple[Case, Observation]]:
        return _observed(scored, count)

    def metrics(counts: Mapping[str, IntArray]) -> Metrics:
        return counted.metrics(counts, foreground, plan.dimensions)

    def describe(scores: Scores, case: Case) -> Mapping[str, float | int | str]:
        voxels = counted.voxel_counts(_decided(scores, case), class_map(case, count), count)
        return named({"dice": counted.overlap(voxels)["dice"]}, foreground)

    names = metrics(Statistics.zero(schema).total())
    return Task(
        name="segmentation",
        output_channels=count,
        output="dense",
        headline="dice",
        target=target,
        loss=cross_entropy_and_dice,
        decode=softmax,
        schema=schema,
        observe=observe,
        metrics=metrics,
        describe=describe,
        lower_is_better=counted.lower_is_better(names),
        limits=counted.limits(names),
        of_patient=counted.of_patient,
        signed=frozenset(name for name in names if "_bias_" in name),
        by_level=counted.coarser(schema),
        private=_private(plan.data.classes),
        observe_all=observe_all,
    )


def _private(classes: Sequence[str]) -> PrivateMeasures:
    count = len(classes)

    def observe(scores: Scores, case: Case) -> FloatArray:
        return noisy.observe(_decided(scores, case), class_map(case, count), count)

    return PrivateMeasures(noisy.schema(count), observe, lambda cells: noisy.metrics(cells, classes[1:]))


def cross_entropy_and_dice(logits: Tensor, targets: Tensor) -> Tensor:
    """Loss of logits (B, K, *spatial) and class indices (B, *spatial): shape (B,)."""
    log_scores = logits.float().flatten(2).log_softmax(dim=1)
    classes = targets.flatten(1)
    cross_entropy = functional.nll_loss(log_scores, classes, reduction="none").mean(dim=1)
    return cross_entropy + 1 - _soft_dice(log_scores[:, 1:].exp(), classes)


def _soft_dice(scores: Tensor, classes: Tensor) -> Tensor:
    """Mean soft Dice of the foreground: scores (B, F, N) and class indices (B, N) to shape (B,)."""
    foreground = torch.arange(1, scores.shape[1] + 1, device=classes.device)
    truth = (classes[:, None] == foreground[:, None]).to(scores.dtype)
    both, either = (scores * truth).sum(dim=2), scores.sum(dim=2) + truth.sum(dim=2)
    return ((2 * both + SMOOTHING) / (either + SMOOTHING)).mean(dim=1)


def class_map(case: Case, classes: int) -> MaskArray:
    """The case's mask of class indices, shape (*spatial); raises ``CaseError``."""
    if case.mask is None:
        raise CaseError("the case has no mask", hint="segmentation needs one for every case", code="mask-missing")
    if case.mask.shape != case.voxels.shape[1:]:
        raise CaseError(
            f"the mask has shape {case.mask.shape}, the image {case.voxels.shape[1:]}",
            hint="mask and image must lie on the same grid",
            code="mask-shape",
        )
    highest = int(case.mask.max())
    if highest >= classes:
        raise CaseError(
            f"the mask holds the value {highest}, the plan has classes 0 to {classes - 1}",
            hint="masks hold class indices: a mask of 0 and 255 must become 0 and 1 when it is read",
            code="mask-values",
        )
    return case.mask


def _observed(scored: Iterable[Scored], classes: int) -> Iterator[tuple[Case, Observation]]:
    """Each case with what is counted of it; small images are counted together."""
    for some in _together(scored):
        pairs = [counted.Pair(_decided(found, case), class_map(case, classes), case.spacing_mm) for case, found in some]
        together = counted.observe_all(pairs, classes)
        for position, (case, _) in enumerate(some):
            yield case, {name: of[position] for name, of in together.items()}


def _together(scored: Iterable[Scored]) -> Iterator[list[Scored]]:
    """Consecutive cases, as many as their scores are small: at least one."""
    some: list[Scored] = []
    held = 0
    for case, scores in scored:
        some.append((case, scores))
        held += scores.size
        if held >= _SCORES_AT_ONCE:
            yield some
            some, held = [], 0
    if some:
        yield some


def _decided(scores: Scores, case: Case) -> NDArray[np.integer]:
    """Class indices (*spatial) from scores (K, *spatial) that fit the case's image."""
    # The least and the largest: NaN and infinities show in them, at a fifth of the price of looking at each.
    if not np.isfinite([scores.min(), scores.max()]).all():
        raise CaseError(
            "the network's scores for the case are not finite",
            hint="the network diverged or the image is corrupt: look at the training loss and at the case",
            code="score-not-finite",
        )
    if scores.shape[1:] != case.voxels.shape[1:]:
        raise CaseError(
            f"the network answered on a grid of {scores.shape[1:]}, the image has {case.voxels.shape[1:]}",
            hint="segmentation networks answer on the grid of the preprocessed image",
            code="score-shape",
        )
    return _largest(scores)


def _largest(scores: Scores) -> NDArray[np.integer]:
    """As ``argmax`` over classes, the first of equals, at a fraction of its price for a few classes."""
    kind = np.min_scalar_type(len(scores) - 1)
    decided, best = np.zeros(scores.shape[1:], kind), scores[0]
    for label in range(1, len(scores)):
        larger = scores[label] > best
        np.maximum(decided, larger.astype(kind) * kind.type(label), out=decided)
        if label + 1 < len(scores):
            best = np.maximum(best, scores[label])
    return decided


def _refuse_unusable(plan: Plan) -> None:
    if plan.data.labels == "multilabel":
        raise PlanError(
            'data.labels = "multilabel" does not fit plan.task = "segmentation"',
            hint='structures may not overlap here: use labels = "exclusive", or one plan for each structure',
        )
    name = counted.ambiguous(plan.data.classes[1:], plan.dimensions)
    if name is not None:
        raise PlanError(
            f"data.classes holds {name!r}, which would give two metrics one name", hint="choose another name"
        )
