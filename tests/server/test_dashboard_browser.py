"""Both pages in a real browser: nothing sticks out of a phone, focus is seen, by day and by night, and live."""

import base64
import io
import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import httpx
import PIL.Image
import pytest
from lived_in import custodian, hospital, supernode, week_later
from watched import TOKEN, disk_of, private_plan, watched

from client.statuspage import app as site_page
from server.dashboard import app as lead_page
from server.dashboard.page import NAMES
from shared.local_page import serving
from shared.local_page.sections import FOLDER

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
FLAGS = ("--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--allow-file-access-from-files")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="no browser on this machine: install Chromium to run these"),
]
KINDS = ("lead", "site")

LAYOUT = """
const box = node => node.getBoundingClientRect();
const shown = [...inner.querySelectorAll('body *')].filter(node => box(node).width && !node.closest('.scroll, .skip'));
const focusable = [...inner.querySelectorAll('a[href], summary, [tabindex="0"]')].map(node => {
  node.focus({preventScroll: true});
  return inner.activeElement === node && view.getComputedStyle(node).outlineStyle !== 'none'; });
return {
  width: root.scrollWidth,
  sticking: shown.filter(node => box(node).right > width + 1).map(node => node.tagName + '.' + node.className),
  focusable,
  nameless: [...inner.querySelectorAll('svg:not([aria-hidden])')].filter(one => !one.getAttribute('aria-label')).length,
  headings: [...inner.querySelectorAll('h1, h2, h3')].map(one => Number(one.tagName[1])),
  sections: [...inner.querySelectorAll('section')].filter(one => one.textContent.trim())
    .filter(one => !inner.getElementById(one.getAttribute('aria-labelledby'))).length,
  text: Math.min(...[...inner.querySelectorAll('.curve text')].map(one => box(one).height), 99),
};"""


