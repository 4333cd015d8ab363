"""Synthetic masks as an expert's workstation exports them: DICOM SEG or NIfTI.

Promises
- A SEG (DICOM PS3.3 A.51) has one binary segment per class but the background, numbered as the classes are, refers to
  the instances it was drawn on, and leaves out empty frames.
- A NIfTI mask holds class indices with axes (column, row, slice) and the affine of the images, in RAS.
- With the same libraries, bytes follow from the arguments: highdicom's dates, its dimension organization's identifier
  and its name as the implementation are replaced.
"""

from __future__ import annotations

import gzip

import highdicom as hd
import nibabel
import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.sr.coding import Code

from simulations.phantoms.files import TIME_OF_DAY, Names, file_meta
from simulations.phantoms.scanner import Grid

Mask = NDArray[np.uint8]


def segmentation(sources: list[Dataset], mask: Mask, grid: Grid, names: Names) -> Dataset:
    """The mask, shape (D, H, W) on ``grid``, as DICOM SEG drawn on ``sources``."""
    drawn_on = [_on_grid(source, grid) for source in sources]
    dataset: Dataset = hd.seg.Segmentation(
        drawn_on,
        mask,
        hd.seg.SegmentationTypeValues.BINARY,
        _segments(),
        series_instance_uid=names.uid("mask"),
        series_number=300,
        sop_instance_uid=names.uid("mask", "instance"),
        instance_number=1,
        manufacturer="Consilium",
        manufacturer_model_name="Phantom",
        software_versions="1",
        device_serial_number="1",
    )
    return _settled(dataset, str(sources[0].StudyDate), names)


def nifti_bytes(mask: Mask, grid: Grid) -> bytes:
    """The mask, shape (D, H, W), as compressed NIfTI-1 with axes (column, row, slice) and an RAS affine in mm."""
    lps_to_ras = np.diag([-1.0, -1.0, 1.0, 1.0])
    affine = np.diag([*grid.spacing_mm[::-1], 1.0])
    affine[:3, 3] = grid.origin_mm
    voxels = np.ascontiguousarray(mask.transpose(2, 1, 0))
    image = nibabel.Nifti1Image(voxels, lps_to_ras @ affine)  # type: ignore[no-untyped-call]
    image.header.set_xyzt_units("mm")  # type: ignore[no-untyped-call]
    return gzip.compress(image.to_bytes(), mtime=0)


def _on_grid(source: Dataset, grid: Grid) -> Dataset:
    """The source's header with the grid's rows, columns and pixel spacing."""
    resized = Dataset()
    resized.update(source)
    resized.file_meta = source.file_meta
    # New elements: assigning values would change the source's own.
    resized.add_new("Rows", "US", grid.shape[1])
    resized.add_new("Columns", "US", grid.shape[2])
    resized.add_new("PixelSpacing", "DS", list(grid.spacing_mm[1:]))
    return resized


def _segments() -> list[hd.seg.SegmentDescription]:
    structure = Code("123037004", "SCT", "Anatomical structure")
    abnormal = Code("49755003", "SCT", "Morphologically abnormal structure")
    by_hand = hd.seg.SegmentAlgorithmTypeValues.MANUAL
    return [
        hd.seg.SegmentDescription(1, "Liver", structure, Code("10200004", "SCT", "Liver"), by_hand),
        hd.seg.SegmentDescription(2, "Lesion", abnormal, Code("52988006", "SCT", "Lesion"), by_hand),
    ]


def _settled(dataset: Dataset, day: str, names: Names) -> Dataset:
    """Replace what highdicom takes from the clock and from chance."""
    dataset.InstanceCreationDate = dataset.ContentDate = day
    dataset.InstanceCreationTime = dataset.ContentTime = TIME_OF_DAY
    for equipment in dataset.get("ContributingEquipmentSequence", []):
        equipment.ContributionDateTime = day + TIME_OF_DAY
    organization = names.uid("mask", "dimensions")
    for item in [*dataset.DimensionOrganizationSequence, *dataset.DimensionIndexSequence]:
        item.DimensionOrganizationUID = organization
    dataset.file_meta = file_meta(dataset)
    return dataset
