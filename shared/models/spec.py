"""What a network is built from: plain values, without the rest of the plan.

Promises
- Two equal specs and two equal seeds give the same network, parameter by parameter.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Output = Literal["dense", "image"]
"""One prediction per voxel, (B, K, *spatial), or one per image, (B, K)."""

Norm = Literal["group", "instance"]


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """A network to be built.

    Attributes:
        name: a key of ``shared.models.ARCHITECTURES``.
        dimensions: number of spatial axes, 2 or 3.
        input_channels: channels of the image.
        output_channels: K, channels or logits of the prediction.
        channels: widths from the first level to the deepest; None takes the architecture's own.
        norm: normalisation in all convolutional layers; never one that looks at other images.
        dropout: probability, where the architecture places dropout.
    """

    name: str
    dimensions: int
    input_channels: int
    output_channels: int
    channels: tuple[int, ...] | None = None
    norm: Norm = "instance"
    dropout: float = 0.0
