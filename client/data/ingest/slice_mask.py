"""The mask of one slice, from a mask of the whole series that the slice belongs to.

Promises
- A slice's pixels find their voxels by position in space (LPS mm), not by the order of files or frames, and the mask
  comes out in the slice's own rows and columns, as displayed.
- Nothing is resampled: a slice whose pixels do not lie on the volume's voxels is refused ("mask-grid").

Placing a mask on the volume is left to ``shared.preprocessing``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from shared.errors import CaseError
from shared.preprocessing.dicom import image_from_files, read_files
from shared.preprocessing.dicom_header import Plane
from shared.preprocessing.dicom_segmentation import read_segmentation
from shared.preprocessing.image import MaskArray
from shared.preprocessing.nifti import mask_from_nifti
from shared.preprocessing.orientation import Affine

NIFTI = (".nii", ".nii.gz")
_WITHIN = 0.1
"""A pixel's centre must lie within this share of a voxel of a voxel's centre."""


@dataclass(frozen=True, eq=False)
class SeriesMask:
    """Class indices of a series, shape (D, H, W), and (d, h, w) -> LPS mm."""

    classes: MaskArray
    affine_lps: Affine


ReadSeriesMask = Callable[[Path, tuple[Path, ...]], SeriesMask]


def read_series_mask(mask: Path, series: tuple[Path, ...]) -> SeriesMask:
    """The mask in ``mask`` on the volume that the files of ``series`` make; raises ``CaseError``."""
    volume = image_from_files(series)
    if volume.affine_lps is None:
        raise CaseError("the series of this slice is no volume", hint="give each slice its own mask", code="mask-grid")
    nifti = mask.name.lower().endswith(NIFTI)
    classes = mask_from_nifti(mask, volume) if nifti else read_segmentation(mask, series)
    return SeriesMask(classes, volume.affine_lps)


def mask_of_slice(series: SeriesMask, image: Path) -> MaskArray:
    """The part of ``series`` that the single-frame DICOM file ``image`` shows, shape (rows, columns)."""
    (file,) = read_files([image])
    if file.planes is None or len(file.planes) != 1:
        raise CaseError("the slice does not say where it lies", hint="give it its own mask", code="no-position")
    # Pixel centres as homogeneous columns (row, column, 1), to be placed by two matrices in one product.
    rows, columns = np.indices(file.shape[2:])
    pixels = np.stack([rows.ravel(), columns.ravel(), np.ones(rows.size)])
    found = (np.linalg.inv(series.affine_lps) @ _to_lps(file.planes[0]) @ pixels)[:3]
    voxels = np.rint(found).astype(np.intp)
    outside = (voxels < 0).any() or (voxels >= np.array(series.classes.shape)[:, None]).any()
    aside = float(np.abs(found - voxels).max())
    if outside or aside > _WITHIN:
        raise CaseError(
            f"the slice does not lie on its series' voxels (off by {aside:.2g} voxels)",
            hint="check the positions in this series",
            code="mask-grid",
        )
    classes: MaskArray = series.classes[tuple(voxels)].reshape(rows.shape)
    return classes


def _to_lps(plane: Plane) -> Affine:
    """(row, column, 1) -> LPS mm, homogeneous, shape (4, 3)."""
    columns = (plane.down * plane.spacing_mm[0], plane.right * plane.spacing_mm[1], plane.position_mm)
    return np.vstack([np.stack(columns, axis=1), [0.0, 0.0, 1.0]])
