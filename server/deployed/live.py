"""What a run is doing now, in one small file, for everybody who looks on.

Promises
- ``live.json`` is replaced whole at each event; readers need no lock, and a run never waits for them.
- It holds what the journal holds and no more: phases, names of sites, codes, sums. A run that was killed leaves its
  last word; ``age_s`` tells how old that is.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from server.coordinator import Watch
from server.results import RoundRecord, json_ready
from server.rounds import Event, Kind, State
from shared.durable import SHARED, replace_file

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


@dataclass
class Board:
    """Where a run writes what it does.

    Attributes:
        path: the file.
        clock: seconds since 1970.
        now: what was written last.
    """

    path: Path
    clock: Callable[[], float]
    now: Live

    def say(self, **changes: Any) -> None:  # noqa: ANN401 - fields of ``Live``
        """Write what has changed."""
        self.now = Live(**{**asdict(self.now), **changes, "updated": self.clock()})
        replace_file(self.path, json.dumps(json_ready(asdict(self.now))).encode(), SHARED)

    def watch(self) -> Watch:
        """Looks on at a coordinator."""
        return Watch(self._event, self._round)

    def _event(self, state: State, event: Event) -> None:
        new = (state.phase.value, state.round) != (self.now.phase, self.now.round)
        answered, failed = (set(), {}) if new else (set(self.now.answered), dict(self.now.failed))
        if event.kind is Kind.ANSWERED:
            answered.add(event.site)
        if event.kind is Kind.FAILED:
            failed[event.site] = event.code
        self.say(
            phase=state.phase.value,
            round=state.round,
            asked=tuple(sorted(set(state.asked) - answered - failed.keys())),
            answered=tuple(sorted(answered)),
            failed=failed,
        )

    def _round(self, record: RoundRecord) -> None:
        value = (record.metrics or {}).get("pooled", {}).get(self.now.headline, {}).get("value")
        self.say(round=record.participation.round, loss=record.loss, value=self.now.value if value is None else value)


def read_live(folder: Path) -> Live | None:
    """What the run in ``folder`` said last; None where it has said nothing, or nothing that can be read."""
    try:
        said = json.loads((folder / LIVE).read_bytes())
        return Live(**{**said, "asked": tuple(said["asked"]), "answered": tuple(said["answered"])})
    except (OSError, ValueError, TypeError, KeyError):
        return None
