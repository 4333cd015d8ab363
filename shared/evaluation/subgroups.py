"""Statistics by declared subgroup: what a site counts of each level of a column, and what of it may be told.

Promises
- A plan's ``[evaluation.subgroups]`` names columns and their public levels. Every case is in one level of each column:
  a level named, ``other`` for a value that is not, ``unknown`` for a missing one. Capitals do not matter.
- A level's statistics are one more vector of the task's own schema, or of a coarser one where the task has it
  (``Coarser``). All of them follow the task's own in one flat vector, whose length and digest depend on the plan alone:
  a site's reply says nothing by its size.
- Classification into two classes: the task's own 112,384 bytes and 6,176 a level, so that fourteen levels (``other``
  and ``unknown`` of each column among them) stay below 200,000. More are not refused: each adds as much to the reply.
- They add up over sites like everything else, and a plan without subgroups counts and sends what it always did.
- A patient counts once in each level that images of theirs are in; in most columns that is one.

Who withholds small cells (``shared.evaluation.suppression``), under which ``evaluation.release``:

=========  =====================  ==================================================================================
release    who withholds          because
=========  =====================  ==================================================================================
``sum``    the coordinator, of    the sum is all that the coordinator may keep (and all that it sees, once sums are
           the sum, on writing    secure): a level small at each site can be large in the sum. A site that withheld
                                  would bias the sum for nothing
``site``   each site, before      the coordinator is to see each site's numbers and is curious: what it must not know
           sending                must not be sent. A level withheld at a site is missing from the sum as well, which
                                  is then the sum of what sites have told: it gives nothing away that they did not.
                                  How many sites are missing from a level is told beside it
``dp``     nobody: refused        noise for each level would have to be paid for; the plan is refused
=========  =====================  ==================================================================================

Subgroups are measured on test patients, once. Sums over validation patients differ from round to round by the sites
that answered, and their differences would be single sites.

Leaves to others: metrics of the levels and gaps between them (``shared.evaluation.subgroup_metrics``).
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property, partial

import numpy as np

from shared.errors import ProtocolError
from shared.evaluation.additive import CASES, PATIENTS, IntArray, Observation, Schema, Statistics
from shared.evaluation.by_patient import OfPatient, collect_patients
from shared.evaluation.suppression import withheld
from shared.plan import OTHER, UNKNOWN, Plan
from shared.preprocessing.image import Case

WITHHELD = "withheld"
"""Name of the count of sites that withheld a level."""

Levels = Mapping[str, Statistics | None]
"""Statistics by level of a column, under the schema of levels; None where they are withheld."""


@dataclass(frozen=True)
class Coarser:
    """What a task counts of a level where its own statistics would be too large.

    Attributes:
        schema: of a level; its definition names the bins.
        of: an observation under the task's own schema -> the same case under ``schema``.
    """

    schema: Schema
    of: Callable[[Observation], Observation]


@dataclass(frozen=True)
class Layout:
    """What leaves a site: the task's own statistics, and those of each level of each column.

    Attributes:
        whole: the task's own schema.
        release: ``evaluation.release`` of the plan.
        columns: (column, levels) pairs, ``other`` and ``unknown`` among the levels.
        floor: fewest patients of a level that may be told.
        coarser: what is counted of a level; None for the same as of everybody.
    """

    whole: Schema
    release: str = "sum"
    columns: tuple[tuple[str, tuple[str, ...]], ...] = ()
    floor: int = 5
    coarser: Coarser | None = None

    @property
    def level(self) -> Schema:
        """Of the statistics of one level."""
        return self.coarser.schema if self.coarser else self.whole

    @cached_property
    def schema(self) -> Schema:
        """Of the flat vector; the task's own where there are no columns."""
        if not self.columns:
            return self.whole
        counted = ((PATIENTS, ()), (CASES, ()), (WITHHELD, ()), *self.level.shapes)
        return Schema(
            f"{self.whole.definition}, by subgroup-1 {json.dumps(self.columns)}",
            (*self.whole.shapes, *self._by_level(counted)),
            (*self.whole.ungrouped, *self._by_level(self.level.ungrouped)),
        )

    def _by_level(self, shapes: tuple[tuple[str, tuple[int, ...]], ...]) -> Iterator[tuple[str, tuple[int, ...]]]:
        return (
            (f"{column}/{name}", (len(levels), *shape)) for column, levels in self.columns for name, shape in shapes
        )


@dataclass(frozen=True, eq=False)
class Sent:
    """What sites sent under one layout: summed, and by site where the plan releases that."""

    layout: Layout
    pooled: Statistics
    sites: Mapping[str, Statistics]


def layout(whole: Schema, plan: Plan, split: str, coarser: Coarser | None = None) -> Layout:
    """What leaves a site of ``split`` under ``plan``."""
    declared = plan.evaluation.subgroups if split == "test" else {}
    columns = tuple((column, (*levels, OTHER, UNKNOWN)) for column, levels in sorted(declared.items()))
    return Layout(whole, plan.evaluation.release, columns, plan.evaluation.floor, coarser)


def level_of(levels: tuple[str, ...], value: str | None) -> int:
    """Position of the level that ``value`` is in; ``levels`` end with other and unknown."""
    said = (value or UNKNOWN).strip().casefold() or UNKNOWN
    known = [level.casefold() for level in levels]
    return known.index(said if said in known else OTHER)


def collect(
    layout: Layout, observed: Iterable[tuple[Case, Observation]], of_patient: OfPatient | None = None
) -> Statistics:
    """Add up (case, observation) pairs, in all and by level, and what patients add; nothing is withheld yet."""
    added = None if of_patient is None else partial(_of_patient, layout, of_patient)
    return collect_patients(layout.schema, _by_level(layout, observed), added)


