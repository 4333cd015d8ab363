"""Files of a synthetic hospital, read back with pydicom and compared with the truth."""

import io
import re
import uuid
from dataclasses import replace

import numpy as np
import pytest
from highdicom._standard_utils import get_iod_module_map, get_module_attribute_map
from pydicom import dcmread
from pydicom.config import RAISE
from pydicom.dataset import Dataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, JPEG2000Lossless, JPEGLSLossless, RLELossless
from pydicom.valuerep import validate_value

from simulations.phantoms.cohort import Member, Scan, members, scans
from simulations.phantoms.files import IMPLEMENTATION, Names, dicom_bytes, images, unique
from simulations.phantoms.hospitals import Hospital
from simulations.phantoms.scanner import Encoding, Photometric, Scanner, Syntax

SYNTAXES: dict[Syntax, str] = {
    "explicit-le": ExplicitVRLittleEndian,
    "rle": RLELossless,
    "jpeg-ls": JPEGLSLossless,
    "jpeg-2000": JPEG2000Lossless,
}
QUIET = Scanner(shape=(40, 56), spacing_mm=7.3, slices=5, slice_mm=12.5)
HOSPITAL = Hospital("small", "Testmed Works", patients=2, images=(2, 2), scanner=QUIET)
VOLUMES = replace(HOSPITAL, dimensions=3, images=(1, 1))


def first(hospital: Hospital, seed: int = 1) -> tuple[Member, Scan, Names]:
    member = next(members(hospital, seed))
    scan = next(scans(hospital, member, seed))
    return member, scan, Names(seed, hospital.name, member.place, scan.place)


def read_back(hospital: Hospital, seed: int = 1) -> tuple[list[Dataset], Scan]:
    member, scan, names = first(hospital, seed)
    written = [dicom_bytes(dataset) for dataset in images(hospital, member, scan, names)]
    return [dcmread(io.BytesIO(one)) for one in written], scan


def displayed(dataset: Dataset) -> np.ndarray:
    """Modality values after inverting what is meant to be inverted, as a viewer would show them."""
    stored = dataset.pixel_array.astype(np.float64)
    if dataset.PhotometricInterpretation == "MONOCHROME1":
        bits, signed = dataset.BitsStored, dataset.PixelRepresentation
        lowest = -(2 ** (bits - 1)) if signed else 0
        stored = 2 * lowest + 2**bits - 1 - stored
    return stored * float(dataset.RescaleSlope) + float(dataset.RescaleIntercept)


@pytest.mark.parametrize("syntax", SYNTAXES)
@pytest.mark.parametrize("numbers", [(12, False, 1.0), (16, True, 1.0), (16, False, 0.5), (13, True, 2.0)])
@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
def test_without_noise_files_hold_the_truth_within_half_a_step(
    syntax: Syntax, numbers: tuple[int, bool, float], photometric: Photometric
) -> None:
    encoding = Encoding(*numbers, photometric, syntax)
    (dataset,), scan = read_back(replace(HOSPITAL, encoding=encoding))
    assert dataset.file_meta.TransferSyntaxUID == SYNTAXES[syntax]
    assert np.abs(displayed(dataset) - scan.truth.hu[0]).max() <= encoding.slope / 2
    assert np.array_equal(dataset.pixel_array, scan.stored[0])


@pytest.mark.parametrize("syntax", SYNTAXES)
def test_compression_loses_nothing_of_noisy_pixels(syntax: Syntax) -> None:
    noisy = replace(HOSPITAL, scanner=replace(QUIET, noise_hu=40.0), encoding=Encoding(syntax=syntax))
    (dataset,), scan = read_back(noisy)
    assert np.array_equal(dataset.pixel_array, scan.stored[0])


def test_noise_is_what_was_declared_and_nothing_more() -> None:
    (dataset,), scan = read_back(replace(HOSPITAL, scanner=replace(QUIET, noise_hu=9.0)))
    residue = displayed(dataset) - scan.truth.hu[0]
    # Rounding adds a variance of 1/12; 2,240 pixels estimate a standard deviation within 5 %. Air is clipped at -1024.
    body = scan.truth.hu[0] > -900
    assert residue[body].std() == pytest.approx(np.sqrt(81 + 1 / 12), rel=0.1)


def test_monochrome1_is_white_where_numbers_are_low_and_does_not_claim_hounsfield_units() -> None:
    (bright,), scan = read_back(HOSPITAL)
    (inverted,), _ = read_back(replace(HOSPITAL, encoding=Encoding(photometric="MONOCHROME1")))
    assert np.array_equal(inverted.pixel_array, 4095 - bright.pixel_array)
    bone = np.unravel_index(scan.truth.hu[0].argmax(), (40, 56))
    assert inverted.pixel_array[bone] == inverted.pixel_array.min()
    assert (bright.RescaleType, inverted.RescaleType) == ("HU", "US")
    assert (bright.ImageType[0], inverted.ImageType[0]) == ("ORIGINAL", "DERIVED")


