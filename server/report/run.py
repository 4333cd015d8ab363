"""A finished run as the report reads it: ``results.json``, ``rounds.jsonl`` and ``plan.toml`` of one folder, no more.

Promises
- What is read belongs together: results of another plan than the one in the folder are refused.
- Names are those of the files; nothing is computed but what is said in ``Run``'s properties.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from server.report.metrics import MAIN, Measure, measure, ordered
from server.results import PLAN, ROUNDS, Results, RoundRecord, read_results, read_rounds
from shared.errors import RunError
from shared.plan import Plan, load


@dataclass(frozen=True)
class Run:
    """One finished run: its plan as text and as a value, its results, its rounds."""

    plan: Plan
    plan_text: str
    results: Results
    rounds: tuple[RoundRecord, ...]

    @property
    def headline(self) -> str:
        """Name of the metric that stands first."""
        return self.results.headline

    @property
    def metrics(self) -> list[str]:
        """Metrics of the final model, the headline first."""
        return ordered(self.results.final["pooled"], self.headline)

    @property
    def overall_metrics(self) -> list[str]:
        """The main ones of ``metrics``, of all classes together; those of one are named ``<metric>_<class>``."""
        return [metric for metric in self.metrics if metric in MAIN or metric == self.headline]

    @property
    def pooled(self) -> Measure:
        """The headline metric of the final model on all test patients."""
        return measure(self.results.final["pooled"].get(self.headline))

    @property
    def noised(self) -> bool:
        """Whether metrics are estimates from statistics that hold noise."""
        return self.plan.evaluation.release == "dp"

    @property
    def sites(self) -> list[str]:
        """Every site that the run knows of, sorted."""
        attended = (name for entry in self.results.participation for name in (*entry.participants, *entry.missing))
        named = (self.results.data, self.results.privacy, sites_of(self.results.final))
        return sorted({*attended, *(name for part in named for name in part)})


def read_run(folder: Path) -> Run:
    """Read a run folder.

    Raises:
        PlanError: the plan cannot be read.
        RunError: the results cannot be read, or belong to another plan.
    """
    plan = load(folder / PLAN)
    results = read_results(folder)
    if plan.digest() != results.plan_digest:
        raise RunError(
            f"the results belong to plan {results.plan_digest[:12]}…, {PLAN} beside them is {plan.digest()[:12]}…",
            hint="put back the plan that this run executed",
        )
    return Run(plan, (folder / PLAN).read_text(encoding="utf-8"), results, read_rounds(folder / ROUNDS))


def sites_of(block: Mapping[str, Any] | None) -> Mapping[str, Mapping[str, Any]]:
    """Metrics by site of a block; empty where the plan does not release them."""
    return (block or {}).get("sites") or {}
