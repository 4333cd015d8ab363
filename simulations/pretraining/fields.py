"""Random textures on a pixel grid.

Promises
- ``smooth`` has mean 0 and variance 1 at every pixel, over draws; its correlation falls to exp(-1/4) over the length
  given for an axis (Gaussian kernels on a grid of knots; the variance is exact, the correlation as good as the knots
  are dense).
- ``ridges`` is 1 on the lines where a smooth field changes sign, and falls to 0 within a share of its length.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Field = NDArray[np.float64]


def smooth(rng: np.random.Generator, shape: tuple[int, int], lengths: tuple[float, float]) -> Field:
    """Gaussian field of ``shape`` with a correlation length, in pixels, along each axis."""
    down, across = (_kernels(count, length) for count, length in zip(shape, lengths, strict=True))
    knots = rng.standard_normal((down.shape[1], across.shape[1]))
    return np.asarray(down @ knots @ across.T)


def ridges(rng: np.random.Generator, shape: tuple[int, int], lengths: tuple[float, float], width: float) -> Field:
    """Winding lines of height 1, spaced by ``lengths`` and about ``width`` of them thick."""
    return np.asarray(np.exp(-((smooth(rng, shape, lengths) / width) ** 2)))


def curve(rng: np.random.Generator, count: int, length: float) -> Field:
    """A smooth line of ``count`` points: mean 0, variance 1."""
    return np.asarray(smooth(rng, (count, 1), (length, 1.0))[:, 0])


def _kernels(count: int, length: float) -> Field:
    """Weights (count, knots) of knots one length apart, of unit norm for each pixel."""
    knots = np.arange(-2.0, count / length + 2.0) * length
    weights = np.exp(-(((np.arange(count)[:, None] - knots) / length) ** 2))
    return np.asarray(weights / np.linalg.norm(weights, axis=1, keepdims=True))
