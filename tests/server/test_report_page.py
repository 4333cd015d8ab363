"""The page: one file that needs nothing else, says what results.json says, and can be read by everyone."""

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from report_runs import (
    PLAN_TEXT,
    PRIVATE,
    SITES,
    SUMS_ONLY,
    block,
    overlap,
    phantoms,
    private_results,
    records,
    results,
    sums_only_results,
    write_run,
)

from server.report.page import REPORT, render, write_report
from server.report.run import Run, read_run
from server.results import RESULTS, ROUNDS, Participation, Results, RoundRecord, SiteData, Timing, append_round
from shared.errors import RunError
from shared.plan import parse

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
VOID = {"meta", "br", "img", "hr", "input", "link"}


@dataclass
class Element:
    """One element of a page."""

    tag: str
    attributes: dict[str, str]
    children: list["Element | str"] = field(default_factory=list)

    def all(self, tag: str) -> list["Element"]:
        """Elements below with this tag, in order."""
        inside = [child for child in self.children if isinstance(child, Element)]
        return [hit for child in inside for hit in ([child] if child.tag == tag else []) + child.all(tag)]

    @property
    def text(self) -> str:
        """All text below."""
        return "".join(child if isinstance(child, str) else child.text for child in self.children)


class Tree(HTMLParser):
    """Builds elements and insists that every tag is closed in order."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.root = Element("root", {})
        self.open = [self.root]
        self.feed(page)
        assert self.open == [self.root], f"never closed: {self.open[-1].tag}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        element = Element(tag, {name: value or "" for name, value in attrs})
        self.open[-1].children.append(element)
        if tag not in VOID:
            self.open.append(element)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.open[-1].children.append(Element(tag, {name: value or "" for name, value in attrs}))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop().tag == tag

    def handle_data(self, data: str) -> None:
        self.open[-1].children.append(data)


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The report of a full, a private and a sums-only run."""
    folder = tmp_path_factory.mktemp("runs")
    runs: dict[str, tuple[Results, str, tuple[str, ...], int]] = {
        "full": (results(), PLAN_TEXT, SITES, 2),
        "private": (private_results(), PRIVATE, SITES, 0),
        "sum": (sums_only_results(), SUMS_ONLY, (), 0),
    }
    found = {}
    for name, (made, plan, released, examples) in runs.items():
        path = write_report(write_run(folder / name, made, plan, released), phantoms()[:examples])
        found[name] = path.read_text(encoding="utf-8")
    return found


def rendered(found: Results, plan_text: str = PLAN_TEXT) -> str:
    return render(Run(parse(plan_text), plan_text, found, ()))


def tables(page: str) -> dict[str, Element]:
    return {table.all("caption")[0].text: table for table in Tree(page).root.all("table")}


def row(page: str, table: str, name: str) -> Element:
    return next(found for found in tables(page)[table].all("tr") if found.all("th")[0].text == name)


def machine_values(element: Element) -> list[float]:
    return [float(data.attributes["value"]) for data in element.all("data")]


KINDS = ("full", "private", "sum")


@pytest.mark.parametrize("kind", KINDS)
def test_the_page_needs_nothing_from_anywhere_else(pages: dict[str, str], kind: str) -> None:
    page = pages[kind]
    addresses = set(re.findall(r"https?://[^\s\"'<)]*", page))
    assert addresses <= {"http://www.w3.org/2000/svg"}
    assert not Tree(page).root.all("script")
    assert not Tree(page).root.all("link")
    assert "@import" not in page
    assert "javascript:" not in page
    outside = [
        value
        for element in everything(Tree(page).root)
        for name, value in element.attributes.items()
        if name in {"src", "href", "xlink:href", "srcset", "action"} and not value.startswith(("#", "data:"))
    ]
    assert outside == []


def everything(element: Element) -> list[Element]:
    inside = [child for child in element.children if isinstance(child, Element)]
    return inside + [deeper for child in inside for deeper in everything(child)]


@pytest.mark.parametrize("kind", KINDS)
def test_every_picture_has_a_text_alternative(pages: dict[str, str], kind: str) -> None:
    root = Tree(pages[kind]).root
    assert root.all("svg")
    assert all(svg.attributes.get("aria-label") and svg.attributes["role"] == "img" for svg in root.all("svg"))
    assert all(image.attributes.get("alt") for image in root.all("img"))


