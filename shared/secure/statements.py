"""What is signed and what is committed to in a secure sum.

Promises
- A signature or a commitment made for one question of one run holds for no other: each begins with the bytes of its
  context. Kinds are told apart by their first line, parties by name.
- What one statement says, no other says: a context is one line, and what follows it is canonical JSON or, after one
  more line, a secret of fixed length.
- Commitments are SHA-256 of secrets with at least 256 bits of entropy: they can neither be opened to another secret
  nor tell anything about the first, if SHA-256 is collision resistant and behaves like a random function.
- A masked answer comes with a signature of the offers and of those who dealt. A confirmation is of the offers, of those
  who dealt and of those who survived, together: sites that were told different things at any earlier step do not count
  for each other.

Sources: Bonawitz et al., "Practical secure aggregation for privacy-preserving machine learning", CCS 2017, section 4
and figure 4 (the steps in red are those against an active server); the commitments to seeds and shares are ours.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from typing import Literal

from shared.secure.context import Context
from shared.secure.papers import Offer

Kind = Literal["seed", "key"]
"""Of a share: of the seed of a site's own mask, or of its private mask key."""


def offer_message(context: Context, offer: Offer) -> bytes:
    """What the signature of ``offer`` is over: the question, and all of the offer but the signature."""
    return _statement(context, "offer", offer.model_dump(mode="json", exclude={"signature"}))


def dealers_message(context: Context, offers: str, dealers: Sequence[str]) -> bytes:
    """What a site signs with its masked answer: whom it was told to mask with."""
    return _statement(context, "dealers", {"dealers": sorted(dealers), "offers": offers})


def survivors_message(context: Context, offers: str, dealers: Sequence[str], survivors: Sequence[str]) -> bytes:
    """What a confirmation is over; ``offers`` is the SHA-256 of the paper that the site was shown."""
    said = {"dealers": sorted(dealers), "offers": offers, "survivors": sorted(survivors)}
    return _statement(context, "survivors", said)


def seed_commitment(context: Context, site: str, seed: bytes) -> str:
    """What ``site`` offers of its seed: 64 hexadecimal digits."""
    return hashlib.sha256(_statement(context, "seed", {"site": site}) + b"\n" + seed).hexdigest()


def share_commitment(context: Context, dealer: str, holder: str, kind: Kind, share: bytes) -> str:
    """What ``dealer`` tells of the share that it gives to ``holder``: 64 hexadecimal digits."""
    said = {"dealer": dealer, "holder": holder, "of": kind}
    return hashlib.sha256(_statement(context, "share-dealt", said) + b"\n" + share).hexdigest()


def survivors_digest(survivors: Sequence[str]) -> str:
    """SHA-256 of a set of names, whatever their order: what a site keeps of a sum it helped to unmask."""
    return hashlib.sha256(_canonical(sorted(survivors))).hexdigest()


def graph_seed(context: Context, offers: str) -> bytes:
    """What neighbours are drawn from: fixed by the offers, and so by nobody alone (see ``shared.secure.graph``)."""
    return hashlib.sha256(_statement(context, "graph", {"offers": offers})).digest()


def _statement(context: Context, kind: str, said: object) -> bytes:
    return context.bytes(kind) + b"\n" + _canonical(said)


def _canonical(said: object) -> bytes:
    return json.dumps(said, sort_keys=True, separators=(",", ":")).encode("ascii")
