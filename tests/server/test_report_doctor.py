"""The table of what sites' data doctors found: every finding, in words, by site or by how many sites."""

from collections.abc import Mapping
from dataclasses import replace

import pytest
from report_runs import PLAN_TEXT, results

from server.report import words
from server.report.doctor import FINDINGS, MOST_SITES, doctor_table
from server.report.metrics import DASH
from server.report.page import render
from server.report.run import Run
from server.report.tables import Table
from server.results import Noted, SiteData
from shared.plan import parse

Doctor = Mapping[str, Noted]

EMPTY, SPECKS, SPELLING = Noted("error", 4), Noted("warning", "<3"), Noted("warning", 0)
DROPPED = Noted("note", 0)
FOUND: Mapping[str, Doctor] = {
    "chase": {"mask-tiny-islands": SPECKS, "identifying-content-dropped": DROPPED},
    "drive": {},
    "stare": {"mask-empty": EMPTY, "mask-tiny-islands": Noted("warning", 12), "label-spelling": SPELLING},
}


def run_of(found: Mapping[str, Doctor], cohort: str = "c" * 64) -> Run:
    data = {site: SiteData(40, 40, {}, cohort, doctor) for site, doctor in found.items()}
    return Run(parse(PLAN_TEXT), PLAN_TEXT, replace(results(), data=data), ())


def table_of(found: Mapping[str, Doctor]) -> Table:
    table = doctor_table(run_of(found))
    assert table is not None
    return table


def texts(table: Table) -> dict[str, list[str]]:
    return {name: [cell.text for cell in cells] for name, cells in table.rows}


def test_every_finding_is_a_row_in_words_the_gravest_first() -> None:
    table = table_of(FOUND)
    assert table.columns == ("Finding", "Severity", "chase", "drive", "stare")
    assert texts(table) == {
        "Empty masks": ["error", DASH, DASH, "4"],
        "Labels in different spellings": ["warning", DASH, DASH, "yes"],
        "Masks with specks of a few voxels": ["warning", "<3", DASH, "12"],
        "Identifying content in headers, not taken over": ["note", "yes", DASH, DASH],
    }
    assert list(texts(table)) == [name for name, _ in table.rows]


def test_one_code_of_two_severities_has_two_rows() -> None:
    table = table_of({"a": {"mask-empty": Noted("error", 5)}, "b": {"mask-empty": Noted("note", 7)}})
    assert [[cell.text for cell in cells] for _, cells in table.rows] == [["error", "5", DASH], ["note", DASH, "7"]]


def test_a_code_without_words_of_its_own_is_shown_as_it_is() -> None:
    assert list(texts(table_of({"a": {"gantry-on-fire": EMPTY}}))) == ["Gantry on fire"]


def test_of_many_sites_the_number_that_share_a_finding_is_told() -> None:
    many = {f"site-{number}": ({"mask-empty": EMPTY} if number < 5 else {}) for number in range(MOST_SITES + 1)}
    table = table_of(many)
    assert table.columns == ("Finding", "Severity", "Sites")
    assert texts(table) == {"Empty masks": ["error", f"5 of {MOST_SITES + 1}"]}
    fewer = dict(list(many.items())[1:])
    assert table_of(fewer).columns[2:] == tuple(fewer)


def test_where_no_doctor_looked_there_is_neither_table_nor_sentence() -> None:
    unseen = run_of(FOUND, cohort="")
    assert doctor_table(unseen) is None
    assert words.doctor(unseen) == ""
    assert "data doctor" not in render(unseen)


def test_a_doctor_who_found_nothing_is_told_and_has_no_table() -> None:
    healthy = run_of({"chase": {}, "drive": {}})
    assert doctor_table(healthy) is None
    assert "errors at no sites and warnings at no sites" in words.doctor(healthy)
    assert "data doctor looked" in render(healthy)


@pytest.mark.parametrize(
    ("found", "said"),
    [
        (
            FOUND,
            "the images of three sites, and each of them froze its cohort. It found errors at one site and warnings",
        ),
        (FOUND, "warnings at two sites."),
        ({"a": {"x": DROPPED}}, "errors at no sites and warnings at no sites"),
    ],
)
def test_the_sentence_counts_sites_by_the_gravest_of_their_findings(found: Mapping[str, Doctor], said: str) -> None:
    assert said in words.doctor(run_of(found))


def test_the_page_shows_the_table_and_nothing_that_a_site_did_not_release() -> None:
    page = render(run_of(FOUND))
    assert "What each site&#39;s data doctor found" in page
    assert "Masks with specks of a few voxels" in page
    assert "&lt;3" in page
    assert "stands for 1 or 2" in page


def test_no_two_findings_share_their_words() -> None:
    assert len(set(FINDINGS.values())) == len(FINDINGS)
