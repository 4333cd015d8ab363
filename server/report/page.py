"""The report: one HTML file that a clinician reads, a printer prints and a colleague can be sent.

Promises
- ``write_report`` reads ``results.json``, ``rounds.jsonl`` and ``plan.toml`` of the run folder and nothing else; the
  same files give the same bytes.
- The page is one file: no script, no font, no image, no style from anywhere else. It opens without a network.
- What a run did not do or does not release has no section, or a sentence that says so.

Numbers come from ``tables``, sentences from ``words``, drawings from ``figures``; ``template.html.j2`` puts them in
place and escapes every word that is not ours.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from server.report import examples, figures, more_tables, tables, words
from server.report.arms import Kind, arms_of, at_a_glance
from server.report.doctor import doctor_table
from server.report.metrics import DASH, LEVEL, NAMES, TIMES, duration, interval, label, meaning, measure, number
from server.report.run import Run, read_run, sites_of
from shared.durable import SHARED, replace_file

REPORT = "report.html"

LEGEND = (
    ("federation", "shared model of the federation"),
    ("personalised", "after own-site steps"),
    ("central", "all data in one room"),
    ("local", "one site alone"),
)


@dataclass(frozen=True, slots=True)
class Figure:
    """A drawing with its heading, its caption and the kinds of marks in it."""

    title: str
    drawing: Markup
    caption: str
    kinds: tuple[tuple[str, str], ...] = ()


def write_report(run_folder: Path, phantoms: Sequence[examples.PhantomExample] = ()) -> Path:
    """Write ``report.html`` into a finished run's folder and return its path.

    Raises:
        PlanError: the plan in the folder cannot be read.
        RunError: the results cannot be read, or belong to another plan.
    """
    path = run_folder / REPORT
    replace_file(path, render(read_run(run_folder), phantoms).encode(), SHARED)
    return path


def render(run: Run, phantoms: Sequence[examples.PhantomExample] = ()) -> str:
    """The page as text."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["unbroken"] = unbroken
    return environment.get_template("template.html.j2").render(context(run, phantoms))


def unbroken(text: str) -> str:
    """``text`` that no line ends within an interval."""
    return text.replace(DASH, f"\N{WORD JOINER}{DASH}\N{WORD JOINER}")


def context(run: Run, phantoms: Sequence[examples.PhantomExample] = ()) -> dict[str, Any]:
    """Everything the template shows, by name."""
    results = run.results
    return {
        "title": words.title(run.plan),
        "lead": " ".join(words.lead(run)),
        "summary": " ".join(words.summary(run)),
        "facts": _facts(run),
        "result_figures": result_figures(run),
        "result_tables": result_tables(run),
        "rest_table": more_tables.rest_table(run),
        "glossary": [(label(metric), meaning(metric)) for metric in run.overall_metrics if metric in NAMES],
        "training_figures": training_figures(run),
        "participation": tables.participation_table(run) if results.participation else None,
        "attendance": _attendance(run),
        "data": tables.data_table(run),
        "doctor": doctor_table(run),
        "doctor_words": words.doctor(run),
        "phantoms": [(example.caption, Markup(examples.picture(example))) for example in phantoms],  # noqa: S704
        "outline_colours": (examples.TRUTH, examples.PREDICTION),
        "privacy": words.privacy(run),
        "privacy_table": tables.privacy_table(run),
        "method": _method(run),
        "provenance": _provenance(run),
        "command": results.command or "consilium-server run plan.toml",
        "plan_text": run.plan_text,
        "digest": results.plan_digest,
    }


def result_figures(run: Run) -> list[Figure]:
    """Ways of training side by side, and the shared model site by site."""
    found, arms = [], at_a_glance(arms_of(run))
    if len(arms) > 1:
        rows = [figures.Row(arm.name, ((arm.kind, arm.measure(run.headline)),)) for arm in arms]
        drawing = figures.dot_chart("arms", run.headline, rows, run.pooled)
        caption = "On the test patients of all sites. Lines are 95\N{NO-BREAK SPACE}% intervals."
        found.append(_figure(f"{label(run.headline)} by way of training", drawing, caption, {arm.kind for arm in arms}))
    if sites_of(run.results.final):
        found.append(_sites_figure(run))
    return found


def result_tables(run: Run) -> list[tables.Table]:
    """All metrics: of all patients, by class, by way of training, by site."""
    arms = tables.arms_table(run, run.overall_metrics)
    by_site = tables.site_tables(run, run.overall_metrics)
    groups = more_tables.subgroup_tables(run)
    looked = (more_tables.findings_table(run), more_tables.cross_site_table(run))
    main = (tables.pooled_table(run), tables.class_table(run), more_tables.size_table(run), arms)
    return [table for table in (*main, *by_site, *groups, *looked) if table is not None]


def training_figures(run: Run) -> list[Figure]:
    """Loss and headline metric by round, where there are rounds to show."""
    found = []
    losses = [(record.participation.round, record.loss) for record in run.rounds if record.loss is not None]
    if losses:
        rounds, values = zip(*losses, strict=True)
        line = figures.Line("loss", rounds, values)
        alt = f"Training loss by round: {values[0]:.3f} in round {rounds[0]}, {values[-1]:.3f} in round {rounds[-1]}."
        drawing = figures.line_chart("loss", alt, [line])
        found.append(_figure("Training loss", drawing, "Mean over the local steps of all sites in the round."))
    lines = _metric_lines(run)
    if lines[0].values:
        name, first, last = label(run.headline), lines[0].values[0], lines[0].values[-1]
        alt = f"{name} on validation patients by round: {first:.3f} at first, {last:.3f} at last."
        drawing = figures.line_chart("metric", alt, lines)
        caption = f"Shared model on validation patients, with its {LEVEL}{'; by site' if lines[1:] else ''}."
        found.append(_figure(f"{name} while training", drawing, caption))
    return found


