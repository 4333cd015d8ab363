"""What must be equal at every party before round 1, and how two parties differ.

Promises
- ``collect`` names everything that changes numbers: versions of the libraries that compute them, digests of the
  parameters' and the statistics' schema for this plan, and what this installation makes of the built-in phantom
  (``shared.admission``).
- ``differences`` is empty exactly when two parties may work together; otherwise it is one readable line per difference:
  what differs, what is found here and there, how much may, and what that usually means. Versions come first, since
  they explain the rest.
- A build suffix (``2.13.0+cpu`` against ``2.13.0+cu130``) is not a difference; hospitals have different hardware.
- Whatever a party sends is a value to compare: it cannot raise, and a line about it is short and printable.

Entries are pairs of strings. Most are compared by equality. One that reads ``KIND:number,number,...`` is compared by
its numbers: the length of the difference of the two vectors, relative to the longer one. At most so much is allowed:

=========  =========  =================================================================================================
kind       at most    what it is, and why so much
=========  =========  =================================================================================================
float64    1e-9       metrics of equal counts: the same formula in double precision, to 1e-15 apart at best
voxels     1e-4       images and scores after a few steps in float32 (unit roundoff u = 6e-8). Between vector
                      instructions 3e-6 was seen; another interpolation or constant moves them by 1e-3 or more
nearest    0.1        masks turned by an angle: where a voxel's centre falls on an edge, the last bit decides its class
float32    3e-3       whole networks on a CPU. Between vector instructions, kernels and memory layouts 6e-4 was seen in
                      the deepest network with instance norm, 2e-4 in the next, 6e-6 in most
tf32       0.1        the same with products of 11 significant bits (u = 2**-11 = 5e-4): 0.04 was seen in emulation in
                      the deepest network, 3e-3 in most
bfloat16   0.3        the same with 8 significant bits (u = 2**-8 = 4e-3): 0.2 was seen in the deepest, 0.04 in most
=========  =========  =================================================================================================

Two parties may differ in the last three: then the coarser kind decides. It can only be loose where a party trains
(``phantom.device``): every party also runs the network in float32 on its CPU (``phantom.network``).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import cache
from importlib.metadata import version
from types import MappingProxyType
from typing import Literal

_COMPUTING = ("consilium", "torch", "monai", "numpy", "scipy")

Fingerprint = tuple[tuple[str, str], ...]

Arithmetic = Literal["float32", "tf32", "bfloat16"]
"""What a network's products are computed in; the finest first."""

Numbers = Literal["float64", "voxels", "nearest", "float32", "tf32", "bfloat16"]
"""Kinds of entries that are compared as numbers."""

TOLERANCES: Mapping[str, float] = MappingProxyType(
    {"float64": 1e-9, "voxels": 1e-4, "nearest": 0.1, "float32": 3e-3, "tf32": 0.1, "bfloat16": 0.3}
)

_ARITHMETICS = ("float32", "tf32", "bfloat16")

# Below this, numbers are rounding.
_NOTHING = 1e-6

_LONGEST_VALUE = 2048
_SHOWN = 40

# What is told later, since something before it may explain it.
_LATER = ("phantom.device", "phantom.")

_MEANINGS = (
    ("parameters", "another network or other frozen layers"),
    ("statistics", "another definition of what is counted"),
    ("phantom.preprocessing.grid", "another size, spacing, crop or mask"),
    ("phantom.preprocessing", "another interpolation, intensity constant or colour"),
    ("phantom.augmentation", "another transform, or another version of the generator"),
    ("phantom.weights", "another initialisation or seed of the network"),
    ("phantom.network.initial", "another layer, normalisation or loss, or other initial weights"),
    ("phantom.network.pattern", "another layer, normalisation or loss, or a network in training mode"),
    ("phantom.device", "a fault of this party's accelerator, its driver or its precision"),
    ("phantom.decoding", "another activation after the network"),
    ("phantom.statistics", "another rule for counting, threshold or bin edge"),
    ("phantom.metrics", "another formula of the metric"),
)


