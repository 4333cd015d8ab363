"""From NIfTI to a canonical image or mask.

Promises
- Voxels carry the header's scaling. RAS becomes LPS, axes become canonical as in ``orientation``: a volume that came as
  DICOM and as NIfTI ends voxel for voxel the same.
- A file of one slice becomes a 2-D image as displayed, head up. A time series is refused ("image-shape").
- A mask must lie on its image's voxels: another shape is "mask-shape", another place in space "mask-grid".
- The only exception is ``CaseError`` ("unreadable-nifti" where the file is broken).

Units of space other than mm are converted. Where neither qform nor sform is set, nibabel's reading of pixdim counts.
"""

from __future__ import annotations

import math
from itertools import product
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
from numpy.typing import NDArray

from shared.errors import CaseError
from shared.preprocessing.image import Image, MaskArray, Modality
from shared.preprocessing.masks import class_indices, require_same_shape
from shared.preprocessing.orientation import Affine, Scalar, canonical_affine, spacing_of, to_canonical
from shared.preprocessing.quarantine import refuse_oversized, refusing

_RAS_TO_LPS = np.diag([-1.0, -1.0, 1.0, 1.0])
# Millimetres per unit of space, by the lowest three bits of xyzt_units: not said, m, mm, micrometres.
_MM = {0: 1.0, 1: 1e3, 2: 1.0, 3: 1e-3}
# A mask's voxels must lie within this share of the smallest spacing of the image's: NIfTI keeps float32.
_WITHIN = 0.1


def image_from_nifti(path: Path, modality: Modality = "other") -> Image:
    """Read a NIfTI file as an image.

    Raises:
        CaseError: "unreadable-nifti", "image-shape", "image-too-large", "bad-geometry", or those of ``Image``.
    """
    channels, affine = _load(path)
    moved = canonical_affine(affine, channels.shape[1:])
    voxels = to_canonical(np.asarray(channels, np.float32), affine)
    if 1 not in voxels.shape[1:]:
        return Image(voxels, spacing_of(moved), modality, affine_lps=moved)
    keep = _plane_axes(voxels.shape[1:])
    flat = np.stack([_head_up(channel) for channel in voxels])
    return Image(flat, tuple(spacing_of(moved)[axis] for axis in keep), modality)


def mask_from_nifti(path: Path, image: Image) -> MaskArray:
    """Read a NIfTI file as class indices on the voxels of ``image``.

    Raises:
        CaseError: "unreadable-nifti", "mask-shape", "mask-grid" or "mask-values".
    """
    channels, affine = _load(path)
    if len(channels) > 1:
        raise CaseError("a mask in colour has no class indices", code="mask-values")
    moved = canonical_affine(affine, channels.shape[1:])
    voxels = to_canonical(channels[0], affine)
    if 1 in voxels.shape:
        voxels = _head_up(voxels)
    require_same_shape(voxels.shape, image.shape)
    if image.affine_lps is not None:
        _require_same_grid(moved, image.affine_lps, image.shape)
    return class_indices(voxels)


def _load(path: Path) -> tuple[NDArray[np.generic], Affine]:
    """Scaled values, shape (channels, i, j, k), and (i, j, k) -> LPS mm."""
    hint = "check that the transfer was complete"
    with refusing("unreadable-nifti", "the file cannot be read as NIfTI", hint):
        file = nibabel.load(path)
        if not isinstance(file, nibabel.Nifti1Pair):
            raise CaseError("the file is not NIfTI", code="unreadable-nifti")
        refuse_oversized(file.shape)
        scale = _MM[int(file.header["xyzt_units"]) & 7]
        affine = np.diag([scale, scale, scale, 1.0]) @ _RAS_TO_LPS @ file.affine
        return _channels_first(np.asanyarray(file.dataobj)), affine


def _channels_first(values: NDArray[Any]) -> NDArray[np.generic]:
    colours = (values.dtype.names or ())[:3]
    values = np.stack([values[name] for name in colours]) if colours else values[None]
    if values.dtype.kind not in "biuf":
        raise CaseError("the voxels are not real numbers", hint="export magnitude images", code="image-shape")
    while values.ndim > 4 and values.shape[-1] == 1:
        values = values[..., 0]
    values = values.reshape(*values.shape, *(1,) * (4 - values.ndim))
    if values.ndim != 4:
        raise CaseError(
            f"expected one volume, got {math.prod(values.shape[4:])}",
            hint="give each time point or weighting as a file of its own",
            code="image-shape",
        )
    return values


def _plane_axes(shape: tuple[int, ...]) -> tuple[int, ...]:
    """The two of D, H, W that remain when the first axis of length one goes."""
    gone = shape.index(1)
    return tuple(axis for axis in range(3) if axis != gone)


def _head_up(volume: NDArray[Scalar]) -> NDArray[Scalar]:
    """One slice of a canonical volume (D, H, W) as displayed: rows run down, so Superior comes first."""
    gone = volume.shape.index(1)
    flat = volume.squeeze(gone)
    return np.ascontiguousarray(flat if gone == 0 else flat[::-1])


def _require_same_grid(mask: Affine, image: Affine, shape: tuple[int, ...]) -> None:
    # Both maps are affine, so they differ most at a corner.
    corners = np.array([*product(*((0, length - 1) for length in shape))], np.float64)
    homogeneous = np.column_stack([corners, np.ones(len(corners))])
    apart = float(np.linalg.norm((mask - image)[:3] @ homogeneous.T, axis=0).max())
    allowed = _WITHIN * min(spacing_of(image))
    if apart > allowed:
        raise CaseError(
            f"expected the mask's corners within {allowed:.3g} mm of the image's, got {apart:.3g} mm",
            hint="resample the mask to its image, or fix its header",
            code="mask-grid",
        )
