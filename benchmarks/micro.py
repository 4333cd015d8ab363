"""Single figures: one line each in the table.

Every function is an arm of its own process. Where two ways are compared they take turns, and all turns are returned.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np

from client.data.prepared.store import Store
from client.data.prepared.store_writer import write
from client.training import local
from client.training.batches import TrainingData, batches
from client.workbench import Workbench
from server.journal import Journal
from shared.fixed_point import quantise
from shared.plan import FixedPoint, Plan
from shared.preprocessing.augmentation import random_patch
from shared.preprocessing.image import Case
from shared.seeds import generator
from simulations.scenario import load

Turns = dict[str, list[float]]
_RATE = 1e-3
_VOLUMES = 8


def store_read(beside: str, patches: int, repeats: int, edge: int = 128) -> Turns:
    """Seconds for random patches of half the edge, from volumes in a store whose pages are warm and in memory."""
    with tempfile.TemporaryDirectory(dir=beside) as folder:
        write(Path(folder), "benchmark", _volumes(edge))
        stored = Store.open(Path(folder), verify="on-open")
        kept = list(_volumes(edge))
        ways: dict[str, Callable[[int], Case]] = {"store_s": stored.case, "memory_s": kept.__getitem__}
        return in_turns({name: _reader(get, edge // 2, patches) for name, get in ways.items()}, repeats)


def _reader(get: Callable[[int], Case], patch: int, patches: int) -> Callable[[], None]:
    def read() -> None:
        rng = generator(1, "patches")
        for position in rng.integers(_VOLUMES, size=patches):
            case = get(int(position))
            assert case.mask is not None
            for view in random_patch(case.voxels, case.mask, (patch,) * 3, 0.0, rng):
                np.ascontiguousarray(view)

    return read


def _volumes(edge: int) -> Iterator[Case]:
    rng, shape = generator(1, "volumes"), (edge,) * 3
    for number in range(_VOLUMES):
        voxels = rng.standard_normal((1, *shape), np.float32)
        yield Case(f"{number}", f"{number}", voxels, np.ones(shape, np.uint8), None, (1.0,) * 3)


def fixed_point(length: int, repeats: int) -> Turns:
    """Seconds to make integers of a change of ``length`` parameters, and numpy's to copy it."""
    change = generator(1, "change").standard_normal(length, np.float32) * np.float32(0.01)
    plain = np.empty_like(change)
    return in_turns(
        {"quantise_s": lambda: quantise(change, FixedPoint()), "copy_s": lambda: np.copyto(plain, change)}, repeats
    )


def journal(beside: str, lines: int) -> Turns:
    """Seconds for each durable line of a journal on the disk where the stores are."""
    with (
        tempfile.TemporaryDirectory(dir=beside) as folder,
        Journal.create(Path(folder) / "journal.sqlite", "0" * 64, "", 0, time.time) as open_journal,
    ):
        return {
            "line_s": [_seconds(lambda: open_journal.record(1, "training", "answered", "site")) for _ in range(lines)]
        }


def steps(shapes: Sequence[tuple[str, int]], steps: int, repeats: int) -> dict[str, list[list[float]]]:
    """``step`` of each (scenario, edge) of ``shapes``."""
    turns = [step(scenario, edge, steps, repeats) for scenario, edge in shapes]
    return {way: [one[way] for one in turns] for way in ("train_s", "batches_s")}


def step(scenario: str, edge: int, steps: int, repeats: int) -> Turns:
    """Seconds of one step of a scenario on images of ``edge`` squared: training whole, and its batches alone."""
    plan = load(scenario, (f"preprocessing.size=[{edge},{edge}]",)).plan
    cases = _images(plan, 4 * plan.training.patients_per_step)
    bench, data = Workbench.for_plan(plan), TrainingData(cases, tuple((position,) for position in range(len(cases))))

    def train() -> None:
        assignment = local.Assignment(steps, lambda _: _RATE)
        local.train(bench.model, data, bench.task, plan, assignment, rng=generator(1, "step"), device=bench.device)

    def draw() -> None:
        source = batches(data, bench.task, plan, generator(1, "step"))
        for _ in range(steps):
            next(source)

    turns = in_turns({"train_s": train, "batches_s": draw}, repeats)
    return {way: [seconds / steps for seconds in taken] for way, taken in turns.items()}


def _images(plan: Plan, count: int) -> Sequence[Case]:
    rng, shape, classes = generator(1, "images"), plan.preprocessing.size, len(plan.data.classes)
    return [
        Case(
            case_id=f"{number}",
            patient=f"{number}",
            voxels=rng.standard_normal((plan.input_channels, *shape), np.float32),
            mask=rng.integers(classes, size=shape).astype(np.uint8),
            label=number % classes,
            spacing_mm=(1.0,) * len(shape),
        )
        for number in range(count)
    ]


def in_turns(ways: dict[str, Callable[[], object]], repeats: int) -> Turns:
    """Once each to warm up, then A B A B ..."""
    for work in ways.values():
        work()
    turns: Turns = {name: [] for name in ways}
    for _ in range(repeats):
        for name, work in ways.items():
            turns[name].append(_seconds(work))
    return turns


def _seconds(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began
