"""Which engine makes patients' gradients on this device: the one asked for, or the faster of the two.

Promises
- An engine is used only after it has given the loop's gradients, parameter by parameter, for made-up patients of this
  plan on this device, up to what rounding does to the loop's own. One that does not is refused if it was asked for, and
  passed over if it was not.
- The choice depends on the plan, the network and the device; nobody's images are looked at.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np
import torch

from client.training.batches import Batch
from client.training.per_patient import Network, OneByOne, PatientGradients
from client.training.stand_ins import made_up_patient
from client.training.vectorised import SideBySide
from shared.errors import ModelError
from shared.plan import Plan
from shared.privacy.clipping import Clip
from shared.tasks.task import Task

_TRIED = 4
"""Patients of a trial; more take longer and say the same."""
_REPEATED = 2
ROWS_ON_CPU = 8
"""Rows of a pass: what more rows make does not stay in a CPU's cache. A U-Net with 16 patients of 128 x 128 takes 1.2
times a plain step with 8 rows, in 0.7 times its memory; 1.3 times with 16, in 1.2 times its memory."""
_UNREACHED = Clip(1e12)
"""A sum over one patient is then that patient's gradient."""


def chosen(network: Network, task: Task, plan: Plan) -> PatientGradients:
    """The engine of ``plan`` for ``network``; raises ``ModelError`` ("model-layers") for one that cannot be used."""
    assert plan.privacy.clip_norm is not None  # noqa: S101 - a plan with unit "patient" has one
    clip = Clip(plan.privacy.clip_norm, plan.privacy.clipping)
    loop = OneByOne(network, clip)
    if plan.training.patient_gradients == "loop":
        return loop
    patients = trial(task, plan)
    try:
        vectorised = checked(network, clip, plan, patients)
    except ModelError:
        if plan.training.patient_gradients == "vectorised":
            raise
        return loop
    if plan.training.patient_gradients == "vectorised":
        return vectorised
    return vectorised if _seconds(vectorised, patients, network) < _seconds(loop, patients, network) else loop


def trial(task: Task, plan: Plan) -> list[Batch]:
    """A few made-up patients with as many rows as the plan's have at most."""
    rng = np.random.default_rng(0)
    rows = plan.privacy.images_per_patient * plan.privacy.views_per_image
    return [made_up_patient(task, plan, rows, rng) for _ in range(min(_TRIED, plan.training.patients_per_step))]


def checked(network: Network, clip: Clip, plan: Plan, patients: list[Batch]) -> SideBySide:
    """The vectorised engine, once it has given the loop's gradients; raises ``ModelError`` ("model-layers")."""
    most = ROWS_ON_CPU if network.device.type == "cpu" else plan.training.patients_per_step
    rows = max(min(most, plan.training.patients_per_step), len(patients[0]))
    engine = SideBySide(network, clip, rows)
    unclipped = OneByOne(network, _UNREACHED)
    rounded = torch.stack([unclipped([patient]).values for patient in patients])
    if not engine.agrees_with(_exact(network, patients), rounded, patients, network.tolerance):
        raise ModelError(
            "gradients of single patients differ from those of one patient at a time",
            hint='set training.patient_gradients = "loop", and report this network',
            code="model-layers",
        )
    return engine


def _exact(network: Network, patients: list[Batch]) -> torch.Tensor:
    """Gradients of each patient in double precision, shape (N, P)."""
    loop = OneByOne(network.in_double_precision(), _UNREACHED)
    return torch.stack([loop([Batch(patient.images.double(), patient.targets)]).values for patient in patients])


def _seconds(engine: Callable[[list[Batch]], object], patients: list[Batch], network: Network) -> float:
    def once() -> float:
        began = time.perf_counter()
        engine(patients)
        if network.device.type == "cuda":
            torch.cuda.synchronize(network.device)
        return time.perf_counter() - began

    once()
    return min(once() for _ in range(_REPEATED))
