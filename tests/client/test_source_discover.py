"""A hospital's whole folder: every file has one verdict, and no identifier leaves."""

import os
import random
import shutil
import tempfile
import zipfile
from collections import Counter
from contextlib import suppress
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from made_hospital import (
    PNG,
    SALT,
    MadeHospital,
    cine,
    ct,
    outline,
    structures,
    verdict_of,
    verdicts,
    write_csv,
    write_dicom,
)

from client.data.case_files import CaseFiles
from client.data.source.discover import discover
from client.data.source.files import SourceFile
from client.data.source.found import Found, Table, Wanted
from shared.errors import SiteDataError

IDENTIFIERS = ("MRN-4711", "MRN4711", "Quandt", "QUANDT", "19340102", "1.2.840.113619", "Oberhof", "1.2.3")


def everything(folder: Path) -> MadeHospital:
    """A folder with one of each: good, bad, copies, masks, tables, links, archives."""
    hospital = MadeHospital(folder)
    person = {"PatientName": "Quandt^Anna", "PatientBirthDate": "19340102", "PatientSex": "F"}
    uid = "1.2.840.113619.5"
    series = [hospital.add(f"Quandt/{number}", ct(uid, number, "MRN-4711", **person)) for number in range(3)]
    shutil.copy(series[0], folder / "dicom" / "Quandt" / "copy")
    hospital.segment(series, outline(3), "MRN-4711.dcm")
    hospital.add("cine", cine("1.2.840.113619.6", 2))
    hospital.add("nobody", ct("1.2.840.113619.7", 0, ""))
    hospital.add("twice-1", ct("1.2.840.113619.8", 0))
    hospital.add("twice-2", ct("1.2.840.113619.8", 0, KVP="120"))
    hospital.add("structures", structures("1.2.840.1.1"))
    (folder / "dicom" / "MRN-4711.dcm").write_bytes(b"broken")
    (folder / "dicom" / "MRN-4711.zip").write_bytes(b"broken")
    (folder / "Quandt.txt").write_text("Oberhof")
    (folder / "Quandt.png").write_bytes(PNG)
    (folder / "gone").symlink_to(folder / "Oberhof")
    with zipfile.ZipFile(folder / "Oberhof.zip", "w") as archive:
        archive.write(write_dicom(folder / ".made", ct("1.2.840.113619.9", 0, "MRN-4711")), "Quandt/1")
    hospital.label(
        {"series_uid": uid, "patient_id": "MRN-4711", "label": "benign", "age": "91", "name": "Quandt"},
        {"patient_id": "Oberhof", "label": "malignant"},
    )
    return hospital


def texts(thing: Any) -> list[str]:
    """Every string anywhere in ``thing``, but for the paths of source files."""
    if isinstance(thing, str):
        return [thing]
    if isinstance(thing, SourceFile):
        return [thing.seen]
    if is_dataclass(thing):
        return [text for field in fields(thing) for text in texts(getattr(thing, field.name))]
    if isinstance(thing, tuple | list | frozenset):
        return [text for one in thing for text in texts(one)]
    assert thing is None or isinstance(thing, int)
    return []


def leaked(found: Found) -> set[str]:
    said = "\n".join([repr(found), *texts(found)])
    return {identifier for identifier in IDENTIFIERS if identifier in said}


def plain_view(found: Found) -> Any:
    """What was found, without where it lies."""
    cases = [(one.case_id, one.patient, one.label, len(one.images), one.mask is None) for one in found.cases]
    return cases, [(one.case_id, one.code) for one in found.unusable]


def test_every_file_has_exactly_one_verdict(tmp_path: Path) -> None:
    everything(tmp_path)
    found = discover(Wanted((tmp_path,), (Table(tmp_path / "labels.csv"),), subgroup_columns=("age",)), SALT)
    assert Counter(verdicts(found)) == {
        ("image", ""): 3 + 1 + 1 + 1,  # the series, the loop, the picture, the file in the archive
        ("copy", ""): 1,
        ("mask", ""): 1,
        ("table", ""): 1,
        ("not-an-image", ""): 1,
        ("not-an-image", "mask-without-image"): 1,
        ("quarantined", "patient-unknown"): 1,
        ("quarantined", "duplicate-instance"): 2,
        ("quarantined", "unreadable-dicom"): 1,
        ("quarantined", "archive-broken"): 1,
        ("quarantined", "file-unreadable"): 1,
    }
    visible = [path for path in tmp_path.rglob("[!.]*") if not path.is_dir()]
    assert len(found.files) == len(visible)
    assert len({one.name for one in found.files}) == len(found.files)


