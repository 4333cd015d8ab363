import sqlite3
import tracemalloc
from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from client.data.archive import catalogue as catalogue_module
from client.data.archive.catalogue import FILE, Catalogue, Change
from client.data.archive.record import Location, Record
from client.data.archive.rows import record_of, row_of
from client.data.case_files import Quarantined
from client.data.source.found import FileSeen
from shared.errors import CapacityError, ConsiliumError, SiteDataError

KEY, OTHER_KEY = bytes(range(32)), bytes(range(1, 33))

RECORD = Record(
    case_id="c" * 24,
    patient="p" * 24,
    aliases=("a" * 24,),
    study="2.25.1",
    series="2.25.2",
    modality="ct",
    shape=(1, 4, 5, 6),
    kept="int16",
    spacing_mm=(2.5, 0.1, 1 / 3),
    spacing_known=True,
    affine_lps=(1.0, 0.0, 0.0, -7.25, *(0.0,) * 11, 1.0),
    masked=True,
    label="benign",
    subgroups=(("sex", "F"), ("age", "40-59")),
    acquisition=(("Manufacturer", "Größe & Söhne"),),
    dropped=("names",),
    suspicions=(),
    source_sha256="1" * 64,
    sha256="2" * 64,
    origin="3" * 64,
    location=Location(7, 1 << 33),
)
BAD = Quarantined("q" * 24, "mask-shape", "the mask does not fit")


def record(number: int, **changes: Any) -> Record:
    return replace(RECORD, case_id=f"{number:024d}", **changes)


@pytest.fixture
def catalogue(tmp_path: Path) -> Any:
    opened = Catalogue.open_or_create(tmp_path, None)
    yield opened
    opened.close()


def add(catalogue: Catalogue, *records: Record, **more: Any) -> None:
    catalogue.commit(Change(records, **more))


def refusal(act: Callable[[], object]) -> str:
    with pytest.raises(ConsiliumError) as caught:
        act()
    return caught.value.code


text = st.text(max_size=8)
pairs = st.lists(st.tuples(text, text), max_size=3).map(tuple)
numbers = st.floats(allow_nan=False, allow_infinity=False)
records = st.builds(
    Record,
    case_id=text,
    patient=text,
    aliases=st.lists(text, max_size=2).map(tuple),
    study=text,
    series=text,
    modality=st.sampled_from(["ct", "us", "other"]),
    shape=st.lists(st.integers(1, 5000), min_size=3, max_size=4).map(tuple),
    kept=st.sampled_from(["uint8", "uint16", "int16", "float32"]),
    spacing_mm=st.lists(numbers, max_size=3).map(tuple),
    spacing_known=st.booleans(),
    affine_lps=st.lists(numbers, max_size=16).map(tuple),
    masked=st.booleans(),
    label=st.none() | text,
    subgroups=pairs,
    acquisition=pairs,
    dropped=st.lists(text, max_size=2).map(tuple),
    suspicions=st.lists(text, max_size=2).map(tuple),
    source_sha256=text,
    sha256=text,
    origin=text,
    location=st.builds(Location, st.integers(1, 2**31), st.integers(0, 2**40)),
)


@given(records)
def test_a_record_comes_back_from_its_row_as_it_was(one: Record) -> None:
    again = record_of(row_of(one))
    assert again == one
    assert hash(again) == hash(one)
    assert again.content() == one.content()


def test_every_field_of_a_record_is_in_its_row() -> None:
    """A field that was forgotten would come back the same whatever it was."""
    other: dict[str, Any] = {
        "modality": "mr", "kept": "uint8", "shape": (3, 1, 1), "spacing_mm": (9.0,), "affine_lps": (), "label": None,
        "spacing_known": False, "masked": False, "location": Location(1, 0),
    }  # fmt: skip
    for field in fields(Record):
        was = getattr(RECORD, field.name)
        value = other.get(field.name, f"other {was}" if isinstance(was, str) else (("x", "y"),))
        changed = replace(RECORD, **{field.name: value})
        assert record_of(row_of(changed)) == changed != RECORD, field.name


@pytest.mark.parametrize("column", range(11))
def test_a_row_of_which_any_column_changed_is_refused(column: int) -> None:
    row = list(row_of(RECORD))
    for value in ("other", 5, None, b"bytes"):
        if value != row[column]:
            changed = (*row[:column], value, *row[column + 1 :])
            assert refusal(lambda changed=changed: record_of(changed)) == "archive-damaged"  # type: ignore[misc]


