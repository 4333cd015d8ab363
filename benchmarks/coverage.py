"""How often 95 % intervals cover the truth, in simulated federations whose truth is known.

    python benchmarks/coverage.py                       # the tables of docs/intervals.md, in a few minutes on one core
    python benchmarks/coverage.py --federations 100     # roughly the same, sooner; --quick is 50, without a second set

Cases are not made: ``coverage_drawing`` draws counts by group of patients, as sites would send them, and the metrics
and intervals below are those of ``shared.evaluation`` on many federations at once. The truth of a setting is the metric
of ``TRUTH`` patients drawn in the same way. Two models see the same images; their difference is paired, and compared
with the interval that takes their patients for different ones.

Each cell holds two sets of federations with seeds of their own, so that luck on one of them shows.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache

import numpy as np
from coverage_drawing import FINE, METRICS, SETTINGS, Counts, Setting, draw, metrics_of
from numpy.typing import NDArray

from shared.evaluation.intervals import Replicates, bounds
from shared.evaluation.paired import difference, difference_bounds

TRUTH, AT_ONCE = 1_500_000, 50
FIRST, SECOND, OF_TRUTH = 1, 2, 3
BAND = (0.93, 0.97)

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Found:
    """Of federations of one setting: whether an interval covers the truth (NaN: no interval), and how wide it is."""

    covers: Floats
    width: Floats


def replicates_of(counts: Counts) -> dict[str, Replicates]:
    """Metrics of (F, groups) counts as ``intervals.replicates`` has them for one set."""
    total = {name: of.sum(axis=1) for name, of in counts.items()}
    grouped = {name: of for name, of in counts.items() if not name.startswith(FINE)}
    without = metrics_of({name: total[name][:, None] - of for name, of in grouped.items()})
    alone, together = metrics_of(grouped), metrics_of({name: total[name] for name in grouped})
    return {
        name: Replicates(value, without[name] + (value - together[name])[..., None], np.isfinite(alone[name]))
        for name, value in metrics_of(total).items()
    }


@cache
def truth(setting: Setting) -> tuple[dict[str, float], dict[str, float]]:
    """The metrics of both models over as many patients as it takes for chance not to matter."""
    rng = np.random.default_rng([OF_TRUTH, setting.seed])
    federations = max(1, min(200, 20_000 // setting.patients))
    sums: list[dict[str, Floats]] = [{}, {}]
    for _ in range(max(1, TRUTH // (federations * setting.patients * setting.images))):
        for counts, kept in zip(draw(setting, federations, rng), sums, strict=True):
            for name, of in counts.items():
                kept[name] = kept.get(name, 0) + of.sum(axis=(0, 1))
    first, second = ({name: float(of) for name, of in metrics_of(kept).items()} for kept in sums)
    return first, second


def study(setting: Setting, federations: int, seed: int) -> dict[str, dict[str, Found]]:
    """By kind (single, paired, unpaired) and metric: what the intervals of these federations did."""
    rng, true = np.random.default_rng([seed, setting.seed]), truth(setting)
    found: dict[str, dict[str, list[Found]]] = {}
    for begin in range(0, federations, AT_ONCE):
        first, second = (replicates_of(of) for of in draw(setting, min(AT_ONCE, federations - begin), rng))
        for name in METRICS:
            change = true[1][name] - true[0][name]
            for kind, (low, high) in _limits_by_kind(first[name], second[name], METRICS[name]):
                aim = true[0][name] if kind == "single" else change
                covers = np.where(np.isfinite(low + high), (low <= aim) & (aim <= high), np.nan)
                found.setdefault(kind, {}).setdefault(name, []).append(Found(covers, high - low))
    return {kind: {name: _joined(parts) for name, parts in of.items()} for kind, of in found.items()}


def _limits_by_kind(
    first: Replicates, second: Replicates, limits: tuple[float, float]
) -> Iterator[tuple[str, tuple[Floats, Floats]]]:
    one, two = bounds(first, limits), bounds(second, limits)
    yield "single", one
    yield "paired", difference_bounds(difference(first, second), limits)
    # As server/report/compare.py where patients cannot be paired.
    value, below = second.value - first.value, np.hypot(second.value - two[0], one[1] - first.value)
    yield "unpaired", (value - below, value + np.hypot(two[1] - second.value, first.value - one[0]))


def _joined(parts: list[Found]) -> Found:
    return Found(np.concatenate([of.covers for of in parts]), np.concatenate([of.width for of in parts]))


def cell(parts: list[Found]) -> str:
    """Coverage in % in each set of federations; bold outside 93 to 97."""
    shares = [float(np.nanmean(of.covers)) for of in parts]
    text = " / ".join(f"{100 * share:.1f}" for share in shares)
    return text if all(BAND[0] <= share <= BAND[1] for share in shares) else f"**{text}**"


def narrower(paired: list[Found], unpaired: list[Found]) -> str:
    """Median width of paired intervals as a share of that of unpaired ones."""
    return f"{np.median([np.nanmedian(a.width / b.width) for a, b in zip(paired, unpaired, strict=True)]):.2f}"


def table(title: str, rows: Mapping[str, Mapping[str, str]]) -> str:
    """Markdown with one column for each metric."""
    head = [f"| {title} | " + " | ".join(METRICS) + " |", "|---" * (len(METRICS) + 1) + "|"]
    return "\n".join(head + [f"| {name} | " + " | ".join(cells.values()) + " |" for name, cells in rows.items()])


def main() -> None:
    """Print the tables."""
    arguments = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    arguments.add_argument("--federations", type=int, default=1000)
    arguments.add_argument("--quick", action="store_true", help="50 federations, one set of seeds")
    asked = arguments.parse_args()
    federations, seeds = (50, (FIRST,)) if asked.quick else (asked.federations, (FIRST, SECOND))
    single: dict[str, dict[str, str]] = {}
    paired, width = dict(single), dict(single)
    for setting in SETTINGS:
        sets = [study(setting, federations, seed) for seed in seeds]
        by_kind = {kind: {name: [of[kind][name] for of in sets] for name in METRICS} for kind in sets[0]}
        single[setting.name] = {name: cell(of) for name, of in by_kind["single"].items()}
        paired[setting.name] = {name: cell(of) for name, of in by_kind["paired"].items()}
        width[setting.name] = {name: narrower(of, by_kind["unpaired"][name]) for name, of in by_kind["paired"].items()}
    print(table("coverage, %", single), table("paired difference, %", paired), sep="\n\n")
    print("\n" + table("width, paired / unpaired", width))


if __name__ == "__main__":
    main()