@pytest.fixture(scope="module")
def addresses(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """Both pages, served by the real server, of a federation and a hospital at work, on disks that fill up."""
    seen, home = watched(tmp_path_factory.mktemp("lead")), hospital(tmp_path_factory.mktemp("home"))
    done = seen.trained(seen.begin(), 40)
    done.say(state="finished", phase="finished", round=40, asked=(), answered=())
    board = seen.trained(seen.begin(private_plan()), 17, {3: {"chur": "no-answer"}, 9: {"basel": "custodian-gone"}})
    board.say(asked=("aachen",), answered=("basel",), failed={"chur": "custodian-unreachable"})
    home.session()
    lead = lead_page.create(seen.folder.path, seen.clock, TOKEN, seen.nodes)
    site = site_page.create(home.site, week_later, TOKEN)
    with (
        pytest.MonkeyPatch.context() as machine,
        custodian(home.run),
        supernode(home.run),
        serving.served(lead) as first,
        serving.served(site) as second,
    ):
        disk_of(machine, 10 << 30)
        yield {"lead": serving.address(first, TOKEN), "site": serving.address(second, TOKEN)}


def browse(*given: str) -> str:
    said = subprocess.run([str(CHROMIUM), *FLAGS, *given], capture_output=True, text=True, timeout=120, check=True)
    return said.stdout


def alone(address: str) -> str:
    """The page as one file, with its style in it, for a frame of some width."""
    with httpx.Client(follow_redirects=True, trust_env=False) as client:
        text = client.get(address).text
    style = f"<style>{(FOLDER / 'style.css').read_text()}</style>"
    return re.sub(r"<noscript>.*?</noscript>|<script.*?</script>", "", text).replace(
        '<link rel="stylesheet" href="/style.css">', style
    )


def measured(folder: Path, page: str, width: int) -> dict[str, Any]:
    """What ``LAYOUT`` finds of the page in a frame ``width`` pixels wide."""
    (folder / "page.html").write_text(page, encoding="utf-8")
    body = f"""<iframe src="page.html" style="width:{width}px;height:900px;border:0"></iframe><script>
      const look = (inner, view, root, width) => {{ {LAYOUT} }};
      onload = () => {{ const frame = document.querySelector('iframe');
        const said = look(frame.contentDocument, frame.contentWindow, frame.contentDocument.documentElement, {width});
        const out = document.createElement('output');
        out.textContent = btoa(unescape(encodeURIComponent(JSON.stringify(said))));
        document.body.replaceChildren(out); }};</script>"""
    (folder / "frame.html").write_text(f"<!DOCTYPE html><body>{body}</body>", encoding="utf-8")
    said = browse("--virtual-time-budget=3000", "--dump-dom", (folder / "frame.html").as_uri())
    found: dict[str, Any] = json.loads(base64.b64decode(re.findall(r"<output>(.*?)</output>", said)[0]))
    return found


@pytest.mark.parametrize("width", [320, 390, 1280])
@pytest.mark.parametrize("kind", KINDS)
def test_nothing_sticks_out(tmp_path: Path, addresses: dict[str, str], kind: str, width: int) -> None:
    found = measured(tmp_path, alone(addresses[kind]), width)
    assert (found["width"] <= width, found["sticking"]) == (True, [])
    assert round(found["text"], 2) >= 9, "words in curves stay readable"


def test_the_measure_sees_what_sticks_out(tmp_path: Path, addresses: dict[str, str]) -> None:
    page = alone(addresses["lead"]).replace(
        "<main", '<div class="wide"></div><style>.wide{width:900px;height:2px}</style><main'
    )
    assert measured(tmp_path, page, 390)["width"] > 390


@pytest.mark.parametrize("kind", KINDS)
def test_pictures_and_sections_are_named_headings_descend_and_focus_is_seen(
    tmp_path: Path, addresses: dict[str, str], kind: str
) -> None:
    found = measured(tmp_path, alone(addresses[kind]), 1280)
    assert (found["nameless"], found["sections"]) == (0, 0)
    assert found["headings"].count(1) == 1
    assert all(after - before <= 1 for before, after in pairwise(found["headings"]))
    assert found["focusable"]
    assert all(found["focusable"])


def test_the_script_runs_under_the_page_s_policy_and_asks_for_what_it_does_not_hold(
    tmp_path: Path, addresses: dict[str, str]
) -> None:
    """The browser itself connects, with the digests of the sections that the page came with."""
    asked: list[str] = []
    seen = watched(tmp_path)
    app = lead_page.create(seen.folder.path, seen.clock, TOKEN, seen.nodes)

    async def noting(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http":
            asked.append(f"{scope['path']}?{unquote(scope['query_string'].decode())}")
        await app(scope, receive, send)

    with serving.served(noting) as port:  # type: ignore[arg-type]
        browse(f"--screenshot={tmp_path / 'x.png'}", f"--user-data-dir={tmp_path / 'p'}", serving.address(port, TOKEN))
    assert addresses
    (held,) = [one.partition("held=")[2] for one in asked if one.startswith("/events")]
    assert {pair.partition(":")[0] for pair in held.split(",")} == set(NAMES)


def picture(folder: Path, address: str, width: int, theme: str) -> PIL.Image.Image:
    scheme = {"dark": 0, "light": 1}[theme]
    path = folder / f"{theme}-{width}.png"
    browse(
        f"--blink-settings=preferredColorScheme={scheme}",
        f"--user-data-dir={folder / 'profile'}",
        f"--window-size={width},1600",
        f"--screenshot={path}",
        address,
    )
    return PIL.Image.open(io.BytesIO(path.read_bytes())).convert("L")


@pytest.mark.parametrize("width", [390, 1280])
@pytest.mark.parametrize("kind", KINDS)
def test_the_page_is_shown_by_day_and_by_night(
    tmp_path: Path, addresses: dict[str, str], kind: str, width: int
) -> None:
    """By the real server, its policy and its files: without its style, a page would be white in both."""
    for theme, paper in (("light", 254), ("dark", 24)):
        found = picture(tmp_path, addresses[kind], width, theme)
        assert found.size == (width, 1600)
        assert found.getpixel((2, 2)) == pytest.approx(paper, abs=3)
        low, high = found.getextrema()
        assert high - low > 180, "there are words on it"
