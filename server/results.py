"""What a run leaves behind for people and programs: ``results.json``, ``rounds.jsonl`` and ``predictions.csv``.

Promises
- The same run writes the same bytes: keys are sorted, rows are sorted, and whatever depends on the clock sits under
  ``timing``. A number that is not finite is written as null: undetermined, never zero.
- ``results.json`` stays small enough to read and to send (``server.concise``): of models beside the final one it holds
  the main metrics, and ``details.json`` beside it all of them.
- A file is either the whole old one or the whole new one, on disk before the call returns. Only ``rounds.jsonl`` grows,
  by one fsynced line a round; ``keep_rounds`` cuts it back to what the journal knows before a run resumes.
- In ``data`` a count below ``FLOOR`` patients or cases is written as ``SUPPRESSED``; it cannot be forgotten, because
  it happens on writing.

Leaves to others: computing any of the numbers (``shared.evaluation``), and showing them (``server.report``).
``docs/run-folder.md`` describes every key.
"""

from __future__ import annotations

import csv
import io
import json
import math
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from server.concise import concise, laid_out
from shared.durable import SHARED, replace_file
from shared.errors import RunError

FORMAT = "consilium-results-1"
FLOOR = 3
SUPPRESSED = f"<{FLOOR}"
RESULTS, ROUNDS, PREDICTIONS, PLAN = "results.json", "rounds.jsonl", "predictions.csv", "plan.toml"
DETAILS = "details.json"

_OPTIONAL = {"personalised", "baselines", "checks", "differences"}
_DETAILED = ("personalised", "baselines", "differences")

Block = Mapping[str, Any]
"""Metrics of one model on one set of patients: ``pooled``, and where released ``sites``, ``macro`` and ``worst``.

``Results.final`` may also hold ``subgroups``, ``explanations`` and ``curves``.
"""
Count = int | str
"""A number of cases or patients; ``SUPPRESSED`` where it was too small to tell."""


@dataclass(frozen=True, slots=True)
class Participation:
    """One round: the sites whose updates are in the sum, and the code of each site that is not."""

    round: int
    participants: tuple[str, ...]
    missing: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class RoundRecord:
    """One line of ``rounds.jsonl``.

    Attributes:
        participation: who took part, who did not and why.
        loss: mean training loss over the steps of all participants; None where no site took part, or told its own.
        checkpoint: SHA-256 of the global model after this round.
        metrics: the global model on validation patients, a block as in ``Results.final``; None in rounds between.
        seconds: wall-clock time of the round.
    """

    participation: Participation
    loss: float | None
    checkpoint: str
    metrics: Block | None = None
    seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class Noted:
    """What a site's data doctor noted under one code: how much it matters, and how many cases it names.

    No cases (0): it is about the data set as a whole.
    """

    severity: str
    cases: Count


@dataclass(frozen=True, slots=True)
class SiteData:
    """What one site trained on, and what it set aside.

    Attributes:
        patients: how many could be used.
        cases: likewise.
        quarantined: how many cases could not, by the code of the reason.
        cohort: SHA-256 of the frozen cohort; "" where none is known.
        doctor: what the site's data doctor noted about the data it was frozen from, by the code of the finding.
    """

    patients: Count
    cases: Count
    quarantined: Mapping[str, Count] = field(default_factory=dict)
    cohort: str = ""
    doctor: Mapping[str, Noted] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Timing:
    """Wall-clock seconds; ``overhead_ratio`` is all rounds over local training, None where not measured."""

    total_s: float
    local_training_s: float
    overhead_ratio: float | None = None


