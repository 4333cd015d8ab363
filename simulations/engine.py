"""The in-process engine: the real coordinator and the real sites, without a network between them.

Promises
- ``LocalFleet`` hands each request to the same ``client.site`` code that production runs and yields its reply: no
  sockets, no serialisation in one process, no Ray.
- A site that cannot be opened answers with a ``Refusal`` that says why, like a site that cannot take part elsewhere.
- Under secure aggregation the coordinator gets what ``client.secure`` lets out, and nothing else.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from client.site import refusal
from shared.errors import ConsiliumError
from shared.messages import Refusal, Reply, Request, SumStep
from simulations.masks import masking
from simulations.workers import Pool, Sites, SiteSpec


class LocalFleet:
    """The sites of a simulation as a ``server.fleet.Fleet``."""

    def __init__(self, pool: Pool, specs: tuple[SiteSpec, ...]) -> None:
        self._pool = pool
        self._specs = {spec.name: spec for spec in specs}
        self._masks = masking(pool.sites.plan, specs)

    def names(self) -> tuple[str, ...]:
        """Site names in the federation's order."""
        return tuple(self._specs)

    def ask(self, requests: Mapping[str, Request], deadline_s: float) -> Iterator[tuple[str, Reply]]:
        """Replies as they arrive; with one worker in the order of the requests."""
        steps = {site: request for site, request in requests.items() if isinstance(request, SumStep)}
        for site, step in steps.items():
            yield site, self._step(site, step)
        jobs = {site: (self._specs[site], requests[site]) for site in requests if site not in steps}
        for site, reply in self._pool.each(computed, jobs, deadline_s):
            yield site, self._masked(site, requests[site], reply)

    def _step(self, site: str, step: SumStep) -> Reply:
        try:
            return self._masks[site].step(step)
        except ConsiliumError as error:
            return refusal(error, self._pool.sites.plan)

    def _masked(self, site: str, request: Request, reply: Reply) -> Reply:
        """What leaves ``site`` instead of ``reply``, where the plan has secure aggregation."""
        if not self._masks or isinstance(reply, Refusal):
            return reply
        try:
            return self._masks[site].held(request, reply)
        except ConsiliumError as error:
            return refusal(error, self._pool.sites.plan)


def computed(sites: Sites, spec: SiteSpec, request: Request) -> Reply:
    """The reply of one site before it is masked, in whatever process this runs."""
    try:
        return sites.site(spec).computed(request)
    except ConsiliumError as error:
        return refusal(error, sites.plan)
