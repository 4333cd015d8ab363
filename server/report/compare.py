"""Several runs side by side: what was planned differently, and what came out differently.

Promises
- Every run stands with its headline metric, interval, mean of sites and worst site; every key of the plan in which the
  runs differ is named, and no other.
- Each run is compared with the first. Where both have predictions of the same cases, patients are paired one by one
  (``paired``); where both keep statistics of the same test patients, by patient groups (``grouped``). Otherwise the
  interval treats the patients of the two runs as different ones, and the reasons are given.

The unpaired interval of a difference b - a comes from the two intervals alone (MOVER: Zou & Donner, Statistics in
Medicine 2008;27:1693), which need not be symmetric::

    low  = b - a - sqrt((b - low_b)**2 + (high_a - a)**2)
    high = b - a + sqrt((high_b - b)**2 + (a - low_a)**2)

On the same patients it is wider than need be: models mostly err on the same ones.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from server.report.metrics import Measure, measure
from server.report.paired import Difference, Rows, paired_difference
from server.report.run import Run, read_run
from server.results import PREDICTIONS, json_ready, read_predictions
from shared.errors import RunError

Method = Literal["paired", "paired by groups", "unpaired"]


@dataclass(frozen=True, slots=True)
class Entry:
    """One run: its name, headline metric, mean of sites (NaN where not released) and worst site (may be empty)."""

    name: str
    pooled: Measure
    macro: float
    worst_site: str
    worst: float


@dataclass(frozen=True, slots=True)
class Contrast:
    """One run against the first: the difference, how its interval was made, and why not paired if it is not."""

    first: str
    second: str
    difference: Difference
    method: Method
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Comparison:
    """Runs side by side.

    Attributes:
        metric: the headline metric that all runs share.
        entries: one for each run, in the order given.
        plan_differences: key of the plan -> value in each run, for keys in which runs differ.
        contrasts: every later run against the first.
    """

    metric: str
    entries: tuple[Entry, ...]
    plan_differences: Mapping[str, tuple[Any, ...]]
    contrasts: tuple[Contrast, ...]


def compare(runs: Sequence[Path]) -> Comparison:
    """Compare the runs in these folders, each with the first.

    Raises:
        RunError: fewer than two folders, a folder that cannot be read, or runs with different headline metrics.
    """
    if len(runs) < 2:
        raise RunError(f"a comparison needs at least 2 runs, got {len(runs)}", hint="name the folders of finished runs")
    read = [read_run(folder) for folder in runs]
    metrics = list(dict.fromkeys(run.headline for run in read))
    if len(metrics) > 1:
        raise RunError(
            f"the runs have different headline metrics: {', '.join(metrics)}", hint="compare runs of one task"
        )
    names = _names(runs)
    predictions = [read_predictions(folder / PREDICTIONS) for folder in runs]
    entries = tuple(_entry(name, run) for name, run in zip(names, read, strict=True))
    sides = [_Side(*parts) for parts in zip(entries, runs, read, predictions, strict=True)]
    contrasts = tuple(_contrast(metrics[0], sides[0], side) for side in sides[1:])
    return Comparison(metrics[0], entries, plan_differences(read), contrasts)


def plan_differences(runs: Sequence[Run]) -> dict[str, tuple[Any, ...]]:
    """Keys of the plan in which the runs differ, with the value in each; None where a plan does not have the key."""
    flat = [_flat(run.plan.model_dump(mode="json")) for run in runs]
    keys = sorted(set(itertools.chain.from_iterable(flat)))
    values = {key: tuple(plan.get(key) for plan in flat) for key in keys}
    return {key: found for key, found in values.items() if any(value != found[0] for value in found)}


def unpaired_difference(first: Measure, second: Measure) -> Difference:
    """Difference of two metrics of independent patients, from their intervals; NaN bounds without both intervals."""
    value = second.value - first.value
    patients = (first.n_patients or 0) + (second.n_patients or 0)
    below = math.hypot(second.value - second.low, first.high - first.value)
    above = math.hypot(second.high - second.value, first.value - first.low)
    return Difference(value, value - below, value + above, patients)


def comparison_document(comparison: Comparison) -> dict[str, Any]:
    """The comparison as JSON-ready values; undetermined numbers are None."""
    document: dict[str, Any] = json_ready(
        {
            "metric": comparison.metric,
            "runs": [_entry_document(entry) for entry in comparison.entries],
            "plan_differences": comparison.plan_differences,
            "differences": [_contrast_document(contrast) for contrast in comparison.contrasts],
        }
    )
    return document


def _entry(name: str, run: Run) -> Entry:
    final = run.results.final
    worst = (final.get("worst") or {}).get(run.headline) or {}
    macro = measure((final.get("macro") or {}).get(run.headline)).value
    return Entry(name, run.pooled, macro, worst.get("site", ""), measure(worst.get("value")).value)


@dataclass(frozen=True, slots=True)
class _Side:
    """One of two runs that are compared."""

    entry: Entry
    folder: Path
    run: Run
    predictions: Rows


def _contrast(metric: str, first: _Side, second: _Side) -> Contrast:
    names = (first.entry.name, second.entry.name)
    found = paired_difference(metric, first.predictions, second.predictions)
    if isinstance(found, Difference):
        return Contrast(*names, found, "paired")
    grouped = _grouped(metric, first, second)
    if isinstance(grouped, Difference):
        return Contrast(*names, grouped, "paired by groups")
    unpaired = unpaired_difference(first.entry.pooled, second.entry.pooled)
    return Contrast(*names, unpaired, "unpaired", f"{found}, and {grouped}")


def _grouped(metric: str, first: _Side, second: _Side) -> Difference | str:
    from server.report.grouped import Folder, grouped_difference  # noqa: PLC0415 - tasks take seconds to import

    return grouped_difference(metric, Folder(first.folder, first.run), Folder(second.folder, second.run))


def _names(folders: Sequence[Path]) -> list[str]:
    """The folders' own names, numbered where two are the same."""
    names = [folder.resolve().name for folder in folders]
    return [name if names.count(name) == 1 else f"{name} ({place})" for place, name in enumerate(names, start=1)]


def _flat(document: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in document.items():
        found |= _flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) and value else {f"{prefix}{key}": value}
    return found


def _entry_document(entry: Entry) -> dict[str, Any]:
    pooled = {name: getattr(entry.pooled, name) for name in Measure.__slots__}
    worst = {"site": entry.worst_site, "value": entry.worst} if entry.worst_site else None
    return {"run": entry.name, **pooled, "macro": entry.macro, "worst": worst}


def _contrast_document(contrast: Contrast) -> dict[str, Any]:
    difference = {name: getattr(contrast.difference, name) for name in Difference.__slots__}
    named = {"first": contrast.first, "second": contrast.second, **difference}
    return {**named, "method": contrast.method, "reason": contrast.reason}
