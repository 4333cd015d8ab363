"""Counts of simulated federations, as sites would send them: many federations at once, no case made.

A patient has a state (sick or not), a quality of outlining, and one or more images that resemble each other; two models
see the same images and mostly err on the same ones. A site shifts all of its patients. Counts have shape
(federations, groups, ...), and patients fall into groups at random, as hashes do.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit

from shared.evaluation.additive import GROUPS
from shared.evaluation.ranking import BINS, EDGES, auroc, average_precision
from shared.evaluation.undetermined import ratio

Array = NDArray[np.float64]
Counts = Mapping[str, NDArray[np.generic]]

METRICS: dict[str, tuple[float, float]] = {
    "AUROC": (0.0, 1.0),
    "AP": (0.0, 1.0),
    "accuracy": (0.0, 1.0),
    "sensitivity": (0.0, 1.0),
    "Brier": (0.0, 1.0),
    "Dice mean": (0.0, 1.0),
    "Dice micro": (0.0, 1.0),
    "HD95 mean": (0.0, float("inf")),
}
"""Limits of each metric of the study."""

FINE = "fine "
"""Begins the names of what is counted over all groups at once, shape (federations, 1, BINS)."""

_COARSE = 64
"""Bins by group, as for two classes; each holds as many of the fine ones."""
_SHARED = 0.8
"""Correlation of what two models make of one patient, and of one image."""


@dataclass(frozen=True)
class Setting:
    """One kind of federation.

    Attributes:
        name: as in the table.
        seed: part of the seed of its draws.
        sites: patients at each site.
        images: at most so many of a patient, from 1 on, all numbers alike.
        shift: of the log odds at each site.
        prevalence: share of sick patients.
        come: the sites' sizes are given, patients come to sites in these shares, or shifts are those of new hospitals.
        unit: whose images go to one group; ``image`` is the mistake that a control makes.
    """

    name: str
    seed: int
    sites: tuple[int, ...]
    images: int = 1
    shift: tuple[float, ...] = (0.0,) * 5
    prevalence: float = 0.4
    come: Literal["given", "in shares", "new hospitals"] = "given"
    unit: Literal["patient", "image"] = "patient"

    @property
    def patients(self) -> int:
        """Of all sites."""
        return sum(self.sites)


_APART = (-1.0, -0.5, 0.0, 0.5, 1.0)
_UNEQUAL = (10, 20, 50, 150, 400)
SETTINGS = (
    Setting("5 sites of 40", 1, (40,) * 5),
    Setting("sites of 10, 20, 50, 150, 400", 2, _UNEQUAL),
    Setting("1 to 8 images a patient", 3, (40,) * 5, images=8),
    Setting("sites differ, sizes as they are", 4, (40,) * 5, shift=_APART),
    Setting("sites differ, patients come in shares", 5, (40,) * 5, shift=_APART, come="in shares"),
    Setting("unequal sites that differ", 6, _UNEQUAL, shift=_APART),
    Setting("60 patients", 7, (12,) * 5),
    Setting("60 patients, 1 to 8 images", 8, (12,) * 5, images=8),
    Setting("10 % positive of 200", 9, (40,) * 5, prevalence=0.1),
    Setting("10 % positive of 630, unequal", 10, _UNEQUAL, prevalence=0.1),
    Setting("10 % positive of 60", 11, (12,) * 5, prevalence=0.1),
    Setting("*control: images taken for patients*", 12, (40,) * 5, images=8, unit="image"),
    Setting("*control: hospitals not seen*", 13, (40,) * 5, shift=_APART, come="new hospitals"),
)


def draw(setting: Setting, federations: int, rng: np.random.Generator) -> tuple[Counts, Counts]:
    """Counts of two models on the same patients."""
    shape = (federations, setting.patients)
    shift = _shifts(setting, shape, rng)
    seen = np.arange(setting.images) < rng.integers(1, setting.images + 1, shape)[..., None]
    groups = rng.integers(GROUPS, size=seen.shape if setting.unit == "image" else (*shape, 1))
    cells = (np.arange(federations)[:, None, None] * GROUPS + np.broadcast_to(groups, seen.shape))[seen]
    sick = np.broadcast_to((rng.random(shape) < setting.prevalence)[..., None], seen.shape)
    extent = np.exp(6 + 0.8 * rng.normal(size=(*shape, 1)) + 0.1 * rng.normal(size=seen.shape))
    odds, quality = _two_models(0.9, 0.6, seen.shape, rng), _two_models(0.8, 0.4, seen.shape, rng)
    both = []
    for model, (separation, outlining) in enumerate(((1.8, 1.4), (2.0, 1.5))):
        score = expit(separation * sick - 1 + shift[..., None] + odds[model])
        adrift = quality[model] + 0.8 * shift[..., None]
        measured = _measured(score, sick, adrift, outlining, extent, rng)
        both.append(_counted({name: of[seen] for name, of in measured.items()}, cells, federations))
    return both[0], both[1]


def metrics_of(counts: Counts) -> dict[str, Array]:
    """The study's metrics of counts with any leading axes."""
    positives, negatives = counts["positives"], counts["negatives"]
    ranked = counts.get(f"{FINE}positives", positives), counts.get(f"{FINE}negatives", negatives)
    return {
        "AUROC": auroc(*ranked),
        "AP": average_precision(*ranked),
        "accuracy": ratio(counts["right"], counts["cases"]),
        "sensitivity": ratio(counts["hits"], positives.sum(axis=-1)),
        "Brier": ratio(counts["brier"], counts["cases"]),
        "Dice mean": ratio(counts["dice"], counts["cases"]),
        "Dice micro": ratio(2 * counts["common"], counts["voxels"]),
        "HD95 mean": ratio(counts["hd95"], counts["cases"]),
    }


