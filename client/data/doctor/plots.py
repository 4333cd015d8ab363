"""Drawings of the doctor's page: numbers in, one inline SVG out.

Promises
- A drawing says in its text alternative what it shows. Its colours are the page's variables, so that it follows dark
  mode and print; nothing is told by colour alone.
- The same numbers give the same bytes, and nothing points outside the page.

One unit is one CSS pixel at full width.
"""

from __future__ import annotations

import math
from html import escape
from typing import Literal

from client.data.doctor.findings import Histogram

WIDTH, HEIGHT = 440, 190
_LEFT, _RIGHT, _TOP, _BOTTOM = 8, 12, 22, 46
_MOST_TICKS = 5

Scale = Literal["linear", "square-root"]
"""How heights stand for counts; square roots keep a few visible beside a great many."""


def histogram(title: str, shown: Histogram, scale: Scale = "linear") -> str:
    """Bars over an axis of values; where heights are counts, the highest one carries its own."""
    most = max(shown.counts, default=0)
    low, high = shown.edges[0], shown.edges[-1]
    bars = (
        _bar(_across(left, low, high), _across(right, low, high), _share(count, most, scale))
        for left, right, count in zip(shown.edges, shown.edges[1:], shown.counts, strict=False)
        if count
    )
    peak = _peak(shown, most) if scale == "linear" else ""
    return "".join([_opening(title, shown), *bars, peak, _axis(low, high, shown.unit), "</svg>"])


def ticks(low: float, high: float, most: int = _MOST_TICKS) -> list[float]:
    """At most ``most`` round numbers from ``low`` to ``high``, one, two or five times a power of ten apart."""
    if high <= low:
        return [low]
    power = 10.0 ** math.floor(math.log10((high - low) / most))
    step = next(power * factor for factor in (1, 2, 5, 10, 20) if (high - low) / (power * factor) <= most - 1)
    first = math.ceil(low / step - 1e-9)
    return [number * step for number in range(first, math.floor(high / step + 1e-9) + 1)]


def in_words(shown: Histogram) -> str:
    """Total, range and mode of a histogram, for those who do not see it."""
    total = sum(shown.counts)
    if not total:
        return "nothing was counted"
    filled = [place for place, count in enumerate(shown.counts) if count]
    mode = max(filled, key=lambda place: shown.counts[place])
    low, high = _number(shown.edges[filled[0]]), _number(shown.edges[filled[-1] + 1])
    peak = f"from {_number(shown.edges[mode])} to {_number(shown.edges[mode + 1])}"
    return f"{total} in all, from {low} to {high} {shown.unit}; most, {shown.counts[mode]}, {peak}"


def _opening(title: str, shown: Histogram) -> str:
    alt = escape(f"{title}: {in_words(shown)}.", quote=True)
    return f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{alt}">'


def _bar(left: float, right: float, share: float) -> str:
    height = max(1.0, share * (HEIGHT - _TOP - _BOTTOM))
    top = HEIGHT - _BOTTOM - height
    width = max(1.0, right - left - 1)
    return f'<rect class="bar" x="{left:.1f}" y="{top:.1f}" width="{width:.1f}" height="{height:.1f}"/>'


def _peak(shown: Histogram, most: int) -> str:
    if not most:
        return ""
    place = shown.counts.index(most)
    low, high = shown.edges[0], shown.edges[-1]
    middle = (_across(shown.edges[place], low, high) + _across(shown.edges[place + 1], low, high)) / 2
    middle = min(max(middle, _LEFT + 24), WIDTH - _RIGHT - 24)
    return f'<text x="{middle:.1f}" y="{_TOP - 6}" text-anchor="middle">{most}</text>'


def _axis(low: float, high: float, unit: str) -> str:
    base = HEIGHT - _BOTTOM
    marks = [f'<line class="axis" x1="{_LEFT}" x2="{WIDTH - _RIGHT}" y1="{base}" y2="{base}"/>']
    values = ticks(low, high)
    # As many decimals as tell neighbours apart.
    digits = max(0, math.ceil(-math.log10(values[1] - values[0]) - 1e-9)) if len(values) > 1 else 2
    for value in values:
        across = min(max(_across(value, low, high), _LEFT + 10), WIDTH - _RIGHT - 10)
        marks.append(f'<text x="{across:.1f}" y="{base + 17}" text-anchor="middle">{value:.{digits}f}</text>')
    marks.append(f'<text class="unit" x="{WIDTH / 2:.0f}" y="{base + 37}" text-anchor="middle">{escape(unit)}</text>')
    return "".join(marks)


def _across(value: float, low: float, high: float) -> float:
    share = (value - low) / (high - low) if high > low else 0.5
    return _LEFT + share * (WIDTH - _LEFT - _RIGHT)


def _share(count: int, most: int, scale: Scale) -> float:
    share = count / most
    return math.sqrt(share) if scale == "square-root" else share


def _number(value: float) -> str:
    return f"{value:.4g}" if abs(value) < 1e4 else f"{value:.0f}"
