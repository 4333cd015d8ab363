"""Words, curves, numbers for Prometheus and sections: what both pages are made of."""

import asyncio
import json
import math
import re
import xml.etree.ElementTree as ET
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from shared.local_page import sections, words
from shared.local_page.curves import HEIGHT, WIDTH, Curve, nice_ticks
from shared.local_page.sections import Fresh, digest, environment, event, held_of, stream
from shared.local_page.telemetry import Gauge, exposition, gauge
from shared.local_page.words import ago, count, days_level, days_sentence, disk_level, lasting, listed, size, small

ROOT = Path(__file__).parents[2]

# --- words -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("seconds", "said"),
    [(0, "less than a minute"), (59.9, "less than a minute"), (60, "1 minute"), (3599, "59 minutes"), (3600, "1 hour"),
     (86399, "23 hours"), (86400, "1 day"), (864000, "10 days")],
)  # fmt: skip
def test_a_time_is_told_in_its_largest_whole_unit(seconds: float, said: str) -> None:
    assert lasting(seconds) == said
    assert ago(seconds) == f"{said} ago"


@pytest.mark.parametrize(
    ("amount", "said"),
    [(0, "0 B"), (1023, "1023 B"), (1024, "1.0 KiB"), (150 * 1024, "150 KiB"), (5 << 20, "5.0 MiB"),
     (3 << 30, "3.0 GiB"), (7 << 40, "7.0 TiB"), (5000 << 40, "5000.0 TiB")],
)  # fmt: skip
def test_a_size_is_told_in_binary_units(amount: int, said: str) -> None:
    assert size(amount) == said


def test_certificates_warn_from_thirty_days_and_are_red_from_seven() -> None:
    found = [days_level(days) for days in (400, 30, 29, 7, 6, 0, -3)]
    assert found == ["good", "good", "warn", "warn", "bad", "bad", "bad"]
    assert [days_sentence(days) for days in (1, 40, -1)] == ["1 day left", "40 days left", "ended 1 day ago"]


def test_a_disk_is_judged_by_what_is_free() -> None:
    assert [disk_level(free) for free in (30 << 30, 19 << 30, (1 << 30) - 1)] == ["good", "warn", "bad"]


def test_names_are_listed_as_a_sentence_has_them() -> None:
    assert [listed(names) for names in ([], ["a"], ["a", "b"], ["a", "b", "c"])] == ["", "a", "a and b", "a, b and c"]
    assert (count(1, "site"), count(0, "site"), count(2, "site")) == ("1 site", "0 sites", "2 sites")


@pytest.mark.parametrize(("value", "said"), [(1e-5, "10⁻⁵"), (2.5e-6, "2.5 · 10⁻⁶"), (0.01, "0.01"), (0.0, "0")])
def test_a_small_number_is_a_power_of_ten(value: float, said: str) -> None:
    assert small(value).replace("\N{NO-BREAK SPACE}", " ") == said


def test_the_days_of_the_page_are_those_of_the_commands() -> None:
    from server.validity import FEW_DAYS

    assert words.FEW_DAYS == FEW_DAYS


# --- curves ----------------------------------------------------------------------------------------------------------

POINTS = [(1, 1.0), (2, 0.6), (3, None), (4, 0.4), (5, 0.35)]


def drawn(curve: Curve) -> ET.Element:
    return ET.fromstring(curve.svg())  # noqa: S314 - made by us


def test_a_round_without_a_number_is_a_gap() -> None:
    found = drawn(Curve("loss", POINTS, 10)).findall("polyline")
    assert [len(one.attrib["points"].split()) for one in found] == [2, 2]


def test_a_lower_number_is_drawn_lower_and_a_later_round_further_right() -> None:
    line = drawn(Curve("loss", [(1, 3.0), (2, 2.0), (3, 1.0)], 5)).find("polyline")
    assert line is not None
    places = [tuple(map(float, pair.split(","))) for pair in line.attrib["points"].split()]
    assert all(a[0] < b[0] and a[1] < b[1] for a, b in pairwise(places))
    assert all(0 <= x <= WIDTH and 0 <= y <= HEIGHT for x, y in places)


