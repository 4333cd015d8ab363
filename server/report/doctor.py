"""What each site's data doctor found, as a table of findings by site.

Promises
- Every finding of ``results.json`` has a row, the gravest first, in words that a reader knows; a code without words of
  its own is shown as it is.
- Counts are those that sites released: of images, suppressed where they are small, and none where a finding is about a
  data set as a whole.
- A table stays as wide as a page: of many sites it tells how many share a finding.
"""

from __future__ import annotations

from collections.abc import Mapping

from server.report.metrics import DASH
from server.report.run import Run
from server.report.tables import Cell, Table
from server.results import SUPPRESSED, Noted

MOST_SITES = 6
"""So many sites have a column each."""

FINDINGS: Mapping[str, str] = {
    "archive-damaged": "stored images that are not what was stored",
    "burned-in-suspected": "identifiers may be burned into the image",
    "channels-mixed": "colour images among grey ones, or the reverse",
    "ct-clipped": "CT cut to a window",
    "ct-eight-bit": "CT of 256 grey values, not Hounsfield units",
    "ct-not-hounsfield": "CT whose values are not Hounsfield units",
    "ct-range": "CT beyond the range of Hounsfield units",
    "dimensions-mixed": "slices among volumes, or the reverse",
    "duplicate-across-patients": "equal images of different patients",
    "duplicate-across-splits": "equal images in different splits",
    "duplicate-labels-differ": "equal images with different labels",
    "duplicate-within-patient": "equal images of one patient",
    "identifying-content-dropped": "identifying content in headers, not taken over",
    "image-constant": "images of one value",
    "image-inverted": "dark and bright exchanged",
    "image-saturated": "saturated images",
    "image-two-values": "images of two values, as masks have",
    "label-few-patients": "a class of few patients",
    "label-identifies": "labels that tell patients apart",
    "label-looks-like-identifier": "labels that look like identifiers",
    "label-missing": "labels missing",
    "label-one-class": "one and the same label for all",
    "label-spelling": "labels in different spellings",
    "mask-at-border": "masks that reach the border",
    "mask-classes": "rare classes in masks",
    "mask-empty": "empty masks",
    "mask-full": "masks without background",
    "mask-missing": "masks missing",
    "mask-tiny-islands": "masks with specks of a few voxels",
    "modalities-mixed": "images of several modalities",
    "near-duplicate-across-patients": "nearly equal images of different patients",
    "near-duplicate-across-splits": "nearly equal images in different splits",
    "near-duplicates-unsure": "more images look alike than were compared closely",
    "not-measured": "images that could not be measured",
    "nothing-to-learn": "neither labels nor masks",
    "orientation-oblique": "oblique volumes",
    "orientation-sheared": "gantry tilt that was not corrected",
    "patient-dominates": "one patient with a large share of the images",
    "patient-two-names": "one patient under two names",
    "patients-few": "few patients",
    "patients-not-told": "patients not told apart by any identifier",
    "quarantine-quota": "more unreadable images than allowed",
    "quarantined-burned-in": "set aside: may show identifiers",
    "quarantined-mask": "set aside: mask does not fit",
    "quarantined-series": "set aside: series that is no volume",
    "quarantined-unreadable": "set aside: cannot be read",
    "shapes-mixed": "images of different sizes",
    "spacing-implausible": "implausible voxel sizes",
    "spacing-outlier": "voxel sizes unlike the others",
    "spacing-unknown": "voxel sizes unknown",
    "subgroup-identifies": "subgroups that tell patients apart",
    "subgroup-looks-like-identifier": "subgroups that look like identifiers",
}

_GRAVITY = ("error", "warning", "note")
_ALL, _NOT_FOUND = "yes", DASH


def doctor_table(run: Run) -> Table | None:
    """Findings by site; None where no doctor looked or found anything."""
    found = {site: data.doctor for site, data in sorted(run.results.data.items()) if data.cohort}
    rows = sorted({(_rank(noted.severity), code) for doctor in found.values() for code, noted in doctor.items()})
    if not rows:
        return None
    few = len(found) <= MOST_SITES
    columns = ("Finding", "Severity", *(found if few else ("Sites",)))
    cells = _by_site if few else _how_many
    note = f"Numbers of images; {SUPPRESSED} stands for 1 or 2" + (f", {_NOT_FOUND} for none" if few else "") + "."
    return Table(
        "What each site's data doctor found",
        columns,
        tuple((_words(code), (Cell(_GRAVITY[rank]), *cells(found, rank, code))) for rank, code in rows),
        f"{note} What is meant, each site sees in its own report; it never leaves the site.",
    )


def _rank(severity: str) -> int:
    return _GRAVITY.index(severity) if severity in _GRAVITY else len(_GRAVITY) - 1


def _words(code: str) -> str:
    words = FINDINGS.get(code, code.replace("-", " "))
    return words[:1].upper() + words[1:]


def _by_site(found: Mapping[str, Mapping[str, Noted]], rank: int, code: str) -> list[Cell]:
    """How many images each site found."""
    noted = (_at(doctor, rank, code) for doctor in found.values())
    return [Cell(_NOT_FOUND if one is None else str(one.cases or _ALL)) for one in noted]


def _how_many(found: Mapping[str, Mapping[str, Noted]], rank: int, code: str) -> list[Cell]:
    """How many sites found it."""
    count = sum(_at(doctor, rank, code) is not None for doctor in found.values())
    return [Cell(f"{count} of {len(found)}")]


def _at(doctor: Mapping[str, Noted], rank: int, code: str) -> Noted | None:
    noted = doctor.get(code)
    return noted if noted is not None and _rank(noted.severity) == rank else None
