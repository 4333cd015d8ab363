"""A small curve as an inline SVG: a number by round, drawn again with every round.

Promises
- Everything is set by class and attribute: the page's policy permits no style inside an element.
- A round without a number is a gap, never a line across it. Without any number there is no picture.
- What the curve says stands beside it in words, for those who do not see it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from html import escape

WIDTH, HEIGHT = 440, 190
_LEFT, _RIGHT, _TOP, _BOTTOM = 44, 50, 12, 30
_TICKS = 4

Point = tuple[int, float | None]


@dataclass(frozen=True)
class Curve:
    """A number by round.

    Attributes:
        name: what the number is.
        points: rounds in order, with their numbers.
        rounds: of the whole run: the axis does not grow while it lasts.
    """

    name: str
    points: Sequence[Point]
    rounds: int

    @property
    def known(self) -> list[tuple[int, float]]:
        """Rounds that have a number."""
        return [(at, value) for at, value in self.points if value is not None and math.isfinite(value)]

    def words(self) -> str:
        """What the curve shows, in a sentence."""
        if not (known := self.known):
            return f"{self.name}: nothing has been measured yet."
        (first, began), (last, now) = known[0], known[-1]
        low, high = min(value for _, value in known), max(value for _, value in known)
        if len(known) == 1:
            return f"{self.name} by round: {began:.3g} in round {first}."
        return (
            f"{self.name} by round: {began:.3g} in round {first}, {now:.3g} in round {last}; "
            f"lowest {low:.3g}, highest {high:.3g}."
        )

    def svg(self) -> str:
        """One ``<svg>`` element; "" where there is nothing to draw."""
        known = self.known
        if not known:
            return ""
        ticks = nice_ticks(min(value for _, value in known), max(value for _, value in known))
        drawn = "".join((*_grid(self, ticks), *_lines(self, ticks), _last(self, ticks)))
        return (
            f'<svg class="curve" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(self.words())}">'
            f"{drawn}</svg>"
        )


def nice_ticks(low: float, high: float) -> list[float]:
    """Round numbers, evenly apart (1, 2 or 5 times a power of ten), from below ``low`` to above ``high``."""
    span = (high - low) or abs(high) or 1.0
    raw = span / _TICKS
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= raw * (1 - 1e-9))
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [place * step for place in range(first, max(last, first + 1) + 1)]


def _x(curve: Curve, at: int) -> float:
    most = max(curve.rounds, 2)
    return _LEFT + (WIDTH - _LEFT - _RIGHT) * (at - 1) / (most - 1)


def _y(value: float, ticks: Sequence[float]) -> float:
    return HEIGHT - _BOTTOM - (HEIGHT - _TOP - _BOTTOM) * (value - ticks[0]) / (ticks[-1] - ticks[0])


def _grid(curve: Curve, ticks: Sequence[float]) -> Iterator[str]:
    decimals = max(0, -math.floor(math.log10(ticks[1] - ticks[0]) + 1e-9))
    for tick in ticks:
        y = _y(tick, ticks)
        yield f'<line class="grid" x1="{_LEFT}" x2="{WIDTH - _RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>'
        yield f'<text x="{_LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{tick:.{decimals}f}</text>'
    for at in (1, curve.rounds) if curve.rounds > 1 else (1,):
        anchor = "start" if at == 1 else "end"
        label = f"round {at}" if at == 1 else f"{at}"
        yield f'<text x="{_x(curve, at):.1f}" y="{HEIGHT - 8}" text-anchor="{anchor}">{label}</text>'


def _lines(curve: Curve, ticks: Sequence[float]) -> Iterator[str]:
    for run in _unbroken(curve.points):
        places = [f"{_x(curve, at):.1f},{_y(value, ticks):.1f}" for at, value in run]
        if len(places) > 1:
            yield f'<polyline class="line" points="{" ".join(places)}"/>'
        else:
            x, y = places[0].split(",")
            yield f'<circle class="dot" cx="{x}" cy="{y}" r="2.5"/>'


def _unbroken(points: Sequence[Point]) -> Iterator[list[tuple[int, float]]]:
    run: list[tuple[int, float]] = []
    for at, value in points:
        if value is not None and math.isfinite(value):
            run.append((at, value))
        elif run:
            yield run
            run = []
    if run:
        yield run


def _last(curve: Curve, ticks: Sequence[float]) -> str:
    at, value = curve.known[-1]
    x, y = _x(curve, at), _y(value, ticks)
    return (
        f'<circle class="dot" cx="{x:.1f}" cy="{y:.1f}" r="3.5"/>'
        f'<text class="last" x="{x + 8:.1f}" y="{y + 4:.1f}">{value:.3g}</text>'
    )
