"""``consilium-server``: the command of the consortium lead.

It makes a federation and enrols its sites, signs and checks plans, keeps the coordinator running, and orders, follows,
resumes and reports runs.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import click
import typer
from rich.console import Console

from shared import commandline
from shared.plan import load

if TYPE_CHECKING:
    from server.deployed.run_folder import RunFolder
    from server.federation_folder import FederationFolder
    from shared.crypto.locked_keys import Passphrase
    from shared.crypto.signing import SigningKey
    from shared.plan import Plan
    from shared.supervision import News

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    help="Consilium for the consortium lead: a federation, its sites, its plans and its runs.",
)

_HERE = Path()

Folder = Annotated[
    Path, typer.Option("--federation", metavar="DIR", envvar="CONSILIUM_FEDERATION", help="Federation folder.")
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON to stdout.")]
SiteName = Annotated[str, typer.Argument(metavar="SITE", help="What the site is called.")]
RunName = Annotated[str, typer.Argument(metavar="RUN", help="Start of a run's identifier.")]


@app.command()
def init(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="A new or empty folder.")],
    name: Annotated[str, typer.Option(help="What the federation is called.")],
    address: Annotated[str, typer.Option(metavar="HOST:PORT", help="Where sites connect.")],
    passphrase: Annotated[bool, typer.Option("--passphrase", help="Lock the keys with a passphrase.")] = False,
) -> None:
    """Make a federation: authority, keys, an empty roster."""
    from server.commands.passphrase import to_lock
    from server.federation_folder import FederationFolder, settings_for
    from server.validity import days_left
    from shared.trust.words import spoken

    settings = settings_for(name, address)
    made = FederationFolder.init(folder, settings, to_lock(os.environ, _ask) if passphrase else None, _now())
    left = days_left(made, _now())
    typer.echo(f"federation {name} at {settings.address} in {folder}")
    typer.echo(f"certificates: server {left.server} days, authority {left.authority} days")
    typer.echo(f"the lead's key in words, for the sites to compare:\n{spoken(made.lead)}")
    typer.echo(f"Back up {folder / 'trust'} where only you can read it: it cannot be made again.", err=True)


@app.command("enrol")
def enrol_command(
    request: Annotated[Path, typer.Argument(help="File that the site has sent.")],
    out: Annotated[Path | None, typer.Option(metavar="FILE", help="Where to. [default: SITE.welcome]")] = None,
    yes: Annotated[bool, typer.Option("--yes", help="The words were compared.")] = False,
    federation: Folder = _HERE,
    as_json: Json = False,
) -> None:
    """Take a site in, once its words were compared."""
    from server.commands.enrolling import document, read_request, shown
    from server.enrolment import enrol
    from shared.trust import documents
    from shared.trust.words import spoken

    folder, found = _open(federation), read_request(request)
    typer.echo("\n".join(shown(found)), err=as_json)
    if not yes:
        commandline.require_yes("Does the site read out the same words by telephone?")
    welcome = out or Path(f"{found.site}.welcome")
    documents.write(welcome, enrol(folder, found, _lead_key(folder), _now()))
    if as_json:
        typer.echo(json.dumps(document(found, folder, welcome), indent=2))
        return
    typer.echo(f"welcome for {found.site}: {welcome}")
    typer.echo(f"Send it, and read these words out to the site:\n{spoken(folder.lead)}", err=True)


@app.command()
def sites(federation: Folder = _HERE, as_json: Json = False) -> None:
    """List the sites, their words, and days left."""
    from server.commands.sites import document, shown
    from server.validity import days_left

    folder = _open(federation)
    typer.echo(json.dumps(document(folder, _now()), indent=2) if as_json else "\n".join(shown(folder, _now())))
    for warning in days_left(folder, _now()).warnings():
        typer.echo(f"warning: {warning}", err=True)


@app.command()
def suspend(site: SiteName, federation: Folder = _HERE) -> None:
    """Let a site take part no more, for now."""
    _set_state(site, "suspended", federation)


@app.command()
def reinstate(site: SiteName, federation: Folder = _HERE) -> None:
    """Let a suspended site take part again."""
    _set_state(site, "active", federation)


@app.command("remove")
def remove_command(site: SiteName, federation: Folder = _HERE) -> None:
    """Take a site out of the roster."""
    from server.enrolment import remove

    folder = _open(federation)
    remove(folder, site, _lead_key(folder), _now())
    typer.echo(f"{site} is removed; roster {folder.roster().version}")


@app.command()
def renew(federation: Folder = _HERE) -> None:
    """Make a new server certificate; sites need do nothing."""
    from server.validity import days_left

    folder = _open(federation)
    folder.renew(_passphrase(), _now())
    typer.echo(f"the server certificate lasts {days_left(folder, _now()).server} days")
    typer.echo("Start the coordinator again to use it.", err=True)


@app.command("proxy-config")
def proxy_config(
    server: Annotated[str, typer.Option(click_type=click.Choice(["nginx"]), help="What the proxy is.")] = "nginx",  # noqa: ARG001
    federation: Folder = _HERE,
) -> None:
    """Print a reverse proxy's configuration."""
    from server.link.proxy import nginx

    typer.echo(nginx(_open(federation)), nl=False)


