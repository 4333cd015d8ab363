"""Trees of blood vessels, grown and drawn on a grid of pixels.

Promises
- ``grow`` gives the points of all vessels of one eye: arcades leave the disc above and below in pairs of artery and
  vein, bend around the macula, taper, and branch until they are too thin to be seen. A child is thinner than its
  parent, and no vessel crosses the middle of the macula.
- ``paint`` gives at each pixel the largest value that any point's round brush leaves there: a vessel's section is as
  wide as twice its radius, with an edge one pixel soft.

Branches keep to Murray's law (PNAS 1926), by which the cubes of the children's radii make up the parent's; what eye and
camera add is left to ``fundus``.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from simulations.pretraining.fields import Field

_STEP_PX = 1.5
_MOST_STEPS = 420
_MOST_VESSELS = 500
_CELL_PX = 5
"""Thin vessels end where another one is within about this."""
_YOUNG = 12
"""Steps in which a vessel leaves its parent, and before which it is in nobody's way."""


@dataclass(frozen=True, slots=True)
class Eye:
    """Where things are on a fundus.

    Attributes:
        edge: rows and columns of the square image.
        disc: row and column of the optic disc's centre.
        macula: of the macula's.
        disc_px: radius of the optic disc.
        widest_px: radius of the widest vein.
        thinnest_px: radius at which vessels end.
        reach_px: vessels end at this distance from the image's centre.
    """

    edge: int
    disc: tuple[float, float]
    macula: tuple[float, float]
    disc_px: float
    widest_px: float
    thinnest_px: float
    reach_px: float


@dataclass(frozen=True, slots=True, eq=False)
class Vessels:
    """Points along centre lines: rows, columns, radii in pixels, and whether an artery; shape (N,) each."""

    rows: Field
    columns: Field
    radii: Field
    artery: NDArray[np.bool_]


@dataclass(eq=False)
class _Tips:
    """Growing ends, shape (T,) each.

    ``course`` is where they are bound, ``turning`` how that changes per pixel, ``stray`` how far they are off it for
    now, ``age`` the steps they have made.
    """

    row: Field
    column: Field
    course: Field
    turning: Field
    stray: Field
    radius: Field
    artery: NDArray[np.bool_]
    age: Field

    def only(self, kept: NDArray[np.bool_]) -> _Tips:
        return _Tips(*(getattr(self, name)[kept] for name in self.__dataclass_fields__))

    def and_also(self, others: _Tips) -> _Tips:
        return _Tips(
            *(np.concatenate([getattr(self, name), getattr(others, name)]) for name in self.__dataclass_fields__)
        )