@dataclass(frozen=True, slots=True)
class Results:
    """Everything ``results.json`` says.

    Attributes:
        run: identifier of the run.
        plan_digest: SHA-256 of the plan's canonical bytes.
        seed: the seed that every draw outside privacy and cryptography came from.
        versions: version by package name.
        headline: the metric that stands first.
        final: the last global model on test patients.
        timing: what the clock said; the only part that may differ between two runs of the same plan.
        lower_is_better: names of metrics where less is better.
        checkpoint: SHA-256 of the final model.
        command: what to type to run this again; empty where only the plan is known.
        personalised: each site's own fine-tuned model on its own test patients, as a block.
        baselines: ``local`` (by site: trained there alone, measured on all test patients) and ``central`` (trained on
            all data in one room): metric -> number, or interval with ``value``, ``low``, ``high``, ``n_patients``.
        checks: what tests of the sites' data found: ``data``, every check, and ``findings``, those that named a site.
        differences: how models differ on the same patients, as ``server.differences`` has it.
        privacy: by site: ``unit`` and, where it is "patient", ``epsilon``, ``delta``, ``sigma``, ``q``, ``steps``, …;
            where sites share the noise also ``shared``, of how many sites' noise that is, and what is left without it.
        participation: one entry a round.
        data: by site.
    """

    run: str
    plan_digest: str
    seed: int
    versions: Mapping[str, str]
    headline: str
    final: Block
    timing: Timing
    lower_is_better: tuple[str, ...] = ()
    checkpoint: str = ""
    command: str = ""
    personalised: Block | None = None
    baselines: Mapping[str, Any] = field(default_factory=dict)
    checks: Mapping[str, Any] = field(default_factory=dict)
    differences: tuple[Mapping[str, Any], ...] = ()
    privacy: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    participation: tuple[Participation, ...] = ()
    data: Mapping[str, SiteData] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Prediction:
    """One row of ``predictions.csv``: salted identifiers, what ``Task.describe`` said, declared subgroups."""

    site: str
    patient: str
    case: str
    values: Mapping[str, float | int | str]
    subgroups: Mapping[str, str] = field(default_factory=dict)


def suppress(count: Count) -> Count:
    """The count, or ``SUPPRESSED`` where it is above zero and below ``FLOOR``."""
    return SUPPRESSED if isinstance(count, int) and 0 < count < FLOOR else count


