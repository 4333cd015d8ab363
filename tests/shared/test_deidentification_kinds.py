"""Which kinds of identifying content a header holds."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydicom.datadict import DicomDictionary
from pydicom.dataelem import DataElement, RawDataElement
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from pydicom.tag import Tag

from shared.preprocessing.deidentification import DATES, KEPT, identifying_kinds
from shared.preprocessing.deidentification_kinds import kind_of

ONE_OF_EACH = {
    "PatientName": "patient-name",
    "OtherPatientNames": "patient-name",
    "PatientID": "patient-id",
    "IssuerOfPatientID": "patient-id",
    "ClinicalTrialSubjectID": "patient-id",
    "PatientBirthDate": "birth-date",
    "PatientAddress": "addresses",
    "PatientTelephoneNumbers": "addresses",
    "AccessionNumber": "accession",
    "StudyID": "accession",
    "InstitutionName": "institution",
    "InstitutionalDepartmentName": "institution",
    "ReferringPhysicianName": "other-person-names",
    "OperatorsName": "other-person-names",
    "PerformingPhysicianName": "other-person-names",
    "StudyDate": "dates",
    "AcquisitionDateTime": "dates",
    "SeriesTime": "dates",
    "PatientComments": "free-text",
    "StudyDescription": "free-text",
    "ProtocolName": "free-text",
    "ImageComments": "free-text",
    "StationName": "device",
    "DeviceSerialNumber": "device",
    "StationAETitle": "device",
    "StudyInstanceUID": "uids",
    "SOPInstanceUID": "uids",
    "PatientWeight": "patient-characteristics",
    "EthnicGroup": "patient-characteristics",
    "PatientSex": "patient-characteristics",
    "RecognizableVisualFeatures": "recognizable-features",
}
SAMPLES = {"PN": "Doe^Jane", "DA": "20200101", "DT": "20200101101010", "TM": "101010", "UI": "1.2.3", "DS": "60"}
SAMPLES |= {"CS": "YES", "AE": "SCANNER1"}


def holding(keyword: str, value: object = None) -> Dataset:
    dataset = Dataset()
    element = DataElement(Tag(keyword), DicomDictionary[Tag(keyword)][0], "")
    element.value = SAMPLES.get(element.VR, "text") if value is None else value
    dataset.add(element)
    return dataset


@pytest.mark.parametrize(("keyword", "kind"), ONE_OF_EACH.items())
def test_an_attribute_is_of_its_kind(keyword: str, kind: str) -> None:
    assert identifying_kinds(holding(keyword)) == (kind,)


@pytest.mark.parametrize("keyword", ["PatientName", "PatientID", "StudyDate", "PatientComments", "StudyInstanceUID"])
def test_what_is_present_but_empty_is_not_named(keyword: str) -> None:
    assert identifying_kinds(holding(keyword, "")) == ()


@pytest.mark.parametrize("value", [None, b"", b"  ", b"\0\0", b" \0 "])
def test_padding_in_a_file_is_nothing(value: bytes | None) -> None:
    dataset = Dataset()
    dataset._dict[Tag(0x00100010)] = RawDataElement(Tag(0x00100010), "PN", 0, value, 0, False, True)
    assert identifying_kinds(dataset) == ()
    dataset._dict[Tag(0x00100010)] = RawDataElement(Tag(0x00100010), "PN", 2, b" D", 0, False, True)
    assert identifying_kinds(dataset) == ("patient-name",)


def test_private_content_overlays_curves_and_sequences_are_named() -> None:
    dataset = Dataset()
    dataset.private_block(0x0029, "VENDOR", create=True).add_new(1, "LO", "text")
    dataset.add_new(0x60020022, "LO", "overlay")
    dataset.add_new(0x50003000, "OW", b"curve")
    dataset.add_new(0x00081140, "SQ", Sequence([Dataset()]))
    assert identifying_kinds(dataset) == ("nested", "overlay", "private")


def test_an_empty_sequence_is_nothing_and_a_sequence_with_a_name_of_its_own_is_of_that_kind() -> None:
    dataset = Dataset()
    dataset.add_new(0x00081140, "SQ", Sequence([]))
    assert identifying_kinds(dataset) == ()
    dataset.add_new(0x00101002, "SQ", Sequence([Dataset()]))
    assert identifying_kinds(dataset) == ("patient-id",)


def test_an_element_that_no_dictionary_knows_is_unknown() -> None:
    dataset = Dataset()
    dataset.add_new(0x0018FFF2, "LO", "text")
    assert identifying_kinds(dataset) == ("unknown",)


def test_technical_elements_are_of_no_kind() -> None:
    dataset = Dataset()
    dataset.Rows, dataset.Columns, dataset.KVP, dataset.Modality = 2, 2, "120", "CT"
    dataset.SOPClassUID, dataset.Manufacturer = "1.2.840.10008.5.1.4.1.1.2", "GE"
    dataset.add_new(0x7FE00010, "OW", b"\0" * 8)
    assert identifying_kinds(dataset) == ()


def test_every_attribute_that_holds_text_names_or_identifiers_is_of_some_kind() -> None:
    """The oracle is the dictionary: what can hold a person by its representation is technical only if it is listed."""
    free = {"PN", "LO", "SH", "ST", "LT", "UT", "UC", "UR", "AE", "DA", "DT", "TM", "UI", "SQ"}
    silent = {tag for tag, (representation, *_) in DicomDictionary.items() if representation in free} - {
        tag for tag in DicomDictionary if kind_of(Tag(tag))
    }
    assert silent <= {
        *(0x00080016, 0x00080070, 0x00020002, 0x00020010, 0x00180010, 0x00020012, 0x00020013, 0x00020016),
    }


def test_no_kept_attribute_but_those_of_the_patient_and_the_dates_is_of_a_kind() -> None:
    assert {row.keyword for row in (*KEPT, *DATES) if kind_of(Tag(row.tag))} == {
        *("PatientSex", "PatientAge", "AcquisitionDate", "StudyDate"),
    }


@given(st.dictionaries(st.integers(0x00080000, 0x7FDFFFFF), st.binary(max_size=20), max_size=20))
def test_kinds_are_sorted_unique_and_found_without_converting_a_value(found: dict[int, bytes]) -> None:
    dataset = Dataset()
    for tag, value in found.items():
        raw = RawDataElement(Tag(tag), "LO", len(value), value, 0, False, True)
        dataset._dict[Tag(tag)] = raw
    kinds = identifying_kinds(dataset)
    assert list(kinds) == sorted(set(kinds))
    assert all(isinstance(element, RawDataElement) for element in dataset.values())
