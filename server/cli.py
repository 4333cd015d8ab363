"""``consilium-server``: the command of the consortium lead.

This version checks plans and shows runs; coordinating a real federation is not built yet, and the help says so.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from shared import commandline
from shared.errors import RunError
from shared.plan import load

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    help="Consilium for the consortium lead. This version checks plans and reports runs; to federate today, use "
    "consilium-sim. Coordinating real sites (init, enrol, start, run, ...) is not built yet.",
)

RunFolder = Annotated[Path, typer.Argument(help="Folder of a finished run.")]


@app.command()
def check(plan: Annotated[Path, typer.Argument(help="TOML file of a plan.")]) -> None:
    """Check a plan with its task and network; print its digest."""
    from shared import models, tasks

    found = load(plan)
    task = tasks.task_for(found)
    models.build(found, task.output_channels, task.output)
    typer.echo(found.digest())


@app.command()
def report(run: RunFolder) -> None:
    """Write a run's report.html anew and show its final table."""
    from server.report.page import write_report
    from server.report.run import read_run
    from server.report.terminal import terminal_report

    path = write_report(run)
    Console().print(terminal_report(read_run(run)))
    typer.echo(f"report: {path}", err=True)


@app.command()
def runs(folder: Annotated[Path, typer.Argument(help="Folder that holds run folders.")] = Path("runs")) -> None:
    """List finished runs: name, plan, seed, headline metric."""
    from server.results import RESULTS, read_results

    found = sorted(path.parent for path in folder.glob(f"*/{RESULTS}"))
    if not found:
        raise RunError(f"{folder} holds no finished run", hint="name the folder that run folders lie in")
    for path in found:
        results = read_results(path)
        value = results.final["pooled"][results.headline]["value"]
        measured = "undetermined" if value is None else f"{value:.3f}"
        typer.echo(
            f"{path.name:<28} plan {results.plan_digest[:12]}  seed {results.seed:<4} {results.headline} {measured}"
        )


def main() -> None:
    """Entry point of ``consilium-server``."""
    commandline.run(app)
