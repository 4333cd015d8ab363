"""Local training: some steps of plain PyTorch on a site's own patients.

Promises
- Pure in its inputs: the same weights, data, plan and generator give the same weights, to the bit on a CPU with one
  thread. Optimizer state starts anew; nothing is kept between calls.
- The gradient of a step is that of the mean loss over the step's images, however many micro-batches memory allows:
  when a batch does not fit, it is halved and the step repeated, and the size that fits is kept.
- FedProx adds (mu / 2) ||w - w_received||^2 over trained parameters (Li et al., MLSys 2020, eq. 2).
- A loss that is not finite ends training with an error; an update made of NaN never leaves.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch

from client.training.batches import Batch, TrainingData, batches, pieces, prefetched, to_device
from client.training.device import autocast, halved, memory_format
from shared.errors import ProtocolError, UpdateRejected
from shared.plan import Plan, Training
from shared.tasks.task import Task

Rate = Callable[[int], float]


@dataclass(frozen=True)
class Assignment:
    """How long and how fast to train.

    Attributes:
        steps: optimizer steps.
        rate: learning rate at a step of this assignment, 0 to steps - 1.
        proximal_mu: strength of the FedProx term; 0 for none.
    """

    steps: int
    rate: Rate
    proximal_mu: float = 0.0


@dataclass(frozen=True)
class Trained:
    """What training reports: steps made and the sum over steps of the mean loss."""

    steps: int
    loss_sum: float


def round_assignment(plan: Plan, round_number: int) -> Assignment:
    """What round ``round_number`` (from 1) asks of a site: the schedule spans all rounds."""
    first = (round_number - 1) * plan.training.steps
    total = plan.plan.rounds * plan.training.steps
    warmup = plan.training.warmup_rounds * plan.training.steps
    return Assignment(
        steps=plan.training.steps,
        rate=lambda step: scheduled_rate(plan.training, first + step, total, warmup),
        proximal_mu=plan.aggregation.proximal_mu,
    )


def personal_assignment(plan: Plan) -> Assignment:
    """What ``[personalisation]`` asks of a site: its steps, the rate falling to 0 along half a cosine.

    Raises:
        ProtocolError: the plan has no such section.
    """
    settings = plan.personalisation
    if settings is None:
        raise ProtocolError("the plan has no [personalisation], so no fine-tuning was agreed", code="not-in-plan")
    falling = plan.training.model_copy(update={"learning_rate": settings.learning_rate, "schedule": "cosine"})
    return Assignment(settings.steps, lambda step: scheduled_rate(falling, step, settings.steps, 0))


def long_assignment(plan: Plan, steps: int) -> Assignment:
    """``steps`` in one go with the plan's schedule stretched over them: how a baseline is trained."""
    warmup = round(steps * plan.training.warmup_rounds / plan.plan.rounds)
    return Assignment(steps, lambda step: scheduled_rate(plan.training, step, steps, warmup))


def scheduled_rate(training: Training, step: int, total: int, warmup: int) -> float:
    """Learning rate at ``step`` of ``total``: linear warm-up, then constant or half a cosine down to 0.

    Cosine: Loshchilov & Hutter, SGDR, ICLR 2017, without restarts.
    """
    if step < warmup:
        return training.learning_rate * (step + 1) / warmup
    if training.schedule == "constant":
        return training.learning_rate
    progress = (step - warmup) / max(1, total - warmup)
    return training.learning_rate * 0.5 * (1 + math.cos(math.pi * progress))


def make_optimizer(model: torch.nn.Module, training: Training) -> torch.optim.Optimizer:
    """The plan's optimizer over trainable parameters; its rate is set before every step."""
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    if training.optimizer == "sgd":
        return torch.optim.SGD(
            parameters, lr=training.learning_rate, momentum=training.momentum, weight_decay=training.weight_decay
        )
    kind = torch.optim.AdamW if training.optimizer == "adamw" else torch.optim.Adam
    return kind(parameters, lr=training.learning_rate, weight_decay=training.weight_decay)


