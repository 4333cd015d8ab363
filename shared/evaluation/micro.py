"""Metrics of all cases laid together: counts are summed over cases first, and over classes for the overall number.

Promises
- ``totals`` has the sum over classes in row 0 and the classes after it; whatever is computed row by row from it is
  named by ``named_totals``: the bare name is the overall number, ``<name>_<class>`` one class where there are several.
- The overall number is not a mean over classes: a class with many voxels or lesions weighs more. Metrics that are
  means over cases go through ``undetermined.named``, where classes weigh the same.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from shared.evaluation.additive import IntArray
from shared.evaluation.undetermined import FloatArray


def totals(counts: IntArray) -> IntArray:
    """Counts by class, shape (F, ...), below their sum: shape (F + 1, ...)."""
    return np.concatenate([counts.sum(axis=0, keepdims=True), counts])


def named_totals(values: Mapping[str, FloatArray], classes: Sequence[str]) -> dict[str, float]:
    """Metrics by name from values of the rows of ``totals``, each of shape (len(classes) + 1,)."""
    endings = ["", *(f"_{label}" for label in classes)] if len(classes) > 1 else [""]
    return {f"{name}{ending}": float(of[row]) for name, of in values.items() for row, ending in enumerate(endings)}
