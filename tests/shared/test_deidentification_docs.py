"""The page on de-identification says what the code does."""

import re
from pathlib import Path

import pytest

from docs.parts import deidentification as parts
from shared.preprocessing.deidentification import DATES, EDITION, KEPT, Row

PAGE = (Path(__file__).parents[2] / "docs" / "deidentification.md").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("name", "table"), [("kept attributes", parts.kept_table()), ("kept dates", parts.dates_table())]
)
def test_the_tables_of_the_page_are_those_of_the_code(name: str, table: str) -> None:
    (found,) = re.findall(rf"<!-- generated: {name} -->\n(.*?)<!-- end -->", PAGE, re.DOTALL)
    assert found == table, "run: make docs"


@pytest.mark.parametrize("row", [*KEPT, *DATES], ids=lambda row: row.attribute)
def test_a_row_of_the_page_cites_the_standard_and_gives_a_reason(row: Row) -> None:
    (line,) = [line for line in PAGE.splitlines() if line.startswith(f"| `{row.attribute}` |")]
    cells = [cell.strip() for cell in line.strip("|").split("|")]
    assert cells[1:3] == [row.keyword, f"({row.tag >> 16:04X},{row.tag & 0xFFFF:04X})"]
    assert cells[4] == "not listed in Table E.1-1" or re.match(r"[XZ](/[ZD])?; ", cells[4])
    assert cells[5]


def test_the_page_names_the_edition_that_was_checked() -> None:
    assert f"as published in {EDITION}" in " ".join(PAGE.split())
