import csv
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import highdicom as hd
import nibabel
import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.sr.codedict import codes
from pydicom.uid import UID, CTImageStorage, EnhancedSRStorage, ExplicitVRLittleEndian, MediaStorageDirectoryStorage

from client.data.case_files import CaseFiles, Quarantined, Salt
from client.data.ingest.slice_mask import read_series_mask
from client.data.prepared import prepare
from client.data.prepared.prepare import prepare_all
from client.data.source.series import read_dicom_folder
from shared.errors import SiteDataError
from shared.plan import Plan, from_document
from shared.preprocessing.image import Case
from shared.tasks import task_for

SECRET = b"dicom-folder-tests-0123456789"
SALT = Salt("north", SECRET)
ROWS, COLUMNS = 6, 8

Found = tuple[list[CaseFiles], list[Quarantined]]


def ct(series: str, number: int, person: str = "P1", **changes: Any) -> Dataset:
    """One slice of a CT series, 2.5 mm apart, on its way from feet to head."""
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID = CTImageStorage
    dataset.SOPInstanceUID = f"{series}.{number + 1}"
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    dataset.SeriesInstanceUID, dataset.StudyInstanceUID, dataset.FrameOfReferenceUID = series, "1.2.3", f"{series}.9"
    dataset.PatientID, dataset.PatientName, dataset.Modality = person, "Doe^Jane", "CT"
    dataset.PatientBirthDate = dataset.PatientSex = dataset.StudyDate = dataset.StudyTime = ""
    dataset.StudyID = dataset.AccessionNumber = dataset.ReferringPhysicianName = dataset.Manufacturer = ""
    dataset.SeriesNumber, dataset.InstanceNumber, dataset.PositionReferenceIndicator = 1, number + 1, ""
    dataset.ImagePositionPatient = [-10.0, -20.0, 2.5 * number]
    dataset.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
    dataset.PixelSpacing, dataset.SliceThickness = [0.5, 0.75], 2.5
    dataset.RescaleSlope, dataset.RescaleIntercept = 1, -1024
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
    dataset.Rows, dataset.Columns = ROWS, COLUMNS
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit, dataset.PixelRepresentation = 16, 16, 15, 0
    dataset.PixelData = pixels(number).tobytes()
    for name, value in changes.items():
        setattr(dataset, name, value)
    return dataset


def pixels(number: int) -> np.ndarray[Any, np.dtype[np.uint16]]:
    return np.random.default_rng(number).integers(900, 1200, (ROWS, COLUMNS), np.uint16)


def outline(slices: int) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """A mask of shape (D, H, W) that differs in every slice and from its own mirror images."""
    mask = np.zeros((slices, ROWS, COLUMNS), np.uint8)
    for number in range(slices):
        mask[number, : number + 1, : 2 + number] = 1
    return mask


@dataclass(frozen=True)
class Hospital:
    """A folder in the form that ``read_dicom_folder`` expects."""

    folder: Path

    def add(self, name: str, dataset: Dataset) -> Path:
        path = self.folder / "dicom" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        pydicom.dcmwrite(path, dataset, enforce_file_format=True)
        return path

    def series(self, uid: str, slices: int, person: str = "P1") -> list[Path]:
        return [self.add(f"{uid}/{9 - number}", ct(uid, number, person)) for number in range(slices)]

    def label(self, *rows: dict[str, str]) -> None:
        with (self.folder / "labels.csv").open("w", newline="") as file:
            columns = list(dict.fromkeys(name for row in rows for name in row))
            writer = csv.DictWriter(file, columns, restval="")
            writer.writeheader()
            writer.writerows(rows)

    def segment(self, sources: Sequence[Path], mask: np.ndarray[Any, Any], name: str = "m.dcm") -> Path:
        kind = codes.SCT.Liver
        segment = hd.seg.SegmentDescription(1, "x", codes.SCT.Organ, kind, hd.seg.SegmentAlgorithmTypeValues.MANUAL)
        made = hd.seg.Segmentation(
            [pydicom.dcmread(path) for path in sources], mask, hd.seg.SegmentationTypeValues.BINARY, [segment],
            f"1.9.{len(name)}", 300, f"1.9.{len(name)}.1", 1, "m", "m", "1", "1",
        )  # fmt: skip
        path = self.folder / "masks" / name
        path.parent.mkdir(exist_ok=True)
        made.save_as(path)
        return path

    def nifti(self, mask: np.ndarray[Any, Any], name: str = "m.nii.gz") -> Path:
        """The mask on the grid of ``ct``, with axes (column, row, slice) and an affine in RAS."""
        affine = np.diag([-0.75, -0.5, 2.5, 1.0])
        affine[:3, 3] = [10.0, 20.0, 0.0]
        path = self.folder / "masks" / name
        path.parent.mkdir(exist_ok=True)
        image = nibabel.Nifti1Image(np.ascontiguousarray(mask.transpose(2, 1, 0)), affine)  # type: ignore[no-untyped-call]
        nibabel.save(image, path)
        return path

    def read(self, dimensions: int = 3, **how: Any) -> Found:
        return read_dicom_folder(self.folder, "north", SECRET, dimensions, **how)


