"""Admission by phantom: what this installation computes under a plan, before anybody trusts its numbers.

Promises
- ``fingerprint_of`` runs a plan's preprocessing, augmentation, network, decoding and statistics on the built-in phantom
  (``shared.phantom``) and tells the results, with versions and schemas, as ``shared.fingerprint`` compares them.
- Every part has its own input, made from integers: a fault in one part shows in the entries of that part only.
- It is a function of plan and installation. No case of a site is read, no global generator of torch or numpy is moved,
  and the network that it runs is its own, built anew and forgotten.
- Images and networks are told as numbers, since the last bits differ between processors; what is computed in integers
  (grids, masks, statistics, draws) as SHA-256.

========================  =========================================================  ==================
entry                     what was computed                                          told as
========================  =========================================================  ==================
preprocessing.grey, ...   ``prepare`` of each scan                                   sketch, voxels
preprocessing.grid        shapes, masks and spacings of the same                     SHA-256
augmentation.image, mask  ``augment`` with a fixed generator                         sketch
augmentation.draws        patches, and what the generator gives afterwards           SHA-256
weights.initial           the weights that the plan's seed gives                     sketch
network.NAME.logits, ...  logits, loss of each image, norm of the gradient: with     sketch, numbers
                          the initial weights, and with a fixed pattern of weights,
                          in float32 on the CPU
device.NAME.logits, ...   the same where and as precisely as this party trains       sketch, numbers
decoding                  scores of known logits                                     sketch
statistics                statistics of known predictions, as they leave a site      SHA-256
metrics.NAME              each metric of the same                                    number, float64
========================  =========================================================  ==================

All names begin with ``phantom.``. A part that refuses the phantom (a plan for images that it is not like) tells the
code of the refusal, which must be the same everywhere.

Left out: reading files (the phantom starts as a canonical image), weights from ``model.pretrained`` (known by their
SHA-256), and honesty. A party can report what it likes: this finds mistakes, not attacks.
"""

from __future__ import annotations

import contextlib
import hashlib
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from shared import fingerprint, models, phantom
from shared.arrays import read_vector, schema_of
from shared.errors import CaseError
from shared.evaluation.additive import IntArray, collect
from shared.fingerprint import Arithmetic, Fingerprint, numbers
from shared.models.table import architecture, resolve_widths
from shared.plan import Plan
from shared.preprocessing.augmentation import augment, random_patch
from shared.preprocessing.image import Case, FloatArray
from shared.preprocessing.pipeline import prepare
from shared.seeds import generator
from shared.tasks.task import Task, private_measures, released_definition

_IMAGES = 2
_SHORTEST = 16
_DEEPEST = {"group": 4, "instance": 16}
"""Voxels wanted at a network's deepest level, by norm. The deviation of four voxels is close to zero in one of many
channels, and instance norm divides by it: deep networks then multiply the last bit by 100,000."""

_SCANS = ("grey", "colour")
_CPU = torch.device("cpu")

Entries = dict[str, str]


@dataclass(frozen=True)
class Machine:
    """Where and how precisely a party runs networks; as it stands: float32 on the CPU.

    Attributes:
        device: where networks are.
        layout: of a network and its input in memory.
        precision: makes the context of a forward pass.
        arithmetic: what products are computed in, at worst.
    """

    device: torch.device = _CPU
    layout: torch.memory_format = torch.contiguous_format
    precision: Callable[[], contextlib.AbstractContextManager[object]] = contextlib.nullcontext
    arithmetic: Arithmetic = "float32"

    @property
    def is_reference(self) -> bool:
        """Whether running a network here is running it on the CPU in float32."""
        plain = self.layout == torch.contiguous_format and self.arithmetic == "float32"
        return self.device.type == "cpu" and plain


def fingerprint_of(plan: Plan, task: Task, machine: Machine | None = None) -> Fingerprint:
    """This installation's fingerprint under ``plan``: versions, schemas, and what it makes of the phantom."""
    network = _network(plan, task)
    found = {
        **_preprocessing(plan),
        **_augmentation(plan),
        "weights.initial": numbers("float32", phantom.sketch(read_vector(network))),
        **_networks(plan, task, network, machine or Machine()),
        **_measuring(plan, task),
    }
    told = {f"phantom.{name}": value for name, value in found.items()}
    return fingerprint.collect(schema_of(network).digest(), released_definition(task, plan), told)


def _network(plan: Plan, task: Task) -> nn.Module:
    return models.build(plan, task.output_channels, task.output)


def _preprocessing(plan: Plan) -> Entries:
    entries, exact = {}, hashlib.sha256()
    for name, (image, mask) in zip(_SCANS, phantom.scans(plan), strict=False):
        try:
            made = prepare(image, mask, plan)
        except CaseError as error:
            entries[f"preprocessing.{name}"] = f"refused:{error.code}"
            continue
        entries[f"preprocessing.{name}"] = numbers("voxels", phantom.sketch(made.voxels))
        _add(exact, made.mask, made.voxels.shape, made.spacing_mm)
    return {**entries, "preprocessing.grid": exact.hexdigest()}


