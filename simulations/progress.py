"""Progress that people see while long work runs.

Promises
- Talk goes to stderr; data goes to stdout. Without a terminal, one plain line per finished stage.
- A stage knows how much there is, how much is done and about how long the rest takes.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

Advance = Callable[[str], None]
"""Call once per finished unit, with a short note that replaces the last one; an empty note keeps it."""


class Stages(Protocol):
    """Something that shows stages of work."""

    def stage(self, label: str, total: int) -> AbstractContextManager[Advance]:
        """A stage of ``total`` units; use as a context manager that yields ``Advance``."""
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
            TextColumn("{task.fields[note]}"),
            console=self._console,
        ) as bars:
            task = bars.add_task(label, total=total, note="")
            last = ""

            def advance(note: str = "") -> None:
                nonlocal last
                last = note or last
                bars.update(task, advance=1, note=last)

            yield advance

    def _plain(self, label: str, total: int) -> Iterator[Advance]:
        began, last = time.monotonic(), ""

        def advance(note: str = "") -> None:
            nonlocal last
            last = note or last

        yield advance
        self._console.print(
            f"{label}: {total} done in {time.monotonic() - began:.1f} s {last}".rstrip(), highlight=False
        )


class Silent:
    """Shows nothing: for tests and benchmarks."""

    @contextmanager
    def stage(self, label: str, total: int) -> Iterator[Advance]:  # noqa: ARG002 - the Protocol's signature
        """Accept and forget."""
        yield lambda _note: None
