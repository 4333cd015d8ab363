"""An experiment: the models of several sites as one stack, trained at once with ``torch.func``.

If one process could train N sites together faster than one after the other, simulations of many small sites would gain.
Both ways make the same SGD steps on the same batches from the same weights: ``_loop`` with autograd, site by site;
``_stack`` with ``vmap`` of the gradient over stacked parameters. Batches are made beforehand, for both.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable
from dataclasses import dataclass

import federation
import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, stack_module_state, vmap
from torch.nn.functional import cross_entropy

from client.workbench import Workbench
from shared.plan import Plan

RATE, MOMENTUM = 0.05, 0.9
Parameters = dict[str, Tensor]


@dataclass(frozen=True)
class Work:
    """What is trained on: ``images`` (steps, sites, B, 1, H, W) and ``targets`` (steps, sites, B)."""

    start: nn.Module
    images: Tensor
    targets: Tensor


def compare(sites: int, steps: int, repeats: int) -> dict[str, float | list[float]]:
    """Milliseconds of one site's step either way, in turns, and how far apart the weights end."""
    work = _work(federation.plan(1), sites, steps)
    looped, stacked = _loop(work), _stack(work)
    taken: dict[str, list[float]] = {"loop_ms": [], "stack_ms": []}
    for _ in range(repeats):
        taken["loop_ms"].append(1e3 * _seconds(_loop, work) / (sites * steps))
        taken["stack_ms"].append(1e3 * _seconds(_stack, work) / (sites * steps))
    apart = max(float((looped[name] - stacked[name]).abs().max()) for name in looped)
    moved = max(float((looped[name] - before.detach()).abs().max()) for name, before in work.start.named_parameters())
    return {**taken, "apart": apart, "moved": moved}


def _work(plan: Plan, sites: int, steps: int) -> Work:
    rng = np.random.default_rng(1)
    batch = (steps, sites, plan.training.patients_per_step)
    images = rng.standard_normal((*batch, plan.input_channels, *plan.preprocessing.size), np.float32)
    targets = rng.integers(len(plan.data.classes), size=batch)
    return Work(Workbench.for_plan(plan).model, torch.from_numpy(images), torch.from_numpy(targets))


def _loop(work: Work) -> Parameters:
    models = [copy.deepcopy(work.start) for _ in range(work.images.shape[1])]
    for site, model in enumerate(models):
        optimizer = torch.optim.SGD(model.parameters(), lr=RATE, momentum=MOMENTUM)
        for images, targets in zip(work.images[:, site], work.targets[:, site], strict=True):
            optimizer.zero_grad()
            cross_entropy(model(images), targets).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
    return {name: value.detach() for name, value in stack_module_state(models)[0].items()}


def _stack(work: Work) -> Parameters:
    def loss(parameters: Parameters, images: Tensor, targets: Tensor) -> Tensor:
        return cross_entropy(functional_call(work.start, parameters, (images,)), targets)

    gradients = vmap(grad(loss))
    stacked, _ = stack_module_state([work.start] * work.images.shape[1])
    parameters = {name: value.detach().clone() for name, value in stacked.items()}
    velocity = {name: torch.zeros_like(value) for name, value in parameters.items()}
    for images, targets in zip(work.images, work.targets, strict=True):
        for name, gradient in gradients(parameters, images, targets).items():
            velocity[name].mul_(MOMENTUM).add_(gradient)
            parameters[name].add_(velocity[name], alpha=-RATE)
    return parameters


def _seconds(way: Callable[[Work], Parameters], work: Work) -> float:
    began = time.perf_counter()
    way(work)
    return time.perf_counter() - began