def _metric_lines(run: Run) -> list[figures.Line]:
    measured = [(record.participation.round, record.metrics) for record in run.rounds if record.metrics]
    sites = sorted({site for _, block in measured for site in sites_of(block)})
    pooled = _line(run.headline, "all sites", [(at, block["pooled"]) for at, block in measured])
    by_site = ((site, [(at, sites_of(block).get(site, {})) for at, block in measured]) for site in sites)
    return [pooled, *(_line(run.headline, site, points) for site, points in by_site)]


def _line(metric: str, name: str, points: Sequence[tuple[int, Any]]) -> figures.Line:
    known = [(at, found) for at, metrics in points if (found := measure(metrics.get(metric))).determined]
    return figures.Line(
        name,
        tuple(at for at, _ in known),
        tuple(found.value for _, found in known),
        tuple(found.low for _, found in known),
        tuple(found.high for _, found in known),
    )


def _sites_figure(run: Run) -> Figure:
    sites = sites_of(run.results.final)
    rows = [_site_row(run, site) for site in _weakest_last(run, list(sites))]
    drawing = figures.dot_chart("sites", run.headline, rows[-figures.MOST_NAMED_ROWS :], run.pooled)
    caption = "On each site's own test patients. Dashed: the shared model on all patients."
    if len(rows) > figures.MOST_NAMED_ROWS:
        caption += f" The {figures.MOST_NAMED_ROWS} weakest of {len(rows)} sites; all are in the table."
    return _figure(f"{label(run.headline)} by site", drawing, caption, {kind for row in rows for kind, _ in row.marks})


def _site_row(run: Run, site: str) -> figures.Row:
    """One site's own test patients: the shared model, the fine-tuned one, and the one trained there alone."""
    alone = run.results.baselines.get("at_home", {}).get(site, {}).get("local")
    kinds: tuple[tuple[Kind, Any], ...] = (
        ("federation", sites_of(run.results.final)[site]),
        ("personalised", sites_of(run.results.personalised).get(site)),
        ("local", alone),
    )
    marks = ((kind, measure(metrics.get(run.headline))) for kind, metrics in kinds if metrics is not None)
    return figures.Row(site, tuple(marks))


def _weakest_last(run: Run, sites: list[str]) -> list[str]:
    sign = 1 if run.headline in run.results.lower_is_better else -1
    values = {site: measure(sites_of(run.results.final)[site].get(run.headline)) for site in sites}
    return sorted(sites, key=lambda site: (sign * values[site].value if values[site].determined else -math.inf, site))


def _figure(title: str, drawing: str, caption: str, kinds: set[Any] | None = None) -> Figure:
    shown = tuple((kind, text) for kind, text in LEGEND if kind in (kinds or ()))
    return Figure(title, Markup(drawing), caption, shown)  # noqa: S704 - drawn here, names escaped by matplotlib


def _attendance(run: Run) -> Figure | None:
    if not run.results.participation:
        return None
    drawing = figures.attendance_chart("attendance", run.results.participation)
    return _figure("Who took part", drawing, "Filled: the site's update is in the sum. Hatched: it is not.")


def _facts(run: Run) -> list[tuple[str, str, str]]:
    pooled, results, private = run.pooled, run.results, run.plan.privacy
    complete = sum(not entry.missing for entry in results.participation)
    bounds = interval(run.headline, pooled)
    facts = [(label(run.headline), number(run.headline, pooled.value), f"{LEVEL} {bounds}" if bounds else "")]
    if pooled.n_patients:
        about = "about " if run.noised else ""
        facts.append(("Test patients", f"{about}{pooled.n_patients}", "never seen in training"))
    rounds = len(results.participation)
    facts.append(("Sites", str(len(run.sites)), f"all present in {complete} of {rounds} rounds" if rounds else ""))
    guarantee = f"ε = {private.epsilon:g}" if private.epsilon else "none"
    facts.append(
        ("Privacy", guarantee, f"δ = {private.delta:g}, per patient" if private.delta else "no differential privacy")
    )
    ratio = results.timing.overhead_ratio
    trained = results.timing.local_training_s
    told = f"{duration(trained)} in training" if trained else "from images to report"
    cost = f"{ratio:.2f} {TIMES} local training" if ratio else told
    return [*facts, ("Time", duration(results.timing.total_s), cost)]


def _method(run: Run) -> list[tuple[str, str]]:
    plan = run.plan
    size = f" {TIMES} ".join(map(str, plan.preprocessing.size))
    return [
        ("Network", plan.model.name),
        ("Input", f"{size} {'voxels' if plan.dimensions == 3 else 'pixels'}, {plan.preprocessing.colour}"),
        ("Rounds", f"{plan.plan.rounds}, with {plan.training.steps} local steps each"),
        ("Patients per step", str(plan.training.patients_per_step)),
        ("Optimiser", f"{plan.training.optimizer}, learning rate {plan.training.learning_rate:g}"),
        ("Aggregation", f"{plan.aggregation.method}, {plan.aggregation.weights} weights"),
        ("Seed", str(run.results.seed)),
    ]


def _provenance(run: Run) -> list[tuple[str, str]]:
    results = run.results
    digests = [("Run", results.run), ("Plan SHA-256", results.plan_digest), ("Model SHA-256", results.checkpoint)]
    return [pair for pair in digests if pair[1]] + sorted(results.versions.items())
