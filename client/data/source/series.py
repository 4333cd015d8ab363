"""Cases of one hospital from a folder of DICOM files, labels and masks.

The folder::

    dicom/**      the images; names, extensions and subfolders mean nothing
    masks/*       DICOM segmentations or NIfTI files
    labels.csv    series_uid and, where there are any, patient_id, label, mask (path in the folder), sex, age

Promises
- Only headers are read. A case is a series for plans in 3-D, and a single image of it (SOP instance) for plans in 2-D.
- A file that cannot be read, or a series that contradicts itself, is quarantined with a stable code; the others go on.
  Such a file counts as one case, since nobody knows what it was part of. Trouble with labels.csv as a whole is a
  ``SiteDataError``.
- A patient is PatientID, or the table's ``patient_id`` where the header has none. An image whose patient nobody knows
  cannot be protected or split, and is quarantined.
- A second file with the same bytes is ignored (exports repeat themselves); one that shares a SOP Instance UID but not
  the bytes quarantines its case: nobody can say which of the two is meant.
- Objects without pixels (reports, RT structures, DICOMDIR) and hidden files are passed over.
- A mask is the one that labels.csv names, else the segmentation object that refers to the series. The order of cases
  and of files depends on UIDs alone.

Whether labels and masks suit the task is found when a case is prepared.
"""

from __future__ import annotations

import filecmp
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

from client.data.case_files import CaseFiles, Quarantined, Salt, subgroup
from client.data.source.headers import Header, scan
from client.data.source.tables import Row, inside, read_table
from shared.errors import CaseError, SiteDataError

IMAGES = "dicom"
MASKS = "masks"
LABELS = "labels.csv"
_SUBGROUPS = ("sex", "age")


@dataclass(frozen=True, slots=True)
class _Site:
    """What images are joined with."""

    folder: Path
    salt: Salt
    rows: Mapping[str, Sequence[Row]]
    segmentations: Mapping[str, Sequence[Header]]
    subgroup_columns: tuple[str, ...]
    series: Mapping[str, Sequence[Header]]


def read_dicom_folder(
    folder: Path, site: str, secret: bytes, dimensions: int, subgroup_columns: tuple[str, ...] = _SUBGROUPS
) -> tuple[list[CaseFiles], list[Quarantined]]:
    """All cases below ``folder``, and the files and series that cannot be one.

    Args:
        folder: of one hospital; see the module.
        site: the hospital's name, part of every salted name.
        secret: the hospital's own, at least 16 bytes.
        dimensions: of the plan; 3 makes a case of each series, 2 of each image.
        subgroup_columns: columns of labels.csv to report by; one that the table lacks reads "unknown".

    Raises:
        SiteDataError: there is no ``dicom`` folder, or labels.csv cannot be used.
    """
    if not (folder / IMAGES).is_dir():
        raise SiteDataError(
            f"the hospital's folder has no subfolder {IMAGES!r}", hint=f"put the images into {IMAGES}/", code="no-dicom"
        )
    salt = Salt(site, secret)
    headers, unusable = scan(folder / IMAGES, salt)
    # Masks in NIfTI are no DICOM, and a broken mask is the trouble of the case that it belongs to.
    masks, _not_dicom = scan(folder / MASKS, salt)
    images = [header for header in headers if header.segments is None]
    joined = _Site(
        folder, salt, _labels(folder), _segmentations((*headers, *masks)), subgroup_columns, _by_series(images)
    )
    cases: list[CaseFiles] = []
    for case_id, group in _groups(joined, dimensions):
        try:
            cases.append(_case(case_id, group, joined))
        except CaseError as error:
            unusable.append(Quarantined(case_id, error.code, error.sentence))
    return cases, unusable


def _labels(folder: Path) -> dict[str, list[Row]]:
    """Rows of labels.csv by series; none where nobody wrote one."""
    rows: dict[str, list[Row]] = defaultdict(list)
    if (folder / LABELS).exists():
        for row in read_table(folder / LABELS, ("series_uid",)):
            rows[row.get("series_uid")].append(row)
    return rows


def _segmentations(headers: Iterable[Header]) -> dict[str, list[Header]]:
    """Segmentation objects by the series they refer to."""
    found: dict[str, list[Header]] = defaultdict(list)
    for header in headers:
        for series in header.segments or ():
            found[series].append(header)
    return found


def _by_series(images: Iterable[Header]) -> dict[str, list[Header]]:
    found: dict[str, list[Header]] = defaultdict(list)
    for header in images:
        found[header.series].append(header)
    return found


def _groups(site: _Site, dimensions: int) -> Iterator[tuple[str, Sequence[Header]]]:
    """Files of one case each, with its name, in the order of UIDs."""
    for uid, series in sorted(site.series.items()):
        if dimensions == 3:
            yield site.salt.case(uid), series
        else:
            for instance, copies in groupby(series, key=lambda header: header.instance):
                yield site.salt.case(uid, instance), list(copies)


def _case(case_id: str, group: Sequence[Header], site: _Site) -> CaseFiles:
    series = group[0].series
    row = _row(site.rows.get(series, ()))
    mask = _mask(row, series, site)
    is_slice = len(group) < len(site.series[series])
    return CaseFiles(
        case_id=case_id,
        patient=site.salt.person(_person(group, row)),
        images=_distinct(group),
        mask=mask,
        label=row.get("label") or None,
        subgroups=tuple(subgroup(column, row.get(column)) for column in site.subgroup_columns),
        modality=group[0].modality,
        slice_of=_distinct(site.series[series]) if mask and is_slice else (),
    )


def _row(rows: Sequence[Row]) -> Row:
    """The one thing that labels.csv says about a series; an empty row where it says nothing."""
    if any(row.values != rows[0].values for row in rows):
        raise CaseError(
            f"labels.csv says different things about one series (rows {rows[0].number} and {rows[-1].number})",
            hint="keep one row per series",
            code="labels-conflict",
        )
    return rows[0] if rows else Row(0, {})


def _person(group: Sequence[Header], row: Row) -> str:
    named = {header.person for header in group if header.person}
    table = row.get("patient_id")
    if len(named) > 1:
        raise CaseError(f"one series names {len(named)} patients", hint="export it again", code="patient-conflict")
    if named and table and table not in named:
        raise CaseError(
            f"row {row.number} of labels.csv gives a series to another patient than its header",
            hint="check series_uid and patient_id in that row",
            code="patient-conflict",
        )
    if not named and not table:
        raise CaseError(
            "neither the header nor labels.csv says whose image this is",
            hint="fill patient_id in labels.csv",
            code="patient-unknown",
        )
    return named.pop() if named else table


def _mask(row: Row, series: str, site: _Site) -> Path | None:
    if row.get("mask"):
        return inside(site.folder, row.get("mask"), row.number)
    found = _distinct(site.segmentations.get(series, ()))
    if len(found) > 1:
        raise CaseError(
            f"{len(found)} segmentations refer to one series", hint="name one in labels.csv", code="mask-ambiguous"
        )
    return found[0] if found else None


def _distinct(headers: Iterable[Header]) -> tuple[Path, ...]:
    """Files but for exact copies, in the order given; two contents under one UID are a ``CaseError``."""
    kept: dict[str, Path] = {}
    for header in headers:
        # Compared byte by byte, and only where a UID repeats.
        if header.instance in kept and not filecmp.cmp(kept[header.instance], header.path, shallow=False):
            raise CaseError(
                "two different files share one SOP Instance UID",
                hint="remove the one that is wrong",
                code="duplicate-instance",
            )
        kept.setdefault(header.instance, header.path)
    return tuple(kept.values())
