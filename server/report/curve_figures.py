"""Curves of a classification: ROC, precision against recall, calibration, net benefit.

Promises
- Points are those of ``final.curves``; between two of them a straight line is drawn, and a gap where there is none.
- All patients together are the thick line, sites are thin ones: of several findings only the pooled lines are drawn.
- What the model is held against is in the picture: guessing, the prevalence, perfect calibration, treating all or none.
- Lines differ in dashes and points in shape, never in colour alone; each is named in the picture.

Leaves to others: which points there are (``shared.evaluation.curves``), and where figures stand (``content``).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import MultipleLocator

from server.report import svg
from server.report.figures import DASHES, LONGEST_NAME, MOST_NAMED_LINES, shortened

Points = Mapping[str, Sequence[float | None]]
ByFinding = Mapping[str, Points]

POOLED = "all sites"
_SIDE = 380
_POOLED: dict[str, Any] = {"linewidth": 2.4, "zorder": 3}
_GUIDE: dict[str, Any] = {"color": svg.MUTED, "linewidth": 1.1, "zorder": 1}
_DOTTED, _DASHED = (0, (1, 1.6)), (0, (6, 3))


@dataclass(frozen=True, slots=True)
class Curves:
    """One kind of curve: of all patients by finding, and of each site's own patients where sites are released."""

    pooled: ByFinding
    sites: Mapping[str, ByFinding]


def roc_chart(name: str, curves: Curves, chosen: Mapping[str, tuple[float, float]] | None = None) -> svg.Drawing:
    """Share of positives found against share of negatives accused, over all thresholds.

    Args:
        name: unique in the page.
        curves: kind "roc".
        chosen: by finding (false alarms, sensitivity) at the plan's operating point.
    """

    def paint(axes: Axes) -> None:
        _unit_square(axes, "false alarms (1 \N{MINUS SIGN} specificity)", "sensitivity")
        axes.plot([0, 1], [0, 1], linestyle=_DOTTED, label="guessing", **_GUIDE)
        _paint_curves(axes, curves, "false_positive_rate", "sensitivity")
        if chosen:
            mark: dict[str, Any] = {"marker": "D", "markersize": 9, "color": svg.INK, "markerfacecolor": svg.PAPER}
            across, up = zip(*chosen.values(), strict=True)
            axes.plot(across, up, linewidth=0, markeredgewidth=2, zorder=4, label="operating point", **mark)
        _legend(axes, "lower right")

    said = _each_in_words(curves, _roc_in_words) + _chosen_in_words(chosen or {})
    return svg.Drawing(name, f"ROC curve: sensitivity against false alarms. {said}", _frame(), paint)


def precision_chart(name: str, curves: Curves) -> svg.Drawing:
    """Share of alarms that are right against share of positives found, over all thresholds."""

    def paint(axes: Axes) -> None:
        _unit_square(axes, "recall (sensitivity)", "precision")
        for place, (finding, points) in enumerate(curves.pooled.items()):
            label = "calling all positive" if place == 0 else None
            tone = {**_GUIDE, "color": _tone(place)} if finding else _GUIDE
            axes.axhline(_known(points["precision"])[0], linestyle=_DOTTED, label=label, **tone)
        _paint_curves(axes, curves, "recall", "precision")
        _legend(axes, "best")

    said = _each_in_words(curves, _precision_in_words)
    return svg.Drawing(name, f"Precision against recall. {said}", _frame(), paint)


def reliability_chart(name: str, by_cases: ByFinding, by_score: ByFinding) -> svg.Drawing:
    """Share that is positive against the mean score: of tenths of the cases, and of tenths of the score."""

    def paint(axes: Axes) -> None:
        _unit_square(axes, "mean predicted probability", "share that is positive")
        axes.plot([0, 1], [0, 1], linestyle=_DOTTED, label="perfect calibration", **_GUIDE)
        for place, (finding, points) in enumerate(by_cases.items()):
            look = {"color": _tone(place), "linestyle": _dashes(place), "marker": "o", "markersize": 6.5}
            axes.plot(*_xy(points, "score", "observed"), label=finding or "tenths of the images", **_POOLED, **look)
        if list(by_score) == [""]:
            squares: dict[str, Any] = {
                "color": svg.SERIES[0],
                "markerfacecolor": svg.PAPER,
                "marker": "s",
                "markersize": 6,
            }
            label = "tenths of the scale"
            axes.plot(*_xy(by_score[""], "score", "observed"), linewidth=0, label=label, zorder=2, **squares)
        _legend(axes, "upper left")

    said = _each_in_words(Curves(by_cases, {}), _reliability_in_words)
    return svg.Drawing(name, f"Calibration: share that is positive against predicted. {said}", _frame(), paint)


def decision_chart(name: str, finding: str, points: Points) -> svg.Drawing:
    """Net benefit of acting on the model, on everybody and on nobody, by the risk from which on one would act."""
    top = max([0.0, *_known(points["model"]), *_known(points["treat_all"])])

    def paint(axes: Axes) -> None:
        axes.grid(visible=True)
        axes.set_xlim(0, 1)
        axes.set_ylim(-0.25 * top or -0.1, 1.12 * top or 0.1)
        _name_axes(axes, "risk from which on one would act", "net benefit")
        axes.axhline(0, linestyle=_DOTTED, label="treat nobody", **_GUIDE)
        everybody = {**_GUIDE, "color": svg.INK, "linewidth": 1.6}
        axes.plot(*_xy(points, "threshold", "treat_all"), linestyle=_DASHED, label="treat everybody", **everybody)
        axes.plot(*_xy(points, "threshold", "model"), color=svg.ACCENT, label="follow the model", **_POOLED)
        _legend(axes, "upper right")

    of = f" of {finding}" if finding else ""
    said = _decision_in_words(points)
    return svg.Drawing(name, f"Net benefit{of} by threshold. {said}", _frame(300), paint)


