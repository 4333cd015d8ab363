"""The supervisor, with real processes: started in order, restarted with patience, ended together, never left behind."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from shared import supervision
from shared.supervision import Command, Meaning, News, Program, Supervisor

ENVIRONMENT = {"PATH": os.environ["PATH"]}


@contextmanager
def running(*programs: Program) -> Iterator[tuple[Supervisor, list[News]]]:
    news: list[News] = []
    supervisor = Supervisor(programs, news.append)
    thread = threading.Thread(target=supervisor.run)
    thread.start()
    try:
        yield supervisor, news
    finally:
        supervisor.stop.set()
        thread.join(30)
        assert not thread.is_alive()


def python(code: str, folder: Path, name: str = "worker", **how: object) -> Program:
    command = Command((sys.executable, "-c", code), ENVIRONMENT)
    return Program(name, lambda: command, folder / f"{name}.log", **how)  # type: ignore[arg-type]


def wait_for(condition: Callable[[], bool], seconds: float = 15.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.02)


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().split(")")[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


SLEEP = "import time; time.sleep(60)"


def test_what_is_killed_is_started_again(tmp_path: Path) -> None:
    with running(python(SLEEP, tmp_path)) as (supervisor, news):
        wait_for(lambda: "worker" in supervisor.pids())
        first = supervisor.pids()["worker"]
        os.kill(first, signal.SIGKILL)
        wait_for(lambda: supervisor.pids().get("worker", first) != first)
        assert not alive(first)
    ended = next(one for one in news if one.kind == "ended")
    assert (ended.code, "SIGKILL" in ended.sentence) == (-9, True)


def test_pauses_double_until_the_process_has_run_well(tmp_path: Path) -> None:
    with running(python("raise SystemExit(3)", tmp_path)) as (_, news):
        wait_for(lambda: sum(one.kind == "ended" for one in news) >= 3)
    pauses = [one.sentence.rpartition("in ")[2] for one in news if one.kind == "ended"][:3]
    assert pauses == ["0.5 s", "1 s", "2 s"]
    assert "exit code 3" in news[1].sentence


def test_an_exit_code_with_a_meaning_has_its_sentence_and_its_pause(tmp_path: Path) -> None:
    program = python("raise SystemExit(49)", tmp_path, meanings={49: Meaning("the old session lasts on", 0.2)})
    with running(program) as (_, news):
        wait_for(lambda: sum(one.kind == "ended" for one in news) >= 3)
    assert {one.sentence for one in news if one.kind == "ended"} == {
        "worker ended: the old session lasts on; next attempt in 0.2 s"
    }


def test_the_next_process_starts_when_the_one_before_is_ready(tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    first = python(SLEEP, tmp_path, "first", ready=lambda _pid: gate.exists())
    with running(first, python(SLEEP, tmp_path, "second")) as (supervisor, news):
        wait_for(lambda: "first" in supervisor.pids())
        time.sleep(0.5)
        assert "second" not in supervisor.pids()
        gate.touch()
        wait_for(lambda: "second" in supervisor.pids())
    kinds = [(one.program, one.kind) for one in news]
    assert kinds.index(("first", "ready")) < kinds.index(("second", "started"))
    assert kinds[-2:] == [("second", "stopped"), ("first", "stopped")]


@pytest.mark.parametrize("stubborn", ["", "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); "])
def test_stopping_ends_a_process_and_its_children_even_stubborn_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stubborn: str
) -> None:
    monkeypatch.setattr(supervision, "GRACE_S", 0.5)
    note = tmp_path / "child"
    code = (
        f"{stubborn}import subprocess, sys, pathlib\n"
        f"child = subprocess.Popen([sys.executable, '-c', '{SLEEP}'])\n"
        f"pathlib.Path({str(note)!r}).write_text(str(child.pid)); child.wait()\n"
    )
    with running(python(code, tmp_path)) as (supervisor, _):
        wait_for(lambda: note.exists() and note.read_text() != "")
        pids = [supervisor.pids()["worker"], int(note.read_text())]
        assert all(map(alive, pids))
    wait_for(lambda: not any(map(alive, pids)))


def test_what_it_prints_is_in_its_log_for_the_owner_alone(tmp_path: Path) -> None:
    log = tmp_path / "worker.log"
    with running(python(f"print('hello', flush=True); {SLEEP}", tmp_path)):
        wait_for(lambda: log.exists() and b"hello" in log.read_bytes())
    assert log.stat().st_mode & 0o777 == 0o600


def test_a_large_log_is_put_aside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervision, "LARGEST_LOG", 10)
    (tmp_path / "worker.log").write_bytes(b"old" * 10)
    with running(python(SLEEP, tmp_path)) as (supervisor, _):
        wait_for(lambda: "worker" in supervisor.pids())
    assert (tmp_path / "worker.log.1").read_bytes() == b"old" * 10
    assert (tmp_path / "worker.log").read_bytes() == b""


def test_processes_end_with_a_supervisor_that_was_killed(tmp_path: Path) -> None:
    code = (
        "import sys, threading; from pathlib import Path; from shared.supervision import Command, Program, Supervisor\n"
        f"command = Command((sys.executable, '-c', {SLEEP!r}), {{}})\n"
        "program = Program('w', lambda: command, Path(sys.argv[1]) / 'w.log')\n"
        "s = Supervisor([program], lambda news: print(news.sentence, flush=True)); s.run()\n"
    )
    process = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        pid = int(process.stdout.readline().rsplit(maxsplit=1)[1])
        assert alive(pid)
    finally:
        process.kill()
        process.communicate(timeout=10)
    wait_for(lambda: not alive(pid))


def test_the_error_that_a_process_ended_with_is_told_and_not_one_of_an_earlier_attempt(tmp_path: Path) -> None:
    (tmp_path / "worker.log").write_text("error: of last week\n")
    code = "import sys; print('error: the first\\nerror: the ledger is damaged\\nhint: restore it'); sys.exit(1)"
    with running(python(code, tmp_path)) as (_, news):
        wait_for(lambda: any(one.kind == "ended" for one in news))
    ended = next(one for one in news if one.kind == "ended")
    assert ended.sentence.startswith("worker ended: the ledger is damaged; next attempt in ")


def test_without_an_error_of_its_own_only_the_status_is_told(tmp_path: Path) -> None:
    (tmp_path / "worker.log").write_text("error: of last week\n")
    with running(python("print('no error: here'); raise SystemExit(3)", tmp_path)) as (_, news):
        wait_for(lambda: any(one.kind == "ended" for one in news))
    assert next(one for one in news if one.kind == "ended").sentence.startswith("worker ended: exit code 3;")
