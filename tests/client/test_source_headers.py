"""What leaves a DICOM header: salted names, and what says nothing about a person."""

import copy
import io
from dataclasses import fields
from pathlib import Path

import pydicom
import pytest
from hypothesis import given
from hypothesis import strategies as st
from made_hospital import SALT, cine, ct, enhanced, structures, write_dicom
from pydicom.dataset import Dataset
from pydicom.uid import ImplicitVRLittleEndian

from client.data.source import headers
from client.data.source.files import SourceFile
from client.data.source.headers import MOST_FRAMES, Header, Names, plain, read_header
from client.data.source.kinds import HEAD_BYTES
from shared.errors import CaseError


def file_of(folder: Path, content: bytes) -> SourceFile:
    path = folder / "x"
    path.write_bytes(content)
    return SourceFile(str(path), "seen")


def header_of(folder: Path, dataset: Dataset) -> Header:
    file = SourceFile(str(write_dicom(folder / "x", dataset)), "seen")
    header = read_header(file, file.head(HEAD_BYTES), Names.of(SALT))
    assert header is not None
    return header


def refusal(folder: Path, dataset: Dataset) -> CaseError:
    with pytest.raises(CaseError) as caught:
        header_of(folder, dataset)
    return caught.value


def test_every_name_is_the_salted_one_of_its_identifier(tmp_path: Path) -> None:
    header = header_of(tmp_path, ct("1.5", 0, "MRN-4711"))
    assert header.case == SALT.case("1.5")
    assert header.frame_cases == (SALT.case("1.5", "1.5.1"),)
    assert (header.instance, header.series, header.study) == (SALT.uid("1.5.1"), SALT.uid("1.5"), SALT.uid("1.2.3"))
    assert header.patient == SALT.person("MRN-4711")
    assert (header.role, header.modality, header.places) == ("image", "ct", ((-10.0, -20.0, 0.0),))


def test_a_person_is_also_known_by_number_by_name_and_birth_date_and_by_study(tmp_path: Path) -> None:
    header = header_of(tmp_path, ct("1.5", 0, "mrn-0047", PatientBirthDate="19700102", PatientSex="F"))
    assert header.aliases == (
        SALT.alias("id", "MRN0047"),
        SALT.alias("birth", "DOEJANE", "19700102", "F"),
        SALT.alias("study", "1.2.3"),
    )


@pytest.mark.parametrize("typed", ["007-12 a", "712A", "0712.a", " 00712a"])
def test_a_number_has_one_alias_however_it_was_typed(tmp_path: Path, typed: str) -> None:
    assert header_of(tmp_path, ct("1.5", 0, typed)).aliases[0] == SALT.alias("id", "712A")


def test_a_name_is_one_in_capitals_and_with_other_separators(tmp_path: Path) -> None:
    born = {"PatientBirthDate": "19700102", "PatientSex": "M"}
    names = ("Doe^John", "DOE^JOHN", "Doe, John", "doe john")
    aliases = {header_of(tmp_path, ct("1.5", 0, PatientName=name, **born)).aliases[1] for name in names}
    assert aliases == {SALT.alias("birth", "DOEJOHN", "19700102", "M")}


@pytest.mark.parametrize("missing", [{"PatientName": "", "PatientBirthDate": "19700102"}, {"PatientBirthDate": ""}])
def test_a_name_or_a_birth_date_alone_makes_no_alias(tmp_path: Path, missing: dict[str, str]) -> None:
    assert len(header_of(tmp_path, ct("1.5", 0, **missing)).aliases) == 2


@pytest.mark.parametrize("number", ["", "000", "-", " "])
def test_a_number_of_which_nothing_is_left_makes_no_alias(tmp_path: Path, number: str) -> None:
    assert header_of(tmp_path, ct("1.5", 0, number)).aliases == (SALT.alias("study", "1.2.3"),)


def test_a_patient_of_another_character_set_is_told_from_others(tmp_path: Path) -> None:
    one, two = (
        header_of(tmp_path, ct("1.5", 0, number, SpecificCharacterSet="ISO_IR 192"))
        for number in ("J\u00f6rg", "J\u00e4rg")
    )
    assert one.patient == SALT.person("J\u00f6rg") != two.patient


def test_an_unknown_character_set_loses_no_image_and_merges_no_people(tmp_path: Path) -> None:
    found = set()
    for number in (b"J\xf6rg ", b"J\xe4rg "):
        dataset = ct("1.5", 0, "XXXXX ", SpecificCharacterSet="ISO_IR 192")
        content = io.BytesIO()
        pydicom.dcmwrite(content, dataset, enforce_file_format=True)
        changed = content.getvalue().replace(b"XXXXX ", number + b" ").replace(b"ISO_IR 192", b"NO_SUCH_IR")
        file = file_of(tmp_path, changed)
        header = read_header(file, file.head(HEAD_BYTES), Names.of(SALT))
        assert header is not None
        found.add(header.patient)
    assert len(found) == 2


