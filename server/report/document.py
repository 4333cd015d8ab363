"""The report as a PDF: the page of ``page``, on sheets that can be printed, filed and signed.

Promises
- ``write_pdf`` reads what ``write_report`` reads and shows the same sentences, numbers, tables and figures, from the
  same ``context``; what the page folds away (all other measures, the plan) stands in an appendix.
- The same files give the same bytes. The file carries no date: none of the three files holds one, and the day on which
  somebody pressed print is not the day of the run.
- Figures are vectors. Sections, figures and tables are bookmarks; every sheet has its number and the run's name.
- No browser and no system library is needed.

The PDF is for print; it is not tagged for screen readers, for whom the page is made.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from reportlab.lib.colors import HexColor
from reportlab.pdfgen.canvas import Canvas
from reportlab.platypus import (
    BaseDocTemplate,
    CondPageBreak,
    Flowable,
    Frame,
    KeepTogether,
    NextPageTemplate,
    PageBreak,
    PageTemplate,
    Paragraph,
    Preformatted,
    Spacer,
    Table,
    TableStyle,
)

from server.report import examples, paper_table, svg
from server.report.page import context
from server.report.panels import Figure
from server.report.paper import FOOT_PT, MARGIN_PT, SANS, SHEET, WIDTH_PT, safe, styles
from server.report.paper_figure import OnPaper, Phantom
from server.report.run import Run, read_run
from server.report.tables import Table as Told
from shared.durable import SHARED, replace_file

PDF = "report.pdf"

_COLUMN_PT = (WIDTH_PT - 24) / 2
_SIGNS = {"federation": ("●", svg.ACCENT), "personalised": ("■", svg.SECOND), "central": ("◆", svg.INK)}
_LOCAL_SIGN = ("○", svg.MUTED)
_DATES = re.compile(rb"/(?:CreationDate|ModDate) \([^)]*\)")
_TIGHT: list[Any] = [
    ("VALIGN", (0, 0), (-1, -1), "TOP"),
    *((f"{side}PADDING", (0, 0), (-1, -1), 0) for side in ("LEFT", "RIGHT", "TOP", "BOTTOM")),
]
_LINE = 116
"""Characters of code that fit on a line."""
_MOST_WHOLE_PT = 320.0
"""A table up to this high is not broken over two sheets."""

Shown = dict[str, Any]


def write_pdf(run_folder: Path, phantoms: Sequence[examples.PhantomExample] = ()) -> Path:
    """Write ``report.pdf`` into a finished run's folder and return its path.

    Raises:
        PlanError: the plan in the folder cannot be read.
        RunError: the results cannot be read, or belong to another plan.
    """
    path = run_folder / PDF
    replace_file(path, document(read_run(run_folder), phantoms), SHARED)
    return path


def document(run: Run, phantoms: Sequence[examples.PhantomExample] = ()) -> bytes:
    """The PDF as bytes."""
    shown = context(run, phantoms) | {"phantoms": phantoms}
    file = io.BytesIO()
    made = BaseDocTemplate(
        file, pagesize=SHEET, invariant=1, lang="en", title=f"{shown['title']} · Consilium report", author="Consilium",
        subject=f"Federated training, run {run.results.run}", creator="Consilium", producer="Consilium",
    )  # fmt: skip
    made.addPageTemplates([PageTemplate("sheet", [_frame(0, WIDTH_PT)]), PageTemplate("columns", _two_columns())])
    foot = f"{shown['title']} · run {run.results.run}"
    made.build(list(_story(shown)), canvasmaker=lambda *given, **named: _Numbered(foot, *given, **named))
    return _DATES.sub(lambda found: b" " * len(found.group()), file.getvalue())


def _frame(left: float, width: float) -> Frame:
    return Frame(MARGIN_PT + left, MARGIN_PT, width, SHEET[1] - 2 * MARGIN_PT, 0, 0, 0, 0)


def _two_columns() -> list[Frame]:
    return [_frame(0, _COLUMN_PT), _frame(WIDTH_PT - _COLUMN_PT, _COLUMN_PT)]


class _Numbered(Canvas):  # type: ignore[misc]  # reportlab has no types
    """A canvas that knows how many sheets there are before it writes the first one's number."""

    def __init__(self, foot: str, *given: Any, **named: Any) -> None:  # noqa: ANN401 - reportlab's
        super().__init__(*given, **named)
        self._foot, self._sheets = foot, list[dict[str, Any]]()

    def showPage(self) -> None:  # noqa: N802 - reportlab's
        """Put the sheet aside."""
        self._sheets.append(dict(self.__dict__))
        self._startPage()

    def save(self) -> None:
        """Number all sheets and write the file."""
        for number, sheet in enumerate(self._sheets, start=1):
            self.__dict__.update(sheet)
            self.setFont(SANS, 7)
            self.setFillColor(HexColor(svg.MUTED))
            self.drawString(MARGIN_PT, FOOT_PT - 8, self._foot)
            self.drawRightString(SHEET[0] - MARGIN_PT, FOOT_PT - 8, f"{number} of {len(self._sheets)}")
            super().showPage()
        super().save()


