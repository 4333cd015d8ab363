"""A healthy abdomen at the level of the liver: its parts as solids, and how much they attenuate.

Promises
- ``body`` is a function of a ``Frame`` and a generator; the same arguments give the same parts, in painting order: a
  later part covers an earlier one.
- The liver overlaps neither kidneys, gallbladder, stomach, great vessels nor the muscles of the back.
- Hounsfield units are of the order found in textbooks (Prokop & Galanski, Spiral and Multislice CT of the Body) for a
  scan without contrast agent and 35 s, 70 s and 5 min after its injection. Nothing here is fitted to a patient.

Lesions and the drawing of pixels are left to ``anatomy``. Sizes are millimetres, positions are fractions of the
body's half width (towards Left) and half depth (towards Posterior).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

import numpy as np

from simulations.phantoms.solids import (
    Field,
    Points,
    Solid,
    anterior_to,
    blended,
    blob,
    common,
    ellipsoid,
    grown,
    local,
    once,
    organ,
    ripple,
    trunk,
    tube,
    union,
    wavy,
    without,
)

Phase = Literal["native", "arterial", "portal", "late"]
Material = str
Part = tuple[Solid, Material]

AIR_HU = -1000.0
FIXED_HU: Mapping[Material, float] = MappingProxyType(
    {
        "couch": -30.0,
        "fat": -105.0,
        "muscle": 55.0,
        "bone": 480.0,
        "marrow": 190.0,
        "cord": 30.0,
        "content": 22.0,
        "bowel": 38.0,
        "gas": -930.0,
        "bile": 8.0,
    }
)
_ENHANCING = ("liver", "vein", "aorta", "cava", "spleen", "kidney")
PHASE_HU: Mapping[Phase, Mapping[Material, float]] = MappingProxyType(
    {
        "native": dict(zip(_ENHANCING, (58.0, 44.0, 42.0, 42.0, 48.0, 32.0), strict=True)),
        "arterial": dict(zip(_ENHANCING, (68.0, 62.0, 310.0, 80.0, 125.0, 175.0), strict=True)),
        "portal": dict(zip(_ENHANCING, (112.0, 158.0, 165.0, 148.0, 124.0, 195.0), strict=True)),
        "late": dict(zip(_ENHANCING, (86.0, 99.0, 108.0, 106.0, 96.0, 150.0), strict=True)),
    }
)


@dataclass(frozen=True, slots=True)
class Frame:
    """Size of a trunk in mm: half width and half depth with skin, and thickness of fat under the skin."""

    half_width: float
    half_depth: float
    fat: float

    @property
    def back(self) -> float:
        """Position (y) of the tip of the spinous process."""
        return self.half_depth - self.fat - 8

    @property
    def canal(self) -> float:
        """Position (y) of the centre of the spinal canal."""
        return self.back - 34

    @property
    def vertebra(self) -> float:
        """Position (y) of the centre of the vertebral body."""
        return self.canal - 25

    def place(self, x: float, y: float, z: float) -> tuple[float, float, float]:
        """A position from fractions of half width and half depth, and z in mm."""
        return (x * self.half_width, y * self.half_depth, z)


@dataclass(frozen=True, slots=True, eq=False)
class Body:
    """A healthy person: parts in painting order without the liver; the liver, and the veins in it."""

    parts: tuple[Part, ...]
    liver: Solid
    veins: Solid


MUSCLE_MM = 13.0


def body(frame: Frame, random: np.random.Generator) -> Body:
    """A healthy person of this size, with the small differences that ``random`` draws."""
    outline = once(trunk(frame.half_width, frame.half_depth))
    cavity = grown(outline, -frame.fat - MUSCLE_MM)
    stomach = organ(frame.place(*_about(random, 0.34, -0.30, 12)), (46.0, 38.0, 62.0), 0.4)
    kidneys = [_kidney(frame, side, random) for side in (-1, 1)]
    bladder = organ(frame.place(*_about(random, -0.20, -0.36, -34)), (17.0, 12.0, 30.0), 0.5)
    aorta = organ((8.0, frame.vertebra - 32, 0.0), (11.0, 11.0, np.inf))
    cava = organ((-20.0, frame.vertebra - 29, 0.0), (13.0, 9.0, np.inf))
    spine = once(_muscles_of_the_back(frame))
    keep_clear = [*(grown(kidney, 4) for kidney in kidneys), grown(bladder, 1.5), grown(stomach, 4)]
    keep_clear += [grown(aorta, 5), grown(cava, 1), grown(spine, 3)]
    liver = once(common([_liver(frame, random), grown(cavity, -3), *(_outside(solid) for solid in keep_clear)]))
    spleen = organ(frame.place(*_about(random, 0.58, 0.26, 15)), (25.0, 44.0, 50.0), -0.45)
    parts: list[Part] = [
        *_wall(frame, outline, cavity),
        *((loop, "bowel") for loop in _bowel(frame, random)),
        (common([without(spleen, grown(stomach, 3)), grown(cavity, -3)]), "spleen"),
        *_filled_stomach(frame, stomach),
        *((kidney, "kidney") for kidney in kidneys),
        *((_sinus(frame, side), "fat") for side in (-1, 1)),
        (bladder, "bile"),
        (spine, "muscle"),
        *_spine(frame),
        (aorta, "aorta"),
        (cava, "cava"),
    ]
    return Body(tuple(parts), liver, common([_veins(frame, random), grown(liver, -3)]))


def _outside(solid: Solid) -> Solid:
    return lambda points: -solid(points)


def _about(random: np.random.Generator, x: float, y: float, z: float) -> tuple[float, float, float]:
    """A position near (x, y) in fractions and z in mm: organs do not sit at the same place in two people."""
    return x + random.uniform(-0.03, 0.03), y + random.uniform(-0.03, 0.03), z + random.uniform(-10, 10)


def _wall(frame: Frame, outline: Solid, cavity: Solid) -> list[Part]:
    bed = (0.0, frame.half_depth + 8 - 420, 0.0)
    couch = without(ellipsoid(bed, (426.0, 426.0, np.inf)), ellipsoid(bed, (420.0, 420.0, np.inf)))
    ribs = _ribs(frame, outline)
    muscle = grown(outline, -frame.fat)
    return [
        (couch, "couch"),
        (outline, "fat"),
        (muscle, "muscle"),
        (cavity, "fat"),
        (ribs, "bone"),
        (grown(ribs, -2), "marrow"),
    ]


def _ribs(frame: Frame, outline: Solid) -> Solid:
    """Ribs run downwards to the front: a cut shows each as a short bright stroke that wanders with z."""
    middle = frame.fat + MUSCLE_MM / 2
    spacing = 2 * np.pi / 16

    def distance(points: Points) -> Field:
        angle = np.arctan2(points.y, np.abs(points.x)) + points.z / 90
        length = 8 + 4 * np.sin(3 * np.floor(angle / spacing) + points.z / 40)
        along = np.abs(np.mod(angle, spacing) - spacing / 2) * frame.half_depth - length
        across = np.abs(outline(points) + middle) - 4.5
        beside = 0.35 * frame.half_width - np.abs(points.x)
        return np.asarray(np.maximum(np.maximum(across, along), beside))

    return distance


def _muscles_of_the_back(frame: Frame) -> Solid:
    erectors = [organ((side * 32.0, frame.canal + 9, 0.0), (29.0, 19.0, np.inf), side * 0.2) for side in (-1, 1)]
    psoas = [organ((side * 31.0, frame.vertebra + 6, -70.0), (12.0, 14.0, 60.0)) for side in (-1, 1)]
    return union([*erectors, *psoas])


def _spine(frame: Frame) -> list[Part]:
    corpus = organ((0.0, frame.vertebra, 0.0), (23.0, 18.0, np.inf))
    canal = organ((0.0, frame.canal, 0.0), (10.0, 9.0, np.inf))
    process = tube((0.0, frame.canal, 0.0), (0.0, frame.back - 4, 0.0), 4.0)
    wings = [tube((0.0, frame.canal, 0.0), (side * 36.0, frame.canal + 4, 0.0), 4.5) for side in (-1, 1)]
    strokes = local(_endless(union([process, *wings])), (0.0, frame.canal, 0.0), (50.0, 50.0, np.inf))
    arch = union([grown(canal, 5), strokes])
    bone = union([corpus, arch])
    return [(bone, "bone"), (grown(bone, -3), "marrow"), (canal, "cord")]


def _endless(solid: Solid) -> Solid:
    """The solid's cut at z = 0, drawn out along z."""
    return lambda points: solid(Points(points.x, points.y, np.zeros((1,) * points.z.ndim)))


