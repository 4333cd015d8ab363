"""What a look at one thing of a machine ends with."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Verdict = Literal["ok", "warning", "error", "skipped"]
"""An error prevents taking part; a warning will cost time or fail later; skipped says why nothing could be told."""


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that was looked at.

    Attributes:
        name: stable, such as ``certificate``.
        verdict: how it stands.
        sentence: what was found, with the numbers.
        hint: what to do about it; "" where there is nothing to do.
    """

    name: str
    verdict: Verdict
    sentence: str
    hint: str = ""