def test_each_frame_of_a_file_has_a_name(tmp_path: Path) -> None:
    header = header_of(tmp_path, cine("1.6", 3))
    assert header.frame_cases == tuple(SALT.case("1.6", "1.6.1", number) for number in "123")
    assert header.places == ()


def test_places_of_an_enhanced_file_are_those_of_its_frames_and_no_more_than_two(tmp_path: Path) -> None:
    assert header_of(tmp_path, enhanced("1.7", 5)).places == ((0.0, 0.0, 0.0), (0.0, 0.0, 2.5))


def test_a_place_in_functional_groups_is_found_for_a_single_frame_too(tmp_path: Path) -> None:
    assert header_of(tmp_path, enhanced("1.7", 1)).places == ((0.0, 0.0, 0.0),)


def test_places_beyond_the_first_bytes_of_a_file_are_found(tmp_path: Path) -> None:
    """Three hundred frames have more to say than fits into what is read first."""
    path = write_dicom(tmp_path / "x", enhanced("1.7", 300))
    content = path.read_bytes()
    assert content.index(b"\xe0\x7f\x10\x00") > HEAD_BYTES
    assert len(header_of(tmp_path, enhanced("1.7", 300)).places) == 2


def test_a_geometry_that_is_impossible_is_left_for_the_reader_of_pixels(tmp_path: Path) -> None:
    assert header_of(tmp_path, ct("1.5", 0, ImageOrientationPatient=[1, 0, 0, 1, 0, 0])).places == ()


def test_a_long_private_element_before_the_image_hides_nothing(tmp_path: Path) -> None:
    dataset = ct("1.5", 0, "MRN-4711")
    block = dataset.private_block(0x0009, "MAKER", create=True)
    block.add_new(0x10, "OB", bytes(2 * HEAD_BYTES))
    header = header_of(tmp_path, dataset)
    assert (header.patient, len(header.places)) == (SALT.person("MRN-4711"), 1)


def test_a_broken_value_that_nobody_needs_loses_no_image(tmp_path: Path) -> None:
    dataset = ct("1.5", 0)
    dataset.KVP = "0"
    content = io.BytesIO()
    pydicom.dcmwrite(content, dataset, enforce_file_format=True)
    file = file_of(tmp_path, content.getvalue().replace(b"DS\x02\x000 ", b"DS\x02\x00?!"))
    assert b"?!" in file.read_bytes()
    assert read_header(file, file.head(HEAD_BYTES), Names.of(SALT)) is not None


def test_a_structure_set_names_the_series_and_instances_that_it_was_drawn_on(tmp_path: Path) -> None:
    header = header_of(tmp_path, structures("1.5", ["1.5.1", "1.5.2"]))
    assert (header.role, header.refers) == ("structures", (SALT.uid("1.5"),))
    assert header.instances == {SALT.uid("1.5.1"), SALT.uid("1.5.2")}


def test_tiles_of_a_slide_and_too_many_frames_are_refused(tmp_path: Path) -> None:
    assert refusal(tmp_path, cine("1.6", 2, TotalPixelMatrixColumns=100)).code == "tiled-image"
    many = cine("1.6", 2)
    many.NumberOfFrames = MOST_FRAMES + 1
    assert refusal(tmp_path, many).code == "image-too-large"


@pytest.mark.parametrize("missing", ["SOPInstanceUID", "SeriesInstanceUID"])
def test_an_image_without_its_names_is_refused(tmp_path: Path, missing: str) -> None:
    assert refusal(tmp_path, ct("1.5", 0, **{missing: ""})).code == "dicom-no-uid"


def test_a_study_may_be_missing(tmp_path: Path) -> None:
    header = header_of(tmp_path, ct("1.5", 0, StudyInstanceUID=""))
    assert (header.study, header.aliases) == ("", (SALT.alias("id", "P1"),))


def test_an_implicit_file_without_preamble_is_read(tmp_path: Path) -> None:
    dataset = ct("1.5", 0, "P7")
    dataset.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian
    del dataset.file_meta
    content = io.BytesIO()
    pydicom.dcmwrite(content, dataset, implicit_vr=True, little_endian=True)
    file = file_of(tmp_path, content.getvalue())
    header = read_header(file, file.head(HEAD_BYTES), Names.of(SALT))
    assert header is not None
    assert header.patient == SALT.person("P7")


