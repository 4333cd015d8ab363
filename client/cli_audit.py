"""``consilium-site audit``: the log of what was done, for those who look after the site."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import Annotated

import click
import typer

from client.cli_common import HERE, Site, now

app = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="The log of what was done at this site.")

Out = Annotated[Path | None, typer.Option(metavar="FILE", help="Where to. [default: audit-NAME.txt or .csv]")]
Since = Annotated[
    datetime | None,
    typer.Option(metavar="YYYY-MM-DD", click_type=click.DateTime(["%Y-%m-%d"]), help="The first day."),
]
Csv = Annotated[bool, typer.Option("--csv", help="A table for programs, with whole digests.")]


@app.command("verify")
def audit_verify(site: Site = HERE) -> None:
    """Check every line; name the first bad one."""
    from client.governance import audit
    from client.site_folder import SiteFolder

    log = SiteFolder.open(site).audit
    found = audit.verify(log.path, log.signer.verify_key)
    typer.echo(f"{found.lines} lines, none changed, removed or moved")
    typer.echo(f"last line: {found.head}")
    typer.echo("Keep this digest elsewhere: lines cut off the end are seen only by comparing it.", err=True)


@app.command("export")
def audit_export(since: Since = None, out: Out = None, csv: Csv = False, site: Site = HERE) -> None:
    """Write the log out for the data-protection officer."""
    from client.governance.audit_export import export, written
    from client.site_folder import SiteFolder
    from shared.durable import replace_file

    opened = SiteFolder.open(site)
    log, name = opened.audit, opened.settings.site.name
    found = export(log.path, name, log.signer.verify_key, since.date() if since else None, now())
    path = out or Path(f"audit-{name}.{'csv' if csv else 'txt'}")
    replace_file(path, written(found, "csv" if csv else "text"))
    typer.echo(f"{len(found.entries)} of {found.lines} lines: {path}")
    if found.fault:
        typer.echo(f"NOT VERIFIED: {found.fault}", err=True)
        raise typer.Exit(1)
