"""``make bench``: measures what docs/performance.md promises, and prints one table.

Promises
- Both sides of every ratio run in turns, in processes of their own, in this one call; nothing is compared with a figure
  from another day.
- results/latest.json (not kept by git) holds every row, and ``--docs`` writes its table into docs/performance.md.
- A target that is missed is shown as missed. It is no failure of this command: ratios on a busy machine say little.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import archive
import cohort
import deployed
import evaluation
import figures
import ingest
import private_step
import secure
import simulated
from bench import CORES, FULL, QUICK, Bench, Scale
from processes import HERE, ArmError
from rich.console import Console
from rows import Row, from_json, markdown, replaced, terminal, to_json, without_target

from shared.environment import SILENCE

RESULTS = HERE / "results"
LATEST = RESULTS / "latest.json"
SECTIONS = {
    "simulation": simulated.simulation,
    "memory": simulated.memory,
    "flower": simulated.flower,
    "aggregation": figures.aggregation,
    "steps": figures.steps,
    "stacked": figures.stacked,
    "reading": figures.reading,
    "ingest": ingest.ingest,
    "archive": archive.archive,
    "cohort": cohort.cohort,
    "private": private_step.private,
    "evaluation": evaluation.evaluation,
    "start-up": figures.start_up,
    "secure-small": secure.small,
    "deployed": deployed.deployed,
    "secure": secure.secure,
}
ON_REQUEST = ("deployed", "secure")
"""Sections that take minutes: ``--only`` runs them."""
PAGE = HERE.parent / "docs" / "performance.md"
_FORMAT = "consilium-benchmarks-1"
_PACKAGES = ("consilium", "torch", "numpy", "flwr")
_WIDTH = 150
_BUSY = 0.25
"""Runnable processes for each core, before we start, from which wall time is in doubt."""


def main() -> None:
    arguments = _parser().parse_args()
    if arguments.docs:
        write_docs(LATEST, PAGE)
        return
    console = Console(stderr=True)
    chosen = arguments.only or [section for section in SECTIONS if section not in ON_REQUEST]
    document = measure(QUICK if arguments.quick else FULL, chosen, console)
    LATEST.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
    out = Console() if sys.stdout.isatty() else Console(width=_WIDTH)
    out.print(terminal([from_json(row) for row in document["rows"]]), *_remarks(document), sep="\n")


def measure(scale: Scale, sections: list[str], console: Console) -> dict[str, Any]:
    """Everything in ``sections``, as latest.json holds it."""
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / ".gitignore").write_text("*\n", encoding="utf-8")
    machine, began = _machine(), time.perf_counter()
    rows: list[Row] = []
    # On the disk of the working tree: a temporary folder may be in memory, where nothing waits for a disk.
    with tempfile.TemporaryDirectory(dir=RESULTS) as stores:
        bench = Bench(stores, scale, {**os.environ, **SILENCE})
        with console.status("preparing synthetic hospitals"):
            bench.tuned("federation.prepare", folder=stores, sites=scale.large.sites, workers=CORES)()
        for section in sections:
            with console.status(section):
                found = _rows(section, bench)
            rows += found if scale == FULL else map(without_target, found)
            console.print(f"{section}: done after {time.perf_counter() - began:.0f} s", highlight=False)
    return {
        "format": _FORMAT,
        "scale": "quick" if scale == QUICK else "full",
        "machine": machine,
        "seconds": round(time.perf_counter() - began),
        "rows": [to_json(row) for row in rows],
    }


def _rows(section: str, bench: Bench) -> list[Row]:
    """The rows of a section, or one that says why there are none."""
    try:
        return list(SECTIONS[section](bench))
    except ArmError as error:
        return [Row(section, "", "", (), reason=str(error))]


def write_docs(latest: Path, page: Path) -> None:
    """Put the table of ``latest`` into ``page``."""
    document = json.loads(latest.read_text(encoding="utf-8"))
    block = "\n\n".join([markdown([from_json(row) for row in document["rows"]]), *_remarks(document)])
    page.write_text(replaced(page.read_text(encoding="utf-8"), block), encoding="utf-8")


def _machine() -> dict[str, Any]:
    names = [line.partition(":")[2].strip() for line in _cpu_lines() if line.startswith("model name")]
    return {
        "cpu": names[0] if names else platform.processor(),
        "cores": CORES,
        "load_before": round(os.getloadavg()[0], 2),
        "system": platform.system(),
        "python": platform.python_version(),
        "versions": {name: version(name) for name in _PACKAGES},
    }


def _cpu_lines() -> list[str]:
    information = Path("/proc/cpuinfo")
    return information.read_text(encoding="utf-8").splitlines() if information.exists() else []


def _remarks(document: dict[str, Any]) -> list[str]:
    """What must be known to read the table."""
    machine = document["machine"]
    versions = ", ".join(f"{name} {number}" for name, number in machine["versions"].items())
    remarks = [
        f"{machine['cores']} cores ({machine['cpu']}), Python {machine['python']}, {versions}; "
        f"{document['scale']} scale, {document['seconds']} s."
    ]
    if machine["load_before"] > _BUSY * machine["cores"]:
        remarks.append(
            f"Other work was running (load {machine['load_before']} before the start): trust CPU time, not wall time, "
            "and neither where several processes or threads share the cores."
        )
    return remarks


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description="Measure performance ratios side by side.")
    parser.add_argument("--quick", action="store_true", help="toy sizes: checks that everything runs, measures nothing")
    parser.add_argument("--only", action="append", choices=SECTIONS, help="one section; may be repeated")
    parser.add_argument("--docs", action="store_true", help="write the last results into docs/performance.md and end")
    return parser


if __name__ == "__main__":
    main()
