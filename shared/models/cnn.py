"""A small convolutional network for one prediction per image.

Promises
- With its default widths it has 98 thousand parameters in 2-D and trains on one CPU core.
- The first stage sees the image at full resolution and each later one at half the edges of the one before.
- Names are short and stable, for ``model.freeze``: ``stages`` is everything but the linear ``head``.
"""

from __future__ import annotations

from collections import OrderedDict

from torch import nn

from shared.models.norms import group_count
from shared.models.spec import ModelSpec

_CONVOLUTION = {2: nn.Conv2d, 3: nn.Conv3d}
_MAX_POOL = {2: nn.MaxPool2d, 3: nn.MaxPool3d}
_GLOBAL_MEAN = {2: nn.AdaptiveAvgPool2d, 3: nn.AdaptiveAvgPool3d}


def cnn(spec: ModelSpec, widths: tuple[int, ...]) -> nn.Module:
    """Stages of one 3x3 convolution each, with max-pooling in between; global average, dropout, linear head."""
    inputs = (spec.input_channels, *widths[:-1])
    stages = [_stage(spec, before, after) for before, after in zip(inputs, widths, strict=True)]
    for stage in stages[:-1]:
        stage.add_module("pool", _MAX_POOL[spec.dimensions](2))
    return nn.Sequential(
        OrderedDict(
            stages=nn.Sequential(*stages),
            pool=_GLOBAL_MEAN[spec.dimensions](1),
            flatten=nn.Flatten(),
            dropout=nn.Dropout(spec.dropout),
            head=nn.Linear(widths[-1], spec.output_channels),
        )
    )


def _stage(spec: ModelSpec, before: int, after: int) -> nn.Sequential:
    convolution = _CONVOLUTION[spec.dimensions]
    return nn.Sequential(
        OrderedDict(
            # The normalisation that follows subtracts any bias again.
            conv=convolution(before, after, kernel_size=3, padding=1, bias=False),
            norm=nn.GroupNorm(group_count(spec.norm, after), after),
            act=nn.ReLU(inplace=True),
        )
    )
