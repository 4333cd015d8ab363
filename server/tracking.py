"""A run in experiment trackers that people already use: MLflow and TensorBoard.

Promises
- Everything comes from the run folder: ``plan.toml``, ``rounds.jsonl`` and, once there is one, ``results.json``.
  Training knows nothing of trackers, and a run that has long ended can be tracked as well as one that goes on.
- Metrics are named by where they stand in the run's files: ``loss`` and ``pooled/dice`` by round (validation patients),
  ``final/pooled/dice`` for the final model (test patients), ``final/sites/drive/dice``, ``privacy/drive/epsilon``.
  Bounds of an interval are ``.low`` and ``.high``. What is undetermined has no point; it is not 0.
- Tracking again adds what is new and repeats nothing.
- Only numbers of the plan, of metrics and of privacy spent are sent, with digests and versions. Never a prediction, a
  case, a count of patients, the command line or a path of this machine.

Rules
- A run is known by the digests of its plan and of its first round's model (``identity``), wherever its folder lies.
- A character that trackers refuse in a name becomes ``_x`` and its code in hexadecimal, then ``_``.

Leaves to others: how points get into a tracker (``server.tracking_targets``). docs/tracking.md shows it at work.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any

from server.report.run import read_run
from server.results import PLAN, RESULTS, ROUNDS, Results, RoundRecord, read_rounds
from server.tracking_targets import Point, Tracked, to_mlflow, to_tensorboard
from shared.errors import RunError
from shared.plan import Plan, load
from shared.plan_errors import suggest

TARGETS: Mapping[str, Callable[[Tracked, str, float], str]] = {"mlflow": to_mlflow, "tensorboard": to_tensorboard}
_REFUSED = re.compile(r"[^A-Za-z0-9_.\- ]")
_BLOCKS = ("final", "personalised")
_SPENT = ("epsilon", "delta", "sigma", "q", "steps", "epsilon_alone")


@dataclass(frozen=True)
class Target:
    """Where to track: a key of ``TARGETS``, and the address that it takes."""

    kind: str
    address: str


def target(text: str) -> Target:
    """Read ``mlflow:URI`` or ``tensorboard:DIR``; raises ``RunError``, which never repeats an address."""
    kind, _, address = text.partition(":")
    if kind not in TARGETS:
        raise RunError(f"there is no tracker {kind[:20]!r}", hint=suggest(kind, TARGETS))
    if not address:
        raise RunError(f"{kind}: says no place", hint="say mlflow:URI or tensorboard:DIR")
    return Target(kind, address)


def track(folder: Path, where: str, clock: Callable[[], float] = time.time) -> str:
    """Bring the run in ``folder`` to a tracker and say in one line where it is.

    Raises:
        RunError: no round is finished, files do not belong together, the tracker is missing or does not answer.
        PlanError: the plan cannot be read.
    """
    found = target(where)
    return TARGETS[found.kind](tracked(folder), found.address, clock())


def tracked(folder: Path) -> Tracked:
    """The run in ``folder`` as trackers see it; raises ``RunError`` or ``PlanError``."""
    plan, results = load(folder / PLAN), None
    if (folder / RESULTS).exists():
        results = read_run(folder).results
    rounds = read_rounds(folder / ROUNDS)
    if not rounds:
        raise RunError("the run has no finished round yet", hint="track it again after its first round")
    return Tracked(
        experiment=plan.plan.name,
        name=f"{plan.plan.name}-seed{plan.plan.seed}",
        identity=identity(plan, rounds),
        parameters=parameters(plan),
        tags=tags(plan, rounds, results),
        rounds=tuple(round_points(rounds)),
        final=tuple(final_points(rounds, results)) if results else (),
        plan_text=(folder / PLAN).read_text(encoding="utf-8"),
    )


def identity(plan: Plan, rounds: tuple[RoundRecord, ...]) -> str:
    """What tells this run from all others, 16 hexadecimal digits: equal for a run that was copied or resumed."""
    return hashlib.sha256(f"consilium-track-1 {plan.digest()} {rounds[0].checkpoint}".encode()).hexdigest()[:16]


def parameters(plan: Plan) -> dict[str, str]:
    """Every key of the plan by its dotted name, as ``--set`` takes it; lists as JSON, absent keys left out."""
    return dict(_flat(plan.model_dump(mode="json", exclude_none=True), ()))


def tags(plan: Plan, rounds: tuple[RoundRecord, ...], results: Results | None) -> dict[str, str]:
    """Digests of plan and newest model, versions, seed."""
    found = {
        "consilium.plan_digest": plan.digest(),
        "consilium.checkpoint": (results and results.checkpoint) or rounds[-1].checkpoint,
        "consilium.seed": str(plan.plan.seed),
        "consilium.task": plan.plan.task,
    }
    if results is None:
        return found
    versions = {f"consilium.version.{name}": number for name, number in results.versions.items()}
    return found | {"consilium.headline": results.headline} | versions


def round_points(rounds: tuple[RoundRecord, ...]) -> Iterator[Point]:
    """Loss, attendance and validation metrics of every round, in order."""
    elapsed_s = accumulate(record.seconds for record in rounds)
    for record, at_s in zip(rounds, elapsed_s, strict=True):
        entry = record.participation
        told = {"loss": record.loss, "participants": len(entry.participants), "missing": len(entry.missing)}
        yield from _points(told | _block(record.metrics), entry.round, at_s)


def final_points(rounds: tuple[RoundRecord, ...], results: Results) -> Iterator[Point]:
    """What ``results.json`` adds to the rounds and may be told; it stands at the last of them."""
    blocks = {name: _block(getattr(results, name)) for name in _BLOCKS}
    spent = {site: _spent(paid) for site, paid in results.privacy.items()}
    last_s = sum(record.seconds for record in rounds)
    told = blocks | {"baselines": results.baselines, "privacy": spent}
    yield from _points(told, rounds[-1].participation.round, last_s)


def _spent(paid: Mapping[str, Any]) -> dict[str, Any]:
    """What a site's patients have paid; where sites share the noise, what it is if all others collude, too."""
    known = {**paid, **(paid.get("shared") or {})}
    return {name: known[name] for name in _SPENT if name in known}


