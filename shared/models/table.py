"""The table of architectures: what each is called, gives, takes and needs.

Promises
- One row says everything that a plan can get wrong about an architecture; the checks read the row.
- A new network is one builder and one row. The contract suite runs over the table, so a row cannot go untested.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

from torch import nn

from shared.errors import ModelError
from shared.models import from_monai
from shared.models.cnn import cnn, whitened_cnn
from shared.models.spec import ModelSpec, Output
from shared.plan_errors import suggest

LEVELS = 8
"""Most levels of a network with free depth: the deepest of 8 sees 1/128 of an edge."""


@dataclass(frozen=True)
class Architecture:
    """One row of the table.

    Attributes:
        output: what the network predicts.
        build: (spec, widths) -> network.
        widths: the channels used when the plan names none; empty where they are fixed.
        counts: how many channels a plan may name.
        multiple: what every channel count must be divisible by.
        halvings: how often an edge is halved on the way down; None for once between two widths,
        kept: but for this many of the first, which keep the edge.
        edges: whether an edge must be divisible by ``reduction``, or only as long.
    """

    output: Output
    build: Callable[[ModelSpec, tuple[int, ...]], nn.Module]
    widths: tuple[int, ...]
    counts: range
    multiple: int = 1
    halvings: int | None = None
    kept: int = 0
    edges: Literal["divisible", "at-least"] = "divisible"

    def reduction(self, widths: tuple[int, ...]) -> int:
        """Voxels of an input edge to one voxel at the deepest level."""
        return 1 << (len(widths) - 1 - self.kept if self.halvings is None else self.halvings)


def _free(least: int) -> range:
    return range(least, LEVELS + 1)


def _exactly(count: int) -> range:
    return range(count, count + 1)


_SMALL = (16, 32, 64, 128)
_RESNET = (64, 128, 256, 512)

ARCHITECTURES: Mapping[str, Architecture] = MappingProxyType(
    {
        "cnn": Architecture("image", cnn, _SMALL, _free(1), edges="at-least"),
        # The last width is that of the linear layer.
        "whitened_cnn": Architecture("image", whitened_cnn, (*_SMALL, 32), _free(2), kept=1, edges="at-least"),
        "densenet121": Architecture("image", from_monai.densenet121, (), range(0), halvings=5, edges="at-least"),
        "resnet18": Architecture("image", from_monai.resnet18, _RESNET, _exactly(4), halvings=5, edges="at-least"),
        "resnet50": Architecture("image", from_monai.resnet50, _RESNET, _exactly(4), halvings=5, edges="at-least"),
        "unet": Architecture("dense", from_monai.unet, _SMALL, _free(2)),
        "fine_unet": Architecture("dense", from_monai.fine_unet, (16, 16, 32, 48), _free(3), kept=1),
        "basic_unet": Architecture(
            "dense", from_monai.basic_unet, (32, 32, 64, 128, 256, 32), range(5, 7), halvings=4, edges="at-least"
        ),
        "dynunet": Architecture("dense", from_monai.dynunet, (32, 64, 128, 256), _free(3)),
        "segresnet": Architecture("dense", from_monai.segresnet, (8,), _exactly(1), halvings=3),
        # Its attention blocks work at half the width.
        "attention_unet": Architecture("dense", from_monai.attention_unet, _SMALL, _free(2), multiple=2),
        # Its stages have 3, 6, 12 and 24 heads of equal width.
        "swin_unetr": Architecture("dense", from_monai.swin_unetr, (24,), _exactly(1), multiple=12, halvings=5),
    }
)


def architecture(name: str) -> Architecture:
    """The row of ``name``; raises ``ModelError`` with the nearest name."""
    if name not in ARCHITECTURES:
        raise ModelError(f"unknown model {name}", hint=suggest(name, ARCHITECTURES), code="model-unknown")
    return ARCHITECTURES[name]


def resolve_widths(name: str, channels: tuple[int, ...] | None) -> tuple[int, ...]:
    """The channels to build with: the plan's, checked, or the architecture's own.

    Raises:
        ModelError: the architecture's widths are fixed, or it takes another number or multiple.
    """
    row = architecture(name)
    if channels is None:
        return row.widths
    said = f"model.channels = {list(channels)}"
    if not row.counts:
        raise ModelError(f"the channels of {name} are fixed, got {said}", hint="remove model.channels")
    if len(channels) not in row.counts:
        count = " to ".join(str(bound) for bound in sorted({row.counts[0], row.counts[-1]}))
        raise ModelError(f"{name} takes {count} channels, got {said}", hint=f"such as {list(row.widths)}")
    if any(width < 1 or width % row.multiple for width in channels):
        raise ModelError(
            f"{name} takes channels that are multiples of {row.multiple}, got {said}", hint="round them up"
        )
    return channels
