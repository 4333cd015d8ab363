"""What must be equal at every party before round 1, and how two parties differ.

Promises
- ``collect`` names everything that changes numbers: the versions of the libraries that compute them, and the digests of
  the parameter schema and of the statistics schema for this plan.
- ``differences`` is empty exactly when two parties may work together; otherwise it is one readable line per difference.
- A build suffix (``2.13.0+cpu`` against ``2.13.0+cu130``) is not a difference; hospitals have different hardware.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from importlib.metadata import version

_COMPUTING = ("consilium", "torch", "monai", "numpy", "scipy")

Fingerprint = tuple[tuple[str, str], ...]


def collect(parameter_schema: str, statistics_schema: str) -> Fingerprint:
    """This installation's fingerprint, sorted by name."""
    return tuple(sorted({**_versions(), "parameters": parameter_schema, "statistics": statistics_schema}.items()))


def differences(expected: Fingerprint, found: Fingerprint) -> list[str]:
    """One line per entry that differs, such as ``torch: 2.13.0 here, 2.12.1 there``."""
    here, there = dict(expected), dict(found)
    return [
        f"{name}: {_short(here, name)} here, {_short(there, name)} there"
        for name in sorted(here.keys() | there.keys())
        if here.get(name) != there.get(name)
    ]


@cache
def _versions() -> Mapping[str, str]:
    """Read once: looking up a version parses the package's metadata, 1 ms each."""
    return {name: version(name).partition("+")[0] for name in _COMPUTING}


def _short(entries: Mapping[str, str], name: str) -> str:
    value = entries.get(name, "absent")
    return value[:12] if len(value) == 64 else value
