"""What a run is made of, who looks on, and what it leaves behind.

Promises
- These are values; what is done with them is ``server.coordinator``'s.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from server.crossing import Crossed
from server.differences import FEDERATION, PERSONALISED, Entry, Pair, measured_entry
from server.intake import Measurement
from server.journal import Journal
from server.results import RoundRecord
from server.round_values import Event, State
from server.run_state import ModelFiles
from shared.crypto.signing import VerifyKey
from shared.messages import Vector
from shared.plan import Plan
from shared.tasks.task import Task


@dataclass(frozen=True)
class Watch:
    """Who looks on: called with the state before each event, after each finished round, and when sites are asked."""

    event: Callable[[State, Event], None] = lambda _state, _event: None
    round: Callable[[RoundRecord], None] = lambda _record: None
    asked: Callable[[State], None] = lambda _state: None


@dataclass(frozen=True)
class Setup:
    """What a run is made of.

    Attributes:
        plan: what to do.
        task: the plan's task.
        files: where models are kept, and their schema.
        journal: of this run; says where to go on.
        initial: flat weights of the first round.
        identities: key of each site that may take part in a sum under masks.
        roster: that says so, as the lead signed it; "" in a simulation.
    """

    plan: Plan
    task: Task
    files: ModelFiles
    journal: Journal
    initial: Vector
    identities: Mapping[str, VerifyKey] = field(default_factory=dict)
    roster: str = ""


@dataclass
class Outcome:
    """What a finished run leaves behind.

    Attributes:
        weights: the final global model, and ``checkpoint`` its digest.
        test: of the final global model on test patients.
        personalised: of each site's own model on its own test patients.
        crossed: of each site's own model on everybody's, where the plan asks.
        participation: who took part in each round.
        refused: (site, code) of sites that were not admitted.
        training_s: seconds that sites spent training, added up.
        first, last: the first measured round and the last, each with its number, on validation patients; both are kept
            on disk (``server.measured``), so that a resumed run knows them.
    """

    weights: Vector
    checkpoint: str
    test: Measurement | None = None
    personalised: Measurement | None = None
    refused: tuple[tuple[str, str], ...] = ()
    training_s: float = 0.0
    first: tuple[int, Measurement] | None = None
    last: tuple[int, Measurement] | None = None
    crossed: Crossed = field(default_factory=Crossed)

    def differences(self, task: Task) -> list[Entry]:
        """What own-site steps and later rounds have changed, on the same patients."""
        found = []
        if self.personalised and self.test:
            found.append(measured_entry(task, Pair(FEDERATION, PERSONALISED), self.test, self.personalised))
        if self.first and self.last and self.first[0] < self.last[0]:
            pair = Pair(f"round-{self.first[0]}", f"round-{self.last[0]}", "validation")
            found.append(measured_entry(task, pair, self.first[1], self.last[1]))
        return found
