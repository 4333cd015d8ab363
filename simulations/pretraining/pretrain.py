"""Train a plan's network on made-up images: weights to start from that owe nothing to any patient.

Promises
- A function of plan and ``Order``: the same bytes every time on one machine, however many processes make the images.
- The network sees what it will see at a site: images go through the plan's preprocessing, patches and augmentation, and
  training is ``client.training.local.train``, as a site runs it.
- What comes out fits the plan: one tensor for each of its network's parameters, for ``[model.pretrained]``.
- A network with a ``whiten`` layer gets one that makes its features, over made-up images, of mean 0 and variance 1 and
  uncorrelated: the largest principal components of the standardised features. Its head is then the logistic regression
  of the diagnosis on them. No number is fitted on a patient, so neither costs any privacy.

What the images show is left to ``lesions`` and ``fundus``; what is learnt from them, to ``curriculum``.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, pairwise
from pathlib import Path

import numpy as np
import safetensors.numpy
import torch
from numpy.typing import NDArray
from torch import nn

from client.training import local
from client.training.batches import TrainingData
from client.training.device import choose
from shared import models, tasks
from shared.durable import SHARED, replace_file
from shared.errors import PlanError
from shared.plan import Plan
from shared.preprocessing.image import Case
from shared.preprocessing.pipeline import prepare
from shared.seeds import generator
from simulations.pretraining.curriculum import Curriculum, curriculum_for, lesson
from simulations.pretraining.example import Example
from simulations.progress import Stages
from simulations.workers import Pool, Sites

Weights = Mapping[str, NDArray[np.float32]]

_CHUNK = 100
_FEATURES_OF = 4_000
"""Made-up images whose features are whitened; more change nothing that matters."""
_AT_ONCE = 64
_RIDGE = 1e-2
_NEWTON_STEPS = 20
_LEAST_SHARE = 1e-9
"""Components with less variance than this share of the largest are rounding errors."""


@dataclass(frozen=True)
class Order:
    """How to pretrain.

    Attributes:
        seed: of images, initial weights and training.
        images: how many to make; None for the curriculum's.
        steps: optimizer steps; None for the curriculum's.
        workers: processes that make images.
    """

    seed: int = 0
    images: int | None = None
    steps: int | None = None
    workers: int = 1


def pretrain(plan: Plan, order: Order, stages: Stages) -> Weights:
    """Parameters by name for the network of ``plan``.

    Raises:
        PlanError, ModelError: there is nothing to learn from, or no such network.
    """
    curriculum = curriculum_for(plan)
    taught = lesson(plan, curriculum, order.seed, order.steps or curriculum.steps)
    cases = _made_up(taught, curriculum, order, stages)
    network = _trained(taught, cases, stages)
    return _fitted(plan, network, cases)


def save(weights: Weights, path: Path) -> str:
    """Write a safetensors file and return its SHA-256, 64 hexadecimal digits."""
    content = safetensors.numpy.save(dict(weights))
    path.parent.mkdir(parents=True, exist_ok=True)
    replace_file(path, content, SHARED)
    return hashlib.sha256(content).hexdigest()


def _made_up(plan: Plan, curriculum: Curriculum, order: Order, stages: Stages) -> list[Case]:
    ends = [*range(0, order.images or curriculum.images, _CHUNK), order.images or curriculum.images]
    jobs = {f"{first} to {last - 1}": (curriculum, order.seed, first, last) for first, last in pairwise(ends)}
    made: dict[str, list[Case]] = {}
    with (
        Pool(Sites(plan, Path()), order.workers) as pool,
        stages.stage("making images up", len(jobs)) as advance,
    ):
        for name, some in pool.each(_make, jobs):
            made[name] = some
            advance(name)
    return list(chain.from_iterable(made[name] for name in jobs))


def _make(sites: Sites, curriculum: Curriculum, seed: int, first: int, last: int) -> list[Case]:
    """Cases number ``first`` to ``last - 1``, each of a patient of their own."""
    return [_case(str(index), curriculum.generate(seed, index), sites.plan) for index in range(first, last)]


def _case(name: str, example: Example, plan: Plan) -> Case:
    prepared = prepare(example.image, example.mask, plan)
    if example.findings:
        return Case(name, name, prepared.voxels, None, example.findings, prepared.spacing_mm)
    return Case(name, name, prepared.voxels, prepared.mask, None, prepared.spacing_mm)


def _trained(plan: Plan, cases: Sequence[Case], stages: Stages) -> nn.Module:
    task = tasks.task_for(plan)
    network = models.build(plan, task.output_channels, task.output)
    device = choose(plan.training.device)
    data = TrainingData(cases, tuple((position,) for position in range(len(cases))))
    assignment = local.long_assignment(plan, plan.training.steps)
    rng = generator(plan.plan.seed, "pretraining")
    with stages.stage(f"training for {plan.training.steps} steps", 1) as advance:
        found = local.train(network.to(device), data, task, plan, assignment, rng=rng, device=device)
        advance(f"mean loss {found.loss_sum / found.steps:.3f}")
    return network.cpu().eval()


def _fitted(plan: Plan, taught: nn.Module, cases: Sequence[Case]) -> Weights:
    """The taught network's parameters in the shapes of the plan's own network."""
    task = tasks.task_for(plan)
    bare = plan.model_copy(update={"model": plan.model.model_copy(update={"pretrained": None, "freeze": ()})})
    wanted = models.build(bare, task.output_channels, task.output)
    weights = {name: parameter.detach().numpy() for name, parameter in taught.named_parameters()}
    for name, parameter in wanted.named_parameters():
        if weights[name].shape != tuple(parameter.shape):
            weights[name] = _two_classes(weights[name][:1])
    if "whiten.weight" in weights:
        weights |= _whitened(taught, cases)
    return {name: np.ascontiguousarray(tensor, np.float32) for name, tensor in weights.items()}


def _two_classes(row: NDArray[np.floating]) -> NDArray[np.floating]:
    """Weights of one sigmoid, (1, ...), as those of a softmax over two classes, (2, ...): the same probabilities."""
    return np.concatenate([-row / 2, row / 2])


def _whitened(network: nn.Module, cases: Sequence[Case]) -> Weights:
    some = cases[:_FEATURES_OF]
    features = _features(network, some)
    weight, bias = whitening(features, network.get_parameter("whiten.weight").shape[0])
    ill = np.array([case.label[0] for case in some if isinstance(case.label, tuple)], np.float64)
    head = logistic(features @ weight.T + bias, ill)
    return {
        "whiten.weight": weight.astype(np.float32),
        "whiten.bias": bias.astype(np.float32),
        "head.weight": _two_classes(head[None, :-1]).astype(np.float32),
        "head.bias": _two_classes(head[-1:]).astype(np.float32),
    }


def _features(network: nn.Module, cases: Sequence[Case]) -> NDArray[np.float64]:
    """What the network's ``whiten`` layer reads, (N, F)."""
    body = nn.Sequential(*(part for name, part in network.named_children() if name not in {"whiten", "head"}))
    found = []
    with torch.inference_mode():
        for start in range(0, len(cases), _AT_ONCE):
            images = np.stack([case.voxels for case in cases[start : start + _AT_ONCE]])
            found.append(body(torch.from_numpy(images)).double().numpy())
    return np.concatenate(found)


