"""What a data doctor says about a data set.

A finding names cases by their salted names only. Its sentence holds numbers, never a value from a header or a table.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

Severity = Literal["error", "warning", "note"]
"""An error should be settled before freezing; a warning wants a look; a note is only said."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was found.

    Attributes:
        code: stable and machine-readable; what a summary counts, and what ``freeze --exclude`` takes.
        severity: how much it matters.
        cases: salted names of the cases that are meant, sorted; empty where it is about the data set.
        sentence: what was found, with the numbers.
        hint: what to do about it.
        together: those of ``cases`` that are copies of each other, in sets of two or more.
    """

    code: str
    severity: Severity
    cases: tuple[str, ...]
    sentence: str
    hint: str = ""
    together: tuple[tuple[str, ...], ...] = ()


@dataclass(frozen=True, slots=True)
class Histogram:
    """How many cases have a value from each edge up to the next one.

    Attributes:
        unit: of the values, as a reader says it.
        edges: ascending, one more than ``counts``; the last interval includes its upper edge.
        counts: cases.
    """

    unit: str
    edges: tuple[float, ...]
    counts: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """A data set, looked at.

    Attributes:
        dataset: its name.
        patients: how many persons the cases belong to.
        cases: how many cases could be read.
        quarantined: how many could not, by reason.
        files: how many files were looked at, by what became of them.
        tables: counts by value, of patients, for each of "label", "modality", "vendor" and the subgroup columns;
            without those whose values may identify people.
        findings: errors first, then by code.
        histograms: of what was measured on each case, by name.
    """

    dataset: str
    patients: int
    cases: int
    quarantined: Mapping[str, int]
    files: Mapping[str, int]
    tables: Mapping[str, Mapping[str, int]]
    findings: tuple[Finding, ...]
    histograms: Mapping[str, Histogram] = field(default_factory=dict)
