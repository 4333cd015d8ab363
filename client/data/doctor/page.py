"""The doctor's report: one HTML file for the people at the site, with pictures; it does not leave.

Promises
- The page is one file: no script, no font, no image, no style from anywhere else, and a policy in it that forbids them
  (Content Security Policy Level 3). It opens without a network. The same archive and diagnosis give the same bytes.
- It is readable by its owner alone (0600), replaced whole, and says on top that it stays here.
- Findings come as the diagnosis has them, errors first, those of one code together: what was found, what to do,
  examples, and what to type to leave them out. What is not shown is counted.

Sentences come from the diagnosis, drawings from ``plots``, pictures from ``thumbnails``; ``page.html.j2`` puts them in
place and escapes every word.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from client.data.archive.archive import Archive
from client.data.doctor import plots, thumbnails
from client.data.doctor.findings import Diagnosis, Finding, Histogram, Severity
from client.data.doctor.survey import Survey, survey
from shared.durable import replace_file
from shared.errors import SiteDataError

EXAMPLES = 6
"""Pictures for each kind of finding."""
SENTENCES = 8
NAMED = 200
"""Names of cases written out for each kind of finding; all of them can be left out by the finding's code."""

_WORDS: dict[Severity, str] = {"error": "settle before freezing", "warning": "worth a look", "note": "to know"}
_TIMES = "\N{MULTIPLICATION SIGN}"
_USES = {
    "image": "part of a case",
    "mask": "mask of a case",
    "table": "table",
    "copy": "second copy of the same bytes",
    "not-listed": "image that the tables do not name",
    "not-an-image": "no image",
    "quarantined": "set aside, see above",
}


@dataclass(frozen=True, slots=True)
class Example:
    """One case with its picture; ``address`` is empty where it cannot be shown, and ``caption`` says why."""

    case_id: str
    address: str
    caption: str


@dataclass(frozen=True, slots=True)
class Kind:
    """All findings of one code, as the page shows them.

    Attributes:
        code: of the findings.
        severity: the worst of them.
        weight: what the severity asks for.
        sentences: what was found; the first ``SENTENCES``.
        more_sentences: how many were left out.
        hints: what to do, each once.
        cases: names of the cases; the first ``NAMED``.
        count: how many cases there are.
        examples: pictures of the first.
        sets: names that belong together, joined; the first of as many as ``NAMED`` names.
        command: what to type to leave the cases out; "" where none are meant, or none need to be.
    """

    code: str
    severity: Severity
    weight: str
    sentences: tuple[str, ...]
    more_sentences: int
    hints: tuple[str, ...]
    cases: tuple[str, ...]
    count: int
    examples: tuple[Example, ...]
    sets: tuple[str, ...]
    command: str


@dataclass(frozen=True, slots=True)
class Drawing:
    """A figure with its heading and caption."""

    title: str
    svg: Markup
    caption: str


def write_page(diagnosis: Diagnosis, archive: Archive, path: Path) -> None:
    """Write the page of a data set, in place of an older one."""
    replace_file(path, render(diagnosis, archive).encode())


