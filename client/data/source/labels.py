"""What the tables of a hospital say about its images; identifiers end here, as they do in ``headers``.

Promises
- A row is about what its most specific filled key names: a file, an instance, a series, a study or a patient, in this
  order. ``patient_id`` beside a more specific key says whose that is.
- ``said_about`` joins all rows about one case, column by column: a more specific row wins, an empty cell says nothing,
  and two equally specific rows that differ are a ``CaseError`` ("labels-conflict"). Whose a case is must be the same in
  its header and in all rows ("patient-conflict").
- Trouble with a table as a whole (a column that is missing, a path that leaves the table's folder, a row about nothing,
  no row left by ``where``) is a ``SiteDataError`` that names the row and not what it holds.
- Values of the declared columns leave as they are, ages as bands; identifiers leave salted. Paths serve to find files.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Literal

from client.data.case_files import Salt, subgroup
from client.data.source.files import SourceFile
from client.data.source.found import Table
from client.data.source.headers import plain
from client.data.source.tables import Row, named, read_table, require_inside
from shared.errors import CaseError, SiteDataError

Key = Literal["file", "instance_uid", "series_uid", "study_uid", "patient_id"]

KEYS: tuple[Key, ...] = ("file", "instance_uid", "series_uid", "study_uid", "patient_id")
"""What a row can be about, the most specific first."""

_SEPARATORS = {"file": "/", "mask": "/", "label": ";"}


@dataclass(frozen=True, slots=True)
class Saying:
    """What rows say about a case, salted.

    Attributes:
        numbers: of the rows, as a spreadsheet counts them.
        values: label, mask (a path as ``SourceFile.key``) and subgroups by column; only what is filled.
        patient: salted name of the person, "" where nobody said.
        aliases: see ``Salt.alias``.
        mask_of: what the row that names the mask is about; None without a mask.
        dropped: the label is one that the study leaves out.
    """

    numbers: tuple[int, ...] = ()
    values: Mapping[str, str] = field(default_factory=dict, repr=False)
    patient: str = ""
    aliases: tuple[str, ...] = ()
    mask_of: Key | None = None
    dropped: bool = False


@dataclass(frozen=True, slots=True)
class NamedMask:
    """A mask that a table names.

    Attributes:
        folder: of the table.
        path: the file, below that folder.
        row: of the table.
    """

    folder: Path = field(repr=False)
    path: str = field(repr=False)
    row: int

    def outside_sources(self, salt: Salt) -> SourceFile:
        """The mask where no source holds it; raises ``SiteDataError`` when links lead it out of its folder."""
        require_inside(self.folder, self.path, self.row)
        return SourceFile(self.path, salt.case("file", self.path.removeprefix(f"{self.folder}/")))


@dataclass(frozen=True, slots=True)
class Labels:
    """All tables together.

    Attributes:
        sayings: by what they are about; files by path, all else by salted name.
        names: name of each file that a row is about, relative to the table's folder, by path.
        masks: all masks by path, also of rows that do not count: none of them is an image.
        by_file: whether any table names files, so that others are not part of the study.
        tables: paths of the tables themselves.
    """

    sayings: Mapping[tuple[Key, str], Sequence[Saying]]
    names: Mapping[str, str] = field(repr=False)
    masks: Mapping[str, NamedMask] = field(repr=False)
    by_file: bool
    tables: frozenset[str] = field(repr=False)


@dataclass(frozen=True, slots=True)
class _Reader:
    """One table and what its rows are read with."""

    table: Table
    folder: Path
    salt: Salt
    subgroups: tuple[str, ...]

    def cells(self, row: Row, ours: str) -> list[str]:
        """What the columns hold that make up our column."""
        return [row.get(name) for name in self.table.columns.get(ours, (ours,))]

    def text(self, row: Row, ours: str) -> str:
        """Our column as one text."""
        return _SEPARATORS.get(ours, " ").join(filter(None, self.cells(row, ours)))

    def path(self, row: Row, ours: str) -> str:
        """The file that our column names, as ``SourceFile.key``, or "" ."""
        text = self.text(row, ours)
        return named(self.folder, text, row.number) if text else ""


def read_labels(tables: Sequence[Table], subgroup_columns: Sequence[str], salt: Salt) -> Labels:
    """Everything that ``tables`` say; raises ``SiteDataError``."""
    sayings: dict[tuple[Key, str], list[Saying]] = defaultdict(list)
    names: dict[str, str] = {}
    masks: dict[str, NamedMask] = {}
    by_file = False
    for table in tables:
        reader = _Reader(table, table.path.parent.resolve(), salt, tuple(subgroup_columns))
        rows = _rows(table)
        by_file |= "file" in table.columns or any("file" in row.values for row in rows[:1])
        # Rows of other sites and dropped rows name masks too, and a mask must not be taken for an image.
        for row in rows:
            if mask := reader.path(row, "mask"):
                masks[mask] = NamedMask(reader.folder, mask, row.number)
        for row in _counting(table, rows):
            key, about = _about(row, reader)
            if key == "file":
                names.setdefault(about, str(PurePosixPath(reader.text(row, "file"))))
            sayings[key, about].append(_saying(row, key, reader))
    own = frozenset(str(table.path.resolve()) for table in tables)
    return Labels(sayings, names, masks, by_file, own)


def sites_in(table: Table, column: str) -> tuple[str, ...]:
    """The different values of ``column``, sorted; raises ``SiteDataError``."""
    return tuple(sorted({row.get(column) for row in read_table(table.path, (column,))}))


def _rows(table: Table) -> list[Row]:
    """All rows that are not empty; all are read before any is used: a table with one bad row is not half believed."""
    mapped = [name for names in table.columns.values() for name in names]
    rows = read_table(table.path, tuple(dict.fromkeys((*mapped, *table.where))))
    if not rows:
        raise SiteDataError(
            f"{table.path.name} has no row below its header", hint="write one for each image", code="table-no-rows"
        )
    if not any(key in table.columns or key in rows[0].values for key in KEYS):
        raise SiteDataError(
            f"{table.path.name} has no column that says what its rows are about",
            hint=f"name one of them {', '.join(KEYS)}, or say which it is",
            code="table-column",
        )
    return [row for row in rows if any(row.values.values())]


def _counting(table: Table, rows: Sequence[Row]) -> Sequence[Row]:
    found = rows
    for column, value in table.where.items():
        there = {row.get(column) for row in found}
        found = [row for row in found if row.get(column) == value]
        if not found:
            # What a column holds may be names of people: neither the nearest value nor the others are told.
            raise SiteDataError(
                f"no row of {table.path.name} has the wanted value of its column {column!r}, "
                f"which has {len(there)} others in {len(rows)} rows",
                hint="check how the value is spelt in the table",
                code="table-no-rows",
            )
    return found


def _about(row: Row, reader: _Reader) -> tuple[Key, str]:
    for key in KEYS:
        if key == "file":
            about = reader.path(row, key)
        elif key == "patient_id":
            about = _person(row, reader)
        else:
            text = reader.text(row, key)
            about = reader.salt.uid(text) if text else ""
        if about:
            return key, about
    raise SiteDataError(
        f"row {row.number} of {reader.table.path.name} does not say what it is about",
        hint=f"fill one of {', '.join(KEYS)}, or drop the row",
        code="row-without-key",
    )


def _person(row: Row, reader: _Reader) -> str:
    cells = reader.cells(row, "patient_id")
    return reader.salt.person(*cells) if any(cells) else ""


def _saying(row: Row, key: Key, reader: _Reader) -> Saying:
    label, mask = reader.text(row, "label"), reader.path(row, "mask")
    groups = [subgroup(column, text) for column in reader.subgroups if (text := reader.text(row, column))]
    number = [plain(cell) for cell in reader.cells(row, "patient_id")]
    number[:1] = [number[0].lstrip("0")]
    return Saying(
        numbers=(row.number,),
        values={name: value for name, value in (("label", label), ("mask", mask), *groups) if value},
        patient=_person(row, reader),
        aliases=(reader.salt.alias("id", *number),) if any(number) else (),
        mask_of=key if mask else None,
        dropped=label in reader.table.drop_labels,
    )


def said_about(labels: Labels, keys: Mapping[Key, Collection[str]], persons: Collection[str]) -> Saying:
    """The one thing that all rows about a case say; an empty ``Saying`` where none is about it.

    Args:
        labels: all tables.
        keys: what the case is: the paths of its files, its instances, series and studies.
        persons: salted names of the patients that its headers name.

    Raises:
        CaseError: "labels-conflict" or "patient-conflict".
    """
    levels = [(key, _at(labels, key, keys.get(key, ()))) for key in KEYS]
    patient = _the_person(persons, [one for _, sayings in levels for one in sayings])
    # Whose a case is may stand in a row about its series: only now is it known which rows about patients count.
    levels[-1] = ("patient_id", _at(labels, "patient_id", (patient,)))
    values: dict[str, str] = {}
    dropped, mask_of = False, None
    for key, sayings in levels:
        for column, value in _agreed(sayings, known=values):
            values[column] = value
            if column == "label":
                dropped = any(one.dropped for one in sayings)
            if column == "mask":
                mask_of = key
    every = [one for _, sayings in levels for one in sayings]
    return Saying(
        numbers=tuple(number for one in every for number in one.numbers),
        values=values,
        patient=patient,
        aliases=tuple(sorted({alias for one in every for alias in one.aliases})),
        mask_of=mask_of,
        dropped=dropped,
    )


def _at(labels: Labels, key: Key, about: Iterable[str]) -> list[Saying]:
    return [saying for one in about for saying in labels.sayings.get((key, one), ())]


def _the_person(persons: Collection[str], sayings: Sequence[Saying]) -> str:
    if len(set(persons)) > 1:
        raise CaseError(f"one case names {len(set(persons))} patients", hint="export it again", code="patient-conflict")
    told = {one.patient for one in sayings if one.patient}
    if len(told | set(persons)) > 1:
        numbers = [number for one in sayings if one.patient for number in one.numbers]
        raise CaseError(
            f"row {numbers[-1]} of the tables gives a case to another patient than its header or another row",
            hint="check patient_id in that row",
            code="patient-conflict",
        )
    return next(iter(told | set(persons)), "")


def _agreed(sayings: Sequence[Saying], known: Collection[str]) -> Iterator[tuple[str, str]]:
    """What equally specific rows say in columns that no more specific row has filled."""
    first: dict[str, Saying] = {}
    for saying in sayings:
        for column, value in saying.values.items():
            before = first.setdefault(column, saying)
            if column not in known and before.values[column] != value:
                raise CaseError(
                    f"rows {before.numbers[0]} and {saying.numbers[0]} of the tables say different things "
                    "about one case",
                    hint="keep one of them",
                    code="labels-conflict",
                )
    yield from [(column, saying.values[column]) for column, saying in first.items() if column not in known]
