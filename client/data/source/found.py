"""What was found in a hospital's folders, before any pixel is decoded.

Every file of the sources has one ``FileSeen``, so that counts add up: a file is part of a case, a table, set aside with
a reason, or not an image at all. A folder that cannot be read and an archive that cannot be trusted count as one file;
a file in an archive counts like one in a folder.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from client.data.case_files import CaseFiles, Quarantined
from shared.preprocessing.image import Modality

Use = Literal["image", "mask", "table", "copy", "not-listed", "not-an-image", "quarantined"]
"""What became of a file: part of a case, a mask of one, a table, a second copy of the same bytes, an image that the
tables do not name, something without pixels, or unusable."""


@dataclass(frozen=True, slots=True)
class FileSeen:
    """One file that was looked at.

    Attributes:
        name: salted name of its path.
        use: what became of it.
        code: why it was set aside, or of no use ("mask-without-image"); "" otherwise.
    """

    name: str
    use: Use
    code: str = ""


@dataclass(frozen=True, slots=True)
class Table:
    """A CSV table that says more about images than the images themselves.

    Attributes:
        path: the file; paths in it are relative to its folder, and may lead into an archive there as into a folder.
        columns: our name of a column -> the names that the file uses, joined in this order where there are several.
            Ours are file, mask, instance_uid, series_uid, study_uid, patient_id, label and the subgroup columns; one
            that is not mapped goes by its own name.
        where: only rows with these values count.
        drop_labels: rows with these labels are not part of the study.
    """

    path: Path
    columns: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    where: Mapping[str, str] = field(default_factory=dict)
    drop_labels: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Wanted:
    """What is to be looked for.

    Attributes:
        sources: folders, files and .zip archives.
        tables: labels, masks, patients.
        dimensions: 3 makes a volume of each series, 2 an image of each frame; "auto" makes volumes of series whose
            frames have positions, and images of all other frames.
        modality: of pictures and NIfTI files, which do not say.
        subgroup_columns: columns of the tables to report by; one that a table lacks reads "unknown".
    """

    sources: tuple[Path, ...]
    tables: tuple[Table, ...] = ()
    dimensions: Literal["auto", 2, 3] = "auto"
    modality: Modality = "other"
    subgroup_columns: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Found:
    """The cases of one hospital, and everything that is none.

    Attributes:
        cases: sorted by ``case_id``.
        unusable: files and groups of files that cannot be a case.
        files: one for each file that was looked at, sorted by name.
        sources: salted names of what was looked through; without any, this is all that there is.
    """

    cases: tuple[CaseFiles, ...]
    unusable: tuple[Quarantined, ...]
    files: tuple[FileSeen, ...]
    sources: tuple[str, ...] = ()