def test_the_axis_of_rounds_does_not_grow_while_a_run_lasts() -> None:
    early, late = (drawn(Curve("loss", [(1, 1.0), (2, 0.5), (3, 0.4)][:n], 40)) for n in (2, 3))
    lines = [one.find("polyline") for one in (early, late)]
    assert lines[0] is not None
    assert lines[1] is not None
    first, second = (line.attrib["points"].split()[0].split(",")[0] for line in lines if line is not None)
    assert first == second


def test_a_curve_is_named_for_those_who_do_not_see_it() -> None:
    curve = Curve("Loss <b>", POINTS, 10)
    found = drawn(curve)
    assert found.attrib["role"] == "img"
    assert found.attrib["aria-label"] == curve.words()
    assert curve.words() == "Loss <b> by round: 1 in round 1, 0.35 in round 5; lowest 0.35, highest 1."


def test_a_curve_has_no_style_that_the_page_would_forbid() -> None:
    assert "style" not in Curve("loss", POINTS, 10).svg()


def test_nothing_measured_is_no_picture_and_one_number_is_a_dot() -> None:
    assert Curve("loss", [(1, None), (2, math.nan)], 3).svg() == ""
    assert "nothing has been measured" in Curve("loss", [], 3).words()
    assert "polyline" not in Curve("loss", [(1, 0.5)], 1).svg()
    assert Curve("loss", [(1, 0.5)], 1).words() == "loss by round: 0.5 in round 1."


@given(st.floats(-1e6, 1e6), st.floats(1e-6, 1e6))
def test_ticks_enclose_the_numbers_evenly_with_few_steps(low: float, span: float) -> None:
    ticks = nice_ticks(low, low + span)
    steps = [b - a for a, b in pairwise(ticks)]
    slack = 1e-6 * max(abs(low), span) + 1e-9
    assert ticks[0] <= low + slack
    assert ticks[-1] >= low + span - slack
    assert 2 <= len(ticks) <= 8
    assert max(steps) - min(steps) <= slack


# --- numbers for Prometheus ------------------------------------------------------------------------------------------


def read(gauges: list[Gauge]) -> dict[tuple[str, ...], float]:
    """What Prometheus' own parser reads."""
    families = text_string_to_metric_families(exposition(gauges).decode())
    return {(one.name, *one.labels.values()): one.value for family in families for one in family.samples}


def test_prometheus_reads_what_was_said_and_nothing_about_the_process() -> None:
    made = [gauge("consilium_a", "One.", 2.5), Gauge("consilium_b", "Two.", (({"site": "a"}, 1), ({"site": "b"}, 0)))]
    assert read(made) == {("consilium_a",): 2.5, ("consilium_b", "a"): 1.0, ("consilium_b", "b"): 0.0}


def test_what_is_not_known_is_left_out() -> None:
    assert read([gauge("consilium_a", "One.", None)]) == {}


@pytest.mark.parametrize("label", ["", "a\nb", 'a"b', "/srv/x", "x" * 64, "ä"], ids=range(6))
def test_a_label_that_is_no_name_is_refused(label: str) -> None:
    with pytest.raises(ValueError, match="names of letters") as caught:
        gauge("consilium_a", "One.", 1, site=label)
    assert not label or label not in str(caught.value)


# --- sections --------------------------------------------------------------------------------------------------------


def test_what_is_read_is_read_again_only_when_it_is_old() -> None:
    now, reads = [0.0], []
    fresh = Fresh(lambda: reads.append(1) or len(reads), 5.0, lambda: now[0])
    first = [fresh(), fresh()]
    now[0] = 5.0
    assert [*first, fresh()] == [1, 1, 2]


