"""The list of runs and the status: read from folders, right in every state, and open about what is not known."""

from __future__ import annotations

import os
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from deployed_federation import SITES, Deployed
from report_runs import results
from scripted_gateway import ScriptedGateway
from tiny_federation import tiny_plan

from server.commands import runs
from server.deployed.board import Board
from server.deployed.live import LIVE, Live
from server.deployed.run_folder import RunFolder
from server.enrolment import set_state
from server.link.control import Node
from server.results import RESULTS, write_results

THEN = datetime(2026, 11, 20, 12, tzinfo=UTC)


@pytest.fixture
def deployed(tmp_path: Path) -> Deployed:
    return Deployed(tmp_path, tiny_plan())


def says(found: RunFolder, at: datetime = THEN, plan: str = "tiny", **changes: object) -> None:
    Board(found.path / LIVE, at.timestamp, Live(found.run, plan, 3)).say(**changes)


def only(deployed: Deployed, after_s: float = 0.0) -> runs.Listed:
    (one,) = runs.listed(deployed.federation, THEN + timedelta(seconds=after_s))
    return one


def test_a_run_whose_process_has_said_nothing_is_ordered(deployed: Deployed) -> None:
    found = deployed.order()
    assert only(deployed) == runs.Listed(found.run, "", "ordered", 0, 0, "", "")


@pytest.mark.parametrize(
    ("quiet_s", "state"), [(0.0, "running"), (120.0, "running"), (121.0, "interrupted"), (86400.0, "interrupted")]
)
def test_a_run_that_falls_silent_for_two_minutes_is_called_interrupted(
    deployed: Deployed, quiet_s: float, state: str
) -> None:
    says(deployed.order(), phase="training", round=2)
    assert (only(deployed, quiet_s).state, only(deployed, quiet_s).round) == (state, 2)


def test_a_clock_that_went_back_interrupts_nothing(deployed: Deployed) -> None:
    says(deployed.order(), round=1)
    assert only(deployed, -3600.0).state == "running"


@pytest.mark.parametrize("state", ["finished", "failed"])
def test_a_run_that_is_over_stays_what_it_was_however_long_ago(deployed: Deployed, state: str) -> None:
    says(deployed.order(), state=state, sentence="a reason" if state == "failed" else "")
    assert only(deployed, 1e9).state == state


def test_while_there_are_no_results_the_last_measured_value_is_the_headline(deployed: Deployed) -> None:
    found = deployed.order()
    says(found, headline="auroc", value=0.8125)
    assert only(deployed).headline == "auroc 0.812"
    says(found, headline="auroc")
    assert only(deployed).headline == ""


def test_results_that_cannot_be_read_leave_the_last_value(deployed: Deployed) -> None:
    found = deployed.order()
    says(found, state="finished", headline="auroc", value=0.5)
    for content in ("", "{", "[]", "{}"):
        (found.path / RESULTS).write_text(content)
        assert only(deployed).headline == "auroc 0.500"


def test_a_finished_run_is_listed_with_the_value_of_its_results_and_not_of_its_last_round(deployed: Deployed) -> None:
    found = deployed.order()
    says(found, state="finished", round=3, headline="dice", value=0.5)
    write_results(found.path, results())
    assert (only(deployed).headline, only(deployed).round) == ("dice 0.791", 3)


def test_a_headline_that_the_results_leave_open_is_said_to_be_undetermined(deployed: Deployed) -> None:
    found, known = deployed.order(), results()
    says(found, state="finished", headline="dice", value=0.5)
    pooled = {"dice": {"value": None, "low": None, "high": None, "n_patients": 0}}
    write_results(found.path, replace(known, final={**known.final, "pooled": pooled}))
    assert only(deployed).headline == "dice undetermined"


def test_the_newest_run_stands_last(deployed: Deployed) -> None:
    found = [deployed.order() for _ in range(4)]
    for place, one in enumerate(reversed(found)):
        os.utime(one.path / "order.json", ns=(place * 10**9, place * 10**9))
    assert [one.run for one in runs.listed(deployed.federation, THEN)] == [one.run for one in reversed(found)]


