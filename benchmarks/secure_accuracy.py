"""Do fewer bits under masks cost accuracy? The same federation with 32-bit updates and with 14 bits and masks.

    python benchmarks/secure_accuracy.py --breast FOLDER --retina FOLDER --out accuracy.jsonl   # docs/results.md
    python benchmarks/secure_accuracy.py --show accuracy.jsonl                                  # its table again

Every line is one run of ``consilium-sim run SCENARIO``, shortened, with one seed. A sum under masks is the sum without
them, bit for bit, so that what can cost accuracy is the range and the bits. Of the runs that the coordinator sees, the
changes that sites send are looked at, too, round by round: a range has to hold them.

All arms use equal weights and release pooled statistics, which masks demand. A run that is on file is not made again.
"""

from __future__ import annotations

import argparse
import json
import math
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import numpy as np
from numpy.typing import NDArray

from client import workbench
from shared.fixed_point import Integers, Reals, quantise
from shared.plan import FixedPoint
from simulations.progress import Silent
from simulations.run import Order, run
from simulations.scenario import load

SEEDS = {"breast": (0, 1, 2), "retina": (1, 2, 3), "demo": (0, 1, 2)}
"""Those of docs/results.md: the split of seed 0 leaves a camera of ``retina`` without a test patient."""
RANGES = {"breast": 2.0**-6, "retina": 2.0**-4, "demo": 2.0**-4}
"""Local steps times learning rate, which bounds what Adam changes but for decay and luck, up to a power of two."""
_SHORT = {
    "breast": ("plan.rounds=40", "preprocessing.size=[64, 64]", "aggregation.weights=equal"),
    "retina": ("plan.rounds=12", "preprocessing.size=[256, 256]"),
    "demo": ("plan.rounds=10", "scenario.doctor_pages=false"),
}
_ALL = ("evaluation.every=1000", "evaluation.release=sum", "personalisation.steps=1")
_BITS = 14
SEEN = "32 bits, seen"
ARMS = {SEEN: "", f"{_BITS} bits, masked": "nearest", f"{_BITS} bits, masked, stochastic": "stochastic"}
"""What rounds; nothing for the plan's own 32 bits without masks."""
_T_95 = {2: 12.706, 3: 4.303}
"""Student's t for 95 % and one degree of freedom less than pairs."""


@dataclass(frozen=True)
class Trial:
    """One run."""

    scenario: str
    arm: str
    seed: int

    def changes(self) -> tuple[str, ...]:
        """What is set in the scenario."""
        short = (*_SHORT[self.scenario], *_ALL)
        if not ARMS[self.arm]:
            return short
        range_, fixed = RANGES[self.scenario], "aggregation.fixed_point"
        rounding = (f"{fixed}.range={range_}", f"{fixed}.bits={_BITS}", f"{fixed}.rounding={ARMS[self.arm]}")
        return (*short, *rounding, "secure_aggregation.enabled=true")


@dataclass(frozen=True)
class Made:
    """What a run came to.

    Attributes:
        trial: which.
        metric: name of the headline metric.
        value: of the final model on all test patients.
        changes: of each update in the order they were made: largest, 99.9 % quantile and root mean square.
        saturated: parameters that were clipped, over all updates.
    """

    trial: Trial
    metric: str
    value: float
    changes: tuple[tuple[float, float, float], ...]
    saturated: int


class Watched:
    """Rounds as sites do, and notes what was rounded."""

    def __init__(self) -> None:
        self.changes: list[tuple[float, float, float]] = []
        self.saturated = 0

    def quantise(
        self, change: Reals, fixed_point: FixedPoint, rng: np.random.Generator | None = None
    ) -> tuple[Integers, int]:
        sizes: NDArray[Any] = np.abs(change)
        quantile, rms = float(np.quantile(sizes, 0.999)), float(np.sqrt(np.mean(sizes**2, dtype=np.float64)))
        self.changes.append((float(sizes.max()), quantile, rms))
        values, saturated = quantise(change, fixed_point, rng)
        self.saturated += saturated
        return values, saturated


@contextmanager
def watching() -> Iterator[Watched]:
    """What sites in this process round, while this lasts."""
    watched = Watched()
    vars(workbench)["quantise"] = watched.quantise
    try:
        yield watched
    finally:
        vars(workbench)["quantise"] = quantise


def trials(scenarios: Sequence[str]) -> Iterator[Trial]:
    """All runs of ``scenarios``; arms of one seed stand side by side."""
    for name in scenarios:
        yield from (Trial(name, arm, seed) for seed in SEEDS[name] for arm in ARMS)


