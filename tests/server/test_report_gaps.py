"""Subgroups, the matrix and findings: what is told is drawn, what is withheld is said, and nothing by colour alone."""

import re
from collections.abc import Mapping
from dataclasses import replace
from itertools import product
from typing import Any
from xml.etree import ElementTree as ET

import pytest
from classified_runs import CLASSIFIED, CROSSED, FAULTS, classified, crossed, finding, measures, subgroups
from hypothesis import given
from hypothesis import strategies as st
from report_runs import interval

from server.report import gap_figures, looks, matrix_figure, more_tables, panels, svg
from server.report.page import render
from server.report.run import Run
from server.results import Results
from shared.evaluation import subgroup_metrics
from shared.plan import parse

SVG = "{http://www.w3.org/2000/svg}"


def run(found: Results | None = None) -> Run:
    return Run(parse(CLASSIFIED), CLASSIFIED, found or classified(), ())


def with_final(**changed: Any) -> Run:
    found = classified()
    return run(replace(found, final={**found.final, **changed}))


def tree(drawing: svg.Drawing) -> ET.Element:
    return ET.fromstring(svg.to_svg(drawing))  # noqa: S314 - our own text


def words(drawing: svg.Drawing) -> list[str]:
    return [element.text or "" for element in tree(drawing).iter(f"{SVG}text")]


# --- subgroups


def test_the_word_for_withheld_is_that_of_the_evaluation() -> None:
    assert gap_figures.SUPPRESSED == subgroup_metrics.SUPPRESSED


def test_levels_stand_in_the_order_of_the_plan_with_those_of_no_plan_last() -> None:
    assert [level for level, _ in gap_figures.levels_of(run(), "sex")] == ["F", "M", "other", "unknown"]
    turned = CLASSIFIED.replace('["F", "M"]', '["M", "F"]')
    other = Run(parse(turned), turned, classified(), ())
    assert [level for level, _ in gap_figures.levels_of(other, "sex")][:2] == ["M", "F"]


def test_a_gap_is_that_to_all_other_patients() -> None:
    found = {gap.level: gap for gap in gap_figures.gaps_of(run(), "sex", "auroc")}
    assert (found["F"].against_rest.value, found["F"].against_rest.low) == (-0.09, -0.15)
    assert found["other"].why == "suppressed"
    assert "unknown" not in found, "of whom a column is unknown are not a group"


def test_a_level_without_patients_is_no_row_and_one_withheld_is_not_called_empty() -> None:
    assert gap_figures.nobody({"auroc": {"value": None, "n_patients": 0}})
    assert not gap_figures.nobody("suppressed")
    assert not gap_figures.nobody({"auroc": "suppressed"})
    assert not gap_figures.nobody(measures(0.7))


def test_a_gap_that_excludes_zero_has_another_mark_than_one_that_does_not() -> None:
    drawing = panels.gap_panels(run())["sex"].drawn
    uses = [use for use in tree(drawing).iter(f"{SVG}use") if "--rule" not in use.get("style", "")]
    shapes = {use.get("href") or use.get("{http://www.w3.org/1999/xlink}href") for use in uses}
    assert len(uses) == 2
    assert len(shapes) == 2


def test_the_gap_figure_says_its_numbers_with_their_sign() -> None:
    drawing = panels.gap_panels(run())["sex"].drawn
    shown = words(drawing)
    assert "\N{MINUS SIGN}0.090 (\N{MINUS SIGN}0.150 to \N{MINUS SIGN}0.030)" in shown
    assert "+0.090 (\N{MINUS SIGN}0.010 to +0.190)" in shown
    assert "suppressed" in shown
    assert all(text in drawing.alt for text in ("F: \N{MINUS SIGN}0.090", "other: suppressed"))


@pytest.mark.parametrize(("better", "left"), [("higher", "worse"), ("lower", "better")])
def test_the_side_on_which_a_group_fares_worse_is_named(better: Any, left: str) -> None:
    gaps = gap_figures.gaps_of(run(), "sex", "auroc")
    found = tree(gap_figures.gap_chart("gaps", "by sex", "auroc", gaps, better))
    texts = {element.text: float(element.get("x", "")) for element in found.iter(f"{SVG}text")}
    right = {"worse": "better", "better": "worse"}[left]
    assert texts[left] < texts[right]


