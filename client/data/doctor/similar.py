"""Which images of different people look alike, among a hundred thousand, and which are one picture.

Promises
- ``look_alikes`` finds every pair of thumbnails from different groups that correlate by at least ``ALIKE``: nothing is
  approximate, no pair is missed. Of more than ``limit`` pairs the closest are returned, and how far that reaches.
- ``one_picture`` tells one picture from two of the same kind. Recompression, scaling of whole images and changes of
  brightness leave thumbnail and details as they are, so that two copies are far closer to each other than either is to
  any third image; two people whose anatomy is alike are not, for others are as alike.
- Memory does not grow with the number of pairs.

How pairs are found: of unit vectors a and b, |a - b|^2 = 2 - 2 correlation, and a projection never makes a distance
longer. So along the first principal component only neighbours need be looked at, these are compared in the first few
components by one matrix product, and whoever remains is compared whole. A hundred thousand thumbnails are 5 10^9 pairs
and take seconds. Cropped, rotated or mirrored copies are not found.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from client.data.doctor.measure import area_mean
from shared.preprocessing.image import FloatArray, Image

ALIKE = 0.98
"""Correlation of thumbnails from which on two images look alike. Measured on some 100 ultrasound, fundus and CT images:
0.993 or more after halving, enlarging, JPEG at quality 30, clipped brightening or a gamma of 0.8."""
SAME_DETAILS = 0.5
"""Correlation of details that copies have: 0.71 or more on the same images."""
LIMIT = 1000

_CLOSER = 0.3
_RIVAL = 3
"""A pair must be closer than ``_CLOSER`` times what either image has with its third nearest other one; the first two
may be copies as well."""
_STRANGER = 0.25
"""One minus the correlation of details that an image beyond all known pairs is taken to have at least: strangers of
thumbnails that far apart had 0.4 on fundus images, 0.5 on ultrasound."""
_STRANGER_AMONG_ALIKE = 5e-4
"""How far apart (thumbnails times details) such an image is taken to be where most images look alike, or there are
fewer than ``_ENOUGH`` to tell: on synthetic CT strangers had 2e-4 or more, copies 5e-5 or less unless clipped hard."""
_ENOUGH = 30
_COMPONENTS = 32
_BLOCK = 2048
_DETAIL_EDGES = {2: (128, 128), 3: (32, 64, 64)}
_DETAIL_SIGMA = 3.0
_ERROR = 1e-5
"""Single precision errs by less on sums of 32 products of parts of unit vectors."""
_FLAT = 0.02  # as in local contrast: keeps the noise of flat areas below that of structures

Unit = NDArray[np.float32]
Pairs = NDArray[np.intp]


@dataclass(frozen=True, slots=True, eq=False)
class LookAlikes:
    """Pairs of thumbnails.

    Attributes:
        pairs: places of both, shape (k, 2), the smaller first; the closest pair first.
        apart: one minus the correlation of each pair.
        reach: every pair that is less apart is here.
        images: among how many thumbnails they were found.
    """

    pairs: Pairs
    apart: NDArray[np.float64]
    reach: float
    images: int

    @property
    def more(self) -> bool:
        """Whether there are pairs beyond the limit."""
        return self.reach < 1 - ALIKE


def look_alikes(thumbnails: NDArray[np.uint8], groups: NDArray[np.int32], limit: int = LIMIT) -> LookAlikes:
    """Pairs of rows of ``thumbnails``, shape (n, 256), whose ``groups`` differ and that correlate by ``ALIKE``.

    Thumbnails without any contrast resemble nothing.
    """
    telling = np.flatnonzero(thumbnails.max(axis=1, initial=0) > thumbnails.min(axis=1, initial=255))
    points = _projected(thumbnails, telling)
    order = np.argsort(points[:, 0], kind="stable")
    closest = _Closest(limit)
    for first, second in _near(points[order], closest):
        pairs = np.stack([telling[order[first]], telling[order[second]]], axis=1)
        pairs = np.sort(pairs[groups[pairs[:, 0]] != groups[pairs[:, 1]]], axis=1)
        for start in range(0, len(pairs), _BLOCK):
            closest.add(thumbnails, pairs[start : start + _BLOCK])
    pairs = np.stack([closest.found["one"], closest.found["other"]], axis=1)
    return LookAlikes(pairs, closest.found["apart"], closest.reach, len(telling))


def one_picture(found: LookAlikes, likeness: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Which of the pairs are one picture.

    Args:
        found: all pairs of a data set.
        likeness: for each pair the correlation of ``details``.
    """
    apart = found.apart.clip(0) * (1 - likeness).clip(0)
    beyond = found.reach * _STRANGER
    if found.images < _ENOUGH or len(apart) > found.images:
        beyond = min(beyond, _STRANGER_AMONG_ALIKE)
    own = np.repeat(np.arange(len(apart)), 2)
    order = np.lexsort((apart[own], found.pairs.ravel()))
    rivals = np.full(2 * len(apart), beyond)
    for group in np.split(order, np.flatnonzero(np.diff(found.pairs.ravel()[order])) + 1):
        ranked = np.append(apart[own[group]], np.full(_RIVAL + 1, beyond))
        # The third nearest but the pair itself: one further for those that are among the first three.
        rank = np.where(np.arange(len(group)) < _RIVAL, _RIVAL, _RIVAL - 1)
        rivals[group] = np.minimum(ranked[rank], beyond)
    nearest = rivals.reshape(-1, 2).min(axis=1)
    return np.asarray((likeness >= SAME_DETAILS) & (apart <= _CLOSER * nearest))


