"""The report: one HTML file that a clinician reads, a printer prints and a colleague can be sent.

Promises
- ``write_report`` reads ``results.json``, ``rounds.jsonl`` and ``plan.toml`` of the run folder and nothing else; the
  same files give the same bytes.
- The page is one file: no script, no font, no image, no style from anywhere else. It opens without a network.
- What a run did not do or does not release has no section, or a sentence that says so.

Numbers come from ``tables``, sentences from ``words``, figures from ``panels``; ``template.html.j2`` puts them in
place and escapes every word that is not ours.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from server.report import differences, examples, facts, looks, more_tables, panels, tables, words
from server.report.doctor import doctor_table
from server.report.explanations import explanations_table
from server.report.metrics import DASH, NAMES, label, meaning
from server.report.run import Run, read_run
from shared.durable import SHARED, replace_file

REPORT = "report.html"
SECTIONS: tuple[tuple[str, str, str], ...] = (
    ("looks", "What deserves a look", "looks"),
    ("results", "Results", ""),
    ("curves", "Curves and thresholds", "curves"),
    ("subgroups", "Subgroups of patients", "subgroups"),
    ("cross-site", "Every model at every site", "cross_site"),
    ("reading", "How to read the figures", "readings"),
    ("training", "Training", "training_figures"),
    ("sites", "Participation", "attendance"),
    ("data", "Data", "data"),
    ("examples", "Examples", "phantoms"),
    ("privacy", "Privacy", ""),
    ("method", "Method and provenance", ""),
    ("again", "Run it again", ""),
)
"""Identifier and heading of each section, and the part that must be there for it, if any."""


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
    glued = re.sub(r"(?<=\d) to (?=[+\N{MINUS SIGN}\d])", "\N{NO-BREAK SPACE}to\N{NO-BREAK SPACE}", text)
    return glued.replace(DASH, f"\N{WORD JOINER}{DASH}\N{WORD JOINER}")


def context(run: Run, phantoms: Sequence[examples.PhantomExample] = ()) -> dict[str, Any]:
    """Everything the template shows, by name."""
    results, result_figures, curves = run.results, panels.result_figures(run), panels.curve_panels(run)
    gaps, matrix = panels.gap_panels(run), panels.matrix_panel(run)
    found = {
        "title": words.title(run.plan),
        "lead": " ".join(words.lead(run)),
        "summary": " ".join(words.summary(run)),
        "facts": facts.facts(run),
        "looks": looks.looks(run),
        "looks_words": (looks.INTRODUCTION, looks.CHANCE),
        "result_figures": result_figures,
        "result_tables": result_tables(run),
        "curves": curves,
        "operating_point": more_tables.operating_point_table(run),
        "subgroups": [(table, gaps.get(column)) for column, table in more_tables.subgroup_tables(run)],
        "matrix": matrix,
        "cross_site": more_tables.cross_site_table(run),
        "readings": panels.readings([*result_figures, *curves, *gaps.values(), *([matrix] if matrix else [])]),
        "rest_table": more_tables.rest_table(run),
        "glossary": [(label(metric), meaning(metric)) for metric in run.overall_metrics if metric in NAMES],
        "training_figures": panels.training_figures(run),
        "participation": tables.participation_table(run) if results.participation else None,
        "attendance": panels.attendance(run),
        "data": tables.data_table(run),
        "doctor": doctor_table(run),
        "doctor_words": words.doctor(run),
        "phantoms": [(example.caption, Markup(examples.picture(example))) for example in phantoms],  # noqa: S704
        "outline_colours": (examples.TRUTH, examples.PREDICTION),
        "privacy": words.privacy(run),
        "privacy_table": tables.privacy_table(run),
        "method": facts.method(run),
        "provenance": facts.provenance(run),
        "command": results.command or "consilium-server run plan.toml",
        "plan_text": run.plan_text,
        "digest": results.plan_digest,
    }
    return found | {"sections": [(key, name) for key, name, part in SECTIONS if not part or found[part]]}


def result_tables(run: Run) -> list[tables.Table]:
    """All metrics: of all patients, by class, by way of training, by site."""
    arms = tables.arms_table(run, run.overall_metrics)
    by_site = tables.site_tables(run, run.overall_metrics)
    paired = differences.differences_table(run)
    main = (tables.pooled_table(run), tables.class_table(run), more_tables.size_table(run), arms, paired)
    return [table for table in (*main, explanations_table(run), *by_site) if table is not None]
