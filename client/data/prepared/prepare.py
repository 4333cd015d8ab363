"""From a record of the archive to a case that the task can use, or a reason why not.

Promises
- ``prepare_case`` preprocesses and checks: whatever it returns is of the plan's modality, has a label or mask within
  the plan's classes, and has passed ``task.target`` once, so that training meets no surprise.
- ``prepare_all`` turns each failure into a ``Quarantined`` with its stable code and goes on. Its sentences hold no
  identifier and no value from an image or a table. Bytes that are not those of their record are no bad case but a
  damaged archive, and end the work.
- A task with one answer per image keeps a mask only where the plan's explanations are held against it, and reads one
  besides only where the plan crops by it; a task with one answer per voxel keeps no label.

What an image is, and how it is resampled, is left to ``shared.preprocessing``; reading files to ``client.data.ingest``.
"""

from __future__ import annotations

from collections.abc import Iterator

from client.data.archive.archive import Archive
from client.data.archive.record import Record
from client.data.case_files import Quarantined
from client.data.cohort.manifest import Cohort
from client.data.progress import Progress, silent
from shared.errors import CaseError
from shared.plan import Data, Plan
from shared.preprocessing.image import Case
from shared.preprocessing.pipeline import prepare
from shared.tasks.task import Task

_NO_CLASS = "none"


def prepare_all(
    cohort: Cohort, archive: Archive, plan: Plan, task: Task, progress: Progress = silent
) -> Iterator[Case | Quarantined]:
    """Each member of ``cohort`` prepared, or quarantined, in the cohort's order.

    Raises:
        SiteDataError: the archive does not hold the cohort any more, or not the bytes that it says.
    """
    wanted = {member.case_id for member in cohort.members}
    done = 0
    # Records come in the order of members, by name; one query serves all of them.
    for record in archive.records():
        if record.case_id in wanted:
            yield _attempt(record, archive, plan, task)
            done += 1
            progress(done, len(wanted))


def _attempt(record: Record, archive: Archive, plan: Plan, task: Task) -> Case | Quarantined:
    try:
        return prepare_case(record, archive, plan, task)
    except CaseError as error:
        return Quarantined(record.case_id, error.code, error.sentence)


def prepare_case(record: Record, archive: Archive, plan: Plan, task: Task) -> Case:
    """One case, ready for ``task``; raises ``CaseError``."""
    if record.modality != plan.data.modality:
        raise CaseError(
            f"the image is {record.modality}, the plan is for {plan.data.modality}",
            hint="exclude other series when the cohort is frozen",
            code="modality",
        )
    dense = task.output == "dense"
    needed = dense or plan.preprocessing.crop.kind == "lesion"
    kept = dense or keeps_masks(plan)
    prepared = prepare(archive.image(record), archive.mask(record) if needed or kept else None, plan)
    case = Case(
        case_id=record.case_id,
        patient=record.patient,
        voxels=prepared.voxels,
        mask=prepared.mask if kept else None,
        label=None if dense else label_index(record.label, plan.data),
        spacing_mm=tuple(float(mm) for mm in prepared.spacing_mm),
        subgroups=record.subgroups,
    )
    # Called for what it refuses: a mask or label outside the classes must not wait for the first training step.
    task.target(case)
    return case


def keeps_masks(plan: Plan) -> bool:
    """Whether cases of a task that needs no mask keep theirs: where the plan explains what the model has learnt."""
    return plan.evaluation.explain != "none"


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
