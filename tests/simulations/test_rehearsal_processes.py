"""The processes of a rehearsal, with small real ones: their own words, whole families killed, nothing left behind."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from shared.errors import ScenarioError
from simulations.rehearsal import processes as rehearsed
from simulations.rehearsal.processes import Processes, processes

SLEEP = "import time; time.sleep(60)"


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def wait_for(condition: Callable[[], bool], seconds: float = 15.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.02)


@pytest.fixture(autouse=True)
def _commands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Commands are those that stand beside the interpreter; here, beside a link to it."""
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "python").symlink_to(sys.executable)
    monkeypatch.setattr(sys, "executable", str(tmp_path / "bin" / "python"))


def a_command(tmp_path: Path, name: str, code: str) -> str:
    path = tmp_path / "bin" / name
    path.write_text(f"#!{Path(sys.executable).resolve()}\n{code}\n")
    path.chmod(0o700)
    return name


def a_family(tmp_path: Path) -> list[str]:
    """A command with a child in its own session, which has a child in its own session: three numbers in ``pids``."""
    note = tmp_path / "pids"
    youngest = f"import os, time, pathlib; pathlib.Path({str(note)!r}).open('a').write(f'{{os.getpid()}}\\n'); {SLEEP}"
    middle = (
        f"import os, subprocess, sys, pathlib; pathlib.Path({str(note)!r}).open('a').write(f'{{os.getpid()}}\\n');"
        f" subprocess.Popen([sys.executable, '-c', {youngest!r}], start_new_session=True).wait()"
    )
    eldest = (
        f"import os, subprocess, sys, pathlib\npathlib.Path({str(note)!r}).open('a').write(f'{{os.getpid()}}\\n')\n"
        f"subprocess.Popen([sys.executable, '-c', {middle!r}], start_new_session=True).wait()"
    )
    return [a_command(tmp_path, "family", eldest)]


def pids(tmp_path: Path) -> list[int]:
    note = tmp_path / "pids"
    return [int(line) for line in note.read_text().splitlines()] if note.exists() else []


def test_a_command_gives_what_it_prints_and_not_what_it_complains_of(tmp_path: Path) -> None:
    name = a_command(tmp_path, "speak", "import sys; print('said', *sys.argv[1:]); print('oh', file=sys.stderr)")
    assert Processes(tmp_path).call(name, "a b", "c", folder=tmp_path) == "said a b c\n"


