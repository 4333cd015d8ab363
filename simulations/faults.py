"""Faults planted into one hospital of a folder with a manifest, to see whether they are found.

Promises
- ``plant`` copies a folder and damages one site's part of the copy, before anything is read or frozen: the fault goes
  the way of a real one through ingest, doctor and cohort. The source is never changed, nor any other site.
- The same fault on the same folder gives the same bytes.

========================  ==========================================================================================
kind                      what is done to the site
========================  ==========================================================================================
labels-flipped            every label becomes the next one of the manifest's classes, without dropped ones
images-inverted           every picture becomes its negative, over the range of its type
masks-shifted             every mask is moved by ``by`` pixels down and right; what leaves the picture is lost
one-class                 only patients of the manifest's first class stay
patients-at-two-sites     the first ``patients`` patients of ``other`` are also at the site, under names of its own
========================  ==========================================================================================

For pictures: PNG and what else Pillow writes without loss; what is repainted as JPEG loses a little. A manifest as
``docs/researcher.md`` describes it. Synthetic hospitals: ``simulations.phantoms.planted``.
"""

from __future__ import annotations

import csv
import shutil
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal, get_args

import numpy as np
import PIL.Image
from numpy.typing import NDArray
from pydantic import ConfigDict

from shared.errors import ScenarioError

MANIFEST = "manifest.csv"

Kind = Literal["labels-flipped", "images-inverted", "masks-shifted", "one-class", "patients-at-two-sites"]
KINDS: tuple[Kind, ...] = get_args(Kind)

Row = dict[str, str]
Pixels = NDArray[np.unsignedinteger]


@dataclass(frozen=True, slots=True)
class Fault:
    """What is wrong with ``site``.

    Attributes:
        kind: see the module.
        site: the damaged one.
        by: pixels that masks are moved.
        other: where duplicated patients come from.
        patients: how many are duplicated.
    """

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")

    kind: Kind
    site: str
    by: int = 3
    other: str = ""
    patients: int = 4

    def check(self, sites: Collection[str]) -> None:
        """Raise ``ScenarioError`` where this cannot be planted among ``sites``."""
        for name in {self.site, self.other} - {""}:
            if name not in sites:
                raise ScenarioError(f"there is no site {name} to plant a fault in", hint="name one of the sites")
        if self.kind == "patients-at-two-sites" and self.other in {"", self.site}:
            raise ScenarioError("duplicated patients need another site to come from", hint="name it: other")


@dataclass(frozen=True, slots=True)
class Columns:
    """How a manifest is read: what names a patient (all blank: each image is one), and labels that are left out."""

    patient: tuple[str, ...] = ("patient",)
    drop_labels: tuple[str, ...] = ()

    def person(self, row: Row) -> tuple[str, ...]:
        """The patient of ``row``, at its site."""
        named = tuple(row[column] for column in self.patient)
        return (row["site"], *(named if any(named) else (row["image"],)))

    def renamed(self, row: Row) -> Row:
        """``row`` of a patient by another name; a blank one stays blank."""
        return {column: f"again-{row[column]}" for column in self.patient if row[column]}

    def classes(self, rows: list[Row]) -> list[str]:
        """Labels that count, sorted."""
        return sorted({row["label"] for row in rows} - set(self.drop_labels))


def plant(folder: Path, out: Path, fault: Fault, columns: Columns = Columns()) -> Path:
    """Copy ``folder`` to ``out``, which must not be there, with ``fault`` in it; returns ``out``."""
    rows = _rows(folder)
    fault.check({row["site"] for row in rows})
    shutil.copytree(folder, out)
    damaged = _DAMAGE[fault.kind](out, rows, fault, columns)
    with (out / MANIFEST).open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(damaged)
    return out


def _rows(folder: Path) -> list[Row]:
    with (folder / MANIFEST).open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    if not rows:
        raise ScenarioError("the manifest has no row below its header", hint="write one for each image")
    return rows


def _flip_labels(_folder: Path, rows: list[Row], fault: Fault, columns: Columns) -> list[Row]:
    classes = columns.classes(rows)
    following = dict(zip(classes, classes[1:] + classes[:1], strict=True))
    return [
        row | {"label": following.get(row["label"], row["label"])} if row["site"] == fault.site else row for row in rows
    ]


def _invert(folder: Path, rows: list[Row], fault: Fault, _columns: Columns) -> list[Row]:
    _repaint(folder, rows, fault.site, "image", _negative)
    return rows


def _shift_masks(folder: Path, rows: list[Row], fault: Fault, _columns: Columns) -> list[Row]:
    _repaint(folder, rows, fault.site, "mask", lambda pixels: _moved(pixels, fault.by))
    return rows


def _keep_one_class(_folder: Path, rows: list[Row], fault: Fault, columns: Columns) -> list[Row]:
    first = columns.classes(rows)[0]
    others = {columns.person(row) for row in rows if row["label"] != first}
    return [row for row in rows if row["site"] != fault.site or columns.person(row) not in others]


def _duplicate(folder: Path, rows: list[Row], fault: Fault, columns: Columns) -> list[Row]:
    kept = (row for row in rows if row["site"] == fault.other and row.get("label") not in columns.drop_labels)
    people = list(dict.fromkeys(map(columns.person, kept)))[: fault.patients]
    added = [
        row | {"site": fault.site} | columns.renamed(row) | _copied(folder, row, fault.site)
        for row in rows
        if columns.person(row) in people
    ]
    return rows + added


def _copied(folder: Path, row: Row, site: str) -> Row:
    """Copies of a row's files at ``site``: two rows may not name one file."""
    copies = {}
    for column in ("image", "mask"):
        if name := row.get(column):
            copies[column] = f"{site}/again/{name}"
            (folder / copies[column]).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(folder / name, folder / copies[column])
    return copies


def _repaint(folder: Path, rows: list[Row], site: str, column: str, paint: Callable[[Pixels], Pixels]) -> None:
    for name in sorted({row[column] for row in rows if row["site"] == site and row[column]}):
        with PIL.Image.open(folder / name) as picture:
            pixels = np.asarray(picture)
        PIL.Image.fromarray(paint(pixels)).save(folder / name)


def _negative(pixels: Pixels) -> Pixels:
    return np.asarray(np.iinfo(pixels.dtype).max - pixels, pixels.dtype)


def _moved(pixels: Pixels, by: int) -> Pixels:
    moved = np.zeros_like(pixels)
    moved[by:, by:] = pixels[: pixels.shape[0] - by, : pixels.shape[1] - by]
    return moved


_DAMAGE: Mapping[Kind, Callable[[Path, list[Row], Fault, Columns], list[Row]]] = {
    "labels-flipped": _flip_labels,
    "images-inverted": _invert,
    "masks-shifted": _shift_masks,
    "one-class": _keep_one_class,
    "patients-at-two-sites": _duplicate,
}
