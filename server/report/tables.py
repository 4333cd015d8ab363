"""The report's tables as values, shared by the page and the terminal.

Promises
- Every metric of ``results.json`` that is not of a single class stands in a table for all patients, sites and arms,
  with its interval where there is one; those of single classes stand in a table of their own, for all patients.
- A cell keeps the full value beside the rounded text.
- What the plan does not release has no table; what is undetermined or suppressed has a cell that says so.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from server.report.arms import arms_of
from server.report.metrics import LEVEL, TIMES, UNDETERMINED, Measure, interval, label, measure, number
from server.report.run import Run, sites_of
from server.results import SUPPRESSED


@dataclass(frozen=True, slots=True)
class Cell:
    """What a cell shows; ``detail`` stands smaller beside it; ``value`` is the unrounded number, for machines."""

    text: str
    detail: str = ""
    value: float | None = None


@dataclass(frozen=True, slots=True)
class Table:
    """A table: the first column names the row.

    Attributes:
        title: what the rows are.
        columns: headings, that of the row names first.
        rows: name of the row and its cells.
        note: how to read it; may be empty.
        lead: name of the row that stands out; may be empty.
    """

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, tuple[Cell, ...]], ...]
    note: str = ""
    lead: str = ""


def pooled_table(run: Run) -> Table:
    """Metrics of the final model on all test patients, with macro mean and worst site where sites are released."""
    final = run.results.final
    parts = [part for part in ("macro", "worst") if final.get(part)]
    headings = {"macro": "Mean of sites", "worst": "Worst site"}
    rows = [(label(metric), _pooled_cells(final, metric, parts)) for metric in run.overall_metrics]
    columns = ("Metric", "All patients", *(headings[part] for part in parts))
    about = "about" if run.noised else "the"
    amount = f" of {about} {run.pooled.n_patients}" if run.pooled.n_patients else ""
    note = f"All patients: each{amount} test patients counts once, at whichever site. Below each value its {LEVEL}."
    if run.noised:
        note += " Sites added noise to what they sent: values, intervals and numbers of patients are estimates."
    if parts:
        note += " Mean of sites: each site counts once, however small."
    undetermined = final.get("undetermined") or {}
    for metric, sites in sorted((name, undetermined[name]) for name in run.overall_metrics if name in undetermined):
        note += f" {label(metric)} is not determined at {', '.join(sites)}, so not in its mean and worst site."
    if any(cell.text == UNDETERMINED for _, cells in rows for cell in cells):
        note += f" {UNDETERMINED} stands for what these patients do not determine."
    return Table("All sites together", columns, tuple(rows), note, label(run.headline))


def class_table(run: Run) -> Table | None:
    """Metrics of each class of the final model on all test patients; None where none is told apart."""
    pooled, classes = run.results.final["pooled"], run.plan.data.classes
    metrics = [metric for metric in run.overall_metrics if any(f"{metric}_{name}" in pooled for name in classes)]
    found = [(name, {metric: measure(pooled.get(f"{metric}_{name}")) for metric in metrics}) for name in classes]
    measured = [(name, values) for name, values in found if any(f"{metric}_{name}" in pooled for metric in metrics)]
    if not measured:
        return None
    return _by_metric("Class by class", "Class", measured, metrics, "The shared model on all test patients.")


def site_tables(run: Run, metrics: Sequence[str]) -> list[Table]:
    """The final model by site, and each site's own model after own-site steps; empty where sites are not released."""
    blocks = (
        ("Site by site", run.results.final, "One model, measured on each site's own test patients."),
        ("After own-site steps", run.results.personalised, "Each site's own model on its own test patients."),
    )
    return [
        _by_metric(title, "Site", _measured(sites_of(block)), metrics, note)
        for title, block, note in blocks
        if sites_of(block)
    ]


def arms_table(run: Run, metrics: Sequence[str]) -> Table | None:
    """Federation, pooled training and single sites on the same test patients; None without anything to compare."""
    arms = arms_of(run)
    if len(arms) == 1:
        return None
    rows = ((arm.name, arm.metrics) for arm in arms)
    table = _by_metric("Ways of training", "Model", rows, metrics, "All models are measured on the same test patients.")
    return replace(table, lead=arms[0].name)


