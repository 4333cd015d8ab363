"""The second look: identifying values are taken from a header, and found wherever they were planted."""

import string
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from pydicom.tag import Tag

from client.data.ingest.leaks import identifying_values, require_clean, scan
from shared.errors import CaseError
from shared.preprocessing.deidentification import acquisition


def patient() -> Dataset:
    dataset = Dataset()
    dataset.SpecificCharacterSet = "ISO_IR 192"
    dataset.PatientName = "Lestrade^Géraldine^^Dr."
    dataset.PatientID = "MRN-0048213"
    dataset.PatientBirthDate = "19610312"
    dataset.PatientAddress = "4 Baker Street"
    dataset.AccessionNumber = "A778812"
    dataset.ReferringPhysicianName = "Holmes^Mycroft"
    dataset.InstitutionName = "North General Hospital"
    dataset.StudyInstanceUID = "1.2.826.0.1.3680043.8.498.771"
    dataset.SOPClassUID = "1.2.840.10008.5.1.4.1.1.2"
    dataset.StudyDate = "20200229"
    dataset.AcquisitionDateTime = "20200229101500.000000"
    dataset.Manufacturer = "SIEMENS"
    dataset.StudyDescription = "Abdomen"
    inner = Dataset()
    inner.PatientName = "Moriarty^James"
    inner.ReferencedSOPInstanceUID = "2.25.99887766"
    dataset.RequestAttributesSequence = Sequence([inner])
    return dataset


VALUES = identifying_values(patient())


# --- taking them from a header ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "value",
    [
        *("Lestrade", "Géraldine", "MRN-0048213", "4 Baker Street", "A778812", "Holmes", "Mycroft"),
        *("North General Hospital", "1.2.826.0.1.3680043.8.498.771", "Moriarty", "James", "2.25.99887766"),
        *("19610312", "1961-03-12", "12.03.1961", "12/03/1961", "20200229", "2020-02-29"),
    ],
)
def test_a_value_that_identifies_is_taken(value: str) -> None:
    assert value in VALUES


@pytest.mark.parametrize("value", ["Dr", "SIEMENS", "Abdomen", "1.2.840.10008.5.1.4.1.1.2", "ISO_IR 192", ""])
def test_what_identifies_nobody_is_not_taken(value: str) -> None:
    assert value not in VALUES


@pytest.mark.parametrize("name", ["Anonymous", "UNKNOWN", "XXXXXX", "0000", "Li", "Patient^Test", ""])
def test_placeholders_and_the_shortest_are_not_taken(name: str) -> None:
    dataset = Dataset()
    dataset.PatientName, dataset.PatientID = name, name
    assert identifying_values(dataset) <= {"Patient^Test"}


def test_a_short_name_in_another_script_is_taken() -> None:
    dataset = Dataset()
    dataset.SpecificCharacterSet = "ISO_IR 192"
    dataset.PatientName = "山田^太郎"
    assert {"山田", "太郎"} <= identifying_values(dataset)


@given(st.lists(st.tuples(st.integers(0x00080000, 0x00409999), st.binary(max_size=24)), max_size=10))
def test_a_damaged_header_does_not_stop_the_look(found: list[tuple[int, bytes]]) -> None:
    dataset = patient()
    for tag, value in found:
        if tag not in dataset:
            # As ``dcmread`` leaves it: bytes that nobody has looked at.
            dataset._dict[Tag(tag)] = RawDataElement(Tag(tag), None, len(value), value, 0, True, True)
    assert "MRN-0048213" in identifying_values(dataset)


# --- before a record is kept -----------------------------------------------------------------------------------------


def test_what_the_allow_list_keeps_of_the_same_header_is_clean() -> None:
    for days in (None, 77):
        require_clean("malignant", [("sex", "F"), ("age", "40-59")], acquisition(patient(), days), VALUES)


@pytest.mark.parametrize(
    "text",
    [
        *("lestrade", "Dr LESTRADE", "of James", "x1961-03-12", "seen at north general hospital", "mrn-0048213/2"),
        *("12/03/1961", "géraldine"),
    ],
)
def test_a_label_or_a_subgroup_that_repeats_a_value_is_refused_by_field_and_not_by_value(text: str) -> None:
    with pytest.raises(CaseError, match="the label") as label:
        require_clean(text, [], [], VALUES)
    with pytest.raises(CaseError, match="subgroup 2 of 3") as column:
        require_clean("benign", [("sex", "F"), ("note", text), ("age", "0-17")], [], VALUES)
    for error in (label.value, column.value):
        assert error.code == "leak"
        said = f"{error.sentence} {error.hint}".casefold()
        assert [value for value in VALUES if value.casefold() in said] == []


