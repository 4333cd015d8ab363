"""The in-process engine: the real coordinator and the real sites, without a network between them.

Promises
- ``LocalFleet`` hands each request to the same ``client.site`` code that production runs and yields its reply: no
  sockets, no serialisation in one process, no Ray.
- A site that cannot be opened answers with a ``Refusal`` that says why, like a site that cannot take part elsewhere.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from client.site import refusal
from shared.errors import ConsiliumError
from shared.messages import Reply, Request
from simulations.workers import Pool, Sites, SiteSpec


class LocalFleet:
    """The sites of a simulation as a ``server.fleet.Fleet``."""

    def __init__(self, pool: Pool, specs: tuple[SiteSpec, ...]) -> None:
        self._pool = pool
        self._specs = {spec.name: spec for spec in specs}

    def names(self) -> tuple[str, ...]:
        """Site names in the federation's order."""
        return tuple(self._specs)

    def ask(self, requests: Mapping[str, Request], deadline_s: float) -> Iterator[tuple[str, Reply]]:
        """Replies as they arrive; with one worker in the order of the requests."""
        jobs = {site: (self._specs[site], request) for site, request in requests.items()}
        return self._pool.each(answer, jobs, deadline_s)


def answer(sites: Sites, spec: SiteSpec, request: Request) -> Reply:
    """The reply of one site, in whatever process this runs."""
    try:
        return sites.site(spec).answer(request)
    except ConsiliumError as error:
        return refusal(error, sites.plan)
