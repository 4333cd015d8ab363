"""From any grid in space to the canonical axes.

Promises
- ``to_canonical`` only permutes and flips: no voxel value changes. The result's axes run towards Superior (D),
  Posterior (H) and Left (W) as nearly as the grid allows, and its affine maps each voxel to where it was before.
- The choice depends on the directions in space alone, not on the order or sense in which a file stores its axes, so
  DICOM and NIfTI of one volume end on the same grid; also at exactly 45 degrees, where two axes are equally near.

All affines here map voxel indices in the order of the array's spatial axes to millimetres in LPS (DICOM PS3.3 C.7.6.2).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import permutations
from typing import Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from shared.errors import CaseError

Affine = NDArray[np.float64]
Scalar = TypeVar("Scalar", bound=np.generic)
# The patient axis (0 Left, 1 Posterior, 2 Superior) that D, H and W run along.
_TOWARDS = (2, 1, 0)
# Six times the volume spanned by three unit vectors: 1 where they are perpendicular, 0.001 where one leans over by 89.9
# degrees, which no scanner does.
_LEAST_VOLUME = 1e-3
# A kilometre: what lies beyond is a damaged number.
_FARTHEST_MM = 1e6


class Placed(Protocol):
    """Voxels that may have a place in space: an image, or the grid that one lies on."""

    @property
    def shape(self) -> tuple[int, ...]:
        """One length per spatial axis."""

    @property
    def affine_lps(self) -> Affine | None:
        """Voxel indices to mm in LPS, or None where nobody knows."""


@dataclass(frozen=True, slots=True, eq=False)
class Grid:
    """Where the voxels of an image are, without the image.

    Attributes:
        shape: (D, H, W) of a volume; (1, rows, columns), as displayed, of a single image.
        affine_lps: (d, h, w) -> LPS mm, or None for an image without position.
    """

    shape: tuple[int, ...]
    affine_lps: Affine | None


def spacing_of(affine: Affine) -> tuple[float, ...]:
    """Distance in mm between neighbours along each array axis."""
    return tuple(float(mm) for mm in np.linalg.norm(affine[:3, :3], axis=0))


def require_invertible(affine: Affine) -> None:
    """Raise ``CaseError`` ("bad-geometry") unless the affine places distinct voxels at distinct, finite points."""
    # Written so that a number that is not a number fails too; what is larger would overflow when squared.
    near = bool((np.abs(affine) < _FARTHEST_MM).all())
    lengths = np.linalg.norm(affine[:3, :3], axis=0) if near else np.zeros(3)
    volume = np.linalg.det(affine[:3, :3] / lengths) if lengths.all() else 0.0
    if abs(volume) < _LEAST_VOLUME:
        raise CaseError(
            "the axes of the volume do not span space", hint="check orientation and spacing", code="bad-geometry"
        )


def _nearness(cosines: Affine, order: Sequence[int]) -> tuple[float, ...]:
    """How well the array axes ``order`` follow D, H, W; ties are broken by quantities that no flip can change."""
    first, second = cosines[:, order[0]], cosines[:, order[1]]
    # Products of two components keep their sign when an axis is flipped; four digits absorb how headers are rounded.
    total = sum(abs(cosines[axis, source]) for axis, source in enumerate(order))
    return tuple(round(float(x), 4) for x in (total, first[0] * first[1], first[0] * first[2], second[1] * second[2]))


def canonical_axes(affine: Affine) -> tuple[tuple[int, ...], tuple[bool, ...]]:
    """Which array axis becomes D, H and W, and which of the three must be flipped."""
    require_invertible(affine)
    cosines = (affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0))[list(_TOWARDS)]
    order = max(permutations(range(3)), key=lambda candidate: _nearness(cosines, candidate))
    return order, tuple(bool(cosines[axis, source] < 0) for axis, source in enumerate(order))


def canonical_affine(affine: Affine, shape: Sequence[int]) -> Affine:
    """The affine after ``to_canonical`` of an array with spatial ``shape``."""
    order, flips = canonical_axes(affine)
    moved = affine.copy()
    for axis, (source, flip) in enumerate(zip(order, flips, strict=True)):
        moved[:3, axis] = -affine[:3, source] if flip else affine[:3, source]
        if flip:
            moved[:3, 3] += affine[:3, source] * (shape[source] - 1)
    return moved


def to_canonical(voxels: NDArray[Scalar], affine: Affine) -> NDArray[Scalar]:
    """Permute and flip the last three axes of ``voxels``; C-contiguous, a copy only where something moves."""
    order, flips = canonical_axes(affine)
    leading = voxels.ndim - 3
    moved = voxels.transpose(*range(leading), *(leading + source for source in order))
    return np.ascontiguousarray(moved[(..., *(slice(None, None, -1 if flip else None) for flip in flips))])