def _shifts(setting: Setting, shape: tuple[int, int], rng: np.random.Generator) -> Array:
    """Of each patient's site, shape (federations, patients)."""
    sites = np.broadcast_to(np.repeat(np.arange(len(setting.sites)), setting.sites), shape)
    if setting.come == "in shares":
        sites = rng.choice(len(setting.sites), p=np.array(setting.sites) / setting.patients, size=shape)
    shifts = np.broadcast_to(np.array(setting.shift), (shape[0], len(setting.sites)))
    if setting.come == "new hospitals":
        shifts = rng.normal(scale=np.std(setting.shift), size=shifts.shape)
    return np.take_along_axis(shifts, sites, axis=1)


def _two_models(patient: float, image: float, shape: tuple[int, ...], rng: np.random.Generator) -> tuple[Array, Array]:
    """Deviations with these standard deviations between and within patients, correlated over the two models."""

    def deviations() -> Array:
        return patient * rng.normal(size=(*shape[:2], 1)) + image * rng.normal(size=shape)

    first = deviations()
    return first, _SHARED * first + np.sqrt(1 - _SHARED**2) * deviations()


def _measured(
    score: Array, sick: NDArray[np.bool_], adrift: Array, outlining: float, extent: Array, rng: np.random.Generator
) -> dict[str, Array]:
    """What is added up of each image, shape (federations, patients, images)."""
    called = score >= 0.5
    missed = rng.random(score.shape) < 0.04
    dice = np.where(missed, 0.0, expit(outlining + adrift + 0.3 * (np.log(extent) - 6)))
    voxels = extent * (1 + np.exp(0.2 * rng.normal(size=extent.shape)))
    return {
        "score": score,
        "sick": sick.astype(np.float64),
        "right": (called == sick).astype(np.float64),
        "hits": (called & sick).astype(np.float64),
        "brier": (score - sick) ** 2,
        "dice": dice,
        "common": dice * voxels / 2,
        "voxels": voxels,
        "hd95": np.exp(1.8 - 0.6 * adrift + 0.4 * rng.normal(size=score.shape)),
    }


def _counted(measured: Mapping[str, Array], cells: NDArray[np.int_], federations: int) -> Counts:
    """Sums over the images of each group, shape (federations, groups, ...)."""
    shape, sick = (federations, GROUPS), measured["sick"] == 1
    which = np.searchsorted(EDGES[1:-1], measured["score"], side="right")
    bins, fine = cells * _COARSE + which // (BINS // _COARSE), cells // GROUPS * BINS + which
    counts: dict[str, NDArray[np.generic]] = {
        name: np.bincount(cells, of, federations * GROUPS).reshape(shape)
        for name, of in measured.items()
        if name not in {"score", "sick"}
    }
    counts["cases"] = np.bincount(cells, minlength=federations * GROUPS).reshape(shape)
    for name, these in (("positives", sick), ("negatives", ~sick)):
        counts[name] = np.bincount(bins[these], minlength=federations * GROUPS * _COARSE).reshape(*shape, _COARSE)
        counts[FINE + name] = np.bincount(fine[these], minlength=federations * BINS).reshape(federations, 1, BINS)
    return counts
