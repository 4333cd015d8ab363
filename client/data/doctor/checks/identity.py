"""Is each image there once, and each person known by one name?

====================================  ========  =====================================================================
code                                  severity  found where
====================================  ========  =====================================================================
duplicate-within-patient              warning   images of a person have equal voxels; all but the first are named
duplicate-across-patients             error     images, or source files, of different persons are equal
duplicate-across-splits               error     the same, where the persons are in different splits
near-duplicate-across-patients        warning   images of different persons are one picture (``similar.one_picture``)
near-duplicate-across-splits          error     the same, where the persons are in different splits
near-duplicates-unsure                note      more pairs look alike than are looked at closely
duplicate-labels-differ               error     images that are equal or one picture have different labels
patient-two-names                     error     two persons share a second name (``Record.aliases``)
====================================  ========  =====================================================================

Images without any contrast are all alike and prove nothing; they are left to ``intensity``. Frames of one file share
their source and belong to one person, so equal sources count across persons alone.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array
from scipy.sparse.csgraph import connected_components

from client.data.doctor.cases import Cases, Flags, Places
from client.data.doctor.findings import Finding, Severity
from shared.messages import Split

Splits = Sequence[Split] | None
"""For each of ``Cases.patients`` where they belong; None where nothing is divided yet."""


def duplicates(cases: Cases, splits: Splits) -> Iterator[Finding]:
    """Equal images and source files."""
    telling = cases.column("high") > cases.column("low")
    second = _second_of_patient(cases, telling)
    if second.any():
        yield Finding(
            "duplicate-within-patient",
            "warning",
            cases.named(second),
            f"images that repeat one of the same patient: {second.sum()} of {len(cases)}",
            "keep one of each; exclude the others, which are named here",
        )
    shared = _shared(cases, "digest", "patient", telling) | _shared(cases, "source", "patient", telling)
    if shared.any():
        yield _across("duplicate-across-patients", "error", cases, _equal(cases, shared))
    if splits is not None:
        parts = _split_column(cases, splits)
        divided = _differ(cases, "digest", parts, telling) | _differ(cases, "source", parts, telling)
        if divided.any():
            yield _across("duplicate-across-splits", "error", cases, _equal(cases, divided))


def near_duplicates(cases: Cases, pairs: Places, *, more: bool, splits: Splits) -> Iterator[Finding]:
    """``pairs`` of one picture, shape (k, 2), that are of different patients; ``more`` that not all were looked at."""
    if len(pairs):
        yield _across("near-duplicate-across-patients", "warning", cases, pairs)
    if splits is not None:
        parts = _split_column(cases, splits)
        divided = pairs[parts[pairs[:, 0]] != parts[pairs[:, 1]]]
        if len(divided):
            yield _across("near-duplicate-across-splits", "error", cases, divided)
    if more:
        yield Finding(
            "near-duplicates-unsure",
            "note",
            (),
            "more pairs of images look alike at the size of a thumbnail than were compared in detail; the closest were",
            "settle what was found, and run the doctor again",
        )


def labels_of_duplicates(cases: Cases, pairs: Places) -> Iterator[Finding]:
    """Different labels on equal images, or on ``pairs`` of one picture."""
    labelled = cases.flags("label", (label is not None for label in cases.labels))
    telling = cases.column("high") > cases.column("low")
    differ = _shared(cases, "digest", "label", telling & labelled)
    labels = cases.column("label")
    both = labelled[pairs].all(axis=1) & (labels[pairs[:, 0]] != labels[pairs[:, 1]])
    differ |= _members(cases, pairs[both])
    if differ.any():
        yield Finding(
            "duplicate-labels-differ",
            "error",
            cases.named(differ),
            f"images that are there more than once with different labels: {differ.sum()} of {len(cases)}",
            "ask who labelled them; exclude them until it is settled",
            _together(cases, np.concatenate([_equal(cases, differ), pairs[both]])),
        )


def two_names(cases: Cases) -> Iterator[Finding]:
    """Persons who share a second name."""
    owners: dict[str, set[int]] = {}
    for place, patient in cases.together("aliases", "patient"):
        for alias in cases.aliases[place]:
            owners.setdefault(alias, set()).add(patient)
    shared = {patient for found in owners.values() if len(found) > 1 for patient in found}
    if shared:
        yield Finding(
            "patient-two-names",
            "error",
            cases.named(np.isin(cases.column("patient"), list(shared))),
            f"patients who seem to be one person under several identifiers: {len(shared)} of {len(cases.patients)}",
            "give each person one identifier, in a table or at the source: a split must not divide a person",
        )


def _across(code: str, severity: Severity, cases: Cases, pairs: Places) -> Finding:
    which = _members(cases, pairs)
    kind = "are one picture with" if code.startswith("near") else "equal"
    other = "in another split" if code.endswith("splits") else "of another patient"
    return Finding(
        code,
        severity,
        cases.named(which),
        f"images that {kind} one {other}: {which.sum()} of {len(cases)} (from {cases.patients_of(which)} patients)",
        "find out whose they are; if both identifiers are of one person, unite them, else exclude these images",
        _together(cases, pairs),
    )


def _equal(cases: Cases, which: Flags) -> Places:
    """Pairs of cases among ``which`` that have equal voxels or an equal source, enough of them to connect all such."""
    places = np.flatnonzero(which)
    found = [np.empty((0, 2), np.intp)]
    for key in ("digest", "source"):
        ordered = places[np.argsort(cases.column(key)[places], kind="stable")]
        same = cases.column(key)[ordered[1:]] == cases.column(key)[ordered[:-1]]
        found.append(np.stack([ordered[:-1][same], ordered[1:][same]], axis=1))
    return np.concatenate(found)


def _together(cases: Cases, pairs: Places) -> tuple[tuple[str, ...], ...]:
    """Names of cases that ``pairs`` connect, set by set."""
    size = len(cases)
    graph = csr_array((np.ones(len(pairs), bool), (pairs[:, 0], pairs[:, 1])), (size, size))
    _, sets = connected_components(graph, directed=False)
    members: dict[int, list[str]] = defaultdict(list)
    names = cases.names
    for place in np.unique(pairs):
        members[int(sets[place])].append(names[place])
    return tuple(sorted(tuple(sorted(one)) for one in members.values()))


def _second_of_patient(cases: Cases, telling: Flags) -> Flags:
    """Images that are equal to an earlier one of the same patient."""
    second = np.zeros(len(cases), bool)
    places = np.flatnonzero(telling)
    # Equal images of one patient have equal keys.
    keys = cases.column("patient").astype(np.int64) * len(cases) + cases.column("digest")
    _, first = np.unique(keys[places], return_index=True)
    second[places] = True
    second[places[first]] = False
    return second


def _shared(cases: Cases, key: str, what: str, which: Flags) -> Flags:
    """Cases whose ``key`` comes with several values of the column ``what``, among ``which``."""
    return _differ(cases, key, cases.column(what), which)


def _differ(cases: Cases, key: str, values: NDArray[np.int32], which: Flags) -> Flags:
    keys = cases.column(key)
    pairs = np.unique(np.stack([keys[which], values[which]]), axis=1)
    several = np.bincount(pairs[0], minlength=int(keys.max(initial=0)) + 1) > 1
    return np.asarray(several[keys] & which)


def _split_column(cases: Cases, splits: Sequence[Split]) -> NDArray[np.int32]:
    """For each case a number that stands for its split."""
    numbers = {split: place for place, split in enumerate(dict.fromkeys(splits))}
    column: NDArray[np.int32] = np.array([numbers[split] for split in splits], np.int32)[cases.column("patient")]
    return column


def _members(cases: Cases, pairs: Places) -> Flags:
    flags = np.zeros(len(cases), bool)
    flags[pairs.ravel()] = True
    return flags
