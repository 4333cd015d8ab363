"""Tables beyond the headline: lesions by size, subgroups, every model at every site, what checks have found, the rest.

Promises
- What the run did not measure has no table. What is suppressed reads so; what is undetermined is a dash.
- ``rest_table`` holds every metric of all patients that stands in no other table, so that nothing is left out.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from server.report.metrics import LEVEL, MAIN, interval, label, measure, number
from server.report.run import Run
from server.report.tables import Cell, Table
from shared.evaluation.lesions import BANDS

_BY_SIZE = ("lesion_sensitivity_micro", "lesion_dice_micro", "lesion_false_positives_per_case")


def size_table(run: Run) -> Table | None:
    """Lesions by size of all patients, all classes together; None for a task without lesions."""
    pooled = run.results.final["pooled"]
    if f"{_BY_SIZE[0]}_{BANDS[0]}" not in pooled:
        return None
    rows = [
        (band.replace("_", " "), tuple(_cell(name, pooled.get(f"{name}_{band}")) for name in _BY_SIZE))
        for band in BANDS
    ]
    note = f"Size: diameter of a disc or ball of the same extent. Below each value its {LEVEL}."
    return Table("Lesions by size", ("Size", *map(label, _BY_SIZE)), tuple(rows), note)


def subgroup_tables(run: Run) -> Iterator[Table]:
    """One table for each declared column: its levels, and the headline metric of each."""
    names = [name for name in MAIN if name in run.overall_metrics]
    for column, levels in (run.results.final.get("subgroups") or {}).items():
        rows = [
            (level, tuple(_cell(name, metrics[name] if isinstance(metrics, Mapping) else metrics) for name in names))
            for level, metrics in levels.items()
            if level not in {"gaps", "sites", "missing_sites"}
        ]
        note = "Suppressed: too few patients to be told, or needed so that another number cannot be computed. Not zero."
        yield Table(f"By {column}", (column.capitalize(), *map(label, names)), tuple(rows), note)


def cross_site_table(run: Run) -> Table | None:
    """The headline metric of every site's own model at every site; None where nobody asked."""
    found: Mapping[str, Any] = run.results.baselines.get("cross_site") or {}
    if not found:
        return None
    sites = sorted(found)
    rows = [
        (model, tuple(_cell(run.headline, found[model].get(site, {}).get(run.headline)) for site in sites))
        for model in sites
    ]
    title = f"Every model at every site: {label(run.headline)}"
    return Table(
        title, ("Trained at", *sites), tuple(rows), "Rows: where the model was trained. Columns: whose test patients."
    )


def findings_table(run: Run) -> Table | None:
    """What checks of labels and images have found; None where none was made, or nothing found."""
    found = run.results.baselines.get("findings") or []
    if not found:
        return None
    rows = [(one["site"], (Cell(one["sentence"]), _probability(one.get("p")))) for one in found]
    note = "Found by comparing sites' models on each other's patients. It deserves a look, and is no proof."
    return Table("Sites to look at", ("Site", "What was found", "p, corrected"), tuple(rows), note)


def rest_table(run: Run) -> Table | None:
    """Every metric of all patients that stands in no other table."""
    pooled = run.results.final["pooled"]
    by_size = {f"{name}_{band}" for name in _BY_SIZE for band in BANDS}
    shown = {
        *run.overall_metrics,
        *by_size,
        *(f"{name}_{of}" for name in run.overall_metrics for of in run.plan.data.classes),
    }
    rows = [(label(name), (_cell(name, raw),)) for name, raw in pooled.items() if name not in shown]
    return Table("All other measures", ("Metric", "All patients"), tuple(rows)) if rows else None


def _cell(metric: str, raw: Any) -> Cell:  # noqa: ANN401 - a number, an interval, null, or the word suppressed
    if isinstance(raw, str):
        return Cell(raw)
    measured = measure(raw)
    value = measured.value if measured.determined else None
    return Cell(number(metric, value), interval(metric, measured), value)


def _probability(value: float | None) -> Cell:
    return Cell("" if value is None else f"{value:.2g}", value=value)
