"""A run that people follow: one bar over its rounds, and what happens now beside it.

Promises
- Talk goes to stderr; without a terminal there is one plain line for each round and each site that failed.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from server.commands.running import Look
from server.deployed.live import Live

_PHASES = {
    "starting": "starting",
    "admitting": "greeting the sites",
    "training": "training",
    "aggregating": "adding up",
    "measuring": "measuring on validation patients",
    "testing": "measuring on test patients",
    "personalising": "own-site steps",
    "sharing": "collecting the sites' models",
    "crossing": "every model at every site",
    "dealing": "agreeing on masks",
    "masking": "collecting masked answers",
    "confirming": "confirming whose answers came",
    "unmasking": "unmasking the sum",
}


@contextmanager
def following(console: Console, rounds: int) -> Iterator[Look]:
    """Give what shows a run while the block lasts."""
    if not console.is_terminal:
        yield _Lines(console)
        return
    columns = (TextColumn("{task.description:<34}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    note = TextColumn("{task.fields[note]}", markup=False)
    with Progress(*columns, note, console=console) as bars:
        bar = bars.add_task("starting", total=rounds, note="")

        def look(live: Live) -> None:
            finished = live.round - (live.phase in {"training", "aggregating"})
            bars.update(bar, description=words(live), completed=max(0, finished), note=numbers(live))

        yield look


class _Lines:
    """The same for logs."""

    def __init__(self, console: Console) -> None:
        self._console, self._last = console, ""

    def __call__(self, live: Live) -> None:
        failed = ", ".join(f"{site} ({code})" for site, code in sorted(live.failed.items()))
        line = f"round {live.round} of {live.rounds}: {words(live)}" + (f"; without {failed}" if failed else "")
        if line != self._last:
            self._console.print(line, markup=False, highlight=False)
        self._last = line


def words(live: Live) -> str:
    """What happens now."""
    waits = f", waiting for {len(live.asked)}" if live.asked else ""
    return f"{_PHASES.get(live.phase, live.phase)}{waits}"


def numbers(live: Live) -> str:
    """Loss, headline metric, and who is missing."""
    loss = f"loss {live.loss:.3f}" if live.loss is not None else ""
    value = f"{live.headline} {live.value:.3f}" if live.value is not None else ""
    missing = f"without {', '.join(sorted(live.failed))}" if live.failed else ""
    return "  ".join(filter(None, (loss, value, missing)))
