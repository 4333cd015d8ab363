"""Made-up breast ultrasound with one lesion, benign or malignant, and what can be seen of it.

Promises
- ``lesion(seed, index)`` is a function of the two numbers: a whole image, the lesion's mask, and a 0 or 1 for each of
  ``FINDINGS``, the first of which is the diagnosis.
- What differs between benign and malignant are the descriptors of the BI-RADS ultrasound lexicon (American College of
  Radiology, 5th edition): shape, orientation, margin, echo pattern, posterior features, halo, calcifications, and size.
  How often each is seen follows the literature in order of magnitude (Stavros et al., Radiology 1995; Hong et al., AJR
  2005), and no single one decides.
- Everything else (layers of tissue, scanner, place, burned-in marks) is drawn without regard to the diagnosis.

A plane is drawn in decibels relative to fat and handed to ``ultrasound``; marks on the screen come from ``marks``.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.ndimage import gaussian_filter1d

from shared.seeds import generator
from simulations.pretraining import marks, ultrasound
from simulations.pretraining.example import Example, eight_bit
from simulations.pretraining.fields import Field, curve, ridges, smooth
from simulations.pretraining.ultrasound import Scanner

_SEEN = {
    # Share of malignant and of benign lesions in which each is seen.
    "irregular": (0.78, 0.20),
    "tall": (0.45, 0.10),
    "indistinct": (0.60, 0.18),
    "lobulated": (0.50, 0.15),
    "spiculated": (0.40, 0.03),
    "shadowing": (0.50, 0.10),
    "enhancing": (0.15, 0.40),
    "haloed": (0.45, 0.08),
    "calcified": (0.25, 0.06),
    "anechoic": (0.02, 0.22),
    "mixed": (0.50, 0.25),
    "encapsulated": (0.04, 0.40),
}
FINDINGS = ("malignant", *_SEEN, "large")
_HALF_WIDTH_MM = {True: 7.5, False: 6.0}
"""Median half width of malignant and of benign lesions."""
_LARGE_MM = 6.4
_AROUND = np.linspace(-np.pi, np.pi, 721)
"""Angles once around a lesion, at which its outline is worked out; in between it is straight."""


@dataclass(frozen=True, slots=True)
class Lesion:
    """A lesion as it is drawn.

    Attributes:
        malignant: the diagnosis.
        seen: which descriptors it shows.
        centre_px: row and column.
        half_mm: half of its height and half of its width, before it is turned.
        turn: angle in radians.
    """

    malignant: bool
    seen: frozenset[str]
    centre_px: tuple[float, float]
    half_mm: tuple[float, float]
    turn: float

    @property
    def findings(self) -> tuple[int, ...]:
        """A 0 or 1 for each of ``FINDINGS``."""
        shown = [int(name in self.seen) for name in _SEEN]
        return (int(self.malignant), *shown, int(max(self.half_mm) > _LARGE_MM))


@dataclass(frozen=True, slots=True, eq=False)
class Outline:
    """Where a lesion ends: distance in mm beyond its outline, and the angle about its centre, for each pixel (H, W)."""

    beyond_mm: Field
    angle: Field


def lesion(seed: int, index: int) -> Example:
    """Image number ``index``, whole, with its lesion's mask and ``FINDINGS``; half of all are malignant."""
    rng = generator(seed, "pretraining-lesion", index)
    machine = ultrasound.scanner(rng)
    drawn = _lesion(rng, malignant=index % 2 == 1, machine=machine)
    outline = _outline(rng, drawn, machine)
    # Whoever outlines lesions draws some a little wide and some a little tight.
    mask = np.asarray(outline.beyond_mm < rng.uniform(-0.06, 0.14) * min(drawn.half_mm), np.uint8)
    echo_db = _with_lesion(rng, _tissue(rng, machine), drawn, outline, machine)
    grey = marks.burned_in(rng, ultrasound.image(echo_db, machine, rng), mask)
    return Example(eight_bit(grey, "us"), mask, drawn.findings)


