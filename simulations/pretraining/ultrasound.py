"""An ultrasound scanner: from how strongly each place echoes to a grey image with speckle.

Promises
- An image is the envelope of random scatterers seen through a point spread function, compressed logarithmically (Wagner
  et al., IEEE Trans. Sonics Ultrason. 1983): speckle is not noise laid over an image, it is the image.
- ``scanner`` draws a machine with its settings; two examples rarely come from the same. What the network should learn
  to overlook (gain, time gain compensation, resolution, grain, smoothing, burned-in marks) differs between machines and
  does not depend on any finding.

What echoes is left to ``lesions``.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.ndimage import gaussian_filter

from simulations.pretraining.fields import Field, curve

LONG_SIDE_PX = 192


@dataclass(frozen=True, slots=True)
class Scanner:
    """A machine and how it is set.

    Attributes:
        shape: rows and columns of an image.
        mm: edge of a pixel.
        spot_px: standard deviation of the point spread function, down and across.
        looks: images from several angles that are averaged (compounding), which softens speckle.
        range_db: echoes over this range become black to white.
        gain_db: level of an echo of 0 dB above the middle of the range.
        tgc_db: what is left of the loss with depth at the lowest row, negative for darker.
        tgc_ripple_db: deviation of the compensation from a straight line.
        smoothing_px: speckle reduction after compression.
        sharpening: share of high frequencies added after it.
        gamma: exponent of the grey map.
        noise: electronic noise at the lowest row, in grey values of 1.
    """

    shape: tuple[int, int]
    mm: float
    spot_px: tuple[float, float]
    looks: int
    range_db: float
    gain_db: float
    tgc_db: float
    tgc_ripple_db: float
    smoothing_px: float
    sharpening: float
    gamma: float
    noise: float


def scanner(rng: np.random.Generator) -> Scanner:
    """A machine as a hospital might have it."""
    ratio = rng.uniform(0.68, 1.35)
    shape = (LONG_SIDE_PX, round(LONG_SIDE_PX * ratio)) if ratio < 1 else (round(LONG_SIDE_PX / ratio), LONG_SIDE_PX)
    fine = rng.uniform(0.45, 1.1)
    return Scanner(
        shape=shape,
        mm=rng.uniform(26.0, 44.0) / shape[0],
        spot_px=(fine, fine * rng.uniform(1.0, 2.6)),
        looks=int(rng.integers(1, 5)),
        range_db=rng.uniform(42.0, 80.0),
        gain_db=rng.uniform(-11.0, 7.0),
        tgc_db=rng.uniform(-20.0, 3.0),
        tgc_ripple_db=rng.uniform(0.0, 3.0),
        smoothing_px=rng.choice([0.0, rng.uniform(0.3, 0.9)]),
        sharpening=rng.choice([0.0, rng.uniform(0.2, 1.0)]),
        gamma=rng.uniform(0.75, 1.4),
        noise=rng.uniform(0.0, 0.05),
    )


def image(echo_db: Field, machine: Scanner, rng: np.random.Generator) -> Field:
    """Grey values, 0 black to 1 white, of a plane that echoes by ``echo_db`` (H, W) relative to fat."""
    rows, columns = machine.shape
    depth = np.linspace(0.0, 1.0, rows)[:, None]
    ripple = curve(rng, rows, rows / 5)[:, None] * machine.tgc_ripple_db
    strength = 10 ** ((echo_db + machine.tgc_db * depth + ripple) / 20)
    scatterers = rng.standard_normal((2 * machine.looks, rows, columns), dtype=np.float32) * strength.astype(np.float32)
    spot = gaussian_filter(scatterers, (0, *machine.spot_px), truncate=3.0)
    # The filter lowers the level of white noise; this is by how much.
    level = 1 / np.sqrt(4 * np.pi * machine.spot_px[0] * machine.spot_px[1])
    envelope_db = 10 * np.log10((spot**2).mean(axis=0) / level**2 + 1e-4)
    grey = (envelope_db + machine.gain_db) / machine.range_db + 0.5
    grey += rng.standard_normal(machine.shape) * machine.noise * depth
    grey = gaussian_filter(np.clip(grey, 0, 1), machine.smoothing_px)
    grey += machine.sharpening * (grey - gaussian_filter(grey, 1.0))
    return np.asarray(np.clip(grey, 0, 1) ** machine.gamma)
