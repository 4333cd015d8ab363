"""What a task is: the part of a federation that knows what a network's output means.

Promises
- A ``Task`` is a value made of functions. Training, evaluation, rounds and reports call them and know nothing else, so
  a new kind of task is a new module in ``shared/tasks`` (and its metrics in ``shared/evaluation``) and no other change.
- ``loss`` returns one value per image, which patient-level privacy needs and averaging does not mind.
- ``observe`` returns integers that add up; ``metrics`` is a function of their sum alone.
- ``private`` is the second set of both, for statistics that get noise before they leave a site.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from shared.errors import PlanError
from shared.evaluation.additive import IntArray, Observation, Schema
from shared.evaluation.by_patient import OfPatient
from shared.evaluation.estimates import PrivateMeasures
from shared.evaluation.subgroups import Coarser
from shared.plan import Plan
from shared.preprocessing.image import Case

Scored = tuple[Case, NDArray[np.float32]]
"""A case with the network's scores (K, ...)."""

ObserveAll = Callable[[Iterable[Scored]], Iterator[tuple[Case, Observation]]]

Metrics = Mapping[str, float]
"""Metric by name; NaN where the cases do not determine it (one class only, no case)."""


@dataclass(frozen=True)
class Task:
    """A task, resolved for one plan.

    Attributes:
        name: as the plan says it.
        output_channels: channels (or logits) the network must have.
        output: "dense" for one prediction per voxel, "image" for one per image.
        headline: the metric that stands first in tables and plots.
        lower_is_better: names of metrics where less is better.
        limits: range that a metric cannot leave, by name, such as (0, 1); a metric that is not named has none.
        target: case -> what the loss compares with: float32 or int64 array, (*spatial) or (K,) or ().
        loss: (logits (B, K, ...), targets (B, ...)) -> one loss per image, shape (B,).
        decode: logits (B, K, ...) -> scores in [0, 1] of the same shape, float32, on the CPU.
        schema: names and shapes of what ``observe`` counts.
        observe: (scores of one case (K, ...), case) -> that case's additive contribution.
        metrics: summed counts (group axis already summed away) -> metrics.
        describe: (scores of one case, case) -> columns for predictions.csv, such as label and score, or dice.
        of_patient: what a patient adds beyond the sum of their cases; None where nothing.
        signed: metrics that are best at 0, such as a bias.
        bounds: summed counts -> how far each metric taken from bins can be from that of unbinned values.
        by_level: what is counted of a level of a subgroup; None for the same as of everybody.
        private: what is counted and measured under ``evaluation.release = "dp"``; None where the task has no such set.
        observe_all: ``observe`` of a stream of cases in order, where several at once are cheaper than one by one.
    """

    name: str
    output_channels: int
    output: Literal["dense", "image"]
    headline: str
    target: Callable[[Case], NDArray[np.generic]]
    loss: Callable[[Tensor, Tensor], Tensor]
    decode: Callable[[Tensor], NDArray[np.float32]]
    schema: Schema
    observe: Callable[[NDArray[np.float32], Case], Observation]
    metrics: Callable[[Mapping[str, IntArray]], Metrics]
    describe: Callable[[NDArray[np.float32], Case], Mapping[str, float | int | str]]
    lower_is_better: frozenset[str] = frozenset()
    limits: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    of_patient: OfPatient | None = None
    signed: frozenset[str] = frozenset()
    bounds: Callable[[Mapping[str, IntArray]], Metrics] = lambda _counts: {}
    by_level: Coarser | None = None
    private: PrivateMeasures | None = None
    observe_all: ObserveAll | None = None


def observations(task: Task, scored: Iterable[Scored]) -> Iterator[tuple[Case, Observation]]:
    """Each scored case with its contribution, in order."""
    if task.observe_all is not None:
        return task.observe_all(scored)
    return ((case, task.observe(scores, case)) for case, scores in scored)


def released_definition(task: Task, plan: Plan) -> str:
    """Digest of the definition of the statistics that leave a site under ``plan``."""
    return (private_measures(task) if plan.evaluation.release == "dp" else task).schema.digest()


def private_measures(task: Task) -> PrivateMeasures:
    """What ``task`` counts where statistics get noise; raises ``PlanError`` where it has nothing for that."""
    if task.private is None:
        raise PlanError(
            f'evaluation.release = "dp" needs statistics with a bound, and the task {task.name} has none',
            hint='choose release = "sum" with privacy.covers = "training", or another task',
        )
    return task.private
