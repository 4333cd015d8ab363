"""From planes in any order to one regular grid, or the reason why they are none.

Promises
- The order of slices comes from positions along their common normal; distances come from positions too. File names,
  InstanceNumber, SliceLocation and SliceThickness play no part.
- Every slice lies within a tenth of a slice distance of its place on the grid; otherwise a ``CaseError`` says what is
  wrong under a stable code:

  ===================  ==============================================================================================
  mixed-orientation    slices are not parallel within 1e-3 (a localiser among axial slices)
  mixed-spacing        pixel spacings differ by more than 0.1 %
  duplicate-slice      two slices at one position (several echoes, phases or time points in one folder)
  slice-gap            distances along the normal differ: a slice is missing, or the scan is not regular
  shifted-slice        slices drift sideways irregularly, or by more than 60 degrees
  ===================  ==============================================================================================

- A regular sideways drift (gantry tilt) is kept: the affine is sheared, as in NIfTI, and no voxel is resampled.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from shared.errors import CaseError
from shared.preprocessing.dicom_header import Plane, Vector
from shared.preprocessing.orientation import Affine

# Share of a slice distance that a slice may be off its place: positions rounded to 0.1 mm at 0.6 mm must pass, while a
# missing slice moves its neighbours by at least a third.
_TOLERANCE = 0.1
# Below the thinnest slices of clinical scanners by a factor of a hundred.
_SAME_PLACE_MM = 1e-3
# Headers round direction cosines to three digits at worst.
_PARALLEL = 1e-3
# Cosine of 60 degrees; gantries tilt by 30 at most.
_STEEPEST = 0.5


def order_of(planes: Sequence[Plane]) -> NDArray[np.intp]:
    """Indices of ``planes`` in the order of their position along the first plane's normal."""
    return np.argsort([plane.position_mm @ planes[0].normal for plane in planes], kind="stable")


def affine_of(planes: Sequence[Plane]) -> Affine:
    """(slice, row, column) -> LPS mm for planes that are already in order; one plane is given a depth of 1 mm.

    Raises:
        CaseError: see the table of the module.
    """
    first = planes[0]
    _require_parallel(planes)
    affine = np.eye(4)
    affine[:3, 0] = _step(planes) if len(planes) > 1 else first.normal
    affine[:3, 1] = first.down * first.spacing_mm[0]
    affine[:3, 2] = first.right * first.spacing_mm[1]
    affine[:3, 3] = first.position_mm
    return affine


def _require_parallel(planes: Sequence[Plane]) -> None:
    first = planes[0]
    turned = sum(not np.allclose((p.down, p.right), (first.down, first.right), atol=_PARALLEL) for p in planes)
    if turned:
        raise CaseError(
            f"{turned} of {len(planes)} slices are oriented differently from the first",
            hint="keep one acquisition a case; localisers often hide in the same series",
            code="mixed-orientation",
        )
    spacings = np.array([plane.spacing_mm for plane in planes])
    if not np.allclose(spacings, spacings[0], rtol=1e-3, atol=0):
        raise CaseError(
            f"pixel spacing varies from {spacings.min():g} to {spacings.max():g} mm between slices",
            hint="keep one acquisition a case",
            code="mixed-spacing",
        )


def _step(planes: Sequence[Plane]) -> Vector:
    """The vector from one slice to the next, averaged over all of them."""
    positions = np.array([plane.position_mm for plane in planes])
    normal = planes[0].normal
    _require_even(positions @ normal)
    step = (positions[-1] - positions[0]) / (len(planes) - 1)
    aside = np.linalg.norm(positions - positions[0] - np.outer(np.arange(len(planes)), step), axis=1).max()
    length = float(np.linalg.norm(step))
    if aside > _TOLERANCE * length or step @ normal < _STEEPEST * length:
        raise CaseError(
            f"slices {length:.3g} mm apart lie up to {aside:.3g} mm beside a straight stack",
            hint="curved or strongly tilted stacks must be reformatted before ingest",
            code="shifted-slice",
        )
    return np.asarray(step, np.float64)


def _require_even(heights: Vector) -> None:
    """Refuse ascending positions along the normal (mm) that coincide or are not evenly spaced."""
    gaps = np.diff(heights)
    doubled = int((gaps < _SAME_PLACE_MM).sum())
    if doubled:
        raise CaseError(
            f"{len(heights)} slices share {len(heights) - doubled} positions",
            hint="split echoes, phases or time points into cases, and remove copies",
            code="duplicate-slice",
        )
    even = np.linspace(heights[0], heights[-1], len(heights))
    if np.abs(heights - even).max() > _TOLERANCE * gaps.mean():
        usual = float(np.median(gaps))
        raise CaseError(
            f"{len(heights)} slices, mostly {usual:.3g} mm apart, have distances from {gaps.min():.3g} "
            f"to {gaps.max():.3g} mm",
            hint="fetch the missing slices, or reformat the scan to even distances",
            code="slice-gap",
        )
