"""What our processes need from their environment, and what third parties must not do in it.

Promises
- ``settings()`` names every variable that our entry points set, and why; a variable that the user has set is left
  alone, except those that would send data out.
- Telemetry and update checks of Flower and Ray are off in every process that starts through our commands.
- glibc's allocator keeps activation buffers instead of returning them to the kernel after every step. It reads its
  variables at process start only, so ``restart_with_settings`` replaces the process once; children inherit them.
- One thread a process for BLAS and OpenMP: sums then have one order, and processes do not fight over cores.
- MKL adds in an order that does not depend on where in memory a vector begins: else the last bit of a gradient is a
  matter of luck (seen: 12 of 16 places gave another one).
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Mapping

SILENCE = {
    "FLWR_TELEMETRY_ENABLED": "0",
    "FLWR_DISABLE_UPDATE_CHECK": "1",
    "RAY_USAGE_STATS_ENABLED": "0",
}
ALLOCATOR = {
    # Small networks on a CPU train almost twice as fast; large ones do not change (docs/performance.md).
    "MALLOC_MMAP_THRESHOLD_": str(2**30),
    "MALLOC_TRIM_THRESHOLD_": str(2**32),
}
THREADS = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
ARITHMETIC = {"MKL_CBWR": "AUTO,STRICT"}


def settings(environment: Mapping[str, str]) -> dict[str, str]:
    """Variables to set in ``environment``: silence always, the rest where the user has not chosen."""
    wanted = {name: value for name, value in (ALLOCATOR | THREADS | ARITHMETIC).items() if name not in environment}
    return wanted | {name: value for name, value in SILENCE.items() if environment.get(name) != value}


def silence_third_parties() -> None:
    """Turn off telemetry and update checks in this process and its children, and talk about a missing home."""
    os.environ.update(SILENCE)
    # A service's user has no folder of its own: Matplotlib says so at each start, and makes a temporary one.
    logging.getLogger("matplotlib").setLevel(logging.ERROR)


def restart_with_settings() -> None:
    """Replace this process by itself with ``settings()`` in place; return at once where they already are."""
    missing = settings(os.environ)
    if missing:
        os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], {**os.environ, **missing})  # noqa: S606 - our own command line
