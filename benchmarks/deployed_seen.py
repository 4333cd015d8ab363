"""What is seen of a run from outside while it goes on, and what is made of it. The arithmetic is pure.

Promises
- Memory is the kernel's (VmRSS, VmHWM of /proc/PID/status), bytes are the forwarders', rounds are lines of a file.
- ``by_round`` gives a round the largest value seen while it was in work; what comes after the last round counts
  for none.
- A coordinator's own time of a round is what is left of the round when the longest work of a site is taken off.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

SAMPLED_S = 0.2
Work = tuple[str, str, int, float]
"""Site, kind of request, round, seconds."""


@dataclass(frozen=True)
class Sample:
    """One look: how many rounds are done, memory by process in MiB, and bytes of the sites together."""

    done: int
    mib: Mapping[str, float]
    up: int
    down: int


def memory_mib(pid: int, entry: str = "VmRSS") -> float:
    """Of one process; 0 for one that has ended."""
    with suppress(OSError):
        for line in Path(f"/proc/{pid}/status").read_text(encoding="ascii", errors="replace").splitlines():
            if line.startswith(f"{entry}:"):
                return float(line.split()[1]) / 1024
    return 0.0


def by_round(samples: Iterable[Sample], name: str, rounds: int) -> tuple[float, ...]:
    """Largest memory of process ``name`` in each round."""
    found = [0.0] * rounds
    for sample in samples:
        if sample.done < rounds:
            found[sample.done] = max(found[sample.done], sample.mib.get(name, 0.0))
    return tuple(found)


def grown(peaks: Sequence[float]) -> float:
    """The last round's peak, as a multiple of the second's: the first one also sees the process begin."""
    return peaks[-1] / peaks[1]


def per_round(samples: Sequence[Sample], rounds: int, sites: int) -> tuple[float, float]:
    """Bytes up and down a site and round, from when the first message went to the end of the last round."""
    last = max(index for index, sample in enumerate(samples) if sample.done < rounds)
    end, begin = samples[min(last + 1, len(samples) - 1)], samples[0]
    each = rounds * sites
    return (end.up - begin.up) / each, (end.down - begin.down) / each


def own_time(seconds: Sequence[float], work: Iterable[Work]) -> tuple[float, ...]:
    """Of each round: its seconds without the longest work of a site; ``seconds`` begin with round 1."""
    worked: dict[tuple[int, str], float] = {}
    for site, kind, number, took in work:
        if kind != "Hello":
            worked[number, site] = worked.get((number, site), 0.0) + took
    longest = [max((took for (at, _), took in worked.items() if at == number), default=0.0)
               for number in range(1, len(seconds) + 1)]  # fmt: skip
    return tuple(total - took for total, took in zip(seconds, longest, strict=True))


@dataclass
class Watcher:
    """Looks every ``SAMPLED_S`` until ``stop``.

    Attributes:
        pids: the processes now, by name.
        done: rounds that are over.
        counted: bytes up and down.
    """

    pids: Callable[[], Mapping[str, int]]
    done: Callable[[], int]
    counted: Callable[[], tuple[int, int]]
    samples: list[Sample] = field(default_factory=list)
    _over: threading.Event = field(default_factory=threading.Event)

    def look(self) -> None:
        up, down = self.counted()
        mib = {name: memory_mib(pid) for name, pid in self.pids().items()}
        self.samples.append(Sample(self.done(), mib, up, down))

    def watch(self, goes_on: Callable[[], bool], longest_s: float) -> bool:
        """Whether it ended within ``longest_s``."""
        end = time.monotonic() + longest_s
        while time.monotonic() < end:
            self.look()
            if not goes_on():
                return True
            time.sleep(SAMPLED_S)
        return False
