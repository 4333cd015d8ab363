"""Small convolutional networks for one prediction per image.

Promises
- With its default widths ``cnn`` has 98 thousand parameters in 2-D and trains on one CPU core.
- The first stage sees the image at full resolution and each later one at half the edges of the one before.
- Names are short and stable, for ``model.freeze``: ``stages`` is everything but the linear ``head``; in
  ``whitened_cnn`` a linear ``whiten`` stands between them.

``whitened_cnn`` is for training that can afford to move few numbers, such as a head under differential privacy: with
``stages`` and ``whiten`` frozen at weights that make features of unit variance without correlation, no direction needs
another learning rate than the others, and no patient's gradient is long for the sake of one feature alone.
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
    parts = _features(spec, widths)
    parts["head"] = nn.Linear(widths[-1], spec.output_channels)
    return nn.Sequential(parts)


def whitened_cnn(spec: ModelSpec, widths: tuple[int, ...]) -> nn.Module:
    """``cnn`` with a linear layer before the head; the last of ``widths`` is how many features it gives."""
    *stages, whitened = widths
    parts = _features(spec, tuple(stages))
    parts["whiten"] = nn.Linear(stages[-1], whitened)
    parts["head"] = nn.Linear(whitened, spec.output_channels)
    return nn.Sequential(parts)


def _features(spec: ModelSpec, widths: tuple[int, ...]) -> OrderedDict[str, nn.Module]:
    inputs = (spec.input_channels, *widths[:-1])
    stages = [_stage(spec, before, after) for before, after in zip(inputs, widths, strict=True)]
    for stage in stages[:-1]:
        stage.add_module("pool", _MAX_POOL[spec.dimensions](2))
    return OrderedDict(
        stages=nn.Sequential(*stages),
        pool=_GLOBAL_MEAN[spec.dimensions](1),
        flatten=nn.Flatten(),
        dropout=nn.Dropout(spec.dropout),
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