def test_everything_comes_in_the_order_of_names(tmp_path: Path) -> None:
    everything(tmp_path)
    found = discover(Wanted((tmp_path,)), SALT)
    assert [one.case_id for one in found.cases] == sorted(one.case_id for one in found.cases)
    assert [one.name for one in found.files] == sorted(one.name for one in found.files)
    assert [one.case_id for one in found.unusable] == sorted(one.case_id for one in found.unusable)
    assert len(found.unusable) == 5


@pytest.mark.parametrize("dimensions", ["auto", 2, 3])
def test_no_identifier_of_header_table_or_path_is_in_what_was_found(tmp_path: Path, dimensions: Any) -> None:
    everything(tmp_path)
    tables = (Table(tmp_path / "labels.csv"),)
    found = discover(Wanted((tmp_path,), tables, dimensions, subgroup_columns=("age",)), SALT)
    assert {one.label for one in found.cases} == {"benign", None}
    assert leaked(found) == set()


def test_the_search_for_identifiers_finds_planted_ones() -> None:
    in_a_field = CaseFiles("c", "p", (SourceFile("/data/Quandt", "s"),), label="Oberhof")
    assert leaked(Found((in_a_field,), (), ())) == {"Oberhof"}
    assert leaked(Found((CaseFiles("c", "p", (), study="1.2.840.113619.5"),), (), ())) == {"1.2.840.113619"}


def test_a_table_of_a_column_that_names_people_leaves_only_what_is_declared(tmp_path: Path) -> None:
    everything(tmp_path)
    found = discover(Wanted((tmp_path,), (Table(tmp_path / "labels.csv"),), subgroup_columns=("name",)), SALT)
    assert leaked(found) == {"Quandt"}, "a site that declares a column of names is taken at its word"


def test_the_same_files_give_the_same_wherever_they_lie_and_in_whatever_order(tmp_path: Path) -> None:
    everything(tmp_path / "one")
    before = discover(Wanted((tmp_path / "one",), (Table(tmp_path / "one/labels.csv"),)), SALT)
    shutil.copytree(tmp_path / "one", tmp_path / "two", symlinks=True)
    after = discover(Wanted((tmp_path / "two",), (Table(tmp_path / "two/labels.csv"),)), SALT)
    assert plain_view(after) == plain_view(before)
    assert after.files == before.files


def test_dicom_in_an_archive_makes_the_cases_that_its_folder_makes(tmp_path: Path) -> None:
    hospital = MadeHospital(tmp_path / "folder")
    hospital.segment(hospital.series("1.5", 3), outline(3))
    shutil.make_archive(str(tmp_path / "packed" / "x"), "zip", tmp_path / "folder")
    folder, packed = (discover(Wanted((tmp_path / name,)), SALT) for name in ("folder", "packed"))
    assert plain_view(packed) == plain_view(folder)
    for one, other in zip(folder.cases[0].images, packed.cases[0].images, strict=True):
        assert one.read_bytes() == other.read_bytes()


def test_a_copy_in_an_archive_is_a_copy(tmp_path: Path) -> None:
    hospital = MadeHospital(tmp_path)
    hospital.series("1.5", 2)
    shutil.make_archive(str(tmp_path / "backup"), "zip", tmp_path / "dicom")
    assert verdicts(discover(Wanted((tmp_path,)), SALT)) == [("copy", "")] * 2 + [("image", "")] * 2


