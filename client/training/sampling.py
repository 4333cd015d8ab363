"""Which patients take part in a private step, and what of theirs.

Promises
- Each patient takes part by a coin of their own (Poisson sampling): nobody's chance depends on who else is there or on
  how many there are. Nobody may be drawn at all; that is a step like any other.
- Up to K images of a patient, V augmented views of each, make one batch: the patient is the unit, over how many files,
  series or visits their images are spread.
- What is chosen and changed at random comes from a stream of the patient's own, named by the step and their salted
  name. Taking a patient away leaves all others' images as they were, to the bit.
- An image that cannot be used leaves the patient's others; a patient without any contributes nothing. Neither is an
  error: whether there was one would depend on the data.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch

from client.training.batches import Batch, TrainingData, draw
from shared.errors import CaseError
from shared.plan import Plan
from shared.preprocessing.image import Case
from shared.privacy.noise import Noise
from shared.tasks.task import Task

Streams = Callable[[int, str], np.random.Generator]
"""The generator of (step, patient's salted name)."""


@dataclass(frozen=True)
class Sampler:
    """Draws patients and makes their batches.

    Attributes:
        data: training cases by patient.
        task: gives targets.
        plan: images and views for each patient, patch, augmentation.
        streams: generators for what is not secret.
        noise: tosses the coins, which are.
    """

    data: TrainingData
    task: Task
    plan: Plan
    streams: Streams
    noise: Noise

    def step(self, number: int, rate: float) -> Iterator[Batch]:
        """Batches of the patients drawn for a step, one for each who has a usable image, made when asked for."""
        coins = self.noise.coins(len(self.data.patients), rate)
        for position in np.flatnonzero(coins):
            batch = self.patient(number, self.data.patients[position])
            if batch is not None:
                yield batch

    def patient(self, number: int, positions: tuple[int, ...]) -> Batch | None:
        """One patient's batch of at most K x V rows; None without a usable image."""
        rows = [row for case, rng in self._cases(number, positions) for row in self._views(case, rng)]
        if not rows:
            return None
        images, targets = zip(*rows, strict=True)
        return Batch(torch.from_numpy(np.stack(images)), torch.from_numpy(np.stack(targets)))

    def _cases(self, number: int, positions: tuple[int, ...]) -> Iterator[tuple[Case, np.random.Generator]]:
        """Up to K of the patient's cases, chosen by a stream that their salted name gives."""
        named = next(filter(None, map(self._case, positions)), None)
        if named is None:
            return
        rng = self.streams(number, named.patient)
        most = self.plan.privacy.images_per_patient
        order = rng.permutation(len(positions))[:most] if len(positions) > most else np.arange(len(positions))
        for case in (self._case(positions[place]) for place in order):
            if case is not None:
                yield case, rng

    def _case(self, position: int) -> Case | None:
        try:
            return self.data.cases[position]
        except CaseError:
            return None

    def _views(self, case: Case, rng: np.random.Generator) -> list[tuple[np.ndarray, np.ndarray]]:
        try:
            return [draw(case, self.task, self.plan, rng) for _ in range(self.plan.privacy.views_per_image)]
        except CaseError:
            return []
