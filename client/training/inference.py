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
from shared.evaluation.additive import Statistics
from shared.evaluation.by_patient import collect_patients
from shared.evaluation.calibration import fitted_temperature, tempered
from shared.evaluation.subgroups import Layout, told_by_site
from shared.evaluation.subgroups import collect as collect_by_level
from shared.plan import Plan
from shared.preprocessing.image import Case
from shared.tasks.task import Task, observations

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


def recalibrated(
    scored: Iterable[tuple[Case, NDArray[np.float32]]],
    validation: Iterable[tuple[Case, NDArray[np.float32]]],
    plan: Plan,
) -> Iterator[tuple[Case, NDArray[np.float32]]]:
    """``scored`` as ``evaluation.recalibrate`` wants them: with the temperature of this site's validation cases.

    Guo et al., ICML 2017, section 4.2. The order of scores does not change, nor does the largest of exclusive ones.
    """
    if plan.evaluation.recalibrate == "none":
        yield from scored
        return
    known = list(validation)
    stacked = np.stack([found for _, found in known]).astype(np.float64) if known else np.zeros((0, 2))
    kind = plan.data.labels
    temperature = fitted_temperature(stacked, np.array([case.label for case, _ in known], np.int64), kind)
    for case, found in scored:
        yield case, tempered(found.astype(np.float64), temperature, kind).astype(np.float32)


def statistics(
    model: torch.nn.Module, cases: Sequence[Case], task: Task, plan: Plan, device: torch.device
) -> Statistics:
    """Additive statistics of all ``cases``; zero statistics when there are none."""
    scored = scores(model, cases, task, plan, device)
    observed = ((case.patient, counted) for case, counted in observations(task, scored))
    return collect_patients(task.schema, observed, task.of_patient)


def told(layout: Layout, scored: Iterable[tuple[Case, NDArray[np.float32]]], task: Task) -> Statistics:
    """What may leave a site of scored cases: in all and by subgroup, without levels that it must withhold."""
    return told_by_site(layout, collect_by_level(layout, observations(task, scored), task.of_patient))


def predictions(
    scored: Iterable[tuple[Case, NDArray[np.float32]]], task: Task
) -> Iterator[tuple[Case, Mapping[str, str | float | int]]]:
    """Each scored case with the task's columns for predictions.csv, such as label and score, or dice."""
    return ((case, task.describe(found, case)) for case, found in scored)
