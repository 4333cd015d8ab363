"""What the report looks like on paper: sheet, fonts, styles of text.

Promises
- Fonts are inside the file, so that every reader sees the same page: DejaVu Sans and STIX, which come with matplotlib
  under free licences. They hold Latin, Greek and Cyrillic; a name in another script shows boxes.
- Colours are those of the page in its light theme (``svg``).
"""

from __future__ import annotations

from functools import cache
from html import escape
from pathlib import Path
from typing import Any

import matplotlib as mpl
from reportlab.lib.enums import TA_RIGHT
from reportlab.lib.pagesizes import A4
from reportlab.lib.styles import ParagraphStyle
from reportlab.pdfbase import pdfmetrics
from reportlab.pdfbase.ttfonts import TTFont

from server.report import svg

SHEET = A4
MARGIN_PT, FOOT_PT = 48.0, 34.0
WIDTH_PT = SHEET[0] - 2 * MARGIN_PT
SANS, BOLD, SERIF, MONO = "ReportSans", "ReportSans-Bold", "ReportSerif", "ReportMono"

_FILES = {SANS: "DejaVuSans", BOLD: "DejaVuSans-Bold", SERIF: "STIXGeneralBol", MONO: "DejaVuSansMono"}


@cache
def styles() -> dict[str, ParagraphStyle]:
    """Styles by name, with their fonts registered."""
    for name, file in _FILES.items():
        pdfmetrics.registerFont(TTFont(name, Path(mpl.get_data_path()) / "fonts" / "ttf" / f"{file}.ttf"))
    pdfmetrics.registerFontFamily(SANS, normal=SANS, bold=BOLD, italic=SANS, boldItalic=BOLD)
    large = {"fontName": SERIF, "fontSize": 15, "leading": 19, "keepWithNext": 1}
    small = {"fontSize": 7.2, "leading": 10, "textColor": svg.MUTED}
    return {
        "body": _style("body", spaceAfter=5),
        "kicker": _style("kicker", **small, spaceAfter=2),
        "title": _style("title", fontName=SERIF, fontSize=25, leading=29, spaceAfter=8),
        "lead": _style("lead", fontSize=10.5, leading=15.5, spaceAfter=6),
        "section": _style("section", **large, spaceBefore=16, spaceAfter=7),
        "alert": _style("alert", **large, spaceBefore=16, spaceAfter=5, textColor=svg.ALERT),
        "head": _style("head", fontName=BOLD, fontSize=8.6, leading=12, spaceBefore=3, spaceAfter=3, keepWithNext=1),
        "table": _style("table", fontName=BOLD, fontSize=8.6, leading=12, spaceBefore=3, spaceAfter=3),
        "note": _style("note", **small, spaceBefore=3, spaceAfter=10),
        "cell": _style("cell", fontSize=7.8, leading=9.8, alignment=TA_RIGHT),
        "name": _style("name", fontSize=7.8, leading=9.8),
        "column": _style("column", **small | {"leading": 9}, alignment=TA_RIGHT),
        "first": _style("first", **small | {"leading": 9}),
        "value": _style("value", fontName=BOLD, fontSize=14, leading=18),
        "code": _style("code", fontName=MONO, fontSize=7, leading=9.6),
    }


def safe(text: str) -> str:
    """``text`` as words of a paragraph, whatever is in it."""
    return escape(text, quote=False)


def _style(name: str, **changed: Any) -> ParagraphStyle:  # noqa: ANN401 - reportlab has no types
    plain = {"fontName": SANS, "fontSize": 8.4, "leading": 12.2, "textColor": svg.INK}
    return ParagraphStyle(name, **plain | changed)
