"""From NIfTI to a canonical image or mask.

Promises
- Voxels carry the header's scaling. RAS becomes LPS, axes become canonical as in ``orientation``: a volume that came as
  DICOM and as NIfTI ends voxel for voxel the same.
- A file of one slice becomes a 2-D image as displayed, head up. A time series is refused ("image-shape").
- A mask must lie on its image's voxels: another shape is "mask-shape", another place in space "mask-grid".
- NIfTI-1 and NIfTI-2 in one file, gzipped or not, whatever the name; a pair of .hdr and .img is refused.
- The only exception is ``CaseError`` ("unreadable-nifti" where the file is broken).

Units of space other than mm are converted. Where neither qform nor sform is set, nibabel's reading of pixdim counts.
"""

from __future__ import annotations

import gzip
import io
import math
from itertools import product
from typing import Any

import nibabel
import numpy as np
from numpy.typing import NDArray

from shared.errors import CaseError
from shared.preprocessing.image import Image, MaskArray, Modality
from shared.preprocessing.masks import class_indices, require_same_shape
from shared.preprocessing.orientation import Affine, Placed, Scalar, canonical_affine, spacing_of, to_canonical
from shared.preprocessing.quarantine import refuse_oversized, refusing
from shared.preprocessing.readable import Readable, contents

_RAS_TO_LPS = np.diag([-1.0, -1.0, 1.0, 1.0])
# Millimetres per unit of space, by the lowest three bits of xyzt_units: not said, m, mm, micrometres.
_MM = {0: 1.0, 1: 1e3, 2: 1.0, 3: 1e-3}
_GZIP = b"\x1f\x8b"
# Deflate packs 258 bytes into two bits at best (RFC 1951 3.2.5).
_MOST_PACKED = 1032
# sizeof_hdr of NIfTI-2, and the magics of a header with its voxels in one file.
_NIFTI_2 = {(540).to_bytes(4, order) for order in ("little", "big")}
_MAGICS = {b"n+1", b"n+2"}
# A mask's voxels must lie within this share of the smallest spacing of the image's: NIfTI keeps float32.
_WITHIN = 0.1


def image_from_nifti(file: Readable, modality: Modality = "other") -> Image:
    """Read a NIfTI file as an image.

    Raises:
        CaseError: "unreadable-nifti", "image-shape", "image-too-large", "bad-geometry", or those of ``Image``.
    """
    channels, affine = _load(contents(file))
    moved = canonical_affine(affine, channels.shape[1:])
    with np.errstate(over="ignore"):  # what float32 cannot hold becomes infinite, which ``Image`` refuses
        voxels = to_canonical(np.asarray(channels, np.float32), affine)
    if 1 not in voxels.shape[1:]:
        return Image(voxels, spacing_of(moved), modality, affine_lps=moved)
    keep = _plane_axes(voxels.shape[1:])
    flat = np.stack([_head_up(channel) for channel in voxels])
    return Image(flat, tuple(spacing_of(moved)[axis] for axis in keep), modality)


def mask_from_nifti(file: Readable, image: Placed) -> MaskArray:
    """Read a NIfTI file as class indices on the voxels of ``image``, or of the grid that it lies on.

    Raises:
        CaseError: "unreadable-nifti", "mask-shape", "mask-grid" or "mask-values".
    """
    channels, affine = _load(contents(file, "mask"))
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


def _load(content: bytes) -> tuple[NDArray[np.generic], Affine]:
    """Scaled values, shape (channels, i, j, k), and (i, j, k) -> LPS mm."""
    hint = "check that the transfer was complete"
    with refusing("unreadable-nifti", "the file cannot be read as NIfTI", hint):
        packed = content.startswith(_GZIP)
        file = _opened(gzip.GzipFile(fileobj=io.BytesIO(content)) if packed else io.BytesIO(content))
        refuse_oversized(file.shape)
        _require_whole(file, len(content) * (_MOST_PACKED if packed else 1))
        scale = _MM[int(file.header["xyzt_units"]) & 7]
        affine = np.diag([scale, scale, scale, 1.0]) @ _RAS_TO_LPS @ file.affine
        return _channels_first(np.asanyarray(file.dataobj)), affine


def _opened(stream: io.BufferedIOBase) -> nibabel.Nifti1Image:
    size = stream.read(4)
    stream.seek(0)
    kind = nibabel.Nifti2Image if size in _NIFTI_2 else nibabel.Nifti1Image
    file = kind.from_stream(stream)
    if file.header["magic"].item() not in _MAGICS:
        raise CaseError("the file is not NIfTI", hint="give .nii or .nii.gz", code="unreadable-nifti")
    return file


def _require_whole(file: nibabel.Nifti1Image, most: int) -> None:
    """Refuse a header that promises more bytes than ``most``, before memory is asked for."""
    header: Any = file.header
    promised = math.prod(file.shape) * header.get_data_dtype().itemsize
    if promised > most:
        raise CaseError(
            f"the file is cut short: its header promises {promised} bytes of voxels",
            hint="fetch it again",
            code="unreadable-nifti",
        )


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
