"""``consilium-site``: the command of hospital IT.

It makes a site, ingests, examines and freezes its data and enrols; what people decide about plans is left to
``cli_decisions``, the audit log to ``cli_audit``.
"""

from __future__ import annotations

import json
import os
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import click
import typer

from client import cli_audit, cli_decisions
from client.cli_common import HERE as _HERE
from client.cli_common import Json, Name, Site
from client.cli_common import now as _now
from client.cli_common import say as _say
from client.commands import status
from shared import commandline
from shared.environment import restart_with_settings
from shared.plan import load

if TYPE_CHECKING:
    from shared.plan import Plan

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    help="Consilium at a hospital: images, a frozen cohort, plans, what leaves.",
)
app.add_typer(cli_audit.app, name="audit")

_MODALITIES = click.Choice(["ct", "mr", "us", "xray", "fundus", "other"])
_DIMENSIONS = click.Choice(["auto", "2", "3"])

Words = list[str] | None
Labels = Annotated[list[Path] | None, typer.Option(metavar="CSV", help="Table of labels, masks or patients.")]
Column = Annotated[Words, typer.Option(metavar="OURS=THEIRS", help="Name of a table's column; A+B joins two.")]
Where = Annotated[Words, typer.Option(metavar="COLUMN=VALUE", help="Only rows with this value count.")]
DropLabel = Annotated[Words, typer.Option(metavar="LABEL", help="Rows with this label do not count.")]
Structure = Annotated[Words, typer.Option(metavar="NAME=CLASS", help="Class of a region in RT structure sets.")]
Dimensions = Annotated[
    str | None, typer.Option(metavar="auto|2|3", click_type=_DIMENSIONS, help="Of a case. [default: auto]")
]
Modality = Annotated[
    str | None,
    typer.Option(metavar="NAME", click_type=_MODALITIES, help="Of pictures and NIfTI: ct mr us xray fundus other."),
]
Subgroup = Annotated[Words, typer.Option(metavar="COLUMN", help="Column to report by.")]
CheckStored = Annotated[bool, typer.Option("--check-stored", help="Read damaged images again.")]
Workers = Annotated[int | None, typer.Option(min=1, metavar="N", help="Processes.")]
Exclude = Annotated[Words, typer.Option(metavar="CASE|FINDING", help="Leave a case, or those of a finding, out.")]
Accept = Annotated[Words, typer.Option(metavar="CODE", help="Take an error of the doctor as it is.")]
Out = Annotated[Path | None, typer.Option(metavar="FILE", help="Where to. [default: NAME.request]")]
Yes = Annotated[bool, typer.Option("--yes", help="The words were compared.")]
Shares = Annotated[Path | None, typer.Option(metavar="PLAN", help="Take shares and seed from a plan.")]
Train = Annotated[float | None, typer.Option(min=0, max=1, help="Share of patients. [default: 0.6]")]
Validation = Annotated[float | None, typer.Option(min=0, max=1, help="Likewise. [default: 0.15]")]
Seed = Annotated[int | None, typer.Option(min=0, help="Of the division. [default: 0]")]


@app.command()
def init(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="A new or empty folder.")],
    name: Annotated[str | None, typer.Option(help="What the site is called. [default: the folder's name]")] = None,
    encryption: Annotated[
        str, typer.Option(click_type=click.Choice(["none", "aes-gcm"]), help="Of images on disk.")
    ] = "none",
) -> None:
    """Make a site: settings, keys, ledger and audit log."""
    from client import settings
    from client.site_folder import KEYS, SiteFolder

    text = settings.template(name or folder.absolute().name, "aes-gcm" if encryption == "aes-gcm" else "none")
    site = SiteFolder.init(folder, text, _now())
    typer.echo(f"site {site.settings.site.name} in {folder}")
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            typer.echo(f"  {path.relative_to(folder)}")
    typer.echo(f"fingerprint of its key: {site.signing_key().verify_key.fingerprint()}")
    typer.echo(
        f"Now read site.toml and policy.toml, and back up {folder / KEYS} where only you can read it: without its\n"
        "keys this site cannot prove who it is, and the same patients would get other names.",
        err=True,
    )


