"""Sums under masks beside plain exact sums, sums of float32 and Flower's legacy SecAgg+: CPU time and bytes.

``secure-small`` is a part of every run of the benchmarks. ``secure`` takes minutes and gigabytes, and is asked for:
``python benchmarks/run.py --only secure``. It leaves results/secure.json, from which
``python benchmarks/secure_page.py`` writes the tables of docs/results.md.

Promises
- Bytes are those of messages, papers and all, without what carries them. What is judged is what a site sends.
- Each federation is a process of its own. Time is CPU time; how busy the machine was is written beside it.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench import FULL, Bench, percent
from processes import HERE, ArmError, Ran, ours, run_arm
from rows import Row, Target, ratios

RESULTS = HERE / "results" / "secure.json"
FLOAT32 = 4
_FAST = Target("at least", 3.0)
_FEW_SITES, _MANY_SITES = 8, 64
_SMALL = {_FEW_SITES: Target("at most", 0.55), _MANY_SITES: Target("at most", 0.70)}
_DROPPING = (0.0, 0.1, 0.3)
_LONGEST_S = 3600.0
_SECAGG = "Flower's legacy SecAgg+"


@dataclass(frozen=True)
class Cell:
    """A federation of ``sites`` that train a network of ``parameters``."""

    sites: int
    parameters: int

    @property
    def bits(self) -> int:
        """Of an update: a sum of 8 with 14 bits takes 17, one of 64 with 16 takes 22."""
        return 14 if self.sites <= _FEW_SITES else 16

    @property
    def dropped(self) -> tuple[int, ...]:
        """How many drop out: none, a tenth and three tenths, one at least."""
        return tuple(sorted({max(1, round(part * self.sites)) if part else 0 for part in _DROPPING}))

    def __str__(self) -> str:
        return f"{self.parameters / 1e6:g} M parameters, {self.sites} sites"


SMALL = tuple(Cell(sites, 1_000_000) for sites in (4, 8, 64))
LARGE = tuple(Cell(sites, length) for length in (1_000_000, 10_000_000, 30_000_000) for sites in (4, 8, 16, 64))
FLOWER = tuple(Cell(sites, length) for length in (1_000_000, 10_000_000) for sites in (4, 16))
TINY = (Cell(4, 10_000), Cell(8, 10_000))


def small(bench: Bench) -> Iterator[Row]:
    """Masks, and federations of the smallest model."""
    yield from speeds(_speed(bench))
    for cell in SMALL if bench.scale == FULL else TINY[:1]:
        yield from rows(cell, _sums(bench, cell, cell.dropped[:1]).said)


def secure(bench: Bench) -> Iterator[Row]:
    """Everything that docs/results.md shows."""
    full = bench.scale == FULL
    kept = Kept(RESULTS if full else None, _speed(bench))
    yield from speeds(kept.speed)
    for cell in LARGE if full else TINY:
        ran = _sums(bench, cell, cell.dropped)
        kept.add("cells", cell, {"peak_mib": ran.peak_mib, **ran.said})
        yield from rows(cell, ran.said)
    for cell in FLOWER if full else TINY[:1]:
        for dropped in dict.fromkeys((cell.dropped[0], cell.dropped[-1])):
            try:
                said = dict(_run(bench, "secure_flower.sums", cell, dropped=dropped).said)
            except ArmError as error:
                yield Row(f"{_SECAGG}: {cell}", "", "", (), reason=str(error))
            else:
                kept.add("flower", cell, said)
                yield from flower_rows(cell, said)


class Kept:
    """What was measured, written after every federation: a run that is stopped leaves what it has."""

    def __init__(self, path: Path | None, speed: dict[str, list[float]]) -> None:
        """``path``: None to write nothing."""
        self.speed, self._path = speed, path
        self._document: dict[str, Any] = {"speed": speed, "load": [os.getloadavg()[0]], "cells": [], "flower": []}

    def add(self, to: str, cell: Cell, said: dict[str, Any]) -> None:
        """One federation more."""
        self._document[to].append({"sites": cell.sites, "parameters": cell.parameters, "bits": cell.bits, **said})
        self._document["load"].append(os.getloadavg()[0])
        if self._path is not None:
            self._path.write_text(json.dumps(self._document, indent=2) + "\n", encoding="utf-8")


def speeds(said: dict[str, list[float]]) -> Iterator[Row]:
    """Of masks."""
    masked, stream = tuple(said["masked"]), tuple(said["stream"])
    yield Row("masks made and added, one core", "by CPU time", "GB/s", masked, target=_FAST)
    yield Row("masks made and added", f"AES-256-CTR alone ({max(stream):.1f} GB/s)", "%", percent(masked, stream))


def rows(cell: Cell, said: Mapping[str, Any]) -> Iterator[Row]:
    """Of one federation under masks."""
    exact, weights = said["exact"], FLOAT32 * cell.parameters
    for found in said["masked"]:
        what = f"sum under masks: {cell}, {found['dropped']:.0f} dropped"
        for party, name in (("a site", "site_s"), ("the coordinator", "coordinator_s")):
            against = f"plain exact sum, CPU time {exact[name]:.3g} s"
            yield Row(f"{what}: {party}", against, "x", ratios((found[name],), (exact[name],)))
        if not found["dropped"]:
            target = _SMALL.get(cell.sites) if cell.parameters >= 10**6 else None
            yield Row(
                f"{what}: bytes that a site sends",
                "its update as float32",
                "x",
                (found["up"] / weights,),
                target=target,
            )


def flower_rows(cell: Cell, said: dict[str, float]) -> Iterator[Row]:
    """Of one federation under Flower's masks."""
    what = f"{_SECAGG}: {cell}, {said['dropped']:.0f} dropped"
    yield Row(f"{what}: a site", "CPU time", "s", (said["site_s"],))
    yield Row(f"{what}: the server", "CPU time", "s", (said["coordinator_s"],))
    yield Row(
        f"{what}: bytes that a site sends", "its update as float32", "x", (said["up"] / cell.parameters / FLOAT32,)
    )


def _speed(bench: Bench) -> dict[str, list[float]]:
    arm = bench.tuned("secure_arm.speed", length=bench.scale.parameters, repeats=3 * bench.scale.repeats)
    return dict(arm().said)


def _sums(bench: Bench, cell: Cell, dropped: tuple[int, ...]) -> Ran:
    return _run(bench, "secure_arm.sums", cell, bits=cell.bits, dropped=dropped)


def _run(bench: Bench, arm: str, cell: Cell, **more: object) -> Ran:
    arguments = {"sites": cell.sites, "length": cell.parameters, **more}
    return run_arm(arm, ours(bench.environment), arguments, _LONGEST_S)