def whitening(features: NDArray[np.float64], count: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Weight (count, F) and bias (count,): from features (N, F) to their largest principal components at variance 1.

    Features are standardised before, so that their units do not decide.

    A feature that never changes gets no weight. Raises ``PlanError`` where fewer than ``count`` components vary.
    """
    mean, deviation = features.mean(axis=0), features.std(axis=0)
    scale = np.where(deviation > 0, 1 / np.where(deviation > 0, deviation, 1), 0)
    variances, axes = np.linalg.eigh(np.cov((features - mean) * scale, rowvar=False, bias=True))
    rank = int((variances > _LEAST_SHARE * variances.max()).sum())
    if rank < count:
        raise PlanError(
            f"the features of made-up images are of rank {rank}, model.channels asks for {count} whitened ones",
            hint="ask for fewer (the last of model.channels), or make more images up",
        )
    largest = np.argsort(-variances, kind="stable")[:count]
    weight = (axes[:, largest] / np.sqrt(variances[largest])).T * scale
    return weight, -weight @ mean


def logistic(features: NDArray[np.float64], labels: NDArray[np.float64]) -> NDArray[np.float64]:
    """Weights and, last, the intercept of the ridge logistic regression of labels (N,) on features (N, F): Newton."""
    design = np.column_stack([features, np.ones(len(features))])
    weights = np.zeros(design.shape[1])
    for _ in range(_NEWTON_STEPS):
        chance = 1 / (1 + np.exp(-np.clip(design @ weights, -30, 30)))
        slope = design.T @ (chance - labels) / len(labels) + _RIDGE * weights
        curvature = (design.T * (chance * (1 - chance))) @ design / len(labels) + _RIDGE * np.eye(len(weights))
        weights = weights - np.linalg.solve(curvature, slope)
    return weights