@app.command("ingest")
def ingest_command(
    source: Annotated[list[Path], typer.Argument(help="Folders, files, .zip archives.", show_default=False)],
    dataset: Name,
    labels: Labels = None,
    column: Column = None,
    where: Where = None,
    drop_label: DropLabel = None,
    structure: Structure = None,
    dimensions: Dimensions = None,
    modality: Modality = None,
    subgroup: Subgroup = None,
    check_stored: CheckStored = False,
    workers: Workers = None,
    site: Site = _HERE,
    as_json: Json = False,
) -> None:
    """Read in what is new or changed; run again to go on."""
    from client import options, shown, terminal
    from client.commands.ingest import Order, ingest
    from client.commands.quota import require_fit
    from client.site_folder import SiteFolder

    said = {
        "dimensions": dimensions if dimensions in {None, "auto"} else int(str(dimensions)),
        "modality": modality,
        "columns": options.columns(column or ()),
        "structures": options.structures(structure or ()),
    }
    order = Order(
        dataset=dataset,
        sources=tuple(source),
        labels=tuple(labels or ()),
        where=options.where(where or ()),
        drop_labels=tuple(drop_label or ()),
        subgroups=tuple(subgroup or ()),
        choices={key: value for key, value in said.items() if value},
        workers=workers,
        stored="checked" if check_stored else "trusted",
    )
    opened = SiteFolder.open(site)
    with terminal.bars(terminal.stderr(), "looking at files", "reading images") as (files, cases):
        done = ingest(opened, order, files, cases, _now)
    _say(as_json, shown.ingested_document(done), shown.ingested(done))
    require_fit(done.share_quarantined, opened.settings.quarantine.quota)


@app.command()
def quarantined(
    source: Annotated[list[Path], typer.Argument(help="The sources, as they were ingested.", show_default=False)],
    dataset: Name,
    site: Site = _HERE,
) -> None:
    """Name the files that are set aside; paths may identify people."""
    from client.commands.quarantined import quarantined
    from client.site_folder import SiteFolder

    for code, path in quarantined(SiteFolder.open(site), dataset, tuple(source)):
        typer.echo(f"{code}\t{path}")


@app.command()
def doctor(
    dataset: Annotated[str | None, typer.Option(metavar="NAME", help="A data set; without, the machine.")] = None,
    site: Site = _HERE,
    as_json: Json = False,
) -> None:
    """Look at a data set, or at this machine."""
    if dataset is None:
        _look_at_machine(site, as_json)
    else:
        _look_at_data(site, dataset, as_json)


@app.command("freeze")
def freeze_command(
    dataset: Name,
    exclude: Exclude = None,
    accept_findings: Accept = None,
    plan: Shares = None,
    train: Train = None,
    validation: Validation = None,
    seed: Seed = None,
    site: Site = _HERE,
    as_json: Json = False,
) -> None:
    """Fix who is trained on and who is tested; sign it."""
    from client import options, shown
    from client.commands.freeze import Terms, freeze
    from client.site_folder import SiteFolder

    rule = options.split_rule(plan, train, validation, seed)
    terms = Terms(rule, tuple(exclude or ()), tuple(accept_findings or ()))
    cohort = freeze(SiteFolder.open(site), dataset, terms, _now)
    _say(as_json, shown.cohort_document(cohort), shown.cohort(cohort))


@app.command("budget")
def budget_command(
    plan: Annotated[Path | None, typer.Option(metavar="PLAN", help="Count the rounds of a plan that are left.")] = None,
    dataset: Annotated[str | None, typer.Option(metavar="NAME", help="Of one data set only.")] = None,
    site: Site = _HERE,
    as_json: Json = False,
) -> None:
    """Show what patients have paid of their privacy."""
    from client.commands.budget import budget, document, shown
    from client.site_folder import SiteFolder

    lines = budget(SiteFolder.open(site), dataset, None if plan is None else load(plan))
    _say(as_json, document(lines), shown(lines))


@app.command("check")
def check_command(
    plan: Annotated[Path, typer.Argument(help="TOML file of a plan.")],
    dataset: Annotated[str | None, typer.Option(metavar="NAME", help="Judge for its cohort.")] = None,
    site: Site = _HERE,
    as_json: Json = False,
) -> None:
    """Check a plan, at a site also by its policy; print its digest."""
    from client.settings import FILE

    found = load(plan)
    # The lead's plan can be checked anywhere; only a site has a policy.
    if (site, dataset) == (_HERE, None) and not (site / FILE).exists():
        typer.echo(json.dumps({"digest": found.digest()}, indent=2) if as_json else found.digest())
        return
    _judge(found, dataset, site, as_json)


@app.command("self-test")
def self_test_command(
    plan: Annotated[Path, typer.Argument(help="TOML file of a plan.")],
    dataset: Annotated[str | None, typer.Option(metavar="NAME", help="Try the ledger with its cohort.")] = None,
    site: Site = _HERE,
    as_json: Json = False,
) -> None:
    """Test on this machine that a plan's privacy is kept."""
    from client import terminal
    from client.commands.self_test import Bars, Order, document, require_passed, self_test, shown
    from client.settings import FILE
    from client.site_folder import SiteFolder

    # A machine can be tested before there is a site, too.
    nowhere = (site, dataset) == (_HERE, None) and not (site / FILE).exists()
    order = Order(load(plan), plan.parent, None if nowhere else SiteFolder.open(site), dataset)
    with terminal.bars(terminal.stderr(), "checking", "asking canaries") as (checks, canaries):
        found = self_test(order, Bars(checks, canaries), _now)
    _say(as_json, document(found), shown(found))
    require_passed(found)


