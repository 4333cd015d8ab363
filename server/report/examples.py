"""Example pictures: an image with the true and the predicted outline.

Promises
- Pictures exist only for synthetic images, which is why the type is called ``PhantomExample``: a report is passed on,
  and a patient's image must never be in it. Nothing in a run folder can turn into a picture; a caller hands it over.
- The image is embedded in the page, outlines are drawn as vectors: truth solid, prediction dashed, told apart without
  colour too.
"""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass
from html import escape

import numpy as np
from contourpy import contour_generator
from numpy.typing import NDArray
from PIL import Image as Picture

TRUTH, PREDICTION = "#6ec1ff", "#ffb000"
_DASHED, _SCALES = 'stroke-dasharray="5 3"', 'vector-effect="non-scaling-stroke"'


@dataclass(frozen=True, slots=True, eq=False)
class PhantomExample:
    """A generated image with two masks.

    Attributes:
        caption: which phantom, and how well it was met.
        image: shape (H, W) or (H, W, 3), any finite range; shown from its smallest to its largest value.
        truth: shape (H, W), class indices; 0 is background.
        prediction: shape (H, W), class indices.
    """

    caption: str
    image: NDArray[np.generic]
    truth: NDArray[np.integer]
    prediction: NDArray[np.integer]


def picture(example: PhantomExample) -> str:
    """The example as one ``<svg>`` element."""
    height, width = example.truth.shape
    outlines = (
        f'<path d="{outline(example.truth)}" stroke="{TRUTH}" stroke-width="2.2" {_SCALES}/>'
        f'<path d="{outline(example.prediction)}" stroke="{PREDICTION}" stroke-width="1.8" {_DASHED} {_SCALES}/>'
    )
    alt = escape(f"{example.caption}. True outline solid, predicted outline dashed.", quote=True)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" role="img" aria-label="{alt}">'
        f'<image width="{width}" height="{height}" href="data:image/png;base64,{_png(example.image)}"/>'
        f'<g fill="none">{outlines}</g></svg>'
    )


def outline(mask: NDArray[np.integer]) -> str:
    """SVG path around each class but 0, in pixels, as ``polygons`` has them."""
    return "".join("M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in line) + "Z" for line in polygons(mask))


def polygons(mask: NDArray[np.integer]) -> list[NDArray[np.float64]]:
    """Outlines (x, y) of each class but 0, shape (N, 2); pixel (row r, column c) covers (c, r) to (c + 1, r + 1)."""
    lines = []
    for index in np.unique(mask[mask > 0]):
        # The margin closes outlines at the image's border; its pixel and the half pixel to a centre shift by 0.5.
        field = np.pad((mask == index).astype(np.float64), 1)
        lines += [np.asarray(line) - 0.5 for line in contour_generator(z=field).lines(0.5)]
    return lines


def picture_of(image: NDArray[np.generic]) -> Picture.Image:
    """The image in grey or colour, its smallest value black and its largest white."""
    values = image.astype(np.float64)
    low, high = values.min(), values.max()
    grey = np.zeros(values.shape) if high == low else (values - low) / (high - low)
    return Picture.fromarray(np.round(grey * 255).astype(np.uint8))


def _png(image: NDArray[np.generic]) -> str:
    file = io.BytesIO()
    picture_of(image).save(file, format="PNG")
    return base64.b64encode(file.getvalue()).decode()
