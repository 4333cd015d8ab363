"""Progress that people see while long work runs.

Promises
- Talk goes to stderr; data goes to stdout. Without a terminal, one plain line per finished stage.
- A stage knows how much there is, how much is done and about how long the rest takes.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn


class Advance(Protocol):
    """Moves a stage on."""

    def __call__(self, note: str = "", units: int = 1) -> None:
        """Count finished ``units``; a note replaces the last one, an empty note keeps it."""
        ...


class Stages(Protocol):
    """Something that shows stages of work."""

    def stage(self, label: str, total: int) -> AbstractContextManager[Advance]:
        """A stage of ``total`` units; use as a context manager that yields ``Advance``."""
        ...

    def tell(self, sentence: str) -> None:
        """Show a sentence that stays."""
        ...


class Terminal:
    """Progress bars on a terminal, plain lines elsewhere."""

    def __init__(self, console: Console) -> None:
        self._console = console

    @contextmanager
    def stage(self, label: str, total: int) -> Iterator[Advance]:
        """Show ``label`` with a bar of ``total`` units until the block ends."""
        if not self._console.is_terminal:
            yield from self._plain(label, total)
            return
        columns = (TextColumn("{task.description:<34}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        with Progress(
            *columns,
            TextColumn("left"),
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}", markup=False),
            console=self._console,
        ) as bars:
            task = bars.add_task(label, total=total, note="")
            last = ""

            def advance(note: str = "", units: int = 1) -> None:
                nonlocal last
                last = note or last
                bars.update(task, advance=units, note=last)

            yield advance

    def tell(self, sentence: str) -> None:
        """Print ``sentence``, above the bars where there are any."""
        self._console.print(sentence, highlight=False, markup=False, soft_wrap=True)

    def _plain(self, label: str, total: int) -> Iterator[Advance]:
        began, done, last = time.monotonic(), 0, ""

        def advance(note: str = "", units: int = 1) -> None:
            nonlocal done, last
            done, last = done + units, note or last

        yield advance
        after = f" (last: {last})" if last else ""
        self.tell(f"{label}: {done} of {total} in {time.monotonic() - began:.1f} s{after}")


class Silent:
    """Shows nothing: for tests and benchmarks."""

    @contextmanager
    def stage(self, label: str, total: int) -> Iterator[Advance]:  # noqa: ARG002 - the Protocol's signature
        """Accept and forget."""
        yield lambda note="", units=1: None  # noqa: ARG005 - the Protocol's signature

    def tell(self, sentence: str) -> None:
        """Forget."""
