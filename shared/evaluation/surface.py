"""Distances between the surfaces of two masks, in millimetres.

Promises
- A surface voxel belongs to the mask and has a face neighbour outside it (or outside the image). Distances are between
  centres of surface voxels, exact, with the spacing of each axis.
- HD95 is the larger of the two directed 95th percentiles (linear interpolation) and NSD the share of surface voxels of
  both masks within ``tolerance_mm`` of the other surface, as in MONAI's ``compute_hausdorff_distance(percentile=95)``
  and ``compute_surface_dice`` without subvoxels. References: Huttenlocher et al., TPAMI 1993; Nikolov et al., J Med
  Internet Res 2021; Maier-Hein et al. ("Metrics reloaded"), Nature Methods 2024.
- Where a structure lies in its image changes nothing: distances follow from whole steps between voxels, and what is
  exactly ``tolerance_mm`` away but for the last digits of a product is within.
- ``agreements`` measures a class in several cases in one pass; ``agreement`` is the same for two masks.

==========  ============  =======================================================  ========
truth       prediction    hd95_mm                                                  nsd
==========  ============  =======================================================  ========
empty       empty         NaN                                                      NaN
empty       not empty     diagonal of the image (MONAI: inf or NaN)                0
not empty   empty         diagonal of the image (MONAI: inf or NaN)                0
==========  ============  =======================================================  ========

The diagonal is the convention of the BraTS challenge: a sum cannot hold infinity, and leaving such cases out would
reward a network that finds nothing.

How. Surfaces that nearly agree are the usual case. All voxels learn at once, in one byte each, in which directions a
neighbour is on the surface, and a surface voxel of the other mask looks up the nearest. Of what is left, the share is
known and often the percentile too. Otherwise a tree is asked for one voxel of each tile: the others of the tile are as
far away as that one, give or take the way to it, and few of them can then still matter. (Distances of all voxels,
``scipy.ndimage.distance_transform_edt``, take longer than everything here.)
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from shared.evaluation.additive import IntArray
from shared.evaluation.label_maps import IndexArray, LabelMaps, Mask, Masks, Pair, cut, per_box
from shared.evaluation.undetermined import FloatArray, ratio

_TILE = 4
"""Edge of a tile in voxels."""

_SLACK = 1 + 1e-9
"""Products of whole steps and a spacing are off in their last digits: 5 steps of 0.4 mm are 2 mm."""


@dataclass(frozen=True, slots=True)
class Agreement:
    """How near two surfaces are.

    Attributes:
        hd95_mm: 95 % Hausdorff distance.
        nsd: normalised surface distance in [0, 1]: ``within`` by ``voxels``.
        within: surface voxels of both masks within tolerance of the other surface.
        voxels: surface voxels of both masks.
    """

    hd95_mm: float
    nsd: float
    within: int
    voxels: int


@dataclass(frozen=True, slots=True, eq=False)
class Agreements:
    """``Agreement`` of N cases, each attribute of shape (N,)."""

    hd95_mm: FloatArray
    nsd: FloatArray
    within: IntArray
    voxels: IntArray


def agreement(prediction: Mask, truth: Mask, spacing_mm: tuple[float, ...], tolerance_mm: float) -> Agreement:
    """Compare two masks of shape (H, W) or (D, H, W); the table above says what empty masks give."""
    maps = cut([Pair(prediction.view(np.uint8), truth.view(np.uint8), spacing_mm)], 2)
    found = agreements(maps, maps.masks[0], tolerance_mm)
    return Agreement(float(found.hd95_mm[0]), float(found.nsd[0]), int(found.within[0]), int(found.voxels[0]))


def agreements(maps: LabelMaps, masks: Masks, tolerance_mm: float) -> Agreements:
    """Compare one class of ``maps`` in each case."""
    surfaces = _Surfaces.of(masks)
    distances = _distances(surfaces, maps, tolerance_mm)
    within = np.bincount(surfaces.rows[distances <= tolerance_mm * _SLACK], minlength=2 * masks.cases)
    both, voxels = within.reshape(2, -1).sum(axis=0), surfaces.voxels.reshape(2, -1)
    directed = _percentiles_95(surfaces, distances)[2].reshape(2, -1).max(axis=0)
    one_sided = np.where(voxels.any(axis=0), maps.diagonals_mm, math.nan)
    hd95_mm = np.where(voxels.all(axis=0), directed, one_sided)
    return Agreements(hd95_mm, ratio(both, voxels.sum(axis=0)), both, voxels.sum(axis=0))


def surface(mask: Mask) -> Mask:
    """Voxels of the mask with a face neighbour outside it; beyond the image counts as outside."""
    return _bordering(np.pad(mask, 1), 0)[(slice(1, -1),) * mask.ndim]


@dataclass(frozen=True, slots=True, eq=False)
class _Surfaces:
    """Surface voxels of a class in N cases: 2 N rows, one for each prediction, then one for each truth.

    Attributes:
        shown: shape (2, N, *box).
        places: where in ``shown`` laid flat the surfaces are, in order.
        voxels: of each row.
        rows: row of each place.
    """

    shown: Mask
    places: IndexArray
    voxels: IntArray
    rows: IndexArray

    @classmethod
    def of(cls, masks: Masks) -> _Surfaces:
        shown = _bordering(masks.shown, 2)
        places = np.flatnonzero(shown)
        voxels = per_box(places, 2 * masks.cases, masks.voxels)
        return cls(shown, places, voxels, np.repeat(np.arange(len(voxels)), voxels))

    @property
    def cases(self) -> int:
        return int(self.shown.shape[1])

    def across(self, rows: IndexArray) -> IndexArray:
        """The row that each is compared with."""
        return (rows + self.cases) % (2 * self.cases)

    def steps(self, some: IndexArray) -> FloatArray:
        """Position of surface voxels in their boxes, shape (len(some), axes)."""
        inside = self.places[some] % math.prod(self.shown.shape[2:])
        return np.stack(np.unravel_index(inside, self.shown.shape[2:]), axis=-1).astype(np.float64)


def _distances(of: _Surfaces, maps: LabelMaps, tolerance_mm: float) -> FloatArray:
    """Distance in mm of each surface voxel to the other surface of its case; infinite where there is none.

    Of voxels that change neither percentile nor share, a number on the same side of both.
    """
    codes = _neighbours(of.shown)[::-1].ravel()[of.places]
    cases = of.rows % of.cases
    most: FloatArray = _nearest_mm(maps.spacings_mm)[cases, codes]
    left = np.flatnonzero(np.isinf(most) & (of.voxels > 0)[of.across(of.rows)])
    least = most.copy()
    least[left], most[left] = _limits_mm(maps.spacings_mm)[cases[left]], maps.diagonals_mm[cases[left]]
    left = left[_undecided(of, least, most, tolerance_mm)[left]]
    if not len(left):
        return most
    search = _Search.of(of, left, maps)
    guides = search.guides()
    asked = np.flatnonzero(guides == np.arange(len(left)))
    known = np.zeros(len(left))
    known[asked] = search.distances(asked)
    way = _lengths(search.steps - search.steps[guides], search.spacings_mm)
    least[left], most[left] = known[guides] / _SLACK - way, known[guides] * _SLACK + way
    least[left[asked]] = most[left[asked]] = known[asked]
    asked_too = np.flatnonzero(_undecided(of, least, most, tolerance_mm)[left])
    most[left[asked_too]] = search.distances(asked_too)
    return most


def _undecided(of: _Surfaces, least: FloatArray, most: FloatArray, tolerance_mm: float) -> Mask:
    """Which surface voxels, known to be between two distances, must be known to the last bit.

    Percentiles rise with every distance. A row whose largest possible percentile is below what the other row of its
    case reaches decides nothing, nor does a voxel that comes before, or after, all from which its row's percentile is
    taken.
    """
    (first, _, lowest), (_, last, highest) = _percentiles_95(of, least), _percentiles_95(of, most)
    reached = np.tile(lowest.reshape(2, -1).max(axis=0), 2)
    between = (most * _SLACK >= first[of.rows]) & (least <= last[of.rows] * _SLACK)
    weighs = between & (highest * _SLACK >= reached)[of.rows]
    limit_mm = tolerance_mm * _SLACK
    return (least < most) & (weighs | (least <= limit_mm) & (most > limit_mm))


@dataclass(frozen=True, slots=True, eq=False)
class _Search:
    """The nearest voxel of the other surface, for surface voxels that have none nearby: M of them.

    Attributes:
        keys: shape (M,): row and tile of each.
        steps: position of each in its box, in voxels, shape (M, axes).
        spacings_mm: of each, shape (M, axes).
        targets: row that each is compared with, in mm: rows lie so far apart that the nearest is in that row.
        tree: of all surface voxels in these rows.
        others: positions of the voxels of ``tree`` in voxels.
    """

    keys: IndexArray
    steps: FloatArray
    spacings_mm: FloatArray
    targets: NDArray[np.floating]
    tree: cKDTree
    others: FloatArray

    @classmethod
    def of(cls, surfaces: _Surfaces, left: IndexArray, maps: LabelMaps) -> _Search:
        apart_mm = 2 * float(maps.diagonals_mm.max())
        rows = surfaces.rows[left]
        wanted = np.zeros(2 * surfaces.cases, bool)
        wanted[surfaces.across(rows)] = True
        others = np.flatnonzero(wanted[surfaces.rows])
        steps, there = surfaces.steps(left), surfaces.steps(others)
        spacings_mm = maps.spacings_mm[surfaces.rows % surfaces.cases]
        points = _points(there, spacings_mm[others], surfaces.rows[others] * apart_mm)
        tree = cKDTree(points, leafsize=32, balanced_tree=False, compact_nodes=False)
        tiles = [rows, *(steps.astype(np.intp) // _TILE).T]
        keys = np.ravel_multi_index(
            tiles, (2 * surfaces.cases, *(edge // _TILE + 1 for edge in surfaces.shown.shape[2:]))
        )
        return cls(keys, steps, spacings_mm[left], surfaces.across(rows) * apart_mm, tree, there)

    def guides(self) -> IndexArray:
        """For each the one of its row and tile that is asked first: itself for one of them."""
        chosen = np.zeros(int(self.keys.max()) + 1, np.intp)
        chosen[self.keys] = np.arange(len(self.keys))
        return chosen[self.keys]

    def distances(self, some: IndexArray) -> FloatArray:
        """Distances in mm of some of them."""
        points = _points(self.steps[some], self.spacings_mm[some], self.targets[some])
        nearest = self.tree.query(points)[1]
        return _lengths(self.steps[some] - self.others[nearest], self.spacings_mm[some])


def _points(steps: FloatArray, spacings_mm: FloatArray, rows_mm: NDArray[np.floating]) -> FloatArray:
    return np.concatenate([steps * spacings_mm, rows_mm[:, None]], axis=1)


def _lengths(steps: FloatArray, spacings_mm: FloatArray) -> FloatArray:
    lengths_mm: FloatArray = np.sqrt(((steps * spacings_mm) ** 2).sum(axis=1))
    return lengths_mm


def _percentiles_95(of: _Surfaces, distances: FloatArray) -> tuple[FloatArray, FloatArray, FloatArray]:
    """The two values between which each row's percentile is, and the percentile as numpy's.

    Anything where a row or its counterpart is empty.
    """
    ordered = np.full((len(of.voxels), int(of.voxels.max(initial=1))), math.inf)
    ends = np.cumsum(of.voxels)
    ordered[of.rows, np.arange(len(distances)) - (ends - of.voxels)[of.rows]] = distances
    ordered.sort(axis=1)
    last = np.maximum(of.voxels - 1, 0)
    place = 0.95 * last
    low = np.floor(place).astype(np.intp)
    rows = np.arange(len(last))
    lower, upper = ordered[rows, low], ordered[rows, np.minimum(low + 1, last)]
    with np.errstate(invalid="ignore"):
        return lower, upper, lower + (upper - lower) * (place - low)


def _neighbours(shown: Mask) -> NDArray[np.uint8]:
    """For each voxel of (2, N, *box) in which directions, itself among them, a neighbour is shown: bits of a byte.

    Bit a of a bit's number tells whether the neighbour is one step away on axis a, counted from the last: in 2-D bit 0
    is the voxel itself, 1 left or right, 2 above or below, 3 a corner.
    """
    codes = shown.view(np.uint8).copy()
    for bits, axis in enumerate(range(shown.ndim - 1, 1, -1)):
        before, after = _beside(axis)
        beside = np.zeros_like(codes)
        beside[before] = codes[after]
        beside[after] |= codes[before]
        beside <<= 1 << bits
        codes |= beside
    return codes


def _nearest_mm(spacings_mm: FloatArray) -> FloatArray:
    """Distance for each case and byte of ``_neighbours``, shape (N, 2 ** 2 ** axes); infinite where it does not tell.

    A neighbour nearer than two steps along the narrowest axis is the nearest surface voxel of all.
    """
    axes = spacings_mm.shape[1]
    numbers = np.arange(2**axes)
    steps = numbers[:, None] >> np.arange(axes)[::-1] & 1
    lengths_mm = np.sqrt(((steps * spacings_mm[:, None]) ** 2).sum(axis=-1))
    lengths_mm = np.where(lengths_mm < _limits_mm(spacings_mm)[:, None], lengths_mm, math.inf)
    said = np.arange(2 ** len(numbers))[:, None] >> numbers & 1
    nearest_mm: FloatArray = np.where(said, lengths_mm[:, None], math.inf).min(axis=-1)
    return nearest_mm


def _limits_mm(spacings_mm: FloatArray) -> FloatArray:
    """Two steps along the narrowest axis, shape (N,): what is not found among neighbours is at least that far away."""
    limits_mm: FloatArray = 2 * spacings_mm.min(axis=1) / _SLACK
    return limits_mm


def _bordering(padded: Mask, first: int) -> Mask:
    """Voxels shown that have a face neighbour, on the axes from ``first``, that is not; the outermost show nothing."""
    inner = padded.copy()
    for axis in range(first, padded.ndim):
        before, after = _beside(axis)
        inner[before] &= padded[after]
        inner[after] &= padded[before]
    return padded & ~inner


def _beside(axis: int) -> tuple[tuple[slice, ...], tuple[slice, ...]]:
    """All but the last, and all but the first, along an axis."""
    whole = (slice(None),) * axis
    return (*whole, slice(None, -1)), (*whole, slice(1, None))
