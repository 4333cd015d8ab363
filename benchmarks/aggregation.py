"""Exact sums against the speed of memory: GB/s of updates read, once each.

``exact`` is what a round costs the coordinator: a new ``ExactSum``, every update checked and added, the total.
``numpy_blocks`` is the fastest plain numpy reads as many bytes: float32, added block by block into memory that exists.
Updates are changes of 0.01 (standard deviation) under the plan's default fixed point, a large step for a network.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from server.aggregation.exact import ExactSum
from shared.fixed_point import quantise
from shared.messages import Update
from shared.plan import FixedPoint

_BLOCKS_MIB = (1, 2, 4)
_SPREAD = 0.01
_SCHEMA = "benchmark"


def exact(updates: int, length: int, repeats: int, weight: int = 1) -> dict[str, float]:
    """``ExactSum`` over ``updates`` updates of ``length`` values and ``weight`` each."""
    fixed_point = FixedPoint()
    found = [_update(change, weight, fixed_point) for change in _changes(updates, length)]

    def add() -> None:
        total = ExactSum(_SCHEMA, length, fixed_point)
        for update in found:
            total.add(update)
        total.total()

    return _speed(add, updates, length, repeats)


def numpy_blocks(updates: int, length: int, repeats: int) -> dict[str, float]:
    """numpy's sum of ``updates`` float32 arrays of ``length`` values, at the best of a few block sizes."""
    arrays, out = list(_changes(updates, length)), np.empty(length, np.float32)
    speeds = [_speed(lambda: _add(arrays, out, mib * 2**18), updates, length, repeats) for mib in _BLOCKS_MIB]  # noqa: B023
    return max(speeds, key=lambda speed: speed["gb_per_s"])


def _add(arrays: Sequence[NDArray[np.float32]], out: NDArray[np.float32], block: int) -> None:
    first, second, *others = arrays
    for start in range(0, out.size, block):
        part = slice(start, start + block)
        np.add(first[part], second[part], out=out[part])
        for array in others:
            np.add(out[part], array[part], out=out[part])


def _changes(updates: int, length: int) -> Sequence[NDArray[np.float32]]:
    """Different arrays of the same statistics: one draw, turned, since drawing is slower than everything measured."""
    drawn = np.random.default_rng(1).standard_normal(length, np.float32) * np.float32(_SPREAD)
    return [np.roll(drawn, 7919 * number) for number in range(updates)]


def _update(change: NDArray[np.float32], weight: int, fixed_point: FixedPoint) -> Update:
    values, saturated = quantise(change, fixed_point)
    return Update(values, fixed_point.bits, weight, _SCHEMA, loss_sum=0, steps=1, saturated=saturated)


def _speed(work: Callable[[], None], updates: int, length: int, repeats: int) -> dict[str, float]:
    work()
    taken = [_seconds(work) for _ in range(repeats)]
    return {"seconds": statistics.median(taken), "gb_per_s": updates * length * 4 / statistics.median(taken) / 1e9}


def _seconds(work: Callable[[], None]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began
