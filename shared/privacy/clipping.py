"""Bounding what one patient can do to a sum.

Formal guarantee: whatever a patient's gradient g is, ``factors`` gives f with ||f g|| <= C, or says that g must be left
out. Adding or removing the patient therefore moves the sum of all f g by at most C in the Euclidean norm.

==================  ======================================  =============================================
norm of g           flat (Abadi et al., CCS 2016)           automatic (Bu et al., NeurIPS 2023, AUTO-S)
==================  ======================================  =============================================
0                   1: contributes 0                        C / 0.01: contributes 0
at most C           1                                       C / (norm + 0.01)
above C             C / norm                                C / (norm + 0.01)
infinite or NaN     0, and must be left out: 0 * inf is NaN, which would reach everybody's sum
==================  ======================================  =============================================

Norms are taken in double precision of single-precision gradients, whose squares cannot overflow there, so a norm is
finite exactly when the gradient is. Rounding can push ||f g|| above C by 1e-12 of it; accounting rounds the noise up by
far more (``shared.privacy.accounting``).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

_STABILITY = 0.01
"""What AUTO-S adds to the norm; its authors' value, and not a thing to tune."""


@dataclass(frozen=True, slots=True)
class Clip:
    """The bound ``norm`` (C) on a patient's gradient, and how it is kept."""

    norm: float
    kind: Literal["flat", "automatic"] = "flat"

    def factors(self, norms: Tensor) -> Tensor:
        """What to multiply gradients of these Euclidean norms by, both of shape (N,), float64."""
        if self.kind == "automatic":
            wanted = self.norm / (norms + _STABILITY)
        else:
            wanted = torch.clamp(self.norm / norms, max=1.0)
        return torch.where(norms.isfinite(), wanted, 0.0)


class ClippedSum:
    """A sum of clipped gradients in double precision, one patient after another.

    Attributes:
        values: shape (P,), float64.
        contributing: patients whose gradient was finite. Stays at the site: it is a count of patients.
    """

    def __init__(self, length: int, clip: Clip, device: torch.device) -> None:
        self.values = torch.zeros(length, dtype=torch.float64, device=device)
        self.contributing = 0
        self._clip = clip

    def add(self, gradients: Tensor) -> None:
        """Clip and add one gradient for each patient, shape (N, P), float32."""
        # One by one: all at once, torch would first write all of them in double precision.
        norms = torch.stack([torch.linalg.vector_norm(gradient, dtype=torch.float64) for gradient in gradients])
        for gradient, norm, factor in zip(gradients, norms.tolist(), self._clip.factors(norms).tolist(), strict=True):
            if norm < float("inf"):  # false for NaN too
                self.values.add_(gradient, alpha=factor)  # promoted to double, value by value
                self.contributing += 1
