"""What a run is made of between two events: phases, questions, what happens, and what is to be done about it.

Promises
- All of these are values: compared by content, never changed. What follows from what is ``server.rounds``'.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Literal

from shared.plan_protection import SecureAggregation

NOT_SECURE = SecureAggregation()
NO_ANSWER = "no-answer"
PASSING = frozenset(
    {
        NO_ANSWER,
        "transport",
        "no-custodian",
        "custodian-unreachable",
        "custodian-deadline",
        "custodian-gone",
        "custodian-failed",
        "busy",
        "deadline",
        "not-approved",
        "withdrawn",
    }
)
"""Codes of sites that may yet join a run."""


class Phase(Enum):
    """Where a run stands."""

    ADMITTING = "admitting"
    TRAINING = "training"
    AGGREGATING = "aggregating"
    MEASURING = "measuring"
    TESTING = "testing"
    PERSONALISING = "personalising"
    SHARING = "sharing"
    CROSSING = "crossing"
    DEALING = "dealing"
    MASKING = "masking"
    CONFIRMING = "confirming"
    UNMASKING = "unmasking"
    FINISHED = "finished"
    ABORTED = "aborted"


FINAL = frozenset({Phase.FINISHED, Phase.ABORTED})
WAITING = frozenset(Phase) - FINAL - {Phase.AGGREGATING}
SUMMING = frozenset({Phase.DEALING, Phase.MASKING, Phase.CONFIRMING, Phase.UNMASKING})
"""Between a question and the sum of its answers, in a plan with secure aggregation."""


class Kind(Enum):
    """What can happen."""

    ANSWERED = "answered"
    FAILED = "failed"
    COMPLETE = "complete"
    DEADLINE = "deadline"
    AGGREGATED = "aggregated"
    LOST = "lost"
    """The sum of a round cannot be had."""


@dataclass(frozen=True, slots=True)
class Question:
    """What a waiting phase asks: an answer to one question is none to another.

    Attributes:
        phase: which.
        round: in which round.
        model: whose model is measured while crossing; else empty.
        about: the phase whose answers are being added up under masks; else None.
    """

    phase: Phase
    round: int
    model: str = ""
    about: Phase | None = None


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened.

    Attributes:
        kind: what.
        site: whose answer it is; empty where no site is concerned.
        code: why the answer does not count: the site's refusal, or the coordinator's rejection of it.
        question: what was answered or ran out of time; None for the question that is open.
    """

    kind: Kind
    site: str = ""
    code: str = ""
    question: Question | None = None


@dataclass(frozen=True, slots=True)
class Shape:
    """What a plan says about the course of a run; ``enrolled`` counts the sites that may take part in a sum."""

    rounds: int
    quorum: int
    every: int
    below_quorum: Literal["abort", "skip-round"]
    personalise: Literal["never", "after-last-round"]
    share: Literal["never", "after-personalising"] = "never"
    secure: SecureAggregation = NOT_SECURE
    enrolled: int = 0


@dataclass(frozen=True, slots=True)
class Closed:
    """A waiting phase that has ended: who answered in it, and who did not and why."""

    phase: Phase
    round: int
    answered: frozenset[str]
    missing: tuple[tuple[str, str], ...]
    model: str = ""
    about: Phase | None = None


@dataclass(frozen=True, slots=True)
class State:
    """A run between two events.

    Attributes:
        shape: what the plan says.
        phase: where the run stands.
        round: rounds begun; 0 while admitting.
        completed: rounds finished before this process started.
        admitted: sites that take part.
        asked: sites whose answer to this phase is outstanding.
        answered: sites that have answered in this phase.
        missing: (site, code) of those that failed in this phase.
        late: sites that may yet join.
        greeted: those of them that were greeted with this round and have not answered.
        closed: the waiting phase that ended last.
        models: sites whose shared models are to be measured everywhere, the present one first.
        about: the phase whose answers are being added up under masks.
        needed: sites without whom that sum is not unmasked.
        summed: sites whose masked values are in the sum.
        aggregated: the round of the newest global model.
        reason: why the run was aborted.
    """

    shape: Shape
    phase: Phase
    round: int
    completed: int
    admitted: frozenset[str]
    asked: frozenset[str]
    answered: frozenset[str] = frozenset()
    missing: tuple[tuple[str, str], ...] = ()
    late: frozenset[str] = frozenset()
    greeted: frozenset[str] = frozenset()
    closed: Closed | None = None
    models: tuple[str, ...] = ()
    about: Phase | None = None
    needed: int = 0
    summed: frozenset[str] = frozenset()
    aggregated: int = 0
    reason: str = ""

    @property
    def question(self) -> Question:
        """What is being asked now."""
        return Question(self.phase, self.round, self.models[0] if self.phase is Phase.CROSSING else "", self.about)

    def unmasked(self, closed: Closed) -> bool:
        """Whether enough sites have answered the last phase of a sum."""
        return closed.phase is Phase.UNMASKING and len(closed.answered) >= self.needed


@dataclass(frozen=True, slots=True)
class Ask:
    """Put ``question`` to ``sites``, with the plan's deadline, and greet those of ``greet``, who may join."""

    question: Question
    sites: tuple[str, ...]
    greet: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Aggregate:
    """Make the next global model of the updates of ``sites``; never fewer than the quorum."""

    round: int
    sites: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Record:
    """Make a finished round durable before anything else is done."""

    round: int
    outcome: Literal["aggregated", "skipped"]


@dataclass(frozen=True, slots=True)
class Ignore:
    """Write down an answer that did not count: "late", "repeated" or "not-asked"."""

    site: str
    code: str


@dataclass(frozen=True, slots=True)
class Finish:
    """The run is over: write its results."""


@dataclass(frozen=True, slots=True)
class Abort:
    """The run cannot go on."""

    reason: str


Action = Ask | Aggregate | Record | Ignore | Finish | Abort