def json_ready(value: object) -> Any:  # noqa: ANN401 - JSON is as deep as it is
    """Copy of ``value`` for ``json.dumps``: tuples as lists, numbers that are not finite as None."""
    if isinstance(value, Mapping):
        return {str(key): json_ready(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [json_ready(item) for item in value]
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    return value


def results_document(results: Results) -> dict[str, Any]:
    """``results`` as ``results.json`` holds them; optional parts that are absent have no key."""
    fields = {name: getattr(results, name) for name in Results.__slots__}
    optional = {name: value for name, value in fields.items() if value or name not in _OPTIONAL}
    shown = optional | {
        "format": FORMAT,
        "timing": {name: getattr(results.timing, name) for name in Timing.__slots__},
        "participation": [_participation_document(entry) for entry in results.participation],
        "data": {site: _data_document(data) for site, data in results.data.items()},
    }
    ready: dict[str, Any] = json_ready(shown)
    return ready


def write_results(folder: Path, results: Results) -> None:
    """Write ``results.json`` into the run folder."""
    replace_file(folder / RESULTS, laid_out(concise(results_document(results))).encode(), SHARED)


def write_details(folder: Path, results: Results) -> None:
    """Write ``details.json``: every metric of the models of which ``results.json`` holds the main ones."""
    document = results_document(results)
    said = {name: document[name] for name in _DETAILED if name in document}
    text = laid_out({"format": FORMAT, "plan_digest": results.plan_digest, **said})
    replace_file(folder / DETAILS, text.encode(), SHARED)


def read_results(folder: Path) -> Results:
    """Inverse of ``write_results``, but for what was suppressed and what only ``details.json`` holds.

    Raises:
        RunError: the file is missing, not JSON, of another format, or lacks a key.
    """
    try:
        document = json.loads((folder / RESULTS).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or "not JSON"
        raise RunError(f"{RESULTS} cannot be read: {reason}", hint="name the folder of a finished run") from None
    if not isinstance(document, dict) or document.pop("format", None) != FORMAT:
        raise RunError(f"{RESULTS} is not in the format {FORMAT}", hint="read it with the version that wrote it")
    try:
        return Results(**document | _typed(document))
    except (KeyError, TypeError):
        raise RunError(f"{RESULTS} lacks keys or has unknown ones", hint="docs/run-folder.md lists them") from None


def append_round(path: Path, record: RoundRecord) -> None:
    """Add one line to ``rounds.jsonl``, on disk before returning."""
    document = _participation_document(record.participation) | {
        "loss": record.loss,
        "metrics": record.metrics,
        "checkpoint": record.checkpoint,
        "timing": {"seconds": record.seconds},
    }
    text = json.dumps(json_ready(document), sort_keys=True, ensure_ascii=False, allow_nan=False)
    with path.open("ab") as file:
        file.write((text + "\n").encode())
        file.flush()
        os.fsync(file.fileno())


def read_rounds(path: Path) -> tuple[RoundRecord, ...]:
    """The rounds on file; a last line that a crash cut short is not one of them, no file is no round."""
    if not path.exists():
        return ()
    whole = path.read_text(encoding="utf-8").rpartition("\n")[0]
    try:
        return tuple(_round_from(json.loads(line)) for line in whole.split("\n") if line)
    except (ValueError, KeyError, TypeError):
        raise RunError(f"{ROUNDS} holds a line that is no round", hint="docs/run-folder.md describes a line") from None


def keep_rounds(path: Path, last: int) -> None:
    """Drop every round after ``last``, and a torn line: what the journal does not know did not happen."""
    if path.exists():
        lines = path.read_bytes().split(b"\n")[:-1]
        kept = [line for line in lines if json.loads(line)["round"] <= last]
        replace_file(path, b"".join(line + b"\n" for line in kept), SHARED)


def write_predictions(path: Path, rows: Iterable[Prediction]) -> None:
    """Write ``predictions.csv``: RFC 4180 with plain newlines, sorted by site, patient and case, UTF-8.

    Columns are ``site``, ``patient``, ``case``, then values and subgroups in the order of their first appearance. What
    a row does not have, and a number that is not finite, is an empty cell.

    Raises:
        RunError: a value and a subgroup share a name.
    """
    ordered = sorted(rows, key=lambda row: (row.site, row.patient, row.case))
    values = dict.fromkeys(name for row in ordered for name in row.values)
    subgroups = dict.fromkeys(name for row in ordered for name in row.subgroups)
    if shared := {"site", "patient", "case", *values} & subgroups.keys():
        raise RunError(f"a subgroup is named like a column: {', '.join(sorted(shared))}", hint="rename the subgroup")
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["site", "patient", "case", *values, *subgroups])
    for row in ordered:
        cells = [row.values.get(name) for name in values] + [row.subgroups.get(name) for name in subgroups]
        writer.writerow([row.site, row.patient, row.case, *json_ready(cells)])
    replace_file(path, text.getvalue().encode(), SHARED)


def read_predictions(path: Path) -> list[dict[str, str]]:
    """Rows of ``predictions.csv`` by column name, as text; an empty list where there is no file."""
    if not path.exists():
        return []
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def _participation_document(entry: Participation) -> dict[str, Any]:
    return {"round": entry.round, "participants": sorted(entry.participants), "missing": entry.missing}


def _data_document(data: SiteData) -> dict[str, Any]:
    counts = {
        "patients": suppress(data.patients),
        "cases": suppress(data.cases),
        "quarantined": {code: suppress(count) for code, count in data.quarantined.items()},
    }
    if not data.cohort:
        return counts
    noted = {code: {"severity": one.severity, "cases": suppress(one.cases)} for code, one in data.doctor.items()}
    return counts | {"cohort": data.cohort, "doctor": noted}


def _typed(document: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "differences": tuple(document.get("differences", ())),
        "timing": Timing(**document["timing"]),
        "lower_is_better": tuple(document["lower_is_better"]),
        "participation": tuple(_participation_from(entry) for entry in document["participation"]),
        "data": {site: _site_data(data) for site, data in document["data"].items()},
    }


def _site_data(document: Mapping[str, Any]) -> SiteData:
    noted = {code: Noted(**entry) for code, entry in document.get("doctor", {}).items()}
    return SiteData(**{**document, "doctor": noted})


def _participation_from(entry: Mapping[str, Any]) -> Participation:
    return Participation(entry["round"], tuple(entry["participants"]), entry["missing"])


def _round_from(line: Mapping[str, Any]) -> RoundRecord:
    return RoundRecord(
        participation=_participation_from(line),
        loss=line["loss"],
        checkpoint=line["checkpoint"],
        metrics=line["metrics"],
        seconds=line["timing"]["seconds"],
    )
