"""Drawings on paper: from a matplotlib axes to vectors of a PDF page.

Promises
- A drawing becomes lines, curves and text of the page, never a picture: it stays sharp, and its words can be searched.
- Everything that ``server.report`` draws is understood: lines with dashes, markers, bands, hatching, clipped parts,
  words at any angle. A drawing with a bitmap in it would lose it; there is none.
- One pixel of a drawing is ``width / svg.WIDTH`` points of paper.

Leaves to others: what is drawn, and where on the page it stands (``document``).
Sources: matplotlib's ``RendererBase`` and ``GraphicsContextBase``; path painting as in ISO 32000-1, 8.5.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from matplotlib.backend_bases import GraphicsContextBase, RendererBase
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.path import Path as Outline
from matplotlib.transforms import Affine2D, Transform
from numpy.typing import NDArray
from reportlab.lib.colors import HexColor
from reportlab.lib.utils import ImageReader
from reportlab.pdfgen.canvas import Canvas
from reportlab.platypus.flowables import Flowable

from server.report import svg
from server.report.examples import PREDICTION, TRUTH, PhantomExample, picture_of, polygons
from server.report.paper import SANS

_HATCH_PT = 72.0
_CAPS = {"butt": 0, "round": 1, "projecting": 2}
_JOINS = {"miter": 0, "round": 1, "bevel": 2}


class OnPaper(Flowable):  # type: ignore[misc]  # reportlab has no types
    """A drawing in the flow of a document, ``width`` points wide, on the sheet of its caption."""

    keepWithNext = 1  # noqa: N815 - reportlab's

    def __init__(self, drawing: svg.Drawing, width: float) -> None:
        super().__init__()
        self._drawing, self._scale = drawing, width / svg.WIDTH
        self.width, self.height = width, drawing.frame.height * self._scale

    def wrap(self, _width: float, _height: float) -> tuple[float, float]:
        """Its size, which does not depend on the room there is."""
        return self.width, self.height

    def draw(self) -> None:
        """Draw at the origin of the flow."""
        self.canv.scale(self._scale, self._scale)
        svg.painted(self._drawing, lambda figure: paint_on(self.canv, figure))


class Phantom(Flowable):  # type: ignore[misc]  # reportlab has no types
    """A generated image with its outlines, ``width`` points wide: the truth solid, the prediction dashed."""

    def __init__(self, example: PhantomExample, width: float) -> None:
        super().__init__()
        self._example, (rows, columns) = example, example.truth.shape
        self._scale = width / columns
        self.width, self.height = width, rows * self._scale

    def wrap(self, _width: float, _height: float) -> tuple[float, float]:
        """Its size, which does not depend on the room there is."""
        return self.width, self.height

    def draw(self) -> None:
        """Draw at the origin of the flow."""
        self.canv.drawImage(ImageReader(picture_of(self._example.image)), 0, 0, self.width, self.height)
        self._outline(self._example.truth, TRUTH, [])
        self._outline(self._example.prediction, PREDICTION, [3, 2])

    def _outline(self, mask: NDArray[np.integer], colour: str, dashes: list[float]) -> None:
        self.canv.setStrokeColor(HexColor(colour))
        self.canv.setLineWidth(1.2)
        self.canv.setDash(dashes)
        drawn = self.canv.beginPath()
        for polygon in polygons(mask):
            places = [(x * self._scale, self.height - y * self._scale) for x, y in polygon.tolist()]
            drawn.moveTo(*places[0])
            for place in places[1:]:
                drawn.lineTo(*place)
            drawn.close()
        self.canv.drawPath(drawn, stroke=1, fill=0)


def paint_on(canvas: Canvas, figure: Figure) -> None:
    """Draw a figure with its lower left corner at the origin, one point for each of its points."""
    figure.set_dpi(_HATCH_PT)
    figure.draw(_Pen(canvas, figure))


class _Pen(RendererBase):
    """matplotlib's drawing commands as those of a PDF page; y points up in both."""

    def __init__(self, canvas: Canvas, figure: Figure) -> None:
        super().__init__()
        self._canvas = canvas
        self._size = figure.get_size_inches() * _HATCH_PT

    def get_canvas_width_height(self) -> tuple[float, float]:
        return float(self._size[0]), float(self._size[1])

    def flipy(self) -> bool:
        return False

    def draw_path(
        self,
        gc: GraphicsContextBase,
        path: Outline,
        transform: Transform,
        rgbFace: Any = None,  # noqa: ANN401, N803
    ) -> None:
        with self._clipped(gc):
            if rgbFace is not None:
                self._canvas.setFillColorRGB(*rgbFace[:3], alpha=_alpha(gc, rgbFace))
            lined = gc.get_linewidth() > 0 and _alpha(gc, gc.get_rgb()) > 0
            if lined:
                self._take_pen(gc)
            drawn = self._outline(path, transform)
            self._canvas.drawPath(drawn, stroke=int(lined), fill=int(rgbFace is not None))
            if gc.get_hatch():
                self._hatch(gc, path, transform)

    def draw_text(  # noqa: PLR0913, PLR0917 - matplotlib's
        self,
        gc: GraphicsContextBase,
        x: float,
        y: float,
        s: str,
        prop: FontProperties,
        angle: float,
        ismath: Any = False,  # noqa: ANN401, ARG002, FBT002
        mtext: Any = None,  # noqa: ANN401, ARG002
    ) -> None:
        self._canvas.saveState()
        self._canvas.setFillColorRGB(*gc.get_rgb()[:3], alpha=_alpha(gc, gc.get_rgb()))
        self._canvas.translate(x, y)
        self._canvas.rotate(angle)
        self._canvas.setFont(SANS, prop.get_size_in_points())
        self._canvas.drawString(0, 0, s)
        self._canvas.restoreState()

    @contextmanager
    def _clipped(self, gc: GraphicsContextBase) -> Iterator[None]:
        self._canvas.saveState()
        if (box := gc.get_clip_rectangle()) is not None:
            edge = self._canvas.beginPath()
            edge.rect(box.x0, box.y0, box.width, box.height)
            self._canvas.clipPath(edge, stroke=0, fill=0)
        yield
        self._canvas.restoreState()

    def _take_pen(self, gc: GraphicsContextBase) -> None:
        self._canvas.setStrokeColorRGB(*gc.get_rgb()[:3], alpha=_alpha(gc, gc.get_rgb()))
        self._canvas.setLineWidth(gc.get_linewidth())
        self._canvas.setLineCap(_CAPS[gc.get_capstyle()])
        self._canvas.setLineJoin(_JOINS[gc.get_joinstyle()])
        offset, dashes = gc.get_dashes()
        lengths: list[float] = np.asarray(() if dashes is None else dashes, np.float64).tolist()
        self._canvas.setDash(lengths, offset)

    def _outline(self, path: Outline, transform: Transform) -> Any:  # noqa: ANN401 - reportlab has no types
        drawn, at = self._canvas.beginPath(), (0.0, 0.0)
        for points, code in path.iter_segments(transform, simplify=False, curves=True):
            places = np.asarray(points, np.float64).tolist()
            if code == Outline.MOVETO:
                drawn.moveTo(*places)
            elif code == Outline.LINETO:
                drawn.lineTo(*places)
            elif code == Outline.CURVE3:
                drawn.curveTo(*_cubic(at, places))
            elif code == Outline.CURVE4:
                drawn.curveTo(*places)
            elif code == Outline.CLOSEPOLY:
                drawn.close()
            at = (places[-2], places[-1]) if code != Outline.CLOSEPOLY else at
        return drawn

    def _hatch(self, gc: GraphicsContextBase, path: Outline, transform: Transform) -> None:
        """Tile the hatching over the path's bounds, clipped to the path."""
        self._canvas.clipPath(self._outline(path, transform), stroke=0, fill=0)
        colour, tile = gc.get_hatch_color(), gc.get_hatch_path()
        self._canvas.setStrokeColorRGB(*colour[:3], alpha=1)
        self._canvas.setLineWidth(gc.get_hatch_linewidth())
        self._canvas.setDash([], 0)
        box = path.get_extents(transform)
        for column in range(math.floor(box.x0 / _HATCH_PT), math.ceil(box.x1 / _HATCH_PT)):
            for row in range(math.floor(box.y0 / _HATCH_PT), math.ceil(box.y1 / _HATCH_PT)):
                there = Affine2D().translate(column, row).scale(_HATCH_PT)
                self._canvas.drawPath(self._outline(tile, there), stroke=1, fill=0)


def _alpha(gc: GraphicsContextBase, colour: Any) -> float:  # noqa: ANN401 - a tuple of three or four
    return float(colour[3]) if len(colour) > 3 and not gc.get_forced_alpha() else float(gc.get_alpha())


def _cubic(start: tuple[float, float], points: list[float]) -> tuple[float, ...]:
    """The cubic curve that is the quadratic one from ``start`` with control point and end ``points``."""
    (x0, y0), (x1, y1, x2, y2) = start, points
    return x0 + 2 * (x1 - x0) / 3, y0 + 2 * (y1 - y0) / 3, x2 + 2 * (x1 - x2) / 3, y2 + 2 * (y1 - y2) / 3, x2, y2
