"""What a run is doing now, in one small file, for everybody who looks on.

Promises
- ``live.json`` is replaced whole at each event (``server.deployed.board``); readers need no lock, and a run never waits
  for them.
- It holds what the journal holds and no more: phases, names of sites, codes, sums. A run that was killed leaves its
  last word; ``age_s`` tells how old that is.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

LIVE = "live.json"


@dataclass(frozen=True)
class Live:
    """What is known of a run.

    Attributes:
        run: its identifier.
        plan: name of the plan.
        state: whether it goes on.
        phase: of the table of rounds (``server.rounds.Phase``).
        round: the one in work, of ``rounds``.
        asked: sites that have not answered yet.
        answered: sites whose answer counts.
        failed: site to the code of its last failure in this phase.
        loss: of the last round.
        headline: name, and ``value`` the last pooled value, of the headline metric.
        sentence: why a run ended that did not finish, and ``hint`` what to do.
        updated: when this was written, in seconds since 1970.
    """

    run: str
    plan: str
    rounds: int
    state: Literal["running", "finished", "failed"] = "running"
    phase: str = "starting"
    round: int = 0
    asked: tuple[str, ...] = ()
    answered: tuple[str, ...] = ()
    failed: dict[str, str] = field(default_factory=dict)
    loss: float | None = None
    headline: str = ""
    value: float | None = None
    sentence: str = ""
    hint: str = ""
    updated: float = 0.0

    def age_s(self, now: float) -> float:
        """Seconds since it was written."""
        return max(0.0, now - self.updated)


def read_live(folder: Path) -> Live | None:
    """What the run in ``folder`` said last; None where it has said nothing, or nothing that can be read."""
    try:
        said = json.loads((folder / LIVE).read_bytes())
        return Live(**{**said, "asked": tuple(said["asked"]), "answered": tuple(said["answered"])})
    except (OSError, ValueError, TypeError, KeyError):
        return None
