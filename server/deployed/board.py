"""Writes down what a run does while it does it, for whoever looks on (``server.deployed.live``)."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from server.deployed.live import Live
from server.results import RoundRecord, json_ready
from server.round_values import Event, Kind, State
from server.run_setup import Watch
from shared.durable import SHARED, replace_file


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
        return Watch(self._event, self._round, self._asked)

    def _asked(self, state: State) -> None:
        asked = tuple(sorted(state.asked))
        self.say(phase=state.phase.value, round=state.round, asked=asked, answered=(), failed={})

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