def _lesion(rng: np.random.Generator, *, malignant: bool, machine: Scanner) -> Lesion:
    seen = {name for name, (ill, well) in _SEEN.items() if rng.random() < (ill if malignant else well)}
    if "shadowing" in seen or "mixed" in seen:
        seen -= {"enhancing", "anechoic"}
    if "spiculated" in seen:
        seen -= {"encapsulated"}
    rows, columns = machine.shape
    wide = _HALF_WIDTH_MM[malignant] * np.exp(rng.normal(0, 0.4))
    wide = float(np.clip(wide, 2.2, 0.38 * machine.mm * min(rows, columns)))
    tall = wide * (rng.uniform(0.95, 1.4) if "tall" in seen else rng.uniform(0.45, 0.9))
    tall = min(tall, 0.36 * rows * machine.mm)
    return Lesion(
        malignant,
        frozenset(seen),
        centre_px=(rng.uniform(0.24, 0.58) * rows, rng.uniform(0.32, 0.68) * columns),
        half_mm=(tall, wide),
        turn=rng.normal(0, 0.25),
    )


def _outline(rng: np.random.Generator, drawn: Lesion, machine: Scanner) -> Outline:
    """An ellipse, made uneven by a few waves around it (irregular) and by many small ones (lobulated)."""
    rows, columns = np.indices(machine.shape)
    down, across = ((axis - at) * machine.mm for axis, at in zip((rows, columns), drawn.centre_px, strict=True))
    cosine, sine = np.cos(drawn.turn), np.sin(drawn.turn)
    along, upright = across * cosine + down * sine, down * cosine - across * sine
    angle = np.arctan2(upright, along)
    tall, wide = drawn.half_mm
    radius = 1 / np.hypot(np.cos(angle) / wide, np.sin(angle) / tall)
    uneven = 0.22 if "irregular" in drawn.seen else 0.05
    waves = {number: uneven * rng.normal() / (number - 1) for number in range(2, 8)}
    if "lobulated" in drawn.seen:
        waves |= {number: rng.normal(0, 0.035) for number in range(8, 16)}
    change = sum(height * np.cos(number * _AROUND + rng.uniform(0, 2 * np.pi)) for number, height in waves.items())
    radius *= np.interp(angle, _AROUND, np.clip(1 + change, 0.45, 1.7))
    return Outline(np.hypot(down, across) - radius, angle)


def _tissue(rng: np.random.Generator, machine: Scanner) -> Field:
    """Skin, fat, gland, muscle and what lies below, in layers that are never quite level."""
    rows, columns = machine.shape
    depth_mm = (np.arange(rows)[:, None] * machine.mm).repeat(columns, axis=1)
    ends = np.cumsum([rng.uniform(0.5, 2.2), rng.uniform(2, 12), rng.uniform(5, 22), rng.uniform(4, 12), 99.0])
    levels = [rng.uniform(6, 16), 0.0, rng.uniform(3, 13), rng.uniform(-5, 4), rng.uniform(-25, -4)]
    echo_db, above = np.zeros(machine.shape), np.full(columns, -9.0)
    for end, level in zip(ends, levels, strict=True):
        below = end + curve(rng, columns, columns / 3) * 0.12 * end
        echo_db = np.where(depth_mm >= above, level, echo_db)
        above = np.maximum(above, below)
    grain = 1 / machine.mm
    echo_db += rng.uniform(1, 4) * smooth(rng, machine.shape, (1.2 * grain, 3.5 * grain))
    echo_db += rng.uniform(1, 5) * smooth(rng, machine.shape, (4 * grain, 9 * grain))
    for _ in range(int(rng.integers(1, 5))):
        lengths = rng.uniform(0.6, 2.2) * grain, rng.uniform(4, 14) * grain
        echo_db += rng.uniform(4, 16) * ridges(rng, machine.shape, lengths, rng.uniform(0.1, 0.3))
    return echo_db


