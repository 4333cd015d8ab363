"""How far metrics from noisy sums are from those of all patients in one room.

    python benchmarks/private_evaluation.py            # the table, in a few minutes

Patients of ``SITES`` sites, one image each; each site adds its own noise; one release for each epsilon. Two kinds of
scores: confident (log odds of positives lie 3 above those of negatives, spread 2) and timid (most between .3 and .7).
The difference is taken from the metric of the same patients without noise: list of scores for ranks, exact Dice.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit
from sklearn.metrics import accuracy_score, average_precision_score, roc_auc_score

from shared.evaluation import private_classification, private_segmentation
from shared.evaluation.estimates import Estimate, Noised, PrivateMeasures, estimates
from shared.privacy.accounting import Target, noise_for
from shared.privacy.noise import UnsafeSeededNoise
from shared.privacy.statistics import noised, summed_std

SITES, DELTA = 5, 1e-5
PATIENTS, EPSILONS = (100, 300, 1000, 3000), (1.0, 2.0, 8.0)
CLASSES = ("benign", "malignant")

RANKED = PrivateMeasures(
    private_classification.schema("exclusive", 2),
    private_classification.observe_exclusive,
    lambda cells: private_classification.exclusive_metrics(cells, CLASSES),
    lambda cells: private_classification.binning(cells, "exclusive", CLASSES),
)
OVERLAP = PrivateMeasures(
    private_segmentation.schema(2),
    private_segmentation.observe,
    lambda cells: private_segmentation.metrics(cells, CLASSES[1:]),
)


@dataclass(frozen=True)
class Drawn:
    """Weights of patients, shape (patients, cells), and their metrics without noise or bins."""

    weights: NDArray[np.float64]
    exact: dict[str, float]


def scored(spread: float, shift: float, prevalence: float, rng: np.random.Generator, patients: int) -> Drawn:
    """Patients with a label and a score."""
    labels = rng.random(patients) < prevalence
    labels[:2] = True, False
    odds = spread * (rng.normal(size=patients) + 1.5 * labels - 0.75) + shift
    scores = expit(odds).astype(np.float32)
    pairs = np.stack([1 - scores, scores], axis=-1)
    return Drawn(
        np.stack([RANKED.observe(pair, int(label)) for pair, label in zip(pairs, labels, strict=True)]),
        {
            "auroc": float(roc_auc_score(labels, scores)),
            "average_precision": float(average_precision_score(labels, scores)),
            "accuracy": float(accuracy_score(labels, scores > 0.5)),
        },
    )


def outlined(rng: np.random.Generator, patients: int) -> Drawn:
    """Patients with a Dice, most of them well outlined and one in ten missed."""
    dice = np.where(rng.random(patients) < 0.1, rng.uniform(0, 0.3, patients), rng.beta(16, 4, patients))
    return Drawn(private_segmentation.spread(dice), {"dice": float(dice.mean())})


KINDS: dict[str, tuple[PrivateMeasures, Callable[[np.random.Generator, int], Drawn]]] = {
    "confident": (RANKED, lambda rng, patients: scored(2.0, 0.0, 0.3, rng, patients)),
    "timid": (RANKED, lambda rng, patients: scored(0.3, 0.0, 0.3, rng, patients)),
    "outlined": (OVERLAP, outlined),
}


def release(measures: PrivateMeasures, weights: NDArray[np.float64], noise_multiplier: float, seed: int) -> Noised:
    """Patients dealt to ``SITES`` sites, each of which adds noise; the sum."""
    schema, noise = measures.schema, UnsafeSeededNoise(seed)
    total = np.zeros(schema.length, np.int64)
    for site in range(SITES):
        own = schema.collect((str(number), one) for number, one in enumerate(weights[site::SITES]))
        total += noised(own, schema.sensitivity, noise_multiplier, noise)
    return Noised(schema, total, summed_std(schema.sensitivity, noise_multiplier, SITES))


def repeated(
    kind: str, patients: int, noise_multiplier: float, repeats: int
) -> Iterator[tuple[dict[str, float], dict[str, Estimate]]]:
    """(metrics without noise, estimates with it) of ``repeats`` sets of patients."""
    measures, draw = KINDS[kind]
    for seed in range(repeats):
        drawn = draw(np.random.default_rng([7, seed, patients]), patients)
        yield drawn.exact, estimates(measures, release(measures, drawn.weights, noise_multiplier, seed))


def main() -> None:
    """Print the table."""
    arguments = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    arguments.add_argument("--repeats", type=int, default=100)
    repeats = arguments.parse_args().repeats
    columns = [(epsilon, patients) for epsilon in EPSILONS for patients in PATIENTS]
    print("| | | " + " | ".join(f"ε {epsilon:g}, {patients}" for epsilon, patients in columns) + " |")
    print("|---" * (len(columns) + 2) + "|")
    multipliers = {epsilon: noise_for(Target(epsilon, DELTA, 1.0, 1)) for epsilon in EPSILONS}
    for kind in KINDS:
        rows: dict[str, list[str]] = {}
        for epsilon, patients in columns:
            found = list(repeated(kind, patients, multipliers[epsilon], repeats))
            for name in found[0][0]:
                errors = [abs(with_noise[name].value - exact[name]) for exact, with_noise in found]
                rows.setdefault(name, []).append(f"{np.nanmean(errors):.3f}")
        for name, cells in rows.items():
            print(f"| {kind} | {name} | " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main()
