"""A site in secure sums: which step follows which, and what is asked twice.

::

            offer            deal              mask               confirm                  unmask
    (none) ──────► Offered ──────► HasDealt ──────► HasMasked ──────────► HasConfirmed ──────────► HasRevealed
       ▲                                                                                                │
       └────────────── a new offer, of this or of another question: what was before is forgotten ───────┘

Promises
- Steps follow in this order, each once. The last request asked again, byte for byte, gets the same answer, byte for
  byte; with other content it is refused ("step-repeated"). Any other request is out of order ("step-order"), or of a
  question that this site has no session for ("session-unknown": it has restarted, or was asked something since).
- A refused request changes nothing: what is asked rightly afterwards is answered.
- Shares leave only for what this site confirmed, and only when it is noted on the disk (``released``) that they do. A
  later sum of the same question is confirmed for the same sites alone.
- Secrets are in memory only, one session for each run. A site that restarts has dropped out of the sum.
- A new offer is a new session with new keys; the same answer offered again before anything was dealt is the same offer,
  so that a question may be asked twice.

Not for several threads at once. What is asked, whether it is paid for, and when a run is over is left to the custodian
(``client.custodian.closing``).
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from client.secure import steps
from client.secure.released import Released
from client.secure.steps import HasConfirmed, HasDealt, HasMasked, HasRevealed, Offered
from shared.crypto.signing import SigningKey, VerifyKey
from shared.errors import ProtocolError
from shared.messages import Masked
from shared.secure.context import Context
from shared.secure.entropy import Entropy
from shared.secure.held import Held
from shared.secure.holders import Threshold
from shared.secure.names import require_name
from shared.secure.papers import (
    Confirmation,
    Dealing,
    Offer,
    Offers,
    Paper,
    Received,
    Revelation,
    Survivors,
    Unmasking,
)
from shared.secure.question import question

State = Offered | HasDealt | HasMasked | HasConfirmed | HasRevealed
Answer = TypeVar("Answer", Dealing, Masked, Confirmation, Revelation)

COURSE: Mapping[type[Paper], type[State]] = {
    Offers: Offered,
    Received: HasDealt,
    Survivors: HasMasked,
    Unmasking: HasConfirmed,
}
"""What a site must be at for each paper; answering it leads to the next."""


@dataclass(frozen=True, slots=True, eq=False)
class _Session:
    context: Context
    state: State
    request: bytes = b""
    answer: Any = None


@dataclass(frozen=True, slots=True)
class Identity:
    """Who a site is: its name, and the key that it is enrolled with.

    Raises:
        SiteDataError: "site-name": no paper of a sum could be signed in this name.
    """

    name: str
    key: SigningKey

    def __post_init__(self) -> None:
        require_name(self.name)


class Party:
    """The sessions of one site."""

    def __init__(
        self,
        identity: Identity,
        members: Callable[[], Mapping[str, VerifyKey]],
        threshold: Threshold,
        released: Released,
        entropy: Entropy,
    ) -> None:
        """A site without sessions.

        Args:
            identity: of the site.
            members: keys of the sites that are active in the roster, as it is now.
            threshold: the plan's rule.
            released: what this site has helped to unmask.
            entropy: ``os.urandom``, but in tests.
        """
        self._me, self._members, self._threshold = identity, members, threshold
        self._released, self._entropy = released, entropy
        self._sessions: dict[str, _Session] = {}

    def offer(self, context: Context, held: Held) -> Offer:
        """Begin a session for the answer ``held`` to the question ``context``, and forget the run's session before."""
        found = self._sessions.get(context.run)
        waiting = found.state if found is not None and found.context == context else None
        if isinstance(waiting, Offered) and waiting.held.same(held):
            return waiting.offer
        offered = steps.offer(context, held, self._me.name, self._me.key, self._entropy)
        self._sessions[context.run] = _Session(context, offered)
        return offered.offer

    def deal(self, context: Context, offers: Offers) -> Dealing:
        """Split this site's secrets among the others, if everybody's offers hold."""

        def act(state: Offered) -> tuple[HasDealt, Dealing]:
            return steps.deal(state, steps.agree(state, offers, self._members(), self._threshold), self._entropy)

        return self._once(context, offers, act)

    def mask(self, context: Context, received: Received) -> Masked:
        """What this site adds to the sum, hidden."""
        return self._once(context, received, lambda state: steps.mask(state, received, self._me.key))

    def confirm(self, context: Context, survivors: Survivors) -> Confirmation:
        """Sign who is in the sum."""

        def act(state: HasMasked) -> tuple[HasConfirmed, Confirmation]:
            self._released.require(_question(context, state), survivors.survivors)
            return steps.confirm(state, survivors, self._me.key)

        return self._once(context, survivors, act)

    def unmask(self, context: Context, unmasking: Unmasking) -> Revelation:
        """Reveal what takes the masks off the sum, once it is noted."""

        def act(state: HasConfirmed) -> tuple[HasRevealed, Revelation]:
            after = steps.unmask(state, unmasking)
            self._released.note(_question(context, state), state.survivors)
            return after

        return self._once(context, unmasking, act)

    @property
    def runs(self) -> tuple[str, ...]:
        """Runs that have a session."""
        return tuple(self._sessions)

    def forget(self, run: str) -> None:
        """End the session of ``run``, if there is one: its secrets are gone."""
        self._sessions.pop(run, None)

    def _once(self, context: Context, asked: Paper, act: Callable[[Any], tuple[State, Answer]]) -> Answer:
        session = self._sessions.get(context.run)
        if session is None or session.context != context:
            raise _refused("session-unknown", "this site has no session for this question")
        request = _request(asked)
        if session.request == request:
            answer: Answer = session.answer
            return answer
        if not isinstance(session.state, COURSE[type(asked)]):
            repeated = session.request.startswith(asked.kind.encode())
            raise _refused(
                "step-repeated" if repeated else "step-order",
                f"the {asked.kind} of a secure sum may come once and after what precedes them, not now",
            )
        state, answer = act(session.state)
        self._sessions[context.run] = replace(session, state=state, request=request, answer=answer)
        return answer


def _request(asked: Paper) -> bytes:
    return asked.kind.encode() + b" " + hashlib.sha256(asked.to_bytes()).digest()


def _refused(code: str, sentence: str) -> ProtocolError:
    return ProtocolError(
        sentence, hint="this site sits this sum out; ask the question again, and everybody offers new keys", code=code
    )


def _question(context: Context, state: HasMasked | HasConfirmed) -> str:
    known = state.agreed
    return question(context, known.offers[known.site].definition)
