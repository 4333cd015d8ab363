"""A step under patient-level privacy against a plain step on the same images: time and memory, for both engines.

All ways take the gradient of the same images, set ``.grad`` and let the same AdamW step. ``loop`` and ``vectorised``
clip each patient's gradient and add noise from the operating system; ``plain`` does neither.
"""

from __future__ import annotations

import resource
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from bench import Bench, said
from micro import Turns, in_turns
from rows import Row, Target, ratios

from client.training.batches import Batch
from client.training.engines import ROWS_ON_CPU
from client.training.per_patient import Network, OneByOne, PatientGradients
from client.training.private import give_gradient
from client.training.vectorised import SideBySide
from shared.models import build_network
from shared.models.spec import ModelSpec
from shared.models.table import architecture
from shared.privacy.clipping import Clip
from shared.privacy.mechanism import noisy_mean
from shared.privacy.noise import SecureNoise
from shared.privacy.terms import Terms
from shared.tasks.classification import cross_entropy
from shared.tasks.segmentation import cross_entropy_and_dice

WAYS = ("plain", "loop", "vectorised")
PROMISED = ("unet", 2, 128, 16, 1)
"""Network, axes, edge, patients, images of each: what DESIGN section 11 speaks of."""
OTHERS = (
    ("unet", 2, 128, 8, 2),
    ("unet", 2, 128, 4, 4),
    ("fine_unet", 2, 96, 16, 1),
    ("cnn", 2, 96, 16, 1),
    ("cnn", 2, 32, 16, 1),
    ("resnet18", 2, 64, 16, 1),
    ("segresnet", 2, 96, 16, 1),
    ("dynunet", 2, 96, 8, 1),
    ("unet", 3, 32, 8, 1),
)

Shape = Sequence[str | int]


@dataclass(frozen=True)
class Work:
    """A network with its images, whole and by patient."""

    network: Network
    everything: Batch
    patients: list[Batch]

    @classmethod
    def of(cls, name: str, dimensions: int, edge: int, patients: int, images: int) -> Work:
        """Random images for a network, on the GPU where there is one."""
        dense = architecture(name).output == "dense"
        model = build_network(ModelSpec(name, dimensions, 1, 2), seed=1).train()
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        rng, grid, rows = np.random.default_rng(1), (edge,) * dimensions, patients * images
        voxels = torch.from_numpy(rng.standard_normal((rows, 1, *grid), np.float32))
        targets = torch.from_numpy(rng.integers(2, size=(rows, *(grid if dense else ()))))
        loss = cross_entropy_and_dice if dense else cross_entropy
        parts = zip(voxels.split(images), targets.split(images), strict=True)
        network = Network(model.to(device), loss, device)
        return cls(network, Batch(voxels, targets), [Batch(*part) for part in parts])

    def ways(self) -> dict[str, Callable[[], None]]:
        """A step each way, by name."""
        optimizer = torch.optim.AdamW(self.network.model.parameters())
        clip, noise = Clip(1.0), SecureNoise()
        terms = Terms(1.0, 1.0, 1.0, float(len(self.patients)), 1, 1)

        def plain() -> None:
            optimizer.zero_grad(set_to_none=True)
            self.network.losses(self.everything).mean().backward()  # type: ignore[no-untyped-call]
            optimizer.step()

        def private(engine: PatientGradients) -> Callable[[], None]:
            def step() -> None:
                give_gradient(self.network.model, noisy_mean(engine(self.patients).values, terms, noise))
                optimizer.step()

            return step

        loop, vectorised = (
            OneByOne(self.network, clip),
            SideBySide(self.network, clip, min(len(self.everything), ROWS_ON_CPU)),
        )
        return {"plain": plain, "loop": private(loop), "vectorised": private(vectorised)}


def times(shapes: Sequence[Shape], repeats: int) -> dict[str, list[list[float]]]:
    """Seconds of a step each way, for each shape: the ways take turns."""
    turns: list[Turns] = [in_turns(Work.of(*shape).ways(), repeats) for shape in shapes]  # type: ignore[arg-type]
    return {f"{way}_s": [one[way] for one in turns] for way in WAYS}


def memory(way: str, shape: Shape, steps: int) -> dict[str, float]:
    """Most memory that steps take beyond what the process held before them, in MiB."""
    work = Work.of(*shape).ways()[way]  # type: ignore[arg-type]
    before = _most_mib()
    for _ in range(steps):
        work()
    return {"mib": _most_mib() - before}


def _most_mib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def private(bench: Bench) -> Iterator[Row]:
    """A private step against a plain one."""
    repeats = 3 * bench.scale.repeats
    shapes = (PROMISED, *OTHERS) if repeats > 3 else (("unet", 2, 32, 4, 1),)
    taken = bench.tuned("private_step.times", shapes=shapes, repeats=repeats)().said
    for place, shape in enumerate(shapes):
        for way in WAYS[1:]:
            found = ratios(taken[f"{way}_s"][place], taken["plain_s"][place])
            target = Target("at most", 1.3) if shape == PROMISED and way == "vectorised" else None
            yield Row(f"private step, {way}: {_spelt(shape)}", "plain step of the same images", "x", found, (), target)
    measured = {
        way: [
            bench.tuned("private_step.memory", way=way, shape=shapes[0], steps=3)() for _ in range(bench.scale.repeats)
        ]
        for way in WAYS
    }
    for way in WAYS[1:]:
        found = ratios(said(measured[way], "mib"), said(measured["plain"], "mib"))
        what = f"memory of a private step, {way}: {_spelt(shapes[0])}"
        yield Row(what, "memory of a plain step", "x", found, (), Target("at most", 1.2))


def _spelt(shape: Shape) -> str:
    name, dimensions, edge, patients, images = shape
    return f"{name} {'x'.join([str(edge)] * int(dimensions))}, {patients} patients of {images}"
