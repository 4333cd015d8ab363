"""From a DICOM file's encoded pixels to floats with a physical meaning.

Promises
- ``decode`` gives float32 of shape (frames, channels, rows, columns). Whatever the bytes are, the only exception is
  ``CaseError``.
- Grey pixels are modality values: rescale or modality LUT applied (PS3.3 C.11.1), in float64 and rounded once; frame by
  frame where the object is enhanced. CT is Hounsfield units.
- MONOCHROME1 is inverted within the range its stored bits can express: brighter is always more. Hounsfield units keep
  their sign: there MONOCHROME1 says how to display them, not what they are.
- Colour (RGB, YBR, palette) becomes RGB from 0 to 255, whatever its bit depth and planar configuration.
- Decoders are tried in one fixed order and GDCM never, so that lossy images decode to the same values at sites that
  happen to have more installed.

Left out: display windows (VOI LUT), overlays, colour profiles, and pixel padding, which keeps its stored value.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset, FileDataset
from pydicom.encaps import generate_fragments
from pydicom.pixels.decoders.base import get_decoder
from pydicom.pixels.processing import apply_color_lut, apply_modality_lut
from pydicom.tag import Tag
from pydicom.uid import ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian

from shared.errors import CaseError
from shared.preprocessing.codestreams import require_modest
from shared.preprocessing.dicom_file import PALETTE, DicomFile
from shared.preprocessing.dicom_header import items, rescale_of, whole
from shared.preprocessing.image import FloatArray
from shared.preprocessing.quarantine import refusing

# What pydicom may decode with, in this order; "pydicom" itself knows RLE only. The first two both know JPEG-LS, whose
# values the standard defines to the last bit; pyjpegls takes a quarter of the time.
_PLUGINS = ("pyjpegls", "pylibjpeg", "pillow", "pydicom")
# Bits allocated and pixel representation of what is stored as numbers are.
_NATIVE: dict[tuple[int | None, int | None], np.dtype[np.integer]] = {
    (8 * size, sign): np.dtype(f"<{'ui'[sign]}{size}") for size in (1, 2) for sign in (0, 1)
}
_LITTLE_ENDIAN = (ExplicitVRLittleEndian, ImplicitVRLittleEndian)
_PIXEL_DATA = Tag("PixelData")
_GREY = ("MONOCHROME2", "MONOCHROME1")
_COLOUR = ("RGB", "YBR_FULL", "YBR_FULL_422", "YBR_RCT", "YBR_ICT")

Stored = NDArray[np.integer] | NDArray[np.floating]


def decode(file: DicomFile) -> FloatArray:
    """Voxels of a file, shape (frames, channels, rows, columns), float32; see the module for their meaning.

    Raises:
        CaseError: "undecodable-pixels" or "unknown-colour".
    """
    voxels = np.empty(file.shape, np.float32)
    decode_into(file, voxels)
    return voxels


def decode_into(file: DicomFile, frames: Iterable[FloatArray]) -> None:
    """Write each frame of a file, (channels, rows, columns), to its place; raises as ``decode``."""
    stored = _meant(file, None)
    with refusing("undecodable-pixels", "the pixel values cannot be interpreted"):
        for index, (pixels, frame) in enumerate(zip(stored, frames, strict=True)):
            _interpret(pixels, file, index, frame)


def decode_frame(file: DicomFile, index: int) -> FloatArray:
    """Voxels of one frame, (channels, rows, columns), without decoding the others; raises as ``decode``."""
    voxels = np.empty(file.shape[1:], np.float32)
    stored = _meant(file, index)
    with refusing("undecodable-pixels", "the pixel values cannot be interpreted"):
        _interpret(stored[0], file, index, voxels)
    return voxels


def _meant(file: DicomFile, index: int | None) -> Stored:
    """``stored_pixels`` whose meaning is known."""
    if file.photometric not in {*_GREY, *_COLOUR, PALETTE}:
        raise CaseError("the photometric interpretation is not supported", code="unknown-colour")
    return stored_pixels(file, index)


def _interpret(stored: Stored, file: DicomFile, index: int, out: FloatArray) -> None:
    """Write the meaning of one frame to ``out``, (channels, rows, columns)."""
    if file.photometric in _GREY:
        _write_grey(stored, file, index, out[0])
    else:
        out[:] = _colour(stored, file)


def stored_pixels(file: DicomFile, index: int | None = None) -> Stored:
    """Pixels as stored, before any meaning: (frames, rows, columns), or (frames, rows, columns, 3) with YBR made RGB.

    With an ``index``, of that frame alone.

    Raises:
        CaseError: "undecodable-pixels".
    """
    hint = "compare with the archive's copy; the codec or the file may be damaged"
    with refusing("undecodable-pixels", "the pixel data cannot be decoded", hint):
        if (plain := _plain(file)) is not None:
            return plain if index is None else plain[index : index + 1]
        samples = (3,) if whole(file.dataset, "SamplesPerPixel") == 3 else ()
        frames, _, rows, columns = file.shape
        pixels = _decoded(file.dataset, index, rows * columns * math.prod(samples))
        # Some files hold more frames than they declare; the declared ones come first.
        return pixels.reshape(-1, rows, columns, *samples)[:frames]


def _plain(file: DicomFile) -> Stored | None:
    """Grey pixels that only need to be looked at as numbers; None where there is anything to decode.

    pydicom takes nearly as long to prepare decoding them as to read their file.
    """
    dataset, (frames, _, rows, columns) = file.dataset, file.shape
    allocated, used, signed = (whole(dataset, name) for name in ("BitsAllocated", "BitsStored", "PixelRepresentation"))
    syntax, kind = dataset.file_meta.get("TransferSyntaxUID"), _NATIVE.get((allocated, signed))
    data = dataset.get_item(_PIXEL_DATA).value if _PIXEL_DATA in dataset else None
    if syntax not in _LITTLE_ENDIAN or kind is None or file.photometric not in _GREY or not isinstance(data, bytes):
        return None
    count = frames * rows * columns
    if whole(dataset, "SamplesPerPixel") != 1 or len(data) < count * kind.itemsize:
        return None
    if used is None or allocated is None or not 0 < used <= allocated:
        return None
    pixels = np.frombuffer(data, kind, count).reshape(frames, rows, columns)
    # What stands in unused bits, such as an overlay, is no part of the value (PS3.5 8.1.1).
    return pixels if used == allocated else (pixels << (allocated - used)) >> (allocated - used)


def _decoded(dataset: FileDataset, index: int | None, samples: int) -> Stored:
    """Try each decoder in order; the last one's failure is the one that counts. A frame has ``samples`` values."""
    decoder = get_decoder(_transfer_syntax(dataset))
    if decoder.is_encapsulated:
        require_modest(generate_fragments(dataset.PixelData), samples)
    # A view saves a copy, and is whole unless unused bits must be cleared from it.
    view = dataset.get("BitsStored") == dataset.get("BitsAllocated")
    options: Any = {"index": index, "view_only": view}
    plugins = [name for name in _PLUGINS if name in decoder.available_plugins] if decoder.is_encapsulated else [""]
    for plugin in plugins[:-1]:
        try:
            return decoder.as_array(dataset, decoding_plugin=plugin, **options)[0]
        except Exception:  # noqa: BLE001, S112 - decoders raise anything; the next one may know this variant
            continue
    return decoder.as_array(dataset, decoding_plugin=plugins[-1], **options)[0]


