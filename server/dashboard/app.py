"""The lead's page over HTTP, on the coordinator's loopback.

::

    /                       the page; with ?token=… the first time
    /events                 its sections as they change (server-sent events)
    /runs/RUN/report.html   the report of a run, in a sandbox without scripts
    /metrics                for Prometheus, with the token as bearer
    /health                 200 {"status": "ok"}, or 503 and one word; without the token

Promises
- Read-only, on 127.0.0.1 alone, behind a token (``shared.local_page.guard``).
- The gateway is asked for its nodes at most every ``NODES_S`` seconds, and only while somebody looks: each question is
  a line in its log.
- A file is served by the identifier of a run that was ordered, never by a path.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from fastapi import FastAPI
from fastapi.responses import JSONResponse, Response

from server.dashboard.look import Look, Nodes, look, report_file
from server.dashboard.numbers import gauges, state_of
from server.dashboard.page import renderer
from server.federation_folder import FederationFolder
from server.link.control import Control, Node
from server.link.places import LinkFolder
from shared.errors import ConsiliumError
from shared.local_page import serving
from shared.local_page.guard import REPORT, new_token
from shared.local_page.sections import Fresh

PORT = 8701
NODES_S, LOOK_S = 15.0, 1.0
TOKEN = "link/dashboard.token"  # noqa: S105 - the name of a file

Clock = Callable[[], datetime]


def nodes_of(root: Path) -> Sequence[Node] | None:
    """The nodes that the gateway of this folder knows; None where it does not answer."""
    try:
        with Control.of(LinkFolder(root)) as control:
            return control.nodes()
    except ConsiliumError:
        return None


def create(root: Path, clock: Clock, token: str, nodes: Nodes | None = None) -> FastAPI:
    """The application for the federation in ``root``; raises ``FederationError`` where there is none.

    Args:
        root: the federation folder.
        clock: the time, with a zone.
        token: what opens the page.
        nodes: how the gateway is asked; by its control API where nothing is given.
    """
    folder = FederationFolder.open(root)
    asked: Nodes = Fresh(nodes or (lambda: nodes_of(root)), NODES_S)
    fresh: Callable[[], Look] = Fresh(lambda: look(folder, asked, clock()), LOOK_S)
    sections, page = renderer()
    app = serving.page_app(
        token, lambda found: page(fresh(), found), lambda: sections(fresh()), lambda: gauges(fresh())
    )

    @app.get("/health")
    def health() -> JSONResponse:
        return serving.health(state_of(fresh()))

    @app.get("/runs/{run}/report.html")
    def report(run: str) -> Response:
        path = report_file(folder, run)
        if path is None:
            return Response("There is no such report.\n", 404, media_type="text/plain")
        return Response(path.read_bytes(), media_type="text/html", headers={"content-security-policy": REPORT})

    return app


def now() -> datetime:
    """The time."""
    return datetime.now(UTC)


def serve(root: Path, port: int = PORT, tell: Callable[[str], None] = print, clock: Clock = now) -> None:
    """Show the page until the process is told to stop; ``tell`` gets the address that opens it.

    Raises:
        FederationError: there is no federation in ``root``.
        RunError: the port is taken ("port").
    """
    token = new_token(root / TOKEN)
    app = create(root, clock, token)
    tell(serving.address(port, token))
    serving.serve(app, port)


@contextmanager
def shown(root: Path, port: int = PORT, clock: Clock = now) -> Iterator[str]:
    """Show the page in a thread while the block lasts, and give its address. Raises as ``serve``."""
    token = new_token(root / TOKEN)
    with serving.served(create(root, clock, token), port) as bound:
        yield serving.address(bound, token)
