"""What a figure is before it is shown, and how it becomes an inline SVG that belongs to its page.

Promises
- The same drawing gives the same bytes: no dates, and identifiers that follow from the figure's name alone.
- Nothing in it points outside the page, and no identifier of one figure occurs in another.
- Text stays text, in the page's font. Colours in ``TONES`` become the page's CSS variables, so that a figure follows
  dark mode and print; each keeps its own value for whoever cuts the figure out.
- Every figure carries a sentence for those who do not see it.

One unit of a figure is one CSS pixel at full width. No figure state is global: pyplot is not used.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable
from dataclasses import dataclass
from html import escape
from typing import Any, TypeVar, cast

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.backend_bases import FigureCanvasBase
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

INK, MUTED, RULE, PAPER = "#1c2126", "#59626d", "#d8dce1", "#fefefe"
ACCENT, SECOND, ALERT = "#0a5a9c", "#00755a", "#b3400a"
SERIES = ("#b85000", "#007d5c", "#a8518a", "#8a6d00", "#6a5acd", "#7a4a2b")
"""Lines beside ``ACCENT`` and their names, at least 4.5:1 on white; the first three after Okabe & Ito (2008)."""

TONES = {
    INK: "ink",
    MUTED: "muted",
    RULE: "rule",
    PAPER: "paper",
    ACCENT: "accent",
    SECOND: "second",
    ALERT: "alert",
} | {colour: f"series-{position}" for position, colour in enumerate(SERIES, start=1)}

WIDTH = 440
"""Drawn this wide and shown at 360 to 560 pixels, so that text of these sizes stays readable on a phone."""
TEXT, SMALL = 13.5, 12.5

Shown = TypeVar("Shown")

_POINTS_PER_INCH = 72
_NO_METADATA = dict.fromkeys(("Date", "Creator", "Format", "Type"))


@dataclass(frozen=True, slots=True)
class Frame:
    """Height of a figure and the margins around its axes, in pixels."""

    height: float
    left: float = 44
    right: float = 12
    top: float = 12
    bottom: float = 30


@dataclass(frozen=True, slots=True, eq=False)
class Drawing:
    """What is to be drawn, before anybody has said on what.

    Attributes:
        name: unique in the page; prefix of every identifier.
        alt: what the figure says, for screen readers.
        frame: size in pixels.
        paint: draws on the axes it is given.
    """

    name: str
    alt: str
    frame: Frame
    paint: Callable[[Axes], None]


def to_svg(drawing: Drawing) -> str:
    """The drawing as one ``<svg>`` element."""

    def show(figure: Figure) -> str:
        canvas: Any = FigureCanvasSVG(figure)
        text = io.StringIO()
        canvas.print_svg(text, metadata=_NO_METADATA)
        return text.getvalue()

    return _for_page(painted(drawing, show), drawing.name, drawing.alt, drawing.frame.height)


def draw_svg(name: str, alt: str, frame: Frame, paint: Callable[[Axes], None]) -> str:
    """Let ``paint`` draw on an empty axes and return the ``<svg>`` element; arguments as in ``Drawing``."""
    return to_svg(Drawing(name, alt, frame, paint))


def painted(drawing: Drawing, show: Callable[[Figure], Shown]) -> Shown:
    """What ``show`` makes of the painted figure, ``WIDTH`` points wide, while the settings of this module hold."""
    frame = drawing.frame
    with mpl.rc_context(cast("Any", _settings(drawing.name))):
        figure = Figure(figsize=(WIDTH / _POINTS_PER_INCH, frame.height / _POINTS_PER_INCH))
        FigureCanvasBase(figure)
        width, height = WIDTH - frame.left - frame.right, frame.height - frame.top - frame.bottom
        box = (frame.left / WIDTH, frame.bottom / frame.height, width / WIDTH, height / frame.height)
        drawing.paint(figure.add_axes(box))
        return show(figure)


def _settings(name: str) -> dict[str, Any]:
    return {
        "svg.fonttype": "none",
        "svg.hashsalt": name,
        "text.parse_math": False,
        "font.family": ["DejaVu Sans"],
        "font.size": TEXT,
        "figure.facecolor": "none",
        "axes.facecolor": "none",
        "axes.edgecolor": RULE,
        "axes.spines.left": False,
        "axes.spines.right": False,
        "axes.spines.top": False,
        "axes.axisbelow": True,
        "grid.color": RULE,
        "grid.linewidth": 0.8,
        "xtick.color": RULE,
        "xtick.labelcolor": MUTED,
        "xtick.labelsize": SMALL,
        "ytick.labelcolor": MUTED,
        "ytick.labelsize": SMALL,
        "ytick.major.size": 0,
        "text.color": INK,
        "hatch.linewidth": 1.2,
    }


def _for_page(text: str, name: str, alt: str, height: float) -> str:
    body = text[text.index("<svg") :]
    body = body[body.index(">") + 1 :].strip()
    body = re.sub(r'\b(id=")|(url\(#)|((?:xlink:)?href="#)', lambda found: found.group(0) + name + "-", body)
    body = re.sub(r"<defs>\s*<style.*?</style>\s*</defs>|font-family: 'DejaVu Sans'; ", "", body, flags=re.DOTALL)
    body = re.sub(r"(fill|stroke): (#[0-9a-f]{6})", _toned, body.replace("xlink:href=", "href="))
    opening = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height:g}" role="img" '
    return opening + f'aria-label="{escape(alt, quote=True)}">\n{body}\n'


def _toned(found: re.Match[str]) -> str:
    role, colour = found.groups()
    return f"{role}: var(--{TONES[colour]}, {colour})" if colour in TONES else f"{role}: {colour}"