@app.command("sign")
def sign_command(
    plan: Annotated[Path, typer.Argument(help="TOML file of a plan.")], federation: Folder = _HERE
) -> None:
    """Sign a plan, for sites to approve."""
    from server.enrolment import sign

    folder = _open(federation)
    typer.echo(str(sign(folder, load(plan), _lead_key(folder), _now())))


@app.command()
def check(plan: Annotated[Path, typer.Argument(help="TOML file of a plan.")]) -> None:
    """Check a plan with its task and network; print its digest."""
    found = _checked(plan)
    _say_promise(found)
    typer.echo(found.digest())


@app.command("start")
def start_command(
    page: Annotated[int, typer.Option("--page", min=0, max=65535, help="Port of a page for you; 0: none.")] = 8701,
    federation: Folder = _HERE,
) -> None:
    """Keep the coordinator running; sites connect to it."""
    from server.commands.start import PAGE, alone, page_address, supervisor
    from server.validity import days_left

    folder, console = _open(federation), Console(stderr=True)
    for warning in days_left(folder, _now()).warnings():
        typer.echo(f"warning: {warning}", err=True)

    def tell(news: News) -> None:
        console.print(f"{_now():%H:%M:%S}  {news.sentence}", markup=False, highlight=False)
        if (news.program, news.kind) == (PAGE, "ready"):
            console.print(f"page: {page_address(folder, page)}", markup=False, highlight=False, soft_wrap=True)

    keeper = supervisor(folder, os.environ, tell, page)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: keeper.stop.set())
    with alone(folder):
        typer.echo(f"{folder.settings.name} at {folder.settings.address}; Ctrl-C stops it", err=True)
        keeper.run()


@app.command("run")
def run_command(
    plan: Annotated[Path, typer.Argument(help="TOML file of a plan.")],
    days: Annotated[int, typer.Option(min=1, max=365, help="How long the order holds.")] = 14,
    detach: Annotated[bool, typer.Option("--detach", help="Do not follow it.")] = False,
    federation: Folder = _HERE,
) -> None:
    """Order a run of a plan, and follow it."""
    from server.commands.running import start
    from server.deployed.run_folder import begin

    folder, found = _open(federation), _checked(plan)
    _say_promise(found)
    ordered = begin(folder, found, _lead_key(folder), _now(), timedelta(days=days))
    typer.echo(ordered.run)
    number = start(folder, ordered)
    if not detach:
        _follow(folder, ordered, number)


@app.command()
def resume(
    run: RunName,
    days: Annotated[int, typer.Option(min=1, max=365, help="How long a new order holds.")] = 14,
    federation: Folder = _HERE,
) -> None:
    """Go on with a run from its last finished round."""
    from server.commands.running import start
    from server.deployed.run_folder import open_run, renewed
    from shared.trust.documents import moment
    from shared.trust.orders import Times

    folder = _open(federation)
    found = open_run(folder, run)
    if moment(found.order.expires) <= _now():
        found = renewed(folder, found, _lead_key(folder), Times(_now(), _now() + timedelta(days=days)))
    _follow(folder, found, start(folder, found))


