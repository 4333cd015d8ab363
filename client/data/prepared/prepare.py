"""From files to a case that the task can use, or a reason why not.

Promises
- ``prepare_case`` reads, preprocesses and checks: whatever it returns is of the plan's modality, has a label or mask
  within the plan's classes, and has passed ``task.target`` once, so that training meets no surprise.
- ``prepare_all`` turns each failure into a ``Quarantined`` with its stable code and goes on. Its sentences hold no
  path, no identifier and no value from a file.
- A task with one answer per image keeps no mask, and reads one only where the plan crops by it; a task with one answer
  per voxel keeps no label.

What an image is, and how it is read and resampled, is left to ``shared.preprocessing``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache

from client.data.case_files import CaseFiles, Quarantined
from client.data.ingest.slice_mask import NIFTI, ReadSeriesMask, mask_of_slice, read_series_mask
from shared.errors import CaseError
from shared.plan import Data, Plan
from shared.preprocessing.dicom import image_from_files
from shared.preprocessing.dicom_segmentation import read_segmentation
from shared.preprocessing.image import Case, Image, MaskArray
from shared.preprocessing.nifti import image_from_nifti, mask_from_nifti
from shared.preprocessing.pipeline import prepare
from shared.preprocessing.raster import image_from_raster, mask_from_raster
from shared.tasks.task import Task

Progress = Callable[[int, int], None]
"""Called with how many cases are done, of how many."""

_RASTER = (".png", ".jpg", ".jpeg")
_NO_CLASS = "none"


def silent(_done: int, _total: int) -> None:
    """Progress that nobody watches."""


def prepare_all(
    files: Sequence[CaseFiles], plan: Plan, task: Task, progress: Progress = silent
) -> Iterator[Case | Quarantined]:
    """Each case prepared, or quarantined, in order; a name that comes twice is quarantined the second time."""
    seen: set[str] = set()
    # Slices of one series come one after another: its mask is read once, and forgotten with the next.
    read_mask = lru_cache(maxsize=1)(read_series_mask)
    for done, one in enumerate(files, start=1):
        yield _second(one) if one.case_id in seen else _attempt(one, plan, task, read_mask)
        seen.add(one.case_id)
        progress(done, len(files))


def _attempt(files: CaseFiles, plan: Plan, task: Task, read_mask: ReadSeriesMask) -> Case | Quarantined:
    try:
        return prepare_case(files, plan, task, read_mask)
    except CaseError as error:
        return Quarantined(files.case_id, error.code, error.sentence)
    except OSError as error:  # its own text would name the path
        reason = error.strerror or "input/output error"
        return Quarantined(files.case_id, "file-unreadable", f"a file of this case cannot be read: {reason}")


def _second(files: CaseFiles) -> Quarantined:
    return Quarantined(files.case_id, "duplicate-case", "this case is listed twice; the first is kept")


def prepare_case(files: CaseFiles, plan: Plan, task: Task, read_mask: ReadSeriesMask = read_series_mask) -> Case:
    """One case, ready for ``task``; raises ``CaseError``."""
    dense = task.output == "dense"
    image = _image(files)
    mask = _mask(files, image, read_mask) if dense or plan.preprocessing.crop.kind == "lesion" else None
    if image.modality != plan.data.modality:
        raise CaseError(
            f"the image is {image.modality}, the plan is for {plan.data.modality}",
            hint="keep other series out of the folder",
            code="modality",
        )
    prepared = prepare(image, mask, plan)
    case = Case(
        case_id=files.case_id,
        patient=files.patient,
        voxels=prepared.voxels,
        mask=prepared.mask if dense else None,
        label=None if dense else label_index(files.label, plan.data),
        spacing_mm=tuple(float(mm) for mm in prepared.spacing_mm),
        subgroups=files.subgroups,
    )
    # Called for what it refuses: a mask or label outside the classes must not wait for the first training step.
    task.target(case)
    return case


def label_index(label: str | None, data: Data) -> int | tuple[int, ...] | None:
    """A label's class index, or one 0/1 per class (names joined by ";", or ``none``); None stays None.

    Raises:
        CaseError: ``label-unknown``. The label itself is not repeated: a shifted column may hold a name.
    """
    if label is None:
        return None
    names = [name.strip() for name in label.split(";")] if data.labels == "multilabel" else [label]
    if data.labels == "multilabel" and label == _NO_CLASS and _NO_CLASS not in data.classes:
        names = []
    if not set(names) <= set(data.classes):
        raise CaseError(
            f"the label is none of the plan's {len(data.classes)} classes",
            hint=f"the plan has: {', '.join(data.classes)}",
            code="label-unknown",
        )
    if data.labels == "multilabel":
        return tuple(int(name in names) for name in data.classes)
    return data.classes.index(label)


def _image(files: CaseFiles) -> Image:
    missing = sum(not path.is_file() for path in files.images)
    if missing:
        raise CaseError(
            f"{missing} of {len(files.images)} image files are not there", hint="check the path", code="image-missing"
        )
    name = files.images[0].name.lower()
    if name.endswith(NIFTI):
        return image_from_nifti(files.images[0], files.modality)
    if name.endswith(_RASTER):
        return image_from_raster(files.images[0], files.modality)
    return image_from_files(files.images)


def _mask(files: CaseFiles, image: Image, read_mask: ReadSeriesMask) -> MaskArray | None:
    if files.mask is None:
        return None
    if not files.mask.is_file():
        raise CaseError("the mask file is not there", hint="check the table's column mask", code="mask-missing")
    if files.slice_of:
        return mask_of_slice(read_mask(files.mask, files.slice_of), files.images[0])
    name = files.mask.name.lower()
    if name.endswith(NIFTI):
        return mask_from_nifti(files.mask, image)
    if name.endswith(_RASTER):
        return mask_from_raster(files.mask, image)
    return read_segmentation(files.mask, files.images)
