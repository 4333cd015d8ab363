from pathlib import Path

import pytest

from client.data.source.tables import named, read_table, require_inside
from shared.errors import SiteDataError


def table(folder: Path, content: bytes) -> Path:
    path = folder / "t.csv"
    path.write_bytes(content)
    return path


def refusal(path: Path, *required: str) -> SiteDataError:
    with pytest.raises(SiteDataError) as caught:
        read_table(path, required)
    return caught.value


def test_rows_are_text_by_column_stripped_with_the_number_a_spreadsheet_shows(tmp_path: Path) -> None:
    rows = read_table(table(tmp_path, b'a, b\n1 , x\n\n2,"y, z"\n'), ("a", "b"))
    assert [(row.number, row.values) for row in rows] == [(2, {"a": "1", "b": "x"}), (4, {"a": "2", "b": "y, z"})]


def test_a_cell_that_spans_lines_is_one_row(tmp_path: Path) -> None:
    rows = read_table(table(tmp_path, b'a\n"one\ntwo"\nthree\n'), ("a",))
    assert [(row.number, row.get("a")) for row in rows] == [(2, "one\ntwo"), (3, "three")]


def test_a_byte_order_mark_as_spreadsheets_write_it_is_no_part_of_the_first_column(tmp_path: Path) -> None:
    rows = read_table(table(tmp_path, b"\xef\xbb\xbfa,b\r\n1,2\r\n"), ("a",))
    assert rows[0].get("a") == "1"


def test_a_column_that_is_not_there_reads_as_empty(tmp_path: Path) -> None:
    assert read_table(table(tmp_path, b"a\n1\n"), ())[0].get("label") == ""


def test_a_table_with_a_header_alone_has_no_rows(tmp_path: Path) -> None:
    assert read_table(table(tmp_path, b"a,b\n"), ("a",)) == []


@pytest.mark.parametrize(
    ("content", "code"),
    [
        (b"", "table-column"),
        (b"b\n1\n", "table-column"),
        (b"a,a\n1,2\n", "table-column"),
        (b"a,b\n1\n", "table-row"),
        (b"a,b\n1,2,3\n", "table-row"),
        (b"a\n\xff\xfe\n", "table-unreadable"),
        (b'a\n"1" 2\n', "table-unreadable"),
        (b'a\n"never closed\n', "table-unreadable"),
        (b"a\n" + b"1" * 200_000 + b"\n", "table-unreadable"),
    ],
)
def test_a_table_that_cannot_be_used_is_refused_under_a_code(tmp_path: Path, content: bytes, code: str) -> None:
    assert refusal(table(tmp_path, content), "a").code == code


def test_a_missing_table_says_which_columns_it_needs(tmp_path: Path) -> None:
    error = refusal(tmp_path / "none.csv", "site", "image")
    assert error.code == "table-missing"
    assert "site, image" in error.hint


def test_a_folder_in_place_of_a_table_is_refused(tmp_path: Path) -> None:
    (tmp_path / "t.csv").mkdir()
    assert refusal(tmp_path / "t.csv").code == "table-unreadable"


def test_a_refusal_names_the_row_and_not_what_it_holds(tmp_path: Path) -> None:
    error = refusal(table(tmp_path, b"a,b\n1,2\nDoe^Jane\n"), "a")
    assert "row 3" in error.sentence
    assert "Doe" not in str(error) + error.hint


@pytest.mark.parametrize("text", ["images/a.png", "a.png", "./a.png", "deep/er/still.nii.gz", "not there.png"])
def test_a_relative_path_is_taken_within_the_folder(tmp_path: Path, text: str) -> None:
    path = named(tmp_path, text, 2)
    assert path == str(tmp_path / text)
    require_inside(tmp_path, path, 2)


@pytest.mark.parametrize(
    "text", ["../secret", "a/../../secret", "a/../b", "/etc/passwd", "C:/Windows", "c:secret", "nul\0byte"]
)
def test_a_path_that_says_it_leaves_the_folder_is_refused(tmp_path: Path, text: str) -> None:
    with pytest.raises(SiteDataError) as caught:
        named(tmp_path, text, 7)
    assert caught.value.code == "path-outside"
    assert "row 7" in caught.value.sentence
    assert text not in caught.value.sentence


@pytest.mark.parametrize("text", ["out/passwd", "loop", "file"])
def test_a_path_that_a_link_takes_out_of_the_folder_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "out").symlink_to("/etc")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    (tmp_path / "file").symlink_to("/etc/passwd")
    with pytest.raises(SiteDataError) as caught:
        require_inside(tmp_path, named(tmp_path, text, 7), 7)
    assert caught.value.code == "path-outside"
    assert "row 7" in caught.value.sentence


def test_a_link_that_stays_in_the_folder_is_followed(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    require_inside(tmp_path, named(tmp_path, "link/a.png", 2), 2)
