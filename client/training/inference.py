"""Measuring a model on cases: scores, additive statistics, and rows for a researcher's own tools.

Promises
- Each case is scored by itself: networks have no running statistics, so batching changes nothing but speed.
- What leaves a site is ``statistics``, of test patients by subgroup as well (``told``); ``predictions`` are per case
  and exist for simulations only.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from client.training.device import autocast, memory_format
from shared.evaluation.additive import Statistics, collect
from shared.evaluation.subgroups import Layout, told_by_site
from shared.evaluation.subgroups import collect as collect_by_level
from shared.plan import Plan
from shared.preprocessing.image import Case
from shared.tasks.task import Task

_VOXELS_AT_ONCE = 2**18
"""Voxels of input in one forward pass; bounds memory on a CPU and fills small images' batches."""


def scores(
    model: torch.nn.Module, cases: Sequence[Case], task: Task, plan: Plan, device: torch.device
) -> Iterator[tuple[Case, NDArray[np.float32]]]:
    """Each case with its scores in [0, 1], shape (K, ...), in order."""
    model.eval()
    at_once = max(1, _VOXELS_AT_ONCE // math.prod(plan.preprocessing.size))
    layout = memory_format(device, plan.dimensions)
    for start in range(0, len(cases), at_once):
        some = [cases[position] for position in range(start, min(start + at_once, len(cases)))]
        images = torch.from_numpy(np.stack([case.voxels for case in some]))
        with torch.inference_mode(), autocast(device, plan.training.precision):
            logits = model(images.to(device, memory_format=layout))
        yield from zip(some, task.decode(logits.float()), strict=True)


def statistics(
    model: torch.nn.Module, cases: Sequence[Case], task: Task, plan: Plan, device: torch.device
) -> Statistics:
    """Additive statistics of all ``cases``; zero statistics when there are none."""
    scored = scores(model, cases, task, plan, device)
    return collect(task.schema, ((case.patient, task.observe(found, case)) for case, found in scored))


def told(layout: Layout, scored: Iterable[tuple[Case, NDArray[np.float32]]], task: Task) -> Statistics:
    """What may leave a site of scored cases: in all and by subgroup, without levels that it must withhold."""
    return told_by_site(layout, collect_by_level(layout, ((case, task.observe(found, case)) for case, found in scored)))


def predictions(
    model: torch.nn.Module, cases: Sequence[Case], task: Task, plan: Plan, device: torch.device
) -> Iterator[tuple[Case, Mapping[str, str | float | int]]]:
    """Each case with the task's columns for predictions.csv, such as label and score, or dice."""
    for case, found in scores(model, cases, task, plan, device):
        yield case, task.describe(found, case)