@pytest.mark.parametrize("kind", KINDS)
def test_no_identifier_occurs_twice_and_every_label_has_its_target(pages: dict[str, str], kind: str) -> None:
    elements = everything(Tree(pages[kind]).root)
    identifiers = [element.attributes["id"] for element in elements if "id" in element.attributes]
    assert len(identifiers) == len(set(identifiers))
    labels = {element.attributes["aria-labelledby"] for element in elements if "aria-labelledby" in element.attributes}
    assert labels <= set(identifiers)


@pytest.mark.parametrize("kind", KINDS)
def test_every_table_has_a_caption_and_headers_with_a_scope(pages: dict[str, str], kind: str) -> None:
    found = tables(pages[kind])
    assert found
    for table in found.values():
        head, body = table.all("thead")[0], table.all("tbody")[0]
        assert {header.attributes.get("scope") for header in head.all("th")} == {"col"}
        assert {header.attributes.get("scope") for header in body.all("th")} == {"row"}
        widths = {len(line.all("th")) + len(line.all("td")) for line in table.all("tr")}
        assert len(widths) == 1


@pytest.mark.parametrize("kind", KINDS)
def test_headings_descend_one_level_at_a_time(pages: dict[str, str], kind: str) -> None:
    levels = [int(level) for level in re.findall(r"<h([1-6])", pages[kind])]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after - before <= 1 for before, after in pairwise(levels))


def test_a_keyboard_reaches_everything_that_scrolls(pages: dict[str, str]) -> None:
    root = Tree(pages["full"]).root
    scrolling = [element for element in root.all("div") if element.attributes.get("class") == "scroll"]
    assert len(scrolling) == len(root.all("table"))
    assert all(element.attributes["tabindex"] == "0" and element.attributes["aria-label"] for element in scrolling)
    assert all(element.attributes["tabindex"] == "0" for element in root.all("pre"))


def test_the_page_says_its_language_and_fits_the_width_of_a_phone(pages: dict[str, str]) -> None:
    assert '<html lang="en">' in pages["full"]
    assert 'content="width=device-width, initial-scale=1"' in pages["full"]


# --- numbers


def test_every_number_of_the_final_model_stands_in_a_table_unrounded(pages: dict[str, str]) -> None:
    final = results().final
    for metric, name in (("dice", "Dice"), ("iou", "IoU"), ("hd95", "HD95"), ("nsd", "NSD")):
        expected = [final["pooled"][metric]["value"], final["macro"][metric], final["worst"][metric]["value"]]
        assert machine_values(row(pages["full"], "All sites together", name)) == expected
    for site in SITES:
        expected = [final["sites"][site][metric]["value"] for metric in ("dice", "hd95", "iou", "nsd")]
        assert machine_values(row(pages["full"], "Site by site", site)) == expected


def test_every_number_of_the_other_models_stands_in_a_table_unrounded(pages: dict[str, str]) -> None:
    metrics = ("dice", "hd95", "iou", "nsd")
    baselines, own = results().baselines, block(0.021, 0.017)
    expected = {f"{site} alone": baselines["local"][site] for site in SITES}
    expected |= {"All data in one room": baselines["central"], "Federation, then own-site steps": own["pooled"]}
    for name, values in expected.items():
        found = machine_values(row(pages["full"], "Ways of training", name))
        assert found == [values[metric]["value"] for metric in metrics]
    for site in SITES:
        found = machine_values(row(pages["full"], "After own-site steps", site))
        assert found == [own["sites"][site][metric]["value"] for metric in metrics]


def test_shown_text_is_the_rounded_value_and_intervals_are_those_of_results_json(pages: dict[str, str]) -> None:
    shown = [
        (data.text.replace("\N{MINUS SIGN}", "-"), float(data.attributes["value"]))
        for data in Tree(pages["full"]).root.all("data")
        if "." in data.text
    ]
    assert len(shown) > 50
    assert all(abs(float(text) - value) <= 0.5 * 10 ** -len(text.split(".")[1]) + 1e-12 for text, value in shown)
    expected = results().final["pooled"]["hd95"]
    low, high = row(pages["full"], "All sites together", "HD95").all("small")[0].text.replace("\u2060", "").split("–")  # noqa: RUF001
    assert (float(low), float(high)) == (round(expected["low"], 2), round(expected["high"], 2))


