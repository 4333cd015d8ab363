"""Sums of patients' clipped gradients, many patients in one pass: faster than one by one, for networks of known layers.

Formal guarantee: that of ``client.training.per_patient``. One forward and backward pass over the rows of N patients
gives what each layer was fed and what its output should have been moved by; ``layer_rules`` makes each patient's own
gradients of them. Rows do not see each other (``require_no_running_statistics``), so a patient's gradient is that of
the patient alone. Nothing is summed over patients before it is clipped.

Refused, with the layer's name, rather than computed wrongly:

============================================  ====================================================================
a parameter outside the layers of the table   a transformer's table of relative positions
dropout                                       rows of a pass would share one stream of random numbers (so in the loop)
an input that the network changes in place    seen by the version that autograd counts, at the backward pass
anything else                                 ``agrees_with`` compares each parameter with the loop on random images
============================================  ====================================================================

What memory does not hold is passed in halves: fewer patients first, then fewer rows of one patient.
"""

from __future__ import annotations

import functools
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from client.training.batches import Batch, pieces
from client.training.device import halved
from client.training.layer_rules import Rule, rule_for
from client.training.per_patient import Network, require_no_dropout
from shared.errors import ModelError
from shared.privacy.clipping import Clip, ClippedSum

_GRADIENT_BYTES = 2**28
"""Most memory for single patients' gradients at a time: 16 patients of a network with 4 million parameters."""

_NEGLIGIBLE = 1e-6
"""Of the whole gradient: a parameter that moves less is rounding, such as a bias that a normalisation subtracts."""

_ROUNDINGS = 3
"""Networks that are deep and narrow turn a last digit into a hundredth; twice that and more is two draws of it."""


class SideBySide:
    """The engine for networks of known layers; raises ``ModelError`` ("model-layers") for others."""

    def __init__(self, network: Network, clip: Clip, rows_at_once: int) -> None:
        self._network, self._clip, self._largest = network, clip, rows_at_once
        self._layers = _layers(network.model)
        self._parameters = network.parameters()
        numbers = sum(parameter.numel() for parameter in self._parameters)
        self._most_patients = max(1, _GRADIENT_BYTES // (4 * numbers))

    def __call__(self, patients: Iterable[Batch]) -> ClippedSum:
        """Clip and add; each element is one patient's batch. Patients with as many rows share a pass."""
        total = self._network.empty_sum(self._clip)
        waiting: dict[int, list[Batch]] = defaultdict(list)
        for batch in patients:
            some = waiting[len(batch)]
            some.append(batch)
            if len(some) >= self._patients_at_once(len(batch)):
                total.add(self.gradients(waiting.pop(len(batch))))
        for some in waiting.values():
            total.add(self.gradients(some))
        return total

    def _patients_at_once(self, rows: int) -> int:
        return max(1, min(self._largest // rows, self._most_patients))

    def gradients(self, patients: list[Batch]) -> Tensor:
        """Mean gradient of each patient, all with the same number of rows: shape (N, P), float32."""
        while True:
            try:
                return self._in_passes(patients)
            except torch.OutOfMemoryError:
                # The next try is outside this block: until it ends, the error keeps the failed pass in memory.
                tried = min(self._largest, len(patients) * len(patients[0]))
                self._largest = halved(tried, self._network.device)

    def _in_passes(self, patients: list[Batch]) -> Tensor:
        rows = len(patients[0])
        some = self._patients_at_once(rows)
        groups = [_joined(patients[start : start + some]) for start in range(0, len(patients), some)]
        found = [self._group(group, rows) for group in groups]
        return found[0] if len(found) == 1 else torch.cat(found)

    def _group(self, joined: Batch, rows: int) -> Tensor:
        """Several patients in one pass, or one patient in as many as memory needs: (N, P)."""
        patients = len(joined) // rows
        parts = pieces(joined, len(joined) if patients > 1 else self._largest)
        return functools.reduce(Tensor.add_, (self._pass(part, patients, rows) for part in parts))

    def _pass(self, part: Batch, patients: int, rows: int) -> Tensor:
        with _recording(self._layers, patients) as found:
            losses = self._network.losses(part)
            if losses.requires_grad:
                (losses.sum() / rows).backward()  # type: ignore[no-untyped-call]
        parts = [found.get(parameter, (patients, parameter)) for parameter in self._parameters]
        return torch.cat(parts, dim=1)

    def agrees_with(self, exact: Tensor, rounded: Tensor, patients: list[Batch], tolerance: float) -> bool:
        """Whether each parameter's gradients are ``exact`` but for rounding.

        Args:
            exact: gradients of ``patients``, one at a time in double precision, shape (N, P).
            rounded: the same as this network computes them; its distance from ``exact`` shows what rounding does.
            patients: all with the same number of rows.
            tolerance: of a gradient's norm.
        """
        sizes = [parameter.numel() for parameter in self._network.parameters()]
        parts = (torch.split(values.float(), sizes, dim=1) for values in (self.gradients(patients), exact, rounded))
        least = float(exact.norm()) * _NEGLIGIBLE
        return all(
            float((our - true).norm())
            <= float(true.norm()) * tolerance + _ROUNDINGS * float((loop - true).norm()) + least
            for our, true, loop in zip(*parts, strict=True)
        )


def _joined(patients: list[Batch]) -> Batch:
    return Batch(torch.cat([one.images for one in patients]), torch.cat([one.targets for one in patients]))


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
    require_no_dropout(model)
    found = []
    for name, module in model.named_modules():
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
