"""From a hospital's folders, archives and tables to the files of each case: headers and tables are read, no pixels.

Promises
- ``discover`` never raises for a file. What cannot be read, trusted or told whose it is, is quarantined under a salted
  name and a stable code, and the others go on. Trouble with the request itself (a source or table that is not there, a
  table that makes no sense, a mask that links take out of its folder) is a ``SiteDataError``.
- Every file of the sources has exactly one ``FileSeen``; hidden ones are passed over.
- The result is the same for the same files wherever they lie and in whatever order a disk gives them, and holds no
  identifier outside of the paths of its ``SourceFile``s.
- What a file is, its first bytes tell (``kinds``): extensions and folders mean nothing. DICOM is always looked at.

Walking is in ``files``, DICOM headers in ``headers``, tables in ``labels``, cases in ``series`` and ``pictures``.
Whether a case can be read is left to ``client.data.ingest``.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from client.data.case_files import Quarantined, Salt
from client.data.progress import Progress, silent
from client.data.source.files import SourceFile, walk
from client.data.source.found import Found, Wanted
from client.data.source.grouped import Grouped
from client.data.source.headers import Header, Names, read_header
from client.data.source.kinds import HEAD_BYTES, Kind, kind_of
from client.data.source.labels import Labels, read_labels
from client.data.source.pictures import add_missing, add_pictures
from client.data.source.series import Around, add_series, drawn_on
from shared.errors import CaseError


@dataclass(frozen=True, slots=True)
class _Sorted:
    """Files by what they may become."""

    images: list[Header] = field(default_factory=list)
    masks: list[Header] = field(default_factory=list)
    pictures: list[SourceFile] = field(default_factory=list)
    named: dict[str, SourceFile] = field(default_factory=dict)


def discover(wanted: Wanted, salt: Salt, progress: Progress = silent) -> Found:
    """The cases in ``wanted.sources``, and what became of every file there.

    Args:
        wanted: what to look for.
        salt: of the site.
        progress: called after each file with how many there were so far.

    Raises:
        SiteDataError: "source-missing", or as ``labels.read_labels``.
    """
    labels = read_labels(wanted.tables, wanted.subgroup_columns, salt)
    files, tally, names = _Sorted(), Grouped(), Names.of(salt)
    for count, found in enumerate(walk(wanted.sources, salt), start=1):
        if isinstance(found, SourceFile):
            _look_at(found, labels, names, files, tally)
        else:
            tally.leave_out(found)
        progress(count, 0)
    for path, mask in labels.masks.items():
        if path not in files.named:
            files.named[path] = mask.outside_sources(salt)
    around = Around(wanted, labels, files.named, drawn_on(files.masks, tally), tally)
    add_series(files.images, around)
    add_pictures(files.pictures, around, salt)
    add_missing(around, salt)
    sources = sorted({salt.case("source", str(path.resolve())) for path in wanted.sources})
    return replace(tally.found(), sources=tuple(sources))


def _look_at(file: SourceFile, labels: Labels, names: Names, files: _Sorted, tally: Grouped) -> None:
    """Sort one file; whatever is wrong with a mask that a table names is the trouble of the case it belongs to."""
    path = file.key
    named = path in labels.names
    only_mask = path in labels.masks and not named
    if named or only_mask:
        files.named[path] = file
    if path in labels.tables:
        tally.look_at(file.seen, "table")
        return
    try:
        found = _read(file, names)
    except CaseError as error:
        if only_mask:
            tally.look_at(file.seen, "not-listed", error.code)
        else:
            tally.leave_out(Quarantined(file.seen, error.code, error.sentence))
        return
    tally.look_at(file.seen, "not-listed" if only_mask else "not-an-image")
    if isinstance(found, Header) and found.role != "image":
        files.masks.append(found)
        tally.look_at(file.seen, "not-an-image", "mask-without-image")
    elif isinstance(found, Header) and not only_mask:
        files.images.append(found)
    elif found in {"nifti", "picture"} and not only_mask:
        files.pictures.append(file)


def _read(file: SourceFile, names: Names) -> Header | Kind:
    """The header of a DICOM file with pixels or outlines, else what the file is; raises ``CaseError``."""
    try:
        head = file.head(HEAD_BYTES)
    except OSError:
        raise CaseError("a file cannot be read", hint="check its permissions", code="file-unreadable") from None
    kind = kind_of(file.name, head)
    return (read_header(file, head, names) or "other") if kind == "dicom" else kind