def collect(parameter_schema: str, statistics_schema: str, measured: Mapping[str, str] | None = None) -> Fingerprint:
    """This installation's fingerprint, sorted by name; ``measured`` are entries of ``shared.admission``."""
    schemas = {"parameters": parameter_schema, "statistics": statistics_schema}
    return tuple(sorted({**_versions(), **schemas, **(measured or {})}.items()))


def numbers(kind: Numbers, values: list[float]) -> str:
    """The value of an entry that is compared by its numbers."""
    digits = 17 if kind == "float64" else 7
    return f"{kind}:" + ",".join(f"{value:.{digits}g}" for value in values)


def differences(expected: Fingerprint, found: Fingerprint) -> list[str]:
    """One line per entry that differs, such as ``torch: 2.13.0 here, 2.12.1 there``."""
    here, there = dict(expected), dict(found)
    names = sorted(here.keys() | there.keys(), key=lambda name: (*map(name.startswith, _LATER), name))
    lines = (_difference(name, here.get(name), there.get(name)) for name in names)
    return [line for line in lines if line]


def _difference(name: str, here: str | None, there: str | None) -> str:
    """A sentence, or nothing where the two may work together."""
    if here == there:
        return ""
    told = f"{_printable(name)}: {_shown(here)} here, {_shown(there)} there"
    one, other = _numbers(here), _numbers(there)
    if one and other and (kind := _coarser(one[0], other[0])):
        apart = _apart(one[1], other[1])
        if apart <= TOLERANCES[kind]:
            return ""
        told += f", {apart:.2g} apart, {TOLERANCES[kind]:g} allowed"
    meaning = next((meaning for start, meaning in _MEANINGS if name.startswith(start)), "")
    return f"{told} (usually {meaning})" if meaning else told


def _numbers(value: str | None) -> tuple[str, tuple[float, ...]] | None:
    """Kind and numbers of an entry that has them."""
    kind, colon, said = (value or "")[:_LONGEST_VALUE].partition(":")
    if not colon or kind not in TOLERANCES:
        return None
    try:
        return kind, tuple(map(float, said.split(",")))
    except ValueError:
        return None


def _coarser(one: str, other: str) -> str:
    """The kind that decides what is allowed; nothing where two kinds cannot be compared."""
    if one == other:
        return one
    return max(one, other, key=_ARITHMETICS.index) if {one, other} <= set(_ARITHMETICS) else ""


def _apart(one: tuple[float, ...], other: tuple[float, ...]) -> float:
    """Length of the difference relative to the longer vector; NaN is equal to NaN alone, and infinity to nothing."""
    if len(one) != len(other) or [math.isnan(value) for value in one] != [math.isnan(value) for value in other]:
        return math.inf
    pairs = [(a, b) for a, b in zip(one, other, strict=True) if not math.isnan(a)]
    if not all(math.isfinite(value) for pair in pairs for value in pair):
        return math.inf
    longer = max(math.hypot(*(a for a, _ in pairs)), math.hypot(*(b for _, b in pairs)), _NOTHING)
    return math.hypot(*(a - b for a, b in pairs)) / longer


@cache
def _versions() -> Mapping[str, str]:
    """Read once: looking up a version parses the package's metadata, 1 ms each."""
    return {name: version(name).partition("+")[0] for name in _COMPUTING}


def _shown(value: str | None) -> str:
    """A value in a sentence: a digest by its first digits, numbers by the first of them."""
    if value is None:
        return "absent"
    found = _numbers(value)
    if found:
        first, *others = found[1]
        return f"{first:.6g}, ..." if others else f"{first:.6g}"
    return value[:12] if len(value) == 64 else _printable(value)


def _printable(text: str) -> str:
    return "".join(letter if letter.isprintable() else "?" for letter in text[:_SHOWN])
