"""The page in a real browser: nothing sticks out, everything can be read, reached and heard, also on paper.

The page is loaded into a frame of some width, since a headless window cannot be as narrow as a phone.
"""

import base64
import io
import json
import re
import shutil
import subprocess
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from classified_runs import CLASSIFIED, FAULTS, classified
from pypdf import PdfReader
from report_runs import PLAN_TEXT, phantoms, records, results

from server.report.page import render
from server.report.run import Run
from shared.plan import parse

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
FLAGS = ("--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--allow-file-access-from-files")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="no browser on this machine: install Chromium to run these"),
]

LAYOUT = """
const box = node => node.getBoundingClientRect();
const inScroller = node => node.closest('.scroll, pre, details, .skip');
const drawn = [...inner.querySelectorAll('body *')].filter(node => box(node).width && !inScroller(node));
const figures = [...inner.querySelectorAll('figure svg')];
return {
  width: root.scrollWidth,
  sticking: drawn.filter(node => box(node).right > width + 1).map(node => node.tagName + '.' + node.className),
  text: Math.min(...figures.flatMap(one => [...one.querySelectorAll('text')]).map(one => box(one).height)),
  nameless: figures.filter(one => one.getAttribute('role') !== 'img' || !one.getAttribute('aria-label')).length,
  figures: figures.length,
  headings: [...inner.querySelectorAll('h1, h2, h3, h4, h5, h6')].map(one => Number(one.tagName[1])),
};"""

KEYBOARD = """
const wanted = 'a[href], summary, [tabindex="0"]';
const reached = [...inner.querySelectorAll(wanted)].map(one => {
  one.focus({preventScroll: true});
  const at = one.getBoundingClientRect();
  return {tag: one.tagName, focused: inner.activeElement === one, order: one.tabIndex, top: at.top,
    height: at.height, folded: !!one.closest('details:not([open])') && one.tagName !== 'SUMMARY',
    outline: view.getComputedStyle(one).outlineStyle};
});
const skip = inner.querySelector('.skip');
skip.blur();
const hidden = skip.getBoundingClientRect().bottom <= 0;
skip.focus();
const links = [...inner.querySelectorAll('a[href^="#"]')].map(one => one.getAttribute('href').slice(1));
return {reached, hidden, shown: skip.getBoundingClientRect().top >= 0,
  dangling: links.filter(id => !inner.getElementById(id)), links: links.length};"""

CONTRAST = """
const channels = colour => (colour.match(/[\\d.]+/g) || []).map(Number);
const light = ([r, g, b]) => [[r, .2126], [g, .7152], [b, .0722]].reduce((sum, [value, weight]) => {
  const share = value / 255;
  return sum + weight * (share <= .04045 ? share / 12.92 : ((share + .055) / 1.055) ** 2.4); }, 0);
const behind = node => {
  for (let at = node; at; at = at.parentElement) {
    const found = channels(view.getComputedStyle(at).backgroundColor);
    if (found.length === 3 || found[3] === 1) return found;
  }
  return [255, 255, 255]; };
const cell = node => node.closest('g[id*="-cell-"]');
const found = [];
for (const node of inner.querySelectorAll('body *')) {
  const own = [...node.childNodes].some(one => one.nodeType === 3 && one.textContent.trim());
  if (!own || cell(node) || !node.getBoundingClientRect().width) continue;
  const style = view.getComputedStyle(node);
  const ink = light(channels(node.tagName === 'text' ? style.fill : style.color));
  const paper = light(behind(node));
  const ratio = (Math.max(ink, paper) + .05) / (Math.min(ink, paper) + .05);
  found.push([ratio, node.tagName + ': ' + node.textContent.trim().slice(0, 40)]);
}
found.sort((one, other) => one[0] - other[0]);
return {least: found[0], texts: found.length};"""


@pytest.fixture(scope="module")
def pages() -> dict[str, str]:
    rounds = tuple(records({"drive": 0.0, "stare": 0.0}))
    return {
        "segmentation": render(Run(parse(PLAN_TEXT), PLAN_TEXT, results(), rounds), phantoms()),
        "classification": render(Run(parse(CLASSIFIED), CLASSIFIED, classified(*FAULTS), ())),
    }


def browse(*given: str) -> str:
    return subprocess.run(
        [str(CHROMIUM), *FLAGS, *given], capture_output=True, text=True, timeout=120, check=True
    ).stdout


