"""From a plan to a network: check everything, then build it from a seed.

Promises
- ``build`` returns a network on the CPU in float32 whose output is one tensor, without running statistics, with the
  plan's frozen parameters frozen.
- The same plan gives the same parameters in every process, and torch's global generators are left as they were. Between
  kinds of CPU the last bit of a normal draw may differ, so what is frozen should come from a file.

Left to others: reading ``model.pretrained`` (``shared.models.weights``), moving to a device.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from shared.errors import ModelError
from shared.models.norms import require_no_running_statistics
from shared.models.spec import ModelSpec, Output
from shared.models.table import ARCHITECTURES, architecture, resolve_widths
from shared.models.weights import freeze
from shared.plan import Plan
from shared.seeds import derive

LEAST_VOXELS = 3
_MEANING: dict[Output, str] = {"dense": "one prediction per voxel", "image": "one prediction per image"}


def build(plan: Plan, output_channels: int, output: Output) -> nn.Module:
    """The network of ``plan``, with ``output_channels`` predictions per voxel or image.

    Raises:
        ModelError: unknown name, wrong kind of output, channels or size; a frozen prefix that matches nothing.
    """
    name = plan.model.name
    if architecture(name).output != output:
        fitting = ", ".join(sorted(other for other, row in ARCHITECTURES.items() if row.output == output))
        raise ModelError(
            f"the task {plan.plan.task} needs {_MEANING[output]}, {name} gives {_MEANING[architecture(name).output]}",
            hint=f"choose one of {fitting}",
            code="model-output",
        )
    check_size(plan)
    network = build_network(spec_of(plan, output_channels), plan.plan.seed)
    freeze(network, plan.model.freeze)
    return network


def spec_of(plan: Plan, output_channels: int) -> ModelSpec:
    """The part of ``plan`` that decides the network."""
    return ModelSpec(
        name=plan.model.name,
        dimensions=plan.dimensions,
        input_channels=plan.input_channels,
        output_channels=output_channels,
        channels=plan.model.channels,
        norm=plan.model.norm,
        dropout=plan.model.dropout,
    )


def build_network(spec: ModelSpec, seed: int) -> nn.Module:
    """The network of ``spec`` with initial weights drawn from ``seed``; raises ``ModelError``."""
    widths = resolve_widths(spec.name, spec.channels)
    with _drawing_from(seed):
        network = architecture(spec.name).build(spec, widths)
    require_no_running_statistics(network)
    return network


def check_size(plan: Plan) -> None:
    """Refuse images or patches that the plan's network cannot take.

    ==================== ==========================================================================
    U-shaped networks    each edge divisible by 2 to the number of halvings
    ``basic_unet``       each edge at least 16 (it pads odd edges itself)
    one per image        each edge at least 2 to the number of halvings
    instance norm        three voxels at the deepest level: one normalises to 0 and two to -1 and 1, whatever
                         they were, so that no gradient passes
    ==================== ==========================================================================

    Raises:
        ModelError: with the number needed and a size that fits.
    """
    _check_edges(plan, "preprocessing.size", plan.preprocessing.size)
    if plan.training.patch:
        _check_edges(plan, "training.patch", plan.training.patch)


def _check_edges(plan: Plan, key: str, edges: tuple[int, ...]) -> None:
    name, row = plan.model.name, architecture(plan.model.name)
    factor = row.reduction(resolve_widths(name, plan.model.channels))
    rounded = [max(1, -(-edge // factor)) * factor for edge in edges]
    if row.edges == "divisible" and rounded != list(edges):
        need, hint = f"each edge divisible by {factor}", f"such as {rounded}"
    elif min(edges) < factor:
        need, hint = f"each edge to be at least {factor}", f"such as {[max(edge, factor) for edge in edges]}"
    elif plan.model.norm == "instance" and math.prod(edge // factor for edge in edges) < LEAST_VOXELS:
        need = f"{LEAST_VOXELS} voxels for instance norm at its deepest level, 1/{factor} of each edge"
        hint = f'make edges longer, such as {2 * factor}, or set model.norm = "group"'
    else:
        return
    raise ModelError(f"{name} needs {need}, got {key} = {list(edges)}", hint=hint, code="model-size")


@contextmanager
def _drawing_from(seed: int) -> Iterator[None]:
    """Torch's layers draw from the global CPU generator and take no other: seed it for a moment, then put it back.

    That generator uses 32 bits of its seed (MT19937); a derived seed depends on all of the plan's 63.
    """
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(derive(seed, "initial-weights") % 2**32)
        yield