def test_the_headline_stands_on_top_with_its_interval(pages: dict[str, str]) -> None:
    first = Tree(pages["full"]).root.all("dl")[0].all("div")[0]
    assert [child.text for child in first.all("dt") + first.all("dd")] == [
        "Dice",
        "0.791",
        "95\N{NO-BREAK SPACE}% interval 0.772\u2060–\u20600.810",  # noqa: RUF001
    ]


def test_privacy_spent_stands_in_a_table_only_where_it_was_spent(pages: dict[str, str]) -> None:
    assert machine_values(row(pages["private"], "Privacy spent", "chase")) == [7.9, 1e-4, 1.2, 0.05, 800]
    assert "Privacy spent" not in tables(pages["full"])
    assert "There is no differential privacy in this run" in pages["full"]
    assert "There is no differential privacy in this run" not in pages["private"]


def test_the_data_table_suppresses_small_cells_and_says_so(pages: dict[str, str]) -> None:
    found = row(pages["full"], "What each site could use", "stare")
    assert [cell.text for cell in found.all("td")] == ["20", "20", "<3 × mask shape"]  # noqa: RUF001
    assert "shown as &lt;3" in pages["full"]


def test_versions_digests_and_the_command_are_on_the_page(pages: dict[str, str]) -> None:
    listed = {term.text: value.text for term, value in pairs(Tree(pages["full"]).root)}
    assert listed["Plan SHA-256"] == parse(PLAN_TEXT).digest()
    assert listed["Model SHA-256"] == "c" * 64
    assert listed["flwr"] == "1.41.0"
    assert listed["Seed"] == "7"
    assert "consilium-sim run retina-vessels --seed 7" in pages["full"]
    assert Tree(pages["full"]).root.all("details")[0].all("pre")[0].text == PLAN_TEXT


def pairs(root: Element) -> list[tuple[Element, Element]]:
    return [pair for dl in root.all("dl") for pair in zip(dl.all("dt"), dl.all("dd"), strict=False)]


def test_without_a_command_the_plan_itself_is_named() -> None:
    assert "consilium-server run plan.toml" in rendered(replace(results(), command=""))


def facts(page: str) -> dict[str, tuple[str, ...]]:
    """The row of numbers under the lead: term -> value and detail."""
    boxes = Tree(page).root.all("dl")[0].all("div")
    return {box.all("dt")[0].text: tuple(found.text for found in box.all("dd")) for box in boxes}


def test_the_numbers_under_the_lead_are_those_of_the_run(pages: dict[str, str]) -> None:
    found = facts(pages["full"])
    assert found["Test patients"] == ("52", "never seen in training")
    assert found["Sites"] == ("4", "all present in 36 of 40 rounds")
    assert found["Privacy"] == ("none", "no differential privacy")
    assert found["Time"] == ("4 min 12 s", "1.05 × local training")  # noqa: RUF001


def test_a_private_run_shows_epsilon_and_delta_on_top(pages: dict[str, str]) -> None:
    assert facts(pages["private"])["Privacy"] == ("ε = 8", "δ = 0.0001, per patient")


def test_an_overhead_that_was_not_measured_is_not_shown() -> None:
    page = rendered(replace(results(), timing=Timing(30.0, 20.0)))
    assert facts(page)["Time"] == ("30.0 s", "20.0 s in training")


@pytest.mark.parametrize(
    ("size", "text"),
    [
        ("[256, 256]", "256 × 256 pixels, green"),  # noqa: RUF001
        ("[32, 64, 64]", "32 × 64 × 64 voxels, green"),  # noqa: RUF001
    ],
)
def test_the_method_is_the_plans(size: str, text: str) -> None:
    plan = PLAN_TEXT.replace("[256, 256]", size)
    listed = {term.text: value.text for term, value in pairs(Tree(rendered(results(plan), plan)).root)}
    assert listed["Input"] == text
    assert listed["Rounds"] == "40, with 20 local steps each"
    assert listed["Optimiser"] == "adamw, learning rate 0.001"
    assert listed["Aggregation"] == "fedavg, equal weights"
    assert listed["Network"] == "unet"


def test_metrics_in_the_tables_are_explained_once(pages: dict[str, str]) -> None:
    glossary = next(dl for dl in Tree(pages["full"]).root.all("dl") if dl.attributes.get("class") == "glossary")
    assert [term.text for term in glossary.all("dt")] == ["Dice", "HD95", "IoU", "NSD"]
    assert all(len(meaning.text) > 10 for meaning in glossary.all("dd"))