def test_an_identifier_is_salted_once_while_it_comes_again_and_again() -> None:
    names = Names.of(SALT)
    one, two = names.uid("1.5"), names.uid("1.5")
    assert one is two
    assert names.person("x") == SALT.person("x")


def test_what_is_left_of_an_identifier_is_capitals_and_digits() -> None:
    assert plain(" a-b_c.1\u00e9 ") == "ABC1\u00c9"


# --- whatever a header holds -----------------------------------------------------------------------------------------

_uids = st.from_regex(r"1\.2\.[1-9][0-9]{8,12}", fullmatch=True)
_texts = st.text(st.characters(codec="ascii", categories=("L", "N")), min_size=7, max_size=16)
_numbers = st.lists(st.floats(-1e7, 1e7, width=32), min_size=0, max_size=7)


@given(uids=st.tuples(_uids, _uids, _uids), texts=st.tuples(_texts, _texts), numbers=st.tuples(_numbers, _numbers))
def test_no_identifier_of_a_random_header_is_in_what_leaves_it(
    tmp_path_factory: pytest.TempPathFactory,
    uids: tuple[str, str, str],
    texts: tuple[str, str],
    numbers: tuple[list[float], list[float]],
) -> None:
    dataset = ct(uids[0], 0, texts[0], PatientName=f"{texts[1]}^Jane", PatientBirthDate="19700102")
    dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = uids[1]
    dataset.StudyInstanceUID, dataset.ImagePositionPatient = uids[2], [round(mm, 3) for mm in numbers[0]]
    dataset.ImageOrientationPatient = [round(mm, 3) for mm in numbers[1]]
    header = header_of(tmp_path_factory.mktemp("header"), dataset)
    said = repr(header) + "".join(str(getattr(header, field.name)) for field in fields(Header) if field.name != "file")
    for identifier in (*uids, *texts, "19700102"):
        assert identifier not in said


def test_the_search_for_identifiers_finds_a_planted_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(headers, "modality_of", lambda dataset: str(dataset.PatientID))
    assert "MRN-4711" in repr(header_of(tmp_path, ct("1.5", 0, "MRN-4711")))


_VALID = [ct("1.5", 0), enhanced("1.7", 3), structures("1.5", ["1.5.1"])]


def _fuzzed(data: st.DataObject) -> bytes:
    buffer = io.BytesIO()
    pydicom.dcmwrite(buffer, data.draw(st.sampled_from(_VALID)), enforce_file_format=True)
    content = bytearray(buffer.getvalue())
    for _ in range(data.draw(st.integers(1, 8))):
        # Beyond the preamble, which holds nothing.
        content[data.draw(st.integers(128, len(content) - 1))] = data.draw(st.integers(0, 255))
    return bytes(content[: data.draw(st.integers(0, len(content)) | st.just(len(content)))])


def attempt(file: SourceFile) -> Header | CaseError | None:
    try:
        return read_header(file, file.head(HEAD_BYTES), Names.of(SALT))
    except CaseError as error:
        return error


@given(st.data())
def test_fuzzed_files_give_a_header_or_one_kind_of_error_that_quotes_nothing(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    file = file_of(tmp_path_factory.mktemp("fuzz"), _fuzzed(data))
    found = attempt(file)
    if isinstance(found, CaseError):
        assert "Doe" not in str(found) + found.hint
        assert found.code in {"unreadable-dicom", "dicom-no-uid", "tiled-image", "image-too-large"}
    else:
        assert copy.copy(found) == found


@given(st.integers(HEAD_BYTES - 3000, HEAD_BYTES))
def test_what_is_read_first_may_end_anywhere(tmp_path_factory: pytest.TempPathFactory, length: int) -> None:
    folder = tmp_path_factory.mktemp("head")
    dataset = enhanced("1.7", 4)
    short = header_of(folder, dataset)
    dataset.private_block(0x0009, "MAKER", create=True).add_new(0x10, "OB", bytes(length // 2 * 2))
    assert header_of(folder, dataset) == short
    assert len(short.places) == 2


def test_a_file_that_is_gone_after_its_head_was_read_is_refused(tmp_path: Path) -> None:
    path = write_dicom(tmp_path / "x", enhanced("1.7", 300))
    file = SourceFile(str(path), "seen")
    head = file.head(HEAD_BYTES)
    path.unlink()
    with pytest.raises(CaseError) as caught:
        read_header(file, head, Names.of(SALT))
    assert str(tmp_path) not in str(caught.value)