def test_one_study_under_two_patients_can_be_told_by_its_alias(tmp_path: Path) -> None:
    hospital = MadeHospital(tmp_path)
    hospital.series("1.5", 1, "P1")
    hospital.series("1.6", 1, "P2")
    one, two = hospital.found().cases
    assert one.patient != two.patient
    assert set(one.aliases) & set(two.aliases) == {SALT.alias("study", "1.2.3")}


def test_a_source_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SiteDataError) as caught:
        discover(Wanted((tmp_path / "gone",)), SALT)
    assert caught.value.code == "source-missing"


def test_an_empty_folder_holds_nothing(tmp_path: Path) -> None:
    assert discover(Wanted((tmp_path,)), SALT) == Found((), (), (), (SALT.case("source", str(tmp_path)),))


def test_nothing_in_a_source_is_changed(tmp_path: Path) -> None:
    everything(tmp_path)

    def state() -> list[tuple[str, int, int]]:
        paths = sorted(path for path in tmp_path.rglob("*") if path.exists())
        return [(str(path), path.stat().st_mtime_ns, path.stat().st_size) for path in paths]

    before = state()
    discover(Wanted((tmp_path,), (Table(tmp_path / "labels.csv"),)), SALT)
    assert state() == before


def test_a_file_without_rights_and_one_that_vanishes_cost_only_themselves() -> None:
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o755)
    try:
        for name, number in (("a", 0), ("b", 1)):
            write_dicom(folder / name, ct("1.5", number))
        (folder / "a").chmod(0)
        (folder / "b").chmod(0o644)
        if os.geteuid() == 0:
            os.seteuid(65534)
        found = discover(Wanted((folder,)), SALT)
        assert verdict_of(found, "a") == ("quarantined", "file-unreadable")
        assert verdict_of(found, "b") == ("image", "")
    finally:
        if os.getuid() == 0:
            os.seteuid(0)
        shutil.rmtree(folder)


@given(seed=st.integers(0, 2**32), damage=st.integers(1, 12))
def test_damaged_folders_are_sorted_without_an_exception_and_without_an_identifier(
    tmp_path_factory: pytest.TempPathFactory, everywhere: Path, seed: int, damage: int
) -> None:
    folder = tmp_path_factory.mktemp("damaged")
    shutil.copytree(everywhere, folder, dirs_exist_ok=True, symlinks=True)
    chance = random.Random(seed)
    paths = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != "labels.csv")
    for path in chance.choices(paths, k=damage):
        content = bytearray(path.read_bytes())
        for _ in range(chance.randint(0, 5)):
            content[chance.randrange(len(content))] = chance.randrange(256)
        path.write_bytes(content[: chance.randint(1, len(content))])
    found = discover(Wanted((folder,), (Table(folder / "labels.csv"),), chance.choice(("auto", 2, 3))), SALT)
    assert len(found.files) == len([path for path in folder.rglob("[!.]*") if not path.is_dir()])
    assert leaked(found) == set()


@pytest.fixture(scope="module")
def everywhere(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("everything")
    everything(folder)
    (folder / ".made").unlink()
    return folder


@given(
    st.lists(
        st.lists(st.sampled_from(["", "1.5", "1.2.3", "P1", "a", "../x", "masks/m.dcm", '\u00e9,"']), max_size=5),
        max_size=5,
    )
)
def test_any_table_is_read_or_refused_and_never_breaks_anything(
    tmp_path_factory: pytest.TempPathFactory, everywhere: Path, cells: list[list[str]]
) -> None:
    names = ("series_uid", "patient_id", "label", "mask", "age")
    table = tmp_path_factory.mktemp("table") / "t.csv"
    write_csv(table, [dict(zip(names, row, strict=False)) for row in cells])
    with suppress(SiteDataError):
        assert discover(Wanted((everywhere,), (Table(table),)), SALT).files


def test_progress_counts_every_file_that_is_looked_at(tmp_path: Path) -> None:
    for number in range(5):
        (tmp_path / f"{number}.txt").write_text("no image")
    counts: list[tuple[int, int]] = []
    found = discover(Wanted((tmp_path,)), SALT, lambda done, total: counts.append((done, total)))
    assert counts == [(1, 0), (2, 0), (3, 0), (4, 0), (5, 0)]
    assert len(found.files) == 5
