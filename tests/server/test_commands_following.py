"""Following a run: every word once, a killed process started again, a decision respected, and no wait without end."""

from __future__ import annotations

import io
import itertools
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from real_sites import now
from rich.console import Console
from scripted_gateway import Move, ScriptedGateway, away, over
from tiny_federation import tiny_plan

from server.commands import following, running
from server.deployed.board import Board
from server.deployed.live import LIVE, Live, read_live
from server.deployed.run_folder import JOURNAL, RunFolder, begin
from server.federation_folder import FederationFolder, settings_for
from server.journal import Journal
from server.round_values import Phase
from shared.errors import CapacityError, RunError


class Scene:
    """A federation with one ordered run, its board, and a gateway that a test writes the moves of."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.federation = FederationFolder.init(folder / "f", settings_for("tiny", "127.0.0.1:9443"), None, now())
        self.found = self.order()
        self.gateway = ScriptedGateway()
        self.seen: list[Live] = []
        self._ticks = itertools.count(1000)
        self.board = self.a_board()
        monkeypatch.setattr(running, "Control", self.gateway)
        monkeypatch.setattr(running, "_POLL_S", 0.0)
        monkeypatch.setattr(running, "_BEGINS_S", 0.0)

    def order(self) -> RunFolder:
        return begin(self.federation, tiny_plan(), self.federation.lead_key(lambda: b""), now(), timedelta(days=1))

    def clock(self) -> float:
        return float(next(self._ticks))

    def a_board(self) -> Board:
        return Board(self.found.path / LIVE, self.clock, Live(self.found.run, "tiny", 3))

    def says(self, **changes: Any) -> Move:
        """The process writes down what has changed, and goes on."""

        def move() -> tuple[str, str]:
            self.board.say(**changes)
            return "running", ""

        return move

    def quiet(self) -> tuple[str, str]:
        return "running", ""

    def follows(self, *attempts: list[Move]) -> Live:
        self.gateway.attempts = list(attempts)
        number = running.start(self.federation, self.found)
        return running.follow(self.federation, self.found, number, self.seen.append, self.clock)


@pytest.fixture
def scene(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Scene:
    return Scene(tmp_path, monkeypatch)


def finishes(scene: Scene) -> Move:
    def move() -> tuple[str, str]:
        scene.board.say(state="finished", phase="finished", round=3, value=0.75)
        return "finished", "completed"

    return move


# --- to its end ------------------------------------------------------------------------------------------------------


def test_a_run_that_finishes_gives_its_last_word(scene: Scene) -> None:
    last = scene.follows([scene.says(phase="training", round=1), finishes(scene)])
    assert (last.state, last.round, last.value) == ("finished", 3, 0.75)
    assert last == read_live(scene.found.path)


def test_each_word_is_shown_once_however_often_it_is_read(scene: Scene) -> None:
    scene.follows([scene.says(round=1), scene.quiet, scene.quiet, scene.says(round=2), scene.quiet, finishes(scene)])
    assert [live.round for live in scene.seen] == [1, 2, 3]


def test_a_word_written_just_before_the_process_ended_is_not_missed(scene: Scene) -> None:
    scene.follows([finishes(scene)])
    assert [live.state for live in scene.seen] == ["finished"]


def test_the_order_s_run_and_nothing_else_is_what_flower_is_told(scene: Scene) -> None:
    scene.follows([finishes(scene)])
    assert scene.gateway.started == [{"run": scene.found.run}]


def test_a_gateway_that_is_started_again_meanwhile_is_waited_for(scene: Scene) -> None:
    assert scene.follows([scene.says(round=1), away, away, finishes(scene)]).state == "finished"
    assert len(scene.gateway.started) == 1


def test_what_a_run_says_while_the_gateway_is_away_is_shown(scene: Scene) -> None:
    def says_alone() -> tuple[str, str]:
        scene.board.say(round=2)
        return away()

    scene.follows([says_alone, finishes(scene)])
    assert [live.round for live in scene.seen] == [2, 3]


def test_a_run_that_flower_does_not_know_is_not_waited_for(scene: Scene) -> None:
    with pytest.raises(RunError, match="Flower knows no run 7") as caught:
        running.follow(scene.federation, scene.found, 7, scene.seen.append, scene.clock)
    assert caught.value.code == "no-run"


# --- killed ----------------------------------------------------------------------------------------------------------


def test_a_process_that_was_killed_is_started_again_and_goes_on(scene: Scene) -> None:
    last = scene.follows([scene.says(round=1), over("failed")], [scene.says(round=2), finishes(scene)])
    assert last.state == "finished"
    assert scene.gateway.started == [{"run": scene.found.run}] * 2
    assert [live.round for live in scene.seen] == [1, 2, 3]


def test_the_last_word_of_a_killed_process_is_not_taken_for_its_successor_s(scene: Scene) -> None:
    """A file says "failed" from the first attempt; the second says nothing for a while, and then finishes."""

    def fails() -> tuple[str, str]:
        scene.board.say(round=1)
        return "finished", "failed"

    last = scene.follows([fails], [scene.quiet, scene.quiet, finishes(scene)])
    assert [live.round for live in scene.seen] == [1, 3]
    assert last.round == 3


def test_what_an_earlier_run_of_the_process_decided_does_not_end_the_next(scene: Scene) -> None:
    scene.board.say(state="failed", sentence="too few sites answered")
    scene.clock()
    assert scene.follows([scene.quiet, finishes(scene)]).state == "finished"


def test_a_process_that_is_killed_each_time_is_started_so_often_and_no_more(scene: Scene) -> None:
    with pytest.raises(RunError, match="its process ended \\(failed\\)") as caught:
        scene.follows(*[[over("failed")] for _ in range(running.ATTEMPTS)])
    assert len(scene.gateway.started) == running.ATTEMPTS
    assert caught.value.code == "run-ended"
    assert f"consilium-server resume {scene.found.run[:12]}" in caught.value.hint


def test_an_end_without_any_outcome_is_called_a_kill(scene: Scene) -> None:
    with pytest.raises(RunError, match="its process ended \\(killed\\)"):
        scene.follows(*[[over("")] for _ in range(running.ATTEMPTS)])


def test_a_full_disk_ends_the_attempts(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    def fills() -> tuple[str, str]:
        monkeypatch.setattr(running.shutil, "disk_usage", lambda _path: SimpleNamespace(free=17))
        return "finished", "failed"

    with pytest.raises(CapacityError, match="17 bytes are free"):
        scene.follows([fills], [finishes(scene)])
    assert len(scene.gateway.started) == 1


# --- decided ---------------------------------------------------------------------------------------------------------


def test_a_run_that_ended_by_a_decision_is_not_started_again_and_says_why(scene: Scene) -> None:
    def decides() -> tuple[str, str]:
        scene.board.say(state="failed", sentence="2 sites are fewer than the quorum of 3", hint="ask aachen")
        return "finished", "failed"

    with pytest.raises(RunError) as caught:
        scene.follows([decides], [finishes(scene)])
    assert caught.value.sentence == (
        f"run {scene.found.run[:12]} did not finish: 2 sites are fewer than the quorum of 3"
    )
    assert (caught.value.hint, len(scene.gateway.started)) == ("ask aachen", 1)


def test_a_run_that_somebody_stopped_is_not_started_again(scene: Scene) -> None:
    with pytest.raises(RunError, match="did not finish: it was stopped"):
        scene.follows([scene.says(round=2), over("stopped")], [finishes(scene)])
    assert len(scene.gateway.started) == 1


def test_a_run_stopped_after_its_last_round_has_finished(scene: Scene) -> None:
    """Its own word counts for more than how its process was ended."""

    def stopped_late() -> tuple[str, str]:
        finishes(scene)()
        return "finished", "stopped"

    assert scene.follows([stopped_late]).state == "finished"


# --- start, stop and log ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("state", ["starting", "running"])
def test_a_run_whose_journal_is_held_is_not_started_twice(scene: Scene, state: str) -> None:
    scene.gateway.knows(scene.found.run, state)
    held = Journal.open_or_create(scene.found.path / JOURNAL, scene.found.plan, lambda: 0.0)
    with held, pytest.raises(RunError, match=f"run {scene.found.run[:12]} goes on already") as caught:
        running.start(scene.federation, scene.found)
    assert (caught.value.code, scene.gateway.started, scene.gateway.stopped) == ("run-goes-on", [], [])


def test_a_run_that_waits_for_its_process_is_not_started_twice(scene: Scene) -> None:
    scene.gateway.knows(scene.found.run, "pending")
    with pytest.raises(RunError, match="goes on already"):
        running.start(scene.federation, scene.found)


def test_a_killed_process_that_flower_still_counts_is_stopped_before_another_begins(scene: Scene) -> None:
    dead = scene.gateway.knows(scene.found.run, "running")
    assert running.start(scene.federation, scene.found) == dead + 1
    assert scene.gateway.stopped == [dead]


def test_a_run_that_is_over_or_another_s_hinders_nobody(scene: Scene) -> None:
    scene.gateway.knows(scene.found.run, "finished", "failed")
    scene.gateway.knows("0" * 32, "running")
    assert running.start(scene.federation, scene.found) == 102


def test_stopping_ends_the_run_that_is_named_and_no_other(scene: Scene) -> None:
    scene.gateway.knows("0" * 32, "running")
    scene.gateway.knows(scene.found.run, "finished", "failed")
    going = scene.gateway.knows(scene.found.run, "running")
    running.stop(scene.federation, scene.found.run)
    assert scene.gateway.stopped == [going]


@pytest.mark.parametrize("known", [(), ("finished",)], ids=["never started", "over"])
def test_a_run_that_does_not_go_on_cannot_be_stopped(scene: Scene, known: tuple[str, ...]) -> None:
    for state in known:
        scene.gateway.knows(scene.found.run, state)
    with pytest.raises(RunError, match="does not go on") as caught:
        running.stop(scene.federation, scene.found.run)
    assert caught.value.code == "run-over"


def test_the_log_is_that_of_the_newest_process_of_the_run(scene: Scene) -> None:
    first, other = (scene.gateway.knows(run, "finished") for run in (scene.found.run, "0" * 32))
    newest = scene.gateway.knows(scene.found.run, "running")
    scene.gateway.printed = {first: ("old",), other: ("theirs",), newest: ("round 1\n", "round 2\n")}
    assert "".join(running.said(scene.federation, scene.found.run)) == "round 1\nround 2\n"


def test_a_run_that_was_never_started_has_no_log(scene: Scene) -> None:
    with pytest.raises(RunError, match="was never started here"):
        list(running.said(scene.federation, scene.found.run))


# --- what people see -------------------------------------------------------------------------------------------------

LIVE_NOW = Live("a" * 32, "tiny", 3, phase="training", round=2)


def lines(*words: Live) -> list[str]:
    out = io.StringIO()
    with following.following(Console(file=out, width=120), 3) as look:
        for live in words:
            look(live)
    return out.getvalue().splitlines()


def test_without_a_terminal_there_is_a_line_for_each_change_and_none_for_a_repetition() -> None:
    said = lines(LIVE_NOW, replace(LIVE_NOW, updated=9.0), replace(LIVE_NOW, phase="measuring"))
    assert said == ["round 2 of 3: training", "round 2 of 3: measuring on validation patients"]


def test_a_site_that_failed_is_named_with_its_code_in_alphabetical_order() -> None:
    failed = replace(LIVE_NOW, failed={"coimbra": "silent", "aachen": "policy"})
    assert lines(failed) == ["round 2 of 3: training; without aachen (policy), coimbra (silent)"]


def test_a_name_that_looks_like_markup_is_shown_as_it_is() -> None:
    assert lines(replace(LIVE_NOW, failed={"[bold]x[/bold]": "silent"}))[0].endswith("without [bold]x[/bold] (silent)")


@pytest.mark.parametrize("phase", ["finished", "a-phase-of-a-later-version"])
def test_a_phase_without_words_of_its_own_is_named(phase: str) -> None:
    assert following.words(replace(LIVE_NOW, phase=phase)) == phase


def test_every_phase_but_training_and_the_two_ends_is_told_in_other_words_than_the_program_s() -> None:
    same = {phase.value for phase in Phase if following.words(replace(LIVE_NOW, phase=phase.value)) == phase.value}
    assert same == {"training", "finished", "aborted"}


def test_those_who_are_waited_for_are_counted() -> None:
    assert following.words(replace(LIVE_NOW, asked=("aachen", "bergen"))) == "training, waiting for 2"


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({}, ""),
        ({"loss": 0.25}, "loss 0.250"),
        ({"loss": 0.0, "headline": "auroc", "value": 0.8125}, "loss 0.000  auroc 0.812"),
        ({"headline": "auroc"}, ""),
        ({"failed": {"coimbra": "silent", "bergen": "policy"}}, "without bergen, coimbra"),
    ],
    ids=["nothing yet", "loss", "loss and value", "not measured yet", "without two"],
)
def test_numbers_are_shown_where_they_are_known_and_nothing_is_made_up(changes: dict[str, Any], said: str) -> None:
    assert following.numbers(replace(LIVE_NOW, **changes)) == said


def bar(look: Callable[[Console], None], width: int = 160) -> str:
    out = io.StringIO()
    look(Console(file=out, force_terminal=True, width=width, color_system=None))
    return out.getvalue()


@pytest.mark.parametrize(
    ("phase", "finished"), [("training", 1), ("aggregating", 1), ("measuring", 2), ("testing", 2), ("admitting", 2)]
)
def test_the_bar_counts_rounds_that_are_over_and_not_the_one_in_work(phase: str, finished: int) -> None:
    def look(console: Console) -> None:
        with following.following(console, 3) as see:
            see(replace(LIVE_NOW, phase=phase))

    assert f"{finished}/3" in bar(look)


def test_the_bar_never_counts_below_nothing() -> None:
    def look(console: Console) -> None:
        with following.following(console, 3) as see:
            see(replace(LIVE_NOW, round=0))

    assert "0/3" in bar(look)