def made(trial: Trial, data: Path | None) -> Made:
    """Run ``trial`` in a folder that does not stay."""
    with tempfile.TemporaryDirectory() as folder, watching() as watched:
        order = Order(Path(folder) / "run", data, workers=1)
        out = run(load(trial.scenario, trial.changes(), trial.seed), order, Silent())
        found = json.loads((out / "results.json").read_text(encoding="utf-8"))
    metric = found["headline"]
    return Made(trial, metric, found["final"]["pooled"][metric]["value"], tuple(watched.changes), watched.saturated)


def read(path: Path) -> list[Made]:
    """The runs on file."""
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    rows = [json.loads(line) for line in lines]
    return [
        Made(**row | {"trial": Trial(**row["trial"]), "changes": tuple(map(tuple, row["changes"]))}) for row in rows
    ]


def table(runs: Sequence[Made]) -> str:
    """Markdown: a line for each arm of each scenario, with the difference from the first arm, seed by seed."""
    lines = ["| scenario | arm | by seed | mean ± sd | minus 32 bits, by seed | mean (95 % interval) | clipped |"]
    lines.append("|---" * 7 + "|")
    for name in dict.fromkeys(one.trial.scenario for one in runs):
        values = {arm: _values(runs, name, arm) for arm in ARMS}
        for arm, by_seed in values.items():
            if by_seed:
                clipped = _clipped([one for one in runs if (one.trial.scenario, one.trial.arm) == (name, arm)])
                lines.append(
                    f"| {name} | {arm} | {_said(by_seed)} | {_difference(by_seed, values[SEEN])} | {clipped} |"
                )
    return "\n".join(lines)


def differences(by_seed: Mapping[int, float], seen: Mapping[int, float]) -> list[float]:
    """Of the seeds that both sides have."""
    return [by_seed[seed] - seen[seed] for seed in sorted(by_seed.keys() & seen.keys())]


def interval(found: Sequence[float]) -> tuple[float, float]:
    """95 % for the mean of two or three paired differences (Student's t)."""
    half = _T_95[len(found)] * stdev(found) / math.sqrt(len(found))
    return mean(found) - half, mean(found) + half


def largest(runs: Sequence[Made]) -> dict[str, tuple[float, float, float]]:
    """Of the runs that were seen, by scenario: the largest of each figure of ``Made.changes``."""
    found: dict[str, tuple[float, float, float]] = {}
    for one in (one for one in runs if one.trial.arm == SEEN):
        before = found.get(one.trial.scenario, (0.0, 0.0, 0.0))
        first, second, third = (max(of) for of in zip(before, *one.changes, strict=True))
        found[one.trial.scenario] = (first, second, third)
    return found


def _values(runs: Sequence[Made], scenario: str, arm: str) -> dict[int, float]:
    return {one.trial.seed: one.value for one in runs if (one.trial.scenario, one.trial.arm) == (scenario, arm)}


def _said(by_seed: Mapping[int, float]) -> str:
    values = [by_seed[seed] for seed in sorted(by_seed)]
    spread = f" ± {stdev(values):.4f}" if len(values) > 1 else ""
    return f"{' / '.join(f'{value:.4f}' for value in values)} | {mean(values):.4f}{spread}"


def _difference(by_seed: Mapping[int, float], seen: Mapping[int, float]) -> str:
    if by_seed == seen or not (found := differences(by_seed, seen)):
        return " | "
    said = " / ".join(f"{value:+.4f}" for value in found)
    if len(found) not in _T_95:
        return f"{said} | {mean(found):+.4f}"
    low, high = interval(found)
    return f"{said} | {mean(found):+.4f} ({low:+.4f} to {high:+.4f})"


def _clipped(runs: Sequence[Made]) -> str:
    return " / ".join(f"{one.saturated}" for one in sorted(runs, key=lambda one: one.trial.seed))


def main() -> None:
    """Make the runs that are missing, and print the table."""
    arguments = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    for name in ("breast", "retina"):
        arguments.add_argument(f"--{name}", type=Path, help="folder with manifest.csv")
    arguments.add_argument("--demo", action="store_true", help="the synthetic hospitals, too")
    arguments.add_argument("--out", type=Path, default=Path("accuracy.jsonl"), help="one line for each run")
    arguments.add_argument("--show", type=Path, help="print the table of this file and make no run")
    asked = arguments.parse_args()
    if asked.show is None:
        folders: dict[str, Path | None] = {name: of for name in ("breast", "retina") if (of := getattr(asked, name))}
        folders |= {"demo": None} if asked.demo else {}
        known = {one.trial for one in read(asked.out)}
        for trial in trials(list(folders)):
            if trial not in known:
                with asked.out.open("a", encoding="utf-8") as file:
                    file.write(json.dumps(asdict(made(trial, folders[trial.scenario]))) + "\n")
    found = read(asked.show or asked.out)
    print(table(found), *(f"{name}: {of}" for name, of in largest(found).items()), sep="\n")


if __name__ == "__main__":
    main()
