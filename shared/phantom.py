"""The built-in phantom: images, masks, scores and weights that every party makes anew from integers.

Promises
- No file, no clock and no generator whose stream may change: everything is integer arithmetic on positions and on
  ``integers``, so it is the same to the bit on every machine and with every version of every library.
- It holds what preprocessing and metrics can get wrong: a dark border, a body off the centre with a ramp and texture,
  blobs of the plan's classes, unequal edges and spacings, an empty mask, an empty prediction, tied scores.
- ``sketch`` says in eight numbers how far two arrays are apart: the distance of two sketches estimates the root mean
  square difference of the arrays.

What is done with it is ``shared.admission``'s. Nothing here has ever seen a patient.

Sources: the mixing function of SplitMix64 (Steele, Lea & Flood, OOPSLA 2014, section 4); random signs as projections
(Achlioptas, "Database-friendly random projections", JCSS 2003).
"""

from __future__ import annotations

import hashlib
import math

import numpy as np
import torch
from numpy.typing import NDArray

from shared.plan import Plan
from shared.preprocessing.image import Case, FloatArray, Image, MaskArray

PROJECTIONS = 8
"""Numbers in a sketch."""

CASES = 24
"""Images with known predictions, of half as many patients."""

_SHAPES = {2: ((61, 47), (44, 52)), 3: ((19, 41, 37),)}
_SPACINGS_MM = {2: ((0.75, 0.5), (1.25, 1.0)), 3: ((2.5, 0.75, 0.5),)}
_SCORED = {2: (13, 18), 3: (7, 10, 12)}

# Of a large network there is never a second copy in double precision.
_AT_ONCE = 2**18

# Integers that fill a large parameter: a prime, so that rows of no usual length repeat one another.
_PERIOD = 65521

# Positions are told in 128ths of an edge, so that one blob has the same place in any shape.
_EDGE = 128
_BODY = (56, 50)
_STEP = np.uint64(0x9E3779B97F4A7C15)
_FIRST, _SECOND = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)


def integers(name: str, count: int) -> NDArray[np.uint64]:
    """``count`` integers below 2**64 that look random and are a function of ``name`` and position alone."""
    start = np.uint64(int.from_bytes(hashlib.sha256(b"consilium-phantom-1" + name.encode()).digest()[:8], "big"))
    mixed = start + _STEP * np.arange(1, count + 1, dtype=np.uint64)
    mixed = (mixed ^ (mixed >> np.uint64(30))) * _FIRST
    mixed = (mixed ^ (mixed >> np.uint64(27))) * _SECOND
    return mixed ^ (mixed >> np.uint64(31))


def sketch(values: NDArray[np.generic]) -> list[float]:
    """Eight projections of an array on random signs, divided by the root of its size.

    The root mean square of the differences of two sketches estimates that of the two arrays, to a factor of about 2.
    """
    flat = values.ravel()
    sums = np.zeros(PROJECTIONS)
    for number, start in enumerate(range(0, flat.size, _AT_ONCE)):
        part = flat[start : start + _AT_ONCE].astype(np.float64)
        bits = integers(f"signs-{number}", part.size)
        sums += [part @ (1.0 - 2.0 * ((bits >> np.uint64(bit)) & np.uint64(1))) for bit in range(PROJECTIONS)]
    found: list[float] = (sums / math.sqrt(max(flat.size, 1))).tolist()
    return found


def blob(shape: tuple[int, ...], centre: int, radius: int) -> NDArray[np.bool_]:
    """An ellipsoid on the diagonal of ``shape``; centre and radius in 128ths of each edge."""
    distance = np.zeros(shape, np.int64)
    for axis, edge in enumerate(shape):
        place = (2 * np.arange(edge) + 1) * _EDGE // (2 * edge) - centre
        distance += (place**2).reshape([-1 if other == axis else 1 for other in range(len(shape))])
    return distance <= radius**2


