"""Made-up patients in the form of a plan's own: to time an engine, and to test one, without anybody's images.

Promises
- Shapes, types and values of targets are what the plan's task gives for real cases; voxels are random normals, as
  after z-score normalisation. No case of the site is read.
"""

from __future__ import annotations

import numpy as np
import torch

from client.training.batches import Batch
from shared.plan import Plan
from shared.preprocessing.image import Case
from shared.tasks.task import Task


def made_up_case(plan: Plan, rng: np.random.Generator, patient: str = "stand-in") -> Case:
    """A case with random voxels, mask and label, of the size that training sees."""
    size, classes = plan.training.patch or plan.preprocessing.size, len(plan.data.classes)
    several = plan.data.labels == "multilabel"
    return Case(
        case_id=patient,
        patient=patient,
        voxels=rng.standard_normal((plan.input_channels, *size), dtype=np.float32),
        mask=rng.integers(classes, size=size, dtype=np.uint8),
        label=tuple(rng.integers(2, size=classes).tolist()) if several else int(rng.integers(classes)),
        spacing_mm=(1.0,) * plan.dimensions,
    )


def made_up_patient(task: Task, plan: Plan, rows: int, rng: np.random.Generator) -> Batch:
    """A patient with this many rows."""
    cases = [made_up_case(plan, rng) for _ in range(rows)]
    targets = np.stack([task.target(case) for case in cases])
    return Batch(torch.from_numpy(np.stack([case.voxels for case in cases])), torch.from_numpy(targets))
