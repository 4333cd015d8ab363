"""Measuring a model on patients for a release with noise.

Promises
- What a patient adds depends on that patient alone: each image passes the network by itself (a batch may change low
  bits of a score, and with them a neighbour's bin), sums are of integers, nothing is scaled by a count.
- A case that cannot be read or measured counts as if it were not there. It is no refusal: whether a site answers must
  not tell that a patient with such a case is among its own.
- The vector that comes back holds noise and may leave the site; the one without noise exists only inside this call.

Reserving the event in the ledger *before* this is called, and storing the reply so that noise is never drawn twice for
one request, are the site's. How long this takes grows with the number of patients: the caller does not send it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass

import torch

from client.training.inference import scores
from shared.errors import CaseError
from shared.evaluation.additive import IntArray
from shared.evaluation.undetermined import FloatArray
from shared.plan import Plan
from shared.preprocessing.image import Case
from shared.privacy.noise import Noise
from shared.privacy.statistics import noised
from shared.tasks.task import Task, private_measures


@dataclass(frozen=True)
class Protection:
    """Standard deviation of the noise in units of the sensitivity, and where noise comes from."""

    noise_multiplier: float
    noise: Noise


def private_statistics(
    model: torch.nn.Module,
    cases: Sequence[Case],
    task: Task,
    plan: Plan,
    device: torch.device,
    protection: Protection,
) -> IntArray:
    """Statistics of all ``cases`` with noise, shape (schema.length,), int64; raises ``PlanError``.

    Their schema is ``task.private.schema``, and its digest goes with them.
    """
    schema = private_measures(task).schema
    counts = schema.collect(weights(model, cases, task, plan, device))
    return noised(counts, schema.sensitivity, protection.noise_multiplier, protection.noise)


def weights(
    model: torch.nn.Module, cases: Sequence[Case], task: Task, plan: Plan, device: torch.device
) -> Iterator[tuple[str, FloatArray]]:
    """(patient, weights) of each case that can be measured; for this site's eyes only."""
    observe = private_measures(task).observe
    for position in range(len(cases)):
        with suppress(CaseError):
            case = cases[position]
            [(_, found)] = scores(model, [case], task, plan, device)
            yield case.patient, observe(found, case)