def _with_lesion(
    rng: np.random.Generator, tissue_db: Field, drawn: Lesion, outline: Outline, machine: Scanner
) -> Field:
    seen, beyond = drawn.seen, outline.beyond_mm
    edge_mm = rng.uniform(0.5, 1.3) if "indistinct" in seen else rng.uniform(0.1, 0.25)
    if "indistinct" in seen:
        beyond = beyond + rng.uniform(0.3, 1.0) * smooth(rng, machine.shape, (1.0 / machine.mm, 1.0 / machine.mm))
    inside = 1 / (1 + np.exp(np.clip(beyond / edge_mm, -30, 30)))
    around_db = tissue_db + _around(rng, drawn, outline)
    echo_db = around_db * (1 - inside) + inside * _within(rng, drawn, machine)
    if "calcified" in seen:
        echo_db = echo_db + 28 * inside * (rng.random(machine.shape) < 0.004)
    return np.asarray(echo_db + _behind(rng, drawn, inside, machine))


def _within(rng: np.random.Generator, drawn: Lesion, machine: Scanner) -> Field:
    """Echoes of the lesion itself: without any in a cyst, else weaker than fat, even or mixed."""
    grain = 1 / machine.mm
    if "anechoic" in drawn.seen:
        return rng.uniform(-40, -26) + 2 * smooth(rng, machine.shape, (2 * grain, 4 * grain))
    unevenness = rng.uniform(3, 8) if "mixed" in drawn.seen else rng.uniform(0.3, 2.0)
    return rng.uniform(-15, -4) + unevenness * smooth(rng, machine.shape, (1.5 * grain, 2.2 * grain))


def _around(rng: np.random.Generator, drawn: Lesion, outline: Outline) -> Field:
    """What the lesion does to its surroundings: a capsule, a halo, dark spicules in it."""
    added, beyond = np.zeros(outline.beyond_mm.shape), outline.beyond_mm
    if "encapsulated" in drawn.seen:
        added += rng.uniform(6, 13) * np.exp(-(((beyond - 0.35) / 0.35) ** 2))
    if "haloed" in drawn.seen:
        added += rng.uniform(6, 13) * np.exp(-(((beyond - 1.2) / rng.uniform(1.0, 2.2)) ** 2))
    if "spiculated" in drawn.seen:
        reach = rng.uniform(0.35, 0.8) * max(drawn.half_mm)
        rays = np.zeros(_AROUND.size)
        for towards in rng.uniform(-np.pi, np.pi, int(rng.integers(6, 16))):
            away = np.angle(np.exp(1j * (_AROUND - towards)))
            rays += rng.uniform(8, 18) * np.exp(-((away / 0.07) ** 2))
        added -= np.interp(outline.angle, _AROUND, rays) * np.exp(-np.maximum(beyond, 0) / reach)
    return added


def _behind(rng: np.random.Generator, drawn: Lesion, inside: Field, machine: Scanner) -> Field:
    """Shadow or enhancement below the lesion, thin shadows below its edges, and shadows of something else."""
    path_mm = gaussian_filter1d(np.cumsum(inside, axis=0) * machine.mm, 0.6 / machine.mm, axis=1)
    if "shadowing" in drawn.seen:
        added = -np.minimum(rng.uniform(0.8, 2.6) * path_mm, rng.uniform(14, 34))
    elif "enhancing" in drawn.seen:
        added = np.minimum(rng.uniform(0.5, 1.6) * path_mm, rng.uniform(5, 13))
    else:
        added = rng.normal(0, 0.12) * path_mm
    if not drawn.malignant and rng.random() < 0.4 and "irregular" not in drawn.seen:
        slope = np.abs(np.gradient(path_mm[-1])) / machine.mm
        added = added - rng.uniform(2, 7) * (path_mm > 0.3) * np.minimum(slope / 2, 1)
    columns = machine.shape[1]
    stray = np.maximum(curve(rng, columns, rng.uniform(4, 20)) - rng.uniform(0.8, 2.5), 0) * rng.uniform(2, 14)
    fade = np.linspace(0.0, 1.0, machine.shape[0])[:, None]
    return np.asarray(added - stray * fade)