def _augmentation(plan: Plan) -> Entries:
    rng = generator(0, "phantom")
    shape, exact = window(plan), hashlib.sha256()
    voxels, mask = phantom.inputs(plan, shape, 1)[0], phantom.mask(shape, len(plan.data.classes))
    if plan.training.patch is not None:
        half = tuple(-(-edge // 2) for edge in shape)
        _, cut = random_patch(voxels, mask, half, plan.training.foreground_patches, rng)
        _add(exact, cut, half)
    changed, moved = augment(voxels, mask, plan.training.augmentation, rng)
    _add(exact, rng.integers(2**32, size=4).astype("<i8"))
    return {
        "augmentation.image": numbers("voxels", phantom.sketch(changed)),
        "augmentation.mask": numbers("nearest", phantom.sketch(np.asarray(moved))),
        "augmentation.draws": exact.hexdigest(),
    }


def window(plan: Plan) -> tuple[int, ...]:
    """Edges of the least image that the plan's network reads as it reads a whole one: a volume would cost minutes."""
    whole = plan.training.patch or plan.preprocessing.size
    factor = architecture(plan.model.name).reduction(resolve_widths(plan.model.name, plan.model.channels))
    shape = [min(-(-_SHORTEST // factor) * factor, length) for length in whole]
    while math.prod(length // factor for length in shape) < _DEEPEST[plan.model.norm]:
        spare = [axis for axis, length in enumerate(whole) if shape[axis] < length]
        if not spare:
            break
        axis = min(spare, key=lambda one: shape[one])
        shape[axis] = min(shape[axis] + factor, whole[axis])
    return tuple(shape)


def _networks(plan: Plan, task: Task, network: nn.Module, machine: Machine) -> Entries:
    """What the network gives with its initial weights, then with the pattern, which stays in it."""
    entries: Entries = {}
    network.eval()
    for weights in ("initial", "pattern"):
        if weights == "pattern":
            phantom.set_weights(network)
        here = there = _passes(plan, task, network, Machine())
        if not machine.is_reference:
            there = _passes(plan, task, network, machine)
        entries |= {f"network.{weights}.{name}": value for name, value in here.items()}
        entries |= {f"device.{weights}.{name}": value for name, value in there.items()}
    return entries


def _passes(plan: Plan, task: Task, network: nn.Module, machine: Machine) -> Entries:
    """One forward and one backward pass on ``machine``; the network is on the CPU before and after."""
    shape = window(plan)
    images = torch.from_numpy(phantom.inputs(plan, shape, _IMAGES)).to(machine.device, memory_format=machine.layout)
    cases = [phantom.case(plan, number, shape) for number in range(_IMAGES)]
    targets = torch.from_numpy(np.stack([task.target(case) for case in cases])).to(machine.device)
    try:
        network.to(machine.device, memory_format=machine.layout)  # type: ignore[call-overload]
        with torch.enable_grad():
            with machine.precision():
                logits = network(images)
            losses = task.loss(logits.float(), targets)
            trained = [parameter for parameter in network.parameters() if parameter.requires_grad]
            gradient = torch.autograd.grad(losses.mean(), trained, allow_unused=True)
    finally:
        network.to(_CPU, memory_format=torch.contiguous_format)  # type: ignore[call-overload]
    norms = (float(torch.linalg.vector_norm(part.double())) for part in gradient if part is not None)
    return {
        "logits": numbers(machine.arithmetic, phantom.sketch(logits.detach().float().cpu().numpy())),
        "loss": numbers(machine.arithmetic, losses.detach().tolist()),
        "gradient": numbers(machine.arithmetic, [math.hypot(*norms)]),
    }


def _measuring(plan: Plan, task: Task) -> Entries:
    """Decoding, statistics and metrics of known predictions: what leaves a site, in the way in which it leaves."""
    scored = phantom.scored_masks(plan) if task.output == "dense" else phantom.scored_images(plan)
    logits = np.stack([scores for _, scores in scored[:_IMAGES]]) * np.float32(4) - np.float32(1.5)
    if plan.evaluation.release == "dp":
        counts, metrics = _noised(task, scored)
    else:
        found = collect(task.schema, ((case.patient, task.observe(scores, case)) for case, scores in scored))
        counts, metrics = found.flat(), task.metrics(found.total())
    exact = hashlib.sha256()
    _add(exact, counts)
    return {
        "decoding": numbers("voxels", phantom.sketch(task.decode(torch.from_numpy(logits)))),
        "statistics": exact.hexdigest(),
        **{f"metrics.{name}": numbers("float64", [value]) for name, value in metrics.items()},
    }


def _noised(task: Task, scored: list[tuple[Case, FloatArray]]) -> tuple[IntArray, Mapping[str, float]]:
    """What gets noise, before it does, and metrics of the cells that it is made of."""
    private = private_measures(task)
    observed = [(case.patient, private.observe(scores, case)) for case, scores in scored]
    cells = np.nansum([weights for _, weights in observed], axis=0)
    metrics = private.metrics(cells[None])
    return private.schema.collect(observed), {name: float(values[0]) for name, values in metrics.items()}


def _add(digest: hashlib._Hash, *values: object) -> None:
    """Shape and little-endian bytes of arrays, and the text of everything else."""
    for value in values:
        if isinstance(value, np.ndarray):
            said = np.ascontiguousarray(value).astype(value.dtype.newbyteorder("<")).tobytes()
            digest.update(repr((value.shape, value.dtype.str[1:])).encode() + said)
        else:
            digest.update(repr(value).encode())
