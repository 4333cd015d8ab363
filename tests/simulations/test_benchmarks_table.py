"""The machinery of the benchmarks: processes, turns, verdicts, the page."""

import importlib
import json
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def _scripts(monkeypatch: pytest.MonkeyPatch) -> None:
    """The benchmarks are scripts that import each other by name."""
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))


def module(name: str) -> ModuleType:
    return importlib.import_module(name)


def row(found: tuple[float, ...] = (), **more: Any) -> Any:
    return module("rows").Row("simulation", "loop", "x", found, **more)


def at_most(value: float) -> Any:
    return module("rows").Target("at most", value)


def ran(**said: float) -> Any:
    return module("processes").Ran(said, 2.0, 1.0, 100.0)


def test_the_default_environment_tunes_neither_allocator_nor_threads() -> None:
    given = {"PATH": "/bin", "MALLOC_ARENA_MAX": "1", "OMP_NUM_THREADS": "4", "LD_PRELOAD": "other-malloc.so"}
    assert module("processes").default(given) == {"PATH": "/bin"}


def test_our_environment_is_that_of_our_commands_whatever_the_user_tuned() -> None:
    ours = module("processes").ours({"PATH": "/bin", "OMP_NUM_THREADS": "4", "MALLOC_TRIM_THRESHOLD_": "1"})
    assert ours["OMP_NUM_THREADS"] == "1"
    assert ours["MALLOC_TRIM_THRESHOLD_"] == str(2**32)
    assert ours["FLWR_TELEMETRY_ENABLED"] == "0"
    assert ours["PATH"] == "/bin"


def test_time_and_memory_are_those_of_the_process() -> None:
    code = "import time; kept = bytearray(b'x') * 2**27; time.sleep(0.2); sum(range(10**6))"
    found = module("processes").run_command([sys.executable, "-c", code], os.environ)
    assert found.peak_mib > 128
    assert found.wall_s > 0.2
    assert 0 < found.cpu_s < found.wall_s


