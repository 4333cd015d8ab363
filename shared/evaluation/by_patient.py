"""Means in which each patient weighs the same, however many of their images were measured.

Promises
- A patient's measure is the mean over those of their images that determine it, rounded once to the grid of the sums;
  the metric is the mean over patients. (A mean over cases lets a patient with ten images weigh ten times as much.)
- What a patient adds is in the statistics of their group, so it adds up over sites and has intervals like the rest.

The statistics of one case cannot hold this, as they do not know of the patient's other images: ``collect_patients``
counts cases as ``additive.collect`` does, and adds what ``of_patient`` makes of the sum over each patient's cases.
A patient must be at one site, as everywhere.

All that is done for a case is one addition of one vector; groups and names follow once, patient by patient.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from shared.evaluation.additive import (
    CASES,
    PATIENTS,
    IntArray,
    Observation,
    Schema,
    Statistics,
    collect,
    group_of,
)

OfPatient = Callable[[Mapping[str, IntArray]], Observation]
"""The sum of one patient's cases -> what the patient adds, under names to which their cases add 0."""


@dataclass(slots=True)
class _Own:
    """What one patient's cases add up to, laid flat, and how many there are."""

    cases: int
    sums: IntArray


def collect_patients(
    schema: Schema, observed: Iterable[tuple[str, Observation]], of_patient: OfPatient | None
) -> Statistics:
    """Statistics of (patient, observation) pairs in any order, with what each patient adds, if anything.

    What patients add is counted by group: with ``of_patient``, ``schema`` has no ungrouped arrays.
    """
    if of_patient is None:
        return collect(schema, observed)
    statistics = Statistics.zero(schema)
    counts = statistics.counts
    for patient, own in _by_patient(schema, observed).items():
        group = group_of(patient)
        counts[CASES][group] += own.cases
        counts[PATIENTS][group] += 1
        sums = _apart(schema, own.sums)
        for found in (sums, of_patient(sums)):
            for name, values in found.items():
                counts[name][group] += values
    return statistics


def rounded_mean(sums: IntArray, number: IntArray) -> IntArray:
    """Elementwise ``sums / number`` to the nearest integer (halves go up), and 0 where ``number`` is 0."""
    return np.where(number > 0, (2 * sums + number) // np.maximum(2 * number, 1), 0)


def _by_patient(schema: Schema, observed: Iterable[tuple[str, Observation]]) -> dict[str, _Own]:
    found: dict[str, _Own] = {}
    nothing = {name: np.zeros(shape, np.int64) for name, shape in schema.shapes}
    for patient, observation in observed:
        flat = np.concatenate([observation.get(name, none).ravel() for name, none in nothing.items()])
        own = found.get(patient)
        if own is None:
            found[patient] = _Own(1, flat)
        else:
            own.cases += 1
            own.sums += flat
    return found


def _apart(schema: Schema, flat: IntArray) -> dict[str, IntArray]:
    """Arrays by name of one vector."""
    found, start = {}, 0
    for name, shape in schema.shapes:
        end = start + math.prod(shape)
        found[name] = flat[start:end].reshape(shape)
        start = end
    return found
