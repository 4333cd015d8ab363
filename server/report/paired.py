"""How two models differ on the same patients: the bootstrap over patients.

Promises
- Patients are drawn, never images: all images of a patient come along or stay out. Sites are fixed, and patients are
  drawn within them, because the question is about these sites (Davison & Hinkley, Bootstrap Methods, 1997, ch. 3).
- Both models are measured on each draw, so that what makes a patient easy or hard cancels in the difference.
- The seed fixes every draw: the same predictions give the same interval.

===========================================  ===========================================================================
case                                         what happens
===========================================  ===========================================================================
other cases, or another truth for a case     not paired; the reason is returned in place of an interval
a metric that rows do not determine          not paired: only Dice and AUROC follow from ``predictions.csv``
a draw without a positive or a negative      left out of the interval
fewer than two patients                      not paired
===========================================  ===========================================================================
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Rows = Sequence[Mapping[str, str]]
Estimator = Callable[[Floats], float]
"""A metric as a function of one weight per case."""

DRAWS = 2000
SEED = 0
_KEY = ("site", "patient", "case")


@dataclass(frozen=True, slots=True)
class Difference:
    """Second minus first, its 95 % interval, and the patients it rests on."""

    value: float
    low: float
    high: float
    n_patients: int


def paired_difference(metric: str, first: Rows, second: Rows, draws: int = DRAWS, seed: int = SEED) -> Difference | str:
    """Bootstrap percentile interval of the metric's difference, or the reason why there is none."""
    one, two = (sorted(rows, key=_key) for rows in (first, second))
    if reason := _unpairable(one, two):
        return reason
    before, after = estimator(metric, one), estimator(metric, two)
    if before is None or after is None:
        return f"{metric} does not follow from predictions"
    patients, sites = _patients(one)
    rng, whole, amounts = np.random.default_rng(seed), np.ones(len(one)), list(Counter(sites).values())
    drawn = (_draw(amounts, rng)[patients] for _ in range(draws))
    differences = np.array([after(weights) - before(weights) for weights in drawn])
    known = differences[~np.isnan(differences)]
    if len(sites) < 2 or not known.size:
        return "the patients in common do not determine an interval"
    low, high = np.percentile(known, [2.5, 97.5])
    return Difference(after(whole) - before(whole), float(low), float(high), len(sites))


def _unpairable(one: Rows, two: Rows) -> str:
    if not one or not two:
        return "not both runs have predictions"
    if [_key(row) for row in one] != [_key(row) for row in two]:
        return "the runs were tested on different cases"
    if any(a[name] != b.get(name) for a, b in zip(one, two, strict=True) for name in a if name.startswith("label")):
        return "the runs do not agree on the truth of a case"
    return ""


def estimator(metric: str, rows: Rows) -> Estimator | None:
    """``metric`` of weighted rows, as ``shared.evaluation`` defines it: by class, then the mean over classes."""
    columns = list(rows[0])
    if metric == "dice":
        single = [name for name in columns if name.startswith("dice_")] or ["dice"] * ("dice" in columns)
        parts = [_mean(_column(rows, name)) for name in single]
    elif metric == "auroc":
        parts = [_auroc(positive, _column(rows, score)) for positive, score in _findings(rows, columns)]
    else:
        parts = []
    return (lambda weights: _mean_of_determined([part(weights) for part in parts])) if parts else None


def _auroc(positive: Floats, scores: Floats) -> Estimator:
    """P(s+ > s-) + P(s+ = s-) / 2 over weighted pairs, as ``shared.evaluation.ranking`` has it, without bins."""
    order = np.argsort(scores, kind="stable")
    starts = np.flatnonzero(np.r_[True, np.diff(scores[order]) > 0])

    def of(weights: Floats) -> float:
        above = np.add.reduceat((weights * positive)[order], starts)
        below = np.add.reduceat((weights * (1 - positive))[order], starts)
        pairs = above.sum() * below.sum()
        wins = (above * (below.cumsum() - below / 2)).sum()
        return float(wins / pairs) if pairs else float("nan")

    return of


def _mean(values: Floats) -> Estimator:
    known = ~np.isnan(values)

    def of(weights: Floats) -> float:
        total = weights[known].sum()
        return float((weights[known] * values[known]).sum() / total) if total else float("nan")

    return of


def _findings(rows: Rows, columns: Sequence[str]) -> list[tuple[Floats, str]]:
    """(1 for a positive, column of its score) for each finding that ``Task.describe`` wrote."""
    if "score" in columns:
        return [(_column(rows, "label"), "score")]
    scores = [name for name in columns if name.startswith("score_")]
    if "label" in columns:
        label = _column(rows, "label")
        return [((label == place).astype(np.float64), score) for place, score in enumerate(scores)]
    return [(_column(rows, "label_" + score.removeprefix("score_")), score) for score in scores]


def _mean_of_determined(values: Sequence[float]) -> float:
    known = [value for value in values if not np.isnan(value)]
    return sum(known) / len(known) if known else float("nan")


def _patients(rows: Rows) -> tuple[NDArray[np.intp], list[str]]:
    """Index of the patient of each row, and the site of each patient; rows are sorted by site and patient."""
    names = [(row["site"], row["patient"]) for row in rows]
    known = {name: place for place, name in enumerate(dict.fromkeys(names))}
    return np.array([known[name] for name in names]), [site for site, _ in known]


def _draw(amounts: Sequence[int], rng: np.random.Generator) -> Floats:
    """How often each patient is drawn, with replacement within each site of so many patients."""
    return np.concatenate([rng.multinomial(amount, np.full(amount, 1 / amount)) for amount in amounts]).astype(
        np.float64
    )


def _column(rows: Rows, name: str) -> Floats:
    return np.array([float(row[name]) if row[name] else np.nan for row in rows])


def _key(row: Mapping[str, str]) -> tuple[str, ...]:
    return tuple(row[name] for name in _KEY)
