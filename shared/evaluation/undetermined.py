"""Arithmetic for metrics that a set of cases may leave undetermined.

Promises
- Undetermined is NaN, never 0 and never 1: a site without a positive case has no sensitivity, not a bad one.
- A macro mean is taken over the classes that are determined, and is NaN only when none is.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

FloatArray = NDArray[np.float64]


def ratio(numerator: ArrayLike, denominator: ArrayLike) -> FloatArray:
    """Elementwise quotient of two arrays of one shape; NaN where the denominator is 0."""
    top, bottom = np.asarray(numerator, np.float64), np.asarray(denominator, np.float64)
    quotient = np.full(bottom.shape, np.nan)
    np.divide(top, bottom, out=quotient, where=bottom != 0)
    return quotient


def mean_of_determined(values: FloatArray) -> float:
    """Mean of the values that are not NaN; NaN when there are none."""
    determined = values[~np.isnan(values)]
    return float(determined.mean()) if determined.size else float("nan")


def named(values: Mapping[str, FloatArray], classes: Sequence[str]) -> dict[str, float]:
    """Metrics by name from one value per class, each of shape (len(classes),).

    One class gives ``auroc``. Several give ``auroc``, the macro mean, and ``auroc_<class>`` for each of them.
    """
    macro = {name: mean_of_determined(per_class) for name, per_class in values.items()}
    if len(classes) == 1:
        return macro
    single = {
        f"{name}_{label}": float(value)
        for name, per_class in values.items()
        for label, value in zip(classes, per_class, strict=True)
    }
    return macro | single


def named_rows(values: Mapping[str, FloatArray], classes: Sequence[str]) -> dict[str, FloatArray]:
    """As ``named`` for N sets of cases at once: values of shape (N, classes) become rows of shape (N,)."""
    macro = {name: _mean_by_row(per_class) for name, per_class in values.items()}
    if len(classes) == 1:
        return macro
    single = {
        f"{name}_{label}": per_class[:, column]
        for name, per_class in values.items()
        for column, label in enumerate(classes)
    }
    return macro | single


def _mean_by_row(values: FloatArray) -> FloatArray:
    known = ~np.isnan(values)
    return ratio(np.where(known, values, 0.0).sum(axis=-1), known.sum(axis=-1))
