"""The report and the comparison of runs for a terminal of 80 columns.

Promises
- The same tables as on the page (``tables``), cut to what fits: by site and by way of training only the headline.
- Plain text with a little bold and dim: it reads the same in a log file.
- Words from a run folder are never read as markup.
"""

from __future__ import annotations

import itertools
import json
import math
import string
from collections.abc import Iterator, Mapping

from rich.console import Group, RenderableType
from rich.markup import escape
from rich.table import Table as RichTable
from rich.text import Text

from server.report import tables, words
from server.report.compare import Comparison
from server.report.metrics import LEVEL, UNDETERMINED, interval, label, number
from server.report.run import Run


def terminal_report(run: Run) -> RenderableType:
    """Final metrics for all patients, by way of training and by site, with a sentence above them."""
    arms = tables.arms_table(run, [run.headline])
    found = [tables.pooled_table(run), *([arms] if arms else []), *tables.site_tables(run, [run.headline])]
    parts: list[RenderableType] = [Text(words.title(run.plan), style="bold"), Text(words.lead(run)[-1])]
    for table in found:
        parts += [Text(), rich_table(table)]
    return Group(*parts, Text(), Text(words.privacy(run)[0]))


def rich_table(table: tables.Table) -> RichTable:
    """A table of the report as a rich table; details stand behind the value."""
    found = RichTable(
        title=escape(table.title),
        title_justify="left",
        title_style="bold",
        box=None,
        pad_edge=False,
        header_style="dim",
    )
    found.add_column(escape(table.columns[0]), overflow="fold")
    for name in table.columns[1:]:
        found.add_column(escape(name), justify="right")
    for name, cells in table.rows:
        found.add_row(Text(name), *map(_cell, cells), style="bold" if name == table.lead else "")
    return found


def comparison_tables(comparison: Comparison) -> RenderableType:
    """The comparison for a terminal of 80 columns; runs are lettered in the first table."""
    letters = dict(zip((entry.name for entry in comparison.entries), _letters(), strict=False))
    parts: list[RenderableType] = [_entries_table(comparison, letters), Text()]
    if comparison.plan_differences:
        parts += [_plan_table(comparison, letters), Text()]
    parts.append(_contrasts_table(comparison, letters))
    for contrast in comparison.contrasts:
        if contrast.method == "unpaired":
            pair = f"{letters[contrast.second]} - {letters[contrast.first]}"
            parts.append(
                Text(f"{pair} treats the patients of the two runs as different ones: {contrast.reason}.", style="dim")
            )
    return Group(*parts)


def _cell(cell: tables.Cell) -> Text:
    text = Text(cell.text)
    return text.append(f"  {cell.detail}", style="dim not bold") if cell.detail else text


def _letters() -> Iterator[str]:
    """A to Z, then AA and so on."""
    for length in itertools.count(1):
        yield from map("".join, itertools.product(string.ascii_uppercase, repeat=length))


def _entries_table(comparison: Comparison, letters: Mapping[str, str]) -> RichTable:
    table = _table("", "Run", label(comparison.metric), LEVEL, "Mean of sites", "Worst site")
    for entry in comparison.entries:
        worst = f"{number(comparison.metric, entry.worst)} {entry.worst_site}".strip()
        value, mean = number(comparison.metric, entry.pooled.value), number(comparison.metric, entry.macro)
        bounds = interval(comparison.metric, entry.pooled)
        table.add_row(*map(Text, (letters[entry.name], entry.name, value, bounds, mean, worst)))
    return table


def _plan_table(comparison: Comparison, letters: Mapping[str, str]) -> RichTable:
    table = _table("Plan", *letters.values())
    for key, values in comparison.plan_differences.items():
        table.add_row(*map(Text, (key, *map(_shown, values))))
    return table


def _contrasts_table(comparison: Comparison, letters: Mapping[str, str]) -> RichTable:
    table = _table(f"Difference in {label(comparison.metric)}", "", LEVEL, "Patients")
    for contrast in comparison.contrasts:
        found = contrast.difference
        bounds = f"{found.low:+.3f} to {found.high:+.3f}" if math.isfinite(found.low) else ""
        pair = f"{letters[contrast.second]} - {letters[contrast.first]}"
        value = f"{found.value:+.3f}" if math.isfinite(found.value) else UNDETERMINED
        table.add_row(*map(Text, (pair, value, bounds, f"{found.n_patients} {contrast.method}")))
    return table


def _shown(value: object) -> str:
    return UNDETERMINED if value is None else json.dumps(value, ensure_ascii=False).strip('"')


def _table(*columns: str) -> RichTable:
    table = RichTable(box=None, pad_edge=False, header_style="bold")
    for place, name in enumerate(columns):
        left = place == 0 or name == "Run"
        table.add_column(escape(name), justify="left" if left else "right", overflow="fold")
    return table
