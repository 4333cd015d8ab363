"""Drawings of the page of attacks: numbers in, one inline SVG or picture out.

Promises
- A drawing says in its text alternative what it shows; arms differ in dashes and shape too, never in colour alone.
- Pictures are drawn in one range of grey for a whole page, so that a faint trace stays faint. They are of synthetic
  patients: nobody hands any others over.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from PIL import Image

from server.report import svg
from simulations.attacks.bounds import most_advantage, most_tpr
from simulations.attacks.findings import ArmFound, Attack, Picture

_LEAST = 0.005
"""Where the logarithmic axes begin."""
_TICKS = (0.01, 0.1, 1.0)
_ROW, _NAME, _FIRST, _BAR = 74, 13, 30, 22
_PRIVATE = ((svg.ACCENT, "-"), (svg.SECOND, (0, (7, 2))), (svg.SERIES[2], (0, (7, 2, 2, 2))))
_LOOK: Mapping[Attack, dict[str, Any]] = {
    "likelihood ratio": {"linewidth": 0},
    "loss threshold": {"linewidth": 1, "facecolor": "none", "hatch": "/////"},
}


def roc(name: str, attack: Attack, arms: Sequence[ArmFound]) -> str:
    """Members found against strangers accused, both on logarithmic axes, with what no attack can exceed."""
    frame = svg.Frame(height=380, left=52, right=14, top=10, bottom=46)

    def paint(axes: Axes) -> None:
        _log_axes(axes)
        grid = np.geomspace(_LEAST, 1, 200)
        axes.plot(grid, grid, color=svg.MUTED, linewidth=1, linestyle=(0, (1, 2)), label="guessing")
        for place, arm in enumerate(arms):
            look = _line(arms, place)
            if arm.arm.promise is not None:
                bound = most_tpr(grid, arm.arm.promise)
                axes.plot(grid, bound, color=look["color"], linewidth=1.2, linestyle=(0, (1, 1.2)))
                axes.fill_between(grid, bound, 1, color=look["color"], alpha=0.05, linewidth=0)
            corners = arm.curves[attack]
            low = np.maximum(corners.fpr, 1e-9), np.maximum(corners.tpr, 1e-9)
            axes.plot(*low, drawstyle="steps-post", label=arm.arm.title, **look)
        axes.legend(loc="lower right", frameon=False, fontsize=svg.SMALL, handlelength=2.4, borderaxespad=0.2)

    return svg.draw_svg(name, _roc_in_words(attack, arms), frame, paint)


def advantages(name: str, arms: Sequence[ArmFound]) -> str:
    """Bars of TPR - FPR by arm and attack with their intervals, and a mark at what no attack can exceed."""
    frame = svg.Frame(height=_ROW * len(arms) + 40, left=2, right=54, top=2, bottom=38)
    lows = [success.advantage.low for arm in arms for success in arm.attacks.values()]

    def paint(axes: Axes) -> None:
        axes.set_ylim(_ROW * len(arms), 0)
        axes.set_xlim(min(0.0, *lows) - 0.01, 1.0)
        axes.set_yticks([])
        axes.set_xticks([0, 0.25, 0.5, 0.75, 1], ["0", "0.25", "0.5", "0.75", "1"])
        axes.grid(axis="x")
        axes.axvline(0, color=svg.INK, linewidth=1)
        for place, arm in enumerate(arms):
            _paint_advantage(axes, _ROW * place, arm, _line(arms, place)["color"])

    return svg.draw_svg(name, _advantages_in_words(arms), frame, paint)


def picture(image: Picture, grey: tuple[float, float]) -> str:
    """A data URI of an image (C, *spatial); of a volume its middle slice."""
    shown = image[:, image.shape[1] // 2] if image.ndim == 4 else image
    low, high = grey
    levels = np.round(np.clip((shown - low) / (high - low), 0, 1) * 255).astype(np.uint8)
    file = io.BytesIO()
    Image.fromarray(levels[0] if len(levels) == 1 else np.moveaxis(levels, 0, -1)).save(file, format="PNG")
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()


def _line(arms: Sequence[ArmFound], place: int) -> dict[str, Any]:
    kind = arms[place].arm.kind
    if kind == "control":
        return {"color": svg.MUTED, "linestyle": (0, (4, 2)), "linewidth": 1.6}
    if kind == "plain":
        return {"color": svg.ALERT, "linestyle": "-", "linewidth": 2.6}
    before = sum(arm.arm.kind == "private" for arm in arms[:place])
    colour, dashes = _PRIVATE[before % len(_PRIVATE)]
    return {"color": colour, "linestyle": dashes, "linewidth": 2.2}


def _log_axes(axes: Axes) -> None:
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlim(_LEAST, 1.0)
    axes.set_ylim(_LEAST, 1.02)
    said = [f"{100 * tick:.0f} %" for tick in _TICKS]
    axes.set_xticks(_TICKS, said)
    axes.set_yticks(_TICKS, said)
    axes.minorticks_off()
    axes.grid()
    axes.set_xlabel("strangers accused", color=svg.MUTED, fontsize=svg.SMALL)
    axes.text(0.02, 0.965, "members found", transform=axes.transAxes, color=svg.MUTED, fontsize=svg.SMALL, va="top")


def _paint_advantage(axes: Axes, top: float, arm: ArmFound, colour: str) -> None:
    axes.text(0, top + _NAME, arm.arm.title, va="center", transform=axes.get_yaxis_transform())
    for place, (attack, success) in enumerate(arm.attacks.items()):
        height, found = top + _FIRST + place * _BAR, success.advantage
        look = {"facecolor": colour, "edgecolor": colour, **_LOOK[attack]}
        axes.barh(height, found.value, height=13, zorder=2, **look)
        axes.plot([found.low, found.high], [height, height], color=svg.INK, linewidth=1.6, zorder=3)
        axes.text(1.02, height, f"{found.value:.2f}", va="center", color=svg.INK, fontsize=svg.SMALL)
    if arm.arm.promise is not None:
        most = most_advantage(arm.arm.promise)
        axes.plot([most, most], [top + _NAME + 8, top + _ROW - 12], color=colour, linewidth=3, clip_on=False, zorder=4)


def _roc_in_words(attack: Attack, arms: Sequence[ArmFound]) -> str:
    said = [
        f"{arm.arm.title}: {100 * arm.attacks[attack].tpr_at_1:.0f} and {100 * arm.attacks[attack].tpr_at_10:.0f}"
        for arm in arms
    ]
    return (
        f"Members found of 100 by the {attack}, when 1 and when 10 of 100 strangers are accused. {'; '.join(said)}. "
        "Guessing finds 1 and 10. Dotted: what no attack can exceed."
    )


def _advantages_in_words(arms: Sequence[ArmFound]) -> str:
    parts = []
    for arm in arms:
        values = ", ".join(f"{attack} {success.advantage.value:.2f}" for attack, success in arm.attacks.items())
        bound = f", at most {most_advantage(arm.arm.promise):.2f}" if arm.arm.promise else ""
        parts.append(f"{arm.arm.title}: {values}{bound}")
    return f"Share of members found less share of strangers accused. {'; '.join(parts)}."
