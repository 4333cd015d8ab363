"""One arm of a comparison is one process: fresh, in a stated environment, measured from outside.

Promises
- ``ours`` is the environment that our commands make for themselves (``shared.environment``); ``default`` is the user's
  without anything that tunes allocator or threads, which is what a plain PyTorch script gets.
- Wall time is from start to exit, import of torch included; CPU time and peak memory are the kernel's (``wait4``).
  CPU time includes children that the process waited for, peak memory is the largest of them.
- An arm that fails or hangs is one ``ArmError`` with the end of what it said; its process group ends with it.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from shared.environment import settings

HERE = Path(__file__).resolve().parent
_TUNING = ("MALLOC_", "GLIBC_TUNABLES", "LD_PRELOAD", "OMP_", "MKL_", "OPENBLAS_", "KMP_", "GOMP_", "NUMEXPR_")
_DEADLINE_S = 600.0


class ArmError(RuntimeError):
    """An arm ended without a result."""


@dataclass(frozen=True)
class Ran:
    """One process that is over.

    Attributes:
        said: what the arm measured of itself.
        wall_s: from start to exit.
        cpu_s: user and system time.
        peak_mib: largest resident set.
    """

    said: Mapping[str, Any]
    wall_s: float
    cpu_s: float
    peak_mib: float


def default(environment: Mapping[str, str]) -> dict[str, str]:
    """``environment`` without anything that tunes allocator or threads."""
    return {name: value for name, value in environment.items() if not name.startswith(_TUNING)}


def ours(environment: Mapping[str, str]) -> dict[str, str]:
    """The environment that ``consilium-sim`` gives itself."""
    plain = default(environment)
    return plain | settings(plain)


def run_arm(
    name: str, environment: Mapping[str, str], arguments: Mapping[str, object], deadline_s: float = _DEADLINE_S
) -> Ran:
    """Run the arm ``module.function`` of this folder with its arguments in a process of its own."""
    command = [sys.executable, str(HERE / "arm.py"), name, json.dumps(arguments)]
    said, ran = _measured(name, command, environment, deadline_s)
    return replace(ran, said=json.loads(said.splitlines()[-1]))


def run_command(command: list[str], environment: Mapping[str, str], deadline_s: float = _DEADLINE_S) -> Ran:
    """Measure any command; what it prints is dropped."""
    return _measured(Path(command[0]).name, command, environment, deadline_s)[1]


def _measured(name: str, command: list[str], environment: Mapping[str, str], deadline_s: float) -> tuple[str, Ran]:
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
        began = time.perf_counter()
        process = subprocess.Popen(command, env=dict(environment), stdout=out, stderr=err, start_new_session=True)
        late = threading.Timer(deadline_s, os.killpg, (process.pid, signal.SIGKILL))
        late.start()
        try:
            _, status, used = os.wait4(process.pid, 0)
        except BaseException:
            # Ctrl-C reaches us alone: the arm is a session of its own.
            os.killpg(process.pid, signal.SIGKILL)
            raise
        finally:
            late.cancel()
        wall_s = time.perf_counter() - began
        # ``Popen`` would wait for a process that is gone.
        process.returncode = os.waitstatus_to_exitcode(status)
        out.seek(0)
        err.seek(0)
        if process.returncode:
            last = [line.strip() for line in err.read().splitlines() if line.strip()][-1:]
            raise ArmError(": ".join([f"{name} ended with {process.returncode}", *last]))
        return out.read(), Ran({}, wall_s, used.ru_utime + used.ru_stime, used.ru_maxrss / 1024)


def interleaved(arms: Mapping[str, tuple[Callable[[], Ran], int]]) -> dict[str, list[Ran]]:
    """Run each arm as often as it says, in turns (A B A B ...): neighbours in time see the same machine."""
    runs: dict[str, list[Ran]] = {name: [] for name in arms}
    for turn in range(max(repeats for _, repeats in arms.values())):
        for name, (arm, repeats) in arms.items():
            if turn < repeats:
                runs[name].append(arm())
    return runs
