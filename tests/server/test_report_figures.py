"""Figures: drawn where the numbers are, readable without eyes or colour, self-contained, the same bytes each time."""

import base64
import io
import math
import re
from collections.abc import Sequence
from functools import cache
from itertools import pairwise
from xml.etree import ElementTree as ET

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image as Picture
from report_runs import attendance, phantoms

from server.report import examples, figures, svg
from server.report.figures import Line, Row, apart, runs_of
from server.report.metrics import Measure
from server.results import Participation

SVG = "{http://www.w3.org/2000/svg}"
NAMES = ("dots", "lines", "bars", "phantom")
ROWS = (
    Row("Federation", (("federation", Measure(0.79, 0.77, 0.81)),)),
    Row("stare alone", (("local", Measure(0.54, 0.51, 0.57)),)),
    Row("hrf alone", (("local", Measure(0.70)),)),
)
LINES = (
    Line("all sites", (1, 5, 10), (0.3, 0.6, 0.8), (0.2, 0.5, 0.7), (0.4, 0.7, 0.9)),
    Line("drive", (1, 5, 10), (0.35, 0.65, 0.82)),
    Line("stare", (1, 10), (0.2, 0.7)),
)


def dot_chart(name: str, metric: str, rows: Sequence[Row], reference: Measure | None = None) -> str:
    return svg.to_svg(figures.dot_chart(name, metric, rows, reference))


def line_chart(name: str, alt: str, lines: Sequence[Line]) -> str:
    return svg.to_svg(figures.line_chart(name, alt, lines))


def attendance_chart(name: str, entries: Sequence[Participation]) -> str:
    return svg.to_svg(figures.attendance_chart(name, entries))


@cache
def drawings() -> dict[str, str]:
    return {
        "dots": dot_chart("dots", "dice", ROWS, Measure(0.79)),
        "lines": line_chart("lines", "Dice by round.", LINES),
        "bars": attendance_chart("bars", attendance()),
        "phantom": examples.picture(phantoms()[0]),
    }


def tree(drawing: str) -> ET.Element:
    return ET.fromstring(drawing)  # noqa: S314 - our own text


def texts(drawing: str) -> list[str]:
    return [element.text or "" for element in tree(drawing).iter(f"{SVG}text")]


def marks(drawing: str) -> list[tuple[float, float]]:
    """Centres of all markers but ticks, which lie on the axis in the colour of rules."""
    return [
        (float(use.get("x", "")), float(use.get("y", "")))
        for use in tree(drawing).iter(f"{SVG}use")
        if "--rule" not in use.get("style", "")
    ]


@pytest.mark.parametrize("name", NAMES)
def test_every_figure_is_well_formed_and_has_a_text_alternative(name: str) -> None:
    root = tree(drawings()[name])
    assert root.tag == f"{SVG}svg"
    assert root.get("role") == "img"
    assert len(root.get("aria-label", "")) > 10


def test_the_same_numbers_give_the_same_bytes() -> None:
    assert drawings.__wrapped__() == drawings()


@pytest.mark.parametrize("name", NAMES)
def test_no_figure_refers_to_anything_outside_itself(name: str) -> None:
    references = re.findall(r'(?:href="|url\()([^")]*)', drawings()[name])
    assert all(reference.startswith(("#", "data:image/png;base64,")) for reference in references)
    assert "<script" not in drawings()[name]
    assert "<style" not in drawings()[name]


@pytest.mark.parametrize("name", ["dots", "lines", "bars"])
def test_every_reference_inside_a_figure_has_a_target_that_carries_its_name(name: str) -> None:
    drawing = drawings()[name]
    targets = re.findall(r'\bid="([^"]*)"', drawing)
    references = re.findall(r'href="#([^"]*)|url\(#([^)]*)\)', drawing)
    assert references
    assert {a or b for a, b in references} <= set(targets)
    assert all(target.startswith(f"{name}-") for target in targets)
    assert len(targets) == len(set(targets))


