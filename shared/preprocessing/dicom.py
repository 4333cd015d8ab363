"""From the DICOM files of one case to a canonical image.

Promises
- One frame becomes a 2-D image as displayed; several frames, in one file or many, become a volume on the grid that
  their positions span, turned to the canonical axes of ``image``. The order of ``paths`` does not matter.
- Geometry is checked before the first pixel is decoded.
- Nothing is guessed: frames without positions (a cine loop), tiles of a slide, segmentations and mixtures are refused
  under stable codes. The only exception is ``CaseError``; a file is named by its place in ``paths``.

A case holds the float volume and the encoded files at once, no second copy of the volume unless its axes must move.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from shared.errors import CaseError
from shared.preprocessing.dicom_file import DicomFile, read_file
from shared.preprocessing.dicom_header import Plane
from shared.preprocessing.dicom_pixels import decode, decode_into
from shared.preprocessing.image import FloatArray, Image
from shared.preprocessing.orientation import canonical_affine, spacing_of, to_canonical
from shared.preprocessing.quarantine import refuse_oversized
from shared.preprocessing.slice_grid import affine_of, order_of


def image_from_files(paths: Sequence[Path]) -> Image:
    """Read all files of one case.

    Raises:
        CaseError: under one of the codes of ``dicom_pixels`` and ``slice_grid``, or "no-files", "not-an-image",
            "tiled-image", "no-position", "mixed-size", "mixed-modality", or those of ``Image``.
    """
    files = read_files(paths)
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


def read_files(paths: Sequence[Path]) -> list[DicomFile]:
    """``read_file`` of each path; an error says which of the files it is about."""
    if not paths:
        raise CaseError("the case has no files", code="no-files")
    return [_numbered(path, number, len(paths)) for number, path in enumerate(paths, start=1)]


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


def _numbered(path: Path, number: int, total: int) -> DicomFile:
    try:
        return read_file(path)
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


def _flat(file: DicomFile) -> Image:
    known = file.spacing_mm is not None
    return Image(decode(file)[0], file.spacing_mm or (1.0, 1.0), file.modality, spacing_known=known)


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
