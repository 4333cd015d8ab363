"""How long work tells how far it is."""

from __future__ import annotations

from collections.abc import Callable

Progress = Callable[[int, int], None]
"""Called with how much is done, and of how much; of 0 where nobody knows yet."""


def silent(_done: int, _total: int) -> None:
    """Progress that nobody watches."""
