"""``consilium-site``: the command of hospital IT.

This version can say what it is and check a plan; joining a real federation is not built yet, and the help says so.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from shared import commandline
from shared.plan import load

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    help="Consilium at a hospital. This version checks plans; to federate today, use consilium-sim. "
    "Joining a real federation (init, ingest, approve, start, ...) is not built yet.",
)


@app.callback()
def _commands() -> None:
    """Keep ``check`` a command of its own although it is the only one."""


@app.command()
def check(plan: Annotated[Path, typer.Argument(help="TOML file of a plan.")]) -> None:
    """Check a plan and print its digest, to compare with the lead's."""
    typer.echo(load(plan).digest())


def main() -> None:
    """Entry point of ``consilium-site``."""
    commandline.run(app)