def test_time_and_memory_of_a_family_cover_its_living_children() -> None:
    usage = module("family").usage
    work = "kept = bytearray(b'x') * 2**26; sum(range(2 * 10**6)); print('ready', flush=True); input()"
    alone = usage()
    child = subprocess.Popen([sys.executable, "-c", work], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        assert child.stdout is not None
        assert child.stdout.readline() == b"ready\n"
        together = usage()
    finally:
        child.communicate(b"\n")
    assert together["family_mib"] - alone["family_mib"] > 60
    assert together["family_cpu_s"] > alone["family_cpu_s"]


def test_a_process_that_is_gone_uses_nothing() -> None:
    assert module("family").usage(2**22 + 1) == {"family_cpu_s": 0.0, "family_mib": 0.0}


def test_a_failing_command_says_how_it_ended() -> None:
    processes = module("processes")
    with pytest.raises(processes.ArmError, match=r"ended with 1: ValueError: too hot"):
        processes.run_command([sys.executable, "-c", "raise ValueError('too hot')"], os.environ)


def test_a_hanging_command_is_ended_at_its_deadline() -> None:
    processes = module("processes")
    with pytest.raises(processes.ArmError, match="ended with -9"):
        processes.run_command([sys.executable, "-c", "import time; time.sleep(60)"], os.environ, 0.3)


def test_an_arm_runs_in_its_own_process_and_returns_what_it_said() -> None:
    found = module("processes").run_arm("rows.ratios", os.environ, {"above": [3.0, 8.0], "below": [2.0, 4.0]})
    assert found.said == [1.5, 2.0]
    assert found.peak_mib > 1


def test_arms_take_turns_as_often_as_each_says() -> None:
    order: list[str] = []

    def arm(name: str) -> Any:
        return lambda: order.append(name) or ran()

    runs = module("processes").interleaved({"a": (arm("a"), 3), "b": (arm("b"), 2)})
    assert order == ["a", "b", "a", "b", "a"]
    assert {name: len(done) for name, done in runs.items()} == {"a": 3, "b": 2}


def test_a_ratio_is_taken_between_neighbours() -> None:
    assert module("rows").ratios([2.0, 9.0, 5.0], [1.0, 3.0]) == (2.0, 3.0)


@pytest.mark.parametrize(
    ("found", "bound", "verdict"),
    [
        ((1.04,), "at most", "met"),
        ((1.06,), "at most", "missed"),
        ((1.06,), "at least", "met"),
        ((1.0, 1.04, 9.0), "at most", "met"),
    ],
)
def test_the_median_decides(found: tuple[float, ...], bound: str, verdict: str) -> None:
    assert row(found, target=module("rows").Target(bound, 1.05)).verdict == verdict


def test_what_was_not_measured_is_not_missed_but_says_why() -> None:
    assert row(target=at_most(1.05), reason="Ray is not installed").verdict == "not measured: Ray is not installed"


def test_toy_figures_are_not_judged() -> None:
    assert module("rows").without_target(row((9.0,), target=at_most(1.05))).verdict == ""


def test_cells_show_median_range_and_target() -> None:
    cells = row((1.0, 1.03, 1.2), cpu=(1.01,), target=at_most(1.05)).cells()
    assert cells == ("simulation", "loop", "at most 1.05 x", "1.03 x (1.00 x to 1.20 x)", "1.01 x", "met")


def test_rows_come_back_from_json_as_they_were() -> None:
    rows = module("rows")
    for one in (row((1.0, 2.0), cpu=(1.5,), target=at_most(1.05)), row(reason="no Ray")):
        assert rows.from_json(json.loads(json.dumps(rows.to_json(one)))) == one


def test_arms_that_trained_different_models_are_not_compared() -> None:
    bench, processes = module("bench"), module("processes")
    assert bench.same_work({"a": [ran(loss=0.5)], "b": [ran(loss=0.5001)]})
    for other in (0.6, float("nan")):
        with pytest.raises(processes.ArmError, match="did not train the same"):
            bench.same_work({"a": [ran(loss=0.5)], "b": [ran(loss=other)]})


def test_flowers_engine_may_fail_without_ending_the_benchmark(monkeypatch: pytest.MonkeyPatch) -> None:
    bench, simulated, processes = module("bench"), module("simulated"), module("processes")

    def failing(*_: object) -> Any:
        raise processes.ArmError("flower_engine.on_ray ended with 1: no module named ray")

    monkeypatch.setattr(simulated, "interleaved", failing)
    (found,) = simulated.flower(bench.Bench("", bench.QUICK, {}))
    assert found.target == module("rows").Target("at least", 2.0)
    assert found.verdict.startswith("not measured: flower_engine.on_ray ended with 1")


def test_the_page_gets_the_table_between_its_marks_and_nothing_else(tmp_path: Path) -> None:
    run, rows = module("run"), module("rows")
    page, latest = tmp_path / "performance.md", tmp_path / "latest.json"
    page.write_text(f"before\n{rows.BEGIN}\nold\n{rows.END}\nafter\n")
    machine = {"cpu": "some CPU", "cores": 2, "load_before": 3.0, "python": "3.11", "versions": {"torch": "2"}}
    document = {"machine": machine, "scale": "full", "seconds": 7, "rows": [rows.to_json(row((1.0,)))]}
    latest.write_text(json.dumps(document))
    run.write_docs(latest, page)
    text = page.read_text()
    assert text.startswith("before\n")
    assert text.endswith("after\n")
    assert "| simulation | loop |  | 1.00 x |  |  |" in text
    assert "Other work was running (load 3.0" in text
    assert "old" not in text


def test_the_page_in_docs_has_the_marks() -> None:
    rows = module("rows")
    page = (ROOT / "docs" / "performance.md").read_text(encoding="utf-8")
    assert rows.replaced(page, "table").count("table") >= 1
    with pytest.raises(ValueError, match="the page has no"):
        rows.replaced("a page without marks", "table")


def test_every_section_has_a_name_that_only_can_choose() -> None:
    run = module("run")
    chosen = run._parser().parse_args(["--quick", "--only", "memory", "--only", "start-up"])
    assert chosen.quick
    assert chosen.only == ["memory", "start-up"]
    assert next(iter(run.SECTIONS)) == "simulation"
