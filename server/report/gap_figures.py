"""How far subgroups lie from all other patients: dots with intervals around zero.

Promises
- A dot is ``gaps.rest`` of ``results.json``: the level's value minus that of all other levels together, with its 95 %
  interval. The side of zero on which the model is worse for the level is named in words.
- A level that is suppressed or undetermined has a row that says so, and no dot; one without patients has no row, nor
  have patients of whom the column is unknown: they are not a group.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from server.report import svg
from server.report.differences import signed
from server.report.figures import LONGEST_ROW, shortened
from server.report.metrics import LEVEL, Better, Measure, label, measure
from server.report.run import Run
from shared.plan import OTHER, UNKNOWN

ROW_PX = 34
SUPPRESSED = "suppressed"
"""The word of ``shared.evaluation.subgroup_metrics``, said again here because that module waits for torch."""
_BESIDE = frozenset({"gaps", "sites", "missing_sites"})
"""What stands beside the levels of a column."""

_ABOUT: Mapping[str, Any] = {"verticalalignment": "center", "fontsize": svg.SMALL}


@dataclass(frozen=True, slots=True)
class Gap:
    """A level of a column and how far it lies from all others; ``why`` says why nothing is drawn, or is empty."""

    level: str
    against_rest: Measure
    why: str = ""


def levels_of(run: Run, column: str) -> list[tuple[str, Any]]:
    """Levels of a column with their metrics, or the word for withheld, in the order of the plan."""
    block = run.results.final["subgroups"][column]
    order = (*run.plan.evaluation.subgroups.get(column, ()), OTHER, UNKNOWN)
    planned = [level for level in order if level in block]
    others = sorted(block.keys() - {*planned, *_BESIDE})
    return [(level, block[level]) for level in (*others, *planned)]


def gaps_of(run: Run, column: str, metric: str) -> list[Gap]:
    """Levels of a column that have patients; empty where no gap can be told at all."""
    rest = run.results.final["subgroups"][column].get("gaps", {}).get("rest", {})
    found = [
        Gap(level, measure(rest.get(level, {}).get(metric)), _why(metrics, rest.get(level, {}).get(metric)))
        for level, metrics in levels_of(run, column)
        if level != UNKNOWN and not nobody(metrics)
    ]
    return found if any(gap.against_rest.determined for gap in found) else []


def nobody(metrics: Mapping[str, Any] | str) -> bool:
    """Whether a level has no patient at all: told so, and not withheld."""
    raw = next(iter(metrics.values()), None) if isinstance(metrics, Mapping) else None
    return isinstance(raw, Mapping) and raw.get("n_patients") == 0


def gap_chart(name: str, title: str, metric: str, gaps: Sequence[Gap], better: Better = "higher") -> svg.Drawing:
    """Gaps of one column, one row a level; a dashed line at zero."""
    reach = _reach(gaps)
    frame = svg.Frame(height=ROW_PX * len(gaps) + 66, left=118, right=156, top=24, bottom=42)
    sides = ("better", "worse") if better == "lower" else ("worse", "better")

    def paint(axes: Axes) -> None:
        axes.set_xlim(-reach, reach)
        axes.set_ylim(ROW_PX * len(gaps), 0)
        axes.set_yticks([])
        axes.grid(axis="x")
        axes.xaxis.set_major_locator(MaxNLocator(4, symmetric=True))
        axes.axvline(0, color=svg.INK, linewidth=1, linestyle=(0, (3, 2)), zorder=1)
        axes.set_xlabel("difference from all other patients", color=svg.MUTED, fontsize=svg.SMALL)
        for side, align, at in zip(sides, ("right", "left"), (-0.03, 0.03), strict=True):
            axes.text(at * reach, -10, side, color=svg.MUTED, ha=align, **_ABOUT)
        for place, gap in enumerate(gaps):
            _paint_gap(axes, ROW_PX * (place + 0.5), metric, gap)

    said = ". ".join(f"{gap.level}: {_said(metric, gap)}" for gap in gaps)
    alt = f"{label(metric)} {title}, difference from all other patients with {LEVEL}. {said}."
    return svg.Drawing(name, alt, frame, paint)


def _paint_gap(axes: Axes, height: float, metric: str, gap: Gap) -> None:
    across: Any = axes.get_yaxis_transform()
    found = gap.against_rest
    clear = found.has_interval and (found.low > 0 or found.high < 0)
    colour = svg.ALERT if clear else svg.ACCENT
    axes.text(-0.04, height, shortened(gap.level, LONGEST_ROW // 2), transform=across, ha="right", va="center")
    axes.text(1.03, height, _said(metric, gap), transform=across, color=svg.MUTED if gap.why else colour, **_ABOUT)
    if found.has_interval:
        axes.plot([found.low, found.high], [height, height], color=colour, linewidth=2)
    if found.determined:
        look: dict[str, Any] = {"marker": "D" if clear else "o", "markersize": 8, "color": colour}
        axes.plot([found.value], [height], clip_on=False, **look)


def _said(metric: str, gap: Gap) -> str:
    if gap.why:
        return gap.why
    found = gap.against_rest
    bounds = f" ({signed(metric, found.low)} to {signed(metric, found.high)})" if found.has_interval else ""
    return signed(metric, found.value) + bounds


def _why(metrics: Mapping[str, Any] | str, gap: Mapping[str, Any] | None) -> str:
    if isinstance(metrics, str) or SUPPRESSED in metrics.values():
        return SUPPRESSED
    return "" if measure(gap).determined else "not determined"


def _reach(gaps: Sequence[Gap]) -> float:
    ends = [
        abs(value)
        for gap in gaps
        for value in (gap.against_rest.low, gap.against_rest.value, gap.against_rest.high)
        if math.isfinite(value)
    ]
    return 1.08 * max(ends, default=0.0) or 0.1