@app.command()
def stop(run: RunName, federation: Folder = _HERE) -> None:
    """End a run's process; it can be resumed."""
    from server.commands.running import stop as end
    from server.deployed.run_folder import open_run

    folder = _open(federation)
    found = open_run(folder, run)
    end(folder, found.run)
    typer.echo(f"run {found.run[:12]} is stopped; resume goes on with it")


@app.command("log")
def log_command(run: RunName, federation: Folder = _HERE) -> None:
    """Show what a run's process has printed."""
    from server.commands.running import said
    from server.deployed.run_folder import open_run

    folder = _open(federation)
    for text in said(folder, open_run(folder, run).run):
        typer.echo(text, nl=False)


@app.command()
def runs(federation: Folder = _HERE, as_json: Json = False) -> None:
    """List runs: state, round, plan, headline metric."""
    from server.commands.runs import listed, shown

    folder = _open(federation)
    if as_json:
        typer.echo(json.dumps([asdict(one) for one in listed(folder, _now())], indent=2))
        return
    lines = list(shown(folder, _now()))
    typer.echo("\n".join(lines) if lines else "no run was ordered yet")


@app.command("status")
def status_command(federation: Folder = _HERE, as_json: Json = False) -> None:
    """Who is there, what goes on, days left."""
    from server.commands.runs import status, status_lines

    folder = _open(federation)
    typer.echo(json.dumps(status(folder, _now()), indent=2) if as_json else "\n".join(status_lines(folder, _now())))


@app.command()
def report(
    run: Annotated[str, typer.Argument(metavar="RUN|DIR", help="Start of a run's identifier, or its folder.")],
    federation: Folder = _HERE,
) -> None:
    """Write a run's report.html and report.pdf anew and show its final table."""
    from server.deployed.run_folder import open_run
    from server.report.document import write_pdf
    from server.report.page import write_report
    from server.report.run import read_run
    from server.report.terminal import terminal_report

    folder = Path(run) if Path(run).is_dir() else open_run(_open(federation), run).path
    path, paper = write_report(folder), write_pdf(folder)
    Console().print(terminal_report(read_run(folder)))
    typer.echo(f"report: {path}, {paper.name}", err=True)


def _checked(path: Path) -> Plan:
    """The plan in a file, with its task and its network tried."""
    from shared import models, tasks

    found = load(path)
    task = tasks.task_for(found)
    models.build(found, task.output_channels, task.output)
    return found


def _say_promise(plan: Plan) -> None:
    """What the plan's privacy assumes of the sites, where it assumes anything."""
    from server.shared_noise import promised

    for sentence in promised(plan):
        typer.echo(sentence, err=True)


def _follow(folder: FederationFolder, found: RunFolder, number: int) -> None:
    from server.commands.following import following
    from server.commands.running import follow
    from server.report.run import read_run
    from server.report.terminal import terminal_report

    with following(Console(stderr=True), found.plan.plan.rounds) as look:
        follow(folder, found, number, look, time.time)
    Console().print(terminal_report(read_run(found.path)))
    typer.echo(f"report: {found.path / 'report.html'}", err=True)


def _set_state(site: str, state: Literal["active", "suspended"], federation: Path) -> None:
    from server.enrolment import set_state

    folder = _open(federation)
    set_state(folder, site, state, _lead_key(folder), _now())
    typer.echo(f"{site} is {state}; roster {folder.roster().version}")


def _open(path: Path) -> FederationFolder:
    from server.federation_folder import FederationFolder

    return FederationFolder.open(path)


def _lead_key(folder: FederationFolder) -> SigningKey:
    return folder.lead_key(_passphrase())


def _passphrase() -> Passphrase:
    from server.commands.passphrase import to_open

    return to_open(os.environ, _ask)


def _ask(what: str) -> str:
    if not sys.stdin.isatty():
        raise EOFError
    try:
        return str(typer.prompt(what, hide_input=True, err=True))
    except click.Abort:
        raise EOFError from None


def _now() -> datetime:
    return datetime.now(UTC)


def main() -> None:
    """Entry point of ``consilium-server``."""
    commandline.run(app)
