"""What the supervisor does when starting itself fails: the others go on, the reason is told, and it is tried again."""

from __future__ import annotations

import os
import stat
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from shared import supervision
from shared.errors import RunError
from shared.supervision import Command, Meaning, News, Program, Supervisor

ENVIRONMENT = {"PATH": os.environ["PATH"]}
SLEEP = (sys.executable, "-c", "import time; time.sleep(60)")


@contextmanager
def supervised(*programs: Program) -> Iterator[tuple[Supervisor, list[News]]]:
    """The news so far; the supervisor must still be there when the block ends, and must end when it is told to."""
    news: list[News] = []
    supervisor = Supervisor(programs, news.append)
    thread = threading.Thread(target=supervisor.run)
    thread.start()
    try:
        yield supervisor, news
        assert thread.is_alive(), "the supervisor ended by itself"
    finally:
        supervisor.stop.set()
        thread.join(30)


def program(folder: Path, *argv: str, name: str = "worker") -> Program:
    command = Command(argv, ENVIRONMENT)
    return Program(name, lambda: command, folder / f"{name}.log")


def wait_for(condition: Callable[[], bool], seconds: float = 15.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.02)


def ended(news: list[News]) -> list[News]:
    return [one for one in news if one.kind == "ended"]


def test_a_command_that_is_not_installed_is_told_and_tried_again(tmp_path: Path) -> None:
    with supervised(program(tmp_path, str(tmp_path / "missing"))) as (supervisor, news):
        wait_for(lambda: len(ended(news)) >= 2)
        assert supervisor.pids() == {}
    first, second = ended(news)[:2]
    assert first == News(
        "worker", "ended", "worker could not be started: No such file or directory; next attempt in 0.5 s"
    )
    assert second.sentence.endswith("next attempt in 1 s")


def test_a_path_of_this_machine_is_not_repeated(tmp_path: Path) -> None:
    with supervised(program(tmp_path, str(tmp_path / "anna-mueller"))) as (_, news):
        wait_for(lambda: len(ended(news)) >= 1)
    assert "anna" not in ended(news)[0].sentence


def test_a_command_that_is_installed_later_is_started_then(tmp_path: Path) -> None:
    script = tmp_path / "late"
    with supervised(program(tmp_path, str(script))) as (supervisor, news):
        wait_for(lambda: len(ended(news)) >= 1)
        pending = tmp_path / "pending"
        pending.write_text(f"#!{sys.executable}\nimport time; time.sleep(60)\n")
        pending.chmod(0o700)
        pending.rename(script)
        wait_for(lambda: news[-1].kind == "ready")
        assert set(supervisor.pids()) == {"worker"}
    assert [one.kind for one in news][-3:] == ["started", "ready", "stopped"]


def test_a_file_that_is_no_program_is_told(tmp_path: Path) -> None:
    script = tmp_path / "notes"
    script.write_text("not for running\n")
    with supervised(program(tmp_path, str(script))) as (_, news):
        wait_for(lambda: len(ended(news)) >= 1)
    assert "could not be started: Permission denied" in ended(news)[0].sentence


def test_whoever_runs_already_goes_on_beside_one_that_cannot_be_started(tmp_path: Path) -> None:
    missing = program(tmp_path, str(tmp_path / "missing"), name="second")
    with supervised(program(tmp_path, *SLEEP, name="first"), missing) as (supervisor, news):
        wait_for(lambda: len(ended(news)) >= 2)
        pid = supervisor.pids()["first"]
        os.kill(pid, 0)
    assert {one.program for one in ended(news)} == {"second"}


def test_what_needs_one_that_cannot_be_started_waits(tmp_path: Path) -> None:
    missing = program(tmp_path, str(tmp_path / "missing"), name="first")
    with supervised(missing, program(tmp_path, *SLEEP, name="second")) as (_, news):
        wait_for(lambda: len(ended(news)) >= 2)
    assert {one.program for one in news} == {"first"}


def test_an_owner_who_cannot_say_yet_what_to_start_is_asked_again(tmp_path: Path) -> None:
    asked: list[int] = []

    def command() -> Command:
        asked.append(1)
        if len(asked) == 1:
            raise RunError("no gateway has been started in this folder", hint="start it")
        return Command(SLEEP, ENVIRONMENT)

    with supervised(Program("worker", command, tmp_path / "worker.log")) as (supervisor, news):
        wait_for(lambda: "worker" in supervisor.pids())
    assert ended(news)[0].sentence == (
        "worker could not be started: no gateway has been started in this folder; next attempt in 0.5 s"
    )