@pytest.fixture
def hospital(tmp_path: Path) -> Hospital:
    (tmp_path / "dicom").mkdir()
    return Hospital(tmp_path)


def plan(task: str, size: list[int]) -> Plan:
    return from_document(
        {
            "plan": {"name": "test", "task": task, "rounds": 1},
            "data": {"modality": "ct", "classes": ["a", "b"]},
            "preprocessing": {"size": size, "intensity": {"kind": "window", "low": -1024, "high": 1024}},
            "model": {"name": "unet"},
            "training": {"steps": 1, "patients_per_step": 1, "learning_rate": 0.1},
            "privacy": {"unit": "none"},
        }
    )


def prepared(files: list[CaseFiles], task: str, size: list[int]) -> list[Case | Quarantined]:
    return list(prepare_all(files, plan(task, size), task_for(plan(task, size))))


def the_code(found: Found) -> str:
    """The one reason why the one thing found cannot be used."""
    assert found[0] == []
    (one,) = found[1]
    return one.code


def test_a_series_is_one_case_in_3d_and_each_image_is_one_in_2d(hospital: Hospital) -> None:
    hospital.series("1.5", 3)
    hospital.series("1.4", 1, "P2")
    volumes, _ = hospital.read(3)
    slices, _ = hospital.read(2)
    assert [len(one.images) for one in volumes] == [1, 3]
    assert [len(one.images) for one in slices] == [1, 1, 1, 1]
    assert [one.case_id for one in volumes] == [SALT.case("1.4"), SALT.case("1.5")]
    assert len({one.patient for one in slices}) == 2


def test_names_extensions_and_subfolders_of_files_change_nothing(hospital: Hospital) -> None:
    series = hospital.series("1.5", 3)
    before = [(one.case_id, one.patient) for one in hospital.read(2)[0]]
    for number, path in enumerate(series):
        new = hospital.folder / "dicom" / f"deep/{number}/IMG.{number}.txt"
        new.parent.mkdir(parents=True)
        path.rename(new)
    assert [(one.case_id, one.patient) for one in hospital.read(2)[0]] == before


def test_labels_subgroups_and_masks_are_joined_by_series(hospital: Hospital) -> None:
    hospital.series("1.5", 2, "P1")
    hospital.series("1.6", 2, "P2")
    hospital.label(
        {"series_uid": "1.6", "patient_id": "P2", "label": "b", "sex": "F", "age": "63", "mask": "masks/2.nii.gz"}
    )
    first, second = hospital.read()[0]
    assert (first.label, first.mask) == (None, None)
    assert first.subgroups == (("sex", "unknown"), ("age", "unknown"))
    assert (second.label, second.mask) == ("b", hospital.folder / "masks/2.nii.gz")
    assert second.subgroups == (("sex", "F"), ("age", "60-79"))
    assert (second.modality, second.patient) == ("ct", SALT.person("P2"))


def test_subgroup_columns_can_be_chosen(hospital: Hospital) -> None:
    hospital.series("1.5", 1)
    hospital.label({"series_uid": "1.5", "scanner": "GE"})
    (one,) = hospital.read(subgroup_columns=("scanner",))[0]
    assert one.subgroups == (("scanner", "GE"),)


