"""From PNG and JPEG to a canonical image or mask.

Promises
- An image is read as displayed (EXIF turn applied): grey as it stands, with 8 or 16 bits; palette, CMYK and YCbCr as
  RGB from 0 to 255. Spacing is 1.0 and not known: the resolution tags of such files are about printing.
- Transparency is refused ("transparent-image") where it hides anything; an alpha channel that is full everywhere is
  dropped.
- A mask's palette entries, grey values or equal colour channels are class indices as in ``masks``.
- Only PNG and JPEG are parsed, up to Pillow's limit against decompression bombs ("image-too-large"). The only exception
  is ``CaseError`` ("unreadable-image").
"""

from __future__ import annotations

import io

import numpy as np
import PIL.Image
import PIL.ImageOps
from numpy.typing import NDArray

from shared.errors import CaseError
from shared.preprocessing.image import Image, MaskArray, Modality
from shared.preprocessing.masks import class_indices, require_same_shape
from shared.preprocessing.orientation import Placed
from shared.preprocessing.quarantine import refusing
from shared.preprocessing.readable import Readable, contents

_FORMATS = ("PNG", "JPEG")
_GREY = {"1", "L", "I", "I;16", "I;16B", "I;16L", "F"}
_OPAQUE = 255  # 8 bits: Pillow gives alpha no other depth


def image_from_raster(file: Readable, modality: Modality = "other") -> Image:
    """Read a PNG or JPEG file as a 2-D image.

    Raises:
        CaseError: "unreadable-image", "image-too-large", "transparent-image", or those of ``Image``.
    """
    content = contents(file)
    with refusing("unreadable-image", "the image cannot be read", "give an intact PNG or JPEG file"):
        picture = _opaque(_open(content))
        if picture.mode not in _GREY:
            picture = picture.convert("RGB")
        values = np.asarray(picture, np.float32)
    channels = values[None] if values.ndim == 2 else values.transpose(2, 0, 1)
    return Image(np.ascontiguousarray(channels), (1.0, 1.0), modality, spacing_known=False)


def mask_from_raster(file: Readable, image: Placed) -> MaskArray:
    """Read a PNG or JPEG file as class indices on the pixels of ``image``.

    Raises:
        CaseError: "unreadable-image", "image-too-large", "transparent-image", "mask-shape" or "mask-values".
    """
    content = contents(file, "mask")
    with refusing("unreadable-image", "the mask cannot be read", "give an intact PNG file"):
        picture = _open(content)
        values = np.asarray(picture if picture.mode == "P" else _opaque(picture))
    require_same_shape(values.shape[:2], image.shape)
    return class_indices(_single(values))


def _open(content: bytes) -> PIL.Image.Image:
    try:
        with PIL.Image.open(io.BytesIO(content), formats=_FORMATS) as picture:
            return PIL.ImageOps.exif_transpose(picture)
    except PIL.Image.DecompressionBombError:
        limit = 2 * (PIL.Image.MAX_IMAGE_PIXELS or 0)
        raise CaseError(
            f"the image has more than {limit} pixels", hint="export it at a lower resolution", code="image-too-large"
        ) from None


def _opaque(picture: PIL.Image.Image) -> PIL.Image.Image:
    """Without an alpha channel that hides nothing; raises ``CaseError`` where it does."""
    if not picture.has_transparency_data:
        return picture
    full = picture.convert("RGBA")
    lowest, _ = full.getchannel("A").getextrema()
    if lowest != _OPAQUE:
        raise CaseError("parts of the image are transparent", hint="flatten it before ingest", code="transparent-image")
    return picture.convert("L" if picture.mode == "LA" else "RGB")


def _single(values: NDArray[np.generic]) -> NDArray[np.generic]:
    """One channel of a mask whose colour channels are all the same."""
    if values.ndim == 2:
        return values
    if (values != values[..., :1]).any():
        raise CaseError(
            "the mask is in colour", hint="give class indices as grey values or palette entries", code="mask-values"
        )
    return values[..., 0]