def test_rows_come_back_sorted_page_by_page(catalogue: Catalogue, monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = [record(number) for number in range(10)]
    for size in (1, 3, 5, 10, 11):
        monkeypatch.setattr(catalogue_module, "_PAGE", size)
        add(catalogue, *reversed(wanted), files=[FileSeen(f"{n}", "image") for n in range(7, 0, -1)])
        assert list(catalogue.records()) == wanted
        assert [file.name for file in catalogue.files()] == list("1234567")
    assert len(catalogue) == 10


def test_rows_may_be_added_while_others_are_read(catalogue: Catalogue, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(catalogue_module, "_PAGE", 2)
    add(catalogue, *(record(number) for number in range(0, 10, 2)))
    found = []
    for one in catalogue.records():
        found.append(one.case_id)
        if one.case_id == record(4).case_id:
            add(catalogue, record(1), record(9))
    assert found == [record(number).case_id for number in (0, 2, 4, 6, 8, 9)]


def test_one_case_is_found_by_name(catalogue: Catalogue) -> None:
    add(catalogue, record(1), record(2))
    assert catalogue.record(record(2).case_id) == record(2)
    assert catalogue.record("nobody") is None


def test_a_case_that_is_stored_again_replaces_its_row(catalogue: Catalogue) -> None:
    add(catalogue, record(1), record(2))
    moved = record(1, location=Location(8, 0), origin="new")
    add(catalogue, moved)
    assert list(catalogue.records()) == [moved, record(2)]


def test_storing_a_case_ends_its_quarantine_and_what_is_stored_stays(catalogue: Catalogue) -> None:
    unusable = [Quarantined(record(number).case_id, "image-missing", "gone") for number in (1, 2)]
    add(catalogue, quarantined=[BAD, *unusable])
    assert catalogue.quarantined() == [*unusable, BAD]
    add(catalogue, record(1))
    assert catalogue.quarantined() == [unusable[1], BAD]
    add(catalogue, quarantined=unusable)
    assert catalogue.quarantined() == [unusable[1], BAD]
    assert list(catalogue.records()) == [record(1)]


def test_a_reason_may_change_and_go_away(catalogue: Catalogue) -> None:
    add(catalogue, quarantined=[BAD])
    add(catalogue, quarantined=[replace(BAD, code="mask-missing")])
    assert [one.code for one in catalogue.quarantined()] == ["mask-missing"]
    add(catalogue, gone_quarantine=[BAD.case_id, "nobody"])
    assert catalogue.quarantined() == []


def test_a_file_is_counted_once_as_what_it_was_last(catalogue: Catalogue) -> None:
    add(catalogue, files=[FileSeen("f", "image"), FileSeen("g", "table")])
    add(catalogue, files=[FileSeen("f", "quarantined", "dicom-truncated")])
    assert list(catalogue.files()) == [FileSeen("f", "quarantined", "dicom-truncated"), FileSeen("g", "table")]


def test_a_commit_that_fails_half_way_changes_nothing(catalogue: Catalogue) -> None:
    add(catalogue, record(1), quarantined=[BAD])
    impossible = record(3, acquisition=(("x", object()),))
    with pytest.raises(TypeError):
        add(
            catalogue, record(2), impossible, quarantined=[replace(BAD, case_id="other")], gone_quarantine=[BAD.case_id]
        )
    assert list(catalogue.records()) == [record(1)]
    assert catalogue.quarantined() == [BAD]
    add(catalogue, record(2))
    assert len(catalogue) == 2


def test_annotating_changes_patient_label_and_subgroups_alone(catalogue: Catalogue) -> None:
    add(catalogue, record(1), record(2))
    told = record(1, patient="other", label=None, subgroups=(("sex", "M"),))
    catalogue.annotate([replace(told, sha256="not taken over", location=Location(1, 1)), record(3)])
    assert list(catalogue.records()) == [told, record(2)]


def test_measurements_are_kept_until_their_case_changes(catalogue: Catalogue) -> None:
    add(catalogue, record(1), record(2))
    rows = [(record(number).case_id, RECORD.sha256, f'{{"mean": {number}}}') for number in (1, 2, 3)]
    catalogue.keep_measurements(rows)
    assert list(catalogue.measurements()) == rows[:2]
    add(catalogue, record(1, sha256="other bytes"))
    assert list(catalogue.measurements()) == rows[1:2]
    catalogue.keep_measurements([(record(1).case_id, "other bytes", "{}"), (rows[1][0], RECORD.sha256, "again")])
    assert [said for _, _, said in catalogue.measurements()] == ["{}", "again"]


def test_bytes_are_counted_by_segment(catalogue: Catalogue) -> None:
    add(catalogue, record(1), record(2), record(3, location=Location(8, 0), masked=False))
    voxels, mask = 4 * 5 * 6 * 2, 4 * 5 * 6
    assert catalogue.referenced() == {7: 2 * (voxels + mask), 8: voxels}


@pytest.mark.parametrize(
    ("made", "opened", "code"),
    [(KEY, OTHER_KEY, "wrong-key"), (KEY, None, "archive-sealed"), (None, KEY, "archive-not-sealed")],
)
def test_a_key_that_does_not_fit_is_refused(
    tmp_path: Path, made: bytes | None, opened: bytes | None, code: str
) -> None:
    Catalogue.open_or_create(tmp_path, made).close()
    assert refusal(lambda: Catalogue.open(tmp_path, opened)) == code
    assert refusal(lambda: Catalogue.open_or_create(tmp_path, opened)) == code
    Catalogue.open(tmp_path, made).close()


def test_a_catalogue_of_another_layout_is_refused(tmp_path: Path) -> None:
    Catalogue.open_or_create(tmp_path, None).close()
    with sqlite3.connect(tmp_path / FILE) as connection:
        connection.execute("update archive set version = 2")
    connection.close()
    with pytest.raises(SiteDataError, match="has layout 2, this program reads layout 1"):
        Catalogue.open(tmp_path, None)


def test_where_nothing_was_begun_there_is_nothing_to_open(tmp_path: Path) -> None:
    assert refusal(lambda: Catalogue.open(tmp_path, None)) == "archive-missing"
    assert list(tmp_path.iterdir()) == []


def test_a_file_without_tables_is_begun_again(tmp_path: Path) -> None:
    """What is left of a process that was killed while it began."""
    (tmp_path / FILE).touch()
    assert refusal(lambda: Catalogue.open(tmp_path, None)) == "archive-missing"
    Catalogue.open_or_create(tmp_path, None).close()
    Catalogue.open(tmp_path, None).close()


def test_a_file_that_is_no_catalogue_is_refused(tmp_path: Path) -> None:
    (tmp_path / FILE).write_bytes(b"not a database" * 1000)
    assert refusal(lambda: Catalogue.open(tmp_path, None)) == "archive-damaged"


def test_only_the_owner_may_read_it_while_it_is_open_and_after(tmp_path: Path, catalogue: Catalogue) -> None:
    add(catalogue, record(1))
    modes = {path.name: path.stat().st_mode & 0o777 for path in tmp_path.iterdir()}
    assert modes == {FILE: 0o600, f"{FILE}-wal": 0o600, f"{FILE}-shm": 0o600}


def test_a_changed_bit_never_makes_another_record(tmp_path: Path) -> None:
    """Wherever it is: a refusal, or what was written. Bits lie 499 apart, so every page and every row is hit."""
    wanted = {record(number) for number in range(40)}
    opened = Catalogue.open_or_create(tmp_path, None)
    add(opened, *wanted)
    opened.close()
    whole, refused = (tmp_path / FILE).read_bytes(), 0
    for position in range(0, len(whole), 499):
        changed = bytearray(whole)
        changed[position] ^= 1 << position % 8
        (tmp_path / FILE).write_bytes(changed)
        try:
            opened = Catalogue.open(tmp_path, None)
            try:
                assert set(opened.records()) <= wanted
            finally:
                opened.close()
        except SiteDataError:
            refused += 1
    assert refused > 20


def test_a_full_disk_changes_nothing_and_says_so(catalogue: Catalogue) -> None:
    add(catalogue, record(1))
    (pages,) = catalogue._connection.execute("pragma page_count").fetchone()
    catalogue._connection.execute(f"pragma max_page_count = {pages}")
    with pytest.raises(CapacityError, match=r"could not be written, \d+ bytes are free") as caught:
        add(catalogue, *(record(number) for number in range(500)))
    assert caught.value.code == "disk-full"
    assert list(catalogue.records()) == [record(1)]
    catalogue._connection.execute("pragma max_page_count = 100000")
    add(catalogue, *(record(number) for number in range(500)))
    assert len(catalogue) == 500


@pytest.mark.slow
def test_listing_takes_no_more_memory_for_more_cases(catalogue: Catalogue) -> None:
    def peak(list_all: Callable[[], object]) -> int:
        tracemalloc.start()
        try:
            list_all()
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    peaks = []
    for start in (0, 2000):
        add(catalogue, *(record(number) for number in range(start, start + 2000 + 3 * start)))
        peaks.append(peak(lambda: sum(1 for _ in catalogue.records())))
    assert len(catalogue) == 10_000
    assert peaks[1] < 1.5 * peaks[0]  # five times as many
    assert peak(lambda: list(catalogue.records())) > 3 * peaks[1]  # the control