class _Heading(Paragraph):  # type: ignore[misc]  # reportlab has no types
    """A paragraph that is also a bookmark."""

    def __init__(self, text: str, style: str, level: int, place: str) -> None:
        super().__init__(safe(text), styles()[style])
        self._text, self._level, self._place = text, level, place

    def draw(self) -> None:
        """Draw, and set the bookmark."""
        self.canv.bookmarkHorizontal(self._place, 0, self.height)
        self.canv.addOutlineEntry(self._text, self._place, self._level, closed=self._level > 0)
        super().draw()


def _story(shown: Shown) -> Iterator[Flowable]:
    yield from _opening(shown)
    for key, name in shown["sections"]:
        parts = list(_PARTS[key](shown))
        yield CondPageBreak(60 + (parts[0].height if isinstance(parts[0], CondPageBreak) else 20))
        yield _Heading(name, "alert" if key == "looks" else "section", 0, key)
        yield from parts
    yield from _appendix(shown)


def _opening(shown: Shown) -> Iterator[Flowable]:
    yield _said("CONSILIUM · FEDERATED TRAINING", "kicker")
    yield _Heading(shown["title"], "title", 0, "top")
    yield _said(" · ".join(f"{term} {text[:12]}" for term, text in shown["provenance"][:3]), "note")
    yield _said(shown["lead"], "lead")
    yield _said(shown["summary"])
    yield Spacer(1, 6)
    yield _facts(shown["facts"])


def _facts(facts: Sequence[tuple[str, str, str]]) -> Flowable:
    look = styles()
    rows = [
        [Paragraph(safe(text), look[style]) for text in texts]
        for style, texts in zip(("first", "value", "first"), zip(*facts, strict=True), strict=True)
    ]
    wide = WIDTH_PT / len(facts)
    drawn = Table(rows, colWidths=[wide] * len(facts), hAlign="LEFT")
    lines = [
        ("LINEABOVE", (column, 0), (column, 0), 1.4, HexColor(svg.INK if column else svg.ACCENT))
        for column in range(len(facts))
    ]
    space = [("RIGHTPADDING", (0, 0), (-1, -1), 10), ("TOPPADDING", (0, 0), (-1, 0), 5)]
    drawn.setStyle(TableStyle([*_TIGHT, *lines, *space]))
    return drawn


def _looks(shown: Shown) -> Iterator[Flowable]:
    introduction, chance = shown["looks_words"]
    yield _said(introduction)
    for place, look in enumerate(shown["looks"]):
        told = [_Heading(f"{look.site}: {look.title}", "head", 1, f"look-{place}"), _said(look.sentence)]
        if look.chance:
            told.append(_said(f"{chance}: {look.chance}.", "note"))
        yield KeepTogether([*told, Paragraph(f"<b>What to do.</b> {safe(look.todo)}", styles()["body"])])


def _results(shown: Shown) -> Iterator[Flowable]:
    yield from _pairs(shown["result_figures"])
    for table in shown["result_tables"]:
        yield from _table(table)
    yield from _listed("What the measures say", shown["glossary"])


def _curves(shown: Shown) -> Iterator[Flowable]:
    yield from _pairs(shown["curves"])
    if shown["operating_point"]:
        yield from _table(shown["operating_point"])


def _subgroups(shown: Shown) -> Iterator[Flowable]:
    for table, figure in shown["subgroups"]:
        if figure:
            yield from _figure(figure, WIDTH_PT * 0.62)
        yield from _table(table)


def _cross_site(shown: Shown) -> Iterator[Flowable]:
    if shown["matrix"]:
        yield from _figure(shown["matrix"], WIDTH_PT * 0.7)
    yield from _table(shown["cross_site"])


def _reading(shown: Shown) -> Iterator[Flowable]:
    yield from _listed("", shown["readings"])


def _training(shown: Shown) -> Iterator[Flowable]:
    yield from _pairs(shown["training_figures"])


def _sites(shown: Shown) -> Iterator[Flowable]:
    yield from _figure(shown["attendance"])
    yield from _table(shown["participation"])


def _data(shown: Shown) -> Iterator[Flowable]:
    yield from _table(shown["data"])
    if shown["doctor_words"]:
        yield _said(shown["doctor_words"])
    if shown["doctor"]:
        yield from _table(shown["doctor"])


def _examples(shown: Shown) -> Iterator[Flowable]:
    yield _said("Generated images, no patient's. True outline solid, predicted outline dashed.", "note")
    side = (WIDTH_PT - 36) / 4
    row = [[Phantom(example, side), _said(example.caption, "note")] for example in shown["phantoms"]]
    for first in range(0, len(row), 4):
        yield _beside(row[first : first + 4], side)