def render(diagnosis: Diagnosis, archive: Archive) -> str:
    """The page as text."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["capitalized"] = capitalized
    return environment.get_template("page.html.j2").render(context(diagnosis, archive))


def capitalized(sentence: str) -> str:
    """``sentence`` with a capital at its beginning; the rest stays as it is."""
    return sentence[:1].upper() + sentence[1:]


def context(diagnosis: Diagnosis, archive: Archive) -> dict[str, Any]:
    """Everything the template shows, by name."""
    seen = survey(archive)
    reasons = {one.code: one.sentence for one in reversed(archive.quarantined())}
    return {
        "dataset": diagnosis.dataset,
        "lead": lead(diagnosis),
        "facts": _facts(diagnosis),
        "kinds": kinds(diagnosis, archive),
        "tables": [(name, _bars(counts)) for name, counts in diagnosis.tables.items() if counts],
        "vendors": sorted({vendor for row in seen.classes.values() for vendor in row}),
        "classes": seen.classes,
        "drawings": drawings(diagnosis, seen),
        "quarantined": [(code, count, reasons.get(code, "")) for code, count in _largest(diagnosis.quarantined)],
        "files": [(_USES.get(use, use), count) for use, count in _largest(diagnosis.files)],
    }


def lead(diagnosis: Diagnosis) -> str:
    """The state of the data set in two sentences."""
    held = f"{_count(diagnosis.cases, 'image')} of {_count(diagnosis.patients, 'patient')}."
    codes = {one.code: one.severity for one in reversed(diagnosis.findings)}
    errors, warnings = (sum(severity == wanted for severity in codes.values()) for wanted in ("error", "warning"))
    if errors:
        rest = f", {warnings} more worth a look" if warnings else ""
        return f"{held} {_count(errors, 'thing')} to settle before this data set is frozen{rest}."
    if warnings:
        return f"{held} Nothing stands against freezing; {_count(warnings, 'thing')} worth a look."
    return f"{held} Nothing stands against freezing this data set."


def kinds(diagnosis: Diagnosis, archive: Archive) -> list[Kind]:
    """Findings by code, in the order in which the diagnosis first has each."""
    by_code: dict[str, list[Finding]] = {}
    for finding in diagnosis.findings:
        by_code.setdefault(finding.code, []).append(finding)
    return [_kind(code, found, diagnosis.dataset, archive) for code, found in by_code.items()]


def drawings(diagnosis: Diagnosis, seen: Survey) -> list[Drawing]:
    """Grey values by modality, then whatever the doctor measured on each case, or else its geometry."""
    found = []
    for modality, (shown, images) in seen.intensities.items():
        caption = f"{_count(images, 'image')}, drawn at random. Heights are square roots, so that few show beside many."
        found.append(_drawing(f"Grey values, {modality.upper()}", shown, caption, "square-root"))
    for title, shown in (diagnosis.histograms or seen.geometry).items():
        found.append(_drawing(title, shown, "Number of cases.", "linear"))
    return found


def _drawing(title: str, shown: Histogram, caption: str, scale: plots.Scale) -> Drawing:
    return Drawing(title, Markup(plots.histogram(title, shown, scale)), caption)  # noqa: S704 - words escaped in plots


def _kind(code: str, found: Sequence[Finding], dataset: str, archive: Archive) -> Kind:
    severity = min((one.severity for one in found), key=list(_WORDS).index)
    sets = [together for one in found for together in one.together]
    # Copies stand side by side, so that one can see that they are.
    marks = {case: f"set {number}: " for number, together in enumerate(sets, start=1) for case in together}
    cases = tuple(dict.fromkeys([*marks, *(case for one in found for case in one.cases)]))
    return Kind(
        code=code,
        severity=severity,
        weight=_WORDS[severity],
        sentences=tuple(one.sentence for one in found[:SENTENCES]),
        more_sentences=max(0, len(found) - SENTENCES),
        hints=tuple(dict.fromkeys(one.hint for one in found if one.hint)),
        cases=cases[:NAMED],
        count=len(cases),
        examples=tuple(_example(archive, case, marks.get(case, "")) for case in cases[:EXAMPLES]),
        sets=tuple(" = ".join(together) for together in sets[: NAMED // 2]),
        command=f"consilium-site freeze --dataset {dataset} --exclude {code}" if cases and severity != "note" else "",
    )


def _example(archive: Archive, case_id: str, mark: str) -> Example:
    record = archive.record(case_id)
    if record is None:
        return Example(case_id, "", "no longer in the archive")
    try:
        address = thumbnails.data_uri(archive, record)
    except SiteDataError as error:
        return Example(case_id, "", f"cannot be shown: {error.code}")
    size = f" {_TIMES} ".join(map(str, record.shape[1:]))
    return Example(case_id, address, f"{mark}{record.modality.upper()}, {size}, label {record.label or 'none'}")


def _facts(diagnosis: Diagnosis) -> list[tuple[str, str, str]]:
    settle = len({one.code for one in diagnosis.findings if one.severity == "error"})
    return [
        ("Images", f"{diagnosis.cases}", "in the archive"),
        ("Patients", f"{diagnosis.patients}", "as far as can be told"),
        ("Set aside", f"{sum(diagnosis.quarantined.values())}", "in quarantine"),
        ("Files", f"{sum(diagnosis.files.values())}", "looked at"),
        ("To settle", f"{settle}", "kinds of error"),
    ]


def _bars(counts: Mapping[str, int]) -> list[tuple[str, int, float]]:
    """(value, patients, per cent of the largest), the largest first."""
    most = max(counts.values())
    return [(value, count, round(100 * count / most, 1) if most else 0.0) for value, count in _largest(counts)]


def _largest(counts: Mapping[str, int]) -> list[tuple[str, int]]:
    return sorted(counts.items(), key=lambda pair: (-pair[1], pair[0]))


def _count(amount: int, noun: str) -> str:
    return f"{amount} {noun}" + "s" * (amount != 1)
