"""What people see while long work runs, and the tables at its end.

Promises
- Talk goes to stderr, and bars only to a terminal: a log file gets nothing of them. Data goes to stdout.
- A bar shows how much is done of how much, how fast, and about how long the rest takes.
- A table is plain text in columns, with numbers to the right; it fits the terminal, and a file gets it unbroken.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, ProgressColumn, Task, TaskID, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bars
from rich.table import Table
from rich.text import Text

from client.data.progress import Progress

_FILE_COLUMNS = 200
"""Width of tables that no terminal limits."""


class Speed(ProgressColumn):
    """Units a second, over the last half minute as ``rich`` keeps it."""

    def render(self, task: Task) -> Text:
        """The speed, or a dash while nothing is finished."""
        speed = task.finished_speed or task.speed
        return Text("-" if not speed else f"{speed:.1f}/s" if speed < 100 else f"{speed:.0f}/s")


@contextmanager
def bar(console: Console, label: str) -> Iterator[Progress]:
    """A bar that is moved by calling what this yields with (done, total); nothing where there is no terminal."""
    with bars(console, label) as (progress,):
        yield progress


@contextmanager
def bars(console: Console, *labels: str) -> Iterator[tuple[Progress, ...]]:
    """Bars for steps that follow each other; each shows up with its first call. A total of 0 is not known yet."""
    columns = (
        TextColumn("{task.description:<22}"),
        BarColumn(),
        MofNCompleteColumn(),
        Speed(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    with Bars(*columns, console=console, disable=not console.is_terminal) as shown:
        tasks = [shown.add_task(label, total=None, start=False, visible=len(labels) == 1) for label in labels]
        yield tuple(partial(_move, shown, task) for task in tasks)


def _move(shown: Bars, task: TaskID, done: int, total: int) -> None:
    shown.start_task(task)
    shown.update(task, completed=done, total=total or None, visible=True)


@contextmanager
def waiting(console: Console, label: str) -> Iterator[None]:
    """A sign of life for work whose amount nobody knows; nothing where there is no terminal."""
    if not console.is_terminal:
        yield
        return
    with console.status(label):
        yield


def stdout() -> Console:
    """Where data goes."""
    console = Console(highlight=False, markup=False)
    return console if console.is_terminal else Console(highlight=False, markup=False, width=_FILE_COLUMNS)


def stderr() -> Console:
    """Where talk goes."""
    return Console(stderr=True, highlight=False, markup=False)


def counts(title: str, rows: Mapping[str, int]) -> Table:
    """Numbers by name below a title, in the order given."""
    table = _table()
    table.add_column(title)
    table.add_column(justify="right")
    for name, count in rows.items():
        table.add_row(name, f"{count}")
    return table


def listing(header: Sequence[str], rows: Sequence[Sequence[str]]) -> Table:
    """Rows of text below a header; the last cell of a row is wrapped."""
    table = _table()
    for name in header[:-1]:
        table.add_column(name, no_wrap=True)
    table.add_column(header[-1])
    for row in rows:
        table.add_row(*row)
    return table


def _table() -> Table:
    return Table(box=None, pad_edge=False, header_style="", padding=(0, 2, 0, 0))
