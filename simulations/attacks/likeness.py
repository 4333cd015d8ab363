"""How much a picture that an attacker made looks like the patient's own.

=======  ==============================================================================================================
measure  definition
=======  ==============================================================================================================
PSNR     20 log10(range / root mean squared error), in dB; ``CEILING_DB`` for equal images
SSIM     structural similarity (Wang et al., IEEE TIP 2004) as MONAI computes it, Gaussian window of sigma 1.5; 1 is
         equal, 0 is nothing in common
=======  ==============================================================================================================

An attacker without a gradient can guess, too: the mean image of other patients. What a gradient gives away is what a
reconstruction has above that guess.
"""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass

from torch import Tensor

CEILING_DB = 100.0
_WINDOW = 11


@dataclass(frozen=True, slots=True)
class Likeness:
    """PSNR in dB, and SSIM."""

    psnr_db: float
    ssim: float


def likeness(picture: Tensor, truth: Tensor, value_range: float) -> Likeness:
    """How alike two images of shape (1, C, *spatial) are; ``value_range`` is the largest grey value less the least."""
    error = math.sqrt(float(((picture.double() - truth.double()) ** 2).mean()))
    psnr = min(CEILING_DB, 20 * math.log10(value_range / error)) if error else CEILING_DB
    return Likeness(psnr, _ssim(picture, truth, value_range))


def _ssim(picture: Tensor, truth: Tensor, value_range: float) -> float:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # MONAI's own imports
        from monai.metrics.regression import SSIMMetric  # noqa: PLC0415 - slow to import, and needed here alone
    window = min(_WINDOW, min(truth.shape[2:]) // 2 * 2 - 1)
    metric = SSIMMetric(truth.ndim - 2, data_range=value_range, win_size=window)
    found = metric(picture.float(), truth.float())
    assert isinstance(found, Tensor)  # noqa: S101 - one tensor in, one tensor out
    return float(found.mean())