def on_screen(dataset: Dataset) -> np.ndarray:
    """Grey levels from 0 to 255 after rescale, linear window and inversion (PS3.3 C.11.2.1.2, C.7.6.3.1.2)."""
    values = dataset.pixel_array * float(dataset.RescaleSlope) + float(dataset.RescaleIntercept)
    centre, width = float(dataset.WindowCenter), float(dataset.WindowWidth)
    levels = np.clip(((values - (centre - 0.5)) / (width - 1) + 0.5) * 255, 0, 255)
    return 255 - levels if dataset.PhotometricInterpretation == "MONOCHROME1" else levels


@pytest.mark.parametrize(("bits", "slope"), [(12, 1.0), (16, 0.5)])
def test_both_interpretations_look_the_same_on_a_screen(bits: int, slope: float) -> None:
    """But for one Hounsfield unit: the standard's linear window is not symmetric about its centre."""
    (bright,), _ = read_back(replace(HOSPITAL, encoding=Encoding(bits, slope=slope)))
    (inverted,), _ = read_back(replace(HOSPITAL, encoding=Encoding(bits, slope=slope, photometric="MONOCHROME1")))
    assert np.abs(on_screen(inverted) - on_screen(bright)).max() <= 255 / 399 + 1e-6
    assert np.ptp(on_screen(bright)) == 255


def test_geometry_is_exact() -> None:
    datasets, scan = read_back(VOLUMES)
    points = scan.grid.points()
    assert len(datasets) == 5
    for place, dataset in enumerate(datasets):
        assert dataset.ImageOrientationPatient == [1, 0, 0, 0, 1, 0]
        assert dataset.PixelSpacing == [7.3, 7.3]
        assert float(dataset.SliceThickness) == 12.5
        assert (dataset.Rows, dataset.Columns) == (40, 56)
        first_voxel = [points.x[0, 0, 0], points.y[0, 0, 0], points.z[place, 0, 0]]
        assert [float(part) for part in dataset.ImagePositionPatient] == pytest.approx(first_voxel, abs=1e-6)
        assert dataset.InstanceNumber == place + 1


def test_a_lesions_centre_is_found_at_its_position_in_millimetres() -> None:
    hospital = replace(VOLUMES, scanner=Scanner(shape=(64, 64), spacing_mm=6.0, slices=24, slice_mm=5.0))
    member, scan, names = first(hospital)
    datasets = images(hospital, member, scan, names)
    lesion = member.person.lesions[0]
    nearest = min(datasets, key=lambda one: abs(float(one.ImagePositionPatient[2]) - lesion.centre_mm[2]))
    x, y, _ = (float(part) for part in nearest.ImagePositionPatient)
    column, row = round((lesion.centre_mm[0] - x) / 6), round((lesion.centre_mm[1] - y) / 6)
    assert scan.truth.mask[nearest.InstanceNumber - 1, row, column] == 2


def test_files_are_ct_images_of_one_series_study_and_frame() -> None:
    datasets, _ = read_back(VOLUMES)
    for attribute in ("StudyInstanceUID", "SeriesInstanceUID", "FrameOfReferenceUID", "PatientID", "AccessionNumber"):
        assert len({getattr(one, attribute) for one in datasets}) == 1
    assert len({one.SOPInstanceUID for one in datasets}) == 5
    assert {one.SOPClassUID for one in datasets} == {CTImageStorage}
    assert {one.Modality for one in datasets} == {"CT"}
    assert all(one.file_meta.MediaStorageSOPInstanceUID == one.SOPInstanceUID for one in datasets)


def test_images_of_a_person_share_the_study_and_nothing_else() -> None:
    member = next(members(HOSPITAL, 1))
    one, other = (
        images(HOSPITAL, member, scan, Names(1, "small", member.place, scan.place))[0]
        for scan in scans(HOSPITAL, member, 1)
    )
    assert one.StudyInstanceUID == other.StudyInstanceUID
    assert one.FrameOfReferenceUID == other.FrameOfReferenceUID
    assert one.SeriesInstanceUID != other.SeriesInstanceUID
    assert one.SOPInstanceUID != other.SOPInstanceUID
    assert one.SeriesNumber != other.SeriesNumber


def test_identifiers_are_uuids_under_their_root() -> None:
    """DICOM PS3.5 B.2: 2.25 and a UUID as one decimal number, without leading zeros, at most 64 characters."""
    for number in range(50):
        found = str(unique(number, "any", "purpose"))
        assert re.fullmatch(r"2\.25\.(0|[1-9]\d*)", found)
        assert len(found) <= 64
        assert uuid.UUID(int=int(found.removeprefix("2.25."))).version == 4


def test_identifiers_follow_from_seed_and_purpose() -> None:
    assert unique(1, "a", 2) == unique(1, "a", 2)
    assert len({unique(1, "a", 2), unique(2, "a", 2), unique(1, "a", 3), unique(1, "a2")}) == 4


