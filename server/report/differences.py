"""Differences on the same patients: one model minus another, side by side with what chance could make of it.

Promises
- One row for each pair of models that ``results.json`` compares, one column for each of the first main metrics; all
  pairs are shown, also where they speak against the federation.
- A sign stands before every number. Whether more is better is said for the metrics where less is.
- A pair that could not be compared keeps its row, and the note says why. Where none could be, there is no table.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from server.report.metrics import LEVEL, UNDETERMINED, Measure, label, measure, number
from server.report.run import Run
from server.report.tables import Cell, Table

_WIDEST = 6
"""Columns that fit on a page; the first metrics are those that the reader knows from the tables above."""
_MINUS = "\N{MINUS SIGN}"
_NAMES: Mapping[str, str] = {
    "federation": "Federation",
    "initial": "model before training",
    "central": "all data in one room",
    "local-mean": "mean of single sites",
    "personalised": "After own-site steps",
}


def differences_table(run: Run) -> Table | None:
    """Every pair of models that the run compared, by metric; None where it could compare none."""
    found = run.results.differences
    compared = [name for name in run.overall_metrics if any(name in one["metrics"] for one in found)]
    if not compared:
        return None
    names, more = compared[:_WIDEST], compared[_WIDEST:]
    rows = tuple((_row_name(one), tuple(_cell(name, one["metrics"].get(name)) for name in names)) for one in found)
    return Table("Differences on the same patients", ("Difference", *map(label, names)), rows, _note(run, names, more))


def _row_name(one: Mapping[str, Any]) -> str:
    where = ", validation patients" if one["patients"] == "validation" else ""
    return f"{_name(one['second'])} {_MINUS} {_lowered(_name(one['first']))}{where}"


def _name(model: str) -> str:
    return _NAMES.get(model, model.replace("-", " ").capitalize())


def _lowered(name: str) -> str:
    return name[:1].lower() + name[1:]


def _note(run: Run, names: list[str], more: list[str]) -> str:
    note = (
        f"Both models on the same patients, so what makes a patient hard cancels. Below each value its {LEVEL}; "
        "an interval that holds 0 leaves open which model is better."
    )
    lower = [label(name) for name in names if name in run.results.lower_is_better]
    if lower:
        note += f" Less is better for {', '.join(lower)}."
    if more:
        note += f" {', '.join(map(label, more))}: in results.json."
    for one in run.results.differences:
        if one["reason"]:
            note += f" {_row_name(one)}: not compared, {one['reason']}."
    return note


def _cell(metric: str, raw: Mapping[str, Any] | None) -> Cell:
    found = measure(raw)
    if not found.determined:
        return Cell(UNDETERMINED)
    return Cell(signed(metric, found.value), _bounds(metric, found), found.value)


def _bounds(metric: str, found: Measure) -> str:
    return f"{signed(metric, found.low)} to {signed(metric, found.high)}" if found.has_interval else ""


def signed(metric: str, value: float) -> str:
    """``value`` with the metric's decimals and its sign; what rounds to zero has none."""
    shown = number(metric, abs(value))
    if not float(shown):
        return shown
    return f"{_MINUS if math.copysign(1, value) < 0 else '+'}{shown}"
