"""What the commands of ``consilium-site`` share: options, the time, and how something is said."""

from __future__ import annotations

import json
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from rich.console import RenderableType

HERE = Path()

Site = Annotated[Path, typer.Option(metavar="DIR", envvar="CONSILIUM_SITE", help="Site folder.")]
Name = Annotated[str, typer.Option("--dataset", metavar="NAME", help="The data set.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON to stdout.")]


def say(as_json: bool, document: object, shown: Iterable[RenderableType]) -> None:
    """Print ``document`` for programs, or ``shown`` for people."""
    from client import terminal

    if as_json:
        typer.echo(json.dumps(document, indent=2))
        return
    for place, part in enumerate(shown):
        terminal.stdout().print(*([] if place == 0 else [""]), part, sep="\n")


def now() -> datetime:
    """The time, in UTC."""
    return datetime.now(UTC)
