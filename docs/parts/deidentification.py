"""The table of what is kept of a DICOM header, from ``shared/preprocessing/deidentification.py``.

Promises
- Every row of the allow-list is there, in the order of the code, with its rule and what the standard says of it.
"""

from __future__ import annotations

from collections.abc import Iterable

from shared.preprocessing.deidentification import DATES, KEPT, Row


def kept_table() -> str:
    """What is always kept."""
    return _table(KEPT)


def dates_table() -> str:
    """What is kept where a site moves dates."""
    return _table(DATES)


def _table(rows: Iterable[Row]) -> str:
    lines = ["| kept as | attribute | tag | what is kept of it | PS3.15 Annex E | for |", "|---|---|---|---|---|---|"]
    lines += [
        f"| `{row.attribute}` | {row.keyword} | ({row.tag >> 16:04X},{row.tag & 0xFFFF:04X}) | {row.rule.described} "
        f"| {row.profile} | {row.why} |"
        for row in rows
    ]
    return "\n".join(lines) + "\n"