def parsed(content: bytes) -> dict[str, dict[str, str]]:
    kind, data = content.decode().strip().split("\n")
    assert kind == "event: sections"
    found = json.loads(data.removeprefix("data: "))
    assert isinstance(found, dict)
    return found


def test_only_sections_that_changed_are_sent() -> None:
    shown = {"a": "<p>one\ntwo</p>", "b": "x"}

    async def heard() -> list[bytes]:
        found, events = [], stream(lambda: dict(shown), {"b": digest("x")}, 0.001)
        found.append(await anext(events))
        found.append(await anext(events))
        shown["b"] = "y"
        found.append(await anext(events))
        await events.aclose()
        return found

    retry, first, second = asyncio.run(heard())
    assert retry.startswith(b"retry:")
    assert {name: one["html"] for name, one in parsed(first).items()} == {"a": "<p>one\ntwo</p>"}
    assert parsed(second) == {"b": {"digest": digest("y"), "html": "y"}}


def test_a_stream_outlives_a_disk_that_cannot_be_read_for_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sections, "ALIVE_S", 0.0)
    attempts: list[int] = []

    def read_sections() -> dict[str, str]:
        attempts.append(1)
        if len(attempts) < 3:
            raise OSError(5, "input/output error")
        return {"a": "x"}

    async def heard() -> list[bytes]:
        events = stream(read_sections, {}, 0.001)
        return [await anext(events) for _ in range(4)]

    found = asyncio.run(heard())
    assert found[1:3] == [b": alive\n\n"] * 2
    assert "a" in parsed(found[3])


def test_a_browser_says_what_it_holds_and_rubbish_is_nothing() -> None:
    assert held_of("a:1,b:2") == {"a": "1", "b": "2"}
    assert held_of("a,:1,,b:") == {}
    assert event({"a": "\n\n"}).count(b"\n\n") == 1


def test_every_word_on_a_page_is_escaped() -> None:
    made = environment(ROOT / "server" / "dashboard").from_string("{{ x }}")
    assert made.render(x="<script>") == "&lt;script&gt;"


# --- look ------------------------------------------------------------------------------------------------------------


def palette(css: str) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for name, value in re.findall(r"--([a-z]+): (#[0-9a-f]{6});", css):
        found.setdefault(name, []).append(value)
    return found


def test_the_pages_have_the_colours_of_the_report_by_day_and_by_night() -> None:
    ours = palette((ROOT / "shared/local_page/style.css").read_text())
    report = palette((ROOT / "server/report/style.css").read_text())
    for name in ("paper", "wash", "ink", "muted", "rule", "accent", "second", "alert"):
        assert ours[name] == report[name][:2]


def luminance(colour: str) -> float:
    channels = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    linear = [one / 12.92 if one <= 0.04045 else ((one + 0.055) / 1.055) ** 2.4 for one in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize("scheme", [0, 1], ids=["light", "dark"])
def test_every_colour_of_words_has_a_contrast_of_at_least_four_and_a_half(scheme: int) -> None:
    colours = {
        name: found[scheme] for name, found in palette((ROOT / "shared/local_page/style.css").read_text()).items()
    }
    paper = luminance(colours["paper"])
    for name in ("ink", "muted", "accent", "second", "alert", "bad"):
        bright, dark = max(paper, own := luminance(colours[name])), min(paper, own)
        assert (bright + 0.05) / (dark + 0.05) >= 4.5, name


def test_no_page_asks_for_anything_from_elsewhere_or_holds_a_script_or_style_of_its_own() -> None:
    pages = ("shared/local_page/*.j2", "server/dashboard/*.j2", "client/statuspage/*.j2")
    found = [path for pattern in pages for path in ROOT.glob(pattern)]
    assert len(found) == 4
    for path in found:
        text = path.read_text()
        assert not re.search(r"https?://|<style|style=|onclick|<script(?! src=\"/live.js\")", text), path.name
