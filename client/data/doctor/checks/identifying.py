"""May something identify people, in what was let in, or in what was kept out?

================================  ========  ==========================================================================
code                              severity  found where
================================  ========  ==========================================================================
subgroup-identifies               error     a subgroup column has a value for nearly every patient
subgroup-looks-like-identifier    error     a subgroup column has values like dates, names or long numbers
label-identifies                  error     there is a label for nearly every patient
label-looks-like-identifier       error     labels look like dates, names or long numbers
burned-in-suspected               warning   an image may show identifiers, and the site's rules let it in
identifying-content-dropped       note      headers held identifying content, which the archive does not
================================  ========  ==========================================================================

A column that identifies must not be counted either: ``tables`` leaves it out.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping

import numpy as np

from client.data.case_files import UNKNOWN
from client.data.doctor.cases import Cases
from client.data.doctor.findings import Finding

LABEL, MODALITY, VENDOR = "label", "modality", "vendor"

_ENOUGH = 10
"""Patients below which every value may well be one of a kind."""
_OF_ITS_OWN = 0.5
"""Share of patients from which on as many different values identify people."""
_LOOKS = re.compile(
    r"\d{5,}"  # record numbers; a year or a field strength has fewer digits
    r"|\d{1,4}[-./]\d{1,2}[-./]\d{1,4}"  # dates
    r"|.+\^.*"  # a person's name as DICOM writes it (PS3.5 6.2.1)
    r"|[^\W\d_]{2,}, ?[^\W\d_]{2,}"  # family name, given name
    r"|[\w.+-]+@[\w-]+\.\w+"
    r"|(?:\d+\.){4,}\d+"  # a UID
    r"|[^\W\d_]{1,4}[-_ ]?\d{5,}"  # a record number with its prefix
)

Owners = Mapping[str, Mapping[str, int]]
"""For each column and value how many patients have it."""


def owners(cases: Cases) -> Owners:
    """Patients by value of "label", "modality", "vendor" and every subgroup column; identifying or not."""
    found: dict[str, dict[str, int]] = {
        LABEL: _by_value(cases, "label", tuple(UNKNOWN if label is None else label for label in cases.labels)),
        MODALITY: _by_value(cases, "modality", cases.modalities),
        VENDOR: _by_value(cases, "vendor", tuple(vendor or UNKNOWN for vendor in cases.vendors)),
    }
    people: dict[str, dict[str, set[int]]] = defaultdict(lambda: defaultdict(set))
    for place, patient in cases.together("subgroups", "patient"):
        for column, value in cases.subgroups[place]:
            people[column][value].add(patient)
    for column, values in people.items():
        found[column] = {value: len(patients) for value, patients in values.items()}
    return found


def tables(cases: Cases, counted: Owners) -> dict[str, dict[str, int]]:
    """``counted`` without the columns that identify, sorted by column and value."""
    return {
        column: dict(sorted(values.items()))
        for column, values in sorted(counted.items())
        if not _identifies(values, cases) and not _like(values)
    }


def columns(cases: Cases, counted: Owners) -> Iterator[Finding]:
    """Columns of a table whose values say who somebody is."""
    for column in sorted(counted):
        like, different = _like(counted[column]), len(_said(counted[column]))
        if _identifies(counted[column], cases):
            yield _one_each(column, different, len(cases.patients))
        if like:
            yield _look_alike(column, like, different)


def burned_in(cases: Cases) -> Iterator[Finding]:
    """Images that may show identifiers."""
    suspected = cases.flags("suspicions", (bool(found) for found in cases.suspicions))
    if suspected.any():
        yield Finding(
            "burned-in-suspected",
            "warning",
            cases.named(suspected),
            f"images that may show burned-in identifiers: {suspected.sum()} of {len(cases)}",
            "look at each, or let ingest refuse them (deidentification.refuse)",
        )


def dropped(cases: Cases) -> Iterator[Finding]:
    """Identifying content of headers that was kept out."""
    kinds: Counter[str] = Counter()
    for found, count in zip(cases.dropped, np.bincount(cases.column("dropped")).tolist(), strict=True):
        kinds.update(dict.fromkeys(found, count))
    if kinds:
        holding = cases.flags("dropped", (bool(found) for found in cases.dropped))
        yield Finding(
            "identifying-content-dropped",
            "note",
            (),
            f"source headers that held identifying content: {holding.sum()} of {len(cases)} "
            f"(of {len(kinds)} kinds); nothing of it is in the archive",
            "nothing to do; whoever shares the source files must know",
        )


def _by_value(cases: Cases, column: str, values: tuple[str, ...]) -> dict[str, int]:
    people = Counter(place for place, _ in cases.together(column, "patient"))
    return {value: people[place] for place, value in enumerate(values)}


def _said(values: Mapping[str, int]) -> list[str]:
    return [value for value in values if value not in {UNKNOWN, ""}]


def _identifies(values: Mapping[str, int], cases: Cases) -> bool:
    return len(cases.patients) >= _ENOUGH and len(_said(values)) > _OF_ITS_OWN * len(cases.patients)


def _like(values: Mapping[str, int]) -> int:
    """How many of the different values look like those of a person."""
    return sum(_LOOKS.fullmatch(value.strip()) is not None for value in _said(values))


def _one_each(column: str, different: int, patients: int) -> Finding:
    if column == LABEL:
        return Finding(
            "label-identifies",
            "error",
            (),
            f"{different} different labels among {patients} patients",
            "check which column of the table is the label: this one says who somebody is",
        )
    return Finding(
        "subgroup-identifies",
        "error",
        (),
        f"the subgroup column {column!r} has {different} different values among {patients} patients",
        "do not report by it: it says who somebody is; put numbers into a few bands",
    )


def _look_alike(column: str, like: int, different: int) -> Finding:
    if column == LABEL:
        return Finding(
            "label-looks-like-identifier",
            "error",
            (),
            f"labels that look like dates, names or long numbers: {like} of {different} different ones",
            "check which column of the table is the label",
        )
    return Finding(
        "subgroup-looks-like-identifier",
        "error",
        (),
        f"values of the subgroup column {column!r} that look like dates, names or long numbers: "
        f"{like} of {different} different ones",
        "do not report by it, and check that no row of the table is shifted",
    )
