"""Arms of the section ``deployed``: one federation of processes, one run over it, and what was seen of that run."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from deployed_flower import ROUNDS as FLOWER_ROUNDS
from deployed_flower import SHAPES
from deployed_link import Link, link
from deployed_seen import Watcher, by_round, own_time, per_round
from deployed_sites import PLAN, WORK
from family import usage
from processes import ArmError

from server.app import RUN
from server.deployed.run_folder import begin
from server.results import ROUNDS
from shared import models, tasks
from shared.arrays import schema_of
from shared.bundle import Bundle, bundle_bytes
from shared.errors import RunError
from shared.plan import from_document

_LONGEST_S = 1500.0
_TOLD = 600
_BUNDLE = Bundle("deployed_flower:server", "deployed_flower:client")
Said = dict[str, Any]


def document(rounds: int, channels: list[int]) -> Said:
    """A plan without privacy whose network has these widths; measured after the last round."""
    return {
        "plan": {"name": "bench", "task": "segmentation", "rounds": rounds, "seed": 3},
        "data": {"modality": "other", "classes": ["background", "lesion"]},
        "preprocessing": {"size": [64, 64]},
        "model": {"name": "unet", "channels": channels},
        "training": {"steps": 1, "patients_per_step": 1, "learning_rate": 0.01},
        "aggregation": {"weights": "equal"},
        "privacy": {"unit": "none"},
        "participation": {"quorum": 2, "deadline_s": _LONGEST_S, "below_quorum": "abort"},
        "evaluation": {"every": rounds, "release": "site"},
    }


def consilium(folder: str, sites: int, rounds: int, channels: list[int]) -> Said:
    """Our coordinator and relay."""
    plan = from_document(document(rounds, channels))
    files = {PLAN: json.dumps(document(rounds, channels))}
    with TemporaryDirectory(dir=folder) as place, link(Path(place) / "f", sites, files) as made:
        found = begin(made.federation, plan, made.federation.lead_key(lambda: b""), datetime.now(UTC), timedelta(1))
        seen = _run(made, {RUN: found.run}, None, Counting(found.path / ROUNDS, rounds))
        lines, work = _lines(found.path / ROUNDS), [tuple(line) for line in _lines(made.root / WORK)]
    seconds = [line["timing"]["seconds"] for line in lines]
    lost = sites * rounds - sum(len(line["participants"]) for line in lines)
    longest = max((line[3] for line in work if line[1] == "Train"), default=0.0)
    return seen | {"seconds": seconds, "own": own_time(seconds, work), "lost": lost, "work_s": longest}


def fedavg(folder: str, sites: int, rounds: int, channels: list[int]) -> Said:
    """Flower's FedAvg over the same gateway; its line for round 0 is there before the first message goes out."""
    plan = from_document(document(rounds, channels))
    task = tasks.task_for(plan)
    shapes = schema_of(models.build(plan, task.output_channels, task.output)).shapes
    files = {SHAPES: json.dumps(shapes)}
    with TemporaryDirectory(dir=folder) as place, link(Path(place) / "f", sites, files, _BUNDLE) as made:
        config, lines = {RUN: f"{sites}-{rounds}", "federation": str(made.root)}, made.root / FLOWER_ROUNDS
        seen = _run(made, config, _BUNDLE, Counting(lines, rounds, before=1))
        found = _lines(lines)[1:]
    lost = sites * rounds - sum(line["replies"] for line in found)
    return seen | {"seconds": [line["seconds"] for line in found], "lost": lost}


@dataclass(frozen=True)
class Counting:
    """How many rounds are done: lines of a file, less those that come ``before`` the first round."""

    lines: Path
    rounds: int
    before: int = 0

    def done(self) -> int:
        return max(len(_lines(self.lines)) - self.before, 0)


def _run(made: Link, config: Mapping[str, str], bundle: Bundle | None, counting: Counting) -> Said:
    """Start a run, look on until it ends, and tell what was seen."""
    serverapp = 0
    load = os.getloadavg()[0]

    def pids() -> dict[str, int]:
        nonlocal serverapp
        serverapp = serverapp or next(iter(made.own("flwr-serverapp")), 0)
        return {"gateway": made.pid("gateway"), "serverapp": serverapp}

    refused = 0

    def goes_on() -> bool:
        nonlocal refused
        made.require_running()
        try:
            return control.run(number).state != "finished"
        except RunError:
            refused += 1
            return True

    with made.control() as control:
        number = control.start_run(config, None if bundle is None else bundle_bytes(bundle))
        watcher = Watcher(pids, counting.done, made.bytes)
        began = time.perf_counter()
        ended = watcher.watch(goes_on, _LONGEST_S)
        total = time.perf_counter() - began
        outcome, log = control.run(number).outcome, "".join(text for text, _ in control.log(number)) if ended else ""
    if outcome != "completed":
        raise ArmError(f"the run ended {outcome or 'never'}: {log[-_TOLD:]}")
    up, down = per_round(watcher.samples, counting.rounds, len(made.counted))
    peaks = {name: by_round(watcher.samples, name, counting.rounds) for name in ("gateway", "serverapp")}
    cpu = usage(made.pid("gateway"))["family_cpu_s"]
    return {
        "total_s": total,
        "refused": refused,
        "up": up,
        "down": down,
        "peaks": peaks,
        "load": (load, os.getloadavg()[0]),
        "gateway_cpu_s": cpu,
    }


def _lines(path: Path) -> list[Any]:
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
