"""From a DICOM Segmentation to a mask on its image's grid.

Promises
- The mask has the spatial shape and axes of ``dicom.image_from_files`` of the same files; the class index of a voxel is
  its segment number (PS3.3 C.8.20), 0 where no segment claims it. Frames that are not stored count as empty.
- Each frame is placed by its position in space, whatever order, sense or subset of slices the segmentation stores.
  Where the image has no position (a radiograph, most ultrasound), the referenced SOP Instance UID must be the image's.
- A frame that is turned, scaled or shifted against the image's voxels, or outside of it, is refused ("mask-grid"):
  masks are never resampled here. Two segments on one voxel are refused too ("overlapping-segments").

A fractional segmentation counts from half of its maximum on.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset

from shared.errors import CaseError
from shared.preprocessing.dicom import grid_of, read_files
from shared.preprocessing.dicom_file import DicomFile, described, parse
from shared.preprocessing.dicom_header import Plane, holders_of, items, macro
from shared.preprocessing.dicom_pixels import Stored, stored_pixels
from shared.preprocessing.image import MaskArray
from shared.preprocessing.masks import MAX_CLASSES
from shared.preprocessing.orientation import Affine
from shared.preprocessing.quarantine import refusing
from shared.preprocessing.readable import Readable, contents

# A frame's voxels must lie within this share of a voxel of the image's: writers round positions and spacings.
_WITHIN = 0.1
# Row and column of a frame are h and w of an image that is a single plane.
_AS_STORED = np.array([[0, 0, 0], [1, 0, 0], [0, 1, 0]], np.intp)


def read_segmentation(file: Readable, reference: Sequence[Readable]) -> MaskArray:
    """Read a DICOM SEG as class indices on the image in the files ``reference``; see ``segmentation_of``."""
    return segmentation_of(described(parse(contents(file, "mask"))), read_files(reference))


def segmentation_of(file: DicomFile, images: Sequence[DicomFile]) -> MaskArray:
    """Class indices of a DICOM SEG on the voxels of the image that ``images`` make.

    Raises:
        CaseError: "not-a-segmentation", "mask-grid", "mask-values", "overlapping-segments", or what reading raises.
    """
    _require_segmentation(file)
    stored = stored_pixels(file)
    with refusing("unreadable-dicom", "the segmentation cannot be interpreted"):
        _require_same_space(file, images)
        grid = grid_of(images)
        mask = np.zeros(grid.shape, np.uint8)
        for frame in range(len(stored)):
            if file.planes is None or grid.affine_lps is None:
                _require_source(file, frame, images)
                placement = _AS_STORED
            else:
                placement = _placement(file.planes[frame], file.shape, grid.affine_lps)
            _paint(mask, _classes(file, stored[frame], frame), placement)
    return mask if sum(image.shape[0] for image in images) > 1 else mask[0]


def segmentation_of_frame(file: DicomFile, image: DicomFile, index: int) -> MaskArray:
    """Class indices of a DICOM SEG on one frame of a file whose frames have no position, shape (rows, columns).

    Raises:
        CaseError: as ``segmentation_of``; "mask-grid" where the segmentation names other images only.
    """
    with refusing("unreadable-dicom", "the segmentation cannot be interpreted"):
        _require_segmentation(file)
        described = len(items(file.dataset, "PerFrameFunctionalGroupsSequence"))
        named = [_named_frames(file, frame, image) for frame in range(min(described, file.shape[0]))]
        if not any(named) or file.shape[2:] != image.shape[2:]:
            raise _misplaced("does not name frames of this image as its source")
        mask = np.zeros((1, *image.shape[2:]), np.uint8)
        for frame, numbers in enumerate(named):
            if index + 1 in numbers:
                _paint(mask, _classes(file, stored_pixels(file, frame)[0], frame), _AS_STORED)
    return np.asarray(mask[0])


def _require_segmentation(file: DicomFile) -> None:
    if file.kind != "segmentation":
        raise CaseError("the mask is not a DICOM segmentation", code="not-a-segmentation")


def _require_same_space(file: DicomFile, images: Sequence[DicomFile]) -> None:
    spaces = {str(one.dataset.get("FrameOfReferenceUID", "")) for one in (file, *images)} - {""}
    if len(spaces) > 1:
        raise _misplaced("and its image are in different frames of reference")


def _classes(file: DicomFile, stored: Stored, frame: int) -> NDArray[np.integer]:
    """Class index of each pixel of one frame, shape (rows, columns)."""
    kind = str(file.dataset.get("SegmentationType", "BINARY"))
    identity = macro(holders_of(file.dataset, frame), "SegmentIdentificationSequence")
    if kind == "LABELMAP":
        classes = np.asarray(stored, np.int64)
    elif identity is None:
        raise CaseError(f"frame {frame + 1} does not say its segment", code="unreadable-dicom")
    else:
        half = int(file.dataset.MaximumFractionalValue) / 2 if kind == "FRACTIONAL" else 1
        classes = np.where(stored >= half, int(identity.ReferencedSegmentNumber), 0)
    if classes.max() >= MAX_CLASSES:
        raise CaseError(
            f"segment number {classes.max()} is above {MAX_CLASSES - 1}",
            hint="number segments from 1 in the order of the plan's classes",
            code="mask-values",
        )
    return classes


def _placement(plane: Plane, shape: Sequence[int], affine: Affine) -> NDArray[np.intp]:
    """Pixel (row, column, 1) of a frame -> voxel (d, h, w): a 3 x 3 matrix of whole numbers."""
    columns = (plane.down * plane.spacing_mm[0], plane.right * plane.spacing_mm[1], plane.position_mm)
    placed = (np.linalg.inv(affine) @ np.vstack([np.stack(columns, axis=1), [0, 0, 1]]))[:3]
    whole = np.rint(placed)
    corners = np.array([[row, column, 1.0] for row in (0, shape[2]) for column in (0, shape[3])])
    aside = float(np.abs((placed - whole) @ corners.T).max())
    if aside > _WITHIN:
        raise _misplaced(f"does not lie on the image's voxels: off by {aside:.2g} voxels")
    if (np.abs(whole[:, :2]).sum(axis=0) != 1).any():
        raise _misplaced("has pixels of another size than the image's voxels")
    return np.asarray(whole, np.intp)


def _require_source(file: DicomFile, frame: int, images: Sequence[DicomFile]) -> None:
    """Accept a frame without position only for a single image of its size, which it names as its source if any."""
    named = {str(source.get("ReferencedSOPInstanceUID", "")) for source in _sources(file, frame)}
    given = {str(image.dataset.get("SOPInstanceUID", "")) for image in images}
    alone = len(images) == images[0].shape[0] == 1
    if not alone or file.shape[2:] != images[0].shape[2:] or (named and not named & given):
        raise _misplaced("has no position and does not name this image as its source")


def _sources(file: DicomFile, frame: int) -> Sequence[Dataset]:
    """What a frame of a segmentation was drawn on (PS3.3 C.7.6.16.2.6)."""
    derivation = macro(holders_of(file.dataset, frame), "DerivationImageSequence")
    return () if derivation is None else items(derivation, "SourceImageSequence")


def _named_frames(file: DicomFile, frame: int, image: DicomFile) -> set[int]:
    """The numbers, from 1, of the frames of ``image`` that a frame of a segmentation was drawn on."""
    instance = str(image.dataset.get("SOPInstanceUID", ""))
    own = [each for each in _sources(file, frame) if str(each.get("ReferencedSOPInstanceUID", "")) == instance]
    return {int(number) for each in own for number in np.atleast_1d(each.get("ReferencedFrameNumber", ()))}


def _paint(mask: MaskArray, classes: NDArray[np.integer], placement: NDArray[np.intp]) -> None:
    """Write one frame into the mask."""
    row, column = np.nonzero(classes)
    where = placement @ np.stack([row, column, np.ones_like(row)])
    if (where < 0).any() or (where >= np.array(mask.shape)[:, None]).any():
        raise _misplaced("reaches beyond the image")
    values = classes[row, column].astype(np.uint8)
    taken = mask[tuple(where)]
    clashes = int(((taken != 0) & (taken != values)).sum())
    if clashes:
        raise CaseError(
            f"{clashes} voxels belong to two segments", hint="give exclusive segments", code="overlapping-segments"
        )
    mask[tuple(where)] = values


def _misplaced(how: str) -> CaseError:
    hint = "make the segmentation on the original images, not on a reformatted or resampled series"
    return CaseError(f"the segmentation {how}", hint=hint, code="mask-grid")
