"""The tools that a plan calls for, set up once: network, task, device, and the schemas that name them.

Promises
- One workbench serves any number of sites in one process, one after the other: every use loads the weights it needs,
  and no site's state stays in it. Memory therefore does not grow with the number of sites.
- Setting one up checks what can be checked without data: task, network, image size, frozen parts, memory.
- Before the first private round the mechanism is tested on this machine with this network and this layout
  (``client.training.self_test``), and audited with canaries (``client.training.canary``) where that takes a minute at
  most; what fails refuses to train.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from client.data.progress import Progress, silent
from client.training import canary, engines, self_test
from client.training import device as devices
from client.training.explain import explainer
from client.training.per_patient import Network, PatientGradients
from shared import admission, models, tasks
from shared.arrays import ParameterSchema, read_vector, schema_of, write_vector
from shared.fingerprint import Arithmetic, Fingerprint
from shared.fixed_point import quantise
from shared.messages import Update, Vector
from shared.plan import Plan
from shared.privacy.noise import Noise
from shared.privacy.shared_noise import noised
from shared.tasks.task import Task

_AUDIT_AT_MOST_S = 60.0
"""A coordinator waits for the first answer; ``consilium-site self-test`` takes its time."""


@dataclass(frozen=True)
class Workbench:
    """A plan's network on its device, with the task it serves."""

    plan: Plan
    task: Task
    model: torch.nn.Module
    device: torch.device
    parameters: ParameterSchema

    @classmethod
    def for_plan(cls, plan: Plan, weights_folder: Path | None = None) -> Workbench:
        """Build the network with the plan's initial weights and check that it can be trained here.

        Args:
            plan: a checked plan.
            weights_folder: where ``model.pretrained.file`` lies; the current folder if None.

        Raises:
            PlanError, ModelError, CapacityError: what the plan asks for cannot be set up.
        """
        task = tasks.task_for(plan)
        model = models.build(plan, task.output_channels, task.output)
        if plan.model.pretrained is not None:
            models.load_pretrained(
                model, (weights_folder or Path()) / plan.model.pretrained.file, plan.model.pretrained.sha256
            )
        device = devices.choose(plan.training.device)
        devices.check_capacity(model, device)
        model.to(device, memory_format=devices.memory_format(device, plan.dimensions))  # type: ignore[call-overload]
        if plan.evaluation.explain != "none":
            # Not after the last round: a network that cannot be explained would cost its test results.
            explainer(model, plan, device, plan.evaluation.explain)
        return cls(plan, task, model, device, schema_of(model))

    def initial_weights(self) -> Vector:
        """The flat vector that the model holds now: the plan's start, right after ``for_plan``."""
        return read_vector(self.model)

    def load(self, weights: Vector) -> torch.nn.Module:
        """The network with these weights; raises ``ProtocolError`` when they do not fit or are not finite."""
        write_vector(self.model, weights)
        return self.model

    def update(self, received: Vector, weight: int, rounding: np.random.Generator) -> Update:
        """What training has changed since ``received``, and nothing about how it went.

        ``rounding`` is what stochastic rounding draws from, where the plan has it.
        """
        fixed_point = self.plan.aggregation.fixed_point
        values, saturated = quantise(read_vector(self.model) - received, fixed_point, rounding)
        schema = self.parameters.digest()
        return Update(values, fixed_point.bits, weight, schema, loss_sum=0, steps=0, saturated=saturated)

    def part(self, change: NDArray[np.float64], deviation: float, weight: int, noise: Noise) -> Update:
        """One site's part of a sum whose noise sites share: ``change``, without noise so far, and nothing else.

        ``deviation`` is that of this site's noise, in units of the grid; how many values were clipped is not told.
        """
        fixed_point = self.plan.aggregation.fixed_point
        values = noised(change, deviation, fixed_point, noise)
        return Update(values, fixed_point.bits, weight, self.parameters.digest(), loss_sum=0, steps=0, saturated=0)

    @cached_property
    def patient_gradients(self) -> PatientGradients:
        """The engine for this network on this device; chosen when first asked for."""
        self.model.train()
        return engines.chosen(self._network(), self.task, self.plan)

    def require_tested(self) -> None:
        """Test the private mechanism here, once; raises ``ModelError`` ("self-test") where a check fails."""
        _ = self._tested

    def checks(self, audit_at_most_s: float = math.inf, progress: Progress = silent) -> Iterator[self_test.Check]:
        """Test the private mechanism here; ``progress`` is that of the audit, which can take longer than the rest."""
        network, engine = self._network(), self.patient_gradients
        yield from self_test.run(self_test.Subject.of(network, engine, self.task, self.plan))
        yield canary.check(canary.Trial.of(network, engine, self.task, self.plan), audit_at_most_s, progress)

    @cached_property
    def _tested(self) -> None:
        self_test.require_passed(self.checks(_AUDIT_AT_MOST_S))

    def _network(self) -> Network:
        return Network.of(self.model, self.task, self.plan, self.device)

    def fingerprint(self) -> Fingerprint:
        """What this installation is and makes of the built-in phantom under this plan; made when first asked for.

        No case of a site is read for it, and ``model`` stays as it is.
        """
        return self._fingerprint

    @cached_property
    def _fingerprint(self) -> Fingerprint:
        return admission.fingerprint_of(self.plan, self.task, self._machine())

    def _machine(self) -> admission.Machine:
        precision = partial(devices.autocast, self.device, self.plan.training.precision)
        with precision():
            halved = torch.is_autocast_enabled(self.device.type)
        # Convolutions in float32 use TF32 on CUDA devices that have it, unless somebody forbids them.
        plain: Arithmetic = "tf32" if self.device.type == "cuda" else "float32"
        layout = devices.memory_format(self.device, self.plan.dimensions)
        return admission.Machine(self.device, layout, precision, "bfloat16" if halved else plain)