def test_two_figures_share_no_identifier() -> None:
    first, second = (dot_chart(name, "dice", ROWS) for name in ("one", "two"))
    found = [set(re.findall(r'\bid="([^"]*)"', drawing)) for drawing in (first, second)]
    assert not found[0] & found[1]


def test_colours_of_the_page_are_variables_with_their_own_value_behind() -> None:
    drawing = drawings()["dots"]
    assert f"var(--accent, {svg.ACCENT})" in drawing
    assert not re.search(rf"(fill|stroke): {svg.ACCENT}", drawing)


def test_text_stays_text_in_the_pages_font() -> None:
    assert {"Federation", "stare alone", "hrf alone"} <= set(texts(drawings()["dots"]))
    assert "DejaVu" not in drawings()["dots"]


def test_names_are_neither_markup_nor_mathematics() -> None:
    hostile = '<script>alert("1")</script> & $x^2$'
    drawing = dot_chart("dots", "dice", [Row(hostile, (("local", Measure(0.5)),))])
    assert "<script" not in drawing
    assert texts(drawing)[-2] == hostile[:17] + "…" + hostile[-16:]
    assert hostile in tree(drawing).get("aria-label", "")


# --- dots


def test_dots_lie_on_one_scale_with_their_intervals_and_the_reference() -> None:
    drawing = drawings()["dots"]
    values = [0.79, 0.54, 0.70]
    places = [x for x, _ in marks(drawing)]
    slope, origin = np.polyfit(values, places, 1)
    np.testing.assert_allclose(places, slope * np.array(values) + origin, atol=1e-3)
    paths = [path.get("d", "") for path in tree(drawing).iter(f"{SVG}path")]
    horizontal = [re.findall(r"[ML] ([\d.]+) ([\d.]+)", path) for path in paths]
    found = {(round(float(a[0]), 2), round(float(b[0]), 2)) for a, b in (p for p in horizontal if len(p) == 2)}
    for low, high in ((0.77, 0.81), (0.51, 0.57)):
        assert (round(slope * low + origin, 2), round(slope * high + origin, 2)) in found
    reference = round(slope * 0.79 + origin, 2)
    assert (reference, reference) in found


def test_rows_stand_under_each_other_in_the_order_given() -> None:
    heights = [y for _, y in marks(drawings()["dots"])]
    assert heights == sorted(heights)
    assert {round(b - a) for a, b in pairwise(heights)} == {figures.ROW_PX}


def test_two_models_of_one_site_do_not_cover_each_other() -> None:
    row = Row("drive", (("federation", Measure(0.8)), ("personalised", Measure(0.8))))
    (_, first), (_, second) = marks(dot_chart("dots", "dice", [row]))
    assert second - first == pytest.approx(figures.MARK_PX)


def test_an_undetermined_value_is_told_and_has_no_dot() -> None:
    drawing = dot_chart(
        "dots", "dice", [Row("a", (("local", Measure(math.nan)),)), Row("b", (("local", Measure(0.5)),))]
    )
    assert len(marks(drawing)) == 1
    assert "\N{EN DASH}" in texts(drawing)


def test_a_chart_without_any_value_can_still_be_drawn() -> None:
    assert marks(dot_chart("dots", "dice", [Row("a", (("local", Measure(math.nan)),))])) == []


def test_the_text_alternative_of_dots_says_every_number() -> None:
    said = tree(drawings()["dots"]).get("aria-label", "")
    for part in ("Dice", "Federation: federation 0.790", "0.770", "0.810", "stare alone: local 0.540", "0.700"):
        assert part in said


def test_the_scale_does_not_leave_zero_to_one_for_proportions() -> None:
    drawing = dot_chart("dots", "dice", [Row("a", (("local", Measure(0.98, 0.90, 1.0)),))])
    shown = [float(text) for text in texts(drawing) if re.fullmatch(r"\d\.\d+", text)]
    assert max(shown) <= 1


