"""Cropping, resampling and fitting on a grid: where each voxel of a network's input comes from.

Promises
- Functions of arrays and numbers, for any number of spatial axes; ``voxels`` is (C, *spatial), a mask is (*spatial).
- Resampling keeps the physical extent: voxel edges map to voxel edges, so the centre stays and spacing follows as
  extent / number of voxels. Images are interpolated linearly, with the triangle filter widened by the factor where they
  shrink (no aliasing); masks take the nearest voxel, computed in integers. A shape that stays is copied bit for bit.
- Image and mask go through the same box, the same extent and the same centre.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from shared.errors import CaseError
from shared.plan_preprocessing import Preprocessing
from shared.preprocessing.image import FloatArray, MaskArray

Box = tuple[slice, ...]
Shape = tuple[int, ...]


def bounding_box(inside: NDArray[np.bool_]) -> Box:
    """The smallest box around all true voxels; everything where there is none."""
    axes = range(inside.ndim)
    hits = [np.flatnonzero(inside.any(axis=tuple(other for other in axes if other != axis))) for axis in axes]
    return tuple(slice(int(hit[0]), int(hit[-1]) + 1) if hit.size else slice(None) for hit in hits)


def foreground_box(voxels: FloatArray, threshold: float) -> Box:
    """Around everything that is brighter, in any channel, than ``threshold`` of the way from minimum to maximum."""
    lowest, highest = float(voxels.min()), float(voxels.max())
    bright = voxels > lowest + threshold * (highest - lowest)
    return bounding_box(np.logical_or.reduce(bright, axis=0))


def lesion_box(mask: MaskArray, margin: float, spacing_mm: Sequence[float]) -> Box:
    """Around all classes but the first, grown on every side by ``margin`` of the longest side in mm, within the image.

    Raises:
        CaseError: "mask-empty".
    """
    if not mask.any():
        raise CaseError("the mask is empty, so there is no lesion to crop to", code="mask-empty")
    box = bounding_box(mask > 0)
    margin_mm = margin * max((side.stop - side.start) * mm for side, mm in zip(box, spacing_mm, strict=True))
    grown = []
    for side, mm, length in zip(box, spacing_mm, mask.shape, strict=True):
        voxels = round(margin_mm / mm)
        grown.append(slice(max(side.start - voxels, 0), min(side.stop + voxels, length)))
    return tuple(grown)


def content_shape(shape: Sequence[int], spacing_mm: Sequence[float], settings: Preprocessing) -> Shape:
    """Voxels that an image of ``shape`` is resampled to: first the plan's spacing, then its fit, in one step."""
    wanted = spacing_mm if settings.spacing_mm == "native" else settings.spacing_mm
    spaced = [length * have / want for length, have, want in zip(shape, spacing_mm, wanted, strict=True)]
    if settings.fit == "stretch":
        return settings.size
    if settings.fit == "letterbox":
        factor = min(size / length for size, length in zip(settings.size, spaced, strict=True))
        limits: Sequence[float] = settings.size
    else:
        factor, limits = 1.0, [math.inf] * len(spaced)
    return tuple(int(min(max(round(length * factor), 1), limit)) for length, limit in zip(spaced, limits, strict=True))


def resample(voxels: FloatArray, shape: Shape) -> FloatArray:
    """Linear, antialiased resampling of (C, *spatial) to (C, *shape)."""
    if voxels.shape[1:] == shape:
        return voxels
    *outer, height, width = shape
    planes = torch.from_numpy(np.require(voxels, requirements=["C", "W"])).reshape(1, -1, *voxels.shape[-2:])
    resized = _interpolate(planes, (height, width))
    if outer:
        # torch antialiases two axes at a time: depth goes with a width that stays as it is.
        columns = resized.reshape(1, len(voxels), voxels.shape[1], height * width)
        resized = _interpolate(columns, (outer[0], height * width))
    return np.asarray(resized.reshape(len(voxels), *shape).numpy(), np.float32)


def _interpolate(planes: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    if planes.shape[-2:] == size:
        return planes
    return torch.nn.functional.interpolate(planes, size=size, mode="bilinear", antialias=True, align_corners=False)


def resample_mask(mask: MaskArray, shape: Shape) -> MaskArray:
    """The nearest voxel's class, at the same places as ``resample``."""
    # In integers, so that halves fall on the same side everywhere: floor((i + 1/2) * old / new).
    nearest = [(2 * np.arange(new) + 1) * old // (2 * new) for old, new in zip(mask.shape, shape, strict=True)]
    return np.ascontiguousarray(mask[np.ix_(*nearest)])


def centred(shape: Sequence[int], size: Sequence[int]) -> tuple[Box, list[tuple[int, int]]]:
    """How ``shape`` becomes ``size`` about its centre: the box to keep, then (before, after) to pad on each axis."""
    box, pads = [], []
    for have, want in zip(shape, size, strict=True):
        cut, missing = max(have - want, 0), max(want - have, 0)
        box.append(slice(cut // 2, cut // 2 + have - cut))
        pads.append((missing // 2, missing - missing // 2))
    return tuple(box), pads
