"""Exact, streaming sums of updates and of statistics.

Promises
- The sum is the mathematical one: integers, no rounding, no overflow. Sites may answer in any order and in groups of
  any size; the result has the same bits.
- Memory does not grow with the number of sites: one int64 accumulator, a few waiting updates, scratch of one block.
- Everything about an update is checked before any of it is added. A bad one leaves the sum as it was.

Why nothing overflows. An update's values are int32, so at most 2**31 in size. Weights are integers from 1 to
``LARGEST_WEIGHT``, and ``ExactSum`` refuses updates once the weights would add up to more than ``LARGEST_TOTAL`` =
2**32 - 1 (4,294 sites of the largest weight). Hence the sum is at most 2**31 * (2**32 - 1) < 2**63 in size. A site's
statistics are at most ``LARGEST_COUNT`` = 2**52, and at most ``MOST_SITES`` = 2**11 - 1 sites are added: below 2**63.

How it is fast. numpy adds int32 to int64 at about a third of the speed of memory, since it converts first. A group of
updates is therefore added up in int32, block by block while the blocks are in cache, wherever the sum of
weight * largest value of the block shows that this cannot overflow; only the group's sum is converted. Blocks where it
could overflow are added in int64. Both give the same integers. Groups of 8 updates of weight 1 whose changes are below
an eighth of the plan's range reach about half the speed at which numpy adds the same arrays in int32, block by block.

Whose update it is, and whether the weight is the one agreed with that site, is the caller's to check.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from shared.errors import RunError, UpdateRejected
from shared.evaluation.additive import UNIT
from shared.fixed_point import Integers, resolution
from shared.messages import Counts, Measured, Update, Vector
from shared.plan import FixedPoint

Put = Callable[[NDArray[np.int64], NDArray[np.int32] | NDArray[np.int64]], None]
"""What is done with a sum: it is written (the first) or added."""

LARGEST_WEIGHT = 1_000_000
LARGEST_TOTAL = 2**32 - 1
LARGEST_COUNT = 2**52
LONGEST_S = 366 * 86400.0
MOST_SITES = 2**11 - 1
INT32_BOUND = 2**31

LARGEST_GROUP = 8
"""Updates added up together: more gain little, since each block is then read from memory almost only once."""

BLOCK = 2**17
"""Values added at a time: 512 KiB of each update, so that a group of 8 stays in a cache of a few MiB."""


@dataclass(frozen=True, slots=True, eq=False)
class Total:
    """A weighted sum of updates: from ``ExactSum``, or what secure aggregation has unmasked.

    Attributes:
        values: shape (P,), int64, sum of weight * update.
        weight: sum of the weights.
        loss_sum: sum over sites and steps of the training loss, in units of 2**-20.
        steps: optimizer steps made by all sites.
        saturated: parameters whose change was clipped, counted over all sites.
    """

    values: NDArray[np.int64]
    weight: int = 0
    loss_sum: int = 0
    steps: int = 0
    saturated: int = 0

    def mean(self, fixed_point: FixedPoint) -> Vector:
        """The weighted mean change of each parameter, shape (P,), float32.

        Within 2**-24 of the exact mean, relatively: the resolution is a power of two, so dividing by
        weight / resolution is one correctly rounded division in float64, and only the result is rounded to float32.

        Raises:
            RunError: nothing was added.
        """
        if self.weight == 0:
            raise RunError("no update was added, so there is no mean", hint="check quorum and the sites' refusals")
        divisor = self.weight / resolution(fixed_point)
        mean = np.empty(self.values.size, np.float32)
        for start in range(0, mean.size, BLOCK):
            mean[start : start + BLOCK] = self.values[start : start + BLOCK] / divisor
        return mean

    def mean_loss(self) -> float:
        """Training loss, averaged over all steps of all sites; NaN without steps."""
        return self.loss_sum * UNIT / self.steps if self.steps else float("nan")


class ExactSum:
    """Weighted sum of updates under one schema and one fixed point, added as they come."""

    def __init__(self, schema: str, length: int, fixed_point: FixedPoint, *, waiting_bytes: int = 2**30) -> None:
        """Start from zero.

        Args:
            schema: digest of the ``ParameterSchema`` that updates must be of.
            length: number of values P of that schema.
            fixed_point: the plan's range and bits.
            waiting_bytes: memory for updates that wait to be added up together, up to ``LARGEST_GROUP`` of them. With
                0 each is added at once, which takes least memory and two to three times as long.
        """
        self._schema = schema
        self._bits = fixed_point.bits
        self._bound = 1 << fixed_point.bits - 1
        self._group = max(1, min(LARGEST_GROUP, waiting_bytes // max(1, 4 * length)))
        self._waiting: list[tuple[Integers, int]] = []
        # Written, not added to, by the first group: zeros would be written and read for nothing.
        self._sum = Total(np.empty(length, np.int64))
        self._put: Put = np.copyto

    def add(self, update: Update) -> None:
        """Add an update; its ``values`` must not change before ``total`` was called.

        Raises:
            UpdateRejected: another schema or length, a value beyond the plan's bits, or an impossible weight or count.
                Nothing was added.
        """
        self._check(update)
        self._waiting.append((update.values, update.weight))
        before = self._sum
        self._sum = Total(
            before.values,
            before.weight + update.weight,
            before.loss_sum + update.loss_sum,
            before.steps + update.steps,
            before.saturated + update.saturated,
        )
        if len(self._waiting) == self._group:
            self._add_waiting()

    def total(self) -> Total:
        """The sum so far. ``values`` is this object's own memory: use it before adding more."""
        self._add_waiting()
        return self._sum

    def _add_waiting(self) -> None:
        if self._waiting:
            _accumulate(self._sum.values, self._waiting, self._bound, self._put)
            self._put = _increase
        elif self._put is not _increase:
            self._sum.values.fill(0)
        self._waiting = []

    def _check(self, update: Update) -> None:
        values, length = update.values, self._sum.values.size
        if update.schema != self._schema or update.bits != self._bits:
            raise UpdateRejected("the update is of another network or number of bits", code="update-schema")
        if values.dtype != np.int32 or values.shape != (length,):
            found = f"{values.dtype} of shape {values.shape}"
            raise UpdateRejected(f"the update should be {length} int32 values, not {found}", code="update-length")
        if not 1 <= update.weight <= LARGEST_WEIGHT or self._sum.weight + update.weight > LARGEST_TOTAL:
            raise UpdateRejected(f"the weight {update.weight} is not one that can be added", code="update-weight")
        if not _possible(update):
            raise UpdateRejected("the update's loss or counts are impossible", code="update-counts")
        if self._bound < INT32_BOUND and _peak(values) > self._bound:
            raise UpdateRejected(
                f"the update holds values beyond {self._bound}, which the plan's bits cannot", code="update-range"
            )


