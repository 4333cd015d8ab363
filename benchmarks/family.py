"""CPU time and memory of this process and all processes under it, as Linux counts them (proc(5)).

Memory is the proportional set size: pages that several processes share count once, divided among them.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

PROC = Path("/proc")
_TICKS = os.sysconf("SC_CLK_TCK")


def usage(root: int | None = None) -> dict[str, float]:
    """``family_cpu_s`` and ``family_mib`` of process ``root`` (this one if None) and its living descendants."""
    members = list(_family(os.getpid() if root is None else root))
    return {"family_cpu_s": sum(map(_cpu_s, members)), "family_mib": sum(map(_pss_mib, members))}


def _family(root: int) -> Iterator[int]:
    yield root
    for entry in PROC.glob("[0-9]*"):
        if _fields(int(entry.name))[1:2] == [str(root)]:
            yield from _family(int(entry.name))


def _fields(pid: int) -> list[str]:
    """Of stat, from the state on: the name before it may hold spaces. Empty for a process that has just ended."""
    try:
        return (PROC / str(pid) / "stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    except OSError:
        return []


def _cpu_s(pid: int) -> float:
    """User and system time, with that of children that were waited for."""
    return sum(map(int, _fields(pid)[11:15])) / _TICKS


def _pss_mib(pid: int) -> float:
    try:
        rollup = (PROC / str(pid) / "smaps_rollup").read_text(encoding="utf-8")
    except OSError:
        return 0.0
    return next(float(line.split()[1]) / 1024 for line in rollup.splitlines() if line.startswith("Pss:"))