def train(  # noqa: PLR0913 - the five values that determine the result, and the device
    model: torch.nn.Module,
    data: TrainingData,
    task: Task,
    plan: Plan,
    assignment: Assignment,
    *,
    rng: np.random.Generator,
    device: torch.device,
) -> Trained:
    """Train ``model`` in place.

    Args:
        model: network on ``device``.
        data: this site's training cases by patient; at least one patient.
        task: loss and targets.
        plan: batch size, patch, augmentation, optimizer, clipping, precision.
        assignment: steps and rates.
        rng: the only source of randomness.
        device: where ``model`` is.

    Raises:
        UpdateRejected: the loss is not finite (code ``loss-not-finite``).
        CapacityError: not even one image fits into memory.
    """
    model.train()
    optimizer = make_optimizer(model, plan.training)
    received = [parameter.detach().clone() for parameter in _trained(model)] if assignment.proximal_mu else []
    step = _Step(model, task, plan, device)
    loss_sum = 0.0
    with _dropout_drawn_from(rng, plan, device):
        source = prefetched(lambda: batches(data, task, plan, rng), assignment.steps, device)
        for number, batch in enumerate(source):
            for group in optimizer.param_groups:
                group["lr"] = assignment.rate(number)
            loss = step.gradient(to_device(batch, device, memory_format(device, plan.dimensions)))
            _require_finite(loss, number, assignment.steps)
            loss_sum += loss
            _add_proximal_gradient(model, received, assignment.proximal_mu)
            if plan.training.gradient_clip is not None:
                torch.nn.utils.clip_grad_norm_(list(_trained(model)), plan.training.gradient_clip)
            optimizer.step()
    return Trained(assignment.steps, loss_sum)


def _require_finite(loss: float, number: int, steps: int) -> None:
    if not math.isfinite(loss):
        raise UpdateRejected(
            f"the loss is {loss} at local step {number + 1} of {steps}",
            hint="lower training.learning_rate, or set training.gradient_clip",
            code="loss-not-finite",
        )


@contextmanager
def _dropout_drawn_from(rng: np.random.Generator, plan: Plan, device: torch.device) -> Iterator[None]:
    """Torch's dropout draws from the device's global generator and takes no other: seed it here, then put it back.

    Without dropout nothing is drawn from ``rng``, so that batches are those of a plan that never had any.
    """
    if plan.model.dropout == 0:
        yield
        return
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        seed = int(rng.integers(2**32))
        torch.default_generator.manual_seed(seed)
        if device.type == "cuda":
            torch.cuda.manual_seed(seed)
        yield


class _Step:
    """Computes the gradient of a batch in as few pieces as memory allows, and remembers how few."""

    def __init__(self, model: torch.nn.Module, task: Task, plan: Plan, device: torch.device) -> None:
        self._model, self._task, self._device = model, task, device
        self._precision = plan.training.precision
        self._largest = plan.training.patients_per_step

    def gradient(self, batch: Batch) -> float:
        """Set ``.grad`` to the gradient of the batch's mean loss and return that loss."""
        while True:
            try:
                self._model.zero_grad(set_to_none=True)
                return sum(self._backward(piece, len(batch)) for piece in pieces(batch, self._largest))
            except torch.OutOfMemoryError:
                self._shrink()

    def _backward(self, piece: Batch, total: int) -> float:
        with autocast(self._device, self._precision):
            logits = self._model(piece.images)
        losses = self._task.loss(logits.float(), piece.targets)
        loss = losses.sum() / total
        loss.backward()  # type: ignore[no-untyped-call]
        return float(loss.detach())

    def _shrink(self) -> None:
        self._model.zero_grad(set_to_none=True)
        self._largest = halved(self._largest, self._device)


def _trained(model: torch.nn.Module) -> Iterator[torch.nn.Parameter]:
    return (parameter for parameter in model.parameters() if parameter.requires_grad)


@torch.no_grad()
def _add_proximal_gradient(model: torch.nn.Module, received: list[torch.Tensor], mu: float) -> None:
    """Gradient of (mu / 2) ||w - w_received||^2."""
    for parameter, start in zip(_trained(model), received, strict=False):
        if parameter.grad is not None:
            parameter.grad.add_(parameter.detach() - start, alpha=mu)
