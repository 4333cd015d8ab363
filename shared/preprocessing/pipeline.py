"""The plan's deterministic preprocessing: one canonical image in, one network input out.

Promises
- ``prepare`` is a function of image, mask and plan alone: no randomness, no fitted constant, the same bits every time
  on one machine. Voxels are finite float32 of shape (C, *plan.preprocessing.size), a mask is uint8 of (*size).
- The order is colour, crop, resample, fit, intensity, padding. Resampling to the plan's spacing and scaling to its size
  are one interpolation, not two.
- Intensity statistics see the real area that remains, never padding; what padding gets is in ``intensity.background``.
  A mask is padded with the first class.
- ``spacing_mm`` is that of the result: physical extent divided by voxels, also where letterbox or stretch scaled it.

What cannot be prepared is a ``CaseError``: "dimensions", "spacing-unknown", "mask-shape", "mask-needed", "mask-empty",
"image-too-large".
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from shared.errors import CaseError
from shared.plan import Plan
from shared.plan_preprocessing import ForegroundCrop, LesionCrop
from shared.preprocessing.image import FloatArray, Image, MaskArray
from shared.preprocessing.intensity import background, normalise
from shared.preprocessing.masks import require_same_shape
from shared.preprocessing.quarantine import refuse_oversized
from shared.preprocessing.spatial import (
    Box,
    centred,
    content_shape,
    foreground_box,
    lesion_box,
    resample,
    resample_mask,
)

# Red, green, blue: ITU-R BT.601.
_LUMA = np.array([0.299, 0.587, 0.114])
_GREEN = 1


@dataclass(frozen=True, slots=True, eq=False)
class Prepared:
    """A network's input.

    Attributes:
        voxels: shape (C, *size), float32.
        mask: shape (*size), uint8 class indices, or None.
        spacing_mm: one entry per spatial axis.
    """

    voxels: FloatArray
    mask: MaskArray | None
    spacing_mm: tuple[float, ...]


def prepare(image: Image, mask: MaskArray | None, plan: Plan) -> Prepared:
    """Apply ``plan.preprocessing`` to an image and, at the same places, to its mask.

    Raises:
        CaseError: see the module.
    """
    _require_usable(image, mask, plan)
    settings = plan.preprocessing
    voxels = coloured(image.voxels, settings.colour)
    box = _crop_box(voxels, mask, image.spacing_mm, plan)
    voxels = voxels[(slice(None), *box)]
    content = content_shape(voxels.shape[1:], image.spacing_mm, settings)
    refuse_oversized((len(voxels), *content))
    pairs = zip(voxels.shape[1:], image.spacing_mm, content, strict=True)
    spacing_mm = tuple(mm * old / new for old, mm, new in pairs)
    keep, pads = centred(content, settings.size)
    normalised = normalise(resample(voxels, content)[(slice(None), *keep)], settings.intensity)
    fill = background(normalised, settings.intensity)
    padded = [np.pad(channel, pads, constant_values=value) for channel, value in zip(normalised, fill, strict=True)]
    if mask is not None:
        mask = np.pad(resample_mask(mask[box], content)[keep], pads)
    return Prepared(np.stack(padded), mask, spacing_mm)


def coloured(voxels: FloatArray, colour: Literal["grey", "green", "rgb"]) -> FloatArray:
    """(1 or 3, *spatial) -> the plan's channels; a grey image is its own green and its own three colours."""
    if colour == "rgb":
        return np.broadcast_to(voxels, (3, *voxels.shape[1:]))
    if len(voxels) == 1:
        return voxels
    if colour == "green":
        return voxels[_GREEN : _GREEN + 1]
    luma = sum(weight * channel for weight, channel in zip(_LUMA, voxels, strict=True))
    return np.asarray(luma, np.float32)[None]


def _require_usable(image: Image, mask: MaskArray | None, plan: Plan) -> None:
    if len(image.shape) != plan.dimensions:
        raise CaseError(
            f"the plan reads {plan.dimensions}-D images, this one is {len(image.shape)}-D",
            hint="give slices or volumes as preprocessing.size says",
            code="dimensions",
        )
    if plan.preprocessing.spacing_mm != "native" and not image.spacing_known:
        raise CaseError(
            "the plan resamples to a spacing in mm, but the file does not say its own",
            hint='use spacing_mm = "native" for photographs and uncalibrated images',
            code="spacing-unknown",
        )
    if mask is not None:
        require_same_shape(mask.shape, image.shape)


def _crop_box(voxels: FloatArray, mask: MaskArray | None, spacing_mm: tuple[float, ...], plan: Plan) -> Box:
    crop = plan.preprocessing.crop
    if isinstance(crop, ForegroundCrop):
        return foreground_box(voxels, crop.threshold)
    if not isinstance(crop, LesionCrop):
        return (slice(None),) * plan.dimensions
    if mask is None:
        raise CaseError(
            "the plan crops to the lesion, but the case has no mask",
            hint="give masks, or use another crop",
            code="mask-needed",
        )
    return lesion_box(mask, crop.margin, spacing_mm)