def _of_patient(layout: Layout, of_patient: OfPatient, sums: Mapping[str, IntArray]) -> Observation:
    """What a patient adds: in all, and in each level that images of theirs are in."""
    added = dict(of_patient({name: sums[name] for name, _ in layout.whole.shapes}))
    names = [name for name, _ in layout.level.shapes]
    for column, levels in layout.columns:
        for cell in np.flatnonzero(sums[f"{column}/{CASES}"]).tolist():
            within = of_patient({name: sums[f"{column}/{name}"][cell] for name in names})
            for name, values in within.items():
                before = added.get(f"{column}/{name}", 0)
                added[f"{column}/{name}"] = before + _placed(values, cell, len(levels))
    return added


def told_by_site(layout: Layout, counted: Statistics) -> Statistics:
    """What a site sends of what it counted: under ``release = "site"`` without the levels that must be withheld."""
    if layout.release != "site":
        return counted
    counts = dict(counted.counts)
    for column, cells in _withheld_of(layout, counted).items():
        for name in layout.level.full_shapes:
            counts[f"{column}/{name}"] = counts[f"{column}/{name}"].copy()
            counts[f"{column}/{name}"][_at(layout, name, cells)] = 0
        counts[f"{column}/{WITHHELD}"] = counts[f"{column}/{WITHHELD}"].copy()
        counts[f"{column}/{WITHHELD}"][0, cells] = 1
    return Statistics(layout.schema, counts)


def require_told(layout: Layout, counted: Statistics) -> None:
    """Refuse what a site should have withheld; raises ``ProtocolError`` ("subgroup-floor")."""
    small = sum(0 < count < layout.floor for column, _ in layout.columns for count in _per_level(counted, column))
    if layout.release == "site" and small:
        raise ProtocolError(
            f"the site told {small} subgroups that it must withhold (floor {layout.floor})",
            hint="run the same version at every site",
            code="subgroup-floor",
        )


def whole(layout: Layout, counted: Statistics) -> Statistics:
    """The task's own statistics, of all patients."""
    return Statistics(layout.whole, {name: counted.counts[name] for name in layout.whole.full_shapes})


def by_column(layout: Layout, counted: Statistics) -> dict[str, Levels]:
    """Column -> level -> its statistics: those that may be told, of a sum over sites or of a site that told them."""
    hidden = _withheld_of(layout, counted)
    return {
        column: {
            level: None if cell in hidden[column] else _cell(layout, counted, column, cell)
            for cell, level in enumerate(levels)
        }
        for column, levels in layout.columns
    }


def missing_sites(layout: Layout, counted: Statistics) -> dict[str, dict[str, int]]:
    """Column -> level -> how many sites withheld it."""
    absent = {column: _per_level(counted, column, WITHHELD) for column, _ in layout.columns}
    return {
        column: {level: sites for level, sites in zip(levels, absent[column], strict=True) if sites}
        for column, levels in layout.columns
    }


def _withheld_of(layout: Layout, counted: Statistics) -> dict[str, list[int]]:
    """Column -> levels that must be withheld, and those of which all that there was is withheld already."""
    everybody, found = int(counted.counts[PATIENTS].sum()), {}
    for column, _ in layout.columns:
        patients, sites = _per_level(counted, column), _per_level(counted, column, WITHHELD)
        absent = {cell for cell, count in enumerate(patients) if sites[cell] and not count}
        found[column] = sorted(withheld(patients, everybody, layout.floor) | absent)
    return found


def _per_level(counted: Statistics, column: str, name: str = PATIENTS) -> list[int]:
    values: list[int] = counted.counts[f"{column}/{name}"].sum(axis=0).tolist()
    return values


def _cell(layout: Layout, counted: Statistics, column: str, cell: int) -> Statistics:
    return Statistics(
        layout.level,
        {name: counted.counts[f"{column}/{name}"][_at(layout, name, cell)] for name in layout.level.full_shapes},
    )


def _at(layout: Layout, name: str, cells: int | list[int]) -> tuple[slice | int | list[int], ...]:
    """Where the counts of levels are: behind the group axis, if there is one."""
    return (slice(None), cells) if name in layout.level.grouped_shapes else (cells,)


def _by_level(layout: Layout, observed: Iterable[tuple[Case, Observation]]) -> Iterator[tuple[str, Observation]]:
    seen: set[tuple[str, str, int]] = set()
    sizes = {name: math.prod(shape) for name, shape in layout.level.ungrouped}
    for case, observation in observed:
        counts, said = dict(observation), dict(case.subgroups)
        within = layout.coarser.of(observation) if layout.coarser and layout.columns else observation
        for column, levels in layout.columns:
            cell = level_of(levels, said.get(column))
            new = (case.patient, column, cell) not in seen
            seen.add((case.patient, column, cell))
            one = {PATIENTS: np.array(new, np.int64), CASES: np.array(1, np.int64), **within}
            counts |= {
                f"{column}/{name}": _shifted(values, cell * sizes[name])
                if name in sizes
                else _placed(values, cell, len(levels))
                for name, values in one.items()
            }
        yield case.patient, counts


def _placed(values: IntArray, cell: int, cells: int) -> IntArray:
    placed = np.zeros((cells, *values.shape), np.int64)
    placed[cell] = values
    return placed


def _shifted(rows: IntArray, cells: int) -> IntArray:
    return rows + np.array([cells, 0], np.int64)
