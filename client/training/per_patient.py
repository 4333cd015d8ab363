"""Sums of patients' clipped gradients, one patient after another: the engine that trains every network.

Formal guarantee: adding or removing one patient moves ``ClippedSum.values`` by at most the clip norm.
- A patient's gradient is the mean over the rows of their batch of the gradient of the row's own loss. It comes from a
  forward and backward pass over that patient alone, so no other patient can be in it.
- It is clipped before it is added (``shared.privacy.clipping``), in double precision.
- The network is left as it was: parameters, buffers, gradients.
- A network with dropout is refused: its patients would draw from one stream, and who is there would move the others.

A patient with many rows is passed in pieces, and a piece that does not fit into memory is halved; gradients of pieces
add up to the same mean. No per-sample gradients are needed, so any network whose images do not see each other will do.
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Literal, Protocol

import torch
from torch import Tensor, nn

from client.training.batches import Batch, pieces, to_device
from client.training.device import autocast, halved, memory_format
from shared.errors import ModelError
from shared.models import trainable
from shared.plan import Plan
from shared.privacy.clipping import Clip, ClippedSum
from shared.tasks.task import Task


@dataclass(frozen=True)
class Network:
    """What gradients are taken of.

    Attributes:
        model: on its device, in training mode.
        loss: (logits, targets) to one value for each row, shape (B,).
        device: where it computes.
        layout: memory format of images.
        precision: of forward passes.
    """

    model: nn.Module
    loss: Callable[[Tensor, Tensor], Tensor]
    device: torch.device
    layout: torch.memory_format = torch.contiguous_format
    precision: Literal["auto", "float32", "bfloat16"] = "float32"

    @classmethod
    def of(cls, model: nn.Module, task: Task, plan: Plan, device: torch.device) -> Network:
        """The network of a plan."""
        layout = memory_format(device, plan.dimensions)
        return cls(model, task.loss, device, layout, plan.training.precision)

    @property
    def tolerance(self) -> float:
        """What rounding may do to a gradient, relative to its norm; a missing term is far larger."""
        exact = self.device.type == "cpu" and self.precision != "bfloat16"
        return 1e-3 if exact else 5e-2

    def in_double_precision(self) -> Network:
        """A copy to compare with: losses stay in single precision, as tasks compute them."""
        return replace(self, model=copy.deepcopy(self.model).double(), precision="float32")

    def parameters(self) -> list[nn.Parameter]:
        """Trainable parameters in the order of the flat vector."""
        return [parameter for _, parameter in trainable(self.model)]

    def losses(self, batch: Batch) -> Tensor:
        """The loss of each row, shape (B,)."""
        placed = to_device(batch, self.device, self.layout)
        with autocast(self.device, self.precision):
            logits = self.model(placed.images)
        return self.loss(logits.float(), placed.targets)

    def empty_sum(self, clip: Clip) -> ClippedSum:
        """A sum over no patient."""
        return ClippedSum(sum(parameter.numel() for parameter in self.parameters()), clip, self.device)


class PatientGradients(Protocol):
    """An engine: the sum of patients' clipped gradients."""

    def __call__(self, patients: Iterable[Batch]) -> ClippedSum:
        """Clip and add; each element is one patient's batch."""
        ...


class OneByOne:
    """The loop over patients."""

    def __init__(self, network: Network, clip: Clip) -> None:
        require_no_dropout(network.model)
        self._network, self._clip = network, clip
        self._largest = 0
        """Rows of the largest piece that memory holds; 0 while none was too large."""

    def __call__(self, patients: Iterable[Batch]) -> ClippedSum:
        """Clip and add; each element is one patient's batch."""
        total = self._network.empty_sum(self._clip)
        for batch in patients:
            total.add(self._gradient(batch)[None])
        return total

    def _gradient(self, batch: Batch) -> Tensor:
        """Mean gradient over the rows of one patient, shape (P,), float32."""
        while True:
            try:
                some = pieces(batch, self._largest or len(batch))
                return functools.reduce(Tensor.add_, (self._piece(piece, len(batch)) for piece in some))
            except torch.OutOfMemoryError:
                self._largest = halved(self._largest or len(batch), self._network.device)

    def _piece(self, piece: Batch, rows: int) -> Tensor:
        loss = self._network.losses(piece).sum() / rows
        parameters = self._network.parameters()
        found = torch.autograd.grad(loss, parameters, allow_unused=True)
        return torch.cat([flat(gradient, one) for gradient, one in zip(found, parameters, strict=True)])


def require_no_dropout(model: nn.Module) -> None:
    """Raise ``ModelError`` ("model-layers") where a layer draws random numbers in its forward pass."""
    for name, module in model.named_modules():
        if isinstance(module, nn.modules.dropout._DropoutNd) and module.p > 0:  # noqa: SLF001 - their common base
            raise ModelError(
                f"the layer {name or 'model'} ({type(module).__name__}) draws one stream of random numbers for all "
                "patients, so that each would change what the others contribute",
                hint="set model.dropout = 0: private training has noise enough",
                code="model-layers",
            )


def flat(gradient: Tensor | None, parameter: nn.Parameter) -> Tensor:
    """A parameter's gradient as a vector, float32; zeros where the loss does not depend on it."""
    return torch.zeros_like(parameter).reshape(-1) if gradient is None else gradient.reshape(-1).float()
