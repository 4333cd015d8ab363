"""What patients pay: who asks for what, what was paid, what it costs, and whether more may be paid.

Promises
- Spending is kept by patient. Patients who belong to the same splits of the same cohorts have paid the same, an
  ``Account``; what a split has spent is what the account that paid most has. A patient is in one split of a cohort, so
  its splits are spent side by side (parallel composition; McSherry, SIGMOD 2009, theorem 4).
- A cost is an upper bound and no estimate. One that is no number is above every cap.
- Where sites share the noise, caps hold under the plan's assumption of how many sites collude; ``if_all_collude`` says
  what is paid without any.
- ``require_within`` looks at what left and at what is only reserved: a reservation may leave at any moment.

What a refusal says depends on which cohorts share patients; that they do is taken to be no secret.

Rows are left to ``ledger_rows``, bounds to ``shared.privacy.accounting``.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol

from shared.errors import BudgetError
from shared.messages import Split
from shared.privacy.accounting import Cap
from shared.privacy.events import Event

if TYPE_CHECKING:
    from client.data.cohort.manifest import Cohort
Purpose = Literal["train", "statistics"]


class Price(Protocol):
    """An upper bound of the epsilon that some events cost together at ``delta``; 0 for none."""

    def __call__(self, events: Sequence[Event], delta: float, accountant: Literal["prv", "rdp"]) -> float:
        """The bound."""


@dataclass(frozen=True, slots=True)
class CohortPatients:
    """Who is in a frozen cohort.

    Attributes:
        digest: of the cohort.
        dataset: the data set that was frozen.
        patients: salted names by split; each name is in one split.
    """

    digest: str
    dataset: str
    patients: Mapping[Split, Collection[str]]

    def __post_init__(self) -> None:
        """Refuse a patient in two splits: splits would not be spent side by side."""
        if max(Counter(patient for _, patient in self.pairs()).values(), default=1) > 1:
            raise ValueError("a patient is in more than one split of the cohort")

    @classmethod
    def of(cls, cohort: Cohort) -> CohortPatients:
        """The patients of a manifest."""
        patients: dict[Split, set[str]] = {"train": set(), "validation": set(), "test": set()}
        for member in cohort.members:
            patients[member.split].add(member.patient)
        return cls(cohort.digest(), cohort.dataset, patients)

    def pairs(self) -> list[tuple[Split, str]]:
        """(split, patient) of everybody."""
        return [(split, patient) for split, named in self.patients.items() for patient in set(named)]


@dataclass(frozen=True, slots=True)
class Claim:
    """What is asked for: all but ``request`` names it, once and for all.

    Attributes:
        cohort: digest of the cohort whose patients pay.
        split: of that cohort.
        run: as the coordinator calls it.
        plan: digest of the plan.
        round: of the plan, from 0.
        purpose: what is to leave.
        request: SHA-256 of everything else that the answer depends on, such as the weights.
    """

    cohort: str
    split: Split
    run: str
    plan: str
    round: int
    purpose: Purpose
    request: str

    def __post_init__(self) -> None:
        """Refuse a round that no plan has."""
        if self.round < 0:
            raise ValueError(f"round {self.round} is below 0")


@dataclass(frozen=True, slots=True)
class Account:
    """What some patients have paid in all cohorts they belong to: for what left, and for what is only reserved."""

    released: tuple[Event, ...] = ()
    reserved: tuple[Event, ...] = ()

    def all(self) -> tuple[Event, ...]:
        """Both."""
        return merged((*self.released, *self.reserved))


@dataclass(frozen=True, slots=True)
class Spent:
    """What the patients of one split have paid.

    Attributes:
        own: for this cohort alone.
        accounts: ``own`` and what else was paid by patients of this split who belong to other cohorts too; one whose
            events are part of another's is left out.
        inherited: digests of the other cohorts in ``accounts``, in the order of their enrolment.
    """

    own: Account
    accounts: tuple[Account, ...]
    inherited: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Spending:
    """What the patients of a cohort have paid, by split."""

    cohort: str
    splits: Mapping[Split, Spent]


@dataclass(frozen=True, slots=True)
class Shared:
    """An earlier cohort, and how many of its patients are in a later one too."""

    digest: str
    dataset: str
    patients: int


@dataclass(frozen=True, slots=True)
class Inheritance:
    """What a cohort takes over when it is enrolled: from which cohorts, and what its patients have paid so far."""

    cohorts: tuple[Shared, ...]
    spending: Spending


def merged(events: Iterable[Event]) -> tuple[Event, ...]:
    """The same steps with one event for each mechanism, sorted: composition has no order, and few pairs cost less."""
    steps: Counter[tuple[float, float, float]] = Counter()
    for event in events:
        steps[event.noise_multiplier, event.sampling_rate, event.alone] += event.steps
    return tuple(Event(sigma, rate, number, alone) for (sigma, rate, alone), number in sorted(steps.items()))


def cost(events: Sequence[Event], delta: float, price: Price) -> float:
    """Upper bound of the epsilon of ``events`` at ``delta``, by the accountant that is tighter."""
    return price(events, delta, "prv") if events else 0.0


def if_all_collude(each: Iterable[Sequence[Event]], delta: float, price: Price) -> float | None:
    """What the dearest of ``each`` costs if all other sites collude; None where sites share the noise of nothing."""
    paid = tuple(each)
    if not any(event.alone for events in paid for event in events):
        return None
    return max(cost([event.if_alone() for event in events], delta, price) for events in paid)


def within(events: Sequence[Event], cap: Cap, price: Price) -> bool:
    """Whether ``events`` cost no more than ``cap``; the tighter, slower bound is asked where the other says no."""
    return price(events, cap.delta, "rdp") <= cap.epsilon or price(events, cap.delta, "prv") <= cap.epsilon


def require_within(claim: Claim, more: Sequence[Event], accounts: Iterable[Account], cap: Cap, price: Price) -> None:
    """Raise ``BudgetError`` where ``more`` would bring one of ``accounts`` above ``cap``."""
    for account in accounts:
        after = merged((*account.all(), *more))
        if not within(after, cap, price):
            raise BudgetError(
                f"round {claim.round} would bring the {claim.split} split of cohort {claim.cohort[:12]} to epsilon "
                f"{_above(cost(after, cap.delta, price))} at delta {cap.delta:g}, the cap is {cap.epsilon:g}; "
                "0 rounds remain",
                hint="end the run here, or plan fewer rounds or more noise: see consilium-site budget --plan PLAN; "
                "only this hospital can raise its cap",
            )


def _above(epsilon: float) -> str:
    """Rounded up, so that no refusal names a number that the cap allows."""
    return f"{math.ceil(epsilon * 1e4) / 1e4:g}" if math.isfinite(epsilon) else str(epsilon)
