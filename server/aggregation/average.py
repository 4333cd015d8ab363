"""The mean of the last global models, which a plan may ask for as its final model.

Promises
- ``RunningMean`` adds models in the order of rounds, in float64, and is a value: stored in a checkpoint and restored,
  it goes on to the same bits.
- A sum of k float32 models in float64 is off by at most k * 2**-53 of the largest partial sum, and exact as long as the
  models' exponents differ by less than 29 - log2(k) bits; ``mean`` rounds once to float32.

Averaging the tail of a run: Polyak and Juditsky, SIAM J. Control Optim. 30(4), 1992.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from shared.errors import RunError
from shared.messages import Vector


@dataclass(frozen=True, slots=True, eq=False)
class RunningMean:
    """Sum of the models so far, shape (P,), float64, and their number."""

    total: NDArray[np.float64]
    count: int

    @classmethod
    def of(cls, weights: Vector) -> RunningMean:
        """The mean of one model."""
        return cls(weights.astype(np.float64), 1)

    def add(self, weights: Vector) -> RunningMean:
        """The mean with one model more."""
        if weights.shape != self.total.shape:
            raise RunError(f"models of {self.total.size} and {weights.size} weights have no mean", code="server-state")
        return RunningMean(self.total + weights, self.count + 1)

    def mean(self) -> Vector:
        """The mean, shape (P,), float32."""
        return (self.total / self.count).astype(np.float32)


def in_tail(round_number: int, rounds: int, average_last: int) -> bool:
    """Whether the model after this round (1 to ``rounds``) is one of the last ``average_last``."""
    return rounds - average_last < round_number <= rounds
