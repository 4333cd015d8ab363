"""Text in the pixels, found without reading it: rows of glyphs.

A glyph is a small connected set of thin strokes that stand out from what surrounds them, all of one brightness. Text is
a row of at least four of them on one baseline, close together, of similar height, with quiet above and below. Nothing
in a body keeps all of these rules, and scanners that draw text keep them all.

Promises
- A pure function of the pixels: brightness and contrast of the plane as a whole do not matter, nor their sign.
- Glyphs from 5 to 48 pixels high, and up to four times as high in planes of more than 256 pixels, which are looked at
  in half and quarter size too. About 3 ms a plane of 512 x 512; how much is found stands in
  ``docs/deidentification.md``.

Not found: handwriting, words of fewer than four separate letters, letters that touch each other, writing that leans or
runs upwards (transpose the plane for that), and text that stands out by less than a fifth of the plane's range.

What follows from text is left to ``burned_in``.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

Plane = NDArray[Any]
_Bytes = NDArray[np.uint8]
_Mask = NDArray[np.bool_]

# Of 255. A low one finds faint text, a high one parts text from a busy background.
_BRIGHT_CONTRASTS = (50, 100, 150)
_DARK_CONTRASTS = (70,)
# Strokes are narrower than this many pixels; wider ones are found in half size.
_STROKE = 7
_HEIGHTS = (5, 48)
# Three strokes of the least height: what holds fewer pixels holds no row.
_FEWEST_PIXELS = 15
# Width of a glyph, in heights: two touching letters pass.
_WIDEST = 3.0
# Least share of its box that a glyph covers; the outline of something large covers less.
_LEAST_FILL = 0.15
# Of the middle glyph of a row; squares of a grid or a test pattern are full.
_MOST_FILL = 0.9
# Mean contrast of a glyph by its peak: ink is of one brightness, tissue is not.
_LEAST_EVENNESS = 0.5
# Neighbours: gap and difference of baselines in heights, ratio of heights, difference of peaks.
_GAP, _BASELINE, _HEIGHT_RATIO, _PEAKS = 1.3, 0.12, 0.6, 0.3
_LEAST_PIXELS = 1.0
# So many glyphs of a row must agree in height: capitals, digits, or letters without ascenders.
_OF_ONE_HEIGHT = 3
# Share of a row's density that is allowed in strips above and below it, and their height.
_NOISE, _STRIP = 0.4, 0.3
# The clearest candidates; comparing all pairs of more would take longer than decoding the image.
_MOST_CANDIDATES = 300
_SMALLEST_REDUCED = 256
_REDUCTIONS = 2
_EIGHT_NEIGHBOURS = np.ones((3, 3), np.int8)

GLYPHS = 4
"""Fewest glyphs of a row: three in a row occur by chance in a few of a thousand images."""


class Box(NamedTuple):
    """Rows ``top`` to ``bottom`` and columns ``left`` to ``right`` of a plane, ends excluded."""

    top: int
    left: int
    bottom: int
    right: int


class _Glyphs(NamedTuple):
    boxes: NDArray[np.int64]
    """Shape (n, 4), as ``Box``."""
    peaks: NDArray[np.float64]
    """Greatest contrast of each, shape (n,)."""
    fills: NDArray[np.float64]
    """Share of its box that each covers, shape (n,)."""
    mask: _Mask


def text_boxes(plane: Plane, least: int = GLYPHS) -> list[Box]:
    """Rows of glyphs in a plane of grey values, shape (H, W): those that stand out most, not necessarily all.

    Args:
        plane: finite numbers.
        least: how many glyphs make a row.
    """
    grey = _as_bytes(plane)
    for scale, reduced in _reductions(grey):
        for shown, contrasts in ((reduced, _BRIGHT_CONTRASTS), (255 - reduced, _DARK_CONTRASTS)):
            standing_out = _top_hat(shown)
            for contrast in contrasts:
                if found := _rows(_glyphs(standing_out, contrast), least):
                    return [Box(*(edge * scale for edge in box)) for box in found]
    return []


def _as_bytes(plane: Plane) -> _Bytes:
    lowest, highest = float(plane.min()), float(plane.max())
    if highest <= lowest:
        return np.zeros(plane.shape, np.uint8)
    return ((plane - lowest) * (255.0 / (highest - lowest))).astype(np.uint8)


def _reductions(grey: _Bytes) -> Iterator[tuple[int, _Bytes]]:
    """The plane itself, then in half and quarter size as long as it is large."""
    yield 1, grey
    for power in range(1, _REDUCTIONS + 1):
        if max(grey.shape) <= _SMALLEST_REDUCED:
            return
        even = grey[: grey.shape[0] // 2 * 2, : grey.shape[1] // 2 * 2].astype(np.uint16)
        rows = even[::2] + even[1::2]
        grey = ((rows[:, ::2] + rows[:, 1::2]) // 4).astype(np.uint8)
        yield 2**power, grey


def _top_hat(grey: _Bytes) -> _Bytes:
    """How much each pixel stands out from the brightest square of ``_STROKE`` pixels that fits beneath it."""
    opened = _windowed(_windowed(grey, np.minimum), np.maximum)
    return grey - np.minimum(opened, grey)


def _windowed(grey: _Bytes, extreme: np.ufunc) -> _Bytes:
    """The extreme over a square of ``_STROKE`` pixels around each pixel, in three passes over rows and over columns."""
    found = np.pad(grey, _STROKE // 2, mode="edge")
    seen = 1
    while seen < _STROKE:
        step = min(seen, _STROKE - seen)
        found = extreme(found[:-step], found[step:])
        found = extreme(found[:, :-step], found[:, step:])
        seen += step
    return found


def _glyphs(standing_out: _Bytes, contrast: int) -> _Glyphs:
    """Connected pixels of at least ``contrast`` that have the size and evenness of a glyph."""
    mask = standing_out >= contrast
    if np.count_nonzero(mask) < _FEWEST_PIXELS:
        return _Glyphs(np.zeros((0, 4), np.int64), np.zeros(0), np.zeros(0), mask)
    labels, count = ndimage.label(mask, _EIGHT_NEIGHBOURS)
    rows, columns = np.nonzero(mask)
    owners = labels[rows, columns]
    boxes = np.zeros((count + 1, 4), np.int64)
    _span(boxes[:, 0], boxes[:, 2], owners, rows)
    across = np.argsort(columns, kind="stable")
    _span(boxes[:, 1], boxes[:, 3], owners[across], columns[across])
    heights, widths = boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1]
    areas = np.bincount(owners, minlength=count + 1)
    sized = (heights >= _HEIGHTS[0]) & (heights <= _HEIGHTS[1]) & (widths <= _WIDEST * heights)
    fills = areas / np.maximum(heights * widths, 1)
    # Label 0, which no glyph covers, fills nothing.
    sized &= fills >= _LEAST_FILL
    values = standing_out[rows, columns].astype(np.float64)
    peaks = np.zeros(count + 1)
    np.maximum.at(peaks, owners, values)
    even = np.bincount(owners, values, count + 1) >= _LEAST_EVENNESS * areas * peaks
    chosen = np.flatnonzero(sized & even)
    clearest = chosen[np.argsort(-peaks[chosen], kind="stable")[:_MOST_CANDIDATES]]
    return _Glyphs(boxes[clearest], peaks[clearest], fills[clearest], mask)


def _span(
    first: NDArray[np.int64], end: NDArray[np.int64], owners: NDArray[np.integer], places: NDArray[np.int64]
) -> None:
    """Write the first place and the end of each owner's; ``places`` ascend, and of repeated indices the last counts."""
    first[owners[::-1]] = places[::-1]
    end[owners] = places + 1


