"""Where the model looks, as a table: beside the model a network that has learnt nothing.

Promises
- A run whose plan asks for no explanations has no table. What is suppressed reads so; what is undetermined is a dash.
- The model never stands alone: its control, and the difference between them, stand beside it.

Numbers are ``final.explanations`` of results.json (``shared.evaluation.explanations``).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from server.report.metrics import LEVEL, interval, measure, number
from server.report.run import Run
from server.report.tables import Cell, Table

ROWS: Mapping[str, str] = {
    "saliency_inside": "Share of the map inside the lesion",
    "pointing_game": "Images in which the map is largest inside the lesion",
    "saliency_found": "Images that have a map at all",
}
_ARMS = ("model", "control", "difference")
_METHODS = {"grad-cam": "Grad-CAM", "occlusion": "Occlusion"}


def explanations_table(run: Run) -> Table | None:
    """How much of the model's maps lies inside lesions, of all images and by class; None where nobody asked."""
    found: Mapping[str, Any] = run.results.final.get("explanations") or {}
    if not found:
        return None
    rows = [_row(text, found, name) for name, text in ROWS.items()]
    for of_class, block in found["classes"].items():
        rows.append(_row(f"{ROWS['saliency_inside']}, {of_class}", block, "saliency_inside"))
    columns = ("Measure", "Shared model", "Weights drawn anew", "Difference")
    return Table("Where the model looks", columns, tuple(rows), " ".join(_note(found)))


def _note(found: Mapping[str, Any]) -> list[str]:
    chance = measure_of(found["model"]["saliency_chance"])
    said = [
        f"{_METHODS[found['method']]}, on {found['cases']} test images with a lesion, each for the class it has.",
        f"Lesions cover {chance} of these images: what an even map would reach." if chance else "",
        "The same maps of networks that have learnt nothing stand beside the model's: where the interval of the "
        "difference holds 0, the maps show no more than the images themselves.",
        f"Below each value its {LEVEL}. Maps stayed at their site.",
    ]
    missing = found.get("missing_sites")
    if missing:
        said.append(f"{missing} of the sites explained too few patients to be told, and are in no number here.")
    if "suppressed" in {block["cases"] for block in (found, *found["classes"].values())}:
        said.append("Suppressed: too few patients to be told. Not zero.")
    return [sentence for sentence in said if sentence]


def measure_of(raw: float | str | Mapping[str, Any] | None) -> str:
    """A proportion for a sentence; empty where it is suppressed or undetermined."""
    if isinstance(raw, str) or not measure(raw).determined:
        return ""
    return f"{measure(raw).value:.1%}".replace("%", "\N{NO-BREAK SPACE}%")


def _row(text: str, block: Mapping[str, Any], name: str) -> tuple[str, tuple[Cell, ...]]:
    return text, tuple(_cell(name, block[arm][name]) for arm in _ARMS)


def _cell(name: str, raw: str | Mapping[str, Any]) -> Cell:
    if isinstance(raw, str):
        return Cell(raw)
    found = measure(raw)
    return Cell(number(name, found.value), interval(name, found), found.value if found.determined else None)
