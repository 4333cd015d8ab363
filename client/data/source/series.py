"""DICOM cases: series become volumes or images, and find their masks, labels and patients.

Promises
- A series in 3-D is one case, of all its files; in 2-D each frame is one. "auto" makes a volume of those frames of a
  series that lie at two places or more, and an image of every other frame.
- A case takes part as a whole or not at all: one that contradicts itself is quarantined under a stable code, with all
  its files, and the others go on. An image whose patient nobody knows cannot be protected or split.
- A second file with the same bytes is set aside as a copy (exports repeat themselves); one that shares a SOP Instance
  UID but not the bytes quarantines its case: nobody can say which of the two is meant.
- A mask is the one that a table names, else the one object that refers to the series. The mask of a series goes to each
  of its images together with all files of the series; a mask named for one file or instance is of that image alone.
- The order of files depends on UIDs alone, so that names and moments of an export change nothing.

Whether slices are even, and whether a mask fits, is found when pixels are read.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby

from client.data.case_files import UNKNOWN, CaseFiles
from client.data.source.files import SourceFile, same_bytes
from client.data.source.found import Wanted
from client.data.source.grouped import Grouped
from client.data.source.headers import Header
from client.data.source.labels import Labels, Saying, said_about
from shared.errors import CaseError


@dataclass(frozen=True, slots=True)
class Around:
    """What images are joined with.

    Attributes:
        wanted: what is looked for.
        labels: what the tables say.
        named: files that the tables name, by path; a mask outside the sources is among them.
        drawn: masks by the salted series that they refer to.
        tally: where cases and verdicts go.
    """

    wanted: Wanted
    labels: Labels
    named: Mapping[str, SourceFile]
    drawn: Mapping[str, Sequence[Header]]
    tally: Grouped

    def subgroups(self, said: Saying) -> tuple[tuple[str, str], ...]:
        """The pairs to report a case by."""
        return tuple((column, said.values.get(column, UNKNOWN)) for column in self.wanted.subgroup_columns)


@dataclass(frozen=True, slots=True)
class _Group:
    """The files of one case.

    Attributes:
        case_id: its name.
        headers: its files; two for one instance that is contradicted.
        volume: the files that a mask of the series was drawn on, one tuple for all images of the series; none where
            the case is that volume itself, or one of several frames of a file.
        frame: as in ``CaseFiles``.
    """

    case_id: str
    headers: Sequence[Header]
    volume: tuple[SourceFile, ...] = ()
    frame: int | None = None


def add_series(images: Iterable[Header], around: Around) -> None:
    """Sort the files of ``images`` into cases, or set them aside."""
    found: dict[str, list[Header]] = defaultdict(list)
    for header in images:
        found[header.series].append(header)
    for _, series in sorted(found.items()):
        for group in _groups(without_copies(series, around.tally), around):
            _add(group, around)


def drawn_on(masks: Iterable[Header], tally: Grouped) -> dict[str, list[Header]]:
    """Masks by the series that they refer to."""
    found: dict[str, list[Header]] = defaultdict(list)
    for header in without_copies(masks, tally):
        for series in header.refers:
            found[series].append(header)
    return found


def without_copies(headers: Iterable[Header], tally: Grouped) -> list[Header]:
    """In the order of instances; of files with the same bytes under one UID, the first by path."""
    kept: list[Header] = []
    ordered = sorted(headers, key=lambda header: (header.instance, header.file.key))
    for _, group in groupby(ordered, key=lambda header: header.instance):
        first, *others = group
        kept.append(first)
        for other in others:
            # Only where a UID repeats are bytes read.
            if same_bytes(first.file, other.file):
                tally.judge([other.file], "copy")
            else:
                kept.append(other)
    return kept


def _groups(series: Sequence[Header], around: Around) -> Iterator[_Group]:
    flat: Sequence[Header] = series
    placed = [header for header in series if header.places]
    if around.wanted.dimensions == 3:
        yield _Group(series[0].case, series)
        return
    if around.wanted.dimensions == "auto" and len({place for header in placed for place in header.places}) > 1:
        yield _Group(series[0].case, placed)
        flat = [header for header in series if not header.places]
    # Files that lie nowhere would keep the others from becoming the volume that the mask was drawn on.
    volume = tuple(header.file for header in placed) if len(series) > 1 else ()
    for _, group in groupby(flat, key=lambda header: header.instance):
        headers = list(group)
        names = headers[0].frame_cases
        if len(names) == 1:
            yield _Group(names[0], headers, volume if headers[0].places else ())
        else:
            yield from (_Group(case_id, headers, (), frame) for frame, case_id in enumerate(names))


def _add(group: _Group, around: Around) -> None:
    files = [header.file for header in group.headers]
    try:
        case = _case(group, around)
    except CaseError as error:
        around.tally.set_aside(group.case_id, files, error)
        return
    if case is None:
        around.tally.judge(files, "not-listed")
    else:
        around.tally.add(case)


def _case(group: _Group, around: Around) -> CaseFiles | None:
    """None for a case that the study leaves out."""
    headers = group.headers
    _require_distinct(headers)
    said = _said(group, around)
    if said.dropped:
        return None
    if not said.patient:
        raise CaseError(
            "neither the header nor a table says whose image this is",
            hint="fill patient_id in a table",
            code="patient-unknown",
        )
    mask = _mask(group, said, around)
    return CaseFiles(
        case_id=group.case_id,
        patient=said.patient,
        images=tuple(header.file for header in headers),
        mask=mask,
        label=said.values.get("label"),
        subgroups=around.subgroups(said),
        modality=headers[0].modality,
        slice_of=_slice_of(group, said) if mask else (),
        frame=group.frame,
        study=headers[0].study,
        series=headers[0].series,
        aliases=tuple(sorted({*said.aliases, *(alias for header in headers for alias in header.aliases)})),
    )


def _said(group: _Group, around: Around) -> Saying:
    headers = group.headers
    return said_about(
        around.labels,
        {
            "file": [header.file.key for header in headers],
            "instance_uid": [header.instance for header in headers],
            "series_uid": [headers[0].series],
            "study_uid": sorted({header.study for header in headers}),
        },
        {header.patient for header in headers if header.patient},
    )


def _require_distinct(headers: Sequence[Header]) -> None:
    if len({header.instance for header in headers}) < len(headers):
        raise CaseError(
            "two different files share one SOP Instance UID",
            hint="remove the one that is wrong",
            code="duplicate-instance",
        )


def _mask(group: _Group, said: Saying, around: Around) -> SourceFile | None:
    found = around.drawn.get(group.headers[0].series, ())
    files = [header.file for header in found]
    if "mask" in said.values:
        around.tally.judge(files, "not-listed")
        return around.named[said.values["mask"]]
    files = [header.file for header in _of_image(group, found)]
    if len(files) > 1:
        error = CaseError(f"{len(files)} masks refer to one series", hint="name one in a table", code="mask-ambiguous")
        around.tally.judge(files, "quarantined", error.code)
        raise error
    return files[0] if files else None


def _of_image(group: _Group, found: Sequence[Header]) -> Sequence[Header]:
    """Of the masks of a series, those of one image: it may be drawn on by name where it lies nowhere."""
    header = group.headers[0]
    if len(group.headers) > 1 or (header.places and len(found) < 2):
        return found
    own = [one for one in found if header.instance in one.instances]
    # Writers leave out slices without any outline: an image in space belongs to the mask all the same.
    return own or (found if header.places else [one for one in found if not one.instances])


def _slice_of(group: _Group, said: Saying) -> tuple[SourceFile, ...]:
    """The files that the mask lies on, where these are more than the image itself."""
    own = said.mask_of in {"file", "instance_uid"} or group.volume == (group.headers[0].file,)
    return () if own else group.volume
