"""The gateway's log: what a line says, and that it cannot be flooded."""

from __future__ import annotations

import json
import stat
from datetime import UTC, datetime, timedelta
from pathlib import Path

from server.link.gate import Noted
from server.link.log import A_MINUTE, json_log

START = datetime(2026, 3, 1, 12, tzinfo=UTC)
REFUSED = Noted("fleet", "/docs", "path is not served here", "192.0.2.1", 403)
ALLOWED = Noted("control", "/v1/control/list-runs", "allowed", "127.0.0.1", 200)


class Clock:
    def __init__(self) -> None:
        self.now = START

    def __call__(self) -> datetime:
        return self.now


def lines(path: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_a_line_says_when_what_how_it_ended_and_who(tmp_path: Path) -> None:
    path = tmp_path / "gateway.jsonl"
    json_log(path, Clock())(ALLOWED)
    assert lines(path) == [
        {
            "time": "2026-03-01T12:00:00.000+00:00",
            "api": "control",
            "call": "/v1/control/list-runs",
            "verdict": "allowed",
            "peer": "127.0.0.1",
            "status": 200,
        }
    ]
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_flood_of_refusals_is_cut_each_minute_and_counted(tmp_path: Path) -> None:
    path, clock = tmp_path / "gateway.jsonl", Clock()
    note = json_log(path, clock)
    for _ in range(A_MINUTE + 500):
        note(REFUSED)
    assert len(lines(path)) == A_MINUTE
    clock.now = START + timedelta(minutes=1)
    note(REFUSED)
    assert lines(path)[-1]["not_written"] == 500
    note(REFUSED)
    assert "not_written" not in lines(path)[-1]


def test_control_calls_are_written_whatever_else_happens(tmp_path: Path) -> None:
    path = tmp_path / "gateway.jsonl"
    note = json_log(path, Clock())
    for _ in range(A_MINUTE + 10):
        note(REFUSED)
    for _ in range(A_MINUTE + 10):
        note(ALLOWED)
    assert sum(line["api"] == "control" for line in lines(path)) == A_MINUTE + 10


def test_a_line_break_in_a_path_does_not_make_a_second_line(tmp_path: Path) -> None:
    path = tmp_path / "gateway.jsonl"
    json_log(path, Clock())(Noted("fleet", '/\n{"forged": 1}', "x", "192.0.2.1", 403))
    assert len(lines(path)) == 1


def test_a_log_that_was_moved_away_is_begun_anew(tmp_path: Path) -> None:
    path = tmp_path / "gateway.jsonl"
    note = json_log(path, Clock())
    note(ALLOWED)
    path.rename(tmp_path / "old.jsonl")
    note(ALLOWED)
    assert (len(lines(path)), len(lines(tmp_path / "old.jsonl"))) == (1, 1)
