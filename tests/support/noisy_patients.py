"""Patients with scores or Dice, dealt to sites whose sums get noise: what estimates from noisy sums are tried on."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit

from shared.evaluation import private_classification as ranked
from shared.evaluation import private_segmentation as outlined
from shared.evaluation.estimates import Noised, PrivateMeasures
from shared.privacy.noise import UnsafeSeededNoise
from shared.privacy.statistics import noised, summed_std

TWO = ("benign", "malignant")

BINARY = PrivateMeasures(
    ranked.schema("exclusive", 2),
    ranked.observe_exclusive,
    lambda cells: ranked.exclusive_metrics(cells, TWO),
    lambda cells: ranked.binning(cells, "exclusive", TWO),
)
DICE = PrivateMeasures(outlined.schema(2), outlined.observe, lambda cells: outlined.metrics(cells, ("lesion",)))


def scored(
    rng: np.random.Generator, patients: int, apart: float = 1.5
) -> tuple[NDArray[np.bool_], NDArray[np.float32]]:
    """Labels, three in ten of them positive, and scores whose log odds are two normal distributions."""
    labels = rng.random(patients) < 0.3
    odds = 2.0 * (rng.normal(size=patients) + apart * (labels - 0.5))
    return labels, expit(odds).astype(np.float32)


def weights_of(labels: NDArray[np.bool_], scores: NDArray[np.float32]) -> list[NDArray[np.float64]]:
    """What each patient's one image weighs."""
    pairs = np.stack([1 - scores, scores], axis=-1)
    return [ranked.observe_exclusive(pair, int(label)) for pair, label in zip(pairs, labels, strict=True)]


def dice_of(rng: np.random.Generator, patients: int) -> NDArray[np.float64]:
    """Dice of patients: one in ten is missed, the others are around 0.8; the mean is 0.735."""
    return np.where(rng.random(patients) < 0.1, rng.uniform(0, 0.3, patients), rng.beta(16, 4, patients))


def released(
    measures: PrivateMeasures, patients: Mapping[str, list[NDArray[np.float64]]], noise_multiplier: float, seed: int
) -> Noised:
    """Sums of sites, each with noise of its own, added up; a site is a key, a patient one image."""
    schema, noise = measures.schema, UnsafeSeededNoise(seed)
    total = np.zeros(schema.length, np.int64)
    for own in patients.values():
        counts = schema.collect((str(number), weights) for number, weights in enumerate(own))
        total += noised(counts, schema.sensitivity, noise_multiplier, noise)
    return Noised(schema, total, summed_std(schema.sensitivity, noise_multiplier, len(patients)))


def dealt(weights: list[NDArray[np.float64]], sites: int) -> dict[str, list[NDArray[np.float64]]]:
    """Patients dealt to ``sites`` sites in turn."""
    return {f"site-{number}": weights[number::sites] for number in range(sites)}