def details(image: Image, shape: tuple[int, ...]) -> FloatArray:
    """Fine structure of the grey image on a grid of ``shape``: zero mean, unit length, flattened."""
    grey = image.voxels[0] if len(image.voxels) == 1 else image.voxels.mean(axis=0)
    small = area_mean(grey, shape)
    aside = small - ndimage.gaussian_filter(small, _DETAIL_SIGMA)
    spread = np.sqrt(ndimage.gaussian_filter(aside * aside, _DETAIL_SIGMA))
    even = aside / (spread + _FLAT * small.std() + np.finfo(np.float32).tiny)
    found: FloatArray = _unit(even.reshape(1, -1))[0]
    return found


def detail_shape(one: Sequence[int], other: Sequence[int]) -> tuple[int, ...]:
    """Grid on which images of two spatial shapes are compared: neither is enlarged."""
    return tuple(min(edges) for edges in zip(one, other, _DETAIL_EDGES[len(one)], strict=True))


def _projected(thumbnails: NDArray[np.uint8], telling: Pairs) -> Unit:
    """The first principal components of unit vectors, the most telling first; shape (len(telling), components)."""
    size = thumbnails.shape[1]
    second_moments = np.zeros((size, size))
    for start in range(0, len(telling), _BLOCK):
        block = _unit(thumbnails[telling[start : start + _BLOCK]])
        second_moments += block.T @ block
    total = np.zeros(size)
    for start in range(0, len(telling), _BLOCK):
        total += _unit(thumbnails[telling[start : start + _BLOCK]]).sum(axis=0)
    mean = total / max(1, len(telling))
    _, axes = np.linalg.eigh(second_moments / max(1, len(telling)) - np.outer(mean, mean))
    kept = np.asarray(axes[:, : -_COMPONENTS - 1 : -1], np.float32)
    parts = [_unit(thumbnails[telling[start : start + _BLOCK]]) @ kept for start in range(0, len(telling), _BLOCK)]
    return np.concatenate([np.zeros((0, _COMPONENTS), np.float32), *parts])


_FOUND = np.dtype([("apart", "f8"), ("one", np.intp), ("other", np.intp)])


class _Closest:
    """The closest pairs so far, and how close others must be: once there are ``limit``, closer than the last."""

    def __init__(self, limit: int) -> None:
        self.found, self.reach, self._limit = np.zeros(0, _FOUND), 1 - ALIKE, limit

    def add(self, thumbnails: NDArray[np.uint8], pairs: Pairs) -> None:
        """Keep those of ``pairs`` that are close enough."""
        products = (_unit(thumbnails[pairs[:, 0]]) * _unit(thumbnails[pairs[:, 1]])).sum(axis=1, dtype=np.float64)
        close = 1 - products <= self.reach
        found = np.zeros(int(close.sum()), _FOUND)
        found["apart"], found["one"], found["other"] = 1 - products[close], pairs[close, 0], pairs[close, 1]
        everything = np.sort(np.concatenate([self.found, found]), order=("apart", "one", "other"))
        self.found = everything[: self._limit]
        if len(everything) > self._limit:
            self.reach = float(self.found["apart"][-1])


def _near(points: Unit, closest: _Closest) -> Iterator[tuple[Pairs, Pairs]]:
    """Places (first < second) of points, sorted by their first coordinate, that may be close enough."""
    halves = (points * points).sum(axis=1, keepdims=True) / 2
    one = np.ones_like(halves)
    # One product gives minus half the squared distance: a b - |a|^2 / 2 - |b|^2 / 2.
    left, right = np.hstack([points, -halves, one]), np.hstack([points, one, -halves])
    for start in range(0, len(points), _BLOCK):
        rows = left[start : start + _BLOCK]
        end = int(np.searchsorted(points[:, 0], rows[-1, 0] + np.sqrt(2 * closest.reach + _ERROR), "right"))
        for other in range(start, end, _BLOCK):
            columns = right[other : min(other + _BLOCK, end)]
            hits = np.flatnonzero(rows @ columns.T >= -closest.reach - _ERROR)
            first, second = start + hits // len(columns), other + hits % len(columns)
            yield first[first < second], second[first < second]


def _unit(values: NDArray[np.generic]) -> Unit:
    """Each row with mean 0 and length 1, or all 0."""
    centred = values.astype(np.float32)
    centred -= centred.mean(axis=1, keepdims=True)
    lengths = np.sqrt((centred * centred).sum(axis=1, keepdims=True))
    unit: Unit = np.divide(centred, lengths, out=np.zeros_like(centred), where=lengths > 0)
    return unit
