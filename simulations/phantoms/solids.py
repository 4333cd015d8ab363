"""Solids given by distance: the alphabet that phantoms are drawn with.

Promises
- A ``Solid`` maps points in millimetres to an approximate signed distance in millimetres: negative inside, zero on the
  surface, positive outside. The surface is exact, distances from it are first-order (Quilez, "Distance functions").
- Patient coordinates are DICOM's: x towards Left, y towards Posterior, z towards Superior (PS3.3 C.7.6.2.1.1).
- Coordinates broadcast: x (1, 1, W), y (1, H, 1), z (D, 1, 1), so that what does not depend on z is computed once.

What the solids are made of is left to ``anatomy``; how they are seen, to ``scanner``.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

Field = NDArray[np.float64]
Vector = tuple[float, float, float]


@dataclass(frozen=True, slots=True, eq=False)
class Points:
    """Coordinates in mm that broadcast to (D, H, W): x (1, 1, W), y (1, H, 1), z (D, 1, 1)."""

    x: Field
    y: Field
    z: Field
    known: dict[Solid, Field] = field(default_factory=dict, repr=False)
    """Distances that ``once`` has already worked out here."""


Solid = Callable[[Points], Field]


@dataclass(frozen=True, slots=True, eq=False)
class Ripple:
    """A sum of K plane waves, ``sum_k heights_k sin(waves_k . p + phases_k)``; waves (K, 3), others (K,)."""

    waves: Field
    heights: Field
    phases: Field

    def at(self, x: Field, y: Field, z: Field) -> Field:
        """The sum at points whose coordinates broadcast."""
        total = np.zeros(np.broadcast_shapes(x.shape, y.shape, z.shape))
        for (kx, ky, kz), height, phase in zip(self.waves, self.heights, self.phases, strict=True):
            # A wave is a product over the axes: on a grid this needs W + H + D exponentials, not W H D.
            total += height * (np.exp(1j * (kx * x + phase)) * np.exp(1j * ky * y) * np.exp(1j * kz * z)).imag
        return total


def ripple(random: np.random.Generator, count: int, length: float, height: float) -> Ripple:
    """``count`` waves in random directions with wave vectors ``length`` long; heights sum to ``height``."""
    directions = random.normal(size=(count, 3))
    directions *= length / np.linalg.norm(directions, axis=1, keepdims=True)
    return Ripple(directions, random.dirichlet(np.full(count, 12.0)) * height, random.uniform(0, 2 * np.pi, count))


def at(positions: NDArray[np.float64]) -> Points:
    """Points at ``positions``, shape (N, 3) in mm; solids answer with shape (N,)."""
    return Points(positions[:, 0], positions[:, 1], positions[:, 2])


def once(solid: Solid) -> Solid:
    """``solid``, worked out once for the same ``Points`` however many others are made of it."""

    def distance(points: Points) -> Field:
        if solid not in points.known:
            points.known[solid] = solid(points)
        return points.known[solid]

    return distance


def local(solid: Solid, centre: Vector, reach: Vector, beyond: float = np.inf) -> Solid:
    """``solid``, looked at only within ``reach`` mm of ``centre`` along each axis; ``beyond`` elsewhere on a grid."""

    def distance(points: Points) -> Field:
        if points.x.ndim == 1:
            return solid(points)
        axes = (points.z.ravel(), points.y.ravel(), points.x.ravel())
        box = zip(axes, centre[::-1], reach[::-1], strict=True)
        near = np.ix_(*(np.flatnonzero(np.abs(axis - middle) < half) for axis, middle, half in box))
        result = np.full([len(axis) for axis in axes], beyond)
        result[near] = solid(Points(axes[2][near[2]], axes[1][near[1]], axes[0][near[0]]))
        return result

    return distance


def ellipsoid(centre: Vector, radii: Vector, turn: float = 0.0) -> Solid:
    """An ellipsoid, turned by ``turn`` radians about the z axis; an infinite radius makes it a cylinder."""
    cos, sin = np.cos(turn), np.sin(turn)

    def distance(points: Points) -> Field:
        dx, dy, dz = points.x - centre[0], points.y - centre[1], points.z - centre[2]
        u, v, w = (cos * dx + sin * dy) / radii[0], (cos * dy - sin * dx) / radii[1], dz / radii[2]
        scaled = np.sqrt(u**2 + v**2 + w**2)
        slope = np.sqrt((u / radii[0]) ** 2 + (v / radii[1]) ** 2 + (w / radii[2]) ** 2)
        # At the centre both vanish; the distance there is the smallest radius.
        return np.where(slope > 1e-12, scaled * (scaled - 1) / np.maximum(slope, 1e-12), -min(radii))

    return distance


def organ(centre: Vector, radii: Vector, turn: float = 0.0) -> Solid:
    """An ellipsoid whose distances are worked out once, and only up to 25 mm from its surface."""
    across = max(radii[:2]) + 25
    return once(local(ellipsoid(centre, radii, turn), centre, (across, across, radii[2] + 25)))


def trunk(half_width: float, half_depth: float, power: float = 2.4) -> Solid:
    """A cylinder along z over the superellipse ``|x/a|^p + |y/b|^p = 1``: the outline of a body."""
    shorter = min(half_width, half_depth)

    def distance(points: Points) -> Field:
        inside = np.abs(points.x / half_width) ** power + np.abs(points.y / half_depth) ** power
        return shorter * (inside ** (1 / power) - 1)

    return distance


def tube(start: Vector, end: Vector, radius: float) -> Solid:
    """All points within ``radius`` of the straight line from ``start`` to ``end``."""
    step = np.subtract(end, start)
    squared = float(step @ step)

    def distance(points: Points) -> Field:
        dx, dy, dz = points.x - start[0], points.y - start[1], points.z - start[2]
        along = np.clip((dx * step[0] + dy * step[1] + dz * step[2]) / squared, 0, 1)
        aside = (dx - along * step[0]) ** 2 + (dy - along * step[1]) ** 2 + (dz - along * step[2]) ** 2
        return np.asarray(np.sqrt(aside) - radius)

    return distance


def anterior_to(level: float) -> Solid:
    """The half space y < ``level``: where gas collects in a patient who lies on the back."""
    return lambda points: points.y - level


def grown(solid: Solid, margin: float) -> Solid:
    """``solid`` with its surface moved outwards by ``margin`` mm (inwards where negative)."""
    return lambda points: solid(points) - margin


def union(solids: Sequence[Solid]) -> Solid:
    """Points in any of ``solids``."""
    return lambda points: functools.reduce(np.minimum, (solid(points) for solid in solids))


def common(solids: Sequence[Solid]) -> Solid:
    """Points in all of ``solids``."""
    return lambda points: functools.reduce(np.maximum, (solid(points) for solid in solids))


def without(solid: Solid, *others: Solid) -> Solid:
    """Points of ``solid`` that are in none of ``others``."""
    return lambda points: functools.reduce(np.maximum, (-other(points) for other in others), solid(points))


def blended(first: Solid, second: Solid, width: float) -> Solid:
    """Union with a fillet of ``width`` mm where the two meet (polynomial smooth minimum)."""

    def distance(points: Points) -> Field:
        one, two = first(points), second(points)
        overlap = np.maximum(width - np.abs(one - two), 0) / width
        return np.minimum(one, two) - width / 4 * overlap**2

    return distance


def wavy(solid: Solid, ripple: Ripple) -> Solid:
    """``solid`` with its surface moved in and out by ``ripple`` mm."""
    return lambda points: solid(points) + ripple.at(points.x, points.y, points.z)


def blob(centre: Vector, radius: float, ripple: Ripple) -> Solid:
    """A sphere whose radius varies with the unit direction u from its centre: ``R (1 + ripple(u))``, at most 2 R."""

    def distance(points: Points) -> Field:
        dx, dy, dz = points.x - centre[0], points.y - centre[1], points.z - centre[2]
        length = np.sqrt(dx**2 + dy**2 + dz**2)
        scale = 1 / np.maximum(length, 1e-9)
        return length - radius * (1 + ripple.at(dx * scale, dy * scale, dz * scale))

    reach = 2 * radius + 25
    return local(distance, centre, (reach, reach, reach))
