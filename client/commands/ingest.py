"""``consilium-site ingest``: from a hospital's folders to a data set's archive."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path
from typing import Literal

from client.commands.clock import Clock
from client.commands.quota import share_quarantined
from client.data.archive.archive import Archive
from client.data.archive.record import Record
from client.data.case_files import UNKNOWN
from client.data.dataset import Choices, state_of
from client.data.ingest.ingest import Intake, withdraw_damaged
from client.data.ingest.ingest import ingest as read_in
from client.data.progress import Progress
from client.data.source.discover import discover
from client.data.source.found import Table, Wanted
from client.data.source.tables import read_table
from client.governance.audit import Event
from client.settings import processes, rules
from client.site_folder import SiteFolder
from shared.errors import SiteDataError

_TREATED = ("stored", "replaced", "annotated", "unchanged", "kept", "withdrawn")


@dataclass(frozen=True, slots=True)
class Order:
    """What is to be ingested.

    Attributes:
        dataset: its name.
        sources: folders, files and .zip archives.
        labels: tables.
        where: only rows with these values count.
        drop_labels: rows with these labels are not part of the study.
        subgroups: columns to report by; empty takes those of the settings.
        choices: what defines the data set, as far as it was said (``Dataset.settled``).
        workers: processes; None takes the settings'.
        stored: whether stored images are trusted, or checked and read again where they are damaged.
    """

    dataset: str
    sources: tuple[Path, ...]
    labels: tuple[Path, ...] = ()
    where: Mapping[str, str] = field(default_factory=dict)
    drop_labels: tuple[str, ...] = ()
    subgroups: tuple[str, ...] = ()
    choices: Mapping[str, object] = field(default_factory=dict)
    workers: int | None = None
    stored: Literal["trusted", "checked"] = "trusted"


@dataclass(frozen=True, slots=True)
class Ingested:
    """What an ingest did, and how the data set stands after it.

    Attributes:
        intake: what was done.
        cases: how many the data set holds now.
        quarantined: how many of it could not be used, by reason.
    """

    intake: Intake
    cases: int
    quarantined: Mapping[str, int]

    @property
    def treated(self) -> dict[str, int]:
        """How many cases were treated in which way."""
        return {name: getattr(self.intake, name) for name in _TREATED}

    @property
    def share_quarantined(self) -> float:
        """Share of the cases that could not be used."""
        return share_quarantined(self.cases, sum(self.quarantined.values()))


def ingest(site: SiteFolder, order: Order, files: Progress, cases: Progress, now: Clock) -> Ingested:
    """Find the cases of a data set, and store what is new or changed; raises ``ConsiliumError``.

    Args:
        site: where to.
        order: what from.
        files: called with how many files were looked at, of a number that nobody knows.
        cases: called with how many cases are done of how many.
        now: the clock.
    """
    audit, salt, key, dataset = site.audit, site.salt(), site.store_key(), site.dataset(order.dataset)
    audit.require_sound()
    choices = dataset.settled(order.choices)
    _require_there(order.sources)
    subgroups = order.subgroups or site.settings.ingest.subgroups
    tables = tuple(Table(path, choices.columns, order.where, order.drop_labels) for path in order.labels)
    _require_columns(order, choices)
    found = discover(Wanted(order.sources, tables, choices.dimensions, choices.modality, subgroups), salt, files)
    dataset.begin(choices)
    with Archive.open_or_create(dataset.archive, key) as archive:
        _require_tables(archive, tables)
        if order.stored == "checked":
            withdraw_damaged(archive)
        lets_in, workers = rules(site.settings, choices.structures), processes(site.settings, order.workers)
        intake = read_in(archive, found, lets_in, salt, workers=workers, progress=cases)
        done = Ingested(intake, len(archive), Counter(one.code for one in archive.quarantined()))
        state = state_of(archive)
    audit.append(Event("ingest", dataset.name, _counted(done), {"state": state}), now())
    return done


def _require_columns(order: Order, choices: Choices) -> None:
    """A column that was asked for by name and that no table has is a slip of the pen, not a column of unknowns."""
    there = {column for path in order.labels for row in read_table(path, ())[:1] for column in row.values}
    for column in order.subgroups:
        if column not in there and column not in choices.columns:
            near = get_close_matches(column, there, n=1)
            raise SiteDataError(
                f"no table has the column {column!r} to report by",
                hint=f"did you mean {near[0]!r}?" if near else "check --subgroup and --labels",
                code="table-column",
            )


def _require_there(sources: Sequence[Path]) -> None:
    """A source's own name may be a person's: it is told by its place."""
    for place, source in enumerate(sources, start=1):
        if not source.exists():
            raise SiteDataError(
                f"source {place} of {len(sources)} is not there", hint="check its path", code="source-missing"
            )


def _require_tables(archive: Archive, tables: Sequence[Table]) -> None:
    """What a table once said must not be forgotten because somebody forgot to name the table."""
    told = 0 if tables else sum(_is_told(record) for record in archive.records())
    if told:
        raise SiteDataError(
            f"tables have said more about {told} of {len(archive)} cases, and none is given now",
            hint="name the same tables again with --labels: without them labels and subgroups would be lost",
            code="labels-missing",
        )


def _is_told(record: Record) -> bool:
    return record.label is not None or any(value != UNKNOWN for _, value in record.subgroups)


def _counted(done: Ingested) -> dict[str, int]:
    files = {f"files.{use}": count for use, count in done.intake.files.items()}
    reasons = {f"quarantined.{code}": count for code, count in done.quarantined.items()}
    return {"cases": done.cases, **done.treated, **files, **reasons}
