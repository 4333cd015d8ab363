"""Tables beyond the headline: lesions by size, subgroups, a threshold, every model at every site, the rest.

Promises
- What the run did not measure has no table. What is suppressed reads so; what is undetermined is a dash.
- ``rest_table`` holds every metric of all patients that stands in no other table, so that nothing is left out.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from server.report.gap_figures import levels_of, nobody
from server.report.metrics import LEVEL, interval, label, measure, number
from server.report.run import Run
from server.report.tables import Cell, Table
from shared.evaluation.lesions import BANDS

_AT_THRESHOLD = {
    "sensitivity": "Sensitivity",
    "specificity": "Specificity",
    "ppv": "Right when it says yes (PPV)",
    "npv": "Right when it says no (NPV)",
}
_BY_SIZE = ("lesion_sensitivity_micro", "lesion_dice_micro", "lesion_false_positives_per_case")


def size_table(run: Run) -> Table | None:
    """Lesions by size of all patients, all classes together; None for a task without lesions."""
    pooled = run.results.final["pooled"]
    if f"{_BY_SIZE[0]}_{BANDS[0]}" not in pooled:
        return None
    rows = [
        (
            band.replace("_", " ").replace("mm", " mm"),
            tuple(_cell(name, pooled.get(f"{name}_{band}")) for name in _BY_SIZE),
        )
        for band in BANDS
    ]
    note = f"Size: diameter of a disc or ball of the same extent. Below each value its {LEVEL}."
    return Table("Lesions by size", ("Size", *map(label, _BY_SIZE)), tuple(rows), note)


def subgroup_tables(run: Run) -> Iterator[tuple[str, Table]]:
    """Each declared column of which there are patients, with its table: its levels, and the main metrics of each."""
    names = run.overall_metrics
    for column in run.results.final.get("subgroups") or {}:
        rows = [
            (level, tuple(_cell(name, metrics[name] if isinstance(metrics, Mapping) else metrics) for name in names))
            for level, metrics in levels_of(run, column)
            if not nobody(metrics)
        ]
        note = "Suppressed: too few patients to be told, or needed so that another number cannot be computed. Not zero."
        if not rows:
            continue
        yield column, Table(f"By {column}", (column.capitalize(), *map(label, names)), tuple(rows), note)


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
    return Table(title, ("Trained at", *sites), tuple(rows), f"{whose_models(run)} Columns: whose test patients.")


def whose_models(run: Run) -> str:
    """What the rows of the cross-site table are."""
    if run.results.baselines.get("cross_site_models") == "personalised":
        return "Rows: the shared model after own-site steps, and where these were made."
    return "Rows: where the model was trained."


def operating_point_table(run: Run) -> Table | None:
    """What the model does at the plan's threshold, for all patients and by site; None where the plan states none."""
    block: Mapping[str, Any] = run.results.final.get("operating_point") or {}
    if not block:
        return None
    names = sorted(block["pooled"], key=_place)
    parts = [("All patients", block["pooled"]), *sorted((block.get("sites") or {}).items())]
    rows = tuple((part, tuple(_cell(name, found.get(name)) for name in names)) for part, found in parts)
    chosen = ", ".join(
        f"{finding or 'threshold'} {number('score', value)}" for finding, value in block["thresholds"].items()
    )
    note = f"Chosen on validation patients ({chosen}) and applied to test patients, the same at every site."
    return Table("At the operating point", ("Patients", *map(_named, names)), rows, note, "All patients")


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


def _sized(band: str) -> str:
    return band.replace("_", " ").replace("mm", " mm")


def _named(metric: str) -> str:
    """Name of a measure at a threshold; a finding's name may follow."""
    short, _, finding = metric.partition("_")
    return _AT_THRESHOLD.get(short, label(short)) + (f", {finding}" if finding else "")


def _place(metric: str) -> tuple[str, int]:
    """By finding, then in the order in which they are read."""
    short, _, finding = metric.partition("_")
    order = list(_AT_THRESHOLD)
    return finding, order.index(short) if short in order else len(order)