def data_table(run: Run) -> Table | None:
    """What each site could use and what it set aside, by reason; None where nothing is known."""
    data = run.results.data
    if not data:
        return None
    rows = []
    for site in sorted(data):
        reasons = [
            f"{count} {TIMES} {code.replace('-', ' ')}"
            for code, count in sorted(data[site].quarantined.items())
            if count
        ]
        cells = (Cell(str(data[site].patients)), Cell(str(data[site].cases)), Cell(", ".join(reasons) or "none"))
        rows.append((site, cells))
    columns = ("Site", "Usable patients", "Usable images", "Set aside, by reason")
    return Table(
        "What each site could use",
        columns,
        tuple(rows),
        f"Counts of 1 and 2 are not told; they are shown as {SUPPRESSED}.",
    )


def participation_table(run: Run) -> Table:
    """In how many rounds each site took part, and why it was missing from the others."""
    entries = run.results.participation
    rows = []
    for site in sorted({name for entry in entries for name in (*entry.participants, *entry.missing)}):
        present = sum(site in entry.participants for entry in entries)
        codes = [entry.missing[site] for entry in entries if site in entry.missing]
        reasons = [f"{codes.count(code)} {TIMES} {code.replace('-', ' ')}" for code in sorted(set(codes))]
        rows.append((site, (Cell(f"{present} of {len(entries)}"), Cell(", ".join(reasons) or UNMISSED))))
    return Table("Rounds taken part in", ("Site", "Rounds", "Missing because"), tuple(rows))


def privacy_table(run: Run) -> Table | None:
    """What was spent at each site, in the ledger's terms; None without differential privacy.

    Where sites share the noise, what would be spent if all other sites colluded stands beside it.
    """
    spent = {site: entry for site, entry in run.results.privacy.items() if entry.get("unit") == "patient"}
    if not spent:
        return None
    columns = {"epsilon": "ε", "delta": "δ", "sigma": "Noise multiplier", "q": "Sampling rate q", "steps": "Steps"}
    if any("shared" in entry for entry in spent.values()):
        columns = {"epsilon": "ε", "epsilon_alone": "ε, if all others collude", **columns}
    found = {site: {**entry, **(entry.get("shared") or {})} for site, entry in spent.items()}
    rows = tuple((site, tuple(_plain(found[site].get(name)) for name in columns)) for site in sorted(found))
    return Table("Privacy spent", ("Site", *columns.values()), rows)


UNMISSED = "never missing"


def _pooled_cells(final: Mapping[str, Any], metric: str, parts: Sequence[str]) -> tuple[Cell, ...]:
    pooled = measure(final["pooled"].get(metric))
    cells = [_cell(metric, pooled)]
    for part in parts:
        raw = final[part].get(metric)
        site = raw.get("site") if isinstance(raw, Mapping) else None
        found = _cell(metric, measure(raw))
        cells.append(Cell(found.text, site or "", found.value))
    return tuple(cells)


def _by_metric(
    title: str, kind: str, rows: Iterable[tuple[str, Mapping[str, Measure]]], metrics: Sequence[str], note: str
) -> Table:
    cells = tuple(
        (name, tuple(_cell(metric, found.get(metric, measure(None))) for metric in metrics)) for name, found in rows
    )
    return Table(title, (kind, *map(label, metrics)), cells, note)


def _measured(sites: Mapping[str, Mapping[str, Any]]) -> list[tuple[str, Mapping[str, Measure]]]:
    return [(site, {name: measure(raw) for name, raw in sites[site].items()}) for site in sorted(sites)]


def _cell(metric: str, measured: Measure) -> Cell:
    value = measured.value if measured.determined else None
    return Cell(number(metric, value), interval(metric, measured), value)


def _plain(value: float | str | None) -> Cell:
    if isinstance(value, float):
        return Cell(f"{value:.4g}", value=value)
    return Cell(UNDETERMINED if value is None else str(value), value=value if isinstance(value, int) else None)