def measured(folder: Path, page: str, script: str, width: int = 1280) -> dict[str, Any]:
    """What ``script`` returns of the page in a frame ``width`` pixels wide."""
    (folder / "page.html").write_text(page, encoding="utf-8")
    body = f"""<iframe src="page.html" style="width:{width}px;height:900px;border:0"></iframe><script>
      const look = (inner, view, root, width) => {{ {script} }};
      onload = () => {{ const frame = document.querySelector('iframe');
        const said = look(frame.contentDocument, frame.contentWindow, frame.contentDocument.documentElement, {width});
        const out = document.createElement('output');
        out.textContent = btoa(unescape(encodeURIComponent(JSON.stringify(said))));
        document.body.replaceChildren(out); }};</script>"""
    (folder / "frame.html").write_text(f"<!DOCTYPE html><body>{body}</body>", encoding="utf-8")
    said = browse("--virtual-time-budget=4000", "--dump-dom", (folder / "frame.html").as_uri())
    return decoded(re.findall(r"<output>(.*?)</output>", said)[0])


def decoded(text: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(base64.b64decode(text))
    return found


KINDS = ("segmentation", "classification")


@pytest.mark.parametrize("width", [390, 1280])
@pytest.mark.parametrize("kind", KINDS)
def test_nothing_sticks_out_of_a_phone_or_a_desk(tmp_path: Path, pages: dict[str, str], kind: str, width: int) -> None:
    layout = measured(tmp_path, pages[kind], LAYOUT, width)
    assert layout["width"] <= width
    assert layout["sticking"] == []
    assert layout["text"] >= 10, "words in figures stay readable"


def test_the_measure_sees_what_sticks_out(tmp_path: Path, pages: dict[str, str]) -> None:
    page = pages["segmentation"].replace("<main>", '<main><div style="width:1500px">x</div>')
    layout = measured(tmp_path, page, LAYOUT, 390)
    assert layout["width"] > 390
    assert layout["sticking"]


@pytest.mark.parametrize("kind", KINDS)
def test_every_figure_says_itself_and_headings_descend_in_order(
    tmp_path: Path, pages: dict[str, str], kind: str
) -> None:
    layout = measured(tmp_path, pages[kind], LAYOUT)
    assert layout["figures"] >= 5
    assert layout["nameless"] == 0
    levels = layout["headings"]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after - before <= 1 for before, after in pairwise(levels))


@pytest.mark.parametrize("kind", KINDS)
def test_the_keyboard_reaches_everything_from_the_top_to_the_bottom(
    tmp_path: Path, pages: dict[str, str], kind: str
) -> None:
    found = measured(tmp_path, pages[kind], KEYBOARD)
    shown = [one for one in found["reached"] if not one["folded"]]
    assert shown[0]["tag"] == "A", "the link that skips to the results comes first"
    assert all(one["focused"] for one in shown)
    assert all(one["order"] == 0 for one in shown), "focus follows the order of the page"
    assert found["dangling"] == []
    assert found["links"] >= 6


def test_the_skip_link_is_out_of_sight_until_it_has_the_focus(tmp_path: Path, pages: dict[str, str]) -> None:
    found = measured(tmp_path, pages["classification"], KEYBOARD)
    assert found["hidden"]
    assert found["shown"]


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("kind", KINDS)
def test_every_text_has_the_contrast_that_wcag_asks_for(
    tmp_path: Path, pages: dict[str, str], kind: str, theme: str
) -> None:
    # A frame takes the system's theme, which is light here: dark is tried by making its rule hold always.
    page = pages[kind]
    if theme == "dark":
        page = page.replace("@media (prefers-color-scheme: dark)", "@media all")
    found = measured(tmp_path, page, CONTRAST)
    assert found["texts"] > 100
    assert found["least"][0] >= 4.5, found["least"]


def test_the_measure_sees_a_pale_text(tmp_path: Path, pages: dict[str, str]) -> None:
    page = pages["segmentation"].replace("<main>", '<main><p style="color:#ccc">pale</p>')
    assert measured(tmp_path, page, CONTRAST)["least"][1] == "P: pale"


@pytest.mark.parametrize("kind", KINDS)
def test_printed_it_has_every_section_and_neither_links_nor_folds(
    tmp_path: Path, pages: dict[str, str], kind: str
) -> None:
    (tmp_path / "page.html").write_text(pages[kind], encoding="utf-8")
    browse("--no-pdf-header-footer", f"--print-to-pdf={tmp_path / 'p.pdf'}", (tmp_path / "page.html").as_uri())
    sheets = PdfReader(io.BytesIO((tmp_path / "p.pdf").read_bytes())).pages
    said = re.sub(r"\s+", " ", " ".join(page.extract_text() for page in sheets))
    assert 2 <= len(sheets) <= 16
    assert all(
        name in said for name in ("Results", "Participation", "Privacy", "Method and provenance", "Run it again")
    )
    assert "To the results" not in said
    assert "The whole plan" not in said
