"""Every site's model at every site, as a heat map with its numbers in the cells.

Promises
- Each cell holds the number that the table holds, rounded to two decimals; darker is better, also where less is.
- A cell's text has a contrast of at least ``LEAST_CONTRAST`` against its cell, whatever the theme of the page.
- Models at home, on the diagonal, have a frame. A pair that was not measured is an empty cell with a dash.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle
from numpy.typing import NDArray

from server.report import svg
from server.report.figures import shortened
from server.report.metrics import UNDETERMINED, Better, label, measure

MOST_SITES = 12
LEAST_CONTRAST = 4.5
CELL = "cell"
"""Prefix of the identifiers of texts in cells: the page draws no halo around them."""

_PALE, _DEEP, _EMPTY = (0xF2, 0xF6, 0xFA), (0x06, 0x3A, 0x66), "#eceff2"
_DARK_TEXT, _PALE_TEXT = "#000000", "#ffffff"
_NAME, _ROW_PX = 13, 38
_HOME: Mapping[str, Any] = {"facecolor": "none", "edgecolor": svg.INK, "linewidth": 2.2, "zorder": 4, "clip_on": False}


def matrix_chart(
    name: str, metric: str, found: Mapping[str, Mapping[str, Any]], better: Better = "higher"
) -> svg.Drawing:
    """Rows: where a model was trained. Columns: whose test patients it is measured on."""
    sites = sorted(found)
    values = np.array([[measure(found[model].get(site, {}).get(metric)).value for site in sites] for model in sites])
    longest = max(len(shortened(site, _NAME)) for site in sites)
    above = 14 + 5.6 * longest
    frame = svg.Frame(height=above + _ROW_PX * len(sites) + 8, left=20 + 7.6 * longest, right=34, top=above, bottom=8)

    def paint(axes: Axes) -> None:
        _paint_frame(axes, sites)
        for (row, column), shade in np.ndenumerate(_shades(values, better)):
            _paint_cell(axes, (row, column), float(values[row, column]), shade)
        for place in range(len(sites)):
            axes.add_patch(Rectangle((place - 0.495, place - 0.475), 0.99, 0.95, **_HOME))

    return svg.Drawing(name, _in_words(metric, sites, values), frame, paint)


def shade_of(share: float) -> str:
    """Colour of a cell, from pale at 0 to deep at 1, as ``#rrggbb``."""
    parts = (round(low + share * (high - low)) for low, high in zip(_PALE, _DEEP, strict=True))
    return "#" + "".join(f"{part:02x}" for part in parts)


def text_on(colour: str) -> str:
    """The one of two text colours that stands out more against ``colour``."""
    return max((_DARK_TEXT, _PALE_TEXT), key=lambda text: contrast(text, colour))


def contrast(one: str, other: str) -> float:
    """Contrast ratio of two colours ``#rrggbb``, from 1 to 21 (WCAG 2.2, relative luminance)."""
    light, dark = sorted((_luminance(one), _luminance(other)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


def _luminance(colour: str) -> float:
    channels = np.array([int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)])
    linear = np.where(channels <= 0.04045, channels / 12.92, ((channels + 0.055) / 1.055) ** 2.4)
    return float(linear @ (0.2126, 0.7152, 0.0722))


def _shades(values: NDArray[np.float64], better: Better) -> NDArray[np.float64]:
    """Share of the way from the worst to the best value; NaN where there is none."""
    known = values[np.isfinite(values)]
    if not known.size or known.max() == known.min():
        return np.where(np.isfinite(values), 0.35, math.nan)
    share: NDArray[np.float64] = (values - known.min()) / (known.max() - known.min())
    return 1 - share if better == "lower" else share


def _paint_frame(axes: Axes, sites: Sequence[str]) -> None:
    names, places = [shortened(site, _NAME) for site in sites], range(len(sites))
    axes.set_xlim(-0.5, len(sites) - 0.5)
    axes.set_ylim(len(sites) - 0.5, -0.5)
    axes.xaxis.tick_top()
    axes.tick_params(length=0)
    axes.set_xticks(places, names, rotation=40, ha="left", rotation_mode="anchor", color=svg.INK)
    axes.set_yticks(places, names, color=svg.INK)
    axes.spines[:].set_visible(False)


def _paint_cell(axes: Axes, place: tuple[int, int], value: float, share: float) -> None:
    row, column = place
    colour = _EMPTY if math.isnan(share) else shade_of(share)
    axes.add_patch(Rectangle((column - 0.47, row - 0.44), 0.94, 0.88, facecolor=colour, linewidth=0))
    said = UNDETERMINED if math.isnan(value) else f"{value:.2f}"
    text = axes.text(column, row, said, ha="center", va="center", color=text_on(colour), fontsize=svg.SMALL)
    text.set_gid(f"{CELL}-{row}-{column}")


def _in_words(metric: str, sites: Sequence[str], values: NDArray[np.float64]) -> str:
    def said(value: float) -> str:
        return "not measured" if math.isnan(value) else f"{value:.2f}"

    rows = (
        f"Trained at {model}: " + ", ".join(f"{said(value)} at {site}" for site, value in zip(sites, row, strict=True))
        for model, row in zip(sites, values.tolist(), strict=True)
    )
    return f"{label(metric)} of every site's model at every site. " + ". ".join(rows) + "."
