"""From a site's cases to batches of tensors.

Promises
- Every step sees ``patients_per_step`` images of as many patients: patients are shuffled and dealt without
  replacement, dealt anew when they run out, and each gives one image at random. The patient is the unit, however many
  images one has.
- The order and every random change depend on the generator alone; prefetching moves work, never randomness.
- On CUDA batches are pinned and copied while the previous step computes; on the CPU they are made in line.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from shared.plan import Plan
from shared.preprocessing.augmentation import augment, random_patch
from shared.preprocessing.image import Case
from shared.tasks.task import Task

_PREFETCHED = 2


@dataclass(frozen=True)
class TrainingData:
    """Training cases and which of them belong to one patient.

    Attributes:
        cases: all cases that may be trained on.
        patients: for each patient the positions of their cases; no position occurs twice.
    """

    cases: Sequence[Case]
    patients: tuple[tuple[int, ...], ...]


@dataclass(frozen=True)
class Batch:
    """Network input (B, C, *spatial) float32 and what the loss compares with (B, ...)."""

    images: torch.Tensor
    targets: torch.Tensor

    def __len__(self) -> int:
        """Number of images."""
        return len(self.images)


def deal(patients: int, at_a_time: int, rng: np.random.Generator) -> Iterator[NDArray[np.int64]]:
    """Endless hands of ``at_a_time`` patients, shape (at_a_time,), from shuffled decks that hold everyone once."""
    deck = rng.permutation(patients)
    while True:
        while len(deck) < at_a_time:
            deck = np.concatenate([deck, rng.permutation(patients)])
        yield deck[:at_a_time]
        deck = deck[at_a_time:]


def draw(
    case: Case, task: Task, plan: Plan, rng: np.random.Generator
) -> tuple[NDArray[np.float32], NDArray[np.generic]]:
    """One training example of a case: target, patch, augmentation."""
    voxels, target = case.voxels, task.target(case)
    spatial = target if task.output == "dense" else None
    if plan.training.patch and spatial is not None:  # a plan with patches has a dense task
        voxels, spatial = random_patch(voxels, spatial, plan.training.patch, plan.training.foreground_patches, rng)
    voxels, spatial = augment(voxels, spatial, plan.training.augmentation, rng)
    return voxels, target if spatial is None else spatial


def batches(data: TrainingData, task: Task, plan: Plan, rng: np.random.Generator) -> Iterator[Batch]:
    """Endless batches for training."""
    for hand in deal(len(data.patients), plan.training.patients_per_step, rng):
        chosen = [data.cases[rng.choice(data.patients[patient])] for patient in hand]
        images, targets = zip(*(draw(case, task, plan, rng) for case in chosen), strict=True)
        yield Batch(torch.from_numpy(np.stack(images)), torch.from_numpy(np.stack(targets)))


def pieces(batch: Batch, largest: int) -> Iterator[Batch]:
    """The rows of ``batch`` in order, at most ``largest`` at a time."""
    for start in range(0, len(batch), largest):
        yield Batch(batch.images[start : start + largest], batch.targets[start : start + largest])


def to_device(batch: Batch, device: torch.device, layout: torch.memory_format) -> Batch:
    """The batch on ``device``; copies from pinned memory do not wait."""
    channels_last = layout if batch.images.ndim == 4 else torch.contiguous_format
    images = batch.images.to(device, non_blocking=True, memory_format=channels_last)
    return Batch(images, batch.targets.to(device, non_blocking=True))


def prefetched(make: Callable[[], Iterator[Batch]], steps: int, device: torch.device) -> Iterator[Batch]:
    """``steps`` batches of ``make()``; on CUDA made by a thread, pinned, a few ahead of their use."""
    if device.type != "cuda":
        source = make()
        yield from (next(source) for _ in range(steps))
        return
    yield from _from_thread(make, steps)


def _from_thread(make: Callable[[], Iterator[Batch]], steps: int) -> Iterator[Batch]:
    ready: queue.Queue[Batch | BaseException] = queue.Queue(maxsize=_PREFETCHED)
    stop = threading.Event()

    def fill() -> None:
        try:
            source = make()
            for _ in range(steps):
                batch = next(source)
                _put(ready, Batch(batch.images.pin_memory(), batch.targets.pin_memory()), stop)
        except Exception as error:  # noqa: BLE001 - raised again in the consumer's thread
            _put(ready, error, stop)

    thread = threading.Thread(target=fill, name="prefetch", daemon=True)
    thread.start()
    try:
        for _ in range(steps):
            item = ready.get()
            if isinstance(item, BaseException):
                raise item
            yield item
    finally:
        stop.set()
        thread.join()


def _put(ready: queue.Queue[Batch | BaseException], item: Batch | BaseException, stop: threading.Event) -> None:
    """Wait for room, but not for a consumer that has gone."""
    while not stop.is_set():
        try:
            ready.put(item, timeout=0.1)
        except queue.Full:
            continue
        return