def test_a_mistake_of_our_own_is_not_hidden_as_a_failed_start(tmp_path: Path) -> None:
    """The control: what is nobody's fault but ours ends the supervisor, and it still stops what it has started."""

    def mistaken() -> Command:
        raise ZeroDivisionError

    news: list[News] = []
    first = program(tmp_path, *SLEEP, name="first")
    with pytest.raises(ZeroDivisionError):
        Supervisor((first, Program("second", mistaken, tmp_path / "second.log")), news.append).run()
    assert (news[-1].program, news[-1].kind) == ("first", "stopped")


def test_a_log_that_cannot_be_opened_is_a_failed_start_and_not_the_end(tmp_path: Path) -> None:
    (tmp_path / "worker.log").mkdir()
    with supervised(program(tmp_path, *SLEEP)) as (_, news):
        wait_for(lambda: len(ended(news)) >= 1)
    assert "could not be started: Is a directory" in ended(news)[0].sentence


def test_pauses_stop_growing_at_the_longest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervision, "LONGEST_PAUSE_S", 0.7)
    with supervised(program(tmp_path, str(tmp_path / "missing"))) as (_, news):
        wait_for(lambda: len(ended(news)) >= 3)
    assert [one.sentence.rpartition("in ")[2] for one in ended(news)[:3]] == ["0.5 s", "0.7 s", "0.7 s"]


def test_after_a_long_enough_life_the_pause_is_short_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervision, "HEALTHY_S", 0.0)
    dies = program(tmp_path, sys.executable, "-c", "raise SystemExit(4)")
    with supervised(dies) as (_, news):
        wait_for(lambda: len(ended(news)) >= 3)
    assert {one.sentence.rpartition("in ")[2] for one in ended(news)[:3]} == {"0.5 s"}


def test_an_end_that_has_a_meaning_does_not_lengthen_the_pause_after_another(tmp_path: Path) -> None:
    note = tmp_path / "note"
    code = (
        f"import pathlib, sys; note = pathlib.Path({str(note)!r}); again = note.exists(); note.touch()\n"
        "sys.exit(3 if again else 7)"
    )
    command = Command((sys.executable, "-c", code), ENVIRONMENT)
    known = {7: Meaning("it asked for another attempt", 0.1)}
    with supervised(Program("worker", lambda: command, tmp_path / "worker.log", known)) as (_, news):
        wait_for(lambda: len(ended(news)) >= 2)
    assert [one.sentence.rpartition("in ")[2] for one in ended(news)[:2]] == ["0.1 s", "0.5 s"]


def test_a_process_knows_nothing_of_its_supervisor_s_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CONSILIUM_SECRET", "hidden")
    code = "import os, time; print(sorted(os.environ), flush=True); time.sleep(60)"
    command = Command((sys.executable, "-c", code), {"ONLY": "this"})
    log = tmp_path / "worker.log"
    with supervised(Program("worker", lambda: command, log)):
        wait_for(lambda: log.exists() and b"]" in log.read_bytes())
    assert "CONSILIUM_SECRET" not in log.read_text()
    assert "'ONLY'" in log.read_text()


def test_a_log_that_others_could_read_stays_as_its_owner_left_it_and_is_added_to(tmp_path: Path) -> None:
    log = tmp_path / "worker.log"
    log.write_text("before\n")
    log.chmod(0o640)
    with supervised(program(tmp_path, sys.executable, "-c", "print('after', flush=True); input()")) as (_, news):
        wait_for(lambda: len(ended(news)) >= 1)
    assert log.read_text().startswith("before\nafter\n")
    assert stat.S_IMODE(log.stat().st_mode) == 0o640


def test_nothing_is_started_by_a_supervisor_that_was_stopped_before_it_ran(tmp_path: Path) -> None:
    news: list[News] = []
    supervisor = Supervisor((program(tmp_path, *SLEEP),), news.append)
    supervisor.stop.set()
    supervisor.run()
    assert news == []
    assert not (tmp_path / "worker.log").exists()
