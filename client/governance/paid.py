"""Nothing leaves unpaid, and nothing is paid for twice: the order of things between a question and its answer.

::

    reserve in the ledger ─► compute ─► store the reply ─► release in the ledger ─► return the bytes
                                                            │
    asked again: nothing left yet ─► compute anew           └► asked again: the stored bytes

Promises
- Each step is on the disk before the next begins. Killed anywhere before the release, nothing has left: the same
  question is computed anew, with fresh noise, for what was reserved. Killed after it, the same question gets the bytes
  that were stored.
- A run is answered one question at a time: whoever asks again while an answer is made waits for it and gets the same.
- Bytes that left once are the only ones that ever leave for their claim. Where they are forgotten or damaged, the
  question is refused and not computed again.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime

from client.governance.ledger import Ledger
from client.governance.replies import Replies
from client.governance.spending import Claim
from shared.privacy.accounting import Cap
from shared.privacy.events import Event


@dataclass(frozen=True, slots=True)
class Till:
    """Where a site pays for what leaves.

    Attributes:
        ledger: of the site.
        replies: of the site.
        cap: most that patients may pay.
        now: the time, with a time zone.
    """

    ledger: Ledger
    replies: Replies
    cap: Cap
    now: Callable[[], datetime]

    def answer_once(self, claim: Claim, event: Event, compute: Callable[[], bytes]) -> bytes:
        """The one answer to ``claim``: of ``compute``, paid for with ``event``, or the one that left before.

        Raises:
            BudgetError: it would cost more than the cap; ``compute`` is not called.
            ProtocolError: "replayed-otherwise" or "reply-forgotten"; ``compute`` is not called.
            SiteDataError: the ledger, the cohort or the stored reply cannot be used.
        """
        with self.replies.alone(claim):
            granted = self.ledger.reserve(claim, event, self.cap, self.now())
            if granted.reply is not None:
                return self.replies.fetch(claim, granted.reply)
            answer = compute()
            self.ledger.release(granted.number, self.replies.store(claim, answer), self.now())
            return answer
