"""Trades for the tests of the crew: other processes import them by name."""

import os
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from shared.errors import CapacityError

Numbers = tuple[int, ...]

CRASHES, HANGS, FULL, BUG = -1, -2, -3, -4
"""Numbers that end the process, never end, find the disk full, and are a mistake in the code."""


@dataclass(frozen=True)
class Squares:
    """Squares numbers; remembers in ``folder`` which process opened and closed shop, and what it began."""

    folder: Path

    @contextmanager
    def __call__(self) -> Iterator[Callable[[Numbers], Numbers]]:
        (self.folder / f"opened-{os.getpid()}").touch()
        try:
            yield self._work
        finally:
            (self.folder / f"closed-{os.getpid()}").touch()

    def _work(self, job: Numbers) -> Numbers:
        for number in job:
            with (self.folder / "begun").open("a") as begun:
                begun.write(f"{number}\n")
            if number == CRASHES:
                os.kill(os.getpid(), signal.SIGSEGV)
            if number == HANGS:
                time.sleep(600)
            if number == FULL:
                raise CapacityError("no room after 3 MiB", hint="free some space", code="disk-full")
            if number == BUG:
                raise ZeroDivisionError
        return tuple(number * number for number in job)


@contextmanager
def closed_shop() -> Iterator[Callable[[Numbers], Numbers]]:
    raise CapacityError("no room to begin", code="disk-full")
    yield lambda job: job


def one_by_one(job: Numbers) -> Sequence[Numbers]:
    return [(number,) for number in job]