def grow(rng: np.random.Generator, eye: Eye) -> Vessels:
    """All vessels of ``eye``."""
    tips, points = _trunks(rng, eye), []
    wander, branching = rng.uniform(0.10, 0.30), rng.uniform(0.008, 0.024)
    taken = np.zeros((eye.edge // _CELL_PX + 1,) * 2, np.bool_)
    vessels = tips.row.size
    for step in range(_MOST_STEPS):
        tips = _advanced(rng, tips, wander)
        tips = tips.only(_alive(tips, eye, taken))
        if not tips.row.size:
            break
        points.append(np.stack([tips.row, tips.column, tips.radius, tips.artery]))
        if step >= _YOUNG:
            rows, columns, *_ = points[step - _YOUNG]
            taken[_cells(rows, columns, eye)] = True
        parents = (rng.random(tips.row.size) < branching * _STEP_PX) & _may_branch(tips, eye)
        if vessels < _MOST_VESSELS and parents.any():
            tips = _branched(rng, tips, parents)
            vessels += int(parents.sum())
    rows, columns, radii, artery = np.concatenate(points, axis=1)
    return Vessels(rows, columns, radii, artery > 0)


def paint(vessels: Vessels, values: Field, radii: Field, edge: int) -> Field:
    """(edge, edge): at each pixel the largest of ``values`` x coverage over all points, with brushes of ``radii``."""
    canvas = np.zeros(edge * edge)
    row, column = np.rint(vessels.rows).astype(int), np.rint(vessels.columns).astype(int)
    reach = int(np.ceil(radii.max() + 0.5)) + 1
    for down in range(-reach, reach + 1):
        for across in range(-reach, reach + 1):
            near = radii + 1.5 > np.hypot(down, across)
            at = row[near] + down, column[near] + across
            away = np.hypot(at[0] - vessels.rows[near], at[1] - vessels.columns[near])
            value = np.clip(radii[near] - away + 0.5, 0, 1) * values[near]
            inside = (value > 0) & (at[0] >= 0) & (at[0] < edge) & (at[1] >= 0) & (at[1] < edge)
            np.maximum.at(canvas, (at[0] * edge + at[1])[inside], value[inside])
    return canvas.reshape(edge, edge)


def _trunks(rng: np.random.Generator, eye: Eye) -> _Tips:
    """Arcades towards the macula's side, above and below, and others away from it, each as artery and vein."""
    side = 1.0 if eye.macula[1] > eye.disc[1] else -1.0
    length = eye.edge / 2
    rows = []
    for upwards in (-1.0, 1.0):
        for kind in (0, 1):
            width = eye.widest_px * (0.78 if kind else 1.0)
            tilt = rng.uniform(1.05, 1.5)
            rows.append((upwards, tilt, -rng.uniform(0.9, 1.5) / length, width * rng.uniform(0.85, 1.05), kind))
            rows.append(
                (upwards, rng.uniform(1.8, 2.7), rng.normal(0, 0.5) / length, width * rng.uniform(0.6, 0.9), kind)
            )
        for _ in range(int(rng.integers(1, 4))):
            kind = int(rng.integers(2))
            rows.append((upwards, rng.uniform(0.2, 3.0), rng.normal(0, 0.8) / length, eye.widest_px * 0.4, kind))
    upwards, tilt, bend, radius, artery = np.array(rows).T
    course = np.arctan2(upwards * np.sin(tilt), side * np.cos(tilt))
    start = rng.normal(0, 0.25 * eye.disc_px, (2, len(rows)))
    none = np.zeros(len(rows))
    return _Tips(
        eye.disc[0] + start[0], eye.disc[1] + start[1], course, upwards * side * bend, none, radius, artery > 0, none
    )


def _advanced(rng: np.random.Generator, tips: _Tips, wander: float) -> _Tips:
    """One step on: thin vessels wind more than wide ones, and all taper."""
    number = tips.row.size
    restless = wander / np.sqrt(np.maximum(tips.radius, 0.5))
    # An Ornstein-Uhlenbeck walk about the course, so that no vessel ties a knot.
    stray = tips.stray * 0.93 + rng.normal(0, 0.37, number) * restless
    heading = tips.course + stray
    return _Tips(
        tips.row + _STEP_PX * np.sin(heading),
        tips.column + _STEP_PX * np.cos(heading),
        tips.course + _STEP_PX * tips.turning,
        tips.turning * (1 - 0.004 * _STEP_PX),
        stray,
        tips.radius * (1 - 0.0014 * _STEP_PX),
        tips.artery,
        tips.age + 1,
    )


def _alive(tips: _Tips, eye: Eye, taken: NDArray[np.bool_]) -> NDArray[np.bool_]:
    middle = eye.edge / 2
    seen = np.hypot(tips.row - middle, tips.column - middle) < eye.reach_px
    beyond_macula = np.hypot(tips.row - eye.macula[0], tips.column - eye.macula[1]) > 0.7 * eye.disc_px
    blocked = taken[_cells(tips.row, tips.column, eye)] & (tips.age > _YOUNG) & (tips.radius < 0.5 * eye.widest_px)
    return np.asarray(seen & beyond_macula & ~blocked & (tips.radius > eye.thinnest_px))


def _may_branch(tips: _Tips, eye: Eye) -> NDArray[np.bool_]:
    off_disc = np.hypot(tips.row - eye.disc[0], tips.column - eye.disc[1]) > eye.disc_px
    return np.asarray(off_disc & (tips.radius > 1.1 * eye.thinnest_px))


def _cells(row: Field, column: Field, eye: Eye) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    inside = (np.clip(axis, 0, eye.edge - 1) // _CELL_PX for axis in (row, column))
    down, across = (axis.astype(np.intp) for axis in inside)
    return down, across


def _branched(rng: np.random.Generator, tips: _Tips, parents: NDArray[np.bool_]) -> _Tips:
    children = tips.only(parents)
    number = children.row.size
    share = rng.uniform(0.4, 0.85, number)
    away = rng.choice([-1.0, 1.0], number) * rng.uniform(0.5, 1.3, number)
    radius = children.radius
    children.radius = radius * share
    children.course = children.course + away
    children.turning = -away * rng.uniform(0.0, 0.008, number)
    children.age = np.zeros(number)
    tips.radius[parents] = radius * np.cbrt(1 - 0.5 * share**3)
    tips.course[parents] -= 0.15 * away
    return tips.and_also(children)
