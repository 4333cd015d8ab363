"""The benchmark of sums under masks at toy size: bytes are real ones, time is CPU time, sums are checked."""

import importlib
import json
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from summed import Sum

from server.secure.round import Summed
from shared.fixed_point import peak
from shared.message_bytes import reply_to_bytes, request_to_bytes
from shared.messages import Confirm, Confirmed, Deal, Dealt, Mask, Offered, Revealed, Unmask
from shared.plan import FixedPoint
from shared.secure import masks
from shared.secure.held import Held
from shared.secure.holders import Threshold
from shared.secure.papers import Paper
from shared.secure.ring import bits_for

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture(autouse=True)
def _scripts(monkeypatch: pytest.MonkeyPatch) -> None:
    """The benchmarks are scripts that import each other by name."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))


def module(name: str) -> ModuleType:
    return importlib.import_module(name)


@pytest.fixture
def arm() -> ModuleType:
    return module("secure_arm")


@pytest.fixture
def section() -> ModuleType:
    return module("secure")


def content(paper: Paper) -> Any:
    return np.frombuffer(paper.to_bytes(), np.uint8)


def expected_bytes(arm: ModuleType, sites: int, length: int, bits: int) -> tuple[int, int]:
    """Bytes that a site sends and gets in a sum, from a sum that the benchmark has no part in."""
    names = [f"site-{number:03}" for number in range(sites)]
    most = peak(FixedPoint(range=1.0, bits=bits))
    zeros = Held(np.zeros(length, np.int32), np.zeros(4, np.int64), 1, most, arm.DEFINITION)
    sum_ = Sum(dict.fromkeys(names, zeros), context=arm.CONTEXT)
    site, asked = names[0], (arm.ENVELOPE, "train")
    party, sums = sum_.parties[site], sum_.round
    # A step that is asked twice in a row has one answer: what the sum is told and what is measured here are the same.
    offer = party.offer(arm.CONTEXT, zeros)
    sum_.offer(names)
    dealing = party.deal(arm.CONTEXT, sums.offers())
    sum_.deal(names)
    received = sums.received(site)
    sum_.mask(names)
    survivors = sums.survivors()
    confirmation = party.confirm(arm.CONTEXT, survivors)
    sum_.confirm(names)
    unmasking = sums.unmasking()
    revelation = party.unmask(arm.CONTEXT, unmasking)
    replies = [Offered(content(offer)), Dealt(content(dealing)), sum_.masked[site]]
    replies += [Confirmed(content(confirmation)), Revealed(content(revelation))]
    requests = [Deal(*asked, content(sums.offers())), Mask(*asked, content(received))]
    requests += [Confirm(*asked, content(survivors)), Unmask(*asked, content(unmasking))]
    return sum(len(reply_to_bytes(one)) for one in replies), sum(len(request_to_bytes(one)) for one in requests)


@pytest.mark.parametrize(("sites", "bits"), [(4, 14), (9, 16)])
def test_bytes_are_those_of_the_messages_of_a_sum_papers_and_all(arm: ModuleType, sites: int, bits: int) -> None:
    (found,) = arm.sums(sites, 1001, bits, [0])["masked"]
    assert (found["up"], found["papers_down"]) == expected_bytes(arm, sites, 1001, bits)


def test_plain_sides_send_two_and_four_bytes_for_each_parameter_behind_one_line(arm: ModuleType) -> None:
    said = arm.sums(3, 5000, 16, [0])
    for side, width in (("exact", 2), ("float32", 4)):
        assert 0 < said[side]["up"] - width * 5000 <= 320
        assert said[side]["papers_down"] == 0
    assert 0 < said["model_bytes"] - 4 * 5000 <= 320


def test_every_number_of_dropouts_has_figures_of_its_own(arm: ModuleType) -> None:
    said = arm.sums(7, 50_000, 14, [0, 1, 2])
    assert [one["dropped"] for one in said["masked"]] == [0, 1, 2]
    assert len({one["coordinator_s"] for one in said["masked"]}) == 3
    assert len({one["papers_down"] for one in said["masked"]}) == 3
    # Seven masks and five papers cost more than one rounding, on any machine.
    assert all(one["site_s"] > said["exact"]["site_s"] > 0 for one in said["masked"])


def test_a_sum_below_the_threshold_is_no_figure(arm: ModuleType) -> None:
    with pytest.raises(Exception, match="2 sites are left in this sum, the threshold is 3"):
        arm.sums(4, 100, 14, [2])


def federation(arm: ModuleType, dropped: int) -> tuple[Any, Any, dict[str, Any]]:
    """Three or four masked answers that nobody has unmasked yet."""
    names, branches = [f"site-{number}" for number in range(4)], []
    sites = arm.Sites(names, arm.Shape(20, 4, 8191, arm.DEFINITION), branches)
    branches.append(arm.Branch(sites.sums(), 20, frozenset(names[4 - dropped :])))
    sites.deal()
    masked = {}
    for number, name in enumerate(names):
        held = sites.held(name, np.full(20, number - 2, np.int32), np.full(4, number, np.int64))
        branches[0].expect(name, held)
        masked[name] = (sites.mask(name, held), sites.keys[name])
    return sites, branches[0], masked


@pytest.mark.parametrize("dropped", [0, 1])
def test_what_a_sum_must_come_to_is_known_apart_from_it(arm: ModuleType, dropped: int) -> None:
    _, branch, masked = federation(arm, dropped)
    branch.finish(masked)
    total: Summed = branch.sums.total()
    assert total.values.tolist() == [sum(range(-2, 2 - dropped))] * 20 == branch.values.tolist()
    assert total.counts.tolist() == [sum(range(4 - dropped))] * 4
    assert len(total.sites) == 4 - dropped


@pytest.mark.parametrize("which", ["values", "counts"])
def test_a_sum_that_is_off_by_one_ends_the_arm(arm: ModuleType, which: str) -> None:
    _, branch, masked = federation(arm, 0)
    getattr(branch, which)[-1] += 1
    with pytest.raises(RuntimeError, match="of 4 sites is not the plain one"):
        branch.finish(masked)


def test_a_site_that_drops_out_has_offered_and_dealt_and_sends_nothing_more(arm: ModuleType) -> None:
    _, branch, masked = federation(arm, 1)
    branch.finish(masked)
    up = branch.ledger.up
    assert 0 < up["site-3"] < up["site-0"]
    _, whole, _ = federation(arm, 0)
    assert whole.ledger.up["site-3"] > up["site-3"]


def test_seconds_are_cpu_seconds_of_whoever_works(arm: ModuleType) -> None:
    ledger = arm.Ledger()
    ledger.of("asleep", time.sleep, 0.2)
    ledger.of("awake", spin, 0.05)
    assert ledger.seconds["asleep"] < 0.05
    assert 0.05 <= ledger.seconds["awake"] < 0.2
    others = [arm.Ledger(), arm.Ledger()]
    assert arm.charge(others, "awake", lambda: spin(0.02)) is None
    assert others[0].seconds == others[1].seconds
    assert others[0].seconds["awake"] >= 0.02


def spin(cpu_s: float) -> None:
    """Work for so long, as the processor counts it."""
    began = time.process_time()
    while time.process_time() - began < cpu_s:
        sum(range(1000))


def test_a_summary_is_of_the_middle_site_and_the_largest_message(arm: ModuleType) -> None:
    ledger = arm.Ledger()
    ledger.seconds.update({"a": 1.0, "b": 9.0, "c": 2.0, "gone": 99.0, arm.COORDINATOR: 5.0})
    ledger.up.update({"a": 10, "b": 30, "c": 20, "gone": 99})
    ledger.down.update({"a": 7})
    said = ledger.summary(["a", "b", "c"])
    assert said == {"site_s": 2.0, "coordinator_s": 5.0, "up": 30.0, "papers_down": 7.0}


def test_speed_is_bytes_of_mask_for_each_second_and_the_stream_is_as_long_as_the_mask(
    arm: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[int] = []
    clock: Iterator[float] = iter(float(tick) for tick in range(100))
    monkeypatch.setattr(arm.time, "process_time", lambda: next(clock))
    monkeypatch.setattr(arm, "_stream", made.append)
    said = arm.speed(masks.BLOCK_BYTES, 3)
    # Every turn takes one tick: a second, and 4 bytes for each value.
    assert said == {"masked": [4e-9 * masks.BLOCK_BYTES] * 3, "stream": [4e-9 * masks.BLOCK_BYTES] * 3}
    assert made == [4 * masks.BLOCK_BYTES] * 4


def test_changes_differ_from_site_to_site_and_are_the_same_in_every_arm(arm: ModuleType) -> None:
    first = dict(arm.changes(["a", "b"], 10_000))
    again = dict(arm.changes([1, 2], 10_000))
    assert np.array_equal(first["a"], again[1])
    assert np.array_equal(first["b"], again[2])
    assert not np.array_equal(first["a"], first["b"])
    assert np.array_equal(np.sort(first["a"]), np.sort(first["b"]))
    # A range of one is four standard deviations: a few of ten thousand are clipped.
    assert 0 < np.count_nonzero(np.abs(first["a"]) > 1) < 10


@pytest.mark.parametrize(("sites", "bits", "ring"), [(4, 14, 16), (8, 14, 17), (16, 16, 20), (64, 16, 22)])
def test_a_federation_has_the_bits_that_keep_its_bytes_low(
    section: ModuleType, sites: int, bits: int, ring: int
) -> None:
    cell = section.Cell(sites, 10**6)
    assert cell.bits == bits
    assert bits_for(peak(FixedPoint(range=1.0, bits=bits)), sites) == ring


def test_a_tenth_and_three_tenths_drop_out_and_enough_are_left(section: ModuleType) -> None:
    found = {cell.sites: cell.dropped for cell in section.LARGE}
    assert found == {4: (0, 1), 8: (0, 1, 2), 16: (0, 2, 5), 64: (0, 6, 19)}
    assert all(sites - max(dropped) >= Threshold().of(sites) for sites, dropped in found.items())
    assert {cell.parameters for cell in section.LARGE} == {10**6, 10**7, 3 * 10**7}


def figures(dropped: float = 0.0, up: float = 2.2e6) -> dict[str, float]:
    return {"dropped": dropped, "site_s": 0.4, "coordinator_s": 0.9, "up": up, "papers_down": 12_000.0}


def said_of(*masked: dict[str, float]) -> dict[str, Any]:
    plain = {"site_s": 0.1, "coordinator_s": 0.3, "up": 2e6, "papers_down": 0.0}
    return {"masked": list(masked), "exact": plain, "float32": plain | {"site_s": 0.05, "up": 4e6}, "model_bytes": 4e6}


def test_rows_are_ratios_to_the_exact_sum_and_a_target_stands_where_one_was_promised(section: ModuleType) -> None:
    rows = list(section.rows(section.Cell(8, 10**6), said_of(figures(), figures(1.0))))
    assert [row.found[0] for row in rows] == pytest.approx([4.0, 3.0, 0.55, 4.0, 3.0])
    assert [row.target is not None for row in rows] == [False, False, True, False, False]
    assert rows[2].verdict == "met"
    (missed,) = (row for row in section.rows(section.Cell(8, 10**6), said_of(figures(up=2.3e6))) if row.target)
    assert missed.verdict == "missed"
    (many,) = (row for row in section.rows(section.Cell(64, 10**6), said_of(figures(up=2.8e6))) if row.target)
    assert (many.target.value, many.verdict) == (0.7, "met")
    assert not any(row.target for row in section.rows(section.Cell(16, 10**6), said_of(figures())))


def test_masks_slower_than_three_gigabytes_a_second_miss_their_target(section: ModuleType) -> None:
    slow, share = section.speeds({"masked": [2.9, 2.9, 9.0], "stream": [8.0, 8.0, 9.0]})
    assert slow.verdict == "missed"
    assert share.found == pytest.approx((36.25, 36.25, 100.0))


@pytest.fixture
def in_process(section: ModuleType, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Arms run here, and are noted."""
    asked: list[str] = []
    ran = module("processes").Ran

    def here(name: str, _environment: object, arguments: dict[str, Any], *_: object) -> Any:
        of, _, function = name.partition(".")
        asked.append(name)
        return ran(getattr(module(of), function)(**arguments), 1.0, 1.0, 512.0)

    monkeypatch.setattr(section, "run_arm", here)
    monkeypatch.setattr(module("bench"), "run_arm", here)
    return asked


