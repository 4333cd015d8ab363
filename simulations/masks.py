"""Secure aggregation in a simulation: every site's masks, kept where all sites are.

Promises
- The same parties, messages and checks as between hospitals; each site signs with the key of its simulated data set.
- Sessions live in the process of the coordinator, whichever worker has computed an answer: unmasked numbers cross from
  one process of the simulation to another, and nowhere else.
"""

from __future__ import annotations

import os
from collections.abc import Mapping

from client.secure.party import Identity, Party
from client.secure.released import Remembered
from client.secure.summing import Summing
from shared.crypto.signing import SigningKey, VerifyKey
from shared.plan import Plan
from shared.secure.threshold import rule_of
from simulations.workers import KEY, SiteSpec


def identities(specs: tuple[SiteSpec, ...]) -> dict[str, VerifyKey]:
    """The key of each site, as a roster would give it."""
    return {spec.name: _key(spec).verify_key for spec in specs}


def masking(plan: Plan, specs: tuple[SiteSpec, ...]) -> Mapping[str, Summing]:
    """What masks the answers of each site; nothing where the plan has no secure aggregation."""
    if not plan.secure_aggregation.enabled:
        return {}
    members, agreed = identities(specs), rule_of(plan)
    return {
        spec.name: Summing(
            Party(Identity(spec.name, _key(spec)), lambda: members, agreed, Remembered(), os.urandom), plan
        )
        for spec in specs
    }


def _key(spec: SiteSpec) -> SigningKey:
    return SigningKey.load(spec.data / KEY)
