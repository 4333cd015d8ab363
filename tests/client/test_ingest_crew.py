"""Workers carry out jobs; one that dies costs what it was working on and nothing else."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from crew_trades import BUG, CRASHES, FULL, HANGS, Numbers, Squares, closed_shop, one_by_one

from client.data.ingest.crew import Lost, Trade, work_through
from shared.errors import CapacityError

ROOT = Path(__file__).parents[2]


@pytest.fixture
def trade(tmp_path: Path) -> Trade[Numbers, Numbers]:
    return Trade(Squares(tmp_path), one_by_one)


def counted(folder: Path, name: str) -> int:
    return len(list(folder.glob(f"{name}-*")))


@pytest.mark.parametrize("workers", [1, 2, 3])
def test_every_job_comes_back_once_with_its_answer(trade: Trade[Numbers, Numbers], workers: int) -> None:
    jobs = [(number, number + 1) for number in range(20)]
    done = dict(work_through(jobs, trade, workers))
    assert done == {job: (job[0] ** 2, job[1] ** 2) for job in jobs}


def test_no_job_is_no_process(trade: Trade[Numbers, Numbers], tmp_path: Path) -> None:
    assert list(work_through([], trade, 2)) == []
    assert counted(tmp_path, "opened") == 0


def test_one_worker_works_here_and_two_elsewhere(trade: Trade[Numbers, Numbers], tmp_path: Path) -> None:
    list(work_through([(1,), (2,)], trade, 1))
    assert (tmp_path / f"opened-{os.getpid()}").exists()
    list(work_through([(1,), (2,)], trade, 2))
    assert counted(tmp_path, "opened") == 3


def test_a_worker_opens_once_and_closes_in_peace(trade: Trade[Numbers, Numbers], tmp_path: Path) -> None:
    list(work_through([(number,) for number in range(12)], trade, 2))
    assert counted(tmp_path, "opened") == counted(tmp_path, "closed") == 2


def test_a_crash_costs_the_part_that_crashed(trade: Trade[Numbers, Numbers]) -> None:
    jobs = [(1, 2), (3, CRASHES, 4), (5, 6)]
    done = dict(work_through(jobs, trade, 2))
    lost = done.pop((CRASHES,))
    assert isinstance(lost, Lost)
    assert str(int(-signal.SIGSEGV)) in lost.why
    assert done == {(1, 2): (1, 4), (3,): (9,), (4,): (16,), (5, 6): (25, 36)}


def test_a_silent_worker_is_ended_and_the_others_go_on(trade: Trade[Numbers, Numbers]) -> None:
    began = time.monotonic()
    done = dict(work_through([(HANGS,), (2,), (3,)], trade, 2, patience_s=2.0))
    assert isinstance(done.pop((HANGS,)), Lost)
    assert done == {(2,): (4,), (3,): (9,)}
    assert time.monotonic() - began < 60


@pytest.mark.parametrize("workers", [1, 2])
def test_what_a_job_raises_ends_the_work_whole(trade: Trade[Numbers, Numbers], workers: int) -> None:
    with pytest.raises(CapacityError, match="no room after 3 MiB") as full:
        list(work_through([(1,), (FULL,), *[(n,) for n in range(50)]], trade, workers))
    assert (full.value.hint, full.value.code) == ("free some space", "disk-full")


@pytest.mark.parametrize("workers", [1, 2])
def test_a_worker_that_cannot_begin_is_no_bad_job(workers: int) -> None:
    with pytest.raises(CapacityError, match="no room to begin"):
        list(work_through([(1,), (2,)], Trade(closed_shop, one_by_one), workers))


def test_a_mistake_in_the_code_is_not_taken_for_a_bad_file(trade: Trade[Numbers, Numbers]) -> None:
    with pytest.raises(ZeroDivisionError):
        list(work_through([(BUG,), (1,)], trade, 2))


def test_who_stops_listening_ends_the_workers(trade: Trade[Numbers, Numbers], tmp_path: Path) -> None:
    for _ in work_through([(1,), (HANGS,), (HANGS,)], trade, 2):
        break
    workers = [int(path.name.partition("-")[2]) for path in tmp_path.glob("opened-*")]
    assert workers
    deadline = time.monotonic() + 30
    while any(alive(pid) for pid in workers) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not any(alive(pid) for pid in workers)


def test_workers_end_with_a_parent_that_is_killed(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from crew_trades import *; "
        "from client.data.ingest.crew import Trade, work_through\n"
        "list(work_through([(HANGS,), (HANGS,)], Trade(Squares(Path(sys.argv[1])), one_by_one), 2))"
    )
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tests' / 'support'}"}
    parent = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], env=environment, cwd=ROOT)
    deadline = time.monotonic() + 60
    while counted(tmp_path, "opened") < 2 and time.monotonic() < deadline:
        time.sleep(0.05)
    workers = [int(path.name.partition("-")[2]) for path in tmp_path.glob("opened-*")]
    parent.kill()
    parent.wait()
    assert len(workers) == 2
    while any(alive(pid) for pid in workers) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not any(alive(pid) for pid in workers)


def alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"
