"""What a network can be taught from made-up images, and how a plan is changed for that.

Promises
- ``curriculum_for`` finds by task and modality what there is to learn; where there is nothing, it says so.
- ``lesson`` keeps of a plan what decides what a network sees (preprocessing, patches, augmentation) and what it is
  (``[model]``). Steps, batch and optimizer are the curriculum's; nothing private is in it, so nothing is protected.
- A network that will tell two classes apart learns all findings of the images first, one output each. It has to see
  more than the diagnosis, and its features serve a new head the better for it (multi-task learning: Caruana, Machine
  Learning 1997).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from shared.errors import PlanError
from shared.plan import Aggregation, Augmentation, Header, Plan
from shared.plan_protection import Privacy, SecureAggregation
from simulations.pretraining.example import Generate
from simulations.pretraining.fundus import fundus
from simulations.pretraining.lesions import FINDINGS, lesion


@dataclass(frozen=True)
class Curriculum:
    """What is learnt for one task and modality.

    Attributes:
        generate: gives the images.
        findings: one output each; the first is what the plan's second class stands for. Empty where masks are learnt.
        classes: what a plan must call its two classes.
        images: how many different images, unless said otherwise.
        steps: how many optimizer steps, unless said otherwise.
        batch: images of a step.
        learning_rate: of AdamW at the first step; it falls to 0 along half a cosine.
    """

    generate: Generate
    findings: tuple[str, ...]
    classes: tuple[str, str]
    images: int
    steps: int
    batch: int
    learning_rate: float


CURRICULA: Mapping[tuple[str, str], Curriculum] = MappingProxyType(
    {
        ("classification", "us"): Curriculum(lesion, FINDINGS, ("benign", "malignant"), 20_000, 4_000, 32, 3e-3),
        ("segmentation", "fundus"): Curriculum(fundus, (), ("background", "vessel"), 350, 4_000, 8, 4e-3),
    }
)


def curriculum_for(plan: Plan) -> Curriculum:
    """What there is to learn for ``plan``; raises ``PlanError`` where nothing is made up for its task and modality."""
    key = plan.plan.task, plan.data.modality
    if key not in CURRICULA:
        known = "; ".join(f"{task} of {modality}" for task, modality in CURRICULA)
        raise PlanError(f"nothing is made up for {key[0]} of {key[1]} images", hint=f"there is {known}")
    found = CURRICULA[key]
    if plan.data.classes != found.classes or plan.data.labels != "exclusive":
        raise PlanError(
            f"made-up images show {' or '.join(found.classes)}, data.classes says {', '.join(plan.data.classes)}",
            hint=f"set data.classes = {list(found.classes)}",
        )
    return found


def lesson(plan: Plan, curriculum: Curriculum, seed: int, steps: int) -> Plan:
    """The plan by which a network of ``plan`` is trained on made-up images."""
    training = plan.training.model_copy(
        update={
            "steps": steps,
            "patients_per_step": curriculum.batch,
            "optimizer": "adamw",
            "learning_rate": curriculum.learning_rate,
            "weight_decay": 1e-2,
            "schedule": "cosine",
            "warmup_rounds": 0,
            "gradient_clip": None,
            "augmentation": _wider(plan.training.augmentation),
        }
    )
    learnt = {"classes": curriculum.findings, "labels": "multilabel"} if curriculum.findings else {}
    changed = {
        "plan": Header(name="pretraining", task=plan.plan.task, rounds=1, seed=seed),
        "data": plan.data.model_copy(update=learnt),
        "model": plan.model.model_copy(update={"pretrained": None, "freeze": ()}),
        "training": training,
        "aggregation": Aggregation(),
        "privacy": Privacy(unit="none"),
        "secure_aggregation": SecureAggregation(),
        "evaluation": plan.evaluation.model_copy(update={"cross_site": False}),
        "personalisation": None,
    }
    return plan.model_copy(update=changed)


def _wider(augmentation: Augmentation) -> Augmentation:
    """The plan's own, with tones and noise changed at least as much as scanners of real sites do."""
    return augmentation.model_copy(
        update={"gamma": max(augmentation.gamma, 0.3), "noise": max(augmentation.noise, 0.05)}
    )