def test_a_metric_that_tells_no_gap_gives_way_to_the_next() -> None:
    block = subgroups()
    block["sex"]["gaps"]["rest"] = {
        level: {
            "auroc": interval(0.1, 0.05, 52) if level == "F" else {"value": None},
            "brier": interval(0.02, 0.05, 52),
        }
        for level in ("F", "M")
    }
    assert panels.gap_panels(with_final(subgroups=block))["sex"].title == "Brier score by sex: gaps"


def test_a_column_of_which_nothing_is_told_has_no_figure_but_its_table() -> None:
    block = {"sex": {"F": "suppressed", "M": "suppressed", "gaps": {"range": {}, "rest": {}}}}
    found = with_final(subgroups=block)
    assert panels.gap_panels(found) == {}
    [(_, table)] = more_tables.subgroup_tables(found)
    assert {cell.text for _, cells in table.rows for cell in cells} == {"suppressed"}


def test_a_column_without_any_patient_has_neither() -> None:
    nobody = {"auroc": {"value": None, "low": None, "high": None, "n_patients": 0}}
    found = with_final(subgroups={"sex": {"F": nobody, "M": nobody}})
    assert list(more_tables.subgroup_tables(found)) == []
    assert "Subgroups of patients" not in render(found)


# --- a threshold


def test_the_operating_point_has_a_row_for_all_patients_and_for_each_site() -> None:
    table = more_tables.operating_point_table(run())
    assert table is not None
    assert table.columns == ("Patients", "Sensitivity", "Specificity")
    assert [name for name, _ in table.rows] == ["All patients", *CROSSED]
    assert "0.210" in table.note


def test_measures_at_a_threshold_stand_by_finding_in_the_order_of_reading() -> None:
    names = [
        f"{short}_{name}" for short, name in product(("npv", "ppv", "sensitivity", "specificity"), ("mass", "node"))
    ]
    block = {"thresholds": {"mass": 0.2, "node": 0.3}, "pooled": {name: interval(0.5, 0.1, 9) for name in names}}
    table = more_tables.operating_point_table(with_final(operating_point=block))
    assert table is not None
    assert table.columns[1:3] == ("Sensitivity, mass", "Specificity, mass")
    assert table.columns[-1] == "Right when it says no (NPV), node"


# --- the matrix


def cells(drawing: svg.Drawing) -> dict[str, ET.Element]:
    """Groups of the texts in cells by their place."""
    groups = (group for group in tree(drawing).iter(f"{SVG}g") if f"-{matrix_figure.CELL}-" in group.get("id", ""))
    return {group.get("id", "").split(f"{matrix_figure.CELL}-")[1]: group for group in groups}


def test_every_cell_shows_the_number_of_the_table() -> None:
    figure = panels.matrix_panel(run())
    assert figure is not None
    found = cells(figure.drawn)
    assert len(found) == len(CROSSED) ** 2
    for (row, model), (column, site) in product(enumerate(CROSSED), enumerate(CROSSED)):
        value = crossed()[model][site].get("auroc", {}).get("value")
        text = next(found[f"{row}-{column}"].iter(f"{SVG}text")).text
        assert text == ("\N{EN DASH}" if value is None else f"{value:.2f}")


def test_the_text_alternative_of_the_matrix_reads_it_row_by_row() -> None:
    figure = panels.matrix_panel(run())
    assert figure is not None
    assert "Trained at hrf: not measured at chase, 0.86 at drive, 0.90 at hrf" in figure.drawn.alt


@given(st.floats(0, 1))
def test_text_in_a_cell_can_be_read_on_every_shade(share: float) -> None:
    colour = matrix_figure.shade_of(share)
    assert matrix_figure.contrast(colour, matrix_figure.text_on(colour)) >= matrix_figure.LEAST_CONTRAST


