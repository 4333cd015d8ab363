"""Sections of the table about whole simulations: speed against loops and Flower, processes side by side, memory."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial

from bench import CORES, Bench, Runs, Size, cpu, percent, said, same_work, wall
from processes import ArmError, default, interleaved, ours
from rows import Row, Target, ratios

_RAY_DEADLINE_S = 240.0
_WIDE = ("model.channels=[8,256,1024]", "training.patients_per_step=1", "training.steps=1")
"""A network of 2.4 million parameters that trains one step on one image: memory that grows with the sites shows."""


def simulation(bench: Bench) -> Iterator[Row]:
    """The simulator against the bare loop, tuned and naive; in the larger federation also with all cores."""
    small, large = bench.scale.small, bench.scale.large
    few = _runs(bench, small, {"naive": small.repeats})
    many = _runs(bench, large, {"all": large.repeats, "naive": 1})
    for size, runs in ((small, few), (large, many)):
        yield from _overhead(size, runs)
        yield from _against_naive(size, runs)
    yield from _side_by_side(large, many)
    yield _growth(bench, "98 thousand parameters", many["one"][0].peak_mib / few["one"][0].peak_mib)


def _runs(bench: Bench, size: Size, more: Mapping[str, int]) -> Runs:
    """Bare loop and simulator in turns, and ``more`` arms as often as they say."""
    tuned, plain = ours(bench.environment), default(bench.environment)
    arms = {
        "bare": bench.train("training.bare", size, tuned),
        "one": bench.train("training.in_process", size, tuned),
        "all": bench.train("training.in_process", size, tuned, workers=CORES),
        "naive": bench.train("training.bare", size, plain),
    }
    repeats = {"bare": size.repeats, "one": size.repeats, **more}
    return same_work(interleaved({name: (arms[name], times) for name, times in repeats.items()}))


def _overhead(size: Size, runs: Runs) -> Iterator[Row]:
    one, bare, most = runs["one"], runs["bare"], Target("at most", 1.05)
    against = "bare loop, same environment"
    loop, loop_cpu = (ratios(said(one, name), said(bare, name)) for name in ("loop_s", "loop_cpu_s"))
    yield Row(f"{size}: training loop", against, "x", loop, loop_cpu, most)
    yield Row(f"{size}: whole process", against, "x", ratios(wall(one), wall(bare)), ratios(cpu(one), cpu(bare)), most)
    share = percent(said(one, "coordinator_s"), said(one, "loop_s"))
    yield Row(f"{size}: coordinator, journal, checkpoints", "training loop", "%", share)


def _against_naive(size: Size, runs: Runs) -> Iterator[Row]:
    what, least = f"{size}: bare loop in the default environment", Target("at least", 1.3)
    for arm, processes in {"one": 1, "all": CORES}.items():
        if arm in runs:
            found = ratios(wall(runs["naive"]), wall(runs[arm]))
            yield Row(what, f"simulation, processes: {processes}", "x", found, target=least)


def _side_by_side(size: Size, runs: Runs) -> Iterator[Row]:
    one, everyone = runs["one"], runs["all"]
    against = f"{CORES} processes, one for each core"
    yield Row(f"{size}: time of one process", against, "x", ratios(wall(one), wall(everyone)))
    for what, name in (("CPU time", "family_cpu_s"), ("memory at the end", "family_mib")):
        yield Row(f"{size}: {what} of one process", against, "x", ratios(said(one, name), said(everyone, name)))


def _growth(bench: Bench, network: str, ratio: float) -> Row:
    what, against = (f"{size.sites} sites" for size in (bench.scale.large, bench.scale.small))
    return Row(f"peak memory, {network}: {what}", against, "x", (ratio,), target=Target("at most", 1.2))


def memory(bench: Bench) -> Iterator[Row]:
    """Whether memory grows with the number of sites, with a network that is large beside everything else."""
    small, large = (
        bench.train("training.in_process", Size(size.sites, 1, 1), ours(bench.environment), changes=_WIDE)().peak_mib
        for size in (bench.scale.small, bench.scale.large)
    )
    yield _growth(bench, "2.4 million parameters", large / small)


def flower(bench: Bench) -> Iterator[Row]:
    """Flower's Ray engine against ours, both with one process for each core."""
    size, tuned, least = bench.scale.small, ours(bench.environment), Target("at least", 2.0)
    row = partial(Row, f"{size}: Flower's Ray engine", unit="x", target=least)
    arms = {
        "one": (bench.train("training.in_process", size, tuned), 1),
        "all": (bench.train("training.in_process", size, tuned, workers=CORES), 1),
        "ray": (bench.train("flower_engine.on_ray", size, tuned, _RAY_DEADLINE_S), 1),
    }
    try:
        runs = same_work(interleaved(arms))
    except ArmError as error:
        yield row("simulation", found=(), reason=str(error))
        return
    for arm, processes in {"one": 1, "all": CORES}.items():
        yield row(f"simulation, processes: {processes}", found=ratios(wall(runs["ray"]), wall(runs[arm])))
