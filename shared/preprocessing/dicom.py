"""From the DICOM files of one case to a canonical image.

Promises
- One frame becomes a 2-D image as displayed; several frames, in one file or many, become a volume on the grid that
  their positions span, turned to the canonical axes of ``image``. The order of ``files`` does not matter.
- Geometry is checked before the first pixel is decoded.
- Nothing is guessed: frames without positions (a cine loop), tiles of a slide, segmentations and mixtures are refused
  under stable codes. The only exception is ``CaseError``; a file is named by its place in ``files``.

A case holds the float volume and the encoded files at once, no second copy of the volume unless its axes must move.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from shared.errors import CaseError
from shared.preprocessing.dicom_file import DicomFile, read_file
from shared.preprocessing.dicom_header import Plane
from shared.preprocessing.dicom_pixels import decode_frame, decode_into
from shared.preprocessing.image import FloatArray, Image
from shared.preprocessing.orientation import Grid, canonical_affine, canonical_axes, spacing_of, to_canonical
from shared.preprocessing.quarantine import refuse_oversized
from shared.preprocessing.readable import Readable
from shared.preprocessing.slice_grid import affine_of, order_of

Given = TypeVar("Given")
Made = TypeVar("Made")


def image_from_files(files: Sequence[Readable]) -> Image:
    """Read all files of one case; see ``image_of``."""
    return image_of(read_files(files))


def image_of(files: Sequence[DicomFile]) -> Image:
    """The image or volume that ``files`` make.

    Raises:
        CaseError: under one of the codes of ``dicom_pixels`` and ``slice_grid``, or "no-files", "not-an-image",
            "tiled-image", "no-position", "mixed-size", "mixed-modality", or those of ``Image``.
    """
    for file in files:
        _require_image(file)
    if sum(file.shape[0] for file in files) == 1:
        return _flat(files[0])
    planes = planes_in(files)
    order = order_of(planes)
    affine = affine_of([planes[index] for index in order])
    voxels = _stacked(files, order)
    moved = canonical_affine(affine, voxels.shape[1:])
    return Image(to_canonical(voxels, affine), spacing_of(moved), files[0].modality, affine_lps=moved)


def frame_of(file: DicomFile, index: int) -> Image:
    """One frame of a file as a 2-D image; raises ``CaseError`` as ``image_of``, or "no-such-frame"."""
    _require_image(file)
    if not 0 <= index < file.shape[0]:
        raise CaseError(f"frame {index + 1} of a file of {file.shape[0]} frames", code="no-such-frame")
    return _flat(file, index)


def read_files(files: Sequence[Readable]) -> list[DicomFile]:
    """``read_file`` of each."""
    return each_of(files, read_file)


def each_of(files: Sequence[Given], read: Callable[[Given], Made]) -> list[Made]:
    """``read`` of each of the files of a case; an error says which of them it is about."""
    if not files:
        raise CaseError("the case has no files", code="no-files")
    return [_numbered(file, read, number, len(files)) for number, file in enumerate(files, start=1)]


def planes_in(files: Sequence[DicomFile]) -> list[Plane]:
    """The planes of all frames of files that belong on one grid.

    Raises:
        CaseError: "mixed-size", "mixed-modality" or "no-position".
    """
    sizes = sorted({file.shape[1:] for file in files})
    if len(sizes) > 1:
        raise CaseError(
            f"frames have {len(sizes)} different shapes (channels, rows, columns), such as {sizes[0]} and {sizes[-1]}",
            hint="keep one acquisition a case",
            code="mixed-size",
        )
    if len({file.modality for file in files}) > 1:
        raise CaseError(
            f"files are of {len({file.modality for file in files})} modalities",
            hint="keep one modality a case",
            code="mixed-modality",
        )
    unplaced = sum(file.shape[0] for file in files if file.planes is None)
    if unplaced:
        raise CaseError(
            f"{unplaced} of {sum(file.shape[0] for file in files)} frames have no position in space",
            hint="a cine loop or several views are not a volume: make each frame a case of its own",
            code="no-position",
        )
    return [plane for file in files for plane in file.planes or ()]


def grid_of(files: Sequence[DicomFile]) -> Grid:
    """The grid of the image that ``files`` make, without decoding them; raises ``CaseError`` as ``image_of``."""
    rows, columns = files[0].shape[2:]
    if sum(file.shape[0] for file in files) == 1:
        return Grid((1, rows, columns), None if files[0].planes is None else affine_of(files[0].planes))
    planes = planes_in(files)
    affine = affine_of([planes[index] for index in order_of(planes)])
    stored = (len(planes), rows, columns)
    shape = tuple(stored[source] for source in canonical_axes(affine)[0])
    return Grid(shape, canonical_affine(affine, stored))


def _numbered(file: Given, read: Callable[[Given], Made], number: int, total: int) -> Made:
    try:
        return read(file)
    except CaseError as error:
        raise CaseError(f"file {number} of {total}: {error.sentence}", hint=error.hint, code=error.code) from None


def _require_image(file: DicomFile) -> None:
    if file.kind == "segmentation":
        raise CaseError("a segmentation is not an image", hint="give it as the mask of its image", code="not-an-image")
    if file.kind == "tiles":
        raise CaseError(
            f"the file holds {file.shape[0]} tiles of a slide",
            hint="export the region of interest as one image",
            code="tiled-image",
        )


def _flat(file: DicomFile, index: int = 0) -> Image:
    known = file.spacing_mm is not None
    return Image(decode_frame(file, index), file.spacing_mm or (1.0, 1.0), file.modality, spacing_known=known)


def _stacked(files: Sequence[DicomFile], order: NDArray[np.intp]) -> FloatArray:
    """Decode into place: frame i of all files, counted on, becomes the slice where ``order`` holds i."""
    _, channels, rows, columns = files[0].shape
    refuse_oversized((channels, len(order), rows, columns))
    voxels = np.empty((channels, len(order), rows, columns), np.float32)
    # The inverse of a permutation: from a frame to its slice.
    places = np.argsort(order)
    start = 0
    for file in files:
        stop = start + file.shape[0]
        decode_into(file, [voxels[:, place] for place in places[start:stop]])
        start = stop
    return voxels
