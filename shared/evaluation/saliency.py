"""What may leave a site about explanations: how much of a network's attention lies inside the lesion.

Promises
- A saliency map is an image of a patient and never leaves. What leaves are sums over cases, by patient group, under the
  same rules as all other statistics: pooled numbers are those of all cases in one room, with patient-level intervals.
- Only cases with a lesion mask are counted. A map that says nothing (0 everywhere, not finite) enters no mean; how
  often there was something to see is a metric of its own, so that silence cannot pass for good aim.
- Beside each share stands what a map without knowledge would reach (``saliency_chance``).
- Moments are rounded once a case to 2**-20. The method is part of the definition: maps of two methods never add up.

====================  ============================================================  ===================================
metric                of one case, with map s >= 0 and lesion M                     expected of
====================  ============================================================  ===================================
saliency_inside       sum of s over M / sum of s over the image                     an even map: ``saliency_chance``
                      ("energy-based pointing game": Wang et al., CVPR Workshops
                      2020)
pointing_game         1 if the largest s lies in M, else 0; of equals the share     a random voxel: ``saliency_chance``
                      that does (Zhang et al., IJCV 2018, without its margin)
saliency_chance       |M| / voxels of the image
saliency_found        1 if the map says anything, else 0
====================  ============================================================  ===================================

Each is a mean over cases, by class: ``<metric>_<class>``; the plain name is the macro mean over the classes that have
such cases.

Rules
- A mask that covers the whole image gives 1 for all three; the chance level says how little that means.
- ``saliency_chance`` knows nothing of where lesions lie. In images cropped around the lesion, a map that always points
  to the middle beats it without having looked: read it together with the maps of a network of random weights.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from shared.evaluation.additive import UNIT, IntArray, Observation, Schema, in_units
from shared.evaluation.undetermined import named, ratio

MOMENTS = ("saliency_inside", "pointing_game", "saliency_chance")

MASKED = "masked"
FOUND = "found"
SUMS = "sums"

Saliency = NDArray[np.float32]
"""One explained image: shape (*spatial), at least 0."""
Mask = NDArray[np.uint8]
"""Shape (*spatial); a lesion is whatever is not 0."""


def schema(classes: int, method: str) -> Schema:
    """Counts of K classes, explained by ``method``: one row each."""
    return Schema(f"saliency-1, {method}", ((MASKED, (classes,)), (FOUND, (classes,)), (SUMS, (classes, len(MOMENTS)))))


def limits(names: Iterable[str]) -> dict[str, tuple[float, float]]:
    """The range of each metric by name: all are proportions."""
    return dict.fromkeys(names, (0.0, 1.0))


def measured(saliency: Saliency, mask: Mask) -> dict[str, float] | None:
    """The three moments of one case by name; None where the map says nothing."""
    inside, total = mask > 0, float(saliency.sum(dtype=np.float64))
    if not 0 < total < np.inf:
        return None
    peaks = saliency == saliency.max()
    values = (
        float(saliency[inside].sum(dtype=np.float64)) / total,
        np.count_nonzero(peaks & inside) / np.count_nonzero(peaks),
        np.count_nonzero(inside) / inside.size,
    )
    return dict(zip(MOMENTS, values, strict=True))


def observe(maps: Mapping[int, Saliency], mask: Mask, classes: int) -> Observation:
    """One case's contribution: its map for each class that it has, and its mask."""
    masked, found = np.zeros(classes, np.int64), np.zeros(classes, np.int64)
    sums = np.zeros((classes, len(MOMENTS)), np.int64)
    for index, saliency in maps.items():
        masked[index] = 1
        moments = measured(saliency, mask)
        if moments is not None:
            found[index] = 1
            sums[index] = [in_units(moments[name]) for name in MOMENTS]
    return {MASKED: masked, FOUND: found, SUMS: sums}


def metrics(counts: Mapping[str, IntArray], classes: Sequence[str]) -> dict[str, float]:
    """Metrics from summed counts, the group axis summed away; NaN where no case determines one."""
    found = counts[FOUND]
    means = {name: ratio(counts[SUMS][:, column] * UNIT, found) for column, name in enumerate(MOMENTS)}
    return named(means | {"saliency_found": ratio(found, counts[MASKED])}, classes)
