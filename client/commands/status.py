"""``consilium-site status``: how this site does, in the terminal, for programs, or as a page for hospital IT."""

from __future__ import annotations

from typing import Annotated

import typer

from client.cli_common import HERE, Json, Site, now, say

Web = Annotated[bool, typer.Option("--web", help="Show a page on this machine until Ctrl-C.")]
Port = Annotated[int, typer.Option(min=1, max=65535, metavar="PORT", help="Of the page.")]


def status_command(web: Web = False, port: Port = 8702, site: Site = HERE, as_json: Json = False) -> None:  # noqa: FBT002 - options
    """Show how this site does: processes, link, budgets, what left."""
    from client.site_folder import SiteFolder  # noqa: PLC0415 - --help answers at once
    from client.statuspage import app, collect, shown  # noqa: PLC0415

    opened = SiteFolder.open(site)
    if web:
        app.serve(opened, port, typer.echo)
        return
    found = collect.site_status(opened, now())
    say(as_json, found, shown.terminal(found))