def _rows(glyphs: _Glyphs, least: int) -> list[Box]:
    """Chains of neighbours that are long, even and quiet enough to be text."""
    if len(glyphs.boxes) < least:
        return []
    found = []
    for chain in _chains(_next_of(glyphs)):
        boxes = glyphs.boxes[list(chain)]
        if len(chain) < least or np.median(glyphs.fills[list(chain)]) > _MOST_FILL:
            continue
        if _of_one_height(boxes) >= _OF_ONE_HEIGHT:
            (top, left), (bottom, right) = boxes[:, :2].min(axis=0), boxes[:, 2:].max(axis=0)
            box = Box(int(top), int(left), int(bottom), int(right))
            if _is_quiet_around(box, glyphs.mask):
                found.append(box)
    return found


def _next_of(glyphs: _Glyphs) -> NDArray[np.int64]:
    """Index of each glyph's nearest neighbour to the right, -1 where there is none; shape (n,)."""
    top, left, bottom, right = (edge.astype(np.float32) for edge in glyphs.boxes.T)
    heights, peaks = bottom - top, glyphs.peaks.astype(np.float32)
    tallest = np.maximum(heights[:, None], heights)
    gaps = left - right[:, None]
    close = (gaps >= -_LEAST_PIXELS) & (gaps <= _GAP * tallest) & (left > left[:, None])
    close &= np.abs(bottom - bottom[:, None]) <= np.maximum(_LEAST_PIXELS, _BASELINE * tallest)
    close &= np.minimum(heights[:, None], heights) >= _HEIGHT_RATIO * tallest
    close &= np.abs(peaks - peaks[:, None]) <= _PEAKS * np.maximum(peaks[:, None], peaks)
    nearest = np.where(close, gaps, np.inf).argmin(axis=1)
    return np.where(close.any(axis=1), nearest, -1)


def _chains(following: NDArray[np.int64]) -> Iterator[Sequence[int]]:
    """Every chain from a glyph that follows no other to its end."""
    heads = set(range(len(following))) - set(following.tolist())
    for head in sorted(heads):
        chain = [head]
        while (index := int(following[chain[-1]])) >= 0:
            chain.append(index)
        yield chain


def _of_one_height(boxes: NDArray[np.int64]) -> int:
    """How many of the glyphs agree in height, at most."""
    heights = boxes[:, 2] - boxes[:, 0]
    above = heights - heights[:, None]
    return int(((above >= 0) & (above <= np.maximum(_LEAST_PIXELS, _BASELINE * heights[:, None]))).sum(axis=1).max())


def _is_quiet_around(box: Box, mask: _Mask) -> bool:
    strip = max(2, int(_STRIP * (box.bottom - box.top)))
    columns = slice(box.left, box.right)
    above, below = mask[max(0, box.top - strip) : box.top, columns], mask[box.bottom : box.bottom + strip, columns]
    inside = float(mask[box.top : box.bottom, columns].mean())
    pixels = above.size + below.size
    return pixels == 0 or (int(above.sum()) + int(below.sum())) / pixels <= _NOISE * inside