def test_contrast_is_that_of_wcag() -> None:
    assert matrix_figure.contrast("#000000", "#ffffff") == pytest.approx(21)
    assert matrix_figure.contrast("#777777", "#ffffff") == pytest.approx(4.48, abs=0.01)


@pytest.mark.parametrize("better", ["higher", "lower"])
def test_darker_is_better(better: Any) -> None:
    found = {"a": {"a": {"auroc": 0.9}, "b": {"auroc": 0.5}}, "b": {"a": {"auroc": 0.6}, "b": {"auroc": 0.7}}}
    text = svg.to_svg(matrix_figure.matrix_chart("m", "auroc", found, better))
    drawn = re.findall(r"fill: (#[0-9a-f]{6})", text)
    best, worst = matrix_figure.shade_of(1), matrix_figure.shade_of(0)
    order = [colour for colour in drawn if colour in {best, worst}]
    assert order[:2] == ([best, worst] if better == "higher" else [worst, best])


def test_equal_values_are_one_shade_and_nothing_is_divided_by_zero() -> None:
    found = {"a": {"a": {"auroc": 0.8}, "b": {"auroc": 0.8}}, "b": {"a": {"auroc": 0.8}, "b": {"auroc": 0.8}}}
    assert svg.to_svg(matrix_figure.matrix_chart("m", "auroc", found)).count(matrix_figure.shade_of(0.35)) == 4


def test_more_sites_than_fit_have_the_table_alone() -> None:
    sites = [f"site-{place:02}" for place in range(matrix_figure.MOST_SITES + 1)]
    found = run(
        replace(classified(), baselines={"cross_site": {one: {two: measures(0.8) for two in sites} for one in sites}})
    )
    assert panels.matrix_panel(found) is None
    assert more_tables.cross_site_table(found) is not None


def test_names_that_differ_in_their_end_stay_apart() -> None:
    found = {name: {name: {"auroc": 0.8}} for name in ("hospital_of_logiq5", "hospital_of_logiq7")}
    shown = words(matrix_figure.matrix_chart("m", "auroc", found))
    assert len({text for text in shown if "logiq" in text}) == 2


# --- findings


def told(*codes: str) -> list[looks.Look]:
    return looks.looks(run(classified(*codes)))


def test_without_a_finding_nothing_is_shown() -> None:
    assert told() == []
    assert "What deserves a look" not in render(run())


@pytest.mark.parametrize("code", FAULTS)
def test_every_planted_fault_has_a_name_a_sentence_and_something_to_do(code: str) -> None:
    [look] = told(code)
    assert look.title == looks.ADVICE[code].title
    assert look.sentence == "Stare looks odd over 40 patients."
    assert look.chance == "below 0.1 %"
    assert len(look.todo) > 60


def test_faults_are_told_apart() -> None:
    found = [looks.ADVICE[code] for code in FAULTS]
    assert len({advice.title for advice in found}) == len({advice.todo for advice in found}) == len(FAULTS)


def test_a_code_that_nobody_put_into_words_is_still_told() -> None:
    [look] = told("scanner-unknown")
    assert look.title == "Scanner unknown"
    assert "repeat the run" in look.todo


@pytest.mark.parametrize(("p", "shown"), [(0.0004, "below 0.1 %"), (0.0075, "0.8 %"), (None, "")])
def test_a_chance_is_said_in_per_cent_or_not_at_all(p: float | None, shown: str) -> None:
    found: Mapping[str, Any] = {"data": [], "findings": [finding("one-class", p=p)]}
    assert looks.looks(run(replace(classified(), checks=found)))[0].chance == shown


def test_findings_stand_before_the_results_and_are_reached_from_the_top() -> None:
    page = render(run(classified("labels-flipped")))
    assert page.index('id="looks"') < page.index('id="results"')
    assert '<a href="#looks">What deserves a look</a>' in page


def test_a_hostile_finding_is_shown_and_never_run() -> None:
    bad = finding("<b>x</b>", '<img src=x onerror="y">')
    page = render(run(replace(classified(), checks={"findings": [bad]})))
    assert "<img src" not in page
    assert "<b>x" not in page.lower()
