"""What the sections of the table share: how much is measured, where, and how arms are made."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from processes import ArmError, Ran, ours, run_arm
from rows import ratios

CORES = len(os.sched_getaffinity(0))
_DEADLINE_S = 600.0
_SAME_LOSS = 1e-3

Arm = Callable[[], Ran]
Runs = Mapping[str, Sequence[Ran]]


@dataclass(frozen=True)
class Size:
    """A federation to simulate, and how often."""

    sites: int
    rounds: int
    repeats: int

    def __str__(self) -> str:
        return f"{self.rounds} rounds of {self.sites} sites"


@dataclass(frozen=True)
class Scale:
    """How much is measured.

    Attributes:
        small, large: the two federations.
        changes: to their plan.
        parameters: length of the vectors that are added and rounded.
        repeats: turns of everything else.
        steps: of training, where single steps are timed.
    """

    small: Size
    large: Size
    changes: tuple[str, ...]
    parameters: int
    repeats: int
    steps: int


FULL = Scale(Size(10, 5, 3), Size(100, 3, 2), (), 30_000_000, 3, 20)
QUICK = Scale(Size(2, 1, 1), Size(4, 1, 1), ("training.steps=2",), 1_000_000, 1, 2)


@dataclass(frozen=True)
class Bench:
    """Where and how everything runs.

    Attributes:
        stores: folder of prepared sites.
        scale: how much.
        environment: what the user has; both sides' environments are made from it.
    """

    stores: str
    scale: Scale
    environment: Mapping[str, str]

    def train(
        self, arm: str, size: Size, environment: Mapping[str, str], deadline_s: float = _DEADLINE_S, **more: object
    ) -> Arm:
        """A training arm, ready to run."""
        arguments = {"stores": self.stores, "sites": size.sites, "rounds": size.rounds, "changes": self.scale.changes}
        return partial(run_arm, arm, environment, arguments | more, deadline_s)

    def tuned(self, arm: str, **arguments: object) -> Arm:
        """Any other arm in our environment, ready to run."""
        return partial(run_arm, arm, ours(self.environment), arguments)


def same_work(runs: dict[str, list[Ran]]) -> dict[str, list[Ran]]:
    """The runs, if all arms trained the same models: times of different work cannot be compared."""
    losses = [ran.said["loss"] for done in runs.values() for ran in done]
    # Written so that NaN, which fails every comparison, does not pass.
    if not all(abs(loss - losses[0]) <= _SAME_LOSS for loss in losses):
        raise ArmError(f"the arms did not train the same: losses from {min(losses):.6f} to {max(losses):.6f}")
    return runs


def wall(runs: Sequence[Ran]) -> tuple[float, ...]:
    """Seconds from start to exit."""
    return tuple(ran.wall_s for ran in runs)


def cpu(runs: Sequence[Ran]) -> tuple[float, ...]:
    """Seconds of CPU time, children included."""
    return tuple(ran.cpu_s for ran in runs)


def said(runs: Sequence[Ran], name: str) -> tuple[float, ...]:
    """What the arms measured of themselves under ``name``."""
    return tuple(ran.said[name] for ran in runs)


def percent(above: Sequence[float], below: Sequence[float]) -> tuple[float, ...]:
    """Ratios in percent."""
    return tuple(100 * ratio for ratio in ratios(above, below))


def milliseconds(seconds: Sequence[float]) -> tuple[float, ...]:
    """In thousandths."""
    return tuple(1e3 * value for value in seconds)
