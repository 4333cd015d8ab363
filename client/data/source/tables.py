"""CSV tables that people at a site wrote, and the paths in them.

Promises
- ``read_table`` gives every row as text by column name, stripped, or raises ``SiteDataError`` with the number of the
  row as a spreadsheet counts it (the header is row 1), never with what the row holds.
- A table cannot make a site read elsewhere: ``named`` takes paths below its folder only, and ``require_inside`` follows
  the links in one. Whether the file exists is left to whoever reads it.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath

from shared.errors import SiteDataError


@dataclass(frozen=True, slots=True)
class Row:
    """One row of a table below its header."""

    number: int
    values: dict[str, str]

    def get(self, column: str) -> str:
        """The value, or "" where the table has no such column."""
        return self.values.get(column, "")


def read_table(path: Path, required: Sequence[str]) -> list[Row]:
    """All rows of the CSV file at ``path`` (UTF-8, with a header that names at least ``required``)."""
    try:
        # Spreadsheets begin a file with a byte order mark, which would become part of the first column's name.
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(file, strict=True)
            header = _header(path.name, next(reader, []), required)
            return list(_rows(path.name, reader, header))
    except FileNotFoundError:
        raise SiteDataError(
            f"there is no {path.name}",
            hint=f"write one with the columns {', '.join(required)}" if required else "check the path",
            code="table-missing",
        ) from None
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        reason = error.strerror if isinstance(error, OSError) else f"not CSV in UTF-8 ({type(error).__name__})"
        raise SiteDataError(
            f"{path.name} cannot be read: {reason}", hint="save it as CSV, UTF-8", code="table-unreadable"
        ) from None


def _header(name: str, names: list[str], required: Sequence[str]) -> list[str]:
    header = [text.strip() for text in names]
    missing = [column for column in required if column not in header]
    if missing:
        raise SiteDataError(
            f"{name} lacks the column {missing[0]!r}; it has {len(header)} columns",
            hint=f"needed: {', '.join(required)}",
            code="table-column",
        )
    if len(set(header)) != len(header):
        raise SiteDataError(f"{name} has two columns of one name", hint="rename one of them", code="table-column")
    return header


def _rows(name: str, reader: Iterator[list[str]], header: list[str]) -> Iterator[Row]:
    for number, cells in enumerate(reader, start=2):
        if not cells:  # an empty row, as editors leave at the end
            continue
        if len(cells) != len(header):
            raise SiteDataError(
                f"row {number} of {name} has {len(cells)} cells, the header has {len(header)}",
                hint="quote cells that contain a comma",
                code="table-row",
            )
        yield Row(number, {column: cell.strip() for column, cell in zip(header, cells, strict=True)})


def named(folder: Path, text: str, row: int) -> str:
    """The path ``folder / text``, or ``SiteDataError`` ("path-outside") when it says that it leaves the folder."""
    relative = PurePosixPath(text)
    # "C:/x" is relative to a POSIX system and absolute to the one that the table may come from.
    absolute = relative.is_absolute() or bool(PureWindowsPath(text).drive)
    if absolute or "\0" in text or ".." in relative.parts:
        raise _outside(row)
    return f"{folder}/{relative}"


def require_inside(folder: Path, path: str, row: int) -> None:
    """Raise ``SiteDataError`` ("path-outside") unless ``path`` ends in ``folder`` when links are followed."""
    try:
        within = Path(path).resolve().is_relative_to(folder.resolve())
    except (OSError, RuntimeError):  # Python 3.11 reports a loop of links as RuntimeError
        within = False
    if not within:
        raise _outside(row)


def _outside(row: int) -> SiteDataError:
    return SiteDataError(
        f"row {row} names a file outside its folder",
        hint="paths are relative to the folder of the table; '..' and links that leave it are refused",
        code="path-outside",
    )
