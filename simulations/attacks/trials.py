"""Training one model to be attacked, and asking it about everybody.

Promises
- Models are trained by the code that trains at a hospital: ``client.training.local`` without privacy,
  ``client.training.private`` with it, from the plan's own first weights, for as long as the whole run would.
- What comes back is what an attacker with the model can compute: the loss of each patient's images, averaged.
- Noise and coins are seeded here, so that a comparison can be repeated. At a hospital they never are.

The attacked model is one hospital's, trained alone: no other hospital's patients are there to hide among.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from client.training import local, private
from client.training.batches import Batch, TrainingData
from client.training.engines import chosen
from client.training.inference import statistics
from client.training.per_patient import Network
from client.training.sampling import Sampler
from client.workbench import Workbench
from shared.errors import RunError
from shared.messages import Vector
from shared.preprocessing.image import Case
from shared.privacy.noise import UnsafeSeededNoise
from shared.seeds import derive, generator
from simulations.attacks.arms import Arm
from simulations.attacks.bounds import Reals
from simulations.attacks.membership import by_patient, confidence
from simulations.attacks.population import members_of, population
from simulations.workers import Sites, SiteSpec

_IMAGES_AT_ONCE = 64


@dataclass(frozen=True, eq=False)
class Answers:
    """What one model says about every patient.

    Attributes:
        losses: mean loss over each patient's images, shape (P,).
        confidences: mean ``membership.confidence`` over each patient's images, shape (P,).
        quality: the task's headline metric on patients that the model was not trained on.
    """

    losses: Reals
    confidences: Reals
    quality: float


def answers(sites: Sites, specs: Sequence[SiteSpec], arm: Arm, model: int, initial: Vector) -> Answers:
    """Train model number ``model`` of an arm and ask it about everybody; raises ``RunError`` when it diverges."""
    bench, seed = sites.workbench, arm.plan.plan.seed
    everybody = population(sites, specs)
    members = members_of(seed, model, len(everybody.patients))
    bench.load(initial)
    train(bench, arm, everybody.training_data(members), model)
    losses = losses_of(bench, everybody.cases)
    if not np.isfinite(losses).all():
        raise RunError(
            f"model {model + 1} of the arm {arm.name} gives losses that are not finite",
            hint="lower training.learning_rate",
            code="loss-not-finite",
        )
    measured = statistics(bench.model, everybody.strangers(members), bench.task, bench.plan, bench.device)
    return Answers(
        losses=by_patient(losses, everybody.patients),
        confidences=by_patient(confidence(losses), everybody.patients),
        quality=bench.task.metrics(measured.total()).get(bench.task.headline, math.nan),
    )


def train(bench: Workbench, arm: Arm, data: TrainingData, model: int) -> None:
    """Train the workbench's network in place as the arm says, rounds and all in one go."""
    plan = arm.plan
    assignment = local.long_assignment(plan, plan.plan.rounds * plan.training.steps)
    if arm.terms is None:
        rng = generator(plan.plan.seed, "attack", arm.name, model)
        local.train(bench.model, data, bench.task, plan, assignment, rng=rng, device=bench.device)
        return
    bench.model.train()
    engine = chosen(Network.of(bench.model, bench.task, plan, bench.device), bench.task, plan)
    private.train(bench.model, engine, _sampler(bench, arm, data, model), arm.terms, assignment)


def losses_of(bench: Workbench, cases: Sequence[Case]) -> Reals:
    """The loss of each case, shape (N,)."""
    bench.model.eval()
    found = [_losses(bench, some) for some in _groups(cases)]
    return np.concatenate(found)


def _sampler(bench: Workbench, arm: Arm, data: TrainingData, model: int) -> Sampler:
    seed, name = arm.plan.plan.seed, arm.name

    def streams(step: int, patient: str) -> np.random.Generator:
        return generator(seed, "attack", name, model, step, patient)

    noise = UnsafeSeededNoise(derive(seed, "attack", name, model, "noise"))
    return Sampler(data, bench.task, arm.plan, streams, noise)


def _groups(cases: Sequence[Case]) -> Iterator[Sequence[Case]]:
    for start in range(0, len(cases), _IMAGES_AT_ONCE):
        yield cases[start : start + _IMAGES_AT_ONCE]


def _losses(bench: Workbench, cases: Sequence[Case]) -> Reals:
    images = torch.from_numpy(np.stack([case.voxels for case in cases]))
    targets = torch.from_numpy(np.stack([bench.task.target(case) for case in cases]))
    network = Network.of(bench.model, bench.task, bench.plan, bench.device)
    with torch.inference_mode():
        losses: Reals = network.losses(Batch(images, targets)).double().cpu().numpy()
    return losses
