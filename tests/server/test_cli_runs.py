"""The commands of ``consilium-server`` about runs, as the lead types them: what they print, refuse and leave alone."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import tomli_w
from classified_runs import classified
from scripted_gateway import ScriptedGateway, over
from small_hospitals import Said
from small_server import lead
from tiny_federation import tiny_plan

from server.commands import running
from server.deployed.board import Board
from server.deployed.live import LIVE, Live
from server.deployed.run_folder import RunFolder, begin, open_run, ordered
from server.federation_folder import FederationFolder, settings_for
from server.results import write_results
from shared.trust.documents import moment

Capsys = pytest.CaptureFixture[str]
COMMANDS = ("run", "resume", "stop", "log", "runs", "status", "report", "start", "check", "proxy-config")


class Lead:
    """A federation folder, and what its lead types."""

    def __init__(self, capsys: Capsys, folder: Path) -> None:
        self.capsys, self.home, self.plan = capsys, folder / "federation", folder / "plan.toml"
        now = datetime.now(UTC)
        self.federation = FederationFolder.init(self.home, settings_for("tiny", "127.0.0.1:9443"), None, now)
        self.plan.write_text(tomli_w.dumps(tiny_plan().model_dump(mode="json", exclude_none=True)))

    def types(self, *words: object) -> Said:
        return lead(self.capsys, *words, "--federation", self.home)

    def order(self, days_ago: int = 0) -> RunFolder:
        then = datetime.now(UTC) - timedelta(days=days_ago)
        return begin(self.federation, tiny_plan(), self.federation.lead_key(lambda: b""), then, timedelta(days=1))


@pytest.fixture
def at(capsys: Capsys, tmp_path: Path) -> Lead:
    return Lead(capsys, tmp_path)


@pytest.fixture
def gateway(monkeypatch: pytest.MonkeyPatch) -> ScriptedGateway:
    made = ScriptedGateway()
    monkeypatch.setattr(running, "Control", made)
    monkeypatch.setattr(running, "_POLL_S", 0.0)
    return made


def refused(said: Said, sentence: str, status: int = 1) -> None:
    """One error, no traceback, nothing for programs."""
    assert said.status == status
    assert [line for line in said.err.splitlines() if line.startswith("error: ")] == [f"error: {sentence}"]
    assert "Traceback" not in said.err


# --- run -------------------------------------------------------------------------------------------------------------


def test_a_detached_run_prints_its_name_alone_and_is_ordered(at: Lead, gateway: ScriptedGateway) -> None:
    said = at.types("run", at.plan, "--detach")
    assert (said.status, re.fullmatch(r"[0-9a-f]{32}\n", said.out) is not None) == (0, True)
    assert list(ordered(at.federation)) == [said.out.strip()]
    assert gateway.started == [{"run": said.out.strip()}]


@pytest.mark.parametrize("days", [1, 30])
def test_an_order_holds_as_long_as_it_is_given(at: Lead, gateway: ScriptedGateway, days: int) -> None:
    run = at.types("run", at.plan, "--detach", "--days", days).out.strip()
    order = open_run(at.federation, run).order
    assert moment(order.expires) - moment(order.created) == timedelta(days=days)
    assert len(gateway.started) == 1


def test_without_a_gateway_a_run_is_ordered_and_can_be_resumed(at: Lead) -> None:
    said = at.types("run", at.plan)
    refused(said, "the gateway of this federation does not answer")
    assert "consilium-server start" in said.err
    assert list(ordered(at.federation)) == [said.out.strip()]


@pytest.mark.parametrize("text", ["", "plan = 3\n", "[plan\n", '[plan]\nname = "Anna Müller"\n'])
def test_a_plan_that_is_none_is_refused_and_nothing_is_ordered(at: Lead, gateway: ScriptedGateway, text: str) -> None:
    at.plan.write_text(text)
    said = at.types("run", at.plan)
    assert said.status != 0
    assert "Traceback" not in said.err
    assert (list(ordered(at.federation)), gateway.started) == ([], [])


@pytest.mark.parametrize("days", ["0", "366", "-1", "soon"])
def test_an_order_for_no_time_or_for_ever_is_a_wrong_command(at: Lead, days: str) -> None:
    assert at.types("run", at.plan, "--days", days).status == 2
    assert list(ordered(at.federation)) == []


def test_a_followed_run_ends_with_its_table_and_where_the_report_is(at: Lead, gateway: ScriptedGateway) -> None:
    def finishes() -> tuple[str, str]:
        (run,) = ordered(at.federation)
        folder = open_run(at.federation, run).path
        write_results(folder, replace(classified(), plan_digest=tiny_plan().digest()))
        Board(folder / LIVE, lambda: datetime.now(UTC).timestamp(), Live(run, "tiny", 3)).say(
            state="finished", phase="finished", round=3
        )
        return "finished", "completed"

    gateway.attempts = [[finishes]]
    said = at.types("run", at.plan)
    assert said.status == 0
    assert "0.840" in said.out
    assert "report.html" in said.err
    assert "round 3 of 3: finished" in said.err


def test_a_run_that_is_stopped_while_it_is_followed_says_how_to_go_on(at: Lead, gateway: ScriptedGateway) -> None:
    gateway.attempts = [[over("stopped")]]
    said = at.types("run", at.plan)
    run = said.out.strip()
    refused(said, f"run {run[:12]} did not finish: it was stopped")
    assert f"consilium-server resume {run[:12]}" in said.err


# --- resume, stop, log -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", ["resume", "stop", "log", "report"])
@pytest.mark.parametrize("name", ["abcd", "zz", "no/such"])
def test_a_run_that_nobody_ordered_is_refused_by_its_name(at: Lead, command: str, name: str) -> None:
    refused(at.types(command, name), f"0 runs begin with '{name}'")


def test_a_name_of_several_runs_names_none(at: Lead) -> None:
    first = at.order()
    for _ in range(2):
        at.order()
    refused(at.types("stop", ""), "3 runs begin with ''")
    refused(at.types("stop", first.run[:3]), f"1 runs begin with '{first.run[:3]}'")


def test_a_run_that_goes_on_cannot_be_resumed(at: Lead, gateway: ScriptedGateway) -> None:
    found = at.order()
    gateway.knows(found.run, "pending")
    refused(at.types("resume", found.run[:8]), f"run {found.run[:12]} goes on already")


@pytest.mark.parametrize(("days_ago", "orders"), [(0, 1), (9, 2)], ids=["order holds", "order is over"])
def test_resuming_makes_a_new_order_only_where_the_old_one_is_over(
    at: Lead, gateway: ScriptedGateway, days_ago: int, orders: int
) -> None:
    found = at.order(days_ago)
    before = (found.path / "order.json").read_bytes()
    gateway.attempts = [[over("stopped")]]
    at.types("resume", found.run[:8], "--days", 3)
    assert len({before, open_run(at.federation, found.run).order_file}) == orders
    assert moment(open_run(at.federation, found.run).order.expires) > datetime.now(UTC)
    assert gateway.started == [{"run": found.run}]


def test_a_run_that_goes_on_is_stopped_and_that_is_said(at: Lead, gateway: ScriptedGateway) -> None:
    found = at.order()
    number = gateway.knows(found.run, "running")
    said = at.types("stop", found.run[:8])
    assert (said.status, said.out) == (0, f"run {found.run[:12]} is stopped; resume goes on with it\n")
    assert gateway.stopped == [number]


def test_a_run_that_is_over_is_not_stopped_again(at: Lead, gateway: ScriptedGateway) -> None:
    found = at.order()
    gateway.knows(found.run, "finished", "completed")
    refused(at.types("stop", found.run), f"run {found.run[:12]} does not go on")


def test_a_log_is_printed_as_it_was_written(at: Lead, gateway: ScriptedGateway) -> None:
    found = at.order()
    gateway.printed = {gateway.knows(found.run, "finished"): ("round 1\nrou", "nd 2\n", "no end of line")}
    said = at.types("log", found.run[:8])
    assert (said.status, said.out) == (0, "round 1\nround 2\nno end of line")


# --- runs, status, report --------------------------------------------------------------------------------------------


def test_before_the_first_run_the_list_says_so_to_people_and_is_empty_for_programs(at: Lead) -> None:
    assert at.types("runs").out == "no run was ordered yet\n"
    assert json.loads(at.types("runs", "--json").out) == []


def test_the_list_for_programs_has_the_whole_name_of_each_run(at: Lead) -> None:
    found = {at.order().run, at.order().run}
    said = json.loads(at.types("runs", "--json").out)
    assert {one["run"] for one in said} == found
    assert {one["state"] for one in said} == {"ordered"}


def test_a_status_without_a_gateway_is_an_answer_and_no_error(at: Lead) -> None:
    said = at.types("status")
    assert (said.status, said.err) == (0, "")
    assert said.out.splitlines()[0] == "tiny at 127.0.0.1:9443, gateway unknown"
    assert json.loads(at.types("status", "--json").out)["gateway"] == "unknown"


def test_a_run_without_results_has_no_report_and_none_is_begun(at: Lead) -> None:
    found = at.order()
    said = at.types("report", found.run[:8])
    assert said.status == 1
    assert "results.json cannot be read" in said.err
    assert not (found.path / "report.html").exists()


@pytest.mark.parametrize("command", ["runs", "status", "stop", "resume", "log"])
def test_outside_a_federation_each_command_says_so_in_one_sentence(
    capsys: Capsys, tmp_path: Path, command: str
) -> None:
    said = lead(capsys, command, *(["abcd"] if command not in {"runs", "status"} else []), "--federation", tmp_path)
    assert said.status == 1
    assert "consilium-server init" in said.err
    assert said.err.count("error: ") == 1


@pytest.mark.parametrize("command", COMMANDS)
def test_the_help_of_a_command_fits_a_small_terminal(capsys: Capsys, command: str) -> None:
    said = lead(capsys, command, "--help")
    assert said.status == 0
    assert len(said.out.splitlines()) <= 24
    assert max(map(len, said.out.splitlines())) <= 100
