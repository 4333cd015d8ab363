"""``consilium-sim``: the command of a researcher."""

from __future__ import annotations

import json
import shlex
import sys
from pathlib import Path
from typing import Annotated

import click
import typer
from rich.console import Console

from shared import commandline
from shared.environment import restart_with_settings
from simulations.progress import Terminal

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    help="Run a whole federation of hospitals on this machine, with the code that production runs.",
)

_DEFAULT_PATIENTS = 30

Name = Annotated[str, typer.Argument(help="A built-in name (see: consilium-sim scenarios) or a .toml file.")]
Data = Annotated[Path | None, typer.Option(help="Folder with manifest.csv, for scenarios on real images.")]
Out = Annotated[Path | None, typer.Option(help="Run folder. [default: runs/SCENARIO-seedN]")]
Seed = Annotated[int | None, typer.Option(help="Replaces plan.seed.")]
Workers = Annotated[int | None, typer.Option(min=1, help="Processes. [default: one per core]")]
Changes = Annotated[list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Change a key of the plan.")]
Resume = Annotated[bool, typer.Option("--resume", help="Go on with the run in --out.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Start anew in --out.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON to stdout.")]


@app.command("run")
def run_command(
    scenario: Name,
    data: Data = None,
    out: Out = None,
    seed: Seed = None,
    workers: Workers = None,
    change: Changes = None,
    engine: Annotated[str, typer.Option(help="Or Flower's: ray.")] = "inprocess",
    baselines: Annotated[bool | None, typer.Option(help="Also train alone, and pooled.")] = None,
    cross_site: Annotated[bool | None, typer.Option(help="Also test every model at every site.")] = None,
    save_predictions: Annotated[bool, typer.Option("--save-predictions", help="Write predictions.csv.")] = False,
    unsafe_seeded_noise: Annotated[
        bool, typer.Option("--unsafe-seeded-noise", help="Repeatable: protects nobody.")
    ] = False,
    resume: Resume = False,
    overwrite: Overwrite = False,
    as_json: Json = False,
) -> None:
    """Run a scenario, from images to report."""
    from simulations import run as running
    from simulations import scenario as scenarios

    found = scenarios.load(scenario, tuple(change or ()), seed)
    order = running.Order(
        out=out or Path("runs") / f"{found.name}-seed{found.plan.plan.seed}",
        data=data,
        workers=workers,
        engine=engine,
        existing=_existing(resume, overwrite),
        baselines=found.setting.baselines if baselines is None else baselines,
        cross_site=found.setting.cross_site if cross_site is None else cross_site,
        save_predictions=save_predictions,
        noise="unsafe-seeded" if unsafe_seeded_noise else "secure",
        command=shlex.join(["consilium-sim", *sys.argv[1:]]),
    )
    _show(running.run(found, order, Terminal(Console(stderr=True))), as_json)


@app.command("baselines")
def baselines_command(
    scenario: Name,
    data: Data = None,
    out: Out = None,
    seed: Seed = None,
    workers: Workers = None,
    change: Changes = None,
    resume: Resume = False,
    overwrite: Overwrite = False,
    as_json: Json = False,
) -> None:
    """Run a scenario, each site alone, and all data pooled."""
    run_command(
        scenario,
        data,
        out,
        seed,
        workers,
        change,
        baselines=True,
        resume=resume,
        overwrite=overwrite,
        as_json=as_json,
    )


@app.command("contribution")
def contribution_command(
    scenario: Name,
    data: Data = None,
    out: Out = None,
    seed: Seed = None,
    workers: Workers = None,
    change: Changes = None,
    permutations: Annotated[int, typer.Option(min=2, help="Random orders of the sites, beyond 4 sites.")] = 20,
    rounds: Annotated[int, typer.Option(min=1, help="Rounds that each coalition is trained for.")] = 5,
    resume: Resume = False,
    overwrite: Overwrite = False,
    as_json: Json = False,
) -> None:
    """Run a scenario, and find what each site contributes."""
    from simulations import run as running
    from simulations import scenario as scenarios
    from simulations.coalitions import Budget

    found = scenarios.load(scenario, tuple(change or ()), seed)
    order = running.Order(
        out=out or Path("runs") / f"contribution-{found.name}-seed{found.plan.plan.seed}",
        data=data,
        workers=workers,
        existing=_existing(resume, overwrite),
        contribution=Budget(permutations, rounds),
        command=shlex.join(["consilium-sim", *sys.argv[1:]]),
    )
    _show(running.run(found, order, Terminal(Console(stderr=True))), as_json)


@app.command("compare")
def compare_command(
    runs: Annotated[list[Path], typer.Argument(help="Folders of finished runs.")],
    as_json: Json = False,
) -> None:
    """Show several runs side by side."""
    from server.report.compare import compare, comparison_document
    from server.report.terminal import comparison_tables

    comparison = compare(runs)
    if as_json:
        typer.echo(json.dumps(comparison_document(comparison), indent=2))
    else:
        Console().print(comparison_tables(comparison))


@app.command("track")
def track_command(
    run: Annotated[Path, typer.Argument(help="Run folder; the run may still go on.")],
    to: Annotated[list[str], typer.Option(metavar="TARGET", help="mlflow:URI or tensorboard:DIR; may be repeated.")],
) -> None:
    """Bring a run to MLflow or TensorBoard."""
    from server.tracking import track

    for where in to:
        typer.echo(track(run, where))


@app.command("attack")
def attack_command(
    scenario: Name,
    data: Data = None,
    out: Annotated[Path | None, typer.Option(help="Folder. [default: runs/attack-SCENARIO-seedN]")] = None,
    seed: Seed = None,
    workers: Workers = None,
    change: Changes = None,
    shadows: Annotated[int, typer.Option(min=6, help="Models trained in each arm.")] = 16,
    images: Annotated[int, typer.Option(min=1, help="Images looked for in gradients.")] = 3,
    overwrite: Overwrite = False,
    as_json: Json = False,
) -> None:
    """Attack a scenario's patients, with and without privacy."""
    from simulations import scenario as scenarios
    from simulations.attacks import compare, words

    found = scenarios.load(scenario, tuple(change or ()), seed)
    order = compare.Order(
        out=out or Path("runs") / f"attack-{found.name}-seed{found.plan.plan.seed}",
        data=data,
        workers=workers,
        models=shadows,
        images=images,
        existing="overwrite" if overwrite else "refuse",
        command=shlex.join(["consilium-sim", *sys.argv[1:]]),
    )
    compared = compare.attack(found, order, Terminal(Console(stderr=True)))
    if as_json:
        typer.echo((order.out / compare.DOCUMENT).read_text(encoding="utf-8"), nl=False)
    else:
        typer.echo("\n".join([*words.lead(compared), words.control(compared)]))
        typer.echo(f"page: {order.out / compare.PAGE}", err=True)


@app.command("privacy")
def privacy_command(
    plan: Annotated[str, typer.Argument(help="A plan or a scenario (a .toml file, or a built-in name).")],
    patients: Annotated[
        list[int] | None,
        typer.Option(min=1, metavar="N", help="Training patients of a site to compare with; may be repeated."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Show what a plan's privacy costs, and other choices."""
    from simulations import privacy_table

    found, talk = privacy_table.load_plan(plan), Terminal(Console(stderr=True))
    for sentence in privacy_table.cautions(found, patients or ()):
        talk.tell(f"warning: {sentence}")
    table = privacy_table.privacy_table(found, patients or privacy_table.PATIENTS, talk)
    if as_json:
        typer.echo(json.dumps(privacy_table.document(table), indent=2))
    else:
        Console().print(privacy_table.terminal(table))


@app.command("pretrain")
def pretrain_command(
    scenario: Name,
    out: Annotated[Path, typer.Option(help="File to write: weights to start from (safetensors).")],
    seed: Annotated[int, typer.Option(min=0, help="Of images and training; same seed, same bytes.")] = 0,
    images: Annotated[int | None, typer.Option(min=1, help="Images to make up. [default: by task]")] = None,
    steps: Annotated[int | None, typer.Option(min=1, help="Training steps. [default: by task]")] = None,
    workers: Workers = None,
    change: Changes = None,
) -> None:
    """Train a network on made-up images, to start from."""
    import os

    from simulations import scenario as scenarios
    from simulations.pretraining import pretrain as teaching

    plan = scenarios.load(scenario, tuple(change or ())).plan
    order = teaching.Order(seed, images, steps, workers or len(os.sched_getaffinity(0)))
    digest = teaching.save(teaching.pretrain(plan, order, Terminal(Console(stderr=True))), out)
    typer.echo(f'[model.pretrained]\nfile = "{out.as_posix()}"\nsha256 = "{digest}"')


@app.command()
def phantoms(
    out: Annotated[Path, typer.Argument(help="Folder to write into.")],
    sites: Annotated[int, typer.Option(min=1, help="Number of hospitals.")] = 4,
    patients: Annotated[int, typer.Option(min=1, help="Patients per hospital.")] = _DEFAULT_PATIENTS,
    dimensions: Annotated[int, typer.Option(min=2, max=3, help="2: slices, 3: volumes.")] = 2,
    seed: Annotated[int, typer.Option(help="Same seed, same bytes.")] = 7,
) -> None:
    """Write synthetic hospitals as DICOM, the truth beside them."""
    from simulations.phantoms import write_hospitals
    from simulations.phantoms.hospitals import hospitals

    federation = hospitals(sites, seed, patients=patients, dimensions=3 if dimensions == 3 else 2)
    report = write_hospitals(out, federation, seed)
    for hospital in report.hospitals:
        typer.echo(
            f"{hospital.name}: {hospital.patients} patients, {hospital.images} images, {hospital.faults} of them broken"
        )


@app.command("rehearse")
def rehearse_command(
    out: Annotated[Path, typer.Option(help="Folder to write into; new or empty.")] = Path("rehearsal"),
) -> None:
    """Three hospitals as real processes, one killed."""
    from simulations.rehearsal.rehearse import rehearse
    from simulations.rehearsal.shown import shown

    console = Console(stderr=True)
    for line in shown(rehearse(out.absolute(), Terminal(console))):
        typer.echo(line)


@app.command()
def scenarios() -> None:
    """List the built-in scenarios."""
    from simulations import scenario

    for name in scenario.names():
        typer.echo(f"{name:<16} {scenario.load(name).setting.title}")


def _existing(resume: bool, overwrite: bool) -> str:
    """What to do with a folder that holds a run."""
    if resume and overwrite:
        raise click.UsageError("--resume and --overwrite exclude each other", click.get_current_context())
    return "resume" if resume else "overwrite" if overwrite else "refuse"


def _show(folder: Path, as_json: bool) -> None:
    from server.report.run import read_run
    from server.report.terminal import terminal_report
    from server.results import RESULTS

    if as_json:
        typer.echo((folder / RESULTS).read_text(encoding="utf-8"), nl=False)
        return
    Console().print(terminal_report(read_run(folder)))
    typer.echo(f"report: {folder / 'report.html'}", err=True)


def main() -> None:
    """Entry point of ``consilium-sim``."""
    restart_with_settings()
    runs = sys.argv[1:2] in (["run"], ["baselines"], ["contribution"])
    commandline.run(app, resume_hint="go on with: the same command and --resume" if runs else "")
