"""Structured logs: a line is whole, has only fields that are known, and lets no free text in."""

import json
import multiprocessing
import stat
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared import logs
from shared.logs import FIELDS, Log, line

NOW = datetime(2026, 11, 20, 12, 0, 0, 250_000, tzinfo=UTC)
GOOD: dict[str, Any] = {
    "attempt": 2,
    "bytes": 40960,
    "code": "custodian-gone",
    "count": 3,
    "dataset": "lesions",
    "days": -1,
    "digest": "ab" * 32,
    "exit": 75,
    "phase": "training",
    "pid": 4128,
    "plan": "cd" * 32,
    "port": 8443,
    "program": "custodian",
    "round": 7,
    "run": "ef" * 16,
    "seconds": 0.25,
    "site": "aachen",
    "status": 403,
}
PATIENT = ("Müller, Anna", "1957-03-02", "/data/MUELLER^ANNA/1.dcm", "anna mueller", "ANNA")


def read(path: Path) -> list[dict[str, Any]]:
    return [json.loads(one) for one in path.read_text().splitlines()]


def test_every_field_that_is_known_can_be_said() -> None:
    assert set(GOOD) == set(FIELDS)
    said = json.loads(line(NOW, "gateway", "refused", GOOD))
    assert said == {"time": "2026-11-20T12:00:00.250+00:00", "process": "gateway", "event": "refused", **GOOD}


def test_a_line_ends_with_its_only_line_feed() -> None:
    assert line(NOW, "gateway", "refused", GOOD).count(b"\n") == 1
    assert line(NOW, "gateway", "refused", GOOD).endswith(b"}\n")


def test_times_are_utc_wherever_the_clock_is() -> None:
    berlin = NOW.astimezone(timezone(timedelta(hours=1)))
    assert line(berlin, "a", "b", {}) == line(NOW, "a", "b", {})


@pytest.mark.parametrize("name", sorted(set(FIELDS) - {"seconds"}))
@pytest.mark.parametrize("value", [*PATIENT, "", 1.5, None, True, ["a"], "x" * 64], ids=range(11))
def test_what_is_not_of_a_field_s_form_is_refused_and_not_repeated(name: str, value: Any) -> None:
    with pytest.raises(ValueError, match="FIELDS") as caught:
        line(NOW, "gateway", "refused", {name: value})
    assert not isinstance(value, str) or not value or value not in str(caught.value)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), "0.5", None, True], ids=range(5))
def test_seconds_are_a_finite_number(value: Any) -> None:
    with pytest.raises(ValueError, match="FIELDS"):
        line(NOW, "gateway", "refused", {"seconds": value})


@pytest.mark.parametrize("name", ["message", "error", "path", "patient", "sentence", "host"])
def test_there_is_no_field_for_free_text(name: str) -> None:
    with pytest.raises(ValueError, match="FIELDS"):
        line(NOW, "gateway", "refused", {name: "a"})


@pytest.mark.parametrize("text", PATIENT, ids=range(len(PATIENT)))
def test_process_and_event_are_names_of_programs(text: str) -> None:
    for process, event in ((text, "refused"), ("gateway", text)):
        with pytest.raises(ValueError, match="names"):
            line(NOW, process, event, {})


@given(st.text(max_size=80))
def test_whatever_is_accepted_as_a_name_has_no_space_capital_slash_or_quote(text: str) -> None:
    try:
        said = line(NOW, "gateway", "refused", {"site": text})
    except ValueError:
        return
    assert text.isascii()
    assert not set(text) & set(" /\\\"'^,;:\n")
    assert text == text.lower()
    assert json.loads(said)["site"] == text


def test_lines_are_added_for_the_owner_alone(tmp_path: Path) -> None:
    log = Log(tmp_path / "gateway.jsonl", "gateway", lambda: NOW)
    log.say("start", pid=1)
    log.say("stop", exit=0)
    assert [one["event"] for one in read(log.path)] == ["start", "stop"]
    assert stat.S_IMODE(log.path.stat().st_mode) == 0o600


def test_nothing_is_written_for_a_line_that_is_refused(tmp_path: Path) -> None:
    log = Log(tmp_path / "gateway.jsonl", "gateway", lambda: NOW)
    with pytest.raises(ValueError, match="FIELDS"):
        log.say("start", site="Anna")
    assert not log.path.exists()


def test_a_file_that_has_grown_large_is_put_aside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logs, "LARGEST", 200)
    log = Log(tmp_path / "gateway.jsonl", "gateway", lambda: NOW)
    for number in range(8):
        log.say("start", count=number)
    aside = read(tmp_path / "gateway.jsonl.1")
    assert [one["count"] for one in aside + read(log.path)] == list(range(8))[-len(aside) - len(read(log.path)) :]
    assert log.path.stat().st_size <= 300


def write(path: Path, process: str) -> None:
    log = Log(path, process, lambda: NOW)
    for number in range(200):
        log.say("tick", count=number)


def test_two_processes_write_whole_lines_into_one_file(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    path = tmp_path / "both.jsonl"
    writers = [context.Process(target=write, args=(path, name)) for name in ("gateway", "custodian")]
    for one in writers:
        one.start()
    for one in writers:
        one.join(30)
    for name in ("gateway", "custodian"):
        assert [one["count"] for one in read(path) if one["process"] == name] == list(range(200))
