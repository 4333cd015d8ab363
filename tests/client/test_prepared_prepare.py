"""From the archive's images to cases that a task can use, and what is wrong with the others."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny_archive import Made, made, name_of, tiny_archive

from client.data.archive.archive import Archive
from client.data.case_files import Quarantined
from client.data.cohort.freeze import freeze
from client.data.cohort.manifest import Cohort, SplitRule
from client.data.prepared.prepare import label_index, prepare_all, prepare_case
from shared.errors import CaseError, SiteDataError
from shared.plan import Data, Plan, from_document
from shared.preprocessing.image import Case
from shared.tasks import task_for


def plan(task: str = "segmentation", **sections: dict[str, Any]) -> Plan:
    document: dict[str, Any] = {
        "plan": {"name": "test", "task": task, "rounds": 1},
        "data": {"modality": "us", "classes": ["background", "lesion"]},
        "preprocessing": {"size": [16, 12]},
        "model": {"name": "unet"},
        "training": {"steps": 1, "patients_per_step": 1, "learning_rate": 0.1},
        "privacy": {"unit": "none"},
    }
    for name, values in sections.items():
        document[name] = document.get(name, {}) | values
    return from_document(document)


SEGMENT = plan()
CLASSIFY = plan("classification", data={"classes": ["benign", "malignant"]})
VOLUME = plan(data={"modality": "mr"}, preprocessing={"size": [4, 6, 8]})

PIXELS = np.random.default_rng(3).integers(0, 256, (1, 16, 12)).astype(np.float32)
OUTLINE = np.zeros((16, 12), np.uint8)
OUTLINE[4:9, 3:10] = 1
GOOD = made(1, voxels=PIXELS, mask=OUTLINE, label="benign")


def prepared(folder: Path, one: Made, plan: Plan) -> Case:
    archive = tiny_archive(folder, [one])
    (record,) = archive.records()
    return prepare_case(record, archive, plan, task_for(plan))


def code_of(folder: Path, one: Made, plan: Plan) -> str:
    with pytest.raises(CaseError) as caught:
        prepared(folder, one, plan)
    return caught.value.code


def cohort_of(archive: Archive, *exclude: str) -> Cohort:
    return freeze(archive, "north", "us", SplitRule(0, 0.6, 0.2), exclude)


def everything(archive: Archive, plan: Plan, told: Callable[[int, int], None] = lambda _done, _total: None) -> Any:
    return list(prepare_all(cohort_of(archive), archive, plan, task_for(plan), told))


def test_a_segmentation_case_is_the_normalised_image_with_its_mask_and_no_label(tmp_path: Path) -> None:
    case = prepared(tmp_path, GOOD, SEGMENT)
    values = PIXELS[0].astype(np.float64)
    np.testing.assert_allclose(case.voxels[0], (values - values.mean()) / values.std(), atol=1e-5)
    assert case.mask is not None
    np.testing.assert_array_equal(case.mask, OUTLINE)
    assert (case.label, case.spacing_mm) == (None, (1.0, 1.0))
    assert (case.case_id, case.patient, case.subgroups) == (name_of("case 1"), name_of("person 1"), (("sex", "F"),))


def test_a_classification_case_has_the_index_of_its_label_and_no_mask(tmp_path: Path) -> None:
    case = prepared(tmp_path / "a", GOOD, CLASSIFY)
    assert (case.label, case.mask) == (0, None)
    assert prepared(tmp_path / "b", replace(GOOD, label="malignant"), CLASSIFY).label == 1


def test_a_classification_case_keeps_its_mask_where_the_plan_explains_and_nothing_else_changes(tmp_path: Path) -> None:
    explaining = plan("classification", data={"classes": ["benign", "malignant"]}, evaluation={"explain": "occlusion"})
    plain, kept = (prepared(tmp_path / one.plan.task, GOOD, one) for one in (CLASSIFY, explaining))
    np.testing.assert_array_equal(kept.mask, OUTLINE)
    np.testing.assert_array_equal(kept.voxels, plain.voxels)
    assert (kept.label, kept.spacing_mm) == (plain.label, plain.spacing_mm)
    assert prepared(tmp_path / "without", replace(GOOD, mask=None), explaining).mask is None


def test_a_volume_comes_with_its_mask_and_spacing(tmp_path: Path) -> None:
    voxels = np.random.default_rng(0).standard_normal((1, 4, 6, 8)).astype(np.float32)
    drawn = (voxels[0] > 1).astype(np.uint8)
    one = Made("v", "p", voxels, drawn, modality="mr", more={"spacing_mm": (5.0, 2.0, 2.0)})
    case = prepared(tmp_path, one, VOLUME)
    assert case.spacing_mm == (5.0, 2.0, 2.0)
    np.testing.assert_array_equal(case.mask, drawn)


def test_a_sealed_archive_gives_the_same_case(tmp_path: Path) -> None:
    archive = tiny_archive(tmp_path / "sealed", [GOOD], key=bytes(range(32)))
    (record,) = archive.records()
    sealed = prepare_case(record, archive, SEGMENT, task_for(SEGMENT))
    plain = prepared(tmp_path / "plain", GOOD, SEGMENT)
    np.testing.assert_array_equal(sealed.voxels, plain.voxels)
    np.testing.assert_array_equal(sealed.mask, plain.mask)


def test_a_plan_that_crops_to_the_lesion_uses_the_mask_for_that_alone(tmp_path: Path) -> None:
    cropping = plan(
        "classification",
        data={"classes": ["benign", "malignant"]},
        preprocessing={"size": [5, 7], "crop": {"kind": "lesion", "margin": 0.0}},
    )
    case = prepared(tmp_path / "a", GOOD, cropping)
    lesion = PIXELS[0, 4:9, 3:10].astype(np.float64)
    np.testing.assert_allclose(case.voxels[0], (lesion - lesion.mean()) / lesion.std(), atol=1e-5)
    assert case.mask is None
    assert code_of(tmp_path / "b", replace(GOOD, mask=None), cropping) == "mask-needed"


@pytest.mark.parametrize(
    ("change", "plan", "code"),
    [
        ({"mask": None}, SEGMENT, "mask-missing"),
        ({"mask": OUTLINE * 2}, SEGMENT, "mask-values"),
        ({"modality": "mr"}, SEGMENT, "modality"),
        ({"modality": "mr"}, VOLUME, "dimensions"),
        ({"label": "normal"}, CLASSIFY, "label-unknown"),
        ({"label": None}, CLASSIFY, "label-missing"),
    ],
)
def test_each_kind_of_unusable_case_has_its_code(tmp_path: Path, change: dict[str, Any], plan: Plan, code: str) -> None:
    assert code_of(tmp_path, replace(GOOD, **change), plan) == code


def test_all_goes_on_after_a_bad_case_and_keeps_its_code(tmp_path: Path) -> None:
    cases = [made(number, voxels=PIXELS, mask=OUTLINE if number != 2 else None) for number in range(4)]
    found = everything(tiny_archive(tmp_path, cases), SEGMENT)
    assert [one.case_id for one in found] == sorted(one.case_id for one in cases)
    (bad,) = (one for one in found if isinstance(one, Quarantined))
    assert (bad.case_id, bad.code) == (name_of("case 2"), "mask-missing")
    assert sum(isinstance(one, Case) for one in found) == 3


def test_only_members_of_the_cohort_are_prepared(tmp_path: Path) -> None:
    archive = tiny_archive(tmp_path, [made(number, voxels=PIXELS, mask=OUTLINE) for number in range(4)])
    cohort = cohort_of(archive, name_of("case 2"))
    found = list(prepare_all(cohort, archive, SEGMENT, task_for(SEGMENT)))
    assert [one.case_id for one in found] == [member.case_id for member in cohort.members]
    assert len(found) == 3


def test_progress_is_told_after_each_case_good_or_bad(tmp_path: Path) -> None:
    told: list[tuple[int, int]] = []
    cases = [GOOD, made(2, voxels=PIXELS), made(3, voxels=PIXELS, mask=OUTLINE)]
    everything(tiny_archive(tmp_path, cases), SEGMENT, lambda done, total: told.append((done, total)))
    assert told == [(1, 3), (2, 3), (3, 3)]


def test_a_damaged_archive_ends_the_work_and_is_no_bad_case(tmp_path: Path) -> None:
    archive = tiny_archive(tmp_path, [GOOD])
    (segment,) = archive.segments_folder.glob("*.segment")
    segment.write_bytes(b"\1" + segment.read_bytes()[1:])
    with pytest.raises(SiteDataError) as caught:
        everything(tiny_archive(tmp_path, []), SEGMENT)
    assert caught.value.code == "archive-damaged"


def test_no_reason_repeats_a_label(tmp_path: Path) -> None:
    (found,) = everything(tiny_archive(tmp_path, [replace(GOOD, label="Doe^Jane")]), CLASSIFY)
    assert isinstance(found, Quarantined)
    assert "Doe" not in found.sentence


ONE = Data(modality="us", classes=("benign", "malignant"))
MANY = Data(modality="xray", classes=("effusion", "mass", "nodule"), labels="multilabel")


@pytest.mark.parametrize(
    ("label", "data", "index"),
    [
        (None, ONE, None),
        ("benign", ONE, 0),
        ("malignant", ONE, 1),
        (None, MANY, None),
        ("mass", MANY, (0, 1, 0)),
        ("nodule;effusion", MANY, (1, 0, 1)),
        ("effusion ; mass", MANY, (1, 1, 0)),
        ("none", MANY, (0, 0, 0)),
        ("none", MANY.model_copy(update={"classes": ("mass", "none")}), (0, 1)),
    ],
)
def test_label_names_become_indices(label: str | None, data: Data, index: int | tuple[int, ...] | None) -> None:
    assert label_index(label, data) == index


@pytest.mark.parametrize(
    ("label", "data"),
    [("Benign", ONE), ("benign;malignant", ONE), ("none", ONE), ("mass;", MANY), ("mass,nodule", MANY)],
)
def test_a_label_that_the_plan_does_not_know_is_refused(label: str, data: Data) -> None:
    with pytest.raises(CaseError) as caught:
        label_index(label, data)
    assert caught.value.code == "label-unknown"
