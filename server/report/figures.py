"""The report's figures of dots, lines and bars: numbers in, one drawing out, for the page and for paper.

Promises
- A figure shows only what is in its arguments and says the same in its text alternative.
- Nothing is told by colour alone: kinds differ in shape, sites in dashes and a name at the line's end, missed rounds in
  hatching.
- Undetermined values leave a gap; they are never drawn at zero.
- A hundred sites and a thousand rounds stay legible: what does not fit is named in the text, never dropped silently.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator
from scipy.optimize import isotonic_regression

from server.report import svg
from server.report.arms import Kind
from server.report.metrics import LEVEL, Measure, interval, label, number
from server.results import Participation

ROW_PX, NAME_PX, FIRST_MARK_PX, MARK_PX = 42, 13, 31, 17
MOST_NAMED_LINES = 6
MOST_NAMED_ROWS = 20
LONGEST_NAME, LONGEST_ROW = 14, 34

_MARKERS: dict[Kind, dict[str, Any]] = {
    "federation": {"marker": "o", "markersize": 9, "color": svg.ACCENT},
    "personalised": {"marker": "s", "markersize": 7.5, "color": svg.SECOND},
    "central": {"marker": "D", "markersize": 7, "color": svg.INK},
    "local": {"marker": "o", "markersize": 7.5, "color": svg.MUTED, "markerfacecolor": svg.PAPER},
}
DASHES = ((0, (5, 2)), (0, (2, 1.5)), (0, (7, 2, 1.5, 2)), (0, (3, 3)), (0, (9, 3)), (0, (1, 1)))
_PRESENT: dict[str, Any] = {"color": svg.ACCENT, "linewidth": 0}
_MISSING: dict[str, Any] = {"facecolor": "none", "edgecolor": svg.ALERT, "hatch": "//////", "linewidth": 1}


@dataclass(frozen=True, slots=True)
class Row:
    """One row of a dot-and-interval chart: what is measured on it, and how it was trained."""

    name: str
    marks: tuple[tuple[Kind, Measure], ...]


@dataclass(frozen=True, slots=True)
class Line:
    """One metric by round; rounds without a value are left out. ``lows`` and ``highs`` are NaN without an interval."""

    name: str
    rounds: tuple[int, ...]
    values: tuple[float, ...]
    lows: tuple[float, ...] = ()
    highs: tuple[float, ...] = ()


def dot_chart(name: str, metric: str, rows: Sequence[Row], reference: Measure | None = None) -> svg.Drawing:
    """Dots with 95 % intervals, one row under the other, and a dashed line at ``reference``."""
    row_px = ROW_PX + MARK_PX * (max((len(row.marks) for row in rows), default=1) - 1)
    frame = svg.Frame(height=row_px * len(rows) + 36, left=1, right=150, top=2, bottom=34)

    def paint(axes: Axes) -> None:
        axes.set_ylim(row_px * len(rows), 0)
        axes.set_xlim(*_span(measured for row in rows for _, measured in row.marks))
        axes.set_yticks([])
        axes.xaxis.set_major_locator(MaxNLocator(5))
        axes.grid(axis="x")
        if reference is not None and reference.determined:
            axes.axvline(reference.value, color=svg.ACCENT, linewidth=1, linestyle=(0, (2, 2)), zorder=1)
        for position, row in enumerate(rows):
            _paint_row(axes, row_px * position, metric, row)

    return svg.Drawing(name, _rows_in_words(metric, rows), frame, paint)


def line_chart(name: str, alt: str, lines: Sequence[Line]) -> svg.Drawing:
    """Lines by round: the first stands out with its interval, the others are thin, dashed and named at their end."""
    others = lines[1:]
    names = [line.name for line in lines] if 0 < len(others) <= MOST_NAMED_LINES else []
    frame = svg.Frame(height=250, right=14 + (100 if names else 0), top=10, bottom=44)

    def paint(axes: Axes) -> None:
        axes.grid(axis="y")
        axes.xaxis.set_major_locator(MaxNLocator(6, integer=True, min_n_ticks=1))
        axes.yaxis.set_major_locator(MaxNLocator(5))
        axes.set_xlabel("round", color=svg.MUTED, fontsize=svg.SMALL)
        for position, line in enumerate(others):
            tone = svg.SERIES[position] if names else svg.MUTED
            dashes = DASHES[position] if names else "-"
            axes.plot(line.rounds, line.values, color=tone, linestyle=dashes, linewidth=1.4, alpha=1 if names else 0.35)
        _paint_main(axes, lines[0])
        if names:
            _name_ends(axes, lines, [svg.ACCENT, *svg.SERIES])

    return svg.Drawing(name, alt, frame, paint)


def attendance_chart(name: str, entries: Sequence[Participation]) -> svg.Drawing:
    """One bar a site over the rounds: filled where its update is in the sum, hatched where it is missing."""
    sites = sorted({site for entry in entries for site in (*entry.participants, *entry.missing)})
    shown = sorted(sites, key=lambda site: (_attended(site, entries), site))[:MOST_NAMED_ROWS]
    shown.sort()
    longest = max((len(shortened(site)) for site in shown), default=0)
    frame = svg.Frame(height=22 * len(shown) + 56, left=16 + 7.4 * longest, right=12, top=4, bottom=44)

    def paint(axes: Axes) -> None:
        for position, site in enumerate(shown):
            _paint_attendance(axes, position, site, entries)
        axes.set_ylim(len(shown) - 0.4, -0.6)
        axes.set_xlim(0.5, max((entry.round for entry in entries), default=1) + 0.5)
        axes.set_yticks(range(len(shown)), [shortened(site) for site in shown], color=svg.INK)
        axes.xaxis.set_major_locator(MaxNLocator(6, integer=True, min_n_ticks=1))
        axes.set_xlabel("round", color=svg.MUTED, fontsize=svg.SMALL)

    said = "; ".join(f"{site} took part in {_attended(site, entries)} of {len(entries)} rounds" for site in sites)
    return svg.Drawing(name, f"Participation by round. {said}.", frame, paint)


def apart(positions: Sequence[float], gap: float) -> list[float]:
    """``positions``, moved as little as possible (least squares) until each pair is ``gap`` apart; order is kept."""
    order = np.argsort(positions, kind="stable")
    steps = gap * np.arange(len(positions))
    moved = np.empty(len(positions))
    moved[order] = isotonic_regression(np.asarray(positions, float)[order] - steps).x + steps
    return [float(position) for position in moved]


def runs_of(flags: Iterable[tuple[int, object]]) -> list[tuple[object, int, int]]:
    """(state, first round, rounds) for every stretch of consecutive rounds in the same state."""
    found: list[tuple[object, int, int]] = []
    for state, group in itertools.groupby(enumerate(flags), key=lambda item: (item[1][1], item[1][0] - item[0])):
        stretch = [current for _, (current, _) in group]
        found.append((state[0], stretch[0], len(stretch)))
    return found


def shortened(name: str, longest: int = LONGEST_NAME) -> str:
    """``name``, its middle left out where it is longer than ``longest``: names of sites often differ in their ends."""
    if len(name) <= longest:
        return name
    end = (longest - 1) // 2
    return name[: longest - 1 - end] + "…" + name[-end:]


def _paint_row(axes: Axes, top: float, metric: str, row: Row) -> None:
    across: Any = axes.get_yaxis_transform()
    axes.text(0, top + NAME_PX, shortened(row.name, LONGEST_ROW), transform=across, va="center")
    for place, (kind, measured) in enumerate(row.marks):
        look, height = _MARKERS[kind], top + FIRST_MARK_PX + place * MARK_PX
        bounds = f" ({interval(metric, measured)})" if measured.has_interval else ""
        said = number(metric, measured.value) + bounds
        axes.text(1.03, height, said, transform=across, va="center", color=look["color"], fontsize=svg.SMALL)
        if measured.has_interval:
            axes.plot([measured.low, measured.high], [height, height], color=look["color"], linewidth=2)
        if measured.determined:
            axes.plot([measured.value], [height], markeredgewidth=1.8, clip_on=False, **look)


def _span(measures: Iterable[Measure]) -> tuple[float, float]:
    values = [
        value
        for measured in measures
        for value in (measured.low, measured.value, measured.high)
        if value is not None and math.isfinite(value)
    ]
    low, high = (min(values), max(values)) if values else (0.0, 1.0)
    margin = 0.06 * (high - low) or 0.05
    floor, ceiling = (0.0 if low >= 0 else -math.inf), (1.0 if high <= 1 else math.inf)
    return max(low - margin, floor), min(high + margin, ceiling)


def _rows_in_words(metric: str, rows: Sequence[Row]) -> str:
    def said(measured: Measure) -> str:
        bounds = f", {LEVEL} {interval(metric, measured)}" if measured.has_interval else ""
        return number(metric, measured.value) + bounds

    parts = (f"{row.name}: " + "; ".join(f"{kind} {said(measured)}" for kind, measured in row.marks) for row in rows)
    return f"{label(metric)} as dots with intervals. " + ". ".join(parts) + "."


def _paint_main(axes: Axes, line: Line) -> None:
    if line.lows:
        axes.fill_between(line.rounds, line.lows, line.highs, color=svg.ACCENT, alpha=0.16, linewidth=0)
    marker: dict[str, Any] = {"marker": "o", "markersize": 4.5} if len(line.rounds) <= 20 else {}
    axes.plot(line.rounds, line.values, color=svg.ACCENT, linewidth=2.4, **marker)


def _name_ends(axes: Axes, lines: Sequence[Line], colours: Sequence[str]) -> None:
    ended = [(line, colour) for line, colour in zip(lines, colours, strict=False) if line.values]
    low, high = axes.get_ylim()
    pixels = axes.get_window_extent().height * 72 / axes.figure.dpi
    ends = [line.values[-1] for line, _ in ended]
    for (line, colour), end, placed in zip(ended, ends, apart(ends, 15 * (high - low) / pixels), strict=True):
        edge = axes.get_xlim()[1]
        axes.annotate(
            shortened(line.name),
            xy=(line.rounds[-1], end),
            xytext=(edge + 0.04 * (edge - axes.get_xlim()[0]), placed),
            color=colour,
            va="center",
            annotation_clip=False,
            arrowprops={"arrowstyle": "-", "color": colour, "linewidth": 0.7, "shrinkA": 2, "shrinkB": 3},
        )


def _attended(site: str, entries: Sequence[Participation]) -> int:
    return sum(site in entry.participants for entry in entries)


def _paint_attendance(axes: Axes, position: int, site: str, entries: Sequence[Participation]) -> None:
    flags = [(entry.round, site in entry.participants) for entry in entries]
    for present, first, rounds in runs_of(flags):
        bar = _PRESENT if present else _MISSING
        axes.barh(position, rounds - 0.08, left=first - 0.46, height=0.62, **bar)
