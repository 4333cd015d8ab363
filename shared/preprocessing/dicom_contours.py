"""From the contours of a DICOM RT structure set to a mask on its image's grid.

Promises
- The mask has the grid's shape. A voxel belongs to a structure where its centre lies inside an odd number of the
  structure's contours in that slice (even-odd): holes may be contours of their own (CLOSEDPLANAR_XOR) or be joined to
  the outline by a keyhole (PS3.3 C.8.8.6.3). A centre on an outline belongs to one side of it only, so that neighbours
  share no voxel.
- Contours are points in space (LPS mm), whatever the orientation of the slices, tilted gantries included. Each belongs
  to the slice that is nearest, at most 0.49 slice distances away: further off it would be a guess.
- Nothing is interpolated between slices: contours on every second slice only, or of several heights on one slice, were
  drawn on another series and are refused, like those that are not parallel to the slices ("mask-grid").
- Structures are chosen by name, and every class must be there; without names, the only one that has contours counts.
  Their names, which people type, never reach an error.

Points and open contours enclose nothing: a structure that is chosen must not have them ("open-contour"). A closed
contour of one or two points marks no voxel.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset

from shared.errors import CaseError
from shared.preprocessing.dicom_header import Vector, decimals, items, text
from shared.preprocessing.image import MaskArray
from shared.preprocessing.masks import MAX_CLASSES
from shared.preprocessing.orientation import Affine, Placed
from shared.preprocessing.quarantine import refusing

STRUCTURE_SET = "1.2.840.10008.5.1.4.1.1.481.3"
"""SOP class: RT Structure Set Storage."""

_CLOSED = {"CLOSED_PLANAR", "CLOSEDPLANAR_XOR"}
# In voxels. Writers round points to 0.01 mm; slices are 0.5 mm apart at least.
_FLAT = 0.1
_NEAREST = 0.49
# How far a contour may reach beyond the outermost centres: bodies are drawn to the edge of the picture.
_BEYOND = 1.0
# Vertices on voxel centres must not fall to either side by the last bit of a matrix product.
_DIGITS = 6

Outline = NDArray[np.float64]
"""Points of one contour in voxels, shape (points, 3), (d, h, w)."""


@dataclass(frozen=True, slots=True, eq=False)
class _Region:
    """One region of interest; its name is what people typed."""

    name: str = field(repr=False)
    space: str = field(repr=False)
    contours: tuple[Dataset, ...] = field(repr=False)

    @property
    def closed(self) -> bool:
        """Whether any contour encloses something."""
        return any(text(contour, "ContourGeometricType") in _CLOSED for contour in self.contours)


def mask_from_contours(dataset: Dataset, grid: Placed, structures: Mapping[str, int], space: str = "") -> MaskArray:
    """Class indices of an RT structure set on the voxels of ``grid``.

    Args:
        dataset: the structure set.
        grid: three axes, with a place in space.
        structures: class index by name of a structure; empty takes the only one with contours as class 1.
        space: Frame of Reference UID of the image; "" where unknown.

    Raises:
        CaseError: "mask-grid", "no-structure", "several-structures", "open-contour", "overlapping-segments",
            "mask-values" or "unreadable-dicom".
    """
    if grid.affine_lps is None or len(grid.shape) != 3:
        raise _misplaced("need an image with a position in space")
    if not all(0 < index < MAX_CLASSES for index in structures.values()):
        raise CaseError(f"classes of structures are numbered from 1 to {MAX_CLASSES - 1}", code="mask-values")
    to_voxels = np.asarray(np.linalg.inv(grid.affine_lps), np.float64)
    with refusing("unreadable-dicom", "the structure set cannot be interpreted"):
        chosen = _chosen(_regions(dataset), structures)
        if any(space and region.space and region.space != space for _, region in chosen):
            raise _misplaced("and their image are in different frames of reference")
        drawn = [(index, _outlines(region, to_voxels)) for index, region in chosen]
        axis = _axis_across([outline for _, outlines in drawn for outline in outlines])
        mask = np.zeros(grid.shape, np.uint8)
        order = [axis, *(other for other in range(3) if other != axis)]
        for index, outlines in drawn:
            _paint(mask.transpose(order), index, [outline[:, order] for outline in outlines])
    return mask


def _regions(dataset: Dataset) -> list[_Region]:
    drawn: dict[int, tuple[Dataset, ...]] = {}
    for roi in items(dataset, "ROIContourSequence"):
        drawn[int(roi.ReferencedROINumber)] = tuple(items(roi, "ContourSequence"))
    return [
        _Region(
            str(roi.get("ROIName", "")).strip(),
            text(roi, "ReferencedFrameOfReferenceUID"),
            drawn.get(int(roi.ROINumber), ()),
        )
        for roi in items(dataset, "StructureSetROISequence")
    ]


def _chosen(regions: Sequence[_Region], structures: Mapping[str, int]) -> list[tuple[int, _Region]]:
    """(class index, region) of what the mask is made of."""
    if structures:
        chosen = [(structures[region.name], region) for region in regions if region.name in structures]
        missing = set(structures.values()) - {index for index, _ in chosen}
        if missing:
            raise CaseError(
                f"{len(missing)} of {len(set(structures.values()))} classes have no structure of their name "
                f"among {len(regions)}",
                hint="add the names that this site's structures go by",
                code="no-structure",
            )
        return chosen
    closed = [region for region in regions if region.closed]
    if len(closed) > 1:
        raise CaseError(
            f"the structure set has {len(closed)} structures and none is chosen",
            hint="say which name is which class",
            code="several-structures",
        )
    if not closed:
        raise CaseError("the structure set has no closed contours", code="no-structure")
    return [(1, closed[0])]


def _outlines(region: _Region, to_voxels: Affine) -> list[Outline]:
    open_ones = sum(text(contour, "ContourGeometricType") not in _CLOSED for contour in region.contours)
    if open_ones:
        raise CaseError(
            f"{open_ones} of {len(region.contours)} contours of a structure are points or open lines",
            hint="choose structures that enclose a volume",
            code="open-contour",
        )
    points = [np.reshape(decimals(contour, "ContourData"), (-1, 3)) for contour in region.contours]
    return [_in_voxels(each, to_voxels) for each in points if len(each) > 2]


def _in_voxels(points: Vector, to_voxels: Affine) -> Outline:
    if not np.isfinite(points).all():
        raise CaseError("a contour has points that are not finite", code="unreadable-dicom")
    return np.round(points @ to_voxels[:3, :3].T + to_voxels[:3, 3], _DIGITS)


def _axis_across(outlines: Sequence[Outline]) -> int:
    """The axis of the grid that all contours are flat along."""
    spreads = np.max([np.ptp(outline, axis=0) for outline in outlines], axis=0, initial=0.0)
    axis = int(np.argmin(spreads)) if outlines else 0
    if outlines and spreads[axis] > _FLAT:
        raise _misplaced(f"are not parallel to the image's slices: off by {spreads[axis]:.2g} voxels")
    return axis


def _paint(mask: MaskArray, index: int, outlines: Sequence[Outline]) -> None:
    """Write one structure into ``mask``; the first axis of both runs across the slices."""
    for place, members in _by_slice([outline[:, 0] for outline in outlines], len(mask)).items():
        inside = _inside([outlines[member][:, 1:] for member in members], mask.shape[1:])
        clashes = int((inside & (mask[place] != 0) & (mask[place] != index)).sum())
        if clashes:
            raise CaseError(
                f"{clashes} voxels of a slice belong to two structures",
                hint="give exclusive structures",
                code="overlapping-segments",
            )
        mask[place][inside] = index


def _by_slice(heights: Sequence[Vector], slices: int) -> dict[int, list[int]]:
    """Which contours lie on which slice, from the heights of their points in slice distances."""
    middles = np.array([height.mean() for height in heights])
    places = np.rint(middles).astype(int)
    aside = float(np.abs(middles - places).max(initial=0.0))
    if aside > _NEAREST or (places < 0).any() or (places >= slices).any():
        raise _misplaced("lie midway between two slices, or beyond the image")
    members: dict[int, list[int]] = {}
    for number, place in enumerate(places.tolist()):
        members.setdefault(place, []).append(number)
    if any(np.ptp(middles[numbers]) > _FLAT for numbers in members.values()):
        raise _misplaced("have several heights on one slice")
    if len(members) > 2 and np.diff(sorted(members)).min() > 1:
        raise _misplaced(f"leave out slices everywhere: {len(members)} have contours, and no two neighbours")
    return members


def _inside(outlines: Iterable[Outline], shape: Sequence[int]) -> NDArray[np.bool_]:
    """Whether each pixel's centre is inside an odd number of ``outlines``, (points, 2) in (row, column)."""
    rows, columns = shape
    crossings = np.zeros((rows, columns + 1), np.int32)
    for outline in outlines:
        if (outline < -_BEYOND).any() or (outline > np.array(shape) - 1 + _BEYOND).any():
            raise _misplaced("reach beyond the image")
        _count_crossings(crossings, outline)
    # To the right of an odd number of edges is inside.
    return np.asarray(np.cumsum(crossings, axis=1)[:, :-1] & 1, bool)


def _count_crossings(crossings: NDArray[np.int32], outline: Outline) -> None:
    """Count, in each row, from which column on an edge lies to the left of a pixel's centre or on it."""
    edges = np.stack([outline, np.roll(outline, -1, axis=0)], axis=1)
    upwards = edges[:, 0, 0] > edges[:, 1, 0]
    edges[upwards] = edges[upwards, ::-1]
    # Rows with top <= row < bottom: a vertex on a row counts once for the two edges that meet there.
    first, end = np.clip(np.ceil(edges[:, :, 0]), 0, len(crossings)).astype(int).T
    count = end - first
    edge = np.repeat(np.arange(len(edges)), count)
    row = np.arange(count.sum()) - np.repeat(np.cumsum(count) - count, count) + first[edge]
    (top, left), (bottom, right) = edges[edge].transpose(1, 2, 0)
    column = left + (row - top) / (bottom - top) * (right - left)
    reached = np.clip(np.ceil(np.round(column, _DIGITS)), 0, crossings.shape[1] - 1).astype(int)
    np.add.at(crossings, (row, reached), 1)


def _misplaced(how: str) -> CaseError:
    return CaseError(
        f"the contours {how}", hint="draw them on the original slices of this image, on each slice", code="mask-grid"
    )
