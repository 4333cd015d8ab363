"""Sums over patients that may leave a site: each patient bounded, then noise, then integers.

Promises
- ``bounded``: whatever numbers a patient's vector holds, what is added to the sum has an L2 norm of at most the
  sensitivity, exactly, as integers. Adding or removing a patient moves the sum by no more than that.
- ``noised``: Gaussian noise with standard deviation ``noise_multiplier * sensitivity`` on every value, so one release
  is one ``Event(noise_multiplier, 1.0, 1)``. A site without patients sends noise like every other.

====================================  ================================================================================
a patient's vector                    what is added
====================================  ================================================================================
finite, norm at most the sensitivity  its values, rounded towards zero to multiples of ``UNIT``: no magnitude grows
finite, larger                        the same direction with the norm of the sensitivity, then rounded towards zero
NaN or infinite anywhere              nothing: the zero vector
====================================  ================================================================================

Why rounding does not weaken it. The noise is rounded by itself and added to integers: v + rint(n). For an integer v
this is rint(v + n), a function of the Gaussian mechanism's output (post-processing; Dwork & Roth 2014, prop. 2.1).
The grid of the output does not depend on the data, so low bits of floating-point sums (Mironov, CCS 2012) tell nothing.

Where noise comes from is ``shared.privacy.noise``'s, how much is ``shared.privacy.terms``'s.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from shared.evaluation.additive import UNIT, IntArray
from shared.privacy.noise import Noise

FloatArray = NDArray[np.float64]

_SLACK = 2.0**-40
"""Share of the sensitivity left free, so that errors of floating point (about 2**-50) cannot exceed it."""


def bounded(vector: FloatArray, sensitivity: float) -> IntArray:
    """A patient's contribution in units of ``UNIT``, with an L2 norm of at most ``sensitivity``."""
    if not np.isfinite(vector).all():
        return np.zeros(vector.shape, np.int64)
    largest = float(np.abs(vector).max(initial=0.0))
    # Divided first: squares of large numbers overflow.
    norm = largest * float(np.linalg.norm(vector / largest)) if largest else 0.0
    most = sensitivity * (1 - _SLACK)
    if norm > most:
        vector = vector / largest * (most / (norm / largest))
    return np.trunc(vector / UNIT).astype(np.int64)


def noised(counts: IntArray, sensitivity: float, noise_multiplier: float, noise: Noise) -> IntArray:
    """``counts`` with Gaussian noise on every value, as integers; once released, it is spent."""
    std = noise_multiplier * sensitivity / UNIT
    return counts + np.rint(std * noise.normal(counts.size)).astype(np.int64).reshape(counts.shape)


def summed_std(sensitivity: float, noise_multiplier: float, sites: int) -> float:
    """Standard deviation of the noise in a sum of ``sites`` releases, value by value."""
    return math.sqrt(sites) * noise_multiplier * sensitivity
