"""Cases of one site from a folder with a ``manifest.csv``.

Promises
- One row is one case: columns ``site`` and ``image``, the patient columns that the settings name, and, where there are
  any, ``mask`` and ``label``. Paths are relative to the folder and stay in it.
- A patient is all patient columns together (numbers may repeat between groups). Where all of them are empty, the image
  is its own patient: the only reading that merges nobody, and one that cannot promise that two images are two people.
- Everything wrong with the table itself is a ``SiteDataError``. A file that is missing or broken is found when the case
  is prepared, and costs that case only.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from client.data.case_files import CaseFiles, Salt, subgroup
from client.data.source.tables import Row, inside, read_table
from shared.errors import SiteDataError
from shared.preprocessing.image import Modality

MANIFEST = "manifest.csv"


@dataclass(frozen=True, slots=True)
class ManifestSettings:
    """How to read one data set's manifest.

    Attributes:
        modality: of all its images; PNG and NIfTI files do not say.
        patient_columns: together they name a patient.
        subgroup_columns: reported by; values are taken as they are, but for ``age``, which becomes a band.
        rename_labels: label in the manifest -> class in the plan; other labels keep their name.
        drop_labels: rows with these labels are not part of the study.
    """

    modality: Modality = "other"
    patient_columns: tuple[str, ...] = ("patient",)
    subgroup_columns: tuple[str, ...] = ()
    rename_labels: Mapping[str, str] = field(default_factory=dict)
    drop_labels: tuple[str, ...] = ()


def sites_in_manifest(folder: Path) -> tuple[str, ...]:
    """Names of all sites, sorted; raises ``SiteDataError``."""
    return _sites(read_table(folder / MANIFEST, ("site",)))


def read_manifest(folder: Path, site: str, settings: ManifestSettings, secret: bytes) -> list[CaseFiles]:
    """Cases of ``site`` in the order of the manifest; names are salted with ``secret``; raises ``SiteDataError``."""
    required = ("site", "image", *settings.patient_columns, *settings.subgroup_columns)
    rows = read_table(folder / MANIFEST, required)
    # All rows are read before any is used: a manifest with one bad row is not half believed.
    own = [row for row in rows if row.get("site") == site]
    if not own:
        near = difflib.get_close_matches(site, _sites(rows), n=1)
        raise SiteDataError(
            f"the manifest has no row of site {site!r} among {len(rows)} rows",
            hint=f"did you mean {near[0]!r}?" if near else f"it has: {', '.join(_sites(rows))}",
            code="site-unknown",
        )
    _check_images(own)
    salt = Salt(site, secret)
    return [_case(folder, row, settings, salt) for row in own if row.get("label") not in settings.drop_labels]


def _sites(rows: Iterable[Row]) -> tuple[str, ...]:
    return tuple(sorted({row.get("site") for row in rows}))


def _check_images(rows: Iterable[Row]) -> None:
    """An image in two rows could belong to two patients, and so to two splits."""
    first: dict[PurePosixPath, int] = {}
    for row in rows:
        if not row.get("image"):
            raise SiteDataError(
                f"row {row.number} of the manifest names no image", hint="fill or drop it", code="no-image"
            )
        image = PurePosixPath(row.get("image"))  # "./a.png" is "a.png"
        if first.setdefault(image, row.number) != row.number:
            raise SiteDataError(
                f"rows {first[image]} and {row.number} of the manifest name the same image",
                hint="keep one of them",
                code="duplicate-image",
            )


def _case(folder: Path, row: Row, settings: ManifestSettings, salt: Salt) -> CaseFiles:
    image, label = str(PurePosixPath(row.get("image"))), row.get("label")
    person = [row.get(column) for column in settings.patient_columns]
    return CaseFiles(
        case_id=salt.case(image),
        patient=salt.person(*person) if any(person) else salt.unnamed_person(image),
        images=(inside(folder, image, row.number),),
        mask=inside(folder, row.get("mask"), row.number) if row.get("mask") else None,
        label=settings.rename_labels.get(label, label) or None,
        subgroups=tuple(subgroup(column, row.get(column)) for column in settings.subgroup_columns),
        modality=settings.modality,
    )