# --- lines


def test_the_first_line_has_a_band_and_every_line_a_name_at_its_end() -> None:
    drawing = drawings()["lines"]
    assert {"all sites", "drive", "stare"} <= set(texts(drawing))
    assert "opacity: 0.16" in drawing


def test_lines_differ_in_dashes_and_not_only_in_colour() -> None:
    dashes = set(re.findall(r"stroke-dasharray: ([\d., ]+)", drawings()["lines"]))
    assert len(dashes) == 2


def test_names_at_the_end_of_lines_do_not_overlap() -> None:
    close = [Line(f"site {place}", (1, 2), (0.5, 0.7 + place / 1e4)) for place in range(6)]
    root = tree(line_chart("lines", "alt", [LINES[0], *close]))
    found = [element for element in root.iter(f"{SVG}text") if "site" in (element.text or "")]
    heights = sorted(float(element.get("y", "")) for element in found)
    assert len(heights) == 7
    assert min(b - a for a, b in pairwise(heights)) > 14


def test_more_lines_than_can_be_named_are_drawn_without_names() -> None:
    many = [Line(f"site {place}", (1, 2), (0.5, 0.7)) for place in range(40)]
    drawing = line_chart("lines", "alt", [LINES[0], *many])
    assert not any("site" in text for text in texts(drawing))
    assert drawing.count("stroke-opacity: 0.35") >= 40


def test_a_line_of_one_point_is_a_point() -> None:
    assert len(marks(line_chart("lines", "alt", [Line("loss", (3,), (0.5,))]))) == 1


POSITIONS = st.lists(st.floats(-100, 100), min_size=1, max_size=12)


@given(POSITIONS, st.floats(0.1, 20))
def test_names_keep_their_order_and_their_distance(positions: Sequence[float], gap: float) -> None:
    placed = apart(positions, gap)
    order = np.argsort(positions, kind="stable")
    assert all(b - a >= gap - 1e-6 for a, b in pairwise(np.array(placed)[order]))


@given(POSITIONS)
def test_names_that_are_far_enough_apart_are_not_moved(positions: Sequence[float]) -> None:
    spread = [10.0 * place for place in range(len(positions))]
    assert apart(spread, 9.0) == pytest.approx(spread)


def test_two_names_that_collide_move_by_the_same_amount() -> None:
    assert apart([1.0, 2.0], 3.0) == pytest.approx([0.0, 3.0])


# --- bars


def test_bars_say_in_words_who_took_part() -> None:
    said = tree(drawings()["bars"]).get("aria-label", "")
    assert "stare took part in 37 of 40 rounds" in said
    assert "drive took part in 40 of 40 rounds" in said


def test_a_site_that_was_never_missing_is_one_bar_and_a_gap_is_hatched() -> None:
    drawing = drawings()["bars"]
    assert drawing.count(f"fill: var(--accent, {svg.ACCENT})") == 1 + 1 + 2 + 2
    assert len(re.findall(r"fill: url\(#bars-", drawing)) == 2


def test_a_thousand_rounds_cost_no_more_than_ten() -> None:
    entries = [Participation(place, ("a", "b"), {}) for place in range(1, 1001)]
    long, short = attendance_chart("bars", entries), attendance_chart("bars", entries[:10])
    assert len(long) < 1.3 * len(short)


def test_of_many_sites_those_that_were_missing_most_are_drawn_and_all_are_told() -> None:
    sites = tuple(f"site-{place:03}" for place in range(100))
    entries = [Participation(1, sites, {}), Participation(2, sites[:-1], {sites[-1]: "deadline"})]
    drawing = attendance_chart("bars", entries)
    drawn = [text for text in texts(drawing) if text.startswith("site-")]
    assert len(drawn) == figures.MOST_NAMED_ROWS
    assert "site-099" in drawn
    assert "site-050 took part in 2 of 2" in tree(drawing).get("aria-label", "")