# --- figures in their place


def figure_of(page: str, title: str) -> Element:
    return next(
        found for found in Tree(page).root.all("figure") if found.all("h3") and found.all("h3")[0].text == title
    )


def test_a_legend_lists_exactly_the_kinds_in_its_figure(pages: dict[str, str]) -> None:
    arms, sites = (figure_of(pages["full"], f"Dice by {what}") for what in ("way of training", "site"))
    assert [item.attributes["class"] for item in arms.all("i")] == ["federation", "personalised", "central", "local"]
    assert [item.attributes["class"] for item in sites.all("i")] == ["federation", "personalised"]


def test_sites_stand_from_best_to_worst(pages: dict[str, str]) -> None:
    said = figure_of(pages["full"], "Dice by site").all("svg")[0].attributes["aria-label"]
    order = sorted(SITES, key=lambda site: said.index(f"{site}: "))
    assert order == ["drive", "hrf", "chase", "stare"]


def test_where_less_is_better_the_largest_value_stands_last() -> None:
    page = rendered(replace(results(), headline="hd95"))
    said = figure_of(page, "HD95 by site").all("svg")[0].attributes["aria-label"]
    assert max(SITES, key=lambda site: said.index(f"{site}: ")) == "stare"


def test_a_site_without_a_personalised_model_has_one_mark() -> None:
    own = block(0.021, 0.017)
    page = rendered(replace(results(), personalised=own | {"sites": {"hrf": own["sites"]["hrf"]}}))
    said = figure_of(page, "Dice by site").all("svg")[0].attributes["aria-label"]
    assert said.count("personalised") == 1
    assert said.count("federation") == 4


def curve(page: str, title: str) -> list[tuple[float, float]]:
    """Corners of the thick line of a figure."""
    paths = figure_of(page, title).all("svg")[0].all("path")
    thick = next(path for path in paths if "stroke-width: 2.4" in path.attributes.get("style", ""))
    return [(float(x), float(y)) for x, y in re.findall(r"[ML] ([\d.]+) ([\d.]+)", thick.attributes["d"])]


@pytest.mark.parametrize("title", ["Training loss", "Dice while training"])
def test_curves_run_through_the_numbers_of_rounds_jsonl(pages: dict[str, str], title: str) -> None:
    kept = [record for record in records(dict.fromkeys(SITES, 0.0)) if record.metrics or "loss" in title]
    at = np.array([record.participation.round for record in kept], float)
    values = np.array(
        [record.loss if "loss" in title else (record.metrics or {})["pooled"]["dice"]["value"] for record in kept]
    )
    x, y = np.array(curve(pages["full"], title)).T
    # matplotlib drops corners that lie on a line; what it keeps must be numbers of the file, in order.
    places = np.polyval(np.polyfit([x[0], x[-1]], [at[0], at[-1]], 1), x)
    assert np.abs(places - places.round()).max() < 1e-3
    chosen = values[[int(np.flatnonzero(at == place)[0]) for place in places.round()]]
    slope, origin = np.polyfit(chosen, y, 1)
    assert slope < 0
    np.testing.assert_allclose(y, slope * chosen + origin, atol=0.01)
    assert len(chosen) >= 0.7 * len(values)


def test_a_round_in_which_nobody_trained_is_no_point_of_the_curve(tmp_path: Path) -> None:
    folder = write_run(tmp_path, sums_only_results(), SUMS_ONLY, ())
    for place, loss in ((41, None), (42, 0.9)):
        append_round(folder / ROUNDS, RoundRecord(Participation(place, (), {}), loss, "0" * 64))
    said = figure_of(render(read_run(folder)), "Training loss").all("svg")[0].attributes["aria-label"]
    assert "0.900 in round 42" in said


def test_the_page_does_not_wait_for_torch() -> None:
    code = "import sys, server.report.document; sys.exit('torch' in sys.modules)"
    root = str(Path(__file__).parents[2])
    assert subprocess.run([sys.executable, "-c", code], cwd=root, timeout=120, check=False).returncode == 0


# --- what is absent


def test_sums_only_has_neither_sites_nor_baselines_nor_data(pages: dict[str, str]) -> None:
    assert set(tables(pages["sum"])) == {"All sites together", "Rounds taken part in"}
    assert "Numbers of single sites were not released" in pages["sum"]
    assert len(Tree(pages["sum"]).root.all("figure")) == 3