def _sinus(frame: Frame, side: int) -> Solid:
    return organ((side * 48.0, frame.vertebra - 4, -38.0), (15.0, 8.0, 24.0), side * 0.6)


def _kidney(frame: Frame, side: int, random: np.random.Generator) -> Solid:
    return organ((side * 62.0, frame.vertebra + 6, random.uniform(-50, -25)), (29.0, 22.0, 56.0), side * 0.6)


def _filled_stomach(frame: Frame, stomach: Solid) -> list[Part]:
    lumen = grown(stomach, -4)
    bubble = common([lumen, anterior_to(-0.44 * frame.half_depth)])
    return [(stomach, "muscle"), (lumen, "content"), (bubble, "gas")]


def _bowel(frame: Frame, random: np.random.Generator) -> list[Solid]:
    loops = []
    for _ in range(7):
        x, y, z = random.uniform(-0.15, 0.6), random.uniform(-0.35, 0.15), random.uniform(-90, -25)
        loops.append(blob(frame.place(x, y, z), random.uniform(13, 21), ripple(random, 3, 2.5, 0.25)))
    return loops


def _liver(frame: Frame, random: np.random.Generator) -> Solid:
    width, depth = frame.half_width, frame.half_depth
    right = ellipsoid(frame.place(*_about(random, -0.42, 0.0, 0)), (0.42 * width, 0.64 * depth, 100.0), 0.1)
    size = random.uniform(0.85, 1.15)
    left = ellipsoid(frame.place(*_about(random, -0.04, -0.42, 15)), (0.44 * width * size, 0.25 * depth, 70.0), 0.25)
    return wavy(blended(right, left, 30.0), ripple(random, 4, 0.05, 8.0))


def _veins(frame: Frame, random: np.random.Generator) -> Solid:
    """Portal and hepatic veins: branches that fan out from below the diaphragm's hiatus into both lobes."""
    root = (-24.0, frame.vertebra - 50, 10.0)
    fork = (-0.34 * frame.half_width, frame.vertebra - 55, 5.0)
    branches = [tube(root, fork, 6.5)]
    for _ in range(5):
        end = frame.place(random.uniform(-0.72, -0.45), random.uniform(-0.45, 0.4), random.uniform(-45, 45))
        branches.append(tube(fork, end, random.uniform(2.5, 4.5)))
    left = frame.place(0.1, -0.42, random.uniform(-5, 30))
    tree = union([*branches, tube(root, left, 4.0)])
    return local(tree, root, (0.8 * frame.half_width, frame.half_depth, 70.0))
