"""Means in which each patient weighs the same, however many of their images were measured.

Promises
- A patient's measure is the mean over those of their images that determine it, rounded once to the grid of the sums;
  the metric is the mean over patients. (A mean over cases lets a patient with ten images weigh ten times as much.)
- What a patient adds is in the statistics of their group, so it adds up over sites and has intervals like the rest.

The statistics of one case cannot hold this, as they do not know of the patient's other images: ``collect_patients``
counts cases as ``additive.collect`` does, and adds what ``of_patient`` makes of the sum over each patient's cases.
A patient must be at one site, as everywhere.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping

import numpy as np

from shared.evaluation.additive import IntArray, Observation, Schema, Statistics, collect, group_of

OfPatient = Callable[[Mapping[str, IntArray]], Observation]
"""The sum of one patient's cases -> what the patient adds, under names to which their cases add 0."""


def collect_patients(
    schema: Schema, observed: Iterable[tuple[str, Observation]], of_patient: OfPatient | None
) -> Statistics:
    """Statistics of (patient, observation) pairs in any order, with what each patient adds, if anything."""
    if of_patient is None:
        return collect(schema, observed)
    own: dict[str, dict[str, IntArray]] = {}

    def kept() -> Iterator[tuple[str, Observation]]:
        for patient, observation in observed:
            sums = own.setdefault(patient, {name: np.zeros_like(values) for name, values in observation.items()})
            for name, values in observation.items():
                sums[name] += values
            yield patient, observation

    statistics = collect(schema, kept())
    for patient, sums in own.items():
        for name, values in of_patient(sums).items():
            statistics.counts[name][group_of(patient)] += values
    return statistics


def rounded_mean(sums: IntArray, number: IntArray) -> IntArray:
    """Elementwise ``sums / number`` to the nearest integer (halves go up), and 0 where ``number`` is 0."""
    return np.where(number > 0, (2 * sums + number) // np.maximum(2 * number, 1), 0)
