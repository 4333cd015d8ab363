"""How much a picture that an attacker made looks like the patient's own.

=======  ==============================================================================================================
measure  definition
=======  ==============================================================================================================
PSNR     20 log10(range / root mean squared error), in dB; ``CEILING_DB`` for equal images
SSIM     mean structural similarity (Wang et al., IEEE TIP 2004, eq. 13), K1 = 0.01, K2 = 0.03, Gaussian window of sigma
         1.5 and radius 5, or less where the image is smaller, at positions where the window fits; mean over channels.
         1 is equal, 0 is nothing in common
=======  ==============================================================================================================

An attacker without a gradient can guess, too: the mean image of other patients. What a gradient gives away is what a
reconstruction has above that guess.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter
from torch import Tensor

CEILING_DB = 100.0
_SIGMA, _RADIUS = 1.5, 5
_K1, _K2 = 0.01, 0.03

Reals = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Likeness:
    """PSNR in dB, and SSIM."""

    psnr_db: float
    ssim: float


def likeness(picture: Tensor, truth: Tensor, value_range: float) -> Likeness:
    """How alike two images of shape (1, C, *spatial) are; ``value_range`` is the largest grey value less the least."""
    one, two = (image[0].double().cpu().numpy() for image in (picture, truth))
    error = math.sqrt(float(((one - two) ** 2).mean()))
    psnr = min(CEILING_DB, 20 * math.log10(value_range / error)) if error else CEILING_DB
    channels = [_ssim(first, second, value_range) for first, second in zip(one, two, strict=True)]
    return Likeness(psnr, float(np.mean(channels)))


def _ssim(one: Reals, two: Reals, value_range: float) -> float:
    radius = min(_RADIUS, (min(one.shape) - 1) // 2)
    first, second = _local_mean(one, radius), _local_mean(two, radius)
    spread = _local_mean(one * one, radius) - first**2 + _local_mean(two * two, radius) - second**2
    shared = _local_mean(one * two, radius) - first * second
    c1, c2 = (_K1 * value_range) ** 2, (_K2 * value_range) ** 2
    similar = (2 * first * second + c1) * (2 * shared + c2) / ((first**2 + second**2 + c1) * (spread + c2))
    return float(similar.mean())


def _local_mean(image: Reals, radius: int) -> Reals:
    """Gaussian mean around each position where the window fits."""
    inner = tuple(slice(radius, edge - radius) for edge in image.shape)
    blurred: Reals = gaussian_filter(image, _SIGMA, radius=radius)[inner]
    return blurred
