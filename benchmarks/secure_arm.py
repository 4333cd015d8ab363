"""Sums under masks, plain exact sums and sums of float32, side by side in one process: CPU seconds and bytes.

Promises
- Everything that a site or the coordinator does from a trained change to the sum is counted: rounding, keys, shares,
  masks, papers, and writing and reading each message (``shared.message_bytes``). Training and what carries messages
  (signed parcels, TLS) are not.
- One site's numbers are in memory at a time: they are drawn again where they are needed. Beside them are the sums, and
  up to ``exact.LARGEST_GROUP`` updates that wait in the plain exact sum, as in a round.
- Every sum is compared with numpy's sum of 64-bit integers; one that differs ends the arm.
- Sites that drop out have offered and dealt, and send no masked answer. Several numbers of them share the sites'
  masks, which do not depend on who drops out later; the coordinator does its whole work for each.

CPU time is this process's, of one thread. Updates are changes drawn from one normal, under ``bits`` of fixed point.
"""

from __future__ import annotations

import os
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from statistics import median
from typing import Any, ParamSpec, TypeVar

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES256
from cryptography.hazmat.primitives.ciphers.modes import CTR
from numpy.typing import NDArray

from client.secure import steps
from server.aggregation.exact import ExactSum
from server.secure.round import SumRound
from shared.crypto.signing import SigningKey
from shared.fixed_point import peak, quantise
from shared.message_bytes import reply_from_bytes, reply_to_bytes, request_from_bytes, request_to_bytes
from shared.messages import (
    Confirm,
    Confirmed,
    Deal,
    Dealt,
    Envelope,
    Mask,
    Offered,
    Reply,
    Request,
    Revealed,
    Shared,
    Train,
    Unmask,
    Update,
)
from shared.plan import FixedPoint
from shared.secure import masks
from shared.secure.context import Context
from shared.secure.held import Held, Shape
from shared.secure.holders import Threshold
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

COORDINATOR = "coordinator"
CONTEXT = Context("ab" * 32, "benchmark", 1, "train")
ENVELOPE = Envelope(CONTEXT.run, CONTEXT.plan_digest, CONTEXT.round)
DEFINITION = "cd" * 32
_COUNTS = 4
_SPREAD = 0.25
"""Standard deviation of the changes, in ranges: few are clipped."""
_KEY_BYTES = 32
_HAD = 32
"""Vectors of the network's length that are in use at once, or a few more."""

P = ParamSpec("P")
Result = TypeVar("Result")
Kind = TypeVar("Kind", bound=Paper)
Name = TypeVar("Name")
Reals = NDArray[np.float32]


def speed(length: int, repeats: int) -> dict[str, list[float]]:
    """GB of mask for each CPU second: made and added, and made alone; neighbours in time took turns."""
    values, counts = np.zeros(length, np.uint32), np.zeros(0, np.uint64)
    ways: dict[str, Callable[[], object]] = {
        "masked": lambda: masks.add(os.urandom(_KEY_BYTES), 1, values, counts),
        "stream": lambda: _stream(4 * length),
    }
    for way in ways.values():
        way()
    taken: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(repeats):
        for name, way in ways.items():
            taken[name].append(4e-9 * length / _cpu_s(way))
    return taken


