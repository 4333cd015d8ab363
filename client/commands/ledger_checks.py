"""Does this site pay for what leaves? The till, the ledger and the stored replies, tried out on made-up rounds.

Promises
- Each check is one property of ``client.governance.paid``, tried with the site's own code for private answers, on a
  site that has no images at all. Nothing is paid but at the till that is handed over.
- A check that fails says what was found. An error that the till should not have raised ends the checks.

=========== =======================================================================================================
check       what must hold
=========== =======================================================================================================
reserved    what leaves is in the ledger before it is computed, and stays there when the computation dies
empty-draw  a round in which nobody can be drawn is charged as any other, and its update is not nothing
replay      the same question gets the same bytes and is charged once; another one for the same round is refused
overspend   a round that the cap does not allow is refused, and neither computed nor charged
=========== =======================================================================================================
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NoReturn

from client.commands.clock import Clock
from client.data.prepared.site_data import SiteData
from client.governance.ledger import Ledger
from client.governance.paid import Till
from client.governance.replies import Replies
from client.governance.spending import CohortPatients
from client.protected import Guard, Protected
from client.training.self_test import Check
from client.workbench import Workbench
from shared.errors import BudgetError, ConsiliumError, ProtocolError
from shared.message_bytes import reply_to_bytes
from shared.messages import Envelope, Split, Train, Vector
from shared.plan import Plan
from shared.privacy.accounting import Cap, epsilon
from shared.privacy.events import Event
from shared.privacy.terms import terms_for

MADE_UP = CohortPatients("0" * 64, "self-test", {"train": ("a", "b"), "validation": ("c",), "test": ("d",)})
"""A cohort for a machine that has none."""


class _DiedError(Exception):
    """The computation ends here."""


@dataclass(frozen=True)
class LedgerTrial:
    """What is tried.

    Attributes:
        name: of the site, as the plan's public numbers call it.
        workbench: network and task.
        cohort: whose patients pay; the till's ledger knows it.
        till: where they pay; its cap is the cost of one round.
        weights: of the network, as a coordinator would send them.
    """

    name: str
    workbench: Workbench
    cohort: CohortPatients
    till: Till
    weights: Vector

    @property
    def event(self) -> Event:
        """What a round costs."""
        return terms_for(self.workbench.plan, self.name).round_event()

    def train(self, request: Train) -> bytes:
        """The reply to ``request``, of a site without images."""
        nobody = SiteData(train=(), validation=(), test=(), train_patients=())
        guard = Guard(self.cohort.digest, self.till)
        return reply_to_bytes(Protected(self.name, 1, nobody, self.workbench, guard).train(request))

    def request(self, round_number: int) -> Train:
        """A round of a made-up run."""
        return Train(Envelope("self-test", self.workbench.plan.digest(), round_number), self.weights)

    def charged(self, split: Split = "train") -> tuple[Event, ...]:
        """All that the ledger on disk says was granted to this cohort, as whoever opens it now would see it."""
        return Ledger.open(self.till.ledger.path).spending(self.cohort.digest).splits[split].own.all()


def one_round_till(plan: Plan, name: str, cohort: CohortPatients, folder: Path, now: Clock) -> Till:
    """A till in an empty folder, at which ``cohort`` can pay for one round of ``plan``."""
    event, delta = terms_for(plan, name).round_event(), plan.privacy.delta
    assert delta is not None  # noqa: S101 - ``terms_for`` has looked
    ledger = Ledger.create(folder / "ledger.sqlite")
    ledger.enrol(cohort, now())
    return Till(ledger, Replies(folder / "replies"), Cap(epsilon([event], delta), delta), now)


def run(trial: LedgerTrial) -> Iterator[Check]:
    """All checks in the order of the table; the later ones need what the earlier ones have paid."""
    for name, check in CHECKS.items():
        passed, said = check(trial)
        yield Check(name, passed, said)


def _reserved(trial: LedgerTrial) -> tuple[bool, str]:
    seen: list[int] = []

    def die() -> NoReturn:
        seen.append(len(trial.charged("test")))
        raise _DiedError

    # Test patients pay, so that training patients can still pay for the one round that the cap allows.
    claim = Guard(trial.cohort.digest, trial.till).claim(trial.request(1), "test", "statistics")
    with suppress(_DiedError):
        trial.till.answer_once(claim, trial.event, die)
    after = len(trial.charged("test"))
    said = f"the ledger held {sum(seen)} events while one was computed, and {after} after the computation died"
    return (seen, after) == ([1], 1), said


def _empty_draw(trial: LedgerTrial) -> tuple[bool, str]:
    before, update = trial.charged(), trial.train(trial.request(1))
    after = trial.charged()
    passed = (before, after) == ((), (trial.event,)) and any(update.partition(b"\n")[2])
    return passed, f"a round without anybody was charged with {sum(event.steps for event in after)} steps"


def _replay(trial: LedgerTrial) -> tuple[bool, str]:
    first, charged = trial.train(trial.request(1)), trial.charged()
    same = all(trial.train(trial.request(1)) == first for _ in range(2))
    unchanged = trial.charged() == charged == (trial.event,)
    other = replace(trial.request(1), weights=trial.weights + 1)
    refused = _error(lambda: trial.train(other), ProtocolError)
    said = (
        f"the reply {'is the same' if same else 'differs'}, the charge {'is the same' if unchanged else 'differs'}, "
        f"and other weights are {'refused' if refused else 'answered'}"
    )
    return same and unchanged and refused, said


def _overspend(trial: LedgerTrial) -> tuple[bool, str]:
    before = trial.charged()
    refused = _error(lambda: trial.train(trial.request(2)), BudgetError)
    unchanged = trial.charged() == before
    said = f"a second round is {'refused' if refused else 'answered'} where one may be paid for"
    return refused and unchanged, said if unchanged else f"{said}, and the ledger changed"


CHECKS: dict[str, Callable[[LedgerTrial], tuple[bool, str]]] = {
    "reserved": _reserved,
    "empty-draw": _empty_draw,
    "replay": _replay,
    "overspend": _overspend,
}


def _error(action: Callable[[], object], kind: type[ConsiliumError]) -> bool:
    """Whether ``action`` is refused for this reason."""
    try:
        action()
    except kind:
        return True
    return False