def test_no_identifier_survives_in_names_or_in_what_is_printed(hospital: Hospital) -> None:
    hospital.series("1.2.840.99", 2, "MRN-4711")
    (hospital.folder / "dicom" / "MRN-4711.dcm").write_text("broken")
    cases, quarantined = hospital.read()
    assert (len(cases), len(quarantined)) == (1, 1)
    assert "4711" not in repr(cases) + repr(quarantined)
    assert "840.99" not in repr(cases) + repr(quarantined)


def test_the_patient_comes_from_the_table_where_the_header_has_none(hospital: Hospital) -> None:
    hospital.series("1.5", 2, "")
    hospital.label({"series_uid": "1.5", "patient_id": "P7"})
    (one,) = hospital.read()[0]
    assert one.patient == SALT.person("P7")


def test_an_image_of_an_unknown_patient_is_quarantined(hospital: Hospital) -> None:
    hospital.series("1.5", 2, "")
    assert the_code(hospital.read()) == "patient-unknown"


def test_a_table_that_gives_a_series_to_another_patient_is_not_believed(hospital: Hospital) -> None:
    hospital.series("1.5", 2, "P1")
    hospital.label({"series_uid": "1.5", "patient_id": "P2"})
    assert the_code(hospital.read()) == "patient-conflict"


def test_a_series_of_two_patients_is_quarantined(hospital: Hospital) -> None:
    hospital.add("a", ct("1.5", 0, "P1"))
    hospital.add("b", ct("1.5", 1, "P2"))
    assert the_code(hospital.read()) == "patient-conflict"


def test_two_rows_that_disagree_about_a_series_quarantine_it_and_two_that_agree_do_not(hospital: Hospital) -> None:
    hospital.series("1.5", 2)
    hospital.label({"series_uid": "1.5", "label": "a"}, {"series_uid": "1.5", "label": "b"})
    assert the_code(hospital.read()) == "labels-conflict"
    hospital.label({"series_uid": "1.5", "label": "a"}, {"series_uid": "1.5", "label": "a"})
    assert hospital.read()[0][0].label == "a"


@pytest.mark.parametrize("content", [b"", b"\0" * 4096, b"text, not an image", b"\0" * 128 + b"DICM"])
def test_a_file_that_is_not_dicom_is_quarantined_and_stops_no_other(hospital: Hospital, content: bytes) -> None:
    hospital.series("1.5", 2)
    (hospital.folder / "dicom" / "0000.dcm").write_bytes(content)
    cases, (bad,) = hospital.read()
    assert len(cases) == 1
    assert (bad.case_id, bad.code) == (SALT.case("file", "0000.dcm"), "unreadable-dicom")


def test_an_image_that_was_cut_off_in_its_header_is_quarantined(hospital: Hospital) -> None:
    path = hospital.add("a", ct("1.5", 0))
    content = path.read_bytes()
    path.write_bytes(content[: content.index(b"Doe^Jane")])
    assert the_code(hospital.read()) == "unreadable-dicom"


def test_an_image_that_was_cut_off_in_its_pixels_is_found_when_it_is_prepared(hospital: Hospital) -> None:
    hospital.label({"series_uid": "1.5", "label": "a"}, {"series_uid": "1.6", "label": "b"})
    hospital.add("b", ct("1.6", 0))
    path = hospital.add("a", ct("1.5", 0))
    path.write_bytes(path.read_bytes()[:-20])
    bad, good = prepared(hospital.read(2)[0], "classification", [ROWS, COLUMNS])
    assert isinstance(bad, Quarantined)
    assert bad.code == "undecodable-pixels"
    assert isinstance(good, Case)


def test_an_image_without_unique_identifiers_is_quarantined(hospital: Hospital) -> None:
    hospital.add("a", ct("1.5", 0, SeriesInstanceUID=""))
    assert the_code(hospital.read()) == "dicom-no-uid"


