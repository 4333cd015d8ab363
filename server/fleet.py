"""How the coordinator reaches its sites, whatever carries the messages.

Promises of every fleet
- ``ask`` sends each site its request and yields (site, reply) as replies arrive, each site at most once.
- It ends when all have answered or when ``deadline_s`` has passed, whichever is first: no unbounded wait anywhere.
- A site that cannot be reached yields nothing, or a ``Refusal`` where the reason is known.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Protocol

from shared.messages import Reply, Request


class Fleet(Protocol):
    """Sites by name."""

    def names(self) -> tuple[str, ...]:
        """Sites that take part, in a stable order."""
        ...

    def ask(self, requests: Mapping[str, Request], deadline_s: float) -> Iterator[tuple[str, Reply]]:
        """Send and yield replies as they arrive, until all are there or the deadline has passed."""
        ...
