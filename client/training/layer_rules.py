"""Gradients of single patients, layer by layer, from what went into a layer and the gradient of what came out.

Promises
- A rule gets the inputs and output gradients of N patients, k rows each, and gives each parameter's gradient summed
  over the rows of a patient: shape (N, *parameter.shape). Rows of one patient never meet those of another.
- Convolutions of N patients are one convolution with N times as many groups (Rochette et al. 2019, arXiv:1912.06015,
  section 3), which a CPU does in the time of about one and a half plain ones; a transposed convolution is a convolution
  whose input and output gradient change places.
- ``rule_for`` knows layers by their exact type: a subclass may compute something else. What is not in the table, pads
  with anything but zeros, or pads its output by a stride or more, has no rule.

Every rule is compared with automatic differentiation of one patient at a time (tests/client/test_training_engines.py).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

import torch
from torch import Tensor, nn
from torch.nn import functional

_TRANSPOSED = (nn.ConvTranspose2d, nn.ConvTranspose3d)
_CONVOLUTIONS = (nn.Conv2d, nn.Conv3d, *_TRANSPOSED)

Rule = Callable[[nn.Module, Tensor, Tensor, int], dict[str, Tensor]]
"""(layer, inputs (R, ...), gradients of outputs (R, ...), patients N of R / N rows each) -> gradients by name."""


def rule_for(layer: nn.Module) -> Rule | None:
    """The rule of a layer, or None where there is none that is known to be right."""
    if getattr(layer, "padding_mode", "zeros") != "zeros" or isinstance(getattr(layer, "padding", 0), str):
        return None
    if isinstance(layer, _TRANSPOSED) and any(
        more >= step for more, step in zip(layer.output_padding, layer.stride, strict=True)
    ):
        return None
    return RULES.get(type(layer))


def _convolution(layer: nn.Module, inputs: Tensor, gradients: Tensor, patients: int) -> dict[str, Tensor]:
    weight = _grouped(layer, _side_by_side(inputs, patients), _side_by_side(gradients, patients), patients)
    return {"weight": weight, **_bias(layer, gradients, patients)}


def _transposed(layer: nn.Module, inputs: Tensor, gradients: Tensor, patients: int) -> dict[str, Tensor]:
    weight = _grouped(layer, _side_by_side(gradients, patients), _side_by_side(inputs, patients), patients)
    return {"weight": weight, **_bias(layer, gradients, patients)}


def _linear(layer: nn.Module, inputs: Tensor, gradients: Tensor, patients: int) -> dict[str, Tensor]:
    rows = inputs.reshape(patients, -1, inputs.shape[-1])
    changes = gradients.reshape(patients, -1, gradients.shape[-1])
    bias = {} if layer.bias is None else {"bias": changes.sum(dim=1)}
    return {"weight": changes.transpose(1, 2) @ rows, **bias}


def _group_norm(layer: nn.Module, inputs: Tensor, gradients: Tensor, patients: int) -> dict[str, Tensor]:
    assert isinstance(layer, nn.GroupNorm)  # noqa: S101 - the table says so
    normal = functional.group_norm(inputs, layer.num_groups, eps=layer.eps)
    weight = (gradients * normal).flatten(2).sum(dim=2)
    bias = gradients.flatten(2).sum(dim=2)
    return {"weight": _by_patient(weight, patients), "bias": _by_patient(bias, patients)}


def _layer_norm(layer: nn.Module, inputs: Tensor, gradients: Tensor, patients: int) -> dict[str, Tensor]:
    assert isinstance(layer, nn.LayerNorm)  # noqa: S101 - the table says so
    normal = functional.layer_norm(inputs, layer.normalized_shape, eps=layer.eps)
    shape = (patients, -1, *layer.normalized_shape)
    found = {"weight": (gradients * normal).reshape(shape).sum(dim=1), "bias": gradients.reshape(shape).sum(dim=1)}
    return {name: values for name, values in found.items() if getattr(layer, name) is not None}


def _prelu(layer: nn.Module, inputs: Tensor, gradients: Tensor, patients: int) -> dict[str, Tensor]:
    assert isinstance(layer, nn.PReLU)  # noqa: S101 - the table says so
    # Row by row, so that a row stays in cache; a dot product in single precision loses digits over so many voxels.
    by_channel = torch.stack(
        [
            (row.clamp(max=0) * change).reshape(len(row), -1).sum(dim=1)
            for row, change in zip(inputs, gradients, strict=True)
        ]
    )
    slopes = by_channel if layer.weight.numel() > 1 else by_channel.sum(dim=1, keepdim=True)
    return {"weight": _by_patient(slopes, patients)}


RULES: Mapping[type[nn.Module], Rule] = MappingProxyType(
    {
        nn.Conv2d: _convolution,
        nn.Conv3d: _convolution,
        nn.ConvTranspose2d: _transposed,
        nn.ConvTranspose3d: _transposed,
        nn.Linear: _linear,
        nn.GroupNorm: _group_norm,
        nn.LayerNorm: _layer_norm,
        nn.PReLU: _prelu,
    }
)


def _by_patient(rows: Tensor, patients: int) -> Tensor:
    """(R, ...) to (N, ...): the sum over each patient's rows."""
    return rows if len(rows) == patients else rows.reshape(patients, -1, *rows.shape[1:]).sum(dim=1)


def _side_by_side(rows: Tensor, patients: int) -> Tensor:
    """(N k, C, *spatial) to (k, N C, *spatial): patients become channels."""
    some = rows.reshape(patients, -1, *rows.shape[1:]).transpose(0, 1)
    return some.reshape(some.shape[0], -1, *rows.shape[2:])


def _grouped(layer: nn.Module, inputs: Tensor, gradients: Tensor, patients: int) -> Tensor:
    """Weight gradients (N, *weight.shape) of a convolution with N times as many groups."""
    assert isinstance(layer, _CONVOLUTIONS)  # noqa: S101 - the table says so
    weight, transposed = layer.weight, False
    shape = (patients * weight.shape[0], *weight.shape[1:])
    axes = (layer.stride, layer.padding, layer.dilation, transposed, [0] * (inputs.ndim - 2))
    wanted = (False, True, False)
    # Of the weight only the shape is looked at.
    shaped = weight.new_empty(shape, dtype=inputs.dtype)
    found: Tensor = torch.ops.aten.convolution_backward(
        gradients, inputs, shaped, None, *axes, patients * layer.groups, wanted
    )[1]
    return found.reshape(patients, *weight.shape)


def _bias(layer: nn.Module, gradients: Tensor, patients: int) -> dict[str, Tensor]:
    return {} if layer.bias is None else {"bias": _by_patient(gradients.flatten(2).sum(dim=2), patients)}
