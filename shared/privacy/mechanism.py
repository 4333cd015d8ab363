"""The Gaussian mechanism on a sum of bounded contributions (Dwork & Roth 2014, appendix A; Abadi et al., CCS 2016).

Promises
- ``noisy_mean`` adds noise of ``noise_multiplier * clip_norm`` to every coordinate of the sum, whatever the sum is: an
  empty draw, a patient without a finite gradient and a sum of zeros get the same noise.
- The sum is divided by ``denominator``, a public constant, and never by how many patients were drawn.
- Sum, noise and quotient are in double precision. What rounds comes after.
"""

from __future__ import annotations

import torch
from torch import Tensor

from shared.privacy.noise import Noise
from shared.privacy.terms import Terms


def noisy_mean(total: Tensor, terms: Terms, noise: Noise) -> Tensor:
    """Private mean gradient from the sum of clipped ones, shape (P,), float64; the mean is over expected patients."""
    drawn = torch.from_numpy(noise.normal(total.numel())).to(total.device)
    scale = terms.noise_multiplier * terms.clip_norm
    return torch.add(total, drawn, alpha=scale).div_(terms.denominator)