def _points(told: Mapping[str, Any], step: int, at_s: float) -> Iterator[Point]:
    for name, value in sorted(_numbers(told)):
        yield Point(name, value, step, at_s)


def _block(block: Mapping[str, Any] | None) -> dict[str, Any]:
    """The parts of a block that are numbers; who is worst is told by its value alone."""
    return {name: (block or {}).get(name) or {} for name in ("pooled", "sites", "macro", "worst")}


def _numbers(value: object, path: tuple[str, ...] = ()) -> Iterator[tuple[str, float]]:
    """Finite numbers below ``value`` by path; an interval is one number with two bounds."""
    if isinstance(value, Mapping):
        for name, inner in value.items():
            if "value" not in value:
                yield from _numbers(inner, (*path, _safe(str(name))))
            elif name in {"value", "low", "high"}:
                ending = "" if name == "value" else f".{name}"
                yield from _numbers(inner, (*path[:-1], path[-1] + ending))
    elif isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value):
        yield "/".join(path), float(value)


def _safe(name: str) -> str:
    """``name`` as a part of a metric's name that every tracker takes."""
    escaped = _REFUSED.sub(lambda found: f"_x{ord(found[0]):x}_", name)
    return escaped.replace(".", "_x2e_") if set(escaped) <= {"."} else escaped


def _flat(value: object, path: tuple[str, ...]) -> Iterator[tuple[str, str]]:
    if isinstance(value, Mapping):
        for name, inner in value.items():
            yield from _flat(inner, (*path, _safe(str(name))))
    else:
        yield ".".join(path), value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
