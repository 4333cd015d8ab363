"""One canonical image, whatever file it came from.

Promises
- ``voxels`` has shape (C, H, W) or (C, D, H, W), float32, C-contiguous, finite. Channels: 1 (grey) or 3 (RGB, 0..255).
- A volume's axes run towards Superior (D), Posterior (H) and Left (W) as nearly as its scan allows: DICOM's patient
  coordinate system (LPS, PS3.3 C.7.6.2). A 2-D image's axes are rows (down) and columns (right), as displayed.
- ``spacing_mm`` has one entry per spatial axis, in the order of the axes; 1.0 per axis with ``spacing_known=False``
  where the file does not say (photographs, most ultrasound).
- ``affine_lps`` maps (d, h, w, 1) voxel indices to millimetres in LPS, for volumes with a known position; it keeps the
  exact obliqueness that ``voxels``' axis order only approximates.
- CT voxels are Hounsfield units (modality rescale applied); MONOCHROME1 has been inverted, so brighter is always more.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from shared.errors import CaseError

FloatArray = NDArray[np.float32]
MaskArray = NDArray[np.uint8]
Modality = Literal["ct", "mr", "us", "xray", "fundus", "other"]


@dataclass(frozen=True, slots=True, eq=False)
class Image:
    """A canonical image; see the module for shapes, axes and units."""

    voxels: FloatArray
    spacing_mm: tuple[float, ...]
    modality: Modality = "other"
    spacing_known: bool = True
    affine_lps: NDArray[np.float64] | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        """Refuse what no later step could use."""
        if self.voxels.dtype != np.float32 or self.voxels.ndim not in {3, 4}:
            raise CaseError(
                f"expected a float32 image of 3 or 4 axes (channels first), "
                f"got {self.voxels.dtype} with {self.voxels.ndim}",
                code="image-shape",
            )
        if len(self.spacing_mm) != self.voxels.ndim - 1 or not all(0 < mm < np.inf for mm in self.spacing_mm):
            raise CaseError(
                f"expected {self.voxels.ndim - 1} positive spacings in mm, got {len(self.spacing_mm)} "
                f"(smallest {min(self.spacing_mm, default=0.0):g})",
                code="image-spacing",
            )
        if self.voxels.size == 0 or not np.isfinite(self.voxels).all():
            raise CaseError("the image is empty or holds values that are not finite", code="image-not-finite")

    @property
    def shape(self) -> tuple[int, ...]:
        """Spatial shape, without channels."""
        return self.voxels.shape[1:]


@dataclass(frozen=True, slots=True, eq=False)
class Case:
    """One labelled, preprocessed image: what tasks, training and evaluation see.

    Attributes:
        case_id: salted identifier of the image; never an identifier from the clinic.
        patient: salted identifier of the person; the unit of splitting, intervals and privacy.
        voxels: shape (C, *spatial), float32, after the plan's preprocessing.
        mask: shape (*spatial), uint8 class indices; None where the task has no mask.
        label: class index (exclusive) or one 0/1 per class (multilabel); None where the task has no label.
        spacing_mm: one entry per spatial axis, after preprocessing.
        subgroups: declared columns such as sex or vendor, for reports by subgroup.
    """

    case_id: str
    patient: str
    voxels: FloatArray
    mask: MaskArray | None
    label: int | tuple[int, ...] | None
    spacing_mm: tuple[float, ...]
    subgroups: tuple[tuple[str, str], ...] = ()
