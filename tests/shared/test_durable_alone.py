"""A lock file: one process at a time, and a process that is killed gives it back."""

import os
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest

from shared.durable import alone

ROOT = Path(__file__).parents[2]
HOLDER = """
import sys, time
from pathlib import Path
from shared.durable import alone
with alone(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(float(sys.argv[2]))
"""


def holder(path: Path, seconds: float) -> subprocess.Popen[str]:
    """A process that holds the lock for a while, and does when this returns."""
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    words = [sys.executable, "-c", HOLDER, str(path), str(seconds)]
    running = subprocess.Popen(words, env=environment, stdout=subprocess.PIPE, text=True)
    assert running.stdout is not None
    assert running.stdout.readline() == "held\n"
    return running


def test_the_second_waits_until_the_first_is_done(tmp_path: Path) -> None:
    with holder(tmp_path / "lock", 0.4) as first:
        started = time.monotonic()
        with alone(tmp_path / "lock"):
            waited = time.monotonic() - started
        assert first.wait(10) == 0
    assert waited > 0.2


def test_a_lock_of_another_file_is_not_waited_for(tmp_path: Path) -> None:
    with holder(tmp_path / "lock", 60) as first:
        with alone(tmp_path / "other"):
            assert first.poll() is None
        first.kill()


def test_a_killed_process_gives_the_lock_back(tmp_path: Path) -> None:
    with holder(tmp_path / "lock", 60) as first:
        first.send_signal(signal.SIGKILL)
        first.wait(10)
    with alone(tmp_path / "lock"):
        assert stat.S_IMODE((tmp_path / "lock").stat().st_mode) == 0o600


def test_a_block_that_fails_gives_the_lock_back(tmp_path: Path) -> None:
    for _ in range(2):
        with pytest.raises(ZeroDivisionError), alone(tmp_path / "lock"):
            _ = 1 / 0
    assert (tmp_path / "lock").read_bytes() == b""
