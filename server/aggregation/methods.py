"""How a mean change becomes the next global model.

Promises
- A method is a pure function ``(state, change, settings) -> (state, new weights)``. Nothing is modified, and equal
  arguments give equal bits on any machine: numpy's element-wise float32 arithmetic is IEEE 754, step by step.
- ``METHODS`` is the table from the plan's names. A new method is a function and a line there.

Notation: x the weights, d the weighted mean of the sites' changes (trained minus received: what Reddi et al. call
Delta and what is a gradient with its sign reversed), eta ``server_learning_rate``. All are vectors of shape (P,).

==========  ==================================================================================  ==================
name        next state                                                                          paper
==========  ==================================================================================  ==================
fedavg      x + eta d                                                                           McMahan et al. 2017
fedprox     the same; the proximal term is in the sites' loss                                   Li et al. 2020
fedavgm     m = momentum m + d;  x + eta m                                                      Hsu et al. 2019
fedadam     m, v = beta1 m + (1-beta1) d, beta2 v + (1-beta2) d^2;  x + eta m / (sqrt(v) + tau)  Reddi et al. 2021
fedyogi     as fedadam, with v = v - (1-beta2) d^2 sign(v - d^2)                                Reddi et al. 2021
==========  ==================================================================================  ==================

Choices that other implementations make differently
- v starts at tau^2 and m at 0, as Algorithm 2 of Reddi et al. has it. Flower 1.41 starts v at 0.
- No bias correction, as in Reddi et al. Flower's FedAdam multiplies eta by sqrt(1 - beta2^(t+1)) / (1 - beta1^(t+1)) in
  round t = 1, 2, ..., which is Kingma and Ba's factor of one step later; its FedYogi does not correct.
- FedAvgM applies eta to the momentum, as Flower and torch's SGD do; Hsu et al. have eta = 1.

References: McMahan et al., Communication-efficient learning of deep networks from decentralized data, AISTATS 2017.
Li et al., Federated optimization in heterogeneous networks, MLSys 2020. Hsu et al., Measuring the effects of
non-identical data distribution for federated visual classification, arXiv 1909.06335, 2019. Reddi et al., Adaptive
federated optimization, ICLR 2021.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from shared.errors import RunError
from shared.messages import Vector
from shared.plan import Aggregation

FIRST_MOMENT, SECOND_MOMENT = "first_moment", "second_moment"


@dataclass(frozen=True, slots=True, eq=False)
class ServerState:
    """What the coordinator carries from round to round.

    Attributes:
        weights: the global model, shape (P,), float32.
        first_moment: momentum, shape (P,), float32; None where the method keeps none or before its first step.
        second_moment: running size of changes, shape (P,), float32; None likewise.
        step: updates of the model made so far.
    """

    weights: Vector
    first_moment: Vector | None = None
    second_moment: Vector | None = None
    step: int = 0

    @classmethod
    def start(cls, weights: Vector) -> ServerState:
        """The state before the first round."""
        return cls(weights)

    @classmethod
    def restore(cls, weights: Vector, moments: Mapping[str, NDArray[np.generic]], step: int) -> ServerState:
        """Inverse of ``moments`` and ``step``; raises ``RunError`` when a moment is not shaped like the weights."""
        for name, moment in moments.items():
            if moment.shape != weights.shape or moment.dtype != np.float32:
                found = f"{moment.dtype} of shape {moment.shape}"
                raise RunError(f"{name} should be {weights.size} float32 values, not {found}", code="server-state")
        first, second = (_float32(moments.get(name)) for name in (FIRST_MOMENT, SECOND_MOMENT))
        return cls(weights, first, second, step)

    def moments(self) -> dict[str, Vector]:
        """Those moments that there are, by name: with ``weights`` and ``step`` all that a checkpoint must hold."""
        named = {FIRST_MOMENT: self.first_moment, SECOND_MOMENT: self.second_moment}
        return {name: moment for name, moment in named.items() if moment is not None}


Step = tuple[ServerState, Vector]
"""The next state and the next global model, which is its ``weights``."""

Method = Callable[[ServerState, Vector, Aggregation], Step]


def fedavg(state: ServerState, change: Vector, settings: Aggregation) -> Step:
    """Move by the mean change (McMahan et al. 2017); FedProx (Li et al. 2020) differs only at the sites."""
    return _move(state, change, settings)


def fedavgm(state: ServerState, change: Vector, settings: Aggregation) -> Step:
    """Move by a running sum of changes (Hsu et al. 2019)."""
    before = _first_moment(state)
    momentum = np.float32(settings.server_momentum) * before + change
    return _move(replace(state, first_moment=momentum), momentum, settings)


def fedadam(state: ServerState, change: Vector, settings: Aggregation) -> Step:
    """Scale each parameter by the running mean of its squared changes (Reddi et al. 2021, Algorithm 2)."""
    before = _second_moment(state, settings)
    after = np.float32(settings.beta_2) * before + np.float32(1 - settings.beta_2) * (change * change)
    return _adapt(replace(state, second_moment=after), change, settings)


def fedyogi(state: ServerState, change: Vector, settings: Aggregation) -> Step:
    """Like ``fedadam``, but the scale moves by an amount that does not depend on itself (Reddi et al. 2021)."""
    before, square = _second_moment(state, settings), change * change
    after = before - np.float32(1 - settings.beta_2) * square * np.sign(before - square)
    return _adapt(replace(state, second_moment=after), change, settings)


METHODS: Mapping[str, Method] = {
    "fedavg": fedavg,
    "fedprox": fedavg,
    "fedavgm": fedavgm,
    "fedadam": fedadam,
    "fedyogi": fedyogi,
}
"""Method by the plan's name for it."""


def _first_moment(state: ServerState) -> Vector:
    return np.zeros_like(state.weights) if state.first_moment is None else state.first_moment


def _second_moment(state: ServerState, settings: Aggregation) -> Vector:
    if state.second_moment is None:
        return np.full_like(state.weights, settings.tau**2)
    return state.second_moment


def _adapt(state: ServerState, change: Vector, settings: Aggregation) -> Step:
    """The step that FedAdam and FedYogi share; ``state.second_moment`` is the new one already."""
    momentum = np.float32(settings.beta_1) * _first_moment(state) + np.float32(1 - settings.beta_1) * change
    size: Vector = np.sqrt(_second_moment(state, settings))
    direction = momentum / (size + np.float32(settings.tau))
    return _move(replace(state, first_moment=momentum), direction, settings)


def _move(state: ServerState, direction: Vector, settings: Aggregation) -> Step:
    """One step; raises ``RunError`` rather than hand out weights that are not finite."""
    with np.errstate(over="ignore", invalid="ignore"):
        weights = state.weights + np.float32(settings.server_learning_rate) * direction
    if not np.isfinite(weights).all():
        raise RunError(
            f"{int(np.count_nonzero(~np.isfinite(weights)))} weights are not finite after step {state.step + 1}",
            hint="lower server_learning_rate",
            code="model-not-finite",
        )
    return replace(state, weights=weights, step=state.step + 1), weights


def _float32(moment: NDArray[np.generic] | None) -> Vector | None:
    return None if moment is None else moment.astype(np.float32, copy=False)
