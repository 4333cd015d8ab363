"""Cases that are one file each: PNG, JPEG and NIfTI, which know neither patient nor label.

Promises
- Where a table names files, those that none names are not part of the study, and those that a table names as masks are
  no images; where none does, every such file is a case. A file that a table names and that is not there is quarantined
  ("image-missing").
- A case is named by its path as the table gives it, or relative to its source. A patient is the table's; an image of
  nobody known is its own patient: the only reading that merges nobody, and one that cannot promise that two images are
  two people.

Whether the file can be read is found when it is.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from client.data.case_files import CaseFiles, Salt
from client.data.source.files import SourceFile
from client.data.source.labels import said_about
from client.data.source.series import Around
from shared.errors import CaseError


def add_pictures(files: Iterable[SourceFile], around: Around, salt: Salt) -> None:
    """Make a case of each file that is one, or set it aside."""
    labels = around.labels
    for file in files:
        path = labels.names.get(file.key)
        if path is None and (labels.by_file or file.key in labels.masks):
            around.tally.judge([file], "not-listed")
            continue
        name = salt.case(path) if path else file.seen
        nobody = salt.unnamed_person(path or file.seen)
        try:
            case = _case(file, name, nobody, around)
        except CaseError as error:
            around.tally.set_aside(name, [file], error)
            continue
        if case is None:
            around.tally.judge([file], "not-listed")
        else:
            around.tally.add(case)


def add_missing(around: Around, salt: Salt) -> None:
    """Quarantine what tables name as images and nobody has found; a file outside of the sources is not missing."""
    gone = CaseError("a file that a table names is not there", hint="check the path", code="image-missing")
    for key, path in around.labels.names.items():
        if key not in around.named and not Path(key).exists():
            around.tally.set_aside(salt.case(path), (), gone)


def _case(file: SourceFile, name: str, nobody: str, around: Around) -> CaseFiles | None:
    """None for a case that the study leaves out."""
    said = said_about(around.labels, {"file": [file.key]}, ())
    if said.dropped:
        return None
    mask = said.values.get("mask")
    return CaseFiles(
        case_id=name,
        patient=said.patient or nobody,
        images=(file,),
        mask=around.named[mask] if mask else None,
        label=said.values.get("label"),
        subgroups=around.subgroups(said),
        modality=around.wanted.modality,
        aliases=said.aliases,
    )
