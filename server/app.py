"""The coordinator as a Flower ServerApp: wiring only.

Promises
- ``GridFleet`` is a ``Fleet`` over Flower's Grid. It learns each node's site name once, from that node's own answer to
  ``Hello``; a name that two nodes claim is refused for both.
- Replies are pulled one at a time, so that memory does not grow with the number of sites; a message that Flower lost or
  that cannot be understood becomes a ``Refusal``, and the round goes on without that site.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping

from flwr.app import Context, Message
from flwr.serverapp import Grid, ServerApp

from server.fleet import Fleet
from shared.errors import ConsiliumError, RunError
from shared.messages import Envelope, Evaluate, Hello, Personalise, Refusal, Reply, Request, Train
from shared.wire import reply_from_record, request_to_record

_KINDS: dict[type[Request], str] = {
    Hello: "query",
    Train: "train",
    Evaluate: "evaluate",
    Personalise: "train.personalise",
}
_POLL_S = 0.05

Connect = Callable[[Envelope, int, float], Fleet]
"""(hello, number of sites expected, seconds to wait for them) -> the sites of this run."""


class GridFleet:
    """The nodes of a Flower run, by site name."""

    def __init__(self, grid: Grid, nodes: Mapping[str, int]) -> None:
        self._grid, self._nodes = grid, dict(nodes)

    def names(self) -> tuple[str, ...]:
        """Site names, sorted."""
        return tuple(sorted(self._nodes))

    def ask(self, requests: Mapping[str, Request], deadline_s: float) -> Iterator[tuple[str, Reply]]:
        """Send each site its request; yield replies as they arrive, until all are there or the deadline has passed."""
        sites = {self._nodes[site]: site for site in requests}
        for node, (_, reply) in ask_nodes(
            self._grid, {self._nodes[site]: requests[site] for site in requests}, deadline_s
        ):
            yield sites[node], reply


def ask_nodes(
    grid: Grid, requests: Mapping[int, Request], deadline_s: float
) -> Iterator[tuple[int, tuple[str, Reply]]]:
    """Send each node its request and yield (node, (site, reply)) as replies arrive, until the deadline."""
    end = time.monotonic() + deadline_s
    messages = [
        Message(request_to_record(request), node, _KINDS[type(request)], ttl=deadline_s)
        for node, request in requests.items()
    ]
    waiting = {identifier for identifier in grid.push_messages(messages) if identifier}
    while waiting and time.monotonic() < end:
        for message in grid.pull_messages(list(waiting)):
            waiting.discard(message.metadata.reply_to_message_id)
            yield message.metadata.src_node_id, _read(message)
        if waiting:
            time.sleep(_POLL_S)


def _read(message: Message) -> tuple[str, Reply]:
    if message.has_error():
        return "", Refusal("transport", f"Flower reports error {message.error.code} instead of a reply")
    try:
        return reply_from_record(message.content)
    except ConsiliumError as error:
        return "", Refusal(error.code, error.sentence, error.hint)


def find_sites(grid: Grid, hello: Envelope, expected: int, deadline_s: float) -> dict[str, int]:
    """Node of each site: waits at most ``deadline_s`` for ``expected`` nodes, and as long again for their names."""
    end = time.monotonic() + deadline_s
    while len(nodes := list(grid.get_node_ids())) < expected and time.monotonic() < end:
        time.sleep(_POLL_S)
    replies = ask_nodes(grid, {node: Hello(hello) for node in nodes}, deadline_s)
    claimed = [(site, node) for node, (site, _) in replies if site]
    counts = Counter(site for site, _ in claimed)
    if not claimed:
        raise RunError(f"none of {len(nodes)} connected nodes answered as a site", hint="are the sites started?")
    return {site: node for site, node in claimed if counts[site] == 1}


def make_app(coordinate: Callable[[Connect, Context], None]) -> ServerApp:
    """A ServerApp that gives ``coordinate`` a way to reach the sites of the run."""
    app = ServerApp()

    def main(grid: Grid, context: Context) -> None:
        def connect(hello: Envelope, expected: int, deadline_s: float) -> Fleet:
            return GridFleet(grid, find_sites(grid, hello, expected, deadline_s))

        coordinate(connect, context)

    app.main()(main)
    return app
