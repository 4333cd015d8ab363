"""The patients that an attack is about, and the coins that decide who is trained on.

Promises
- Everybody in the scenario's frozen cohorts belongs to it, whatever their split: the attacked models have their own.
- For each model a fair coin for each patient decides whether they are trained on. A patient's coin says nothing about
  any other's, which makes "in" and "out" neighbours as differential privacy means them: all else equal.
- Membership follows from the seed, the model's number and nothing else: arms are attacked on the same draws.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import chain

import numpy as np

from client.data.prepared.site_data import by_patient
from client.training.batches import TrainingData
from shared.errors import SiteDataError
from shared.preprocessing.image import Case
from shared.seeds import generator
from simulations.attacks.bounds import Flags
from simulations.workers import Sites, SiteSpec


@dataclass(frozen=True, eq=False)
class Population:
    """All cases, and for each patient the positions of their cases."""

    cases: Sequence[Case]
    patients: tuple[tuple[int, ...], ...]

    def chosen(self, wanted: Flags) -> tuple[tuple[int, ...], ...]:
        """The cases of patients p with wanted[p]."""
        return tuple(own for own, yes in zip(self.patients, wanted, strict=True) if yes)

    def training_data(self, members: Flags) -> TrainingData:
        """What a model that holds ``members``, shape (P,), is trained on."""
        return TrainingData(self.cases, self.chosen(members))

    def strangers(self, members: Flags) -> list[Case]:
        """The cases of everybody else."""
        return [self.cases[position] for own in self.chosen(~members) for position in own]


def population(sites: Sites, specs: Sequence[SiteSpec]) -> Population:
    """All usable patients of all sites; a site that would sit out gives none."""
    cases: list[Case] = []
    for spec in specs:
        with suppress(SiteDataError):
            data = sites.site(spec).data
            cases += chain(data.train, data.validation, data.test)
    return Population(cases, by_patient([case.patient for case in cases]))


def members_of(seed: int, model: int, patients: int) -> Flags:
    """Whether each patient is trained on by a model, shape (P,)."""
    coins = generator(seed, "attack", "members", model)
    return np.asarray(coins.random(patients) < 0.5)