def test_every_identifier_in_a_file_is_ours_or_the_standards() -> None:
    """A library's own root would say which version wrote the file, and change with it."""
    (dataset,), _ = read_back(replace(HOSPITAL, encoding=Encoding(syntax="rle")))
    found = [element.value for part in (dataset, dataset.file_meta) for element in part.iterall() if element.VR == "UI"]
    assert len(found) >= 7
    assert all(str(one).startswith(("2.25.", "1.2.840.10008.")) for one in found)
    assert dataset.file_meta.ImplementationClassUID == IMPLEMENTATION


def test_files_identify_their_invented_patient_as_real_ones_do() -> None:
    """What a de-identification has to find: standard attributes, free text and a private element."""
    (dataset,), _ = read_back(HOSPITAL)
    family, given = str(dataset.PatientName).split("^")
    assert dataset.PatientID
    assert dataset.PatientAddress
    assert re.fullmatch(r"\d{8}", dataset.PatientBirthDate)
    assert re.fullmatch(r"\d{3}Y", dataset.PatientAge)
    assert dataset.PatientSex in {"F", "M"}
    assert family in dataset.StudyDescription
    assert given in dataset.ImageComments
    private = [element for element in dataset if element.tag.is_private and not element.tag.is_private_creator]
    assert any(family in str(element.value) for element in private)
    assert dataset.ReferringPhysicianName
    assert dataset.InstitutionName


def test_the_age_in_the_file_is_that_on_the_day_of_the_study() -> None:
    (dataset,), _ = read_back(HOSPITAL)
    years = (int(dataset.StudyDate) - int(dataset.PatientBirthDate)) // 10_000
    assert int(dataset.PatientAge[:-1]) == years


def test_names_with_diacritics_survive() -> None:
    member, scan, names = first(HOSPITAL)
    foreign = replace(member, identity=replace(member.identity, family_name="Dvořák", given_name="Grünwald"))
    again = dcmread(io.BytesIO(dicom_bytes(images(HOSPITAL, foreign, scan, names)[0])))
    assert str(again.PatientName) == "Dvořák^Grünwald"


def test_the_vendor_is_in_the_header() -> None:
    (dataset,), _ = read_back(HOSPITAL)
    assert dataset.Manufacturer == "Testmed Works"


@pytest.mark.parametrize("syntax", SYNTAXES)
def test_the_same_scan_gives_the_same_bytes(syntax: Syntax) -> None:
    hospital = replace(HOSPITAL, encoding=Encoding(syntax=syntax))
    one, same = (dicom_bytes(images(hospital, *first(hospital))[0]) for _ in range(2))
    assert one == same


def test_files_do_not_share_state() -> None:
    """Slices are made from one set of shared attributes: changing one file must not change its neighbour."""
    datasets = images(VOLUMES, *first(VOLUMES))
    datasets[0].ImagePositionPatient = [0, 0, 0]
    datasets[0].InstanceNumber = 99
    assert datasets[1].InstanceNumber == 2
    assert datasets[1].ImagePositionPatient != [0, 0, 0]


def lacking(dataset: Dataset, iod: str) -> list[str]:
    """Attributes that the standard requires at the top level of every object of ``iod`` and that are not there.

    The tables are the standard's own (PS3.3 annex A and C), in the form that highdicom ships. Type 1 must have a value,
    type 2 may be empty; conditions are not evaluated.
    """
    required = [
        attribute
        for module in get_iod_module_map()[iod]
        if module["usage"] == "M"
        for attribute in get_module_attribute_map()[module["key"]]
        if attribute["type"] in {"1", "2"} and not attribute["path"]
    ]
    assert len(required) > 30
    return [
        one["keyword"]
        for one in required
        if one["keyword"] not in dataset or (one["type"] == "1" and dataset[one["keyword"]].is_empty)
    ]


@pytest.mark.parametrize("syntax", SYNTAXES)
def test_files_have_what_the_standard_requires_of_ct_images(syntax: Syntax) -> None:
    (dataset,), _ = read_back(replace(HOSPITAL, encoding=Encoding(syntax=syntax)))
    assert lacking(dataset, "ct-image") == []
    del dataset.KVP
    dataset.Modality = ""
    assert sorted(lacking(dataset, "ct-image")) == ["KVP", "Modality"]


@pytest.mark.parametrize("syntax", SYNTAXES)
def test_every_value_keeps_to_its_value_representation(syntax: Syntax) -> None:
    """Lengths and characters of PS3.5 6.2, by pydicom's own checks."""
    (dataset,), _ = read_back(replace(HOSPITAL, encoding=Encoding(syntax=syntax)))
    for element in dataset.iterall():
        if element.VR not in {"OW", "OB", "SQ"}:
            values = element.value if element.VM > 1 else [element.value]
            for value in values:
                validate_value(element.VR, str(value) if element.VR in {"DS", "IS", "UI", "PN"} else value, RAISE)