def test_a_name_within_a_word_is_no_leak_and_one_beside_it_is() -> None:
    require_clean("malignant", [("site", "susanna ward")], [], {"Mali", "Anna", "Gnan"})
    with pytest.raises(CaseError, match="label"):
        require_clean("malignant (Mali)", [], [], {"Mali"})


@pytest.mark.parametrize(
    "pair", [("vendor", "Lestrade"), ("patient_name", "x"), ("age", "63"), ("slice_thickness_mm", "1e9"), ("sex", "")]
)
def test_an_attribute_that_no_rule_gives_is_refused_whatever_the_header_says(pair: tuple[str, str]) -> None:
    with pytest.raises(CaseError, match="allow-list") as error:
        require_clean(None, [], [("vendor", "ge"), pair], frozenset())
    assert error.value.code == "leak"


def test_a_patient_called_like_a_vendor_is_no_leak_of_the_acquisition() -> None:
    """Why admissibility and not occurrence: closed vocabularies coincide with names, numbers with identifiers."""
    require_clean("benign", [], [("vendor", "siemens"), ("repetition_time_ms", "2000")], {"Siemens", "2000"})


# --- in files that were written --------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", ["MRN-0048213", "Géraldine", "1961-03-12", "Холмс", "山田太郎", "Müller"])
@pytest.mark.parametrize(
    ("encoding", "kind"), [("utf-8", "utf-8"), ("latin-1", "latin-1"), ("utf-16-le", "utf-16"), ("utf-16", "utf-16")]
)
@pytest.mark.parametrize("case", [str, str.upper, str.lower])
def test_a_planted_value_is_found_in_any_encoding_and_case(
    tmp_path: Path, value: str, encoding: str, kind: str, case: Callable[[str], str]
) -> None:
    # What an encoding cannot write, nobody can leave behind in it: there the other encoding is planted.
    encoding, kind = (encoding, kind) if encoding != "latin-1" or max(value) < "\u0100" else ("utf-8", "utf-8")
    planted = case(value).encode(encoding)
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "segment").write_bytes(bytes(range(256)) * 40 + planted + b"\0" * 4000)
    (tmp_path / "clean").write_bytes(bytes(range(256)) * 40)
    kinds = {kind, "utf-8"} if value.isascii() else {kind}
    ((path, found),) = scan(tmp_path, {value, "NOT-THERE-AT-ALL"})
    assert path == Path("deep/segment")
    assert found in kinds


def test_a_value_across_the_border_of_two_blocks_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("client.data.ingest.leaks._BLOCK", 64)
    for place in range(40, 80):
        (tmp_path / "segment").write_bytes(b"." * place + b"MRN-0048213" + b"." * 100)
        assert scan(tmp_path, {"MRN-0048213"}) == [(Path("segment"), "utf-8")]


def test_a_value_in_the_name_of_a_file_or_folder_is_found(tmp_path: Path) -> None:
    (tmp_path / "lestrade g").mkdir()
    (tmp_path / "lestrade g" / "IM1").write_bytes(b"")
    assert scan(tmp_path, VALUES) == [(Path("lestrade g/IM1"), "name")]


def test_four_bytes_are_looked_for_in_text_and_six_in_binary_files(tmp_path: Path) -> None:
    (tmp_path / "log.txt").write_bytes(b"read by Anna\n")
    (tmp_path / "segment").write_bytes(b"\0\0Anna\0\0Annabel\0")
    assert scan(tmp_path, {"Anna"}) == [(Path("log.txt"), "utf-8")]
    assert scan(tmp_path, {"Annabel"}) == [(Path("segment"), "utf-8")]


def test_nothing_is_found_where_nothing_is_planted(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"")
    (tmp_path / "b").write_bytes(b"abc")
    (tmp_path / "c").write_text(string.printable * 50)
    assert scan(tmp_path, VALUES) == []
    assert scan(tmp_path, frozenset()) == []


def test_links_are_not_followed(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.write_text("Lestrade")
    (tmp_path / "store").mkdir()
    (tmp_path / "store" / "link").symlink_to(outside)
    assert scan(tmp_path / "store", VALUES) == []


@given(st.binary(max_size=300), st.binary(max_size=300), st.text(string.ascii_letters + string.digits, min_size=6))
def test_a_value_is_found_exactly_where_bytes_hold_it(before: bytes, after: bytes, value: str) -> None:
    """The oracle is ``in`` on the lowered bytes, one value and one encoding at a time."""
    with tempfile.TemporaryDirectory() as folder:
        for content in (before + after, before + value.swapcase().encode() + after):
            (Path(folder) / "0").write_bytes(content)
            lowered = content.lower()
            expected = any(
                value.lower().encode(encoding) in lowered for encoding in ("utf-8", "utf-16-le", "utf-16-be")
            )
            assert bool(scan(Path(folder), {value})) == expected
