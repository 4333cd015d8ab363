"""Trainable parameters as one flat vector.

Promises
- ``read_vector`` and ``write_vector`` are inverse: every trainable parameter once, in the order of
  ``named_parameters``, float32. Frozen parameters and buffers stay where they are and never travel.
- Two networks share a ``ParameterSchema`` digest exactly when names, shapes and their order agree.

How a change of these parameters becomes integers is ``shared.fixed_point``'s.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from shared.errors import ModelError, ProtocolError
from shared.messages import Vector


@dataclass(frozen=True)
class ParameterSchema:
    """Names and shapes of the trainable parameters, in the order in which they are laid flat."""

    names: tuple[str, ...]
    shapes: tuple[tuple[int, ...], ...]

    @property
    def length(self) -> int:
        """Number of values in the flat vector."""
        return sum(math.prod(shape) for shape in self.shapes)

    def digest(self) -> str:
        """SHA-256 over names and shapes, 64 hexadecimal digits."""
        said = json.dumps(["consilium-parameters-1", self.names, self.shapes])
        return hashlib.sha256(said.encode()).hexdigest()

    def split(self, vector: Vector) -> dict[str, Vector]:
        """Views of the flat vector by parameter name, each in its own shape; raises ``ProtocolError``."""
        _check_length(vector, self.length)
        ends = itertools.accumulate(math.prod(shape) for shape in self.shapes)
        named = zip(self.names, self.shapes, ends, strict=True)
        return {name: vector[end - math.prod(shape) : end].reshape(shape) for name, shape, end in named}


def schema_of(module: nn.Module) -> ParameterSchema:
    """Schema of a network's trainable parameters; raises ``ModelError`` where all are frozen."""
    named = [(name, tuple(parameter.shape)) for name, parameter in module.named_parameters() if parameter.requires_grad]
    if not named:
        raise ModelError("the network has no trainable parameter", hint="freeze fewer prefixes in [model]")
    names, shapes = zip(*named, strict=True)
    return ParameterSchema(names, shapes)


def read_vector(module: nn.Module) -> Vector:
    """The trainable parameters, shape (P,), float32, as a copy in main memory."""
    flat = torch.cat([parameter.detach().reshape(-1).float() for parameter in _trainable(module)])
    vector: Vector = flat.cpu().numpy()
    return vector


def write_vector(module: nn.Module, vector: Vector) -> None:
    """Set the trainable parameters from a flat vector, shape (P,), float32: all of them or none.

    Raises:
        ProtocolError: the vector has another length or type, or holds values that are not finite.
    """
    parameters = _trainable(module)
    _check_length(vector, sum(parameter.numel() for parameter in parameters))
    if not np.isfinite(vector).all():
        count = int(np.count_nonzero(~np.isfinite(vector)))
        raise ProtocolError(f"{count} of {vector.size} weights received are not finite", code="weights-not-finite")
    # torch.tensor copies: a vector that came in a message may be read-only memory.
    source = torch.tensor(vector, device=parameters[0].device)
    with torch.no_grad():
        parts = torch.split_with_sizes(source, [parameter.numel() for parameter in parameters])
        for parameter, part in zip(parameters, parts, strict=True):
            parameter.copy_(part.view(parameter.shape))


def _trainable(module: nn.Module) -> list[nn.Parameter]:
    return [parameter for parameter in module.parameters() if parameter.requires_grad]


def _check_length(vector: Vector, length: int) -> None:
    if vector.shape != (length,) or vector.dtype != np.float32:
        raise ProtocolError(
            f"expected {length} float32 weights, got {vector.dtype} of shape {vector.shape}",
            hint="run the same plan and version at every site",
            code="weights-shape",
        )
