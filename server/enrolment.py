"""Who takes part: a request becomes an entry of the roster and a welcome; entries are suspended, lifted and removed.

Promises
- Enrolling what is enrolled already, with the same keys, changes no roster and writes the welcome again: with the
  present address and the present roster.
- A name with another key, or a key with another name, is refused (``shared.trust.roster``).
- Each change is one new roster that differs in one entry. No other site needs to do anything.
"""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

from server.federation_folder import PLANS, FederationFolder
from shared.crypto.signing import SigningKey
from shared.durable import replace_file
from shared.plan import Plan
from shared.trust import roster as rosters
from shared.trust.enrolment import EnrolmentRequest, make_welcome
from shared.trust.plans import sign_plan
from shared.trust.roster import Roster, State


def enrol(folder: FederationFolder, request: EnrolmentRequest, key: SigningKey, now: datetime) -> bytes:
    """Take a site in; gives the file of its welcome. Raises ``FederationError``."""

    def change(held: Roster) -> Roster:
        known = held.entry(request.site)
        same = known is not None and (known.identity, known.node) == (request.identity, request.node)
        return held if same else rosters.with_site(held, request.entry, now)

    return make_welcome(key, folder.coordinator(), folder.change_roster(key, change), request.site, now)


def set_state(folder: FederationFolder, site: str, state: State, key: SigningKey, now: datetime) -> None:
    """Suspend a site, or let it take part again; raises ``FederationError``."""
    folder.change_roster(key, lambda held: rosters.with_state(held, site, state, now))


def remove(folder: FederationFolder, site: str, key: SigningKey, now: datetime) -> None:
    """Take a site out; its name may then be enrolled with other keys. Raises ``FederationError``."""
    folder.change_roster(key, lambda held: rosters.without(held, site, now))


def sign(folder: FederationFolder, plan: Plan, key: SigningKey, now: datetime) -> Path:
    """Sign a plan and keep it under its digest; gives the file to send to the sites."""
    path = folder.path / PLANS / f"{plan.digest()}.json"
    replace_file(path, sign_plan(plan, key, now))
    return path
