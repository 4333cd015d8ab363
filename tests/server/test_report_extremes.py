"""Figures at their edges: a hundred sites, names that nobody expects, nothing known; words and pictures still agree."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from itertools import pairwise
from typing import Any
from xml.etree import ElementTree as ET

import numpy as np
import pytest
from classified_runs import crossed, curves, roc
from hypothesis import given, settings
from hypothesis import strategies as st
from report_runs import interval

from server.report import curve_figures, figures, svg
from server.report.curve_figures import Curves
from server.report.gap_figures import Gap, gap_chart
from server.report.matrix_figure import matrix_chart
from server.report.metrics import measure
from server.results import Participation

SVG = "{http://www.w3.org/2000/svg}"
HUNDRED = tuple(f"hospital-{place:03d}" for place in range(100))
ODD = ("<b>x</b>", "a & b", '"quoted"', "$E=mc^2$", "%d %s {x}", "Universitätsklinikum Köln", "x" * 300, " ", "]]>")
KNOWN = curves()

Draw = Callable[[str], svg.Drawing]


def tree(drawing: svg.Drawing) -> ET.Element:
    return ET.fromstring(svg.to_svg(drawing))  # noqa: S314 - our own text


def words(drawing: svg.Drawing) -> list[str]:
    return [element.text or "" for element in tree(drawing).iter(f"{SVG}text")]


def attended(*sites: str) -> svg.Drawing:
    return figures.attendance_chart("who", [Participation(at, sites, {}) for at in range(1, 4)])


def gap(level: str, value: float | None = 0.1) -> Gap:
    if value is None:
        return Gap(level, measure(None), "not determined")
    return Gap(level, measure({"value": value, "low": value - 0.05, "high": value + 0.05, "n_patients": 9}))


def matrix(*sites: str) -> dict[str, dict[str, Any]]:
    return {
        model: {site: {"auroc": interval(0.5 + 0.01 * (row + column), 0.02, 9)} for column, site in enumerate(sites)}
        for row, model in enumerate(sites)
    }


DRAWN: dict[str, Draw] = {
    "roc": lambda name: curve_figures.roc_chart("f", Curves({"": roc()}, {name: {"": roc(0.7)}})),
    "finding": lambda name: curve_figures.roc_chart("f", Curves({name: roc(), "other": roc(0.7)}, {})),
    "decision": lambda name: curve_figures.decision_chart("f", name, KNOWN["decision"][""]),
    "gap": lambda name: gap_chart("f", "by sex", "auroc", [gap(name), gap("other")]),
    "matrix": lambda name: matrix_chart("f", "auroc", matrix(name, "other")),
    "attendance": lambda name: attended(name, "other"),
}


@pytest.mark.parametrize("figure", sorted(DRAWN))
@pytest.mark.parametrize("name", ODD, ids=range(len(ODD)))
def test_a_name_that_nobody_expects_is_told_whole_and_breaks_no_figure(figure: str, name: str) -> None:
    drawing = DRAWN[figure](name)
    root = tree(drawing)
    assert root.get("aria-label") == drawing.alt
    assert {element.tag.removeprefix(SVG) for element in root.iter()}.isdisjoint({"b", "script", "a"})
    assert name in drawing.alt


@pytest.mark.parametrize("figure", sorted(set(DRAWN) - {"decision"}))
def test_a_name_of_three_hundred_letters_is_cut_in_the_picture_and_only_there(figure: str) -> None:
    drawing = DRAWN[figure]("x" * 300)
    assert max(map(len, words(drawing))) < 60
    assert "x" * 300 in drawing.alt


# --- a hundred sites -------------------------------------------------------------------------------------------------


def test_a_hundred_sites_are_all_told_in_the_words_of_a_curve_and_none_is_named_in_the_picture() -> None:
    found = {site: {"": roc(0.55 + 0.004 * place)} for place, site in enumerate(HUNDRED)}
    drawing = curve_figures.roc_chart("roc", Curves({"": roc()}, found))
    said = re.findall(r"(hospital-\d{3}): area (\d\.\d\d)", drawing.alt)
    assert [site for site, _ in said] == list(HUNDRED)
    areas = [float(area) for _, area in said]
    assert all(before <= after for before, after in pairwise(areas))
    assert not any("hospital" in word for word in words(drawing))


def test_of_a_hundred_sites_as_many_curves_are_drawn() -> None:
    def lines(count: int) -> int:
        found = {site: {"": roc(0.7)} for site in HUNDRED[:count]}
        drawing = curve_figures.roc_chart("roc", Curves({"": roc()}, found))
        return sum("stroke-width: 1.1" in path.get("style", "") for path in tree(drawing).iter(f"{SVG}path"))

    assert lines(100) - lines(50) == 50


def test_a_hundred_groups_have_a_row_each_and_no_two_share_a_height() -> None:
    drawing = gap_chart("gap", "by hospital", "auroc", [gap(site, 0.001 * at) for at, site in enumerate(HUNDRED)])
    assert all(site in drawing.alt for site in HUNDRED)
    assert drawing.frame.height > 100 * 20
    assert [word for word in words(drawing) if word.startswith("hospital")] == list(HUNDRED)


@pytest.mark.parametrize("count", [1, 2, 12])
def test_every_cell_of_a_matrix_is_in_its_words_in_the_same_order(count: int) -> None:
    sites = HUNDRED[:count]
    drawing = matrix_chart("m", "auroc", matrix(*sites))
    told = re.findall(r"(\d\.\d\d) at", drawing.alt)
    shown = [word for word in words(drawing) if re.fullmatch(r"\d\.\d\d", word)]
    assert told == shown == [f"{0.5 + 0.01 * (row + column):.2f}" for row in range(count) for column in range(count)]


# --- nothing known ---------------------------------------------------------------------------------------------------


def test_a_pair_that_was_not_measured_is_a_dash_and_is_said_to_be_unmeasured() -> None:
    found = crossed()
    drawing = matrix_chart("m", "auroc", found)
    missing = sum("auroc" not in cell for row in found.values() for cell in row.values())
    assert missing == drawing.alt.count("not measured") == 1
    assert sum(bool(re.fullmatch(r"\d\.\d\d", word)) for word in words(drawing)) == 16 - missing


def test_a_matrix_of_nothing_is_drawn_without_a_number() -> None:
    drawing = matrix_chart("m", "auroc", {site: {} for site in HUNDRED[:3]})
    assert drawing.alt.count("not measured") == 9
    assert not any(re.search(r"\d\.\d\d", word) for word in words(drawing))


def test_groups_of_which_nothing_is_known_have_a_row_with_the_reason_and_no_mark() -> None:
    drawing = gap_chart("g", "by sex", "auroc", [gap("F", None), gap("M", None)])
    assert words(drawing).count("not determined") == 2
    assert "nan" not in svg.to_svg(drawing).lower()


def test_bins_that_are_all_withheld_are_said_to_be_too_few() -> None:
    empty = {"": {"score": [None] * 10, "observed": [None] * 10}}
    drawing = curve_figures.reliability_chart("r", empty, empty)
    assert "too few images to tell" in drawing.alt
    assert "nan" not in svg.to_svg(drawing).lower()


@settings(max_examples=6, deadline=None)
@given(st.lists(st.floats(-0.4, 0.4), min_size=1, max_size=5))
def test_the_numbers_beside_the_marks_are_the_gaps_with_their_signs(values: list[float]) -> None:
    drawing = gap_chart("g", "by age", "auroc", [gap(f"level-{at}", value) for at, value in enumerate(values)])
    rows = [word for word in words(drawing) if re.match(r"[+\u2212-]?\d\.\d+ \(", word)]
    told = [float(row.split()[0].replace("\N{MINUS SIGN}", "-")) for row in rows]
    assert told == pytest.approx(values, abs=6e-4)


@given(st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1)), min_size=2, max_size=30))
def test_an_area_is_that_between_the_points_whichever_way_they_are_listed(points: list[tuple[float, float]]) -> None:
    across, up = sorted((x for x, _ in points), reverse=True), [y for _, y in points]
    found = curve_figures.area_under({"x": across, "y": up}, "x", "y")
    back = curve_figures.area_under({"x": across[::-1], "y": up[::-1]}, "x", "y")
    by_hand = math.fsum((b - a) * (u + v) / 2 for (a, u), (b, v) in pairwise(zip(across[::-1], up[::-1], strict=True)))
    assert found == pytest.approx(back) == pytest.approx(by_hand, abs=1e-9)
    assert 0 <= found <= 1 + 1e-9


def test_a_threshold_that_is_not_told_is_a_gap_in_the_line_and_not_a_bridge() -> None:
    whole = KNOWN["decision"][""]
    holed = {**whole, "model": [*whole["model"][:9], None, *whole["model"][10:]]}

    def strokes(points: Any) -> int:
        drawing = curve_figures.decision_chart("d", "", points)
        path = next(one for one in tree(drawing).iter(f"{SVG}path") if "stroke-width: 2.4" in one.get("style", ""))
        return len(re.findall("M", path.get("d", "")))

    assert (strokes(whole), strokes(holed)) == (1, 2)


def test_the_thresholds_at_which_the_model_is_worth_it_are_those_where_its_line_is_highest() -> None:
    points = KNOWN["decision"][""]
    at, model, everybody = (np.array(points[name]) for name in ("threshold", "model", "treat_all"))
    better = at[model > np.maximum(0.0, everybody)]
    said = curve_figures.decision_chart("d", "", points).alt
    assert f"at thresholds from {better.min():.2f} to {better.max():.2f}" in said
