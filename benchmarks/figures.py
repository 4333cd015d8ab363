"""Sections of the table about single parts: sums, steps, stacked models, reading, start-up."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from functools import partial

from bench import Bench, cpu, milliseconds, percent, said, wall
from processes import default, interleaved, ours, run_arm, run_command
from rows import Row, Target, ratios

from shared.environment import THREADS

_WEIGHT = 30
"""Training patients of a small site, where ``aggregation.weights`` is "patients"."""
_SHAPES = {
    "cnn, 8 images of 32²": ("hundred-sites", 32),
    "cnn, 8 images of 64²": ("hundred-sites", 64),
    "U-Net, 8 images of 96²": ("demo", 96),
}
"""Scenario and edge length of the steps that are timed."""


def aggregation(bench: Bench) -> Iterator[Row]:
    """Exact sums against numpy reading as many bytes."""
    repeats, parameters = bench.scale.repeats, bench.scale.parameters
    work = {"updates": 8, "length": parameters, "repeats": repeats}
    arms = {
        "exact": bench.tuned("aggregation.exact", **work),
        "weighted": bench.tuned("aggregation.exact", weight=_WEIGHT, **work),
        "numpy": bench.tuned("aggregation.numpy_blocks", **work),
    }
    runs = interleaved({name: (arm, repeats) for name, arm in arms.items()})
    speeds = {name: said(done, "gb_per_s") for name, done in runs.items()}
    what, against = f"exact sum of 8 updates of {parameters / 1e6:g} M", f"numpy ({max(speeds['numpy']):.1f} GB/s)"
    yield Row(what, against, "%", percent(speeds["exact"], speeds["numpy"]), target=Target("at least", 50.0))
    yield Row(f"{what}, weights of {_WEIGHT}", against, "%", percent(speeds["weighted"], speeds["numpy"]))


def steps(bench: Bench) -> Iterator[Row]:
    """Single steps: what the allocator's settings and what making batches take of them."""
    one_thread = default(bench.environment) | THREADS
    work = {"shapes": list(_SHAPES.values()), "steps": bench.scale.steps, "repeats": bench.scale.repeats}
    tuned = bench.tuned("micro.steps", **work)().said
    plain = run_arm("micro.steps", one_thread, work).said
    for number, label in enumerate(_SHAPES):
        ours_s, plain_s, batches_s = tuned["train_s"][number], plain["train_s"][number], tuned["batches_s"][number]
        yield Row(f"step of {label}: default allocator", "our settings, one thread both", "x", ratios(plain_s, ours_s))
        yield Row(f"step of {label}: making the batch", "step", "%", percent(batches_s, ours_s))


def stacked(bench: Bench) -> Iterator[Row]:
    """The experiment with stacked models: one site's step."""
    for sites in (2, 10):
        compare = bench.tuned("stacked.compare", sites=sites, steps=bench.scale.steps, repeats=bench.scale.repeats)
        found = compare().said
        equal = "equal to the bit" if found["apart"] == 0 else f"off by up to {found['apart']:.0e}"
        what = f"experiment: step in a stack of {sites} models, weights {equal}"
        yield Row(what, "the same step in a loop", "x", ratios(found["stack_ms"], found["loop_ms"]))


def reading(bench: Bench) -> Iterator[Row]:
    """Patches from a store, fixed point, and the journal."""
    repeats, parameters = bench.scale.repeats, bench.scale.parameters
    read = bench.tuned("micro.store_read", beside=bench.stores, patches=100 * repeats, repeats=repeats)().said
    what, share = "random patches of 64³ from a store", percent(read["memory_s"], read["store_s"])
    yield Row(what, "the same arrays in memory", "%", share, target=Target("at least", 50.0))
    rounding = bench.tuned("micro.fixed_point", length=parameters, repeats=repeats)().said
    what = f"{parameters / 1e6:g} M parameters to fixed point"
    yield Row(what, "", "ms", milliseconds(rounding["quantise_s"]))
    yield Row(what, "copying them", "x", ratios(rounding["quantise_s"], rounding["copy_s"]))
    lines = bench.tuned("micro.journal", beside=bench.stores, lines=50 * repeats)().said
    yield Row("one durable line of the journal", "", "ms", milliseconds(lines["line_s"]))


def start_up(bench: Bench) -> Iterator[Row]:
    """What a command costs before it does anything."""
    commands = {
        "torch": "import torch",
        "simulator": "import simulations.run",
        "help": "import sys; from simulations.cli import main; sys.argv[1:] = ['--help']; main()",
    }
    start = partial(run_command, environment=ours(bench.environment))
    arms = {
        name: (partial(start, [sys.executable, "-c", code]), bench.scale.repeats) for name, code in commands.items()
    }
    runs = interleaved(arms)
    torch, simulator = runs["torch"], runs["simulator"]
    yield Row(
        "importing the simulator",
        "torch",
        "x",
        ratios(wall(simulator), wall(torch)),
        ratios(cpu(simulator), cpu(torch)),
    )
    yield Row("consilium-sim --help", "", "s", wall(runs["help"]), cpu(runs["help"]))