def _stream(size: int) -> None:
    """AES-256-CTR of ``size`` bytes, block by block into one buffer, as masks are made."""
    cipher = Cipher(AES256(os.urandom(_KEY_BYTES)), CTR(bytes(16))).encryptor()
    zeros, buffer = bytes(masks.BLOCK_BYTES), bytearray(masks.BLOCK_BYTES)
    for _ in range(-(-size // masks.BLOCK_BYTES)):
        cipher.update_into(zeros, buffer)


def _cpu_s(work: Callable[[], object]) -> float:
    began = time.process_time()
    work()
    return time.process_time() - began


@dataclass(frozen=True)
class Ledger:
    """CPU seconds of each party, and bytes that each site sent and received."""

    seconds: defaultdict[str, float] = field(default_factory=lambda: defaultdict(float))
    up: Counter[str] = field(default_factory=Counter)
    down: Counter[str] = field(default_factory=Counter)

    def of(self, party: str, work: Callable[P, Result], *given: P.args, **named: P.kwargs) -> Result:
        """``work`` on this party's account."""
        began = time.process_time()
        done = work(*given, **named)
        self.seconds[party] += time.process_time() - began
        return done

    def sent(self, site: str, reply: Reply) -> Reply:
        """``reply`` as it arrives at the coordinator."""
        content = self.of(site, reply_to_bytes, reply)
        self.up[site] += len(content)
        return self.of(COORDINATOR, reply_from_bytes, content)

    def asked(self, site: str, request: Request) -> Request:
        """``request`` as it arrives at ``site``."""
        content = self.of(COORDINATOR, request_to_bytes, request)
        self.down[site] += len(content)
        return self.of(site, request_from_bytes, content)

    def summary(self, sites: Sequence[str]) -> dict[str, float]:
        """Of the coordinator, and of the middle one of ``sites``; bytes of the one with most."""
        return {
            "site_s": median(self.seconds[site] for site in sites),
            "coordinator_s": self.seconds[COORDINATOR],
            "up": float(max(self.up[site] for site in sites)),
            "papers_down": float(max(self.down[site] for site in sites)),
        }


def charge(ledgers: Sequence[Ledger], party: str, work: Callable[[], Result]) -> Result:
    """``work``, done once, on this party's account in all ``ledgers``."""
    began = time.process_time()
    done = work()
    spent = time.process_time() - began
    for ledger in ledgers:
        ledger.seconds[party] += spent
    return done


class Branch:
    """The coordinator's side of one sum that ``dropped`` never send their masked answer to."""

    def __init__(self, sums: SumRound, length: int, dropped: frozenset[str]) -> None:
        self.sums, self.dropped, self.ledger = sums, dropped, Ledger()
        self.values, self.counts = np.zeros(length, np.int64), np.zeros(_COUNTS, np.int64)

    def expect(self, site: str, held: Held) -> None:
        """Add what the sum must come to, apart from it."""
        if site not in self.dropped:
            np.add(self.values, held.values, out=self.values)
            np.add(self.counts, held.counts, out=self.counts)

    def finish(self, sites: Mapping[str, tuple[steps.HasMasked, SigningKey]]) -> dict[str, float]:
        """Confirm, unmask, compare; returns the figures."""
        left = {site: of for site, of in sites.items() if site not in self.dropped}
        confirmed = {site: self._confirm(site, *of) for site, of in left.items()}
        for site, before in confirmed.items():
            self._unmask(site, before)
        total = self.ledger.of(COORDINATOR, self.sums.total)
        if not (np.array_equal(total.values, self.values) and np.array_equal(total.counts, self.counts)):
            raise RuntimeError(f"the sum under masks of {len(left)} sites is not the plain one")
        return {"dropped": float(len(self.dropped)), **self.ledger.summary(list(left))}

    def _confirm(self, site: str, before: steps.HasMasked, key: SigningKey) -> steps.HasConfirmed:
        paper = self.ledger.of(COORDINATOR, lambda: _content(self.sums.survivors()))
        asked = _paper(Survivors, self.ledger.asked(site, Confirm(ENVELOPE, "train", paper)))
        after, said = self.ledger.of(site, steps.confirm, before, asked, key)
        reply = self.ledger.sent(site, Confirmed(_content(said)))
        self.ledger.of(COORDINATOR, lambda: self.sums.confirmed(site, _paper(Confirmation, reply)))
        return after

    def _unmask(self, site: str, before: steps.HasConfirmed) -> None:
        paper = self.ledger.of(COORDINATOR, lambda: _content(self.sums.unmasking()))
        request = self.ledger.asked(site, Unmask(ENVELOPE, "train", paper))
        _, said = self.ledger.of(site, lambda: steps.unmask(before, _paper(Unmasking, request)))
        reply = self.ledger.sent(site, Revealed(_content(said)))
        self.ledger.of(COORDINATOR, lambda: self.sums.revealed(site, _paper(Revelation, reply)))


class Plain:
    """The same round without masks: integers in an exact sum, and float32 in a sum of float32."""

    def __init__(self, length: int, fixed_point: FixedPoint) -> None:
        self.exact, self.float32 = Ledger(), Ledger()
        self._bits, self._sum = fixed_point.bits, ExactSum(DEFINITION, length, fixed_point)
        self._floats = np.zeros(length, np.float32)

    def add(self, site: str, change: Reals, values: NDArray[np.int32]) -> None:
        """One site's change, both ways."""
        update = Update(values, self._bits, 1, DEFINITION, loss_sum=0, steps=1, saturated=0)
        reply: Any = self.exact.sent(site, update)
        self.exact.of(COORDINATOR, self._sum.add, reply)
        floats: Any = self.float32.sent(site, Shared(change, DEFINITION))
        self.float32.of(COORDINATOR, np.add, self._floats, floats.weights, out=self._floats)

    def finish(self) -> None:
        """End the sums; the exact one is only ended here."""
        self.exact.of(COORDINATOR, self._sum.total)


class Sites:
    """All sites up to their masks, each of which counts for every branch."""

    def __init__(self, names: Sequence[str], shape: Shape, branches: Sequence[Branch]) -> None:
        self.names, self._shape, self._branches = names, shape, branches
        self.keys = {name: SigningKey.generate() for name in names}
        self.members = {name: key.verify_key for name, key in self.keys.items()}
        self._dealt: dict[str, steps.HasDealt] = {}
        self._threshold = Threshold()

    @property
    def _ledgers(self) -> list[Ledger]:
        return [branch.ledger for branch in self._branches]

    def sums(self) -> SumRound:
        """A coordinator that knows them."""
        return SumRound(CONTEXT, self._threshold, self.members, self._shape)

    def deal(self) -> None:
        """Offers and shares of all."""
        # No numbers are needed yet; these take no memory.
        blank = np.broadcast_to(np.int32(0), self._shape.values)
        held = Held(blank, np.zeros(_COUNTS, np.int64), 1, self._shape.peak, DEFINITION)
        offered = {name: self._offer(name, held) for name in self.names}
        for name, before in offered.items():
            self._deal(name, before)

    def held(self, name: str, values: NDArray[np.int32], counts: NDArray[np.int64]) -> Held:
        """What a site keeps, checked as it does."""
        return charge(self._ledgers, name, lambda: Held(values, counts, 1, self._shape.peak, DEFINITION))

    def mask(self, name: str, held: Held) -> steps.HasMasked:
        """One site's masked answer, to every branch that it has not dropped out of."""
        before = replace(self._dealt.pop(name), held=held)
        request = self._ask(name, lambda sums: Mask(ENVELOPE, "train", _content(sums.received(name))))
        after, reply = charge(
            self._ledgers, name, lambda: steps.mask(before, _paper(Received, request), self.keys[name])
        )
        self._send(name, reply, lambda sums, arrived: sums.masked(name, arrived))
        return after

    def _offer(self, name: str, held: Held) -> steps.Offered:
        offered = charge(self._ledgers, name, lambda: steps.offer(CONTEXT, held, name, self.keys[name], os.urandom))
        reply = Offered(_content(offered.offer))
        self._send(name, reply, lambda sums, arrived: sums.offer(name, _paper(Offer, arrived)))
        return offered

    def _deal(self, name: str, before: steps.Offered) -> None:
        request = self._ask(name, lambda sums: Deal(ENVELOPE, "train", _content(sums.offers())))

        def act() -> tuple[steps.HasDealt, Dealing]:
            known = steps.agree(before, _paper(Offers, request), self.members, self._threshold)
            return steps.deal(before, known, os.urandom)

        self._dealt[name], dealing = charge(self._ledgers, name, act)
        reply = Dealt(_content(dealing))
        self._send(name, reply, lambda sums, arrived: sums.dealt(name, _paper(Dealing, arrived)))

    def _ask(self, name: str, request: Callable[[SumRound], Request]) -> Request:
        """The same of every branch."""
        return [
            branch.ledger.asked(name, branch.ledger.of(COORDINATOR, request, branch.sums)) for branch in self._branches
        ][-1]

    def _send(self, name: str, reply: Reply, take: Callable[[SumRound, Any], object]) -> None:
        content = charge(self._ledgers, name, partial(reply_to_bytes, reply))
        for branch in self._branches:
            # A site that drops out has offered and dealt.
            if isinstance(reply, Offered | Dealt) or name not in branch.dropped:
                branch.ledger.up[name] += len(content)
                arrived = branch.ledger.of(COORDINATOR, reply_from_bytes, content)
                branch.ledger.of(COORDINATOR, take, branch.sums, arrived)


def sums(sites: int, length: int, bits: int, dropped: Sequence[int]) -> dict[str, Any]:
    """Figures of one federation: without masks both ways, and under masks for each number of sites in ``dropped``."""
    as_in_the_second_round(length)
    fixed_point = FixedPoint(range=1.0, bits=bits)
    names = [f"site-{number:03}" for number in range(sites)]
    branches: list[Branch] = []
    federation = Sites(names, Shape(length, _COUNTS, peak(fixed_point), DEFINITION), branches)
    branches += [Branch(federation.sums(), length, frozenset(names[sites - gone :])) for gone in dropped]
    federation.deal()
    plain = Plain(length, fixed_point)
    masked: dict[str, tuple[steps.HasMasked, SigningKey]] = {}
    for name, change in changes(names, length):
        values, _ = charge([plain.exact, *(of.ledger for of in branches)], name, partial(quantise, change, fixed_point))
        plain.add(name, change, values)
        counts = np.full(_COUNTS, len(masked) - 2**40, np.int64)
        held = federation.held(name, values, counts)
        for branch in branches:
            branch.expect(name, held)
        masked[name] = (federation.mask(name, held), federation.keys[name])
    plain.finish()
    return {
        "exact": plain.exact.summary(names),
        "float32": plain.float32.summary(names),
        "masked": [branch.finish(masked) for branch in branches],
        "model_bytes": len(request_to_bytes(Train(ENVELOPE, np.zeros(length, np.float32)))),
    }


def as_in_the_second_round(length: int) -> None:
    """Have the memory that all sides use: its first use would be charged to whoever comes first."""
    _ = [np.ones(length, np.float32) for _ in range(_HAD)]


def changes(names: Sequence[Name], length: int) -> Iterator[tuple[Name, Reals]]:
    """Different changes of the same statistics: one draw, turned, since drawing is slower than most of the rest."""
    drawn = np.random.default_rng(1).standard_normal(length, np.float32) * np.float32(_SPREAD)
    for number, name in enumerate(names):
        yield name, np.roll(drawn, 7919 * number)


def _content(paper: Paper) -> NDArray[np.uint8]:
    return np.frombuffer(paper.to_bytes(), np.uint8)


def _paper(kind: type[Kind], message: Any) -> Kind:  # noqa: ANN401 - any message with content
    return kind.from_bytes(message.content.tobytes())
