"""What deserves a look before anybody believes the numbers: what tests of the sites' data have found, in plain words.

Promises
- Every finding of ``results.json`` is told, with its own sentence, its statistic's chance and what to do about it; a
  code without words of its own is shown as it is, with advice that always holds.
- A finding is a suspicion. Nothing here says that a site has done wrong, nor who is right.
- Without a finding there is nothing to show: an empty section would read like an acquittal.

Leaves to others: finding (``shared.evaluation.label_quality``, ``simulations.duplicates``).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from server.report.run import Run

INTRODUCTION = (
    "Networks trained at the other sites were tried on each site's data, and said something that the data do not. "
    "What is listed here deserves a look by somebody who knows the images. It is no proof, and until it is settled the "
    "numbers below are to be read with care."
)
CHANCE = "Chance of finding this in data without fault, corrected for all sites and tests"


@dataclass(frozen=True, slots=True)
class Advice:
    """How a kind of finding is named, and what to do about it."""

    title: str
    todo: str


ADVICE: Mapping[str, Advice] = {
    "labels-flipped": Advice(
        "Labels look exchanged",
        "At this site, compare twenty labels with the pathology or the report they came from, and check which way "
        "round the export names its classes. Correct the labels, freeze the cohort anew, and repeat the run.",
    ),
    "images-inverted": Advice(
        "Images look inverted",
        "At this site, open ten images beside their originals. Look for MONOCHROME1, an inverted look-up table, or an "
        "export that exchanges dark and bright. Export again, freeze the cohort anew, and repeat the run.",
    ),
    "labels-or-images": Advice(
        "Labels look exchanged, or images inverted",
        "At this site, open ten images beside their originals, then compare twenty labels with the report they came "
        "from: either fault would look like this from outside. Correct it, freeze the cohort anew, repeat the run.",
    ),
    "masks-shifted": Advice(
        "Outlines look shifted",
        "At this site, lay ten masks over their images. A shift that is the same everywhere points to an export with "
        "another origin, crop or voxel order. Export again, freeze the cohort anew, and repeat the run.",
    ),
    "one-class": Advice(
        "All patients are of one class",
        "Ask this site whether it sees only such patients, or whether a filter or an export has lost the others. If it "
        "is true, its own sensitivity or specificity is not determined, and its share of the training is one-sided.",
    ),
    "patients-at-two-sites": Advice(
        "The same patients at two sites",
        "Ask both sites how the images came to be there. Leave these patients at one site only: a patient who is in "
        "training at one site and tested at the other makes the results look better than they are.",
    ),
}
_OTHER = "Ask this site to look at its images and labels with this in mind, and repeat the run once it is settled."


@dataclass(frozen=True, slots=True)
class Look:
    """One finding as the report tells it.

    Attributes:
        site: whose data.
        title: what it looks like, in a few words.
        sentence: what was measured.
        chance: probability under the null hypothesis, as text; empty where nothing was drawn.
        todo: what to do.
    """

    site: str
    title: str
    sentence: str
    chance: str
    todo: str


def looks(run: Run) -> list[Look]:
    """All findings, by site; empty where no test was made, or nothing found."""
    return [_look(finding) for finding in sorted(found_in(run), key=lambda one: (one["site"], one["code"]))]


def found_in(run: Run) -> list[Mapping[str, Any]]:
    """Findings as ``results.json`` holds them."""
    found: list[Mapping[str, Any]] = run.results.checks.get("findings") or []
    return found


def _look(finding: Mapping[str, Any]) -> Look:
    code, chance = finding["code"], finding.get("p")
    advice = ADVICE.get(code, Advice(code.replace("-", " ").capitalize(), _OTHER))
    said = finding["sentence"]
    sentence = said[:1].upper() + said[1:] + "." * (not said.endswith("."))
    return Look(finding["site"], advice.title, sentence, "" if chance is None else _percent(chance), advice.todo)


def _percent(chance: float) -> str:
    return "below 0.1 %" if chance < 0.001 else f"{100 * chance:.1f} %"
