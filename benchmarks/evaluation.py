"""What measuring costs beside answering: time of evaluation at a site, and bytes of what it sends.

``inference`` is what yields scores: a batch of stored images, the network, softmax. ``site`` is that and all that a
site does for its statistics: deciding each voxel (a threshold is a matter of evaluation), counting, adding up patients
and levels. Nothing is resampled: measures are taken on the grid of the network, as everywhere in Consilium.

CPU time is judged: one thread works on both sides and nothing waits for a disk, so other work on the machine, which
moves ratios of wall time by a factor of two, matters less.

The network is the plan's own and works each time, but its answer to a segmentation is drawn near the truth: an
untrained network would answer with noise, which no federation measures for long and which costs more to measure.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from bench import Bench
from micro import Turns
from numpy.typing import NDArray
from rows import Row, Target, ratios
from scipy.ndimage import gaussian_filter
from torch import Tensor, nn
from training import Instant

from client.training.inference import scores, told
from client.workbench import Workbench
from shared.evaluation.subgroups import Layout, layout
from shared.plan import Plan
from shared.preprocessing.image import Case
from shared.seeds import generator
from simulations.scenario import load

SUBGROUPS = (
    'evaluation.subgroups.sex=["female","male"]',
    'evaluation.subgroups.vendor=["ge","philips","siemens"]',
)
"""Nine levels, with ``other`` and ``unknown`` of each column."""

MOST_KB = 200.0
_SPEED = Target("at most", 1.10)
_SIZE = Target("at most", MOST_KB)
_SURE = 4.0
_OFF = 0.15
_OFF_FINE = 0.05
"""Spread of what is added to the field that a truth is cut from, to draw an answer: Dice of 0.8 to 0.98."""

Labels = NDArray[np.uint8]


@dataclass(frozen=True)
class Work:
    """What is measured.

    Attributes:
        said: as the table shows it.
        scenario: whose plan it is.
        changes: to that plan.
        cases: how many.
    """

    said: str
    scenario: str
    changes: tuple[str, ...]
    cases: int


WORKS = (
    Work(
        "classification, resnet18 128²",
        "breast",
        ("model.name=resnet18", "model.channels=[64,128,256,512]", "preprocessing.size=[128,128]"),
        16,
    ),
    Work("vessels, fine_unet 512²", "retina", (), 4),
    Work("organ and lesions, U-Net of the demo 96²", "demo", (), 56),
    Work("tumour, U-Net 48 x 96 x 96", "sts3d", (), 4),
)


class Drawn(nn.Module):
    """A network that does its work and then answers what was drawn, image after image, over and over."""

    def __init__(self, network: nn.Module, answers: Tensor) -> None:
        super().__init__()
        self.network, self.answers, self.given = network, answers, 0

    def forward(self, images: Tensor) -> Tensor:
        self.network(images)
        first = self.given % len(self.answers)
        self.given += len(images)
        return self.answers[first : first + len(images)]


def times(works: Sequence[Sequence[object]], repeats: int) -> dict[str, list[Turns]]:
    """Seconds of inference, and of inference with evaluation, without and with subgroups, in turns, of each work.

    By the wall (``wall``) and by this process's CPU time (``cpu``).
    """
    turns = [_in_turns(_ways(Work(*work)), repeats) for work in works]  # type: ignore[arg-type]
    return {clock: [of[clock] for of in turns] for clock in ("wall", "cpu")}


def _in_turns(ways: Mapping[str, Callable[[], object]], repeats: int) -> dict[str, Turns]:
    for work in ways.values():
        work()
    taken: dict[str, Turns] = {clock: {name: [] for name in ways} for clock in ("wall", "cpu")}
    for _ in range(repeats):
        for name, work in ways.items():
            began = Instant.now()
            work()
            spent = Instant.now() - began
            taken["wall"][name].append(spent.wall_s)
            taken["cpu"][name].append(spent.cpu_s)
    return taken


def sizes(works: Sequence[Sequence[object]]) -> dict[str, list[float]]:
    """Bytes of one site's statistics, without and with subgroups, of each work."""
    found: dict[str, list[float]] = {"site": [], "subgroups": []}
    for work in works:
        for name, changes in (("site", ()), ("subgroups", SUBGROUPS)):
            found[name].append(8.0 * _layout(_plan(Work(*work), changes)).schema.length)  # type: ignore[arg-type]
    return found


def _plan(work: Work, changes: tuple[str, ...] = ()) -> Plan:
    return load(work.scenario, (*work.changes, *changes)).plan


def _layout(plan: Plan) -> Layout:
    task = Workbench.for_plan(plan).task
    return layout(task.schema, plan, "test", task.by_level)


