"""Is there something to learn from, and from enough people?

==================  ========  ========================================================================================
code                severity  found where
==================  ========  ========================================================================================
nothing-to-learn    warning   no case has a label or a mask
label-missing       warning   a case has no label, where others have one
label-one-class     warning   all labels are the same
label-spelling      warning   labels differ in nothing but capitals or spaces
label-few-patients  warning   a class has fewer than ``_FEW`` patients
==================  ========  ========================================================================================

Labels that look like names or numbers of people are left to ``identifying``.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator

import numpy as np

from client.data.doctor.cases import Cases
from client.data.doctor.findings import Finding

_FEW = 5


def labels(cases: Cases) -> Iterator[Finding]:
    """Labels that are missing, or all the same."""
    unlabelled = cases.flags("label", (label is None for label in cases.labels))
    different = {label for label in cases.labels if label is not None}
    if not different:
        if not cases.column("masked").any():
            yield Finding(
                "nothing-to-learn",
                "warning",
                (),
                f"none of {len(cases)} cases has a label or a mask",
                "name the table or the folder of masks at ingest",
            )
        return
    if unlabelled.any():
        yield Finding(
            "label-missing",
            "warning",
            cases.named(unlabelled),
            f"cases without a label, where others have one: {unlabelled.sum()} of {len(cases)}",
            "fill the table, or exclude them",
        )
    if len(different) == 1:
        yield Finding(
            "label-one-class",
            "warning",
            (),
            f"all {(~unlabelled).sum()} labels are the same",
            "check the table: with one class, nothing can be told apart at this site",
        )


def spelling(cases: Cases) -> Iterator[Finding]:
    """Labels that seem to mean the same."""
    written: dict[str, list[int]] = defaultdict(list)
    for place, label in enumerate(cases.labels):
        if label is not None:
            written["".join(label.casefold().split())].append(place)
    doubtful = [place for places in written.values() if len(places) > 1 for place in places]
    if doubtful:
        sizes = np.bincount(cases.column("label"), minlength=len(cases.labels))
        usual = {max(places, key=lambda place: sizes[place]) for places in written.values()}
        odd = np.isin(cases.column("label"), sorted(set(doubtful) - usual))
        yield Finding(
            "label-spelling",
            "warning",
            cases.named(odd),
            f"labels that differ from a more frequent one in capitals or spaces alone: {odd.sum()} of {len(cases)}",
            "write them alike in the table: a plan takes each spelling for a class of its own",
        )


def class_sizes(cases: Cases) -> Iterator[Finding]:
    """Classes with hardly any patients."""
    said = set().union(*map(_classes, cases.labels))
    owners = [
        cases.patients_of(cases.flags("label", (name in _classes(label) for label in cases.labels))) for name in said
    ]
    few = [count for count in owners if count < _FEW]
    if few and len(owners) <= len(cases.patients) / 2:
        yield Finding(
            "label-few-patients",
            "warning",
            (),
            f"classes with fewer than {_FEW} patients: {len(few)} of {len(owners)}; the smallest has {min(few)}",
            "results on such a class have wide intervals, and may be suppressed",
        )


def _classes(label: str | None) -> set[str]:
    """Names of the classes of a label, which joins several by ";"."""
    return set() if label is None else {name.strip() for name in label.split(";")}
