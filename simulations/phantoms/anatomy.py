"""People with a known truth: anatomy, lesions, attenuation, and what an expert would have drawn.

Promises
- ``person`` is a function of a population, a phase and a generator; all images of a person are cuts through one
  anatomy.
- ``cut`` gives Hounsfield units and class indices (0 background, 1 liver, 2 lesion) at any points. The mask says what
  lies at the voxel's centre; Hounsfield units at a surface are mixed by coverage, over one voxel (partial volume).
- Lesions are benign (round, smooth, homogeneous) or malignant (irregular, spiculated, mottled, with a marked rim around
  a necrotic core), all lesions of a person of one kind. ``label`` is "malignant" for people with malignant lesions and
  "benign" for everyone else.
- Shape and texture tell the kinds apart in every contrast phase; attenuation does not travel: lesions are darker than
  the liver in the native and portal phases and brighter in the arterial and late ones.
- Every lesion lies in the liver, and no two of a person touch.

What a scanner makes of it is left to ``scanner``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from simulations.phantoms.body import AIR_HU, FIXED_HU, PHASE_HU, Body, Frame, Material, Phase, body
from simulations.phantoms.solids import Field, Points, Ripple, Solid, Vector, at, blob, local, ripple

Kind = Literal["benign", "malignant"]

BACKGROUND, ORGAN, LESION = 0, 1, 2
RADIUS_MM = (13.0, 24.0)
CONTRAST_HU: Mapping[Phase, Mapping[Kind, float]] = {
    "native": {"benign": -42.0, "malignant": -36.0},
    "arterial": {"benign": 50.0, "malignant": 58.0},
    "portal": {"benign": -56.0, "malignant": -48.0},
    "late": {"benign": 44.0, "malignant": 40.0},
}
"""Lesion minus liver, by phase: cysts and metastases, then early and late enhancing nodules."""


@dataclass(frozen=True, slots=True)
class Population:
    """Who comes to a hospital.

    Attributes:
        lesion_prevalence: share of people with at least one lesion.
        malignant_share: share of people with malignant lesions among those with lesions.
        build: mean size of a body relative to 330 mm by 230 mm.
        fat_mm: mean thickness of fat under the skin.
    """

    lesion_prevalence: float = 0.9
    malignant_share: float = 0.5
    build: float = 1.0
    fat_mm: float = 14.0


@dataclass(frozen=True, slots=True, eq=False)
class Lesion:
    """One lesion: where, how large (mean radius), what shape, and how its contrast varies inside."""

    kind: Kind
    centre_mm: Vector
    radius_mm: float
    solid: Solid
    texture: Solid


@dataclass(frozen=True, slots=True, eq=False)
class Person:
    """One anatomy with its attenuation in Hounsfield units by material, and lesion minus liver in ``contrast_hu``."""

    body: Body
    lesions: tuple[Lesion, ...]
    attenuation_hu: Mapping[Material, float]
    contrast_hu: float

    @property
    def label(self) -> Kind:
        """What a patient-level classifier has to find."""
        return "malignant" if any(lesion.kind == "malignant" for lesion in self.lesions) else "benign"


@dataclass(frozen=True, slots=True, eq=False)
class Cut:
    """Truth on a grid: Hounsfield units (float64) and class indices (uint8), both of shape (D, H, W)."""

    hu: Field
    mask: NDArray[np.uint8]


def person(population: Population, phase: Phase, kind: Kind | None, random: np.random.Generator) -> Person:
    """Someone from ``population`` with lesions of ``kind``, or none, scanned in ``phase``."""
    size = population.build * random.uniform(0.92, 1.08)
    frame = Frame(
        half_width=165 * size * random.uniform(0.96, 1.04),
        half_depth=115 * size * random.uniform(0.96, 1.04),
        fat=population.fat_mm * random.uniform(0.6, 1.4),
    )
    anatomy = body(frame, random)
    lesions = () if kind is None else _lesions(anatomy.liver, kind, random)
    attenuation = {material: hu + random.normal(0, 4) for material, hu in PHASE_HU[phase].items()}
    contrast = CONTRAST_HU[phase][kind or "benign"] * random.uniform(0.85, 1.15)
    return Person(anatomy, lesions, {**FIXED_HU, **attenuation}, contrast)


def cut(subject: Person, points: Points, voxel_mm: float) -> Cut:
    """The truth at ``points``; surfaces are smoothed over ``voxel_mm``."""
    hu = np.full(np.broadcast_shapes(points.x.shape, points.y.shape, points.z.shape), AIR_HU)
    liver = subject.body.liver(points)
    liver_hu = subject.attenuation_hu["liver"]
    for solid, material in subject.body.parts:
        _paint(hu, solid(points), subject.attenuation_hu[material], voxel_mm)
    _paint(hu, liver, liver_hu, voxel_mm)
    _paint(hu, subject.body.veins(points), subject.attenuation_hu["vein"], voxel_mm)
    mask = np.where(liver < 0, np.uint8(ORGAN), np.uint8(BACKGROUND))
    mask = np.broadcast_to(mask, hu.shape).copy()
    for lesion in subject.lesions:
        distance = np.maximum(lesion.solid(points), liver)
        inside = liver_hu + subject.contrast_hu * (1 + lesion.texture(points))
        _paint(hu, distance, inside, voxel_mm)
        mask[np.broadcast_to(distance < 0, mask.shape)] = LESION
    return Cut(hu, mask)


def _paint(hu: Field, distance: Field, value: float | Field, voxel_mm: float) -> None:
    hu += np.clip(0.5 - distance / voxel_mm, 0, 1) * (value - hu)


def _lesions(liver: Solid, kind: Kind, random: np.random.Generator) -> tuple[Lesion, ...]:
    lesions: list[Lesion] = []
    for _ in range(random.integers(1, 3)):
        radius = float(random.uniform(*RADIUS_MM))
        centre = _site(liver, radius, lesions, random)
        if centre is not None:
            lesions.append(_lesion(kind, centre, radius, random))
    return tuple(lesions)


def _site(liver: Solid, radius: float, others: list[Lesion], random: np.random.Generator) -> Vector | None:
    """A place for a lesion: deep enough in the liver and clear of the others; None where the liver is full."""
    candidates = random.uniform((-140, -90, -25), (60, 90, 25), size=(400, 3))
    depth = -liver(at(candidates))
    for other in others:
        gap = np.linalg.norm(candidates - other.centre_mm, axis=1) - 1.4 * (radius + other.radius_mm)
        depth = np.where(gap > 0, depth, -np.inf)
    deep = np.flatnonzero(depth > 0.8 * radius)
    if len(deep) == 0 and others:
        return None
    chosen = candidates[deep[0] if len(deep) else np.argmax(depth)]
    return (float(chosen[0]), float(chosen[1]), float(chosen[2]))


def _lesion(kind: Kind, centre: Vector, radius: float, random: np.random.Generator) -> Lesion:
    if kind == "benign":
        return Lesion(kind, centre, radius, blob(centre, radius, ripple(random, 3, 1.5, 0.08)), _even)
    outline, mottle = ripple(random, 6, 6.5, 0.55), ripple(random, 8, 0.55, 0.9)
    reach = (2 * radius, 2 * radius, 2 * radius)
    texture = local(lambda points: _target(points, centre, radius, mottle), centre, reach, beyond=0.0)
    return Lesion(kind, centre, radius, blob(centre, radius, outline), texture)


def _even(points: Points) -> Field:
    return np.zeros((1,) * points.x.ndim)


def _target(points: Points, centre: Vector, radius: float, mottle: Ripple) -> Field:
    """A necrotic core within a marked rim, as of a target, and mottled; the mean over the lesion is near zero."""
    squared = (points.x - centre[0]) ** 2 + (points.y - centre[1]) ** 2 + (points.z - centre[2]) ** 2
    core = np.exp(-squared / (0.6 * radius) ** 2)
    return np.asarray(0.7 - 2.0 * core + mottle.at(points.x, points.y, points.z))
