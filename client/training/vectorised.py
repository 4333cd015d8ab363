"""Sums of patients' clipped gradients, many patients in one pass: faster than one by one, for networks of known layers.

Formal guarantee: that of ``client.training.per_patient``. One forward and backward pass over the rows of N patients
gives what each layer was fed and what its output should have been moved by; ``layer_rules`` makes each patient's own
gradients of them. Rows do not see each other (``require_no_running_statistics``), so a patient's gradient is that of
the patient alone. Nothing is summed over patients before it is clipped.

Refused, with the layer's name, rather than computed wrongly:

============================================  ====================================================================
a parameter outside the layers of the table   a transformer's table of relative positions
dropout                                       rows of a pass would share one stream of random numbers
an input that the network changes in place    seen by the version that autograd counts, at the backward pass
anything else                                 ``agrees_with`` compares each parameter with the loop on random images
============================================  ====================================================================
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from client.training.batches import Batch
from client.training.device import halved
from client.training.layer_rules import Rule, rule_for
from client.training.per_patient import Network
from shared.errors import ModelError
from shared.privacy.clipping import Clip, ClippedSum

_GRADIENT_BYTES = 2**28
"""Most memory for single patients' gradients at a time: 16 patients of a network with 4 million parameters."""


class SideBySide:
    """The engine for networks of known layers; raises ``ModelError`` ("model-layers") for others."""

    def __init__(self, network: Network, clip: Clip, rows_at_once: int) -> None:
        self._network, self._clip, self._largest = network, clip, rows_at_once
        self._layers = _layers(network.model)

    def __call__(self, patients: Iterable[Batch]) -> ClippedSum:
        """Clip and add; each element is one patient's batch. Patients with as many rows share a pass."""
        total = self._network.empty_sum(self._clip)
        waiting: dict[int, list[Batch]] = defaultdict(list)
        for batch in patients:
            some = waiting[len(batch)]
            some.append(batch)
            if len(some) >= self._patients_at_once(len(batch)):
                self._add(total, waiting.pop(len(batch)))
        for some in waiting.values():
            self._add(total, some)
        return total

    def _patients_at_once(self, rows: int) -> int:
        parameters = sum(parameter.numel() for parameter in self._network.parameters())
        return max(1, min(self._largest // rows, _GRADIENT_BYTES // (4 * parameters)))

    def _add(self, total: ClippedSum, patients: list[Batch]) -> None:
        """Add patients with the same number of rows; where memory does not hold them, in halves."""
        try:
            found = self.gradients(patients)
        except torch.OutOfMemoryError:
            self._largest = halved(len(patients), self._network.device) * len(patients[0])
            for half in (patients[: len(patients) // 2], patients[len(patients) // 2 :]):
                self._add(total, half)
            return
        total.add(found)

    def gradients(self, patients: list[Batch]) -> Tensor:
        """Mean gradient of each patient, all with the same number of rows: shape (N, P), float32."""
        rows = len(patients[0])
        joined = Batch(torch.cat([one.images for one in patients]), torch.cat([one.targets for one in patients]))
        with _recording(self._layers, len(patients)) as found:
            losses = self._network.losses(joined)
            if losses.requires_grad:
                (losses.sum() / rows).backward()  # type: ignore[no-untyped-call]
        parts = [found.get(parameter, (len(patients), parameter)) for parameter in self._network.parameters()]
        return torch.cat(parts, dim=1)

    def agrees_with(self, others: Tensor, patients: list[Batch], tolerance: float) -> bool:
        """Whether each parameter's gradients are those in ``others``, (N, P), but for ``tolerance`` of their norm."""
        sizes = [parameter.numel() for parameter in self._network.parameters()]
        ours, theirs = torch.split(self.gradients(patients), sizes, dim=1), torch.split(others, sizes, dim=1)
        bound = [float(their.norm()) * tolerance + 1e-9 for their in theirs]
        return all(float((our - their).norm()) <= most for our, their, most in zip(ours, theirs, bound, strict=True))


_Hook = Callable[[nn.Module, tuple[Tensor, ...], Tensor], Tensor | None]


@dataclass(frozen=True)
class _Layer:
    """A layer with parameters that train, and its rule."""

    name: str
    module: nn.Module
    rule: Rule
    trained: dict[str, nn.Parameter]


@dataclass
class _Found:
    """Gradients by parameter; one that is used twice gets the sum."""

    gradients: dict[nn.Parameter, Tensor] = field(default_factory=dict)

    def add(self, parameter: nn.Parameter, values: Tensor) -> None:
        flat = values.reshape(len(values), -1).float()
        before = self.gradients.get(parameter)
        self.gradients[parameter] = flat if before is None else before + flat

    def get(self, parameter: nn.Parameter, otherwise: tuple[int, nn.Parameter]) -> Tensor:
        """(N, parameter.numel()); zeros where the loss does not depend on it."""
        patients, like = otherwise
        return self.gradients.get(parameter, torch.zeros(patients, like.numel(), device=like.device))


def _layers(model: nn.Module) -> list[_Layer]:
    found = []
    for name, module in model.named_modules():
        if isinstance(module, nn.modules.dropout._DropoutNd) and module.p > 0:  # noqa: SLF001 - their common base
            raise _refusal(name, module, "draws one stream of random numbers for all patients")
        trained = {key: one for key, one in module.named_parameters(recurse=False) if one.requires_grad}
        if not trained:
            continue
        rule = rule_for(module)
        if rule is None:
            raise _refusal(name, module, "has no rule for single patients' gradients")
        found.append(_Layer(name, module, rule, trained))
    return found


def _refusal(name: str, module: nn.Module, why: str) -> ModelError:
    return ModelError(
        f"the layer {name or 'model'} ({type(module).__name__}) {why}",
        hint='set training.patient_gradients = "loop", which trains every network',
        code="model-layers",
    )


@contextmanager
def _recording(layers: list[_Layer], patients: int) -> Iterator[_Found]:
    """Collect gradients of every layer in one backward pass; autograd itself makes none of these parameters."""
    found = _Found()
    handles = [layer.module.register_forward_hook(_watching(layer, patients, found)) for layer in layers]
    parameters = [parameter for layer in layers for parameter in layer.trained.values()]
    for parameter in parameters:
        parameter.requires_grad_(False)  # noqa: FBT003 - torch's signature
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()
        for parameter in parameters:
            parameter.requires_grad_(True)  # noqa: FBT003 - torch's signature


def _watching(layer: _Layer, patients: int, found: _Found) -> _Hook:
    def watch(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor | None:
        fed = inputs[0].detach()
        version = fed._version  # noqa: SLF001 - how autograd itself notices changes in place
        first = not output.requires_grad
        if first:
            output.requires_grad_(True)  # noqa: FBT003 - torch's signature

        def made(change: Tensor) -> None:
            if fed._version != version or len(fed) != len(change):  # noqa: SLF001
                raise _refusal(layer.name, module, "had its input changed after it was used")
            ours = layer.rule(module, fed.to(change.dtype).contiguous(), change.contiguous(), patients)
            for name, parameter in layer.trained.items():
                found.add(parameter, ours[name])

        output.register_hook(made)  # type: ignore[no-untyped-call]
        # Nothing may change a leaf in place, as an activation after the first trained layer would.
        return output.clone() if first else None

    return watch