def area_under(points: Points, x: str, y: str) -> float:
    """Area under the straight lines between the points, by the trapezoidal rule; never negative."""
    across, up = _xy(points, x, y)
    return float(abs(np.trapezoid(up, across)))


def _frame(height: float = _SIDE) -> svg.Frame:
    return svg.Frame(height=height, left=58, right=14, top=10, bottom=48)


def _unit_square(axes: Axes, across: str, up: str) -> None:
    axes.grid(visible=True)
    axes.set_xlim(-0.01, 1.01)
    axes.set_ylim(-0.01, 1.01)
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(MultipleLocator(0.2))
    _name_axes(axes, across, up)


def _name_axes(axes: Axes, across: str, up: str) -> None:
    axes.set_xlabel(across, color=svg.MUTED, fontsize=svg.SMALL)
    axes.set_ylabel(up, color=svg.MUTED, fontsize=svg.SMALL)


def _paint_curves(axes: Axes, curves: Curves, x: str, y: str) -> None:
    for place, (finding, points) in enumerate(curves.pooled.items()):
        look = {"color": _tone(place), "linestyle": _dashes(place), **_POOLED}
        axes.plot(*_xy(points, x, y), label=shortened(finding or POOLED), **look)
    if list(curves.pooled) != [""]:
        return
    named = len(curves.sites) <= MOST_NAMED_LINES
    for place, (site, by_finding) in enumerate(curves.sites.items()):
        if "" not in by_finding:
            continue
        look = {"color": svg.SERIES[place], "linestyle": DASHES[place]} if named else {"color": svg.MUTED, "alpha": 0.4}
        label = shortened(site, LONGEST_NAME + 6) if named else "single sites" if place == 0 else None
        axes.plot(*_xy(by_finding[""], x, y), linewidth=1.1, zorder=2, label=label, **look)


def _legend(axes: Axes, corner: Literal["upper left", "upper right", "lower right", "best"]) -> None:
    look: dict[str, Any] = {"fontsize": svg.SMALL, "handlelength": 2.6, "labelspacing": 0.35, "borderaxespad": 0.4}
    found = axes.legend(loc=corner, **look)
    found.get_frame().set(facecolor=svg.PAPER, edgecolor="none", alpha=0.9)


def _tone(place: int) -> str:
    return (svg.ACCENT, *svg.SERIES)[place % (1 + len(svg.SERIES))]


def _dashes(place: int) -> Any:  # noqa: ANN401 - matplotlib takes a word or a tuple
    return "-" if place == 0 else DASHES[(place - 1) % len(DASHES)]


def _xy(points: Points, x: str, y: str) -> tuple[list[float], list[float]]:
    """Coordinates; a point that is null in either is a gap."""
    pairs = [
        (a, b) if a is not None and b is not None else (math.nan, math.nan)
        for a, b in zip(points[x], points[y], strict=True)
    ]
    return [a for a, _ in pairs], [b for _, b in pairs]


def _known(values: Sequence[float | None]) -> list[float]:
    return [value for value in values if value is not None]


def _each_in_words(curves: Curves, say: Callable[[Points], str]) -> str:
    pooled = (f"{finding or POOLED}: {say(points)}" for finding, points in curves.pooled.items())
    sites = (f"{site}: {say(by_finding[''])}" for site, by_finding in curves.sites.items() if "" in by_finding)
    return ". ".join((*pooled, *(sites if list(curves.pooled) == [""] else ()))) + "."


def _roc_in_words(points: Points) -> str:
    false, hits = (_known(points[name]) for name in ("false_positive_rate", "sensitivity"))
    at = {alarms: max((hit for alarm, hit in zip(false, hits, strict=True) if alarm <= alarms), default=0.0)
          for alarms in (0.1, 0.2)}  # fmt: skip
    area = area_under(points, "false_positive_rate", "sensitivity")
    return f"area {area:.2f}, sensitivity {at[0.1]:.2f} at 10 % and {at[0.2]:.2f} at 20 % false alarms"


def _chosen_in_words(chosen: Mapping[str, tuple[float, float]]) -> str:
    return "".join(
        f" Operating point{f' of {finding}' if finding else ''}: sensitivity {up:.2f} "
        f"at {100 * across:.0f} % false alarms."
        for finding, (across, up) in chosen.items()
    )


def _precision_in_words(points: Points) -> str:
    recall, precision = _known(points["recall"]), _known(points["precision"])
    half = max((right for found, right in zip(recall, precision, strict=True) if found >= 0.5), default=0.0)
    return f"precision {precision[0]:.2f} where all are called positive, up to {half:.2f} with half of them found"


def _reliability_in_words(points: Points) -> str:
    score, observed = _xy(points, "score", "observed")
    pairs = [f"{a:.2f} predicted, {b:.2f} observed" for a, b in zip(score, observed, strict=True) if math.isfinite(a)]
    return "; ".join(pairs) or "too few images to tell"


def _decision_in_words(points: Points) -> str:
    rows = zip(points["threshold"], points["model"], points["treat_all"], strict=True)
    worth = [at for at, model, everybody in rows if at and model is not None and model > max(0.0, everybody or 0.0)]
    if not worth:
        return "The model is nowhere better than treating everybody or nobody."
    best = "The model is better than treating everybody or nobody"
    return f"{best} at thresholds from {min(worth):.2f} to {max(worth):.2f}."
