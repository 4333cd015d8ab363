"""Tables on paper: as wide as they must be, broken where the sheet ends.

Promises
- Every cell of the table stands on paper, with what stands below it. A table wider than the sheet becomes several, one
  under the other, each with the names of its rows; a longer one goes on under the same headings.
- Columns of numbers are as wide as their widest number; only columns of words give way.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from reportlab.lib.colors import HexColor
from reportlab.pdfbase.pdfmetrics import stringWidth
from reportlab.platypus import LongTable, Paragraph, TableStyle

from server.report import svg
from server.report.paper import BOLD, SANS, WIDTH_PT, safe, styles
from server.report.tables import Cell, Table

GAP_PT = 9.0
_DETAIL_PT = 6.6
_HEADING_PT = 48.0
"""A heading breaks into lines of about this width, if its words allow it."""
_MOST_WORDS = 0.42
"""Share of the sheet that a column of words, or that of the names, may take."""


def blocks(table: Table, width: float = WIDTH_PT) -> list[tuple[int, ...]]:
    """Columns of numbers (from 1) by part of the table, each part no wider than ``width`` beside the names."""
    widths = natural_widths(table)
    parts: list[list[int]] = [[]]
    for column in range(1, len(table.columns)):
        taken = widths[0] + sum(widths[one] for one in parts[-1])
        if parts[-1] and taken + widths[column] > width:
            parts.append([])
        parts[-1].append(column)
    return [tuple(part) for part in parts]


def natural_widths(table: Table) -> list[float]:
    """Points that each column needs; columns of words at most ``_MOST_WORDS`` of the sheet."""
    styles()
    columns = [
        [Cell(name) if place == 0 else cells[place - 1] for name, cells in table.rows]
        for place in range(len(table.columns))
    ]
    found = []
    for heading, cells in zip(table.columns, columns, strict=True):
        inside = max(map(_width, cells), default=0.0)
        longest_word = max((stringWidth(word, SANS, 7.2) for word in heading.split()), default=0.0)
        shown = min(max(longest_word, _HEADING_PT), stringWidth(heading, SANS, 7.2)) + 1
        found.append(min(max(inside, shown) + GAP_PT, _MOST_WORDS * WIDTH_PT))
    return found


def parts_of(table: Table, width: float = WIDTH_PT) -> list[LongTable]:
    """The table as flowables no wider than ``width``, one below the other."""
    widths = natural_widths(table)
    return [_part(table, part, [widths[0], *(widths[column] for column in part)]) for part in blocks(table, width)]


def _part(table: Table, part: Sequence[int], widths: list[float]) -> LongTable:
    look = styles()
    head = [Paragraph(safe(table.columns[0]), look["first"])]
    head += [
        Paragraph(safe(table.columns[column]), look["first" if _words(table, column) else "column"]) for column in part
    ]
    rows = [
        [_named(name, lead=name == table.lead), *(_cell(table, column, cells[column - 1], name) for column in part)]
        for name, cells in table.rows
    ]
    drawn = LongTable([head, *rows], colWidths=widths, repeatRows=1, hAlign="LEFT")
    drawn.setStyle(_style())
    return drawn


def _style() -> TableStyle:
    rule, ink = HexColor(svg.RULE), HexColor(svg.INK)
    commands: list[Any] = [
        ("LINEBELOW", (0, 0), (-1, 0), 0.8, ink),
        ("LINEBELOW", (0, 1), (-1, -2), 0.4, rule),
        ("VALIGN", (0, 0), (-1, 0), "BOTTOM"),
        ("VALIGN", (0, 1), (-1, -1), "TOP"),
        ("LEFTPADDING", (0, 0), (-1, -1), GAP_PT),
        ("LEFTPADDING", (0, 0), (0, -1), 0),
        ("RIGHTPADDING", (0, 0), (-1, -1), 0),
        ("TOPPADDING", (0, 0), (-1, -1), 2.5),
        ("BOTTOMPADDING", (0, 0), (-1, -1), 2.5),
    ]
    return TableStyle(commands)


def _named(name: str, *, lead: bool) -> Paragraph:
    return Paragraph(f"<b>{safe(name)}</b>" if lead else safe(name), styles()["name"])


def _cell(table: Table, column: int, cell: Cell, name: str) -> Paragraph:
    said = f"<b>{safe(cell.text)}</b>" if name == table.lead else safe(cell.text)
    if cell.detail:
        said += f'<br/><font size="{_DETAIL_PT}" color="{svg.MUTED}">{safe(cell.detail)}</font>'
    return Paragraph(said, styles()["name" if _words(table, column) else "cell"])


def _words(table: Table, column: int) -> bool:
    """Whether the column holds sentences and not numbers."""
    cells = [cells[column - 1] for _, cells in table.rows]
    return all(cell.value is None for cell in cells) and any(" " in cell.text for cell in cells)


def _width(cell: Cell) -> float:
    return max(float(stringWidth(cell.text, BOLD, 7.8)), float(stringWidth(cell.detail, SANS, _DETAIL_PT))) + 1