def _privacy(shown: Shown) -> Iterator[Flowable]:
    yield from map(_said, shown["privacy"])
    if shown["privacy_table"]:
        yield from _table(shown["privacy_table"])


def _method(shown: Shown) -> Iterator[Flowable]:
    yield from _listed("", shown["method"])
    yield from _listed("", shown["provenance"], "code")


def _again(shown: Shown) -> Iterator[Flowable]:
    yield from _code(shown["command"])
    yield Spacer(1, 4)
    yield _said(
        "The same plan on the same data, with the versions above, gives the same numbers where training is not "
        f"private. The plan is the same if its digest is {shown['digest'][:12]}…. Every number here stands in "
        "results.json."
    )


def _appendix(shown: Shown) -> Iterator[Flowable]:
    yield NextPageTemplate("columns")
    yield PageBreak()
    yield _Heading("Appendix: the whole plan", "section", 0, "plan")
    yield from _code(shown["plan_text"], _LINE // 2 - 3)
    if shown["rest_table"]:
        yield Spacer(1, 14)
        yield _Heading("Appendix: all other measures", "section", 0, "rest")
        yield from paper_table.parts_of(shown["rest_table"], _COLUMN_PT)


_PARTS: dict[str, Callable[[Shown], Iterator[Flowable]]] = {
    "looks": _looks,
    "results": _results,
    "curves": _curves,
    "subgroups": _subgroups,
    "cross-site": _cross_site,
    "reading": _reading,
    "training": _training,
    "sites": _sites,
    "data": _data,
    "examples": _examples,
    "privacy": _privacy,
    "method": _method,
    "again": _again,
}


def _said(text: str, style: str = "body") -> Paragraph:
    return Paragraph(safe(text), styles()[style])


def _unbroken(text: str) -> str:
    return text.replace(" ", "\N{NO-BREAK SPACE}")


def _pairs(figures: Sequence[Figure]) -> Iterator[Flowable]:
    for first in range(0, len(figures), 2):
        yield _beside([_figure(figure) for figure in figures[first : first + 2]], _COLUMN_PT)
        yield Spacer(1, 6)


def _beside(cells: list[list[Flowable]], width: float) -> Flowable:
    gap = (WIDTH_PT - width * (WIDTH_PT // width)) / max(1, WIDTH_PT // width - 1)
    drawn = Table([cells], colWidths=[width + gap] * (len(cells) - 1) + [width], hAlign="LEFT")
    drawn.setStyle(TableStyle(_TIGHT))
    return drawn


def _figure(figure: Figure, width: float = _COLUMN_PT) -> list[Flowable]:
    signs = ((*_SIGNS.get(kind, _LOCAL_SIGN), text) for kind, text in figure.kinds)
    legend = " &nbsp; ".join(
        f'<font color="{colour}">{sign}</font>&nbsp;{_unbroken(safe(text))}' for sign, colour, text in signs
    )
    caption = Paragraph((f"{legend}<br/>" if legend else "") + safe(figure.caption), styles()["note"])
    return [_Heading(figure.title, "head", 1, f"figure-{figure.drawn.name}"), OnPaper(figure.drawn, width), caption]


def _table(table: Told) -> Iterator[Flowable]:
    first, *others = paper_table.parts_of(table)
    yield CondPageBreak(min(_MOST_WHOLE_PT, first.wrap(WIDTH_PT, SHEET[1])[1] + 30))
    yield _Heading(table.title, "table", 1, f"table-{table.title}")
    yield first
    for part in others:
        yield CondPageBreak(min(_MOST_WHOLE_PT, part.wrap(WIDTH_PT, SHEET[1])[1]))
        yield Spacer(1, 7)
        yield part
    yield _said(table.note, "note") if table.note else Spacer(1, 10)


def _listed(title: str, pairs: Sequence[tuple[str, str]], style: str = "name") -> Iterator[Flowable]:
    if not pairs:
        return
    if title:
        yield CondPageBreak(60)
        yield _Heading(title, "head", 1, f"list-{title}")
    look = styles()
    terms = [Paragraph(f"<b>{safe(term)}</b>", look["name"]) for term, _ in pairs]
    rows = [[term, Paragraph(safe(text), look[style])] for term, (_, text) in zip(terms, pairs, strict=True)]
    drawn = Table(rows, colWidths=[120, WIDTH_PT - 120], hAlign="LEFT")
    drawn.setStyle(TableStyle([*_TIGHT, ("BOTTOMPADDING", (0, 0), (-1, -1), 3)]))
    yield drawn
    yield Spacer(1, 8)


def _code(text: str, longest: int = _LINE) -> Iterator[Flowable]:
    yield Preformatted(text, styles()["code"], maxLineLength=longest, newLineChars="  ")
