"""Small pictures of cases, for people at the site to look at.

Promises
- A picture is a PNG in the page itself, at most ``EDGE`` pixels wide and high, in the proportions of the patient.
- Of a volume it shows the middle slice, or the one with most of the mask; only that slice is read.
- Grey values run from the 0.5th to the 99.5th percentile of the slice; colours stay as they are. The mask is outlined.
"""

from __future__ import annotations

import base64
import io

import numpy as np
from numpy.typing import NDArray
from PIL import Image as Picture

from client.data.archive.archive import Archive
from client.data.archive.record import Record
from shared.preprocessing.image import FloatArray, MaskArray

EDGE = 160
_OUTLINE = (255, 176, 0)
_TAILS = (0.5, 99.5)


def data_uri(archive: Archive, record: Record) -> str:
    """A case's picture as a ``data:`` address; raises ``SiteDataError`` where the archive is damaged."""
    plane, outlined = central_plane(archive, record)
    file = io.BytesIO()
    picture(plane, outlined, record.spacing_mm[-2:]).save(file, format="PNG", optimize=True)
    return f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"


def central_plane(archive: Archive, record: Record) -> tuple[FloatArray, MaskArray | None]:
    """The plane to show, shape (C, H, W), and its mask, shape (H, W)."""
    mask = archive.mask(record)
    spatial = record.shape[1:]
    if len(spatial) == 2:
        return archive.image(record).voxels, mask
    at = spatial[0] // 2 if mask is None or not mask.any() else int(np.argmax((mask > 0).sum(axis=(1, 2))))
    plane = archive.crop(record, (at, 0, 0), (1, *spatial[1:]))[:, 0]
    return plane, None if mask is None else mask[at]


def picture(plane: FloatArray, mask: MaskArray | None, spacing_mm: tuple[float, ...]) -> Picture.Image:
    """A plane of shape (C, H, W) as it lies in the patient, its mask outlined."""
    high, wide = plane.shape[1] * spacing_mm[0], plane.shape[2] * spacing_mm[1]
    scale = EDGE / max(high, wide)
    size = max(1, round(wide * scale)), max(1, round(high * scale))
    small = Picture.fromarray(_grey(plane[0]) if len(plane) == 1 else _colours(plane)).resize(
        size, Picture.Resampling.BOX
    )
    if mask is None or not mask.any():
        return small
    outlined = np.array(small.convert("RGB"))
    outlined[_edges(np.array(Picture.fromarray(mask).resize(size, Picture.Resampling.NEAREST)))] = _OUTLINE
    return Picture.fromarray(outlined)


def _grey(plane: FloatArray) -> NDArray[np.uint8]:
    low, high = np.percentile(plane, _TAILS)
    if high <= low:
        low, high = float(plane.min()), float(plane.max())
    span = high - low or 1.0
    grey: NDArray[np.uint8] = np.rint(np.clip((plane - low) / span, 0, 1) * 255).astype(np.uint8)
    return grey


def _colours(plane: FloatArray) -> NDArray[np.uint8]:
    return np.rint(np.clip(np.moveaxis(plane, 0, -1), 0, 255)).astype(np.uint8)


def _edges(mask: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Pixels of a class that touch a pixel of another one."""
    framed = np.pad(mask, 1, mode="edge")
    neighbours = (framed[:-2, 1:-1], framed[2:, 1:-1], framed[1:-1, :-2], framed[1:-1, 2:])
    touching = np.zeros(mask.shape, np.bool_)
    for neighbour in neighbours:
        touching |= neighbour != mask
    return touching & (mask > 0)