def test_without_examples_there_is_no_gallery(pages: dict[str, str]) -> None:
    assert "Generated images" in pages["full"]
    assert "Generated images" not in pages["private"]
    assert "data:image" not in pages["private"]


def test_a_run_without_rounds_still_has_a_report() -> None:
    page = rendered(replace(sums_only_results(), participation=()), SUMS_ONLY)
    assert set(tables(page)) == {"All sites together"}
    assert "0 of 0" not in page


def test_an_undetermined_headline_makes_no_page_fail() -> None:
    empty = {"dice": {"value": None, "low": None, "high": None, "n_patients": 0}}
    page = rendered(replace(sums_only_results(), final={"pooled": empty}), SUMS_ONLY)
    assert "could not be determined" in page
    assert not re.search(r"\bnan\b", page, re.IGNORECASE)


def test_a_hundred_sites_are_all_in_the_table_and_the_weakest_in_the_figure() -> None:
    sites = {f"site-{place:03}": overlap(0.6 + place / 1000, 0.05, 8) for place in range(100)}
    page = rendered(replace(results(), final=dict(results().final) | {"sites": sites}, personalised=None))
    assert len(tables(page)["Site by site"].all("tr")) == 101
    figure = next(svg for svg in Tree(page).root.all("svg") if "site-000" in svg.attributes["aria-label"])
    assert "site-019" in figure.attributes["aria-label"]
    assert "site-020" not in figure.attributes["aria-label"]
    assert "The 20 weakest of 100 sites" in page


# --- trust


@pytest.mark.parametrize(
    "hostile", ['<script>alert("1")</script>', '"><img src=x onerror=y>', "{{ 7 * 7 }}", "</svg><b>"]
)
def test_a_hostile_name_is_shown_and_never_run(hostile: str) -> None:
    final = dict(results().final) | {
        "sites": {hostile: overlap(0.7, 0.05, 8)},
        "worst": {"dice": {"site": hostile, "value": 0.7}},
    }
    made = replace(
        results(),
        final=final,
        data={hostile: SiteData(9, 9, {hostile: 4})},
        versions={hostile: hostile},
        command=hostile,
    )
    root = Tree(rendered(made)).root
    assert not root.all("script")
    assert not root.all("img")
    assert not root.all("b")
    assert hostile in root.text


def test_the_same_run_gives_the_same_bytes(tmp_path: Path, pages: dict[str, str]) -> None:
    folder = write_run(tmp_path / "another place", results())
    assert write_report(folder, phantoms()).read_text(encoding="utf-8") == pages["full"]


def test_the_report_reads_three_files_and_writes_one(tmp_path: Path) -> None:
    folder = write_run(tmp_path, sums_only_results(), SUMS_ONLY, ())
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert before.keys() == {"plan.toml", RESULTS, "rounds.jsonl"}
    assert write_report(folder) == folder / REPORT
    assert {path.name: path.read_bytes() for path in folder.iterdir() if path.name != REPORT} == before


def test_no_report_is_written_for_results_of_another_plan(tmp_path: Path) -> None:
    folder = write_run(tmp_path, results(), PRIVATE)
    with pytest.raises(RunError, match="belong to plan"):
        write_report(folder)
    assert not (folder / REPORT).exists()


def test_the_path_of_the_folder_is_not_on_the_page(tmp_path: Path) -> None:
    folder = write_run(tmp_path, sums_only_results(), SUMS_ONLY, ())
    assert str(tmp_path) not in write_report(folder).read_text(encoding="utf-8")


def test_results_json_is_all_that_numbers_come_from(tmp_path: Path) -> None:
    folder = write_run(tmp_path, sums_only_results(), SUMS_ONLY, ())
    document: dict[str, Any] = json.loads((folder / RESULTS).read_text())
    document["final"]["pooled"]["dice"]["value"] = 0.123456
    (folder / RESULTS).write_text(json.dumps(document))
    assert '<data value="0.123456">0.123</data>' in render(read_run(folder))


# --- contrast


