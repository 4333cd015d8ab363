"""``consilium-site approve``, ``withdraw`` and ``approvals``: what people at a hospital decide about plans."""

from __future__ import annotations

import getpass
import os
import re
import signal
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import click
import typer

from client.cli_common import HERE, Json, Name, Site, now, say
from shared import commandline

if TYPE_CHECKING:
    from client.commands.approve import Offer
    from client.site_folder import SiteFolder

_PERSON = re.compile(r"[a-z0-9][a-z0-9._-]{0,58}")
_HINT = "ask whoever answers for these patients; a script that knows the answer says --yes"

Plan = Annotated[Path, typer.Argument(metavar="PLAN", help="File of the plan that the lead has signed.")]
Digest = Annotated[str, typer.Argument(metavar="DIGEST", help="Of the plan, or its first 8 digits.")]
Runs = Annotated[int, typer.Option(min=1, metavar="N", help="How many more runs of it.")]
By = Annotated[str | None, typer.Option(metavar="NAME", help="Who decides. [default: your user name]")]
Yes = Annotated[bool, typer.Option("--yes", help="Do not ask.")]
Auto = Annotated[bool, typer.Option("--auto", help="Ask nobody where policy.toml permits that.")]
Test = Annotated[bool, typer.Option("--self-test", help="Test the plan's privacy here first.")]


def approve_command(
    plan: Plan,
    dataset: Name,
    runs: Runs = 1,
    by: By = None,
    yes: Yes = False,
    auto: Auto = False,
    self_test: Test = False,
    site: Site = HERE,
    as_json: Json = False,
) -> None:
    """Show what a plan does and costs; let it run here."""
    from client.commands import approve, approve_shown
    from client.site_folder import SiteFolder
    from shared.trust import documents
    from shared.trust.plans import SignedPlan

    opened = SiteFolder.open(site)
    wanted = approve.Wanted(documents.read(plan, SignedPlan), plan.parent, dataset, runs)
    offer = approve.offered(opened, wanted)
    served = approve.runs_before(opened, offer)
    say(as_json, approve_shown.document(offer, served), approve_shown.shown(offer, served))
    if auto:
        approve.require_automatic(opened, offer)
    elif not yes:
        commandline.require_yes("May this happen here?", _HINT)
    if self_test:
        _test(opened, offer)
    _approve(opened, offer, "policy" if auto else _person(by))


def withdraw_command(digest: Digest, by: By = None, site: Site = HERE) -> None:
    """Stop a plan at once; what was paid stays paid."""
    from client.governance import approvals
    from client.site_folder import SiteFolder

    opened = SiteFolder.open(site)
    named = approvals.named(opened, digest)
    approvals.withdraw(opened, named, _person(by), now())
    typer.echo(f"withdrawn: plan {named}")
    typer.echo("Nothing more of it leaves. What has left cannot be taken back.", err=True)


def approvals_command(site: Site = HERE, as_json: Json = False) -> None:
    """List what was approved, and what became of it."""
    from client.commands import approve_shown
    from client.governance import approvals
    from client.site_folder import SiteFolder

    found = approvals.listed(SiteFolder.open(site))
    say(as_json, approve_shown.listed_document(found), approve_shown.listed(found))


def start_command(site: Site = HERE) -> None:
    """Keep this site running; Ctrl-C stops it."""
    from client.commands.start import alone, supervisor
    from client.enrolment import require_pinned
    from client.site_folder import SiteFolder

    opened = SiteFolder.open(site)
    require_pinned(opened)
    keeper = supervisor(opened, os.environ, lambda news: typer.echo(f"{now():%H:%M:%S}  {news.sentence}", err=True))
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: keeper.stop.set())
    with alone(opened):
        typer.echo(f"{opened.settings.site.name} runs; Ctrl-C stops it", err=True)
        keeper.run()


def custodian_command(site: Site = HERE) -> None:
    """Answer requests until told to stop."""
    from client.custodian.wiring import run
    from client.site_folder import SiteFolder

    raise typer.Exit(run(SiteFolder.open(site), now))


def register(app: typer.Typer) -> None:
    """Add these commands to ``app``."""
    commands: dict[str, Callable[..., None]] = {
        "approve": approve_command,
        "withdraw": withdraw_command,
        "approvals": approvals_command,
    }
    for name, command in commands.items():
        app.command(name, hidden=name == "approvals")(command)
    app.command("start")(start_command)
    app.command("custodian", hidden=True)(custodian_command)


def _test(opened: SiteFolder, offer: Offer) -> None:
    from client import terminal
    from client.commands.self_test import Bars, Order, require_passed, self_test

    with terminal.bars(terminal.stderr(), "checking", "asking canaries") as (checks, canaries):
        order = Order(offer.plan, offer.wanted.beside, opened, offer.wanted.dataset)
        require_passed(self_test(order, Bars(checks, canaries), now))


def _approve(opened: SiteFolder, offer: Offer, by: str) -> None:
    from client import terminal
    from client.commands.approve import approve

    with terminal.bar(terminal.stderr(), "preparing cases") as progress:
        made = approve(opened, offer, by, now, progress)
    typer.echo(f"approved by {by}: plan {made.plan.digest()}, {made.runs} runs in all", err=True)


def _person(said: str | None) -> str:
    name = said or getpass.getuser().lower()
    if not _PERSON.fullmatch(name):
        raise click.BadParameter(
            "give a name of lower-case letters, digits, dots, hyphens and underscores",
            click.get_current_context(silent=True),
            param_hint="--by",
        )
    return name
