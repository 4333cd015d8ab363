"""What tables say about cases: which rows are about one, which wins, and what is refused."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from made_hospital import SALT, write_csv

from client.data.source.found import Table
from client.data.source.labels import KEYS, Key, Labels, Saying, read_labels, said_about, sites_in
from shared.errors import CaseError, SiteDataError

CASE = {"file": "a.png", "instance_uid": "1.5.1", "series_uid": "1.5", "study_uid": "1.2", "patient_id": "P1"}
"""One case by all that a row can be about, in the order from specific to general."""


def labels(folder: Path, *rows: Mapping[str, str], **how: Any) -> Labels:
    return read_labels([Table(write_csv(folder / "t.csv", rows), **how)], ("sex", "age"), SALT)


def about(labels: Labels, folder: Path, patient: str = "P1") -> Saying:
    """What is said about ``CASE``, whose header names ``patient``."""
    keys: dict[Key, list[str]] = {
        "file": [str(folder.resolve() / CASE["file"])],
        "instance_uid": [SALT.uid(CASE["instance_uid"])],
        "series_uid": [SALT.uid(CASE["series_uid"])],
        "study_uid": [SALT.uid(CASE["study_uid"])],
    }
    return said_about(labels, keys, {SALT.person(patient)} if patient else ())


def table_refusal(folder: Path, *rows: Mapping[str, str], **how: Any) -> SiteDataError:
    with pytest.raises(SiteDataError) as caught:
        labels(folder, *rows, **how)
    return caught.value


def case_refusal(folder: Path, *rows: Mapping[str, str], patient: str = "P1") -> CaseError:
    with pytest.raises(CaseError) as caught:
        about(labels(folder, *rows), folder, patient)
    return caught.value


@pytest.mark.parametrize("key", KEYS)
def test_a_row_is_about_what_its_key_names(tmp_path: Path, key: str) -> None:
    said = labels(tmp_path, {key: CASE[key], "label": "a"}, {key: "9.9", "label": "b"})
    assert about(said, tmp_path).values == {"label": "a"}


@given(st.sets(st.sampled_from(KEYS), min_size=1))
def test_the_most_specific_filled_key_of_a_row_decides(
    tmp_path_factory: pytest.TempPathFactory, keys: set[Key]
) -> None:
    folder = tmp_path_factory.mktemp("labels")
    said = labels(folder, {key: CASE[key] if key in keys else "" for key in KEYS} | {"label": "a"})
    ((key, _),) = said.sayings
    assert key == next(one for one in KEYS if one in keys)


@given(st.permutations(KEYS), st.sets(st.sampled_from(KEYS), min_size=1))
def test_of_rows_about_one_case_the_most_specific_wins_in_any_order(
    tmp_path_factory: pytest.TempPathFactory, order: list[Key], keys: set[Key]
) -> None:
    folder = tmp_path_factory.mktemp("labels")
    rows = [{key: CASE[key], "label": key} for key in order if key in keys]
    winner = next(one for one in KEYS if one in keys)
    assert about(labels(folder, *rows), folder).values["label"] == winner


def test_rows_about_one_case_fill_each_others_gaps(tmp_path: Path) -> None:
    said = labels(
        tmp_path,
        {"series_uid": "1.5", "label": "", "mask": "m.png"},
        {"study_uid": "1.2", "label": "a", "sex": "F"},
        {"patient_id": "P1", "label": "b", "age": "91"},
    )
    assert about(said, tmp_path).values == {
        "mask": f"{tmp_path.resolve()}/m.png", "label": "a", "sex": "F", "age": "80+",
    }  # fmt: skip


def test_equally_specific_rows_that_differ_are_a_conflict_and_rows_that_agree_are_one(tmp_path: Path) -> None:
    one, two = {"series_uid": "1.5", "label": "a"}, {"series_uid": "1.5", "label": "b"}
    error = case_refusal(tmp_path, one, two)
    assert error.code == "labels-conflict"
    assert "rows 2 and 3" in error.sentence
    assert about(labels(tmp_path, one, one), tmp_path).values["label"] == "a"


def test_a_more_specific_row_settles_a_conflict(tmp_path: Path) -> None:
    rows = [{"study_uid": "1.2", "label": "a"}, {"study_uid": "1.2", "label": "b"}, {"file": "a.png", "label": "c"}]
    assert about(labels(tmp_path, *rows), tmp_path).values["label"] == "c"


def test_exact_ages_never_leave(tmp_path: Path) -> None:
    said = about(labels(tmp_path, {"series_uid": "1.5", "age": "103"}), tmp_path)
    assert said.values == {"age": "80+"}


def test_a_patient_beside_a_series_fills_what_the_header_leaves_out(tmp_path: Path) -> None:
    said = about(labels(tmp_path, {"series_uid": "1.5", "patient_id": "P-07"}), tmp_path, patient="")
    assert said.patient == SALT.person("P-07")
    assert said.aliases == (SALT.alias("id", "P07"),)


def test_rows_about_that_patient_then_count_too(tmp_path: Path) -> None:
    rows = [
        {"series_uid": "1.5", "patient_id": "P7"},
        {"patient_id": "P7", "label": "a"},
        {"patient_id": "P1", "label": "b"},
    ]
    assert about(labels(tmp_path, *rows), tmp_path, patient="").values["label"] == "a"


def test_a_patient_beside_a_series_must_be_that_of_the_header(tmp_path: Path) -> None:
    error = case_refusal(tmp_path, {"series_uid": "9.9"}, {"series_uid": "1.5", "patient_id": "P2"})
    assert error.code == "patient-conflict"
    assert "row 3" in error.sentence
    assert "P2" not in str(error) + error.hint


def test_two_rows_cannot_give_a_case_to_two_patients(tmp_path: Path) -> None:
    rows = [{"series_uid": "1.5", "patient_id": "P1"}, {"study_uid": "1.2", "patient_id": "P2"}]
    assert case_refusal(tmp_path, *rows, patient="").code == "patient-conflict"


def test_columns_go_by_the_names_that_the_file_uses(tmp_path: Path) -> None:
    row = {"site": "x", "Series": "1.5", "diagnosis": "a", "group": "g", "number": "06", "label": "not this"}
    columns = {"series_uid": ("Series",), "label": ("diagnosis",), "patient_id": ("group", "number")}
    said = about(labels(tmp_path, row, columns=columns), tmp_path, patient="")
    assert said.values == {"label": "a"}
    assert said.patient == SALT.person("g", "06")


def test_several_columns_are_joined_in_their_order(tmp_path: Path) -> None:
    row = {"folder": "x", "name": "a.png", "first": "a", "second": "", "third": "c"}
    columns = {"file": ("folder", "name"), "label": ("first", "second", "third")}
    said = labels(tmp_path, row, columns=columns)
    assert list(said.names.values()) == ["x/a.png"]
    ((saying,),) = said.sayings.values()
    assert saying.values["label"] == "a;c"


def test_only_rows_with_the_wanted_values_count(tmp_path: Path) -> None:
    rows = [{"site": "x", "file": "a.png", "label": "a"}, {"site": "y", "file": "a.png", "label": "b"}]
    assert about(labels(tmp_path, *rows, where={"site": "y"}), tmp_path).values["label"] == "b"


def test_a_value_that_no_row_has_is_refused_and_none_of_those_that_it_has_are_told(tmp_path: Path) -> None:
    rows = [{"patient_id": "Mueller^Anna", "file": "a.png"}, {"patient_id": "Smith^Jane", "file": "b.png"}]
    error = table_refusal(tmp_path, *rows, where={"patient_id": "Mueller"})
    assert error.code == "table-no-rows"
    assert "which has 2 others in 2 rows" in error.sentence
    assert not any(name in error.sentence + error.hint for name in ("Mueller", "Anna", "Smith", "Jane"))


@pytest.mark.parametrize("content", ["", "file,label\n", "file,label\n\n"])
def test_a_table_without_rows_is_no_table(tmp_path: Path, content: str) -> None:
    (tmp_path / "labels.csv").write_text(content)
    with pytest.raises(SiteDataError, match=r"labels\.csv has no row below its header") as caught:
        read_labels([Table(tmp_path / "labels.csv")], (), SALT)
    assert caught.value.code == "table-no-rows"


def test_masks_of_rows_that_do_not_count_are_masks_all_the_same(tmp_path: Path) -> None:
    rows = [{"site": "x", "file": "a.png", "mask": "m.png"}, {"site": "y", "file": "b.png", "mask": "n.png"}]
    said = labels(tmp_path, *rows, where={"site": "x"})
    assert {Path(path).name for path in said.masks} == {"m.png", "n.png"}
    assert list(said.names.values()) == ["a.png"]


def test_a_dropped_label_leaves_its_case_out(tmp_path: Path) -> None:
    rows = [{"file": "a.png", "label": "normal"}, {"patient_id": "P1", "label": "benign"}]
    assert about(labels(tmp_path, *rows, drop_labels=("normal",)), tmp_path).dropped
    assert not about(labels(tmp_path, *rows, drop_labels=("benign",)), tmp_path).dropped


@pytest.mark.parametrize("path", ["./a.png", "a.png", ".//a.png"])
def test_a_path_has_one_name_however_it_is_written(tmp_path: Path, path: str) -> None:
    said = labels(tmp_path, {"file": path})
    assert said.names == {f"{tmp_path.resolve()}/a.png": "a.png"}


@pytest.mark.parametrize("column", ["file", "mask"])
@pytest.mark.parametrize("path", ["../x.png", "/x.png", "C:\\x.png"])
def test_a_path_that_leaves_the_folder_refuses_the_table(tmp_path: Path, column: str, path: str) -> None:
    error = table_refusal(tmp_path, {"series_uid": "1.5"}, {"series_uid": "1.6", column: path})
    assert error.code == "path-outside"
    assert "row 3" in error.sentence


def test_a_row_about_nothing_is_refused_and_an_empty_one_passed_over(tmp_path: Path) -> None:
    error = table_refusal(tmp_path, {"series_uid": "1.5"}, {"series_uid": "", "label": "Doe"})
    assert error.code == "row-without-key"
    assert "row 3" in error.sentence
    assert "Doe" not in str(error) + error.hint
    assert len(labels(tmp_path, {"series_uid": "1.5", "label": "a"}, {"series_uid": ""}).sayings) == 1


@pytest.mark.parametrize(
    "how",
    [
        {},
        {"columns": {"series_uid": ("uid",)}},
        {"columns": {"file": ("name", "no such")}},
        {"columns": {"file": ("name",)}, "where": {"site": "x"}},
    ],
)
def test_a_table_without_a_column_that_it_needs_is_refused(tmp_path: Path, how: dict[str, Any]) -> None:
    assert table_refusal(tmp_path, {"name": "a.png", "label": "a"}, **how).code == "table-column"


def test_a_column_to_report_by_may_be_missing(tmp_path: Path) -> None:
    assert about(labels(tmp_path, {"file": "a.png"}), tmp_path).values == {}


def test_without_tables_nothing_is_said(tmp_path: Path) -> None:
    said = about(read_labels([], (), SALT), tmp_path)
    assert (said.values, said.patient, said.dropped) == ({}, SALT.person("P1"), False)


def test_two_tables_are_read_as_one(tmp_path: Path) -> None:
    first = Table(write_csv(tmp_path / "1.csv", [{"file": "a.png", "label": "a"}]))
    second = Table(write_csv(tmp_path / "2.csv", [{"patient_id": "P1", "sex": "M"}]))
    said = read_labels([first, second], ("sex",), SALT)
    assert about(said, tmp_path).values == {"label": "a", "sex": "M"}
    assert said.by_file


def test_sites_are_the_values_of_their_column_sorted(tmp_path: Path) -> None:
    table = Table(write_csv(tmp_path / "t.csv", [{"site": "b"}, {"site": "a"}, {"site": "b"}]))
    assert sites_in(table, "site") == ("a", "b")
    with pytest.raises(SiteDataError):
        sites_in(table, "centre")
    with pytest.raises(SiteDataError):
        sites_in(Table(tmp_path / "none.csv"), "site")


def test_no_identifier_of_a_table_shows_in_what_was_read(tmp_path: Path) -> None:
    said = labels(tmp_path, {"series_uid": "1.2.840.99", "patient_id": "MRN-4711", "mask": "Doe/m.png", "file": ""})
    assert not [text for text in ("840.99", "4711", "Doe") if text in repr(said)]