class CountSum:
    """Sum of the sites' additive statistics under one schema."""

    def __init__(self, schema: str, length: int) -> None:
        """Start from zero: ``schema`` is the digest that statistics must carry, ``length`` their number of counts."""
        self._schema = schema
        self._counts = np.zeros(length, np.int64)
        self._sites = 0

    def add(self, measured: Measured) -> None:
        """Add one site's statistics; raises ``UpdateRejected``, and nothing was added."""
        counts, length = measured.counts, self._counts.size
        if measured.schema != self._schema:
            raise UpdateRejected("the statistics follow another definition", code="statistics-schema")
        if counts.dtype != np.int64 or counts.shape != (length,):
            found = f"{counts.dtype} of shape {counts.shape}"
            raise UpdateRejected(f"statistics should be {length} int64 counts, not {found}", code="statistics-length")
        if _peak(counts) > LARGEST_COUNT or self._sites == MOST_SITES:
            raise UpdateRejected(
                f"a count is beyond {LARGEST_COUNT}, or there are over {MOST_SITES} sites", code="statistics-range"
            )
        self._counts += counts
        self._sites += 1

    def total(self) -> Counts:
        """The sum so far, shape (length,), int64, as a copy."""
        return self._counts.copy()


def _possible(update: Update) -> bool:
    counts = (update.steps, update.saturated, abs(update.loss_sum))
    return min(counts) >= 0 and max(counts) <= LARGEST_COUNT and 0 <= update.seconds <= LONGEST_S


def _peak(values: NDArray[np.int32] | NDArray[np.int64]) -> int:
    """Largest magnitude; blockwise, so that the second look finds the block in cache."""
    peak = 0
    for start in range(0, values.size, BLOCK):
        block = values[start : start + BLOCK]
        peak = max(peak, -int(block.min()), int(block.max()))
    return peak


def _increase(total: NDArray[np.int64], part: NDArray[np.int32] | NDArray[np.int64]) -> None:
    np.add(total, part, out=total)


def _accumulate(total: NDArray[np.int64], group: Sequence[tuple[Integers, int]], bound: int, put: Put) -> None:
    """Put the sum of weight * values of a group into ``total``: write it, or add it."""
    narrow_scratch = np.empty((2, min(BLOCK, total.size)), np.int32)
    surely_fits = bound * sum(weight for _, weight in group) < INT32_BOUND
    for start in range(0, total.size, BLOCK):
        part = slice(start, min(start + BLOCK, total.size))
        blocks = [(values[part], weight) for values, weight in group]
        # A single update is converted either way.
        if len(group) > 1 and (surely_fits or _fits(blocks)):
            _add_narrow(total[part], blocks, narrow_scratch[:, : part.stop - part.start], put)
        else:
            _add_wide(total[part], blocks, put)


def _fits(blocks: Sequence[tuple[Integers, int]]) -> bool:
    return sum(weight * _peak(values) for values, weight in blocks) < INT32_BOUND


def _add_narrow(total: NDArray[np.int64], blocks: Sequence[tuple[Integers, int]], scratch: Integers, put: Put) -> None:
    partial, product = scratch
    (first, its_weight), *others = blocks
    np.multiply(first, its_weight, out=partial)
    for values, weight in others:
        np.add(partial, values if weight == 1 else np.multiply(values, weight, out=product), out=partial)
    put(total, partial)


def _add_wide(total: NDArray[np.int64], blocks: Sequence[tuple[Integers, int]], put: Put) -> None:
    for values, weight in blocks:
        put(total, values if weight == 1 else np.multiply(values, np.int64(weight)))
        put = _increase