def _ways(work: Work) -> dict[str, Callable[[], object]]:
    plan = _plan(work)
    bench = Workbench.for_plan(plan)
    cases, answers = drawn(plan, work.cases)
    model = bench.model if answers is None else Drawn(bench.model, answers)

    def scored() -> Iterator[tuple[Case, NDArray[np.float32]]]:
        return scores(model, cases, bench.task, plan, bench.device)

    def site(wanted: Layout) -> Callable[[], object]:
        return lambda: told(wanted, scored(), bench.task)

    return {
        "inference": lambda: sum(1 for _ in scored()),
        "site": site(_layout(plan)),
        "subgroups": site(_layout(_plan(work, SUBGROUPS))),
    }


def drawn(plan: Plan, count: int) -> tuple[list[Case], Tensor | None]:
    """Cases of two images a patient, and for a segmentation the answers of a network that knows them nearly."""
    rng, shape, classes = generator(1, "evaluated"), plan.preprocessing.size, len(plan.data.classes)
    spacing_mm = (3.27, 1.5, 1.5)[-len(shape) :]
    blank = Case("", "", np.zeros(0, np.float32), None, None, spacing_mm)
    cases, answers = [], []
    for number in range(count):
        voxels = rng.standard_normal((plan.input_channels, *shape), np.float32)
        levels = (("sex", ("female", "male")[number % 2]), ("vendor", ("ge", "siemens")[number // 2 % 2]))
        case = replace(blank, case_id=f"{number}", patient=f"{number // 2}", voxels=voxels, subgroups=levels)
        if plan.plan.task == "segmentation":
            truth, answer = structure(plan, rng)
            case = replace(case, mask=truth)
            answers.append((answer == np.arange(classes).reshape(-1, *[1] * len(shape))) * np.float32(_SURE))
        cases.append(replace(case, label=number % classes))
    return cases, torch.from_numpy(np.stack(answers)) if answers else None


def structure(plan: Plan, rng: np.random.Generator) -> tuple[Labels, Labels]:
    """A truth and an answer near it: fine lines, one lump, or an organ with spots, by scenario."""
    shape = plan.preprocessing.size
    smooth = max(shape) / 16
    field, errors, spots = (gaussian_filter(rng.standard_normal(shape), smooth / part) for part in (1, 2, 3))
    field, errors, spots = (values / values.std() for values in (field, errors, spots))
    if "vessel" in plan.data.classes:
        return _labels(*(np.abs(of) < 0.12 for of in (field, field + _OFF_FINE * errors)))
    both = (field, field + _OFF * errors)
    ways = [(axis - (edge - 1) / 2) / (edge / 3.5) for axis, edge in zip(np.indices(shape), shape, strict=True)]
    lump = 1 - np.sqrt(sum(way**2 for way in ways))
    organs = [lump + 0.15 * of > 0 for of in both]
    if len(plan.data.classes) == 2:
        return _labels(*organs)
    inside = (organ & (spots + _OFF * of > 1.6) for organ, of in zip(organs, (0 * errors, errors), strict=True))
    return _labels(*(organ + found.astype(np.uint8) for organ, found in zip(organs, inside, strict=True)))


def _labels(truth: NDArray[np.generic], answer: NDArray[np.generic]) -> tuple[Labels, Labels]:
    return truth.astype(np.uint8), answer.astype(np.uint8)


def evaluation(bench: Bench) -> Iterator[Row]:
    """Inference with evaluation against inference alone, and bytes."""
    repeats = 3 * bench.scale.repeats
    works = WORKS if repeats > 3 else tuple(replace(work, cases=2) for work in WORKS[2:3])
    arguments = [[work.said, work.scenario, work.changes, work.cases] for work in works]
    taken = bench.tuned("evaluation.times", works=arguments, repeats=repeats)().said
    sent = bench.tuned("evaluation.sizes", works=arguments)().said
    for place, work in enumerate(works):
        for way, said in (("site", ""), ("subgroups", ", nine levels of subgroups")):
            wall, cpu = (ratios(of[place][way], of[place]["inference"]) for of in (taken["wall"], taken["cpu"]))
            target = _SPEED if way == "site" else None
            yield Row(f"evaluation: {work.said}{said}", "inference alone, CPU time", "x", cpu, target=target)
            yield Row(f"evaluation: {work.said}{said}", "inference alone, wall time", "x", wall)
        for name, said in (("site", ""), ("subgroups", ", nine levels of subgroups")):
            size = sent[name][place] / 1000
            yield Row(f"statistics of a site: {work.said}{said}", "", "kB", (size,), target=_SIZE)