def mask(shape: tuple[int, ...], classes: int) -> MaskArray:
    """Class indices: a blob for each class but the first, in a row along the diagonal, within the body."""
    found = np.zeros(shape, np.uint8)
    for index in range(1, classes):
        found[blob(shape, 24 + 64 * index // classes, max(24 // (classes - 1), 9))] = index
    return found


def scans(plan: Plan) -> list[tuple[Image, MaskArray]]:
    """Images as files would give them, with masks: in 2-D one grey and one in colour, in 3-D one volume."""
    channels = (1, 3)[: len(_SHAPES[plan.dimensions])]
    kinds = zip(channels, _SHAPES[plan.dimensions], _SPACINGS_MM[plan.dimensions], strict=True)
    return [_scan(plan, *kind) for kind in kinds]


def _scan(plan: Plan, channels: int, shape: tuple[int, ...], spacing_mm: tuple[float, ...]) -> tuple[Image, MaskArray]:
    truth = mask(shape, len(plan.data.classes))
    ramp = np.indices(shape).sum(axis=0) % 64
    texture = (integers("scan", channels * math.prod(shape)) % np.uint64(64)).astype(np.int64).reshape(channels, *shape)
    grey = np.where(blob(shape, *_BODY), 48 + ramp + texture + 40 * (truth > 0), 0)
    # Hounsfield units from air to bone; grey values of 0 to 255 elsewhere.
    voxels = 8 * grey - 1024 if plan.data.modality == "ct" else grey
    return Image(voxels.astype(np.float32), spacing_mm, plan.data.modality), truth


def inputs(plan: Plan, shape: tuple[int, ...], count: int) -> FloatArray:
    """Preprocessed images (count, C, *shape), of values in [-2, 2) in steps of 1/64."""
    full = (count, plan.input_channels, *shape)
    return _uniform("inputs", math.prod(full), 7).reshape(full) * np.float32(2)


def case(plan: Plan, number: int, shape: tuple[int, ...]) -> Case:
    """Labelled case ``number``; two each are of one patient. Its voxels are zeros: what is scored is known."""
    classes = len(plan.data.classes)
    label: int | tuple[int, ...] = number % classes
    if plan.data.labels == "multilabel":
        label = tuple(int(bit) for bit in integers(f"findings-{number}", classes) % np.uint64(2))
    voxels = np.zeros((1, *shape), np.float32)
    return Case(f"phantom-{number}", f"phantom-{number // 2}", voxels, mask(shape, classes), label, (1.0,) * len(shape))


def scored_images(plan: Plan) -> list[tuple[Case, FloatArray]]:
    """Cases with scores (K,) in steps of 1/256, mostly right; ties and scores of 0 and 1 among them."""
    shape, classes = _SCORED[plan.dimensions], len(plan.data.classes)
    found = []
    for number in range(CASES):
        labelled = case(plan, number, shape)
        if isinstance(labelled.label, tuple):
            parts = (integers(f"scores-{number}", classes) % np.uint64(257)).astype(np.int64)
        else:
            parts = _shares(classes, number)
        found.append((labelled, (parts / 256).astype(np.float32)))
    return found


def _shares(classes: int, number: int) -> NDArray[np.int64]:
    """256 parts over exclusive classes: one favoured, right two times in three, the rest evenly over the others."""
    certain, tied = 256, 256 // classes
    drawn = 64 + int(integers(f"scores-{number}", 1)[0] % np.uint64(193))
    first, favoured = {0: certain, 1: tied}.get(number, drawn), (number + (number % 3 == 2)) % classes
    parts = np.full(classes, (256 - first) // (classes - 1), np.int64)
    parts[favoured] = first
    parts[favoured - 1] += 256 - parts.sum()
    return parts


def scored_masks(plan: Plan) -> list[tuple[Case, FloatArray]]:
    """Cases with one-hot scores (K, *shape): right, shifted, empty, and predicted where there is nothing."""
    shape, classes = _SCORED[plan.dimensions], len(plan.data.classes)
    labelled = [case(plan, number, shape) for number in range(5)]
    truth, nothing = mask(shape, classes), np.zeros(shape, np.uint8)
    absent = Case("phantom-5", "phantom-5", labelled[0].voxels, nothing, None, (1.5, 1.0, 0.5)[: len(shape)])
    decided = [truth, np.roll(truth, 1, axis=-1), np.roll(truth, 2, axis=-1), nothing, truth[..., ::-1], truth, nothing]
    pairs = zip([*labelled, absent, absent], decided, strict=True)
    return [(one, np.stack([found == index for index in range(classes)]).astype(np.float32)) for one, found in pairs]


def set_weights(network: torch.nn.Module) -> None:
    """Fill every parameter, trained or frozen, with a pattern that depends on its name and shape alone.

    Matrices and kernels get values that keep the size of what passes through them; factors of normalisation lie around
    1, offsets around 0.
    """
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            values = _uniform(name, min(parameter.numel(), _PERIOD), 15)
            if parameter.ndim > 1:
                values = values * np.float32(math.sqrt(6 / math.prod(parameter.shape[1:])))
            else:
                values = values / np.float32(4) + np.float32(name.endswith("weight"))
            parameter.copy_(torch.from_numpy(np.resize(values, tuple(parameter.shape))))


def _uniform(name: str, count: int, bits: int) -> FloatArray:
    """``count`` multiples of 2**-(bits - 1) in [-1, 1): exact in float32 up to 24 bits."""
    found = (integers(name, count) >> np.uint64(64 - bits)).astype(np.int64) - (1 << (bits - 1))
    return (found / (1 << (bits - 1))).astype(np.float32)
