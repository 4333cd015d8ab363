"""The mask of one slice, from a mask of the whole series that the slice belongs to.

Promises
- A slice's pixels find their voxels by position in space (LPS mm), not by the order of files or frames, and the mask
  comes out in the slice's own rows and columns, as displayed.
- Nothing is resampled: a slice whose pixels do not lie on the volume's voxels is refused ("mask-grid").

Placing a mask on the volume is left to ``shared.preprocessing``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np

from client.data.ingest.opened import described_file, open_file
from client.data.ingest.read_mask import mask_on
from shared.errors import CaseError
from shared.preprocessing.dicom import each_of, grid_of
from shared.preprocessing.dicom_file import DicomFile
from shared.preprocessing.dicom_header import Plane
from shared.preprocessing.image import MaskArray
from shared.preprocessing.orientation import Affine
from shared.preprocessing.readable import Readable

_UNNAMED: Mapping[str, int] = MappingProxyType({})
_WITHIN = 0.1
"""A pixel's centre must lie within this share of a voxel of a voxel's centre."""


@dataclass(frozen=True, slots=True, eq=False)
class SeriesMask:
    """The mask of a series.

    Attributes:
        classes: class indices, shape (D, H, W).
        affine_lps: (d, h, w) -> LPS mm.
        sources: SHA-256 of each file that it was made of.
    """

    classes: MaskArray
    affine_lps: Affine
    sources: tuple[bytes, ...] = ()


def read_series_mask(
    mask: Readable, series: tuple[Readable, ...], structures: Mapping[str, int] = _UNNAMED
) -> SeriesMask:
    """The mask in ``mask`` on the volume that the files of ``series`` make; raises ``CaseError``."""
    opened = each_of(series, open_file)
    files = each_of(opened, described_file)
    grid = grid_of(files)
    if grid.affine_lps is None or len(series) == 1 == files[0].shape[0]:
        raise CaseError("the series of this slice is no volume", hint="give each slice its own mask", code="mask-grid")
    drawn = open_file(mask, "mask")
    classes = mask_on(grid, drawn, files, structures)
    return SeriesMask(classes, grid.affine_lps, (drawn.sha256, *(one.sha256 for one in opened)))


def mask_of_slice(series: SeriesMask, file: DicomFile) -> MaskArray:
    """The part of ``series`` that a single-frame DICOM file shows, shape (rows, columns)."""
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
