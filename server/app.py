"""The coordinator as a Flower ServerApp: wiring only.

Promises
- ``app`` coordinates the run that its configuration names, in the federation folder that ``CONSILIUM_FEDERATION``
  names: the configuration travels to the sites, a path of this machine does not.
- ``GridFleet`` is a ``Fleet`` over Flower's Grid. It learns each node's site name once, from that node's own answer to
  ``Hello``; a name that two nodes claim is refused for both.
- Replies are pulled one at a time, so that memory does not grow with the number of sites; a message that Flower lost or
  that cannot be understood becomes a ``Refusal``, and the round goes on without that site.
"""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from flwr.app import Context, Message
from flwr.serverapp import Grid, ServerApp

from server.fleet import Fleet
from server.post import Plain, Post
from shared.errors import ConsiliumError, RunError
from shared.message_bytes import request_to_bytes
from shared.messages import (
    Confirm,
    Cross,
    Deal,
    Envelope,
    Evaluate,
    Hello,
    Mask,
    Personalise,
    Refusal,
    Reply,
    Request,
    Share,
    Train,
    Unmask,
)
from shared.parcels import Body
from shared.wire import parcel_from_record, parcel_to_record

_KINDS: dict[type[Request], str] = {
    Hello: "query",
    Train: "train",
    Evaluate: "evaluate",
    Personalise: "train.personalise",
    Share: "query.share",
    Cross: "evaluate.cross",
    Deal: "query.sum",
    Mask: "query.sum",
    Confirm: "query.sum",
    Unmask: "query.sum",
}
_POLL_S, _LONGEST_POLL_S = 0.05, 0.4

FEDERATION, RUN = "CONSILIUM_FEDERATION", "run"
"""The variable and the entry of the run's configuration that say what is coordinated."""

Connect = Callable[[Envelope, int, float], Fleet]
"""(hello, number of sites expected, seconds to wait for them) -> the sites of this run."""


class GridFleet:
    """The nodes of a Flower run, by site name."""

    def __init__(self, grid: Grid, nodes: Mapping[str, int], post: Post | None = None) -> None:
        self._grid, self._nodes, self._post = grid, dict(nodes), post or Plain()

    def names(self) -> tuple[str, ...]:
        """Site names, sorted."""
        return tuple(sorted(self._nodes))

    def ask(self, requests: Mapping[str, Request], deadline_s: float) -> Iterator[tuple[str, Reply]]:
        """Send each site its request; yield replies as they arrive, until all are there or the deadline has passed."""
        addressed = {self._nodes[site]: Addressed(site, request) for site, request in requests.items()}
        for node, (_, reply) in ask_nodes(self._grid, addressed, deadline_s, self._post):
            yield addressed[node].site, reply


@dataclass(frozen=True, slots=True)
class Addressed:
    """A request, and the site that it is for; "" for whoever has the node."""

    site: str
    request: Request


def ask_nodes(
    grid: Grid, requests: Mapping[int, Addressed], deadline_s: float, post: Post
) -> Iterator[tuple[int, tuple[str, Reply]]]:
    """Send each node its request and yield (node, (site, reply)) as replies arrive, until the deadline."""
    end = time.monotonic() + deadline_s
    bodies, waiting = _bodies(requests.values()), dict[str, int]()
    for node, to in requests.items():
        record = parcel_to_record(post.seal(bodies[id(to.request)], to.site))
        message = Message(record, node, _KINDS[type(to.request)], ttl=deadline_s)
        # One by one: together, each would be in memory once more.
        waiting.update({identifier: node for identifier in grid.push_messages([message]) if identifier})
    pause_s = _POLL_S
    while waiting and time.monotonic() < end:
        arrived = False
        # One by one: all that are ready would be in memory together.
        for identifier in list(waiting):
            for message in grid.pull_messages([identifier]):
                arrived = True
                if identifier not in waiting:
                    continue
                # By what it answers: that a node is gone is said by Flower itself, as another node.
                node = waiting.pop(identifier)
                to = requests[node]
                yield node, _meant(_read(message, bodies[id(to.request)], post), to.site)
        pause_s = _POLL_S if arrived else min(2 * pause_s, _LONGEST_POLL_S)
        if waiting:
            time.sleep(min(pause_s, max(0.0, end - time.monotonic())))


def _bodies(addressed: Iterable[Addressed]) -> dict[int, Body]:
    """Bytes of each request, made once however many sites it goes to."""
    return {at: Body.of(request_to_bytes(one)) for at, one in {id(to.request): to.request for to in addressed}.items()}


def _read(message: Message, asked: Body, post: Post) -> tuple[str, Reply]:
    if message.has_error():
        return "", Refusal("transport", f"Flower reports error {message.error.code} instead of a reply")
    try:
        return post.open(parcel_from_record(message.content), asked)
    except ConsiliumError as error:
        return "", Refusal(error.code, error.sentence, error.hint)


def _meant(answered: tuple[str, Reply], site: str) -> tuple[str, Reply]:
    """``answered``, unless another site has answered in the place of ``site``."""
    said, reply = answered
    if site and said not in ("", site):
        return "", Refusal("site", "the reply to one site's request is signed by another", "two sites share a relay")
    return said, reply


def find_sites(
    grid: Grid, hello: Envelope, expected: int, deadline_s: float, post: Post | None = None
) -> dict[str, int]:
    """Node of each site: waits at most ``deadline_s`` for ``expected`` nodes, and as long again for their names."""
    end = time.monotonic() + deadline_s
    while len(nodes := list(grid.get_node_ids())) < expected and time.monotonic() < end:
        time.sleep(_POLL_S)
    question = Addressed("", Hello(hello))
    replies = ask_nodes(grid, dict.fromkeys(nodes, question), deadline_s, post or Plain())
    claimed = [(site, node) for node, (site, _) in replies if site]
    counts = Counter(site for site, _ in claimed)
    if not claimed:
        raise RunError(f"none of {len(nodes)} connected nodes answered as a site", hint="are the sites started?")
    return {site: node for site, node in claimed if counts[site] == 1}


def make_app(coordinate: Callable[[Connect, Context], None], post: Post | None = None) -> ServerApp:
    """A ServerApp that gives ``coordinate`` a way to reach the sites of the run."""
    app = ServerApp()

    def main(grid: Grid, context: Context) -> None:
        def connect(hello: Envelope, expected: int, deadline_s: float) -> Fleet:
            return GridFleet(grid, find_sites(grid, hello, expected, deadline_s, post), post)

        coordinate(connect, context)

    app.main()(main)
    return app


def _production() -> ServerApp:
    deployed = ServerApp()

    def main(grid: Grid, context: Context) -> None:
        # Only a coordinator needs these: a simulation on Flower's engine imports this module, too.
        from server.deployed.coordinate import Link, coordinate  # noqa: PLC0415
        from server.link.nodes import registered  # noqa: PLC0415

        root = Path(os.environ[FEDERATION])
        link = Link(lambda: registered(root), lambda nodes, post: GridFleet(grid, nodes, post))
        coordinate(root, str(context.run_config[RUN]), link)

    deployed.main()(main)
    return deployed


app = _production()