def test_reports_hidden_files_and_folders_are_passed_over(hospital: Hospital) -> None:
    report = ct("1.5", 0, SOPClassUID=EnhancedSRStorage, Modality="SR")
    report.file_meta.MediaStorageSOPClassUID = EnhancedSRStorage
    for name in ("Rows", "Columns", "PixelData"):
        delattr(report, name)
    hospital.add("report", report)
    hospital.add(".hidden/1", ct("1.6", 0))
    (hospital.folder / "dicom" / ".DS_Store").write_text("x")
    assert hospital.read() == ([], [])


def test_the_directory_file_of_a_disc_is_passed_over(hospital: Hospital) -> None:
    directory = Dataset()
    directory.FileSetID, directory.DirectoryRecordSequence = "DISC", []
    directory.file_meta = FileMetaDataset()
    directory.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    directory.file_meta.MediaStorageSOPClassUID = MediaStorageDirectoryStorage
    directory.file_meta.MediaStorageSOPInstanceUID = UID("1.2.3")
    hospital.add("DICOMDIR", directory)
    assert hospital.read() == ([], [])


def test_a_hospital_may_have_several_series_of_a_patient_and_keep_them_together(hospital: Hospital) -> None:
    for uid in ("1.5", "1.6", "1.7"):
        hospital.series(uid, 2, "P1")
    files, _ = hospital.read(2)
    assert (len(files), len({one.case_id for one in files}), len({one.patient for one in files})) == (6, 6, 1)


def test_links_are_followed_within_the_folder_and_refused_beyond_it(hospital: Hospital, tmp_path: Path) -> None:
    inner = hospital.add("a", ct("1.5", 0))
    outer = shutil.copy(inner, tmp_path / "outside")
    (hospital.folder / "dicom" / "link-in").symlink_to(inner)
    (hospital.folder / "dicom" / "link-out").symlink_to(outer)
    (hospital.folder / "dicom" / "nowhere").symlink_to(tmp_path / "gone")
    cases, bad = hospital.read()
    assert len(cases) == 1
    assert sorted(one.code for one in bad) == ["path-outside", "unreadable-dicom"]


def test_a_second_copy_of_a_file_is_ignored(hospital: Hospital) -> None:
    first = hospital.series("1.5", 3)
    shutil.copytree(first[0].parent, hospital.folder / "dicom" / "again")
    (volume,), bad = hospital.read(3)
    assert (len(volume.images), bad) == (3, [])
    assert len(hospital.read(2)[0]) == 3


def test_two_different_files_under_one_uid_quarantine_their_case_alone(hospital: Hospital) -> None:
    hospital.series("1.5", 2)
    hospital.series("1.6", 2)
    hospital.add("other", ct("1.5", 0, PixelData=bytes(2 * ROWS * COLUMNS)))
    cases, (bad,) = hospital.read(3)
    assert len(cases) == 1
    assert bad.code == "duplicate-instance"
    assert len(hospital.read(2)[0]) == 3


@pytest.mark.parametrize("mask", ["../m.dcm", "/m.dcm"])
def test_a_mask_outside_the_folder_refuses_the_table(hospital: Hospital, mask: str) -> None:
    hospital.series("1.5", 1)
    hospital.label({"series_uid": "1.5", "mask": mask})
    with pytest.raises(SiteDataError) as caught:
        hospital.read()
    assert caught.value.code == "path-outside"


def test_a_table_without_series_uid_is_refused(hospital: Hospital) -> None:
    hospital.label({"series": "1.5"})
    with pytest.raises(SiteDataError) as caught:
        hospital.read()
    assert caught.value.code == "table-column"


def test_a_folder_without_images_subfolder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SiteDataError) as caught:
        Hospital(tmp_path).read()
    assert caught.value.code == "no-dicom"


def test_a_segmentation_that_refers_to_a_series_is_its_mask_without_any_table(hospital: Hospital) -> None:
    mask = outline(3)
    path = hospital.segment(hospital.series("1.5", 3), mask)
    hospital.series("1.6", 3)
    with_mask, without = hospital.read()[0]
    assert (with_mask.mask, without.mask) == (path, None)
    good, bad = prepared([with_mask, without], "segmentation", [3, ROWS, COLUMNS])
    assert isinstance(good, Case)
    np.testing.assert_array_equal(good.mask, mask)
    assert isinstance(bad, Quarantined)
    assert bad.code == "mask-missing"


