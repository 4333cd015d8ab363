"""How far the predicted size of a structure is off: per case, absolute and relative, with and without sign.

Promises
- ``error`` is never negative; ``bias`` keeps the sign and is positive where the prediction is too large. Errors of
  different sign do not cancel in the first and do in the second, so both are needed.
- Units are in the names: ``volume_..._ml`` for volumes, ``area_..._mm2`` for 2-D images. Where an image does not know
  its spacing, a pixel counts as 1 mm wide, so mm2 are pixels.
- Metrics are means over cases. A case is rounded once to 2**-20 of the unit.

With V the predicted and T the true size (relative ones as in the LiTS challenge, Bilic et al., Medical Image Analysis
2023; for 2-D read ``area_..._mm2``):

=======================  ==================  =================  =============  ============
measure                  formula             both empty         only T empty   only V empty
=======================  ==================  =================  =============  ============
volume_error_ml          |V - T|             not counted        V              T
volume_bias_ml           V - T               not counted        V              -T
volume_error_relative    |V - T| / T         not counted        not counted    1
volume_bias_relative     (V - T) / T         not counted        not counted    -1
=======================  ==================  =================  =============  ============

Relative errors have no upper limit: a false finding beside a truth of a few voxels can be a hundred times its size.
Read them beside the error in units.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

from shared.evaluation.additive import UNIT, IntArray, Observation
from shared.evaluation.undetermined import FloatArray, named, ratio

DEFINED = "volumes-defined"
SUMS = "volumes-sums"

_MM3_PER_ML = 1000.0
_NAMES = {
    2: ("area_error_mm2", "area_bias_mm2", "area_error_relative", "area_bias_relative"),
    3: ("volume_error_ml", "volume_bias_ml", "volume_error_relative", "volume_bias_relative"),
}
RANGES: Mapping[str, tuple[float, float]] = {
    name: (-math.inf if "bias" in name else 0.0, math.inf) for names in _NAMES.values() for name in names
}
"""Range of each measure by name."""


def shapes(foreground: int) -> tuple[tuple[str, tuple[int, ...]], ...]:
    """Names and shapes of what a case adds: how often sizes and relative sizes were defined, and four sums."""
    return (DEFINED, (foreground, 2)), (SUMS, (foreground, 4))


def observe(voxels: IntArray, spacings_mm: FloatArray) -> Observation:
    """Contributions of N cases, from voxels of P & T, of P and of T, shape (N, F, 3), and the spacing of each axis."""
    predicted, true = voxels[..., 1], voxels[..., 2]
    difference = predicted - true
    per_unit = _MM3_PER_ML if spacings_mm.shape[1] == 3 else 1.0
    unit = np.array([[math.prod(spacing_mm) / per_unit] for spacing_mm in spacings_mm.tolist()])
    relative = np.where(true > 0, difference / np.maximum(true, 1), 0.0)
    values = np.stack([np.abs(difference) * unit, difference * unit, np.abs(relative), relative], axis=-1)
    return {
        DEFINED: np.stack([predicted + true > 0, true > 0], axis=-1).astype(np.int64),
        SUMS: np.rint(values / UNIT).astype(np.int64),
    }


def metrics(counts: Mapping[str, IntArray], classes: Sequence[str], dimensions: int) -> dict[str, float]:
    """Metrics from summed counts; ``classes`` are the names of the foreground classes."""
    means = ratio(counts[SUMS] * UNIT, np.repeat(counts[DEFINED], 2, axis=1))
    return named(dict(zip(_NAMES[dimensions], means.T, strict=True)), classes)
