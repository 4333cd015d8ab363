"""From physical values to what a network reads: only public constants or the image's own statistics.

Promises
- ``normalise`` maps (C, *spatial) float32 to the same shape, finite, channel by channel, by the plan's kind:

  ================  =====================================================  ==========  ==============================
  kind              value                                                  range       constant channel
  ================  =====================================================  ==========  ==============================
  zscore-per-image  (v - mean) / standard deviation                        open        0
  window            2 (v - low) / (high - low) - 1, clipped                [-1, 1]     as the formula says
  percentile        as window, between the channel's own percentiles       [-1, 1]     0 (also if the two coincide)
  local-contrast    (v - local mean) / (local std + 2 % of global std)     open        0
  ================  =====================================================  ==========  ==============================

- Statistics are computed in float64 over the whole array given: callers give the real area, without padding.
- ``background`` is what padding gets: the channel's minimum, but 0 under local-contrast, where a flat area is 0.

Local mean and deviation are Gaussian with mirrored borders. The 2 % keep the noise of flat areas (the black around a
fundus disc) from being blown up to the size of structures.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

from shared.plan_preprocessing import Intensity, LocalContrast, Percentile, Window, ZScore
from shared.preprocessing.image import FloatArray

# Share of the global deviation that is added to the local one.
_FLAT = 0.02

Channel = NDArray[np.float64]


def normalise(voxels: FloatArray, intensity: Intensity) -> FloatArray:
    """Apply the plan's intensity to (C, *spatial); see the table of the module."""
    if isinstance(intensity, Window):
        return _to_unit_range(voxels, intensity.low, intensity.high)
    return np.stack([_normalised(channel.astype(np.float64), intensity) for channel in voxels])


def background(voxels: FloatArray, intensity: Intensity) -> list[float]:
    """Value of padding for each channel of normalised ``voxels``."""
    if isinstance(intensity, LocalContrast):
        return [0.0] * len(voxels)
    return [float(channel.min()) for channel in voxels]


def _normalised(channel: Channel, intensity: ZScore | Percentile | LocalContrast) -> FloatArray:
    # Asked of the extremes: the deviation of equal numbers may come out as rounding instead of 0.
    if channel.min() == channel.max():
        return np.zeros(channel.shape, np.float32)
    if isinstance(intensity, ZScore):
        return np.asarray((channel - channel.mean()) / channel.std(), np.float32)
    if isinstance(intensity, LocalContrast):
        return _local_contrast(channel, intensity.sigma_px)
    low, high = np.percentile(channel, (intensity.low, intensity.high))
    if low == high:
        return np.zeros(channel.shape, np.float32)
    return _to_unit_range(channel, float(low), float(high))


def _to_unit_range(values: Channel | FloatArray, low: float, high: float) -> FloatArray:
    """[low, high] -> [-1, 1], clipped."""
    scaled = (values.astype(np.float64) - low) * (2 / (high - low)) - 1
    return np.clip(scaled, -1, 1).astype(np.float32)


def _local_contrast(channel: Channel, sigma_px: float) -> FloatArray:
    centred = channel - channel.mean()
    mean = gaussian_filter(centred, sigma_px)
    # The variance is a difference of two large sums where the image is flat: rounding may leave it below zero.
    variance = np.maximum(gaussian_filter(centred**2, sigma_px) - mean**2, 0)
    return np.asarray((centred - mean) / (np.sqrt(variance) + _FLAT * centred.std()), np.float32)