def test_a_segmentation_among_the_images_is_a_mask_and_no_case(hospital: Hospital) -> None:
    path = hospital.segment(hospital.series("1.5", 3), outline(3))
    path.rename(hospital.folder / "dicom" / "seg")
    (one,), bad = hospital.read()
    assert (one.mask, bad) == (hospital.folder / "dicom" / "seg", [])


def test_two_segmentations_of_a_series_need_a_table_to_choose(hospital: Hospital) -> None:
    series = hospital.series("1.5", 3)
    first = hospital.segment(series, outline(3), "a.dcm")
    hospital.segment(series, outline(3)[::-1], "second.dcm")
    assert the_code(hospital.read()) == "mask-ambiguous"
    hospital.label({"series_uid": "1.5", "mask": "masks/a.dcm"})
    assert hospital.read()[0][0].mask == first


@pytest.mark.parametrize("kind", ["segmentation", "nifti"])
def test_each_slice_of_a_series_gets_its_own_slice_of_the_mask(hospital: Hospital, kind: str) -> None:
    mask, sources = outline(3), hospital.series("1.5", 3)
    path = hospital.segment(sources, mask) if kind == "segmentation" else hospital.nifti(mask)
    hospital.label({"series_uid": "1.5", "mask": f"masks/{path.name}"})
    cases = prepared(hospital.read(2)[0], "segmentation", [ROWS, COLUMNS])
    for number, case in enumerate(cases):
        assert isinstance(case, Case)
        np.testing.assert_array_equal(case.mask, mask[number])
        np.testing.assert_allclose(case.voxels[0], (pixels(number) - 1024.0) / 1024, atol=1e-6)


@pytest.mark.parametrize("kind", ["segmentation", "nifti"])
def test_a_series_of_one_image_gets_its_mask_in_2d(hospital: Hospital, kind: str) -> None:
    mask, sources = outline(1), hospital.series("1.5", 1)
    path = hospital.segment(sources, mask) if kind == "segmentation" else hospital.nifti(mask)
    hospital.label({"series_uid": "1.5", "mask": f"masks/{path.name}"})
    (case,) = prepared(hospital.read(2)[0], "segmentation", [ROWS, COLUMNS])
    assert isinstance(case, Case)
    np.testing.assert_array_equal(case.mask, mask[0])


def test_the_mask_of_a_series_is_read_once_for_all_its_slices(
    hospital: Hospital, monkeypatch: pytest.MonkeyPatch
) -> None:
    hospital.segment(hospital.series("1.5", 5), outline(5))
    calls = []

    def counted(*arguments: Any) -> Any:
        calls.append(arguments)
        return read_series_mask(*arguments)

    monkeypatch.setattr(prepare, "read_series_mask", counted)
    assert all(isinstance(case, Case) for case in prepared(hospital.read(2)[0], "segmentation", [ROWS, COLUMNS]))
    assert len(calls) == 1


def test_slices_of_a_series_with_a_gap_cannot_share_its_mask(hospital: Hospital) -> None:
    series = hospital.series("1.5", 5)
    hospital.segment(series, outline(5))
    series[1].unlink()
    found = prepared(hospital.read(2)[0], "segmentation", [ROWS, COLUMNS])
    assert {one.code for one in found if isinstance(one, Quarantined)} == {"slice-gap"}
    assert len(found) == 4


def test_the_oblique_slices_of_a_series_get_their_own_slices_too(hospital: Hospital) -> None:
    """Rows run towards the head here: a canonical volume turns them, the slice as displayed does not."""
    mask = outline(3)
    sources = [
        hospital.add(
            str(number),
            ct("1.5", number, ImageOrientationPatient=[0, 1, 0, 0, 0, -1], ImagePositionPatient=[3.0 * number, 5, 7]),
        )
        for number in range(3)
    ]
    hospital.segment(sources, mask)
    for number, case in enumerate(prepared(hospital.read(2)[0], "segmentation", [ROWS, COLUMNS])):
        assert isinstance(case, Case)
        np.testing.assert_array_equal(case.mask, mask[number])