@given(st.lists(st.booleans(), max_size=40), st.sets(st.integers(0, 39)))
def test_runs_of_states_cover_exactly_the_rounds_given(states: list[bool], skipped: set[int]) -> None:
    flags = [(at, state) for at, state in enumerate(states) if at not in skipped]
    unrolled = [(first + step, state) for state, first, rounds in runs_of(flags) for step in range(rounds)]
    assert unrolled == flags


def test_a_hole_in_the_rounds_ends_a_bar() -> None:
    assert runs_of([(1, True), (2, True), (4, True)]) == [(True, 1, 2), (True, 4, 1)]


# --- pictures


def corners(path: str) -> list[list[tuple[float, float]]]:
    return [
        [(float(x), float(y)) for x, y in (point.split() for point in part[:-1].split("L"))]
        for part in path.split("M")[1:]
    ]


def area(polygon: Sequence[tuple[float, float]]) -> float:
    x, y = np.array(polygon).T
    return abs(float(np.dot(x, np.roll(y, 1)) - np.dot(y, np.roll(x, 1)))) / 2


@pytest.mark.parametrize(("top", "left", "height", "width"), [(3, 4, 5, 6), (0, 0, 4, 9), (7, 2, 1, 1)])
def test_an_outline_runs_along_the_edge_of_its_pixels(top: int, left: int, height: int, width: int) -> None:
    mask = np.zeros((12, 14), np.uint8)
    mask[top : top + height, left : left + width] = 1
    (polygon,) = corners(examples.outline(mask))
    xs, ys = zip(*polygon, strict=True)
    assert (min(xs), max(xs), min(ys), max(ys)) == (left, left + width, top, top + height)
    # The contour cuts each of the four corners by a triangle of 1/2 x 1/2 pixel.
    assert area(polygon) == pytest.approx(height * width - 4 / 8, abs=0.1)


def test_each_class_has_its_own_outline_and_background_none() -> None:
    mask = np.zeros((8, 8), np.uint8)
    mask[1:4, 1:4], mask[4:7, 4:7] = 1, 2
    assert len(corners(examples.outline(mask))) == 2
    assert examples.outline(np.zeros((8, 8), np.uint8)) == ""


def test_a_hole_is_outlined_too() -> None:
    mask = np.ones((9, 9), np.uint8)
    mask[3:6, 3:6] = 0
    assert len(corners(examples.outline(mask))) == 2


@pytest.mark.parametrize("shape", [(20, 30), (20, 30, 3)])
def test_the_embedded_image_is_the_image_stretched_to_its_range(shape: tuple[int, ...]) -> None:
    image = np.random.default_rng(1).normal(40, 10, shape)
    mask = np.zeros(shape[:2], np.uint8)
    drawing = examples.picture(examples.PhantomExample("x", image, mask, mask))
    encoded = drawing.split("base64,")[1].split('"')[0]
    shown = np.asarray(Picture.open(io.BytesIO(base64.b64decode(encoded))))
    expected = 255 * (image - image.min()) / (image.max() - image.min())
    assert shown.shape == shape
    assert np.abs(shown - expected).max() <= 0.5


def test_an_image_of_one_value_is_shown_black_and_not_divided_by_zero() -> None:
    mask = np.zeros((4, 4), np.uint8)
    assert "base64," in examples.picture(examples.PhantomExample("x", np.full((4, 4), 7.0), mask, mask))


def test_a_picture_says_in_words_what_is_solid_and_what_is_dashed() -> None:
    example = examples.PhantomExample('5" <phantom>', np.eye(4), np.eye(4, dtype=np.uint8), np.eye(4, dtype=np.uint8))
    drawing = examples.picture(example)
    assert tree(drawing).get("aria-label") == '5" <phantom>. True outline solid, predicted outline dashed.'
    assert drawing.count("stroke-dasharray") == 1
