"""Curves of single sites, where the plan releases sites: thin lines beside the pooled ones.

Promises
- ROC and precision against recall, as ``shared.evaluation.curves`` draws them of all sites; nothing that the pooled
  block would not hold of the same patients.
- A site of fewer than ``FEWEST`` test patients has none: each step of its curve would be one patient.
- Of several findings there is none either: so many lines nobody can read, and results.json would grow with both.
"""

from __future__ import annotations

from collections.abc import Mapping

from shared.evaluation.additive import PATIENTS, Statistics
from shared.evaluation.curves import Curves, curves
from shared.tasks.task import Task

FEWEST = 20
KINDS = ("roc", "pr")


def site_curves(task: Task, sites: Mapping[str, Statistics]) -> dict[str, Curves]:
    """Site, then kind of curve, then finding, then coordinate; empty where nothing may or can be drawn."""
    found = {}
    for site, of in sorted(sites.items()):
        drawn = curves(task, of) if int(of.counts[PATIENTS].sum()) >= FEWEST else {}
        kept = {kind: drawn[kind] for kind in KINDS if kind in drawn and list(drawn[kind]) == [""]}
        if kept:
            found[site] = kept
    return found
