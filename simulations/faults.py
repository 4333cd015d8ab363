"""Faults planted into one hospital of a folder with a manifest, to see whether they are found.

Promises
- ``plant`` copies a folder and damages one site's part of the copy, before anything is read or frozen: the fault goes
  the way of a real one through ingest, doctor and cohort. The source is never changed, nor any other site.
- The same fault on the same folder gives the same bytes.

========================  ==========================================================================================
kind                      what is done to the site
========================  ==========================================================================================
labels-flipped            every label becomes the next one of the manifest's classes
images-inverted           every picture becomes its negative, over the range of its type
masks-shifted             every mask is moved by ``by`` pixels down and right; what leaves the picture is lost
one-class                 only patients of the manifest's first class stay
patients-at-two-sites     the first ``patients`` patients of ``other`` are also at the site, under names of its own
========================  ==========================================================================================

For pictures (PNG and what else Pillow writes without loss). A manifest as ``docs/researcher.md`` describes it.
"""

from __future__ import annotations

import csv
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

import numpy as np
import PIL.Image
from numpy.typing import NDArray

from shared.errors import ScenarioError
from simulations.federation import MANIFEST

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

    kind: Kind
    site: str
    by: int = 3
    other: str = ""
    patients: int = 4


def plant(folder: Path, out: Path, fault: Fault) -> Path:
    """Copy ``folder`` to ``out``, which must not be there, with ``fault`` in it; returns ``out``."""
    rows = _rows(folder)
    for name in {fault.site, fault.other} - {""}:
        if name not in {row["site"] for row in rows}:
            raise ScenarioError(f"the manifest has no site {name}", hint="name one of its sites")
    if fault.kind == "patients-at-two-sites" and fault.other in {"", fault.site}:
        raise ScenarioError("duplicated patients need another site to come from", hint="name it: other")
    shutil.copytree(folder, out)
    damaged = _DAMAGE[fault.kind](out, rows, fault)
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


def _flip_labels(_folder: Path, rows: list[Row], fault: Fault) -> list[Row]:
    classes = _classes(rows)
    following = dict(zip(classes, classes[1:] + classes[:1], strict=True))
    return [row | {"label": following[row["label"]]} if row["site"] == fault.site else row for row in rows]


def _invert(folder: Path, rows: list[Row], fault: Fault) -> list[Row]:
    _repaint(folder, rows, fault.site, "image", _negative)
    return rows


def _shift_masks(folder: Path, rows: list[Row], fault: Fault) -> list[Row]:
    _repaint(folder, rows, fault.site, "mask", lambda pixels: _moved(pixels, fault.by))
    return rows


def _keep_one_class(_folder: Path, rows: list[Row], fault: Fault) -> list[Row]:
    first = _classes(rows)[0]
    others = {(row["site"], row["patient"]) for row in rows if row["label"] != first}
    return [row for row in rows if row["site"] != fault.site or (row["site"], row["patient"]) not in others]


def _duplicate(folder: Path, rows: list[Row], fault: Fault) -> list[Row]:
    names = list(dict.fromkeys(row["patient"] for row in rows if row["site"] == fault.other))[: fault.patients]
    added = [
        row | {"site": fault.site, "patient": f"again-{row['patient']}"} | _copied(folder, row, fault.site)
        for row in rows
        if row["site"] == fault.other and row["patient"] in names
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


def _classes(rows: list[Row]) -> list[str]:
    return sorted({row["label"] for row in rows})


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


_DAMAGE: Mapping[Kind, Callable[[Path, list[Row], Fault], list[Row]]] = {
    "labels-flipped": _flip_labels,
    "images-inverted": _invert,
    "masks-shifted": _shift_masks,
    "one-class": _keep_one_class,
    "patients-at-two-sites": _duplicate,
}
