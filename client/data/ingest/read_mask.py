"""The mask of a case, whatever kind of file it is.

Promises
- DICOM Segmentation, RT structure set, NIfTI and PNG, told apart by their content, become class indices on the image's
  voxels. A mask is placed by its position in space where both have one, and refused where it does not lie on the image.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from client.data.ingest.opened import Opened
from shared.errors import CaseError
from shared.preprocessing.dicom import grid_of
from shared.preprocessing.dicom_contours import STRUCTURE_SET, mask_from_contours
from shared.preprocessing.dicom_file import DicomFile, described
from shared.preprocessing.dicom_header import text
from shared.preprocessing.dicom_segmentation import segmentation_of, segmentation_of_frame
from shared.preprocessing.image import MaskArray
from shared.preprocessing.nifti import mask_from_nifti
from shared.preprocessing.orientation import Placed
from shared.preprocessing.quarantine import refusing
from shared.preprocessing.raster import mask_from_raster


def mask_on(
    image: Placed, mask: Opened, files: Sequence[DicomFile], structures: Mapping[str, int], frame: int | None = None
) -> MaskArray:
    """Class indices on the voxels of ``image``.

    Args:
        image: the image, or the grid of its volume.
        mask: the file of the mask.
        files: where the image is DICOM, what it was made of.
        structures: class index by name, for RT structure sets.
        frame: position of the frame that the image is, where it is one of several in its file.

    Raises:
        CaseError: those of the readers, or "mask-format" where this kind of mask does not go with this kind of image.
    """
    if mask.dataset is None:
        return mask_from_nifti(mask.held, image) if mask.format == "nifti" else mask_from_raster(mask.held, image)
    if _is_structure_set(mask):
        grid = grid_of(files) if files else image
        return mask_from_contours(mask.dataset, grid, structures, _space(files)).reshape(image.shape)
    if not files:
        raise CaseError(
            "a DICOM segmentation goes with DICOM images only",
            hint="give the original DICOM files, or the mask in the format of the image",
            code="mask-format",
        )
    segmentation = described(mask.dataset)
    if frame is not None:
        return segmentation_of_frame(segmentation, files[0], frame)
    return segmentation_of(segmentation, files)


def _is_structure_set(mask: Opened) -> bool:
    with refusing("unreadable-dicom", "the header of the mask cannot be interpreted"):
        return mask.dataset is not None and text(mask.dataset, "SOPClassUID") == STRUCTURE_SET


def _space(files: Sequence[DicomFile]) -> str:
    with refusing("unreadable-dicom", "the header cannot be interpreted"):
        return text(files[0].dataset, "FrameOfReferenceUID") if files else ""
