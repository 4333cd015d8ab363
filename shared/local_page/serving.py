"""Pages over HTTP, on the loopback and nowhere else.

Promises
- The address is 127.0.0.1: there is no setting that opens a page to a network. Who must look from elsewhere comes
  through a tunnel of their own (``ssh -L``).
- At most ``CONNECTIONS`` browsers and programs at once; an open stream of events does not keep a process from ending.
- No line of a log holds an address with a token in it: requests are not logged.
"""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import uvicorn
from fastapi import FastAPI, Query
from fastapi.responses import HTMLResponse, JSONResponse, Response, StreamingResponse

from shared.errors import RunError
from shared.link import LOOPBACK
from shared.local_page.guard import Guard
from shared.local_page.sections import FOLDER, Sections, held_of, stream
from shared.local_page.telemetry import CONTENT_TYPE, Gauge, exposition

CONNECTIONS = 64
_LAST_S = 1


def page_app(
    token: str, page: Callable[[Sections], str], read: Callable[[], Sections], gauges: Callable[[], list[Gauge]]
) -> FastAPI:
    """A guarded application with a page, its events, style and script, health and metrics.

    Args:
        token: what opens it.
        page: the whole page around its sections.
        read: the sections as they are now.
        gauges: what Prometheus is told.
    """
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    app.add_middleware(Guard, token=token)
    app.add_api_route("/", lambda: HTMLResponse(page(read())), methods=["GET", "HEAD"])
    app.add_api_route("/style.css", lambda: _asset("style.css", "text/css"), methods=["GET"])
    app.add_api_route("/live.js", lambda: _asset("live.js", "text/javascript"), methods=["GET"])
    app.add_api_route("/metrics", lambda: Response(exposition(gauges()), media_type=CONTENT_TYPE), methods=["GET"])

    @app.get("/events")
    async def events(held: Annotated[str, Query(max_length=4096)] = "") -> StreamingResponse:
        return StreamingResponse(stream(read, held_of(held)), media_type="text/event-stream")

    return app


def health(state: str, **more: Any) -> JSONResponse:  # noqa: ANN401 - JSON is as deep as it is
    """``/health``: 200 where ``state`` is "ok", 503 where it is not."""
    return JSONResponse({"status": state, **more}, status_code=200 if state == "ok" else 503)


def serve(app: FastAPI, port: int) -> None:
    """Serve until the process is told to stop; raises ``RunError`` ("port") where the port is taken."""
    with _bound(port) as bound:
        _server(app).run(sockets=[bound])


@contextmanager
def served(app: FastAPI, port: int = 0) -> Iterator[int]:
    """Serve in a thread while the block lasts, and give the port; 0 takes a free one. Raises as ``serve``."""
    with _bound(port) as bound:
        server = _server(app)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [bound]}, name="page", daemon=True)
        thread.start()
        try:
            yield int(bound.getsockname()[1])
        finally:
            server.should_exit = True
            thread.join(5)


def address(port: int, token: str) -> str:
    """What to type into a browser on this machine."""
    return f"http://{LOOPBACK}:{port}/?token={token}"


def _server(app: FastAPI) -> uvicorn.Server:
    return uvicorn.Server(
        uvicorn.Config(
            app,
            log_config=None,
            access_log=False,
            ws="none",
            lifespan="off",
            http="h11",
            server_header=False,
            proxy_headers=False,
            limit_concurrency=CONNECTIONS,
            timeout_graceful_shutdown=_LAST_S,
        )
    )


def _bound(port: int) -> socket.socket:
    try:
        return socket.create_server((LOOPBACK, port), backlog=CONNECTIONS)
    except OSError as error:
        raise RunError(
            f"cannot show a page at {LOOPBACK}:{port}: {error.strerror}",
            hint="is one shown there already? Choose another port",
            code="port",
        ) from None


def _asset(name: str, kind: str) -> Response:
    return Response((FOLDER / Path(name).name).read_bytes(), media_type=kind)
