"""Random changes of a training image, drawn from a generator that the caller owns.

Promises
- The same generator state gives the same bytes; the arrays given are never written to (they may be memory-mapped).
- Geometric changes move image and mask together, intensity changes leave the mask alone. A target that has not the
  image's spatial shape is a label and stays as it is.
- Shapes stay: quarter turns are half turns where rows and columns differ in number.

Order: flips (every spatial axis, each with probability 1/2), a quarter turn in the last two axes, one affine resampling
there for small rotation and scale (linear for the image, nearest for the mask, borders repeated), then brightness and
contrast, gamma, noise. Ranges are uniform; brightness and noise are in units of the image's standard deviation.

Plain numpy instead of MONAI's transforms: this runs for each image of each step on one core, and 96 x 96 pixels with
flips, turns, brightness and contrast take about 0.05 ms, less than wrapping one image for a transform object.
"""

from __future__ import annotations

import math
from typing import TypeVar

import numpy as np
import torch
from numpy.random import Generator
from numpy.typing import NDArray

from shared.plan import Augmentation
from shared.preprocessing.image import FloatArray

Target = TypeVar("Target", bound="NDArray[np.generic] | None")
Scalar = TypeVar("Scalar", bound=np.generic)

# Voxels looked at before a mask is searched as a whole: with 4 % foreground, 99 % of patches need no search.
_TRIES = 128


def augment(
    voxels: FloatArray, target: NDArray[np.generic] | None, settings: Augmentation, rng: Generator
) -> tuple[FloatArray, NDArray[np.generic] | None]:
    """Change an image (C, *spatial) and its target at random, as ``settings`` allow.

    Returns:
        voxels and target in their shapes and types, C-contiguous.
    """
    mask = target if target is not None and target.shape == voxels.shape[1:] else None
    voxels, mask = _turn(voxels, mask, settings, rng)
    if settings.rotate_degrees or settings.scale:
        voxels, mask = _rotate_and_scale(voxels, mask, settings, rng)
    voxels = np.ascontiguousarray(_change_intensity(voxels, settings, rng))
    return voxels, target if mask is None else np.ascontiguousarray(mask)


def random_patch(
    voxels: FloatArray,
    target: NDArray[Scalar],
    patch: tuple[int, ...],
    foreground_fraction: float,
    rng: Generator,
) -> tuple[FloatArray, NDArray[Scalar]]:
    """Cut the same box of edge lengths ``patch`` from an image (C, *spatial) and its mask (*spatial): views, no copies.

    With probability ``foreground_fraction`` the box is centred, as far as the border allows, on a voxel drawn uniformly
    from all classes but the first (where there is one); otherwise its place is uniform. ``patch`` fits into the image.
    """
    shape = voxels.shape[1:]
    wants_foreground = rng.random() < foreground_fraction
    centre = _foreground_voxel(target, rng) if wants_foreground else None
    if centre is None:
        starts = [int(rng.integers(length - edge + 1)) for length, edge in zip(shape, patch, strict=True)]
    else:
        places = zip(centre, patch, shape, strict=True)
        starts = [min(max(middle - edge // 2, 0), length - edge) for middle, edge, length in places]
    box = tuple(slice(start, start + edge) for start, edge in zip(starts, patch, strict=True))
    return voxels[(slice(None), *box)], target[box]


def _foreground_voxel(target: NDArray[np.generic], rng: Generator) -> tuple[int, ...] | None:
    """A uniformly drawn voxel of any class but the first: by rejection, which touches few pages of a mapped file."""
    flat = target.reshape(-1)
    tries = rng.integers(flat.size, size=_TRIES)
    hits = tries[flat[tries] != 0]
    if not hits.size:
        everywhere = np.flatnonzero(flat)
        if not everywhere.size:
            return None
        hits = everywhere[rng.integers(everywhere.size, size=1)]
    return tuple(int(index) for index in np.unravel_index(hits[0], target.shape))


def _turn(
    voxels: FloatArray, mask: NDArray[Scalar] | None, settings: Augmentation, rng: Generator
) -> tuple[FloatArray, NDArray[Scalar] | None]:
    """Flips and quarter turns, as views."""
    if settings.flip:
        signs = tuple(slice(None, None, -1 if flipped else None) for flipped in rng.random(voxels.ndim - 1) < 0.5)
        voxels, mask = voxels[(slice(None), *signs)], None if mask is None else mask[signs]
    if settings.rotate90:
        square = voxels.shape[-1] == voxels.shape[-2]
        turns = int(rng.integers(4)) if square else 2 * int(rng.integers(2))
        voxels = np.rot90(voxels, turns, axes=(-2, -1))
        mask = None if mask is None else np.rot90(mask, turns, axes=(-2, -1))
    return voxels, mask


def _rotate_and_scale(
    voxels: FloatArray, mask: NDArray[Scalar] | None, settings: Augmentation, rng: Generator
) -> tuple[FloatArray, NDArray[Scalar] | None]:
    """Turn by up to ``rotate_degrees`` and magnify by up to 1 +- ``scale`` about the centre of the last two axes."""
    angle = math.radians(rng.uniform(-settings.rotate_degrees, settings.rotate_degrees))
    magnification = rng.uniform(1 - settings.scale, 1 + settings.scale)
    height, width = voxels.shape[-2:]
    cosine, sine = math.cos(angle) / magnification, math.sin(angle) / magnification
    # torch's coordinates run from -1 to 1 on both axes, so a rotation in pixels carries their ratio.
    matrix = torch.tensor([[[cosine, -sine * height / width, 0.0], [sine * width / height, cosine, 0.0]]])
    grid = torch.nn.functional.affine_grid(matrix, [1, 1, height, width], align_corners=False)
    moved = _sample(voxels, grid, "bilinear")
    return moved, None if mask is None else _sample(mask, grid, "nearest").astype(mask.dtype)


def _sample(planes: NDArray[np.generic], grid: torch.Tensor, mode: str) -> FloatArray:
    flat = torch.from_numpy(np.require(planes, np.float32, ["C", "W"])).reshape(1, -1, *planes.shape[-2:])
    sampled = torch.nn.functional.grid_sample(flat, grid, mode=mode, padding_mode="border", align_corners=False)
    return np.asarray(sampled.reshape(planes.shape).numpy(), np.float32)


def _change_intensity(voxels: FloatArray, settings: Augmentation, rng: Generator) -> FloatArray:
    if not (settings.brightness or settings.contrast or settings.gamma or settings.noise):
        return voxels
    deviation = float(voxels.std())
    if settings.brightness or settings.contrast:
        factor = rng.uniform(1 - settings.contrast, 1 + settings.contrast)
        shift = rng.uniform(-settings.brightness, settings.brightness) * deviation
        offset = float(voxels.mean()) * (1 - factor) + shift
        voxels = voxels * np.float32(factor) + np.float32(offset)
    if settings.gamma:
        voxels = _gamma(voxels, rng.uniform(1 - settings.gamma, 1 + settings.gamma))
    if settings.noise:
        noise = rng.standard_normal(voxels.shape, dtype=np.float32)
        voxels = voxels + noise * np.float32(settings.noise * deviation)
    return voxels


def _gamma(voxels: FloatArray, exponent: float) -> FloatArray:
    """Raise the image to a power between its own minimum and maximum, which stay."""
    lowest, span = voxels.min(), np.ptp(voxels)
    if span == 0:
        return voxels
    return np.asarray(((voxels - lowest) / span) ** np.float32(exponent) * span + lowest, np.float32)