@app.command("request")
def request_command(out: Out = None, site: Site = _HERE, as_json: Json = False) -> None:
    """Ask to be enrolled, and show words to compare."""
    from client.commands.joining import write_request
    from client.site_folder import SiteFolder

    made = write_request(SiteFolder.open(site), out, _now())
    _say(as_json, made.document(), made.shown())


@app.command("accept")
def accept_command(
    welcome: Annotated[Path, typer.Argument(help="File that the lead has sent.")],
    yes: Yes = False,
    site: Site = _HERE,
    as_json: Json = False,
) -> None:
    """Pin the lead's key, once its words were compared."""
    from client.commands.joining import document, read_welcome, shown
    from client.enrolment import accept
    from client.site_folder import SiteFolder

    opened = SiteFolder.open(site)
    offer = read_welcome(opened, welcome, _now())
    _say(as_json, document(offer), shown(offer))
    if offer.news == "first" and not yes:
        commandline.require_yes("Does the lead read out the same words by telephone?")
    accept(opened, offer.content, _now())
    typer.echo("held already: nothing was changed" if offer.news == "same" else "accepted and pinned", err=True)


@app.command("service")
def service_command(
    user: Annotated[str, typer.Option(help="Whose images and keys are.")] = "consilium",
    relay_user: Annotated[str, typer.Option(help="Who reaches the coordinator.")] = "consilium-relay",
    gpu: Annotated[bool, typer.Option("--gpu", help="The custodian uses NVIDIA devices.")] = False,
    allow: Annotated[Words, typer.Option(metavar="ADDRESS", help="Of the coordinator; without, looked up.")] = None,
    out: Annotated[Path | None, typer.Option(metavar="DIR", help="Write files. [default: print them]")] = None,
    site: Site = _HERE,
) -> None:
    """Print systemd units and containers for two users."""
    from client.commands import service
    from client.site_folder import SiteFolder

    opened = SiteFolder.open(site)
    way = service.way_to(opened.coordinator()[0], os.environ, tuple(allow or ()))
    places = service.Places(site.absolute(), Path(sys.executable))
    made = service.texts(opened.settings, service.Users(user, relay_user), places, way, "nvidia" if gpu else "none")
    if out is not None:
        service.write(out, made)
    typer.echo("\n".join(str(out / name) if out else f"##### {name}\n{text}" for name, text in made.items()))


def _judge(plan: Plan, dataset: str | None, site: Path, as_json: bool) -> None:
    from client.commands.check import check, document, shown
    from client.governance.judgement import require_none
    from client.site_folder import SiteFolder

    checked = check(SiteFolder.open(site), plan, dataset)
    if checked.policy == "defaults":
        typer.echo("This site has no policy.toml: the defaults hold, as docs/policy.md explains them.", err=True)
    _say(as_json, document(checked), (checked.digest, *shown(checked)))
    require_none(checked.refusals)


def _look_at_machine(site: Path, as_json: bool) -> None:
    from client import shown, terminal
    from client.governance.audit import Event
    from client.machine import firewall
    from client.machine.examine import examine
    from client.settings import FILE
    from client.site_folder import SiteFolder

    # A machine is looked at before there is a site, too.
    opened = SiteFolder.open(site) if (site / FILE).exists() else None
    address, ca_file = opened.coordinator() if opened else (None, None)
    with terminal.waiting(terminal.stderr(), "looking at this machine"):
        checks = examine(site, address, ca_file, os.environ, _now())
    errors = sum(one.verdict == "error" for one in checks)
    if opened:
        opened.audit.append(Event("doctor-machine", counts={"checks": len(checks), "errors": errors}), _now())
    _say(as_json, [asdict(one) for one in checks], shown.checks(checks))
    if address and not as_json and shown.needs_firewall(checks):
        typer.echo(f"To send to those who run the firewall:\n\n{firewall.ticket(address, ca_file, os.environ)}")
    if errors:
        raise typer.Exit(1)


def _look_at_data(site: Path, dataset: str, as_json: bool) -> None:
    from client import shown, terminal
    from client.commands.doctor import examine
    from client.site_folder import SiteFolder

    opened = SiteFolder.open(site)
    with terminal.bar(terminal.stderr(), "examining cases") as progress:
        found = examine(opened, dataset, progress, _now)
    folder = opened.dataset(dataset)
    _say(as_json, shown.diagnosis_document(found), shown.diagnosis(found))
    typer.echo(f"report, to stay here:  {folder.page}", err=True)
    typer.echo(f"summary, may be sent:  {folder.summary}", err=True)


cli_decisions.register(app)
app.command("status")(status.status_command)


def main() -> None:
    """Entry point of ``consilium-site``."""
    if sys.argv[1:2] in (["ingest"], ["doctor"], ["self-test"], ["approve"], ["custodian"]):
        restart_with_settings()
    commandline.run(app, resume_hint="what was finished is kept; run the same command again to go on")
