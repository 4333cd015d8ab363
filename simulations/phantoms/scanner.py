"""What a site's scanner makes of a person: the grid it samples, what it does to the signal, and how it stores numbers.

Promises
- ``acquire`` adds, in this order: gain (tube voltage), cupping (beam hardening), blur (reconstruction kernel) and noise
  with the kernel's grain. With its settings at 1, 0, 0 and 0 it changes nothing.
- ``noise_hu`` is the standard deviation of the noise that is added, whatever its grain.
- ``quantise`` rounds to the nearest value that the encoding can store, and clips to its range. Under MONOCHROME2,
  ``stored * slope + intercept`` is in Hounsfield units again. Under MONOCHROME1 that holds for ``lowest + highest -
  stored``: the numbers are stored inverted, so that a display which inverts them (DICOM PS3.3 C.7.6.3.1.2) shows bone
  white. Such files do not claim to hold Hounsfield units (``files``).

Which scanner stands where is left to ``hospitals``; bytes, to ``files``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from simulations.phantoms.body import Phase
from simulations.phantoms.solids import Field, Points, Vector

Photometric = Literal["MONOCHROME1", "MONOCHROME2"]
Syntax = Literal["explicit-le", "rle", "jpeg-ls", "jpeg-2000"]
Stored = NDArray[np.int16] | NDArray[np.uint16]


@dataclass(frozen=True, slots=True)
class Scanner:
    """Protocol and physics of a scanner.

    Attributes:
        phase: contrast phase in which livers are scanned here.
        shape: rows and columns of an image.
        spacing_mm: distance of pixel centres, in both directions.
        slice_mm: distance of slice centres in a volume.
        slices: number of slices of a volume.
        blur_mm: standard deviation of the Gaussian point spread function, in plane.
        noise_hu: standard deviation of the noise.
        grain_mm: standard deviation of the Gaussian that correlates the noise, in plane; 0 is white noise.
        gain: factor on Hounsfield units.
        cupping_hu: how much too low the centre of the image is; the corners are too high by as much.
    """

    phase: Phase = "portal"
    shape: tuple[int, int] = (128, 128)
    spacing_mm: float = 3.0
    slice_mm: float = 5.0
    slices: int = 24
    blur_mm: float = 0.0
    noise_hu: float = 0.0
    grain_mm: float = 0.0
    gain: float = 1.0
    cupping_hu: float = 0.0


@dataclass(frozen=True, slots=True)
class Encoding:
    """How numbers are stored: bits, sign, slope, and what a display is told about them."""

    bits: int = 12
    signed: bool = False
    slope: float = 1.0
    photometric: Photometric = "MONOCHROME2"
    syntax: Syntax = "explicit-le"

    @property
    def intercept(self) -> float:
        """Hounsfield units of the stored value 0."""
        return 0.0 if self.signed else -1024.0

    @property
    def limits(self) -> tuple[int, int]:
        """Smallest and largest value that can be stored."""
        return (-(2 ** (self.bits - 1)), 2 ** (self.bits - 1) - 1) if self.signed else (0, 2**self.bits - 1)


@dataclass(frozen=True, slots=True)
class Grid:
    """Where voxels are: centre of the first one in LPS mm (x, y, z), spacing (z, y, x) in mm, shape (D, H, W)."""

    origin_mm: Vector
    spacing_mm: Vector
    shape: tuple[int, int, int]

    def points(self) -> Points:
        """Coordinates of all voxel centres; slices run towards Superior, rows Posterior, columns Left."""
        z, y, x = map(_axis, self.origin_mm[::-1], self.spacing_mm, self.shape)
        return Points(x[None, None, :], y[None, :, None], z[:, None, None])


def _axis(start: float, step: float, count: int) -> Field:
    return np.asarray(start + step * np.arange(count), np.float64)


def grid(scanner: Scanner, centre_mm: Vector, slices: int) -> Grid:
    """The scanner's grid of ``slices`` slices with its middle at ``centre_mm``."""
    shape = (slices, *scanner.shape)
    spacing = (scanner.slice_mm, scanner.spacing_mm, scanner.spacing_mm)
    x, y, z = (
        # Six decimals: what a decimal string of DICOM holds whatever the sign (16 characters, PS3.5 6.2).
        round(middle - step * (count - 1) / 2, 6)
        for middle, step, count in zip(centre_mm, spacing[::-1], shape[::-1], strict=True)
    )
    return Grid((x, y, z), spacing, shape)


def acquire(hu: Field, scanner: Scanner, random: np.random.Generator) -> Field:
    """What the scanner measures of the true ``hu``, shape (D, H, W), float64."""
    measured = hu * scanner.gain + scanner.cupping_hu * _cup(scanner.shape)
    blur = scanner.blur_mm / scanner.spacing_mm
    measured = ndimage.gaussian_filter(measured, (0, blur, blur), mode="nearest")
    grain: Field = _grain(hu.shape, scanner.grain_mm / scanner.spacing_mm, random)
    noisy: Field = measured + scanner.noise_hu * grain
    return noisy


def _cup(shape: tuple[int, int]) -> Field:
    """A paraboloid, -1 at the image's centre, 0 at the middle of its edges, +1 in its corners."""
    rows, columns = (np.linspace(-1, 1, count) for count in shape)
    return np.asarray(rows[:, None] ** 2 + columns[None, :] ** 2 - 1, np.float64)


def _grain(shape: tuple[int, ...], sigma_px: float, random: np.random.Generator) -> Field:
    """Noise of standard deviation 1 that is correlated in plane."""
    white = random.normal(size=shape)
    if sigma_px == 0:
        return white
    impulse = np.zeros(shape[1:])
    impulse[shape[1] // 2, shape[2] // 2] = 1
    # White noise through a filter has the filter's root of summed squares as standard deviation.
    kernel = ndimage.gaussian_filter(impulse, sigma_px, mode="wrap")
    coloured = ndimage.gaussian_filter(white, (0, sigma_px, sigma_px), mode="wrap")
    return np.asarray(coloured / np.sqrt((kernel**2).sum()))


def quantise(hu: Field, encoding: Encoding) -> Stored:
    """Hounsfield units as the encoding stores them, in 16 bits."""
    lowest, highest = encoding.limits
    stored = np.clip(np.rint((hu - encoding.intercept) / encoding.slope), lowest, highest)
    if encoding.photometric == "MONOCHROME1":
        stored = lowest + highest - stored
    return stored.astype(np.int16) if encoding.signed else stored.astype(np.uint16)
