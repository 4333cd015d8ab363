"""A secure sum from the first key to the total, in memory: real sites, a real coordinator, papers as bytes between.

``run`` does a whole one, with sites that drop out after any step and papers in any order. The methods of ``Sum`` do one
step each, for tests that change what is carried. ``expected`` is the oracle: numpy's sum of 64-bit integers.
"""

import hashlib
import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache
from typing import TypeVar

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from client.secure.party import Identity, Party
from client.secure.released import Released, Remembered
from server.secure.round import Summed, SumRound
from shared.crypto.signing import SigningKey, VerifyKey
from shared.errors import ConsiliumError
from shared.messages import Masked
from shared.secure.context import Context
from shared.secure.entropy import seeded
from shared.secure.held import Held
from shared.secure.holders import Threshold
from shared.secure.papers import Paper, Revelation

CONTEXT = Context("ab" * 32, "run-1", 3, "train")
DEFINITION = "cd" * 32
STEPS = ("offer", "deal", "mask", "confirm", "unmask")

Kind = TypeVar("Kind", bound=Paper)


@cache
def key_of(name: str) -> SigningKey:
    """The identity key of a site, the same in every test."""
    return SigningKey(Ed25519PrivateKey.from_private_bytes(hashlib.sha256(name.encode()).digest()))


def names_of(count: int) -> tuple[str, ...]:
    """Names whose order is not that of their numbers."""
    return tuple(f"s{hashlib.sha256(bytes([number])).hexdigest()[:6]}" for number in range(count))


def held(values: Sequence[int], counts: Sequence[int] = (), weight: int = 1, peak: int = 100) -> Held:
    """A site's answer."""
    return Held(np.array(values, np.int32), np.array(counts, np.int64), weight, peak, DEFINITION)


def carried(paper: Kind) -> Kind:
    """``paper`` as it arrives."""
    return type(paper).from_bytes(paper.to_bytes())


def expected(answers: Iterable[Held]) -> tuple[list[int], list[int], int]:
    """Values, counts and weight of a sum, without masks: 64-bit integers of numpy."""
    taken = list(answers)
    values = np.sum([one.values.astype(np.int64) * np.int64(one.weight) for one in taken], axis=0, dtype=np.int64)
    counts = np.sum([one.counts for one in taken], axis=0, dtype=np.int64)
    return values.tolist(), counts.tolist(), sum(one.weight for one in taken)


def found(summed: Summed) -> tuple[list[int], list[int], int]:
    """The same of a sum that was unmasked."""
    return summed.values.tolist(), summed.counts.tolist(), summed.weight


def code_of(call: Callable[[], object]) -> str:
    """The code of the error that ``call`` raises, which says what to do."""
    with pytest.raises(ConsiliumError) as caught:
        call()
    assert caught.value.hint, f"{caught.value.code} leaves its reader alone"
    return caught.value.code


def party(
    name: str, members: Mapping[str, VerifyKey], threshold: Threshold, seed: int = 0, released: Released | None = None
) -> Party:
    """A site that draws its secrets from ``seed``."""
    entropy, notes = seeded(f"{name} {seed}".encode()), Remembered() if released is None else released
    return Party(Identity(name, key_of(name)), lambda: members, threshold, notes, entropy)


class Sum:
    """One secure sum of ``answers``; attributes are there to be changed between steps."""

    def __init__(
        self,
        answers: Mapping[str, Held],
        threshold: Threshold | None = None,
        context: Context = CONTEXT,
        parties: Mapping[str, Party] | None = None,
        seed: int = 0,
    ) -> None:
        """``parties``: those of an earlier sum, who remember it."""
        self.answers, self.context = answers, context
        self.threshold = Threshold() if threshold is None else threshold
        self.members = {name: key_of(name).verify_key for name in answers}
        self.parties = (
            {name: party(name, self.members, self.threshold, seed) for name in answers}
            if parties is None
            else dict(parties)
        )
        shape = next(iter(answers.values())).shape
        self.round = SumRound(context, self.threshold, self.members, shape)
        self.masked: dict[str, Masked] = {}
        self.revealed: dict[str, Revelation] = {}

    def offer(self, sites: Iterable[str]) -> None:
        for site in sites:
            self.round.offer(site, carried(self.parties[site].offer(self.context, self.answers[site])))

    def deal(self, sites: Iterable[str]) -> None:
        offers = carried(self.round.offers())
        for site in sites:
            self.round.dealt(site, carried(self.parties[site].deal(self.context, offers)))

    def mask(self, sites: Iterable[str]) -> None:
        for site in sites:
            self.masked[site] = self.parties[site].mask(self.context, carried(self.round.received(site)))
            self.round.masked(site, self.masked[site])

    def confirm(self, sites: Iterable[str]) -> None:
        survivors = carried(self.round.survivors())
        for site in sites:
            self.round.confirmed(site, carried(self.parties[site].confirm(self.context, survivors)))

    def unmask(self, sites: Iterable[str]) -> None:
        unmasking = carried(self.round.unmasking())
        for site in sites:
            self.revealed[site] = carried(self.parties[site].unmask(self.context, unmasking))
            self.round.revealed(site, self.revealed[site])

    def until(self, last: str, sites: Iterable[str] | None = None) -> "Sum":
        """All steps up to and with ``last``, for all of ``sites``, or of the sum's."""
        taken = tuple(self.answers if sites is None else sites)
        for step in STEPS[: STEPS.index(last) + 1]:
            getattr(self, step)(taken)
        return self


def run(sum_: Sum, stays: Mapping[str, int] | None = None, order: random.Random | None = None) -> Summed:
    """A whole sum; a site takes part in as many steps as ``stays`` says (all five), in an order drawn for each step."""
    for number, step in enumerate(STEPS, start=1):
        sites = [site for site in sum_.answers if (stays or {}).get(site, len(STEPS)) >= number]
        if order is not None:
            order.shuffle(sites)
        if not sites and step == "mask":
            # Nobody to ask: the phase ends all the same.
            sum_.round.received(next(iter(sum_.answers)))
        getattr(sum_, step)(sites)
    return sum_.round.total()