def test_a_folder_without_an_order_or_of_another_name_is_no_run(deployed: Deployed) -> None:
    (deployed.federation.path / "runs" / ("f" * 32)).mkdir()
    (deployed.federation.path / "runs" / "notes").mkdir()
    assert list(runs.listed(deployed.federation, THEN)) == []


def test_a_run_is_a_line_with_its_reason_in_place_of_its_number(deployed: Deployed) -> None:
    found = deployed.order()
    says(found, state="failed", round=1, headline="auroc", value=0.5, sentence="too few sites answered")
    (line,) = runs.shown(deployed.federation, THEN)
    assert line.split() == [
        *(found.run[:12], "failed", "round", "1", "of", "3", "tiny"),
        *("too", "few", "sites", "answered"),
    ]


# --- status ----------------------------------------------------------------------------------------------------------


def a_gateway(monkeypatch: pytest.MonkeyPatch, **states: str) -> None:
    gateway = ScriptedGateway(registered=tuple(Node(1, site, state, "") for site, state in states.items()))
    monkeypatch.setattr(runs, "Control", gateway)


def test_without_a_gateway_it_is_unknown_who_is_connected_and_not_said_to_be_nobody(deployed: Deployed) -> None:
    said = runs.status(deployed.federation, THEN)
    assert said["gateway"] == "unknown"
    assert said["sites"] == [{"site": site, "state": "active", "connected": "unknown"} for site in SITES]


def test_with_a_gateway_each_site_is_what_it_says_and_one_it_has_not_met_was_never_seen(
    deployed: Deployed, monkeypatch: pytest.MonkeyPatch
) -> None:
    a_gateway(monkeypatch, aachen="online", bergen="offline", stranger="online")
    set_state(deployed.federation, "bergen", "suspended", deployed.lead, deployed.now())
    said = runs.status(deployed.federation, THEN)
    assert said["gateway"] == "running"
    assert said["sites"] == [
        {"site": "aachen", "state": "active", "connected": "online"},
        {"site": "bergen", "state": "suspended", "connected": "offline"},
        {"site": "coimbra", "state": "active", "connected": "never seen"},
    ]


def test_people_are_told_the_same_as_programs(deployed: Deployed, monkeypatch: pytest.MonkeyPatch) -> None:
    a_gateway(monkeypatch, aachen="online", bergen="offline")
    found = deployed.order()
    says(found, phase="training", round=2)
    lines = list(runs.status_lines(deployed.federation, THEN))
    assert lines[0] == "tiny at 127.0.0.1:9443, gateway running"
    left = runs.status(deployed.federation, THEN)["days_left"]
    assert isinstance(left, dict)
    assert lines[1] == f"certificates: server {left['server']} days, authority {left['authority']} days"
    assert [line.split(maxsplit=2) for line in lines[2:5]] == [
        ["aachen", "active", "online"],
        ["bergen", "active", "offline"],
        ["coimbra", "active", "never seen"],
    ]
    assert [line[:12] for line in lines[5:]] == [found.run[:12]]


def test_only_runs_that_are_not_over_are_what_goes_on_whatever_their_plans_are_called(deployed: Deployed) -> None:
    """A plan named after what a run may be, or a reason with such a word, makes no run go on."""
    says(deployed.order(), plan="running-man", state="finished")
    says(deployed.order(), state="failed", sentence="the run was interrupted by its lead")
    deployed.order()
    going, silent = deployed.order(), deployed.order()
    says(going, round=1)
    says(silent, at=THEN - timedelta(hours=1), round=2)
    listed = runs.status(deployed.federation, THEN)["runs"]
    assert isinstance(listed, list)
    assert {(one["run"], one["state"]) for one in listed} == {(going.run, "running"), (silent.run, "interrupted")}
    told = {line[:12] for line in list(runs.status_lines(deployed.federation, THEN))[2 + len(SITES) :]}
    assert told == {going.run[:12], silent.run[:12]}


def test_days_are_counted_down_to_the_end_of_the_certificates(deployed: Deployed) -> None:
    def left(now: datetime) -> dict[str, int]:
        said = runs.status(deployed.federation, now)["days_left"]
        assert isinstance(said, dict)
        return said

    today, later = left(deployed.now()), left(deployed.now() + timedelta(days=30))
    assert {name: today[name] - later[name] for name in today} == {"server": 30, "authority": 30}
