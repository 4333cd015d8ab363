import gc
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import PIL.Image
import pytest

from client.data.case_files import CaseFiles, Quarantined
from client.data.prepared import prepare as module
from client.data.prepared.prepare import label_index, prepare_all, prepare_case
from shared.errors import CaseError
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
        document[name] = document[name] | values
    return from_document(document)


SEGMENT = plan()
CLASSIFY = plan("classification", data={"classes": ["benign", "malignant"]})
VOLUME = plan(data={"modality": "mr"}, preprocessing={"size": [4, 6, 8]})

PIXELS = np.random.default_rng(3).integers(0, 256, (16, 12), np.uint8)
OUTLINE = np.zeros((16, 12), np.uint8)
OUTLINE[4:9, 3:10] = 255


def png(path: Path, pixels: np.ndarray[Any, Any]) -> Path:
    PIL.Image.fromarray(pixels).save(path)
    return path


@pytest.fixture
def files(tmp_path: Path) -> CaseFiles:
    image, mask = png(tmp_path / "image.png", PIXELS), png(tmp_path / "mask.png", OUTLINE)
    return CaseFiles("c1", "p1", (image,), mask, "benign", (("sex", "F"),), "us")


def code_of(files: CaseFiles, plan: Plan) -> str:
    with pytest.raises(CaseError) as caught:
        prepare_case(files, plan, task_for(plan))
    return caught.value.code


def test_a_segmentation_case_is_the_normalised_image_with_its_mask_and_no_label(files: CaseFiles) -> None:
    case = prepare_case(files, SEGMENT, task_for(SEGMENT))
    values = PIXELS.astype(np.float64)
    np.testing.assert_allclose(case.voxels[0], (values - values.mean()) / values.std(), atol=1e-5)
    assert case.mask is not None
    np.testing.assert_array_equal(case.mask, OUTLINE == 255)
    assert (case.label, case.spacing_mm) == (None, (1.0, 1.0))
    assert (case.case_id, case.patient, case.subgroups) == ("c1", "p1", (("sex", "F"),))


def test_a_classification_case_has_the_index_of_its_label_and_no_mask(files: CaseFiles) -> None:
    case = prepare_case(files, CLASSIFY, task_for(CLASSIFY))
    assert (case.label, case.mask) == (0, None)
    assert prepare_case(replace(files, label="malignant"), CLASSIFY, task_for(CLASSIFY)).label == 1


def test_a_volume_is_read_with_its_mask_and_spacing(tmp_path: Path) -> None:
    affine = np.diag([-2.0, -2.0, 5.0, 1.0])  # RAS: the array runs towards Left, Posterior, Superior
    voxels = np.random.default_rng(0).standard_normal((8, 6, 4)).astype(np.float32)
    drawn = (voxels > 1).astype(np.uint8)
    for name, values in (("i.nii.gz", voxels), ("m.nii", drawn)):
        nibabel.save(nibabel.Nifti1Image(values, affine), tmp_path / name)  # type: ignore[no-untyped-call]
    files = CaseFiles("c", "p", (tmp_path / "i.nii.gz",), tmp_path / "m.nii", modality="mr")
    case = prepare_case(files, VOLUME, task_for(VOLUME))
    assert case.spacing_mm == (5.0, 2.0, 2.0)
    np.testing.assert_array_equal(case.mask, drawn.transpose(2, 1, 0))


def test_a_mask_that_no_answer_needs_is_not_even_opened(files: CaseFiles) -> None:
    broken = replace(files, mask=Path("no such file"))
    assert prepare_case(broken, CLASSIFY, task_for(CLASSIFY)).label == 0


def test_a_plan_that_crops_to_the_lesion_reads_the_mask_for_that_alone(files: CaseFiles) -> None:
    cropping = plan(
        "classification",
        data={"classes": ["benign", "malignant"]},
        preprocessing={"size": [5, 7], "crop": {"kind": "lesion", "margin": 0.0}},
    )
    case = prepare_case(files, cropping, task_for(cropping))
    lesion = PIXELS[4:9, 3:10].astype(np.float64)
    np.testing.assert_allclose(case.voxels[0], (lesion - lesion.mean()) / lesion.std(), atol=1e-5)
    assert case.mask is None
    assert code_of(replace(files, mask=None), cropping) == "mask-needed"


def text(files: CaseFiles) -> CaseFiles:
    files.images[0].write_text("not an image")
    return files


