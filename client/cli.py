"""``consilium-site``: the command of hospital IT.

This version makes a site, ingests, examines and freezes its data, and checks plans; joining a real federation is not
built yet, and the help says so.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterable
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import click
import typer

from shared import commandline
from shared.environment import restart_with_settings
from shared.plan import load

if TYPE_CHECKING:
    from rich.console import RenderableType

    from client.data.cohort.manifest import SplitRule
    from shared.plan import Plan

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    help="Consilium at a hospital: from an archive of images to a de-identified, checked, frozen cohort. "
    "To federate today, use consilium-sim; joining a real federation is not built yet.",
)
audit_app = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="The log of what was done at this site.")
app.add_typer(audit_app, name="audit")

_HERE = Path()
_TRAIN, _VALIDATION = 0.6, 0.15
_MODALITIES = click.Choice(["ct", "mr", "us", "xray", "fundus", "other"])
_DIMENSIONS = click.Choice(["auto", "2", "3"])

Words = list[str] | None
Site = Annotated[Path, typer.Option(metavar="DIR", envvar="CONSILIUM_SITE", help="Site folder.")]
Name = Annotated[str, typer.Option("--dataset", metavar="NAME", help="The data set.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON to stdout.")]
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
    from client import shown
    from client.commands.freeze import Terms, freeze
    from client.site_folder import SiteFolder

    terms = Terms(_rule(plan, train, validation, seed), tuple(exclude or ()), tuple(accept_findings or ()))
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


@audit_app.command("verify")
def audit_verify(site: Site = _HERE) -> None:
    """Check every line; name the first bad one."""
    from client.governance import audit
    from client.site_folder import SiteFolder

    log = SiteFolder.open(site).audit
    found = audit.verify(log.path, log.signer.verify_key)
    typer.echo(f"{found.lines} lines, none changed, removed or moved")
    typer.echo(f"last line: {found.head}")
    typer.echo("Keep this digest elsewhere: lines cut off the end are seen only by comparing it.", err=True)


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


def _rule(plan: Path | None, train: float | None, validation: float | None, seed: int | None) -> SplitRule:
    from client.data.cohort.manifest import SplitRule

    if plan is not None:
        if (train, validation, seed) != (None, None, None):
            raise _usage("--plan excludes --train, --validation and --seed")
        found = load(plan)
        return SplitRule(found.plan.seed, found.data.train_fraction, found.data.validation_fraction)
    rule = SplitRule(seed or 0, _TRAIN if train is None else train, _VALIDATION if validation is None else validation)
    if rule.train_fraction + rule.validation_fraction >= 1:
        raise _usage("--train and --validation must leave patients for testing (sum below 1)")
    return rule


def _usage(sentence: str) -> click.UsageError:
    return click.UsageError(sentence, click.get_current_context())


def _say(as_json: bool, document: object, shown: Iterable[RenderableType]) -> None:
    from client import terminal

    if as_json:
        typer.echo(json.dumps(document, indent=2))
        return
    for place, part in enumerate(shown):
        terminal.stdout().print(*([] if place == 0 else [""]), part, sep="\n")


def _now() -> datetime:
    return datetime.now(UTC)


def main() -> None:
    """Entry point of ``consilium-site``."""
    if sys.argv[1:2] in (["ingest"], ["doctor"], ["self-test"]):
        restart_with_settings()
    commandline.run(app, resume_hint="what was finished is kept; run the same command again to go on")
