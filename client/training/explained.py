"""Which test images a site explains, with which networks, and what it makes of them.

Promises
- At most ``evaluation.explain_cases`` images, the first in an order made of their salted names: nobody picks them, and
  a site picks the same ones in each run. Only images with a lesion drawn in them, and a class that they have, count.
- Each image is explained by the final model and by a control of its own: the plan's network with weights drawn anew
  from the plan's seed and the image's name. What is frozen in the model is drawn anew as well: a control has learnt
  nothing. (One control for all would not do: whether a network that knows nothing takes a dark spot for or against a
  class is a coin, and it falls once for all images.)
- One network beside the model is in memory at a time. The model stays as it is.

Left to others: maps (``explain``), what is counted of them and what may leave (``shared.evaluation.explanations``).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from client.training.explain import Explainer, explainer
from shared import models
from shared.errors import PlanError
from shared.evaluation import saliency
from shared.evaluation.additive import Observation, Statistics
from shared.evaluation.explanations import Arm, collect, explaining, observation
from shared.plan import Plan
from shared.preprocessing.image import Case
from shared.seeds import derive
from shared.tasks.classification import class_index, findings
from shared.tasks.task import Task


@dataclass(frozen=True, slots=True)
class Chosen:
    """An image to explain: its place among the cases, the classes it has, and the seed of its control."""

    position: int
    present: tuple[int, ...]
    control: int


def explained(model: nn.Module, cases: Sequence[Case], task: Task, plan: Plan, device: torch.device) -> Statistics:
    """What leaves a site about where ``model`` looks in ``cases``, without what must be withheld.

    Raises:
        PlanError: the plan asks for no explanations, or is for another task.
        CaseError: a case has no label, or one that the plan does not know.
    """
    asked, method = explaining(plan), plan.evaluation.explain
    if asked is None or method == "none":
        raise PlanError("the plan asks for no explanations", hint="set evaluation.explain")
    look = explainer(model, plan, device, method)

    def observed() -> Iterator[tuple[Case, int, Observation]]:
        for one in chosen(cases, plan):
            case = cases[one.position]
            drawn = explainer(drawn_anew(task, plan, one.control), plan, device, method)
            for index in one.present:
                yield case, index, _moments(case, index, {"model": look, "control": drawn}, plan)

    return collect(asked, observed())


def chosen(cases: Sequence[Case], plan: Plan) -> Iterator[Chosen]:
    """The images that a site explains, in the order of their salted names."""
    # Only names are kept: cases of a sealed store are in memory while somebody holds them.
    order = sorted((_salted(case.case_id), position) for position, case in enumerate(cases))
    left = plan.evaluation.explain_cases
    for said, position in order:
        if not left:
            return
        case = cases[position]
        present = _present(case, plan) if lesion_of(case, plan).any() else ()
        if present:
            left -= 1
            yield Chosen(position, present, said)


def lesion_of(case: Case, plan: Plan) -> saliency.Mask:
    """Where the plan's lesion is, shape (*spatial), 0 or 1; 0 everywhere for a case without a mask."""
    if case.mask is None:
        return np.zeros(case.voxels.shape[1:], np.uint8)
    lesion = plan.evaluation.explain_lesion
    return np.asarray(case.mask > 0 if lesion is None else case.mask == lesion, np.uint8)


def drawn_anew(task: Task, plan: Plan, number: int) -> nn.Module:
    """A control: the plan's network, which has seen nothing, with other weights than the plan's own."""
    spec = models.spec_of(plan, task.output_channels)
    return models.build_network(spec, derive(plan.plan.seed, "explained", number))


def _moments(case: Case, index: int, arms: Mapping[Arm, Explainer], plan: Plan) -> Observation:
    lesion = lesion_of(case, plan)
    return observation({arm: saliency.observe({0: look(case, index)}, lesion, 1) for arm, look in arms.items()})


def _salted(case_id: str) -> int:
    """A place in an order that says nothing: names are salted, and the prefix keeps it apart from other draws."""
    return int.from_bytes(hashlib.sha256(b"consilium-explained-1" + case_id.encode()).digest()[:8], "big")


def _present(case: Case, plan: Plan) -> tuple[int, ...]:
    count = len(plan.data.classes)
    if plan.data.labels == "exclusive":
        return (class_index(case, count),)
    return tuple(index for index, found in enumerate(findings(case, count)) if found)
