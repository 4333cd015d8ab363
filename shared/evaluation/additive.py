"""Statistics that add up: what leaves a site instead of cases.

Promises
- ``Statistics`` are named int64 arrays. Adding them is exact, so the pooled metric is the metric of all cases in one
  room, in whatever order the sites answer; masks of secure aggregation cancel in them too.
- Real-valued moments are stored in units of ``UNIT`` (2**-20): each case is rounded once, sums of them are exact.
- Arrays have a leading axis of ``GROUPS`` patient groups. A patient belongs to one group, by a hash of the salted
  identifier, with all their images; leaving out one group at a time gives intervals that respect patients.
- A schema may name *ungrouped* arrays beside them, too fine to be sent twenty times: they sharpen what is said of all
  patients and are absent from ``without_group``. What they count, a coarser grouped array counts too. They are kept
  modulo ``MODULUS``, so that no sum in them is more than the coordinator takes.
- ``flat`` and ``from_flat`` are inverse; ``Schema.digest`` tells two different definitions apart.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from shared.errors import ProtocolError

GROUPS = 20
UNIT = 2.0**-20
MODULUS = 2**52
PATIENTS = "patients"
CASES = "cases"

IntArray = NDArray[np.int64]
Observation = Mapping[str, IntArray]
"""One case's contribution, without the group axis; to an ungrouped array (position when flat, amount) rows, (N, 2)."""


def in_units(value: float) -> int:
    """Round a real number to the fixed-point grid of statistics."""
    return round(value / UNIT)


def group_of(patient: str) -> int:
    """The patient's group, 0 to GROUPS - 1: the same in every round, run and process."""
    return int.from_bytes(hashlib.sha256(b"consilium-group-1" + patient.encode()).digest()[:8], "big") % GROUPS


@dataclass(frozen=True)
class Schema:
    """Names and per-case shapes of a set of statistics, and the definition they follow.

    Attributes:
        definition: name and version of what is counted, such as ``segmentation-1``.
        shapes: per-case shape by name, without the group axis; ``patients`` and ``cases`` are always added.
        ungrouped: shape by name of what is counted over all patients at once.
    """

    definition: str
    shapes: tuple[tuple[str, tuple[int, ...]], ...]
    ungrouped: tuple[tuple[str, tuple[int, ...]], ...] = ()

    @property
    def grouped_shapes(self) -> dict[str, tuple[int, ...]]:
        """Shape by name, with the group axis, of what is counted by group."""
        return {name: (GROUPS, *shape) for name, shape in ((PATIENTS, ()), (CASES, ()), *self.shapes)}

    @property
    def full_shapes(self) -> dict[str, tuple[int, ...]]:
        """Shape by name, in the order in which arrays are laid flat: first what is counted by group."""
        return self.grouped_shapes | dict(self.ungrouped)

    @property
    def length(self) -> int:
        """Number of integers in the flat vector."""
        return sum(math.prod(shape) for shape in self.full_shapes.values())

    def digest(self) -> str:
        """SHA-256 over definition, names, shapes and constants."""
        said = [self.definition, GROUPS, UNIT, [[name, list(shape)] for name, shape in self.full_shapes.items()]]
        return hashlib.sha256(json.dumps(said).encode()).hexdigest()


@dataclass(frozen=True, eq=False)
class Statistics:
    """Additive counts of a set of cases under one schema."""

    schema: Schema
    counts: Mapping[str, IntArray]

    @classmethod
    def zero(cls, schema: Schema) -> Statistics:
        """Statistics of no case."""
        return cls(schema, {name: np.zeros(shape, np.int64) for name, shape in schema.full_shapes.items()})

    @classmethod
    def from_flat(cls, schema: Schema, values: IntArray) -> Statistics:
        """Inverse of ``flat``; raises ``ProtocolError`` when the length is another schema's."""
        if values.shape != (schema.length,) or values.dtype != np.int64:
            raise ProtocolError(
                f"statistics have {values.size} {values.dtype} values, {schema.definition} has {schema.length} int64",
                hint="run the same version at every site",
            )
        edges = np.cumsum([math.prod(shape) for shape in schema.full_shapes.values()])[:-1]
        parts = np.split(values, edges)
        named = zip(schema.full_shapes.items(), parts, strict=True)
        return cls(schema, _reduced(schema, {name: part.reshape(shape) for (name, shape), part in named}))

    def flat(self) -> IntArray:
        """All counts as one vector, shape (schema.length,), int64."""
        return np.concatenate([self.counts[name].ravel() for name in self.schema.full_shapes])

    def __add__(self, other: Statistics) -> Statistics:
        """Exact sum of two sets of cases."""
        if other.schema != self.schema:
            raise ProtocolError("statistics under different definitions cannot be added", hint="run the same version")
        added = {name: self.counts[name] + other.counts[name] for name in self.counts}
        return Statistics(self.schema, _reduced(self.schema, added))

    def total(self) -> dict[str, IntArray]:
        """Counts over all patients: the group axis summed away."""
        return self.grouped_total() | {name: self.counts[name] for name, _ in self.schema.ungrouped}

    def grouped_total(self) -> dict[str, IntArray]:
        """As ``total``, without what is not counted by group: all that ``without_group`` can be compared with."""
        return {name: self.counts[name].sum(axis=0) for name in self.schema.grouped_shapes}

    def of_group(self, group: int) -> dict[str, IntArray]:
        """Counts over the patients of one group."""
        return {name: self.counts[name][group] for name in self.schema.grouped_shapes}

    def without_group(self, group: int) -> dict[str, IntArray]:
        """Counts over all patients but those of one group."""
        return {name: self.counts[name].sum(axis=0) - self.counts[name][group] for name in self.schema.grouped_shapes}


def collect(schema: Schema, observed: Iterable[tuple[str, Observation]]) -> Statistics:
    """Add up (patient, observation) pairs; a patient with several images is counted once under ``patients``."""
    counts = {name: np.zeros(shape, np.int64) for name, shape in schema.full_shapes.items()}
    flat = {name: counts[name].reshape(-1) for name, _ in schema.ungrouped}
    seen: set[str] = set()
    for patient, observation in observed:
        group = group_of(patient)
        counts[CASES][group] += 1
        counts[PATIENTS][group] += patient not in seen
        seen.add(patient)
        for name, values in observation.items():
            if name in flat:
                np.add.at(flat[name], values[:, 0], values[:, 1])
            else:
                counts[name][group] += values
    return Statistics(schema, _reduced(schema, counts))


def _reduced(schema: Schema, counts: Mapping[str, IntArray]) -> Mapping[str, IntArray]:
    """What is not counted by group, modulo ``MODULUS``: right even where a sum of squares has wrapped in 64 bits."""
    return {**counts, **{name: counts[name] & (MODULUS - 1) for name, _ in schema.ungrouped}}