def luminance(colour: str) -> float:
    """Relative luminance (WCAG 2.2)."""
    digits = "".join(2 * digit for digit in colour[1:]) if len(colour) == 4 else colour[1:]
    channels = [int(digits[place : place + 2], 16) / 255 for place in (0, 2, 4)]
    linear = [value / 12.92 if value <= 0.04045 else ((value + 0.055) / 1.055) ** 2.4 for value in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one: str, other: str) -> float:
    light, dark = sorted((luminance(one), luminance(other)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


def test_contrast_is_21_for_black_on_white() -> None:
    assert contrast("#000", "#fff") == pytest.approx(21)


@pytest.mark.parametrize("theme", [0, 1, 2], ids=["light", "dark", "print"])
def test_colours_have_the_contrast_that_wcag_asks_for(pages: dict[str, str], theme: int) -> None:
    style = pages["full"].split("<style>")[1].split("</style>")[0]
    schemes = [
        dict(re.findall(r"--([\w-]+): (#[0-9a-f]{3,6})", scheme))
        for scheme in re.findall(r":root \{(.*?)\}", style, re.S)
    ]
    assert len(schemes) == 3
    colours = schemes[theme]
    text = {name: contrast(colours[name], colours["paper"]) for name in ("ink", "muted", "accent", "second", "alert")}
    assert min(text.values()) >= 4.5, text
    assert contrast(colours["ink"], colours["wash"]) >= 4.5
    lines = {name: contrast(value, colours["paper"]) for name, value in colours.items() if name.startswith("series")}
    assert len(lines) == 6
    assert min(lines.values()) >= 4.5, lines


def test_light_colours_are_those_that_figures_are_drawn_in(pages: dict[str, str]) -> None:
    style = pages["full"].split("<style>")[1].split("}")[0]
    page = dict(re.findall(r"--([\w-]+): (#[0-9a-f]{6})", style))
    drawn = dict(re.findall(r"var\(--([\w-]+), (#[0-9a-f]{6})\)", pages["full"]))
    assert {"ink", "muted", "accent", "second"} <= drawn.keys()
    assert all(page[name] == colour for name, colour in drawn.items())


# --- in a browser


@pytest.fixture
def in_browser(tmp_path: Path) -> Callable[[str, int], dict[str, float]]:
    """Open a page in a frame of some width and return what its layout measures."""
    script = """<script>onload = () => {
      const inner = document.querySelector('iframe').contentDocument, body = inner.documentElement;
      const small = Math.min(...[...inner.querySelectorAll('figure svg text')].map(
        text => text.getBoundingClientRect().height));
      const found = {width: body.scrollWidth, height: body.scrollHeight, text: small};
      document.body.innerHTML = '<output>' + JSON.stringify(found) + '</output>'; }</script>"""

    def measured(page: str, width: int) -> dict[str, float]:
        (tmp_path / "page.html").write_text(page, encoding="utf-8")
        frame = f'<iframe src="page.html" style="width:{width}px;height:900px;border:0"></iframe>{script}'
        (tmp_path / "frame.html").write_text(f"<!DOCTYPE html><body>{frame}</body>", encoding="utf-8")
        flags = ["--headless", "--no-sandbox", "--disable-gpu", "--allow-file-access-from-files", "--hide-scrollbars"]
        command = [
            str(CHROMIUM),
            *flags,
            "--virtual-time-budget=4000",
            "--dump-dom",
            (tmp_path / "frame.html").as_uri(),
        ]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
        found: dict[str, float] = json.loads(re.findall(r"<output>(.*?)</output>", done.stdout)[0])
        return found

    return measured


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium")
@pytest.mark.parametrize("width", [360, 390, 768, 1280])
@pytest.mark.parametrize("kind", KINDS)
def test_the_page_never_scrolls_sideways_and_its_text_stays_readable(
    pages: dict[str, str], in_browser: Callable[[str, int], dict[str, float]], kind: str, width: int
) -> None:
    layout = in_browser(pages[kind], width)
    assert layout["width"] <= width
    assert layout["height"] > 1000
    assert layout["text"] >= 10


def test_a_site_that_was_also_trained_alone_shows_that_model_on_its_own_patients() -> None:
    found = results()
    home = {site: {"local": overlap(0.711 + 0.01 * number, 0.02, 10)} for number, site in enumerate(SITES)}
    page = rendered(replace(found, baselines={**found.baselines, "at_home": home}))
    figure = figure_of(page, "Dice by site")
    assert [item.attributes["class"] for item in figure.all("i")] == ["federation", "personalised", "local"]
    said = figure.all("svg")[0].attributes["aria-label"]
    assert said.count("local 0.711") == 1
    assert said.count("local ") == 4
