"""DICOM files of one hospital, sorted into cases with their masks, labels and patients."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from made_hospital import (
    COLUMNS,
    ROWS,
    SALT,
    MadeHospital,
    cine,
    ct,
    enhanced,
    outline,
    pixels,
    structures,
    the_code,
    verdict_of,
    verdicts,
)
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import UID, EnhancedSRStorage, ExplicitVRLittleEndian, MediaStorageDirectoryStorage

from client.data.ingest.read_case import read_case
from client.data.ingest.reading import Reading, Rules
from client.data.source.discover import discover
from client.data.source.files import SourceFile
from client.data.source.found import Found, Table, Wanted
from shared.errors import CaseError, SiteDataError
from shared.preprocessing.readable import Readable


@pytest.fixture
def hospital(tmp_path: Path) -> MadeHospital:
    (tmp_path / "dicom").mkdir()
    return MadeHospital(tmp_path)


def path_of(file: Readable | None) -> Path:
    assert isinstance(file, SourceFile)
    return Path(file.path)


def read(found: Found) -> dict[str, Reading | str]:
    """Each case as it was read, or the reason why not, by name."""
    read: dict[str, Reading | str] = {}
    for files in found.cases:
        try:
            read[files.case_id] = read_case(files, Rules(refuse=frozenset()), SALT)
        except CaseError as error:
            read[files.case_id] = error.code
    return read


def reading(found: Found, *identifiers: str) -> Reading:
    one = read(found)[SALT.case(*identifiers)]
    assert isinstance(one, Reading), one
    return one


def test_a_series_is_one_case_in_3d_and_each_image_is_one_in_2d(hospital: MadeHospital) -> None:
    hospital.series("1.5", 3)
    hospital.series("1.4", 1, "P2")
    volumes, slices = hospital.found(3).cases, hospital.found(2).cases
    assert {one.case_id: len(one.images) for one in volumes} == {SALT.case("1.4"): 1, SALT.case("1.5"): 3}
    assert {one.case_id for one in slices} == {
        SALT.case("1.4", "1.4.1"), *(SALT.case("1.5", f"1.5.{number}") for number in (1, 2, 3)),
    }  # fmt: skip
    assert [len(one.images) for one in slices] == [1, 1, 1, 1]
    assert {one.patient for one in slices} == {SALT.person("P1"), SALT.person("P2")}


def test_study_and_series_leave_under_uids_that_stand_for_them(hospital: MadeHospital) -> None:
    hospital.series("1.5", 2)
    (one,) = hospital.found().cases
    assert (one.study, one.series) == (SALT.uid("1.2.3"), SALT.uid("1.5"))


def test_auto_makes_volumes_of_frames_with_places_and_images_of_all_others(hospital: MadeHospital) -> None:
    hospital.series("1.5", 3)
    hospital.series("1.4", 1)
    hospital.add("cine", cine("1.6", 2))
    hospital.add("enhanced", enhanced("1.7", 4))
    hospital.add("radiograph", ct("1.3", 0, ImagePositionPatient=None))
    found = {one.case_id: (len(one.images), one.frame) for one in hospital.found("auto").cases}
    assert found == {
        SALT.case("1.5"): (3, None),
        SALT.case("1.4", "1.4.1"): (1, None),
        SALT.case("1.6", "1.6.1", "1"): (1, 0),
        SALT.case("1.6", "1.6.1", "2"): (1, 1),
        SALT.case("1.7"): (1, None),
        SALT.case("1.3", "1.3.1"): (1, None),
    }


def test_auto_makes_no_volume_of_a_loop_at_one_place(hospital: MadeHospital) -> None:
    for number in range(3):
        hospital.add(str(number), ct("1.5", number, ImagePositionPatient=[0, 0, 0]))
    assert [len(one.images) for one in hospital.found("auto").cases] == [1, 1, 1]
    assert [len(one.images) for one in hospital.found(3).cases] == [3]


def test_auto_keeps_a_captured_screen_out_of_the_volume_of_its_series(hospital: MadeHospital) -> None:
    hospital.series("1.5", 3)
    hospital.add("screen", ct("1.5", 7, ImagePositionPatient=None))
    found = {one.case_id: len(one.images) for one in hospital.found("auto").cases}
    assert found == {SALT.case("1.5"): 3, SALT.case("1.5", "1.5.8"): 1}


def test_each_frame_of_a_file_is_an_image_in_2d_and_shows_what_that_frame_shows(hospital: MadeHospital) -> None:
    hospital.add("cine", cine("1.6", 3))
    found = hospital.found(2)
    for number in range(3):
        image = reading(found, "1.6", "1.6.1", str(number + 1)).image
        np.testing.assert_array_equal(image.voxels[0], pixels(number) - 1024.0)


def test_names_extensions_and_subfolders_of_files_change_nothing(hospital: MadeHospital) -> None:
    series = hospital.series("1.5", 3)
    before = [(one.case_id, one.patient) for one in hospital.found(2).cases]
    for number, path in enumerate(series):
        new = hospital.folder / "dicom" / f"deep/{number}/IMG.{number}.txt"
        new.parent.mkdir(parents=True)
        path.rename(new)
    assert [(one.case_id, one.patient) for one in hospital.found(2).cases] == before


def test_labels_subgroups_and_masks_are_joined_by_series(hospital: MadeHospital) -> None:
    hospital.series("1.5", 2, "P1")
    hospital.series("1.6", 2, "P2")
    hospital.label(
        {"series_uid": "1.6", "patient_id": "P2", "label": "b", "sex": "F", "age": "63", "mask": "masks/2.nii.gz"}
    )
    found = {one.series: one for one in hospital.found(subgroup_columns=("sex", "age")).cases}
    first, second = found[SALT.uid("1.5")], found[SALT.uid("1.6")]
    assert (first.label, first.mask) == (None, None)
    assert first.subgroups == (("sex", "unknown"), ("age", "unknown"))
    assert (second.label, path_of(second.mask)) == ("b", hospital.folder / "masks/2.nii.gz")
    assert second.subgroups == (("sex", "F"), ("age", "60-79"))
    assert (second.modality, second.patient) == ("ct", SALT.person("P2"))


def test_no_identifier_survives_in_names_or_in_what_is_printed(hospital: MadeHospital) -> None:
    hospital.series("1.2.840.99", 2, "MRN-4711")
    (hospital.folder / "dicom" / "MRN-4711.dcm").write_text("broken")
    found = hospital.found()
    assert (len(found.cases), len(found.unusable)) == (1, 1)
    assert "4711" not in repr(found)
    assert "840.99" not in repr(found)


def test_the_patient_comes_from_the_table_where_the_header_has_none(hospital: MadeHospital) -> None:
    hospital.series("1.5", 2, "")
    hospital.label({"series_uid": "1.5", "patient_id": "P7"})
    (one,) = hospital.found().cases
    assert one.patient == SALT.person("P7")


def test_an_image_of_an_unknown_patient_is_quarantined_with_all_its_files(hospital: MadeHospital) -> None:
    hospital.series("1.5", 2, "")
    assert the_code(hospital.found()) == "patient-unknown"
    assert verdicts(hospital.found()) == [("quarantined", "patient-unknown")] * 2


def test_a_table_that_gives_a_series_to_another_patient_is_not_believed(hospital: MadeHospital) -> None:
    hospital.series("1.5", 2, "P1")
    hospital.label({"series_uid": "1.5", "patient_id": "P2"})
    assert the_code(hospital.found()) == "patient-conflict"


def test_a_series_of_two_patients_is_quarantined(hospital: MadeHospital) -> None:
    hospital.add("a", ct("1.5", 0, "P1"))
    hospital.add("b", ct("1.5", 1, "P2"))
    assert the_code(hospital.found()) == "patient-conflict"


def test_one_number_under_two_issuers_stays_one_patient(hospital: MadeHospital) -> None:
    """Taking two people for one costs accuracy; taking one for two would put them into two splits."""
    hospital.add("a", ct("1.5", 0, "7", IssuerOfPatientID="A"))
    hospital.add("b", ct("1.6", 0, "7", IssuerOfPatientID="B"))
    assert {one.patient for one in hospital.found().cases} == {SALT.person("7")}


def test_two_rows_that_disagree_about_a_series_quarantine_it_and_two_that_agree_do_not(hospital: MadeHospital) -> None:
    hospital.series("1.5", 2)
    hospital.label({"series_uid": "1.5", "label": "a"}, {"series_uid": "1.5", "label": "b"})
    assert the_code(hospital.found()) == "labels-conflict"
    hospital.label({"series_uid": "1.5", "label": "a"}, {"series_uid": "1.5", "label": "a"})
    assert hospital.found().cases[0].label == "a"


@pytest.mark.parametrize("content", [b"", b"\0" * 4096, b"text, not an image", b"\0" * 128 + b"DICM"])
def test_a_file_that_is_not_the_dicom_it_is_called_is_quarantined_and_stops_no_other(
    hospital: MadeHospital, content: bytes
) -> None:
    hospital.series("1.5", 2)
    (hospital.folder / "dicom" / "0000.dcm").write_bytes(content)
    found = hospital.found()
    assert len(found.cases) == 1
    (bad,) = found.unusable
    assert (bad.case_id, bad.code) == (SALT.case("file", "dicom/0000.dcm"), "unreadable-dicom")
    assert verdict_of(found, "dicom/0000.dcm") == ("quarantined", "unreadable-dicom")


def test_an_image_that_was_cut_off_in_its_header_is_quarantined(hospital: MadeHospital) -> None:
    path = hospital.add("a", ct("1.5", 0))
    content = path.read_bytes()
    path.write_bytes(content[: content.index(b"Doe^Jane")])
    assert the_code(hospital.found()) == "unreadable-dicom"


def test_an_image_that_was_cut_off_in_its_pixels_is_found_when_it_is_read(hospital: MadeHospital) -> None:
    hospital.add("b", ct("1.6", 0))
    path = hospital.add("a", ct("1.5", 0))
    path.write_bytes(path.read_bytes()[:-20])
    found = read(hospital.found(2))
    assert found[SALT.case("1.5", "1.5.1")] == "undecodable-pixels"
    assert isinstance(found[SALT.case("1.6", "1.6.1")], Reading)


def test_an_image_without_unique_identifiers_is_quarantined(hospital: MadeHospital) -> None:
    hospital.add("a", ct("1.5", 0, SeriesInstanceUID=""))
    assert the_code(hospital.found()) == "dicom-no-uid"


def test_reports_are_no_images_and_hidden_files_and_folders_are_passed_over(hospital: MadeHospital) -> None:
    report = ct("1.5", 0, SOPClassUID=EnhancedSRStorage, Modality="SR", Rows=None, Columns=None, PixelData=None)
    report.file_meta.MediaStorageSOPClassUID = EnhancedSRStorage
    hospital.add("report", report)
    hospital.add(".hidden/1", ct("1.6", 0))
    (hospital.folder / "dicom" / ".DS_Store").write_text("x")
    found = hospital.found()
    assert (found.cases, found.unusable, verdicts(found)) == ((), (), [("not-an-image", "")])


def test_the_directory_file_of_a_disc_is_no_image(hospital: MadeHospital) -> None:
    directory = Dataset()
    directory.FileSetID, directory.DirectoryRecordSequence = "DISC", []
    directory.file_meta = FileMetaDataset()
    directory.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    directory.file_meta.MediaStorageSOPClassUID = MediaStorageDirectoryStorage
    directory.file_meta.MediaStorageSOPInstanceUID = UID("1.2.3")
    hospital.add("DICOMDIR", directory)
    assert verdicts(hospital.found()) == [("not-an-image", "")]


def test_several_series_of_a_patient_stay_together(hospital: MadeHospital) -> None:
    for uid in ("1.5", "1.6", "1.7"):
        hospital.series(uid, 2, "P1")
    cases = hospital.found(2).cases
    assert (len(cases), len({one.case_id for one in cases}), len({one.patient for one in cases})) == (6, 6, 1)


def test_links_are_followed_within_the_folder_and_refused_beyond_it(
    hospital: MadeHospital, tmp_path_factory: pytest.TempPathFactory
) -> None:
    inner = hospital.add("a", ct("1.5", 0))
    beyond = tmp_path_factory.mktemp("beyond")
    (hospital.folder / "dicom" / "link-in").symlink_to(inner)
    (hospital.folder / "dicom" / "link-out").symlink_to(shutil.copy(inner, beyond / "outside"))
    (hospital.folder / "dicom" / "nowhere").symlink_to(beyond / "gone")
    found = hospital.found()
    assert len(found.cases) == 1
    assert verdicts(found) == [
        ("copy", ""), ("image", ""), ("quarantined", "file-unreadable"), ("quarantined", "path-outside"),
    ]  # fmt: skip


def test_a_second_copy_of_a_file_is_set_aside_as_a_copy(hospital: MadeHospital) -> None:
    first = hospital.series("1.5", 3)
    shutil.copytree(first[0].parent, hospital.folder / "dicom" / "again")
    found = hospital.found(3)
    (volume,) = found.cases
    assert (len(volume.images), found.unusable) == (3, ())
    assert verdicts(found) == [("copy", "")] * 3 + [("image", "")] * 3
    assert len(hospital.found(2).cases) == 3


def test_two_different_files_under_one_uid_quarantine_their_case_alone(hospital: MadeHospital) -> None:
    hospital.series("1.5", 2)
    hospital.series("1.6", 2)
    hospital.add("other", ct("1.5", 0, PixelData=bytes(2 * ROWS * COLUMNS)))
    found = hospital.found(3)
    assert len(found.cases) == 1
    (bad,) = found.unusable
    assert bad.code == "duplicate-instance"
    assert verdicts(found) == [("image", "")] * 2 + [("quarantined", "duplicate-instance")] * 3
    assert len(hospital.found(2).cases) == 3


@pytest.mark.parametrize("mask", ["../m.dcm", "/m.dcm"])
def test_a_mask_outside_the_folder_refuses_the_table(hospital: MadeHospital, mask: str) -> None:
    hospital.series("1.5", 1)
    hospital.label({"series_uid": "1.5", "mask": mask})
    with pytest.raises(SiteDataError) as caught:
        hospital.found()
    assert caught.value.code == "path-outside"


def test_a_segmentation_that_refers_to_a_series_is_its_mask_without_any_table(hospital: MadeHospital) -> None:
    mask = outline(3)
    hospital.segment(hospital.series("1.5", 3), mask)
    hospital.series("1.6", 3)
    found = hospital.found(3)
    np.testing.assert_array_equal(reading(found, "1.5").mask, mask)
    assert reading(found, "1.6").mask is None
    assert verdict_of(found, "masks/m.dcm") == ("mask", "")


def test_a_segmentation_among_the_images_is_a_mask_and_no_case(hospital: MadeHospital) -> None:
    path = hospital.segment(hospital.series("1.5", 3), outline(3))
    path.rename(hospital.folder / "dicom" / "seg")
    found = hospital.found()
    (one,) = found.cases
    assert (path_of(one.mask), found.unusable) == (hospital.folder / "dicom" / "seg", ())


def test_a_mask_without_its_image_is_no_image_and_no_trouble(hospital: MadeHospital) -> None:
    path = hospital.segment(hospital.series("1.5", 2), outline(2))
    shutil.rmtree(hospital.folder / "dicom")
    found = hospital.found()
    assert (found.cases, found.unusable) == ((), ())
    assert verdict_of(found, f"masks/{path.name}") == ("not-an-image", "mask-without-image")


def test_a_structure_set_is_the_mask_of_the_series_that_it_refers_to(hospital: MadeHospital) -> None:
    hospital.series("1.5", 3)
    hospital.series("1.6", 3)
    path = hospital.add("rs", structures("1.6"))
    found = {one.case_id: one.mask for one in hospital.found().cases}
    assert found[SALT.case("1.5")] is None
    assert path_of(found[SALT.case("1.6")]) == path


def test_two_masks_of_a_series_need_a_table_to_choose(hospital: MadeHospital) -> None:
    series = hospital.series("1.5", 3)
    first = hospital.segment(series, outline(3), "a.dcm")
    hospital.add("rs", structures("1.5"))
    assert the_code(hospital.found()) == "mask-ambiguous"
    assert verdicts(hospital.found()) == [("quarantined", "mask-ambiguous")] * 5
    hospital.label({"series_uid": "1.5", "mask": "masks/a.dcm"})
    found = hospital.found()
    assert path_of(found.cases[0].mask) == first
    assert verdict_of(found, "dicom/rs") == ("not-listed", "")


def test_images_that_lie_nowhere_get_the_mask_that_names_them(hospital: MadeHospital) -> None:
    for number in range(3):
        hospital.add(str(number), ct("1.5", number, ImagePositionPatient=None))
    one, two = (
        hospital.add("rs1", structures("1.5", ["1.5.1"], 1)),
        hospital.add("rs2", structures("1.5", ["1.5.2"], 2)),
    )
    masks = {case.case_id: case.mask for case in hospital.found(2).cases}
    assert path_of(masks[SALT.case("1.5", "1.5.1")]) == one
    assert path_of(masks[SALT.case("1.5", "1.5.2")]) == two
    assert masks[SALT.case("1.5", "1.5.3")] is None


def test_a_mask_named_for_one_instance_is_of_that_image_alone(hospital: MadeHospital) -> None:
    hospital.series("1.5", 3)
    hospital.label({"instance_uid": "1.5.2", "mask": "masks/2.png"})
    cases = {one.case_id: one for one in hospital.found(2).cases}
    assert cases[SALT.case("1.5", "1.5.2")].slice_of == ()
    assert path_of(cases[SALT.case("1.5", "1.5.2")].mask).name == "2.png"
    assert cases[SALT.case("1.5", "1.5.1")].mask is None


@pytest.mark.parametrize("kind", ["segmentation", "nifti"])
def test_each_slice_of_a_series_gets_its_own_slice_of_the_mask(hospital: MadeHospital, kind: str) -> None:
    mask, sources = outline(3), hospital.series("1.5", 3)
    path = hospital.segment(sources, mask) if kind == "segmentation" else hospital.nifti(mask)
    hospital.label({"series_uid": "1.5", "mask": f"masks/{path.name}"})
    found = hospital.found(2)
    for number in range(3):
        one = reading(found, "1.5", f"1.5.{number + 1}")
        np.testing.assert_array_equal(one.mask, mask[number])
        np.testing.assert_array_equal(one.image.voxels[0], pixels(number) - 1024.0)


def test_all_slices_of_a_series_share_one_list_of_its_files(hospital: MadeHospital) -> None:
    """A thousand lists of a thousand files would be what memory holds."""
    hospital.segment(hospital.series("1.5", 5), outline(5))
    lists = [one.slice_of for one in hospital.found(2).cases]
    assert [len(one) for one in lists] == [5] * 5
    assert len({id(one) for one in lists}) == 1


@pytest.mark.parametrize("kind", ["segmentation", "nifti"])
def test_a_series_of_one_image_gets_its_mask_in_2d(hospital: MadeHospital, kind: str) -> None:
    mask, sources = outline(1), hospital.series("1.5", 1)
    path = hospital.segment(sources, mask) if kind == "segmentation" else hospital.nifti(mask)
    hospital.label({"series_uid": "1.5", "mask": f"masks/{path.name}"})
    np.testing.assert_array_equal(reading(hospital.found(2), "1.5", "1.5.1").mask, mask[0])


def test_slices_of_a_series_with_a_gap_cannot_share_its_mask(hospital: MadeHospital) -> None:
    series = hospital.series("1.5", 5)
    hospital.segment(series, outline(5))
    series[1].unlink()
    assert list(read(hospital.found(2)).values()) == ["slice-gap"] * 4


def test_the_oblique_slices_of_a_series_get_their_own_slices_too(hospital: MadeHospital) -> None:
    """Rows run towards the head here: a canonical volume turns them, the slice as displayed does not."""
    mask = outline(3)
    turned: dict[str, Any] = {"ImageOrientationPatient": [0, 1, 0, 0, 0, -1]}
    sources = [
        hospital.add(str(number), ct("1.5", number, ImagePositionPatient=[3.0 * number, 5, 7], **turned))
        for number in range(3)
    ]
    hospital.segment(sources, mask)
    found = hospital.found(2)
    for number in range(3):
        np.testing.assert_array_equal(reading(found, "1.5", f"1.5.{number + 1}").mask, mask[number])


def test_a_series_under_a_dropped_label_is_not_part_of_the_study(hospital: MadeHospital) -> None:
    hospital.series("1.5", 2)
    hospital.series("1.6", 2)
    hospital.label({"series_uid": "1.5", "label": "normal"}, {"series_uid": "1.6", "label": "benign"})
    table = Table(hospital.folder / "labels.csv", drop_labels=("normal",))
    found = discover(Wanted((hospital.folder,), (table,), dimensions=3), SALT)
    assert [one.case_id for one in found.cases] == [SALT.case("1.6")]
    assert verdicts(found) == [("image", "")] * 2 + [("not-listed", "")] * 2 + [("table", "")]