def small_mask(files: CaseFiles) -> CaseFiles:
    return replace(files, mask=png(files.images[0].with_name("small.png"), OUTLINE[1:]))


def grey_mask(files: CaseFiles) -> CaseFiles:
    return replace(files, mask=png(files.images[0].with_name("grey.png"), PIXELS))


def third_class(files: CaseFiles) -> CaseFiles:
    return replace(files, mask=png(files.images[0].with_name("third.png"), OUTLINE // 127))


@pytest.mark.parametrize(
    ("spoil", "plan", "code"),
    [
        (lambda files: replace(files, images=(Path("gone.png"),)), SEGMENT, "image-missing"),
        (lambda files: replace(files, mask=Path("gone.png")), SEGMENT, "mask-missing"),
        (lambda files: replace(files, mask=None), SEGMENT, "mask-missing"),
        (text, SEGMENT, "unreadable-image"),
        (small_mask, SEGMENT, "mask-shape"),
        (grey_mask, SEGMENT, "mask-values"),
        (third_class, SEGMENT, "mask-values"),
        (lambda files: replace(files, modality="mr"), SEGMENT, "modality"),
        (lambda files: replace(files, modality="mr"), VOLUME, "dimensions"),
        (lambda files: replace(files, label="normal"), CLASSIFY, "label-unknown"),
        (lambda files: replace(files, label=None), CLASSIFY, "label-missing"),
        (text, CLASSIFY, "unreadable-image"),
    ],
)
def test_each_kind_of_bad_input_has_its_code(
    files: CaseFiles, spoil: Callable[[CaseFiles], CaseFiles], plan: Plan, code: str
) -> None:
    assert code_of(spoil(files), plan) == code


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("plan", [SEGMENT, CLASSIFY])
def test_an_image_that_was_cut_off_in_its_pixels_is_refused(files: CaseFiles, plan: Plan) -> None:
    files.images[0].write_bytes(files.images[0].read_bytes()[:60])
    assert code_of(files, plan) == "unreadable-image"
    gc.collect()  # the decoder leaves the broken file to the collector, which warns


def test_a_file_with_an_unknown_ending_is_taken_for_dicom(files: CaseFiles) -> None:
    renamed = files.images[0].rename(files.images[0].with_name("0001"))
    assert code_of(replace(files, images=(renamed,)), SEGMENT) == "unreadable-dicom"


def test_all_goes_on_after_a_bad_case_and_keeps_its_code(files: CaseFiles) -> None:
    bad = replace(files, case_id="c2", mask=None)
    last = replace(files, case_id="c3")
    first, second, third = prepare_all([files, bad, last], SEGMENT, task_for(SEGMENT))
    assert isinstance(first, Case)
    assert isinstance(third, Case)
    assert isinstance(second, Quarantined)
    assert (second.case_id, second.code) == ("c2", "mask-missing")


def test_a_case_that_is_listed_twice_counts_once(files: CaseFiles) -> None:
    first, second = prepare_all([files, files], SEGMENT, task_for(SEGMENT))
    assert isinstance(first, Case)
    assert isinstance(second, Quarantined)
    assert second.code == "duplicate-case"


def test_progress_is_told_after_each_case_good_or_bad(files: CaseFiles) -> None:
    told: list[tuple[int, int]] = []
    cases = [files, replace(files, case_id="c2", mask=None), replace(files, case_id="c3")]
    list(prepare_all(cases, SEGMENT, task_for(SEGMENT), lambda done, total: told.append((done, total))))
    assert told == [(1, 3), (2, 3), (3, 3)]


def test_trouble_with_the_disk_is_trouble_with_the_case_and_names_no_path(
    files: CaseFiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    def gone(*_: object) -> None:
        raise PermissionError(13, "Permission denied", "Doe^Jane/1.png")

    monkeypatch.setattr(module, "image_from_raster", gone)
    (found,) = prepare_all([files], SEGMENT, task_for(SEGMENT))
    assert isinstance(found, Quarantined)
    assert found.code == "file-unreadable"
    assert "Permission denied" in found.sentence
    assert "Doe" not in found.sentence


def test_no_reason_repeats_a_label_or_a_path(files: CaseFiles) -> None:
    named = files.images[0].rename(files.images[0].with_name("Doe^Jane.png"))
    for bad in (replace(files, images=(named,), label="Doe^Jane"), replace(files, label="Doe^Jane")):
        named.write_text("broken")
        (found,) = prepare_all([bad], CLASSIFY, task_for(CLASSIFY))
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
