"""From an archive to what a data doctor says about it.

Promises
- Every case is looked at once, whatever is wrong with another; what was measured is kept, so that a second look at the
  same cases takes seconds for a hundred thousand of them.
- A diagnosis follows from the archive, the split and the quota: no clock and no random number enters it, and the number
  of workers changes nothing.
- Memory grows by some 2 kB with each case, whatever the size of its image: 200 MB for a hundred thousand.
- No finding holds a value from a header or a table; no table counts the values of a column that may identify people.

What is looked for stands at the top of each module of ``checks``. Nothing is changed or left out: that is for people to
decide (``freeze --exclude``).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from client.data.archive.archive import Archive
from client.data.case_files import Quarantined
from client.data.doctor.cases import Cases, Places
from client.data.doctor.checks import (
    geometry,
    identifying,
    identity,
    intake,
    intensity,
    labels,
    masks,
    patients,
)
from client.data.doctor.findings import Diagnosis, Finding, Histogram, Severity
from client.data.doctor.measuring import Unmeasured, measure_missing, measured
from client.data.doctor.similar import LIMIT, detail_shape, details, look_alikes, one_picture
from client.data.doctor.survey import binned
from client.data.progress import Progress
from shared.errors import SiteDataError
from shared.messages import Split
from shared.preprocessing.image import FloatArray

_IN_MEMORY = {2: 2 * LIMIT, 3: LIMIT // 4}
"""Images whose details are kept while they are compared, by number of axes: some 130 MB either way."""
_ORDER: dict[Severity, int] = {"error": 0, "warning": 1, "note": 2}


def diagnose(
    archive: Archive,
    dataset: str,
    split_of: Callable[[str], Split] | None,
    *,
    workers: int,
    progress: Progress,
    quota: float = intake.QUOTA,
) -> Diagnosis:
    """Look at every case of ``archive``.

    Args:
        archive: the data set; its measurements are added to.
        dataset: its name.
        split_of: where a patient belongs (salted name), once the data set is divided.
        workers: processes that measure.
        progress: told how many cases are measured.
        quota: share of cases that may be unusable.
    """
    unmeasured = measure_missing(archive, workers, progress)
    cases = Cases.of(measured(archive))
    quarantined = archive.quarantined()
    counted = identifying.owners(cases)
    findings = [
        *_of_intake(unmeasured, quarantined, len(archive), quota),
        *(_of_cases(cases, counted) if len(cases) else ()),
        *_of_likeness(archive, cases, split_of),
    ]
    return Diagnosis(
        dataset=dataset,
        patients=len(cases.patients),
        cases=len(archive),
        quarantined=dict(sorted(Counter(one.code for one in quarantined).items())),
        files=dict(sorted(Counter(one.use for one in archive.files()).items())),
        tables=identifying.tables(cases, counted),
        findings=tuple(sorted(findings, key=lambda finding: (_ORDER[finding.severity], finding.code))),
        histograms=dict(_histograms(cases)) if len(cases) else {},
    )


def copies(archive: Archive, cases: Cases) -> tuple[Places, bool]:
    """Pairs of cases of different patients that are one picture, though not equal; whether there may be more."""
    pairs, more = [np.zeros((0, 2), np.intp)], False
    # Equal images are found by their digests; one of them stands for all.
    _, first = np.unique(cases.column("digest"), return_index=True)
    for axes in np.unique(cases.column("axes")).tolist():
        places = first[cases.column("axes")[first] == axes]
        found = look_alikes(cases.column("thumbnail")[places], cases.column("patient")[places])
        pairs.append(places[found.pairs[one_picture(found, _likeness(archive, cases, places[found.pairs], axes))]])
        more |= found.more
    return np.concatenate(pairs), more


def _likeness(archive: Archive, cases: Cases, pairs: Places, axes: int) -> NDArray[np.float64]:
    """For each pair the correlation of their details; 0 where one cannot be read any more."""

    @lru_cache(maxsize=_IN_MEMORY[axes])
    def details_of(place: int, shape: tuple[int, ...]) -> FloatArray:
        record = archive.record(cases.names[place])
        try:
            return np.zeros(1, np.float32) if record is None else details(archive.image(record), shape)
        except SiteDataError:
            # It was intact when it was measured; whoever uses it next is told.
            return np.zeros(1, np.float32)

    shapes = cases.column("shape")[:, 3 - axes :]
    likeness = np.zeros(len(pairs))
    # In this order an image that has several look-alikes is read once for all of them.
    for place in np.lexsort((pairs[:, 1], pairs[:, 0])).tolist():
        one, other = pairs[place].tolist()
        shape = detail_shape(shapes[one].tolist(), shapes[other].tolist())
        likeness[place] = (details_of(one, shape) * details_of(other, shape)).sum()
    return likeness


def _of_intake(unmeasured: Unmeasured, quarantined: list[Quarantined], cases: int, quota: float) -> Iterator[Finding]:
    yield from intake.unmeasured(unmeasured, cases)
    yield from intake.quota(quarantined, cases, quota)
    yield from intake.reasons(quarantined)


def _of_cases(cases: Cases, counted: identifying.Owners) -> Iterator[Finding]:
    for check in (
        geometry.spacing,
        geometry.orientation,
        geometry.kinds,
        intensity.contrast,
        intensity.hounsfield,
        intensity.saturation,
        intensity.inversion,
        masks.presence,
        masks.classes,
        masks.islands,
        labels.labels,
        labels.spelling,
        labels.class_sizes,
        patients.patients,
        identity.two_names,
        identifying.burned_in,
        identifying.dropped,
    ):
        yield from check(cases)
    yield from identifying.columns(cases, counted)


def _of_likeness(archive: Archive, cases: Cases, split_of: Callable[[str], Split] | None) -> Iterator[Finding]:
    splits = None if split_of is None else [split_of(patient) for patient in cases.patients]
    pairs, more = copies(archive, cases)
    yield from identity.duplicates(cases, splits)
    yield from identity.near_duplicates(cases, pairs, more=more, splits=splits)
    yield from identity.labels_of_duplicates(cases, pairs)


def _histograms(cases: Cases) -> Iterator[tuple[str, Histogram]]:
    shapes, spacings = cases.column("shape"), np.round(cases.column("spacing_mm"), 3)
    volumes, known = cases.column("axes") == 3, cases.column("spacing_known")
    masked = cases.column("masked") & (cases.column("foreground") > 0)
    yield "Longer side of a plane", binned(shapes[:, 1:].max(axis=1), "pixels")
    if known.any():
        yield "Pixel spacing", binned(spacings[known][:, 1:].min(axis=1), "mm")
    if volumes.any():
        yield "Slices", binned(shapes[volumes][:, 0], "slices")
    if (volumes & known).any():
        yield "Slice spacing", binned(spacings[volumes & known][:, 0], "mm")
    yield "Images of a patient", binned(np.bincount(cases.column("patient")).astype(np.float64), "images")
    if masked.any():
        share = cases.column("foreground")[masked] / shapes[masked].prod(axis=1)
        yield "Share of an image that its mask covers", binned(100 * share, "%")
        yield "Islands of a mask", binned(cases.column("islands")[masked], "islands")
