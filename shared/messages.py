"""What the coordinator asks of a site, and what a site answers.

Promises
- Every message carries the protocol version, the run, the plan's digest and the round, so that a replayed, foreign or
  outdated message is recognised before anything is computed.
- A site answers each request with exactly one reply: the one that belongs to it, or a ``Refusal`` with a stable code.
- Nothing here can hold a pixel, a case or a patient: replies are keys, fixed-point sums, additive counts and, where a
  plan shares models, weights.
- Under secure aggregation a site answers ``Train``, ``Evaluate`` and ``Personalise`` with ``Offered``: public keys.
  What it has computed leaves as ``Masked``, and only the sum over sites can be read (docs/secure-aggregation.md).

The types are plain values; ``shared.message_bytes`` turns them into bytes and back, ``shared.wire`` carries those.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray

PROTOCOL = 1

Vector = NDArray[np.float32]
Counts = NDArray[np.int64]
Split = Literal["train", "validation", "test"]
Bits = int
"""Width of an integer with its sign, 8 to 32."""
Bytes = NDArray[np.uint8]
About = Literal["train", "validation", "test", "personalise"]
"""The question whose answers are added up under masks."""


@dataclass(frozen=True, slots=True)
class Envelope:
    """Who is asking for what: compared with what the site expects before any work is done."""

    run: str
    plan_digest: str
    round: int
    protocol: int = PROTOCOL


@dataclass(frozen=True, slots=True)
class Hello:
    """Round 0: what are you running, and can you take part?

    ``roster`` is the federation's, as the lead signed it, so that every site knows whom it computes with; "" where
    there is none.
    """

    envelope: Envelope
    roster: str = ""


@dataclass(frozen=True, slots=True, eq=False)
class Train:
    """Train from ``weights`` (the flat global model, float32) for the plan's number of steps."""

    envelope: Envelope
    weights: Vector


@dataclass(frozen=True, slots=True, eq=False)
class Evaluate:
    """Measure ``weights`` on this site's patients of ``split``."""

    envelope: Envelope
    weights: Vector
    split: Split


@dataclass(frozen=True, slots=True, eq=False)
class Personalise:
    """Fine-tune ``weights`` on own patients, keep the result at the site, and measure it on ``split``."""

    envelope: Envelope
    weights: Vector
    split: Split


@dataclass(frozen=True, slots=True)
class Share:
    """Send the fine-tuned weights that ``Personalise`` has left at this site, where the plan says so."""

    envelope: Envelope


@dataclass(frozen=True, slots=True, eq=False)
class Cross:
    """Measure ``weights``, the fine-tuned model of the site named ``model``, on this site's test patients."""

    envelope: Envelope
    weights: Vector
    model: str


@dataclass(frozen=True, slots=True, eq=False)
class Deal:
    """The keys of everybody (``shared.secure.papers.Offers``): deal out shares of your secrets."""

    envelope: Envelope
    about: About
    content: Bytes


@dataclass(frozen=True, slots=True, eq=False)
class Mask:
    """What the others have dealt to this site (``papers.Received``): send what you have computed, masked."""

    envelope: Envelope
    about: About
    content: Bytes


@dataclass(frozen=True, slots=True, eq=False)
class Confirm:
    """Whose masked values arrived (``papers.Survivors``): sign that this is what you were told."""

    envelope: Envelope
    about: About
    content: Bytes


@dataclass(frozen=True, slots=True, eq=False)
class Unmask:
    """That enough sites were told the same (``papers.Unmasking``): reveal what takes the masks off the sum."""

    envelope: Envelope
    about: About
    content: Bytes


SumStep = Deal | Mask | Confirm | Unmask
"""What is asked between a question and its sum."""

Request = Hello | Train | Evaluate | Personalise | Share | Cross | Deal | Mask | Confirm | Unmask


@dataclass(frozen=True, slots=True)
class Welcome:
    """Answer to ``Hello``: versions and digests by name, and the weight this site has in the sum."""

    fingerprint: tuple[tuple[str, str], ...]
    weight: int


@dataclass(frozen=True, slots=True, eq=False)
class Update:
    """Answer to ``Train``: trained minus received weights, as integers on the plan's fixed-point grid.

    Attributes:
        values: shape (P,), int32; times the plan's resolution gives the change of each parameter.
        bits: width of each value on the wire, with sign; every value fits.
        weight: public weight of this site in the sum.
        schema: digest of the names and shapes that ``values`` stands for.
        loss_sum: sum over steps of the mean loss, in units of 2**-20.
        steps: optimizer steps made.
        saturated: parameters whose change was clipped to the plan's range.
        seconds: time spent training; not part of anything that must be reproducible.
    """

    values: NDArray[np.int32]
    bits: Bits
    weight: int
    schema: str
    loss_sum: int
    steps: int
    saturated: int
    seconds: float = field(default=0.0)


@dataclass(frozen=True, slots=True, eq=False)
class Measured:
    """Answer to ``Evaluate``, ``Personalise`` and ``Cross``: additive statistics, flat, with their schema's digest."""

    counts: Counts
    schema: str
    seconds: float = field(default=0.0)


@dataclass(frozen=True, slots=True, eq=False)
class Shared:
    """Answer to ``Share``: this site's own fine-tuned weights, float32, and the digest of their names and shapes."""

    weights: Vector
    schema: str


@dataclass(frozen=True, slots=True)
class Refusal:
    """Answer to any request that a site will not or cannot serve."""

    code: str
    sentence: str
    hint: str = ""


@dataclass(frozen=True, slots=True, eq=False)
class Offered:
    """Answer to a question under secure aggregation: this site's public keys (``shared.secure.papers.Offer``)."""

    content: Bytes


@dataclass(frozen=True, slots=True, eq=False)
class Dealt:
    """Answer to ``Deal``: a sealed share for each neighbour (``papers.Dealing``)."""

    content: Bytes


@dataclass(frozen=True, slots=True, eq=False)
class Masked:
    """Answer to ``Mask``: an update or statistics under masks, which say nothing by themselves.

    Attributes:
        content: ``values`` integers of ``bits`` bits as ``shared.secure.ring`` packs them, then ``counts`` integers of
            64 bits, little-endian.
        bits: width of the ring of the values.
        values: how many.
        counts: how many.
        signature: this site's, in hexadecimal digits, over the dealers that it was told (``papers.Received``).
    """

    content: Bytes
    bits: int
    values: int
    counts: int
    signature: str


@dataclass(frozen=True, slots=True, eq=False)
class Confirmed:
    """Answer to ``Confirm``: this site's signature (``papers.Confirmation``)."""

    content: Bytes


@dataclass(frozen=True, slots=True, eq=False)
class Revealed:
    """Answer to ``Unmask``: one share for each neighbour (``papers.Revelation``)."""

    content: Bytes


Reply = Welcome | Update | Measured | Shared | Offered | Dealt | Masked | Confirmed | Revealed | Refusal
