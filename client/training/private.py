"""Local training under patient-level differential privacy (DP-SGD: Abadi et al., CCS 2016, with the patient as unit).

Formal guarantee: the network after ``train`` is a function of the network before it, public numbers, and the releases
of ``terms.round_event()``: for each step the sum of the drawn patients' clipped gradients plus Gaussian noise. What one
patient changes is bounded by what these releases cost (``shared.privacy.accounting``), with all their images.

Rules
- Each step: toss a coin for each patient, make the drawn ones' clipped gradients, add noise, divide by a public
  constant, let the plan's optimizer step. An optimizer, a schedule, weight decay and momentum only ever see the noisy
  mean, so they cost nothing.
- Where sites share the noise (``shared.privacy.shared_noise``) there is one step, no optimizer but plain descent, and
  what it would change is given without noise: to be noised on the grid before anything else is done with it.
- Nothing else comes back: no loss, no count of patients, no error that depends on the data. A network that diverges is
  noticed by its weights.

Where the noise comes from is the caller's choice; everything but a simulation that says ``unsafe`` uses
``SecureNoise``.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from client.training.local import Assignment, make_optimizer
from client.training.per_patient import PatientGradients
from client.training.sampling import Sampler
from shared.models import trainable
from shared.privacy.mechanism import noisy_mean
from shared.privacy.terms import Terms


def train(
    model: nn.Module,
    engine: PatientGradients,
    sampler: Sampler,
    terms: Terms,
    assignment: Assignment,
) -> None:
    """Train ``model`` in place for ``assignment.steps`` steps.

    Args:
        model: the network that ``engine`` takes gradients of.
        engine: gives sums of clipped gradients.
        sampler: gives the patients of a step; its noise protects them.
        terms: rate, noise and denominator of this site.
        assignment: steps and learning rates.
    """
    model.train()
    optimizer = make_optimizer(model, sampler.plan.training)
    for step in range(assignment.steps):
        total = engine(sampler.step(step, terms.sampling_rate))
        give_gradient(model, noisy_mean(total.values, terms, sampler.noise))
        for group in optimizer.param_groups:
            group["lr"] = assignment.rate(step)
        optimizer.step()


def unnoised_change(
    model: nn.Module,
    engine: PatientGradients,
    sampler: Sampler,
    terms: Terms,
    assignment: Assignment,
) -> NDArray[np.float64]:
    """What one step of plain descent would change, shape (P,): **without noise**, and not for the eyes of others.

    Adding or removing a patient moves it by at most ``assignment.rate(0) * terms.clip_norm / terms.denominator`` in the
    Euclidean norm. Arguments as of ``train``; ``model`` stays as it is.
    """
    model.train()
    mean = engine(sampler.step(0, terms.sampling_rate)).values / terms.denominator
    weights = torch.cat([parameter.detach().reshape(-1).double() for _, parameter in trainable(model)])
    descent = mean + sampler.plan.training.weight_decay * weights
    change: NDArray[np.float64] = (-assignment.rate(0) * descent).cpu().numpy()
    return change


def give_gradient(model: nn.Module, gradient: Tensor) -> None:
    """Set ``.grad`` of every trained parameter from a flat vector, shape (P,)."""
    parameters = [parameter for _, parameter in trainable(model)]
    parts = torch.split(gradient, [parameter.numel() for parameter in parameters])
    for parameter, part in zip(parameters, parts, strict=True):
        parameter.grad = part.view_as(parameter).to(parameter.dtype)