def _transfer_syntax(dataset: FileDataset) -> str:
    """The declared transfer syntax; for a bare dataset the one it was parsed as, which then must be native."""
    declared = dataset.file_meta.get("TransferSyntaxUID")
    if declared:
        return str(declared)
    # pydicom's decoders ask the dataset again, so it is written there.
    implicit, little = dataset.original_encoding
    dataset.file_meta.TransferSyntaxUID = (
        ImplicitVRLittleEndian if implicit else ExplicitVRLittleEndian if little else ExplicitVRBigEndian
    )
    return str(dataset.file_meta.TransferSyntaxUID)


def _write_grey(stored: Stored, file: DicomFile, index: int, out: FloatArray) -> None:
    """Modality values of one frame, (rows, columns); brighter is more."""
    _write_modality(stored, file.dataset, index, out)
    if file.photometric == "MONOCHROME1" and not _is_hounsfield(file):
        # Turned about the middle of what the bits can express, through the same transformation: unlike the frame's own
        # extremes, that keeps slices and patients comparable.
        ends = np.empty(2, np.float64)
        _write_modality(_ends(stored, file.dataset), file.dataset, index, ends)
        np.subtract(ends.sum(), out, out=out)


def _is_hounsfield(file: DicomFile) -> bool:
    """CT unless it says otherwise (PS3.3 C.8.2.1.1.2, C.11.1.1.2: rescale type HU, or none given)."""
    return file.modality == "ct" and str(file.dataset.get("RescaleType", "HU") or "HU").strip().upper() == "HU"


def _write_modality(stored: Stored, dataset: Dataset, index: int, out: NDArray[np.floating]) -> None:
    if items(dataset, "ModalityLUTSequence"):
        out[:] = apply_modality_lut(stored, dataset)
        return
    slope, intercept = rescale_of(dataset, index)
    if slope == 1 and intercept.is_integer() and abs(intercept) < 2**23 and stored.dtype.itemsize <= 2:
        # Exact in float32, whose integers reach 2**24, and three times as fast: the usual CT.
        np.add(stored, np.float32(intercept), out=out, dtype=np.float32)
    else:
        out[:] = np.multiply(stored, slope, dtype=np.float64) + intercept


def _ends(stored: Stored, dataset: Dataset) -> Stored:
    """Lowest and highest stored value that the bits can express; of floats, that the frame holds."""
    if stored.dtype.kind == "f":
        return np.array([stored.min(), stored.max()])
    bits = int(dataset.BitsStored)
    lowest = -(2 ** (bits - 1)) if stored.dtype.kind == "i" else 0
    return np.array([lowest, lowest + 2**bits - 1], np.int64)


def _colour(stored: Stored, file: DicomFile) -> FloatArray:
    """One frame as RGB from 0 to 255, shape (3, rows, columns)."""
    bits = int(file.dataset.BitsStored)
    if file.photometric == PALETTE:
        stored = apply_color_lut(stored, file.dataset)[..., :3]
        # The third value of the descriptor is the depth of a table entry (PS3.3 C.7.6.3.1.5).
        bits = int(file.dataset.RedPaletteColorLookupTableDescriptor[2])
    return np.asarray(np.moveaxis(stored, -1, 0) * (255 / (2**bits - 1)), np.float32)