def test_the_small_section_measures_masks_and_a_federation(section: ModuleType, in_process: list[str]) -> None:
    bench = module("bench")
    rows = list(section.small(bench.Bench("", replace(bench.QUICK, parameters=10_000), {})))
    assert in_process == ["secure_arm.speed", "secure_arm.sums"]
    assert len(rows) == 5
    assert all(row.found for row in rows)


def test_the_whole_section_has_both_masks_and_at_toy_size_leaves_the_last_results_alone(
    section: ModuleType, in_process: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(section, "RESULTS", tmp_path / "secure.json")
    bench = module("bench")
    rows = list(section.secure(bench.Bench("", replace(bench.QUICK, parameters=10_000), {})))
    assert in_process.count("secure_arm.sums") == 2
    assert in_process.count("secure_flower.sums") == 2
    assert sum("SecAgg+" in row.what for row in rows) == 6
    assert not list(tmp_path.iterdir())


def test_federations_are_on_file_as_they_are_measured_and_become_the_tables_of_the_page(
    section: ModuleType, tmp_path: Path
) -> None:
    kept = section.Kept(tmp_path / "secure.json", {"masked": [5.0, 6.0, 5.5], "stream": [8.0]})
    kept.add("cells", section.Cell(8, 10**6), {"peak_mib": 2048.0, **said_of(figures(), figures(1.0))})
    before = json.loads((tmp_path / "secure.json").read_text())
    kept.add("flower", section.Cell(4, 10**6), {**figures(up=8.1e6), "down": 4e6})
    after = json.loads((tmp_path / "secure.json").read_text())
    assert (len(before["flower"]), len(after["flower"]), len(after["load"])) == (0, 1, 3)

    page = tmp_path / "page.md"
    page.write_text("above\n<!-- benchmarks: begin -->\nold\n<!-- benchmarks: end -->\nbelow\n", encoding="utf-8")
    module("secure_page").write(tmp_path / "secure.json", page)
    text = page.read_text(encoding="utf-8")
    assert text.startswith("above\n")
    assert text.endswith("\nbelow\n")
    assert "old" not in text
    assert "at 5.5 GB/s" in text
    assert "2.0 GiB" in text
    plain = "| 1 M | 8 | 0 | 0.050 / 0.100 / 0.400 | 0.300 / 0.300 / 0.900 | 4.00 / 2.00 / 2.20 | 0.550 | 12.0 |"
    assert plain in text
    assert "| 1 M | 8 | 1 | 0.400 | 0.900 | 2.20 | 0.550 | 12.0 |" in text
    assert "| 1 M | 4 | 0 | 0.400 | 0.900 | 8.10 | 2.025 |" in text


def test_a_page_without_marks_is_left_as_it_is(section: ModuleType, tmp_path: Path) -> None:
    kept = section.Kept(tmp_path / "secure.json", {"masked": [5.0], "stream": [8.0]})
    kept.add("cells", section.Cell(8, 10**6), {"peak_mib": 2048.0, **said_of(figures())})
    page = tmp_path / "page.md"
    page.write_text("nothing here\n", encoding="utf-8")
    with pytest.raises(ValueError, match="begin"):
        module("secure_page").write(tmp_path / "secure.json", page)
    assert page.read_text(encoding="utf-8") == "nothing here\n"