def test_a_command_works_in_the_folder_it_is_given(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    name = a_command(tmp_path, "where", "import os; print(os.getcwd())")
    said = Processes(tmp_path).call(name, folder=tmp_path / "there").strip()
    assert Path(said) == tmp_path / "there"


def test_a_command_that_fails_ends_the_rehearsal_with_its_own_last_words(tmp_path: Path) -> None:
    code = (
        "import sys; print('warming up', file=sys.stderr)\n"
        "print('error: the roster is of another lead\\nhint: telephone', file=sys.stderr); sys.exit(2)"
    )
    with pytest.raises(ScenarioError) as caught:
        Processes(tmp_path).call(a_command(tmp_path, "refuse", code), "enrol", folder=tmp_path)
    said = "refuse enrol ended with 2: error: the roster is of another lead hint: telephone"
    assert (caught.value.sentence, caught.value.hint) == (said, f"in {tmp_path}")


@pytest.mark.parametrize("code", ["raise SystemExit(3)", "import os; os._exit(3)"])
def test_a_command_that_fails_without_a_word_or_an_argument_is_told_by_its_code(tmp_path: Path, code: str) -> None:
    with pytest.raises(ScenarioError, match=r"^silent ended with 3$"):
        Processes(tmp_path).call(a_command(tmp_path, "silent", code), folder=tmp_path)


def test_what_a_lasting_command_says_is_in_its_log_behind_what_stood_there(tmp_path: Path) -> None:
    (tmp_path / "site.log").write_text("yesterday\n")
    name = a_command(tmp_path, "speak", "import sys; print('out', flush=True); print('err', file=sys.stderr)")
    with processes(tmp_path) as running:
        running.start("site", [name], tmp_path)
        wait_for(lambda: running.ended("site") is not None)
    assert (tmp_path / "site.log").read_text() == "yesterday\nout\nerr\n"


def test_a_command_that_has_ended_gives_its_code_and_one_that_runs_gives_none(tmp_path: Path) -> None:
    with processes(tmp_path / "logs") as running:
        running.start("short", [a_command(tmp_path, "short", "raise SystemExit(7)")], tmp_path)
        running.start("long", [a_command(tmp_path, "long", SLEEP)], tmp_path)
        wait_for(lambda: running.ended("short") is not None)
        assert (running.ended("short"), running.ended("long")) == (7, None)


def test_killing_takes_the_whole_family_whatever_sessions_they_opened(tmp_path: Path) -> None:
    with processes(tmp_path / "logs") as running:
        running.start("site", a_family(tmp_path), tmp_path)
        wait_for(lambda: len(pids(tmp_path)) == 3)
        found = pids(tmp_path)
        assert all(map(alive, found))
        assert set(rehearsed._family(found[0])) == set(found)
        running.kill("site")
        wait_for(lambda: not any(map(alive, found)))


def test_killing_one_leaves_the_others_alone(tmp_path: Path) -> None:
    name = a_command(tmp_path, "long", f"import os; print(os.getpid(), flush=True); {SLEEP}")
    with processes(tmp_path / "logs") as running:
        for one in ("a", "b"):
            running.start(one, [name], tmp_path)
        running.kill("a")
        assert running.ended("b") is None


def test_stopping_lets_a_command_end_in_its_own_way(tmp_path: Path) -> None:
    code = (
        "import pathlib, signal, sys, time\n"
        f"def end(*_):\n    pathlib.Path({str(tmp_path / 'farewell')!r}).touch(); sys.exit(0)\n"
        "signal.signal(signal.SIGTERM, end); print('ready', flush=True)\n"
        "time.sleep(60)"
    )
    with processes(tmp_path / "logs") as running:
        running.start("polite", [a_command(tmp_path, "polite", code)], tmp_path)
        wait_for(lambda: (tmp_path / "logs" / "polite.log").read_bytes() == b"ready\n")
        running.stop("polite")
    assert (tmp_path / "farewell").exists()


def test_stopping_ends_one_that_will_not_hear(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rehearsed, "_GRACE_S", 0.3)
    code = (
        "import os, signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "print(os.getpid(), flush=True); time.sleep(60)"
    )
    log = tmp_path / "logs" / "deaf.log"
    with processes(tmp_path / "logs") as running:
        running.start("deaf", [a_command(tmp_path, "deaf", code)], tmp_path)
        wait_for(lambda: log.read_bytes().endswith(b"\n"))
        running.stop("deaf")
    assert not alive(int(log.read_text()))


def test_a_command_that_has_ended_already_can_be_stopped_and_killed(tmp_path: Path) -> None:
    name = a_command(tmp_path, "short", "pass")
    with processes(tmp_path / "logs") as running:
        for end in (running.stop, running.kill):
            running.start("short", [name], tmp_path)
            wait_for(lambda: running.ended("short") is not None)
            end("short")


def test_what_still_runs_ends_with_the_block_even_when_the_block_fails(tmp_path: Path) -> None:
    name = a_command(tmp_path, "long", f"import os; print(os.getpid(), flush=True); {SLEEP}")
    logs = [tmp_path / "logs" / f"{one}.log" for one in ("a", "b")]

    def fail() -> None:
        with processes(tmp_path / "logs") as running:
            for log in logs:
                running.start(log.stem, [name], tmp_path)
            wait_for(lambda: all(log.read_bytes().endswith(b"\n") for log in logs))
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert not any(alive(int(log.read_text())) for log in logs)


def test_a_family_of_one_is_that_one(tmp_path: Path) -> None:
    with processes(tmp_path / "logs") as running:
        running.start("long", [a_command(tmp_path, "long", SLEEP)], tmp_path)
        pid = running._running["long"].pid
        assert rehearsed._family(pid) == [pid]


def test_this_process_belongs_to_the_family_of_its_parent_and_not_the_other_way_round() -> None:
    assert os.getpid() in rehearsed._family(os.getppid())
    assert os.getppid() not in rehearsed._family(os.getpid())
