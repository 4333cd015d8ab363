"""Four sites in memory that mask what they send: ``MemoryFleet`` under secure aggregation."""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from summed import key_of
from tiny_federation import MemoryFleet, Tamper, tiny_plan, tiny_site

from client.secure.party import Identity, Party
from client.secure.released import Remembered
from client.secure.summing import Summing
from client.site import Site
from shared.crypto.signing import VerifyKey
from shared.messages import Reply, Request
from shared.plan import Plan
from shared.secure.entropy import seeded
from shared.secure.threshold import rule_of

NAMES = ("aachen", "bergen", "coimbra", "drive")


def masked_plan(**changes: Any) -> Plan:
    """Two thirds of four are three: one site may drop out."""
    return tiny_plan(**{**SUMMED, "secure_aggregation__enabled": True, **changes})


SUMMED: dict[str, Any] = {
    "plan__rounds": 2,
    "training__steps": 1,
    "aggregation__weights": "equal",
    "aggregation__fixed_point": {"range": 4.0, "bits": 24},
    "evaluation__release": "sum",
}
"""What a plan with secure aggregation needs beside it; alone, the same without masks."""


def masked_site(name: str, plan: Plan, members: dict[str, VerifyKey]) -> Site:
    identity, entropy = Identity(name, key_of(name)), seeded(name.encode())
    party = Party(identity, lambda: members, rule_of(plan), Remembered(), entropy)
    return replace(tiny_site(name, plan), summing=Summing(party, plan))


class MaskedFleet(MemoryFleet):
    """Sites that remember what they have helped to unmask as long as this lives."""

    def __init__(self, plan: Plan, *, tamper: Tamper | None = None, reverse: bool = False) -> None:
        super().__init__(plan, tamper=tamper, reverse=reverse)
        self.deadlines_s: dict[str, float] = {}
        self.identities = {name: key_of(name).verify_key for name in NAMES}
        if plan.secure_aggregation.enabled:
            self.sites = {name: masked_site(name, plan, self.identities) for name in NAMES}
        else:
            self.sites = {name: tiny_site(name, plan) for name in NAMES}

    def ask(self, requests: Mapping[str, Request], deadline_s: float) -> Iterator[tuple[str, Reply]]:
        self.deadlines_s |= {type(request).__name__: deadline_s for request in requests.values()}
        yield from super().ask(requests, deadline_s)

    def tampered_with(self, tamper: Tamper | None) -> "MaskedFleet":
        """The same sites, whose replies are changed in another way from now on."""
        self._tamper = tamper
        return self
