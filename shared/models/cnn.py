"""Small convolutional networks for one prediction per image.

Promises
- With its default widths ``cnn`` has 98 thousand parameters in 2-D and trains on one CPU core.
- The first stage sees the image at full resolution and each later one at half the edges of the one before.
- Names are short and stable, for ``model.freeze``: ``stages`` is everything but the linear ``head``; in
  ``whitened_cnn`` a linear ``whiten`` stands between them.

``whitened_cnn`` is for training that can afford to move few numbers, such as a head under differential privacy. Its
features are the means over the image of what every stage gives, from grain to shape, not of the last alone. With
``stages`` and ``whiten`` frozen at weights that make them uncorrelated and of unit variance, no direction needs another
learning rate than the others, and no patient's gradient is long for the sake of one feature.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from shared.models.norms import group_count
from shared.models.spec import ModelSpec

_CONVOLUTION = {2: nn.Conv2d, 3: nn.Conv3d}
_MAX_POOL = {2: nn.MaxPool2d, 3: nn.MaxPool3d}
_GLOBAL_MEAN = {2: nn.AdaptiveAvgPool2d, 3: nn.AdaptiveAvgPool3d}


def cnn(spec: ModelSpec, widths: tuple[int, ...]) -> nn.Module:
    """Stages of one 3x3 convolution each, with max-pooling in between; global average, dropout, linear head."""
    return nn.Sequential(
        OrderedDict(
            stages=nn.Sequential(*_stages(spec, widths)),
            pool=_GLOBAL_MEAN[spec.dimensions](1),
            flatten=nn.Flatten(),
            dropout=nn.Dropout(spec.dropout),
            head=nn.Linear(widths[-1], spec.output_channels),
        )
    )


def whitened_cnn(spec: ModelSpec, widths: tuple[int, ...]) -> nn.Module:
    """Stages as in ``cnn``; the means of all of them, dropout, a linear layer ``whiten``, linear head.

    The last of ``widths`` is how many features ``whiten`` gives.
    """
    *stages, whitened = widths
    return nn.Sequential(
        OrderedDict(
            stages=_AllLevels(*_stages(spec, stages)),
            dropout=nn.Dropout(spec.dropout),
            whiten=nn.Linear(sum(stages), whitened),
            head=nn.Linear(whitened, spec.output_channels),
        )
    )


class _AllLevels(nn.Sequential):
    """Stages in a row: images (B, C, *spatial) to the mean of what each of them gives, (B, sum of their widths)."""

    def forward(self, images: Tensor) -> Tensor:
        """See the class."""
        means = []
        for stage in self:
            images = stage(images)
            means.append(images.flatten(2).mean(dim=2))
        return torch.cat(means, dim=1)


def _stages(spec: ModelSpec, widths: Sequence[int]) -> list[nn.Sequential]:
    inputs = (spec.input_channels, *widths[:-1])
    stages = [_stage(spec, before, after) for before, after in zip(inputs, widths, strict=True)]
    for stage in stages[:-1]:
        stage.add_module("pool", _MAX_POOL[spec.dimensions](2))
    return stages


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
