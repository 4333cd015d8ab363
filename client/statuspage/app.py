"""The page of hospital IT over HTTP, on the site's loopback: read-only, behind a token (``shared.local_page.guard``).

::

    /          the page; with ?token=… the first time
    /events    its sections as they change
    /metrics   for Prometheus, with the token as bearer
    /health    200 {"status": "ok"}, or 503 and one word; without the token
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from fastapi import FastAPI
from fastapi.responses import JSONResponse

from client.site_folder import SiteFolder
from client.statuspage import shown as words
from client.statuspage.collect import RUN, Status, site_status
from client.statuspage.diary import KINDS
from client.statuspage.numbers import gauges, state_of
from shared.local_page import serving
from shared.local_page.guard import new_token
from shared.local_page.sections import Fresh, Sections, environment
from shared.local_page.words import count, days_sentence, size

PORT = 8702
LOOK_S = 3.0
TOKEN = "page.token"  # noqa: S105 - the name of a file
FIRST = "now"
NAMES = (FIRST, "processes", "left", "budgets", "approvals", "policy", "upkeep", "audit")
_TEMPLATE = "status.html.j2"

Clock = Callable[[], datetime]


def renderer() -> tuple[Callable[[Status], Sections], Callable[[Status, Sections], str]]:
    """Two functions: the sections of a status, and the page around them."""
    templates = environment(Path(__file__).parent)
    macros: Any = templates.get_template(_TEMPLATE).module

    def sections(status: Status) -> Sections:
        helpers = {"words": words, "count": count, "days": days_sentence, "size": size, "kinds": KINDS}
        return {name: str(getattr(macros, name)(status, helpers)) for name in NAMES}

    def page(status: Status, found: Sections) -> str:
        return templates.get_template("frame.html.j2").render(
            title=status["site"], kicker="Consilium · site", first=FIRST, sections=found, version=status["version"]
        )

    return sections, page


def create(site: SiteFolder, clock: Clock, token: str) -> FastAPI:
    """The application for a site; ``token`` opens it."""
    fresh: Callable[[], Status] = Fresh(lambda: site_status(site, clock()), LOOK_S)
    sections, page = renderer()
    app = serving.page_app(
        token, lambda found: page(fresh(), found), lambda: sections(fresh()), lambda: gauges(fresh())
    )

    @app.get("/health")
    def health() -> JSONResponse:
        return serving.health(state_of(fresh()))

    return app


def now() -> datetime:
    """The time."""
    return datetime.now(UTC)


def serve(site: SiteFolder, port: int, tell: Callable[[str], None], clock: Clock = now) -> None:
    """Show the page until the process is told to stop; ``tell`` gets the address that opens it.

    Raises:
        RunError: the port is taken ("port").
    """
    token = _token(site)
    app = create(site, clock, token)
    tell(serving.address(port, token))
    serving.serve(app, port)


@contextmanager
def shown(site: SiteFolder, port: int = PORT, clock: Clock = now) -> Iterator[str]:
    """Show the page in a thread while the block lasts, and give its address. Raises as ``serve``."""
    token = _token(site)
    with serving.served(create(site, clock, token), port) as bound:
        yield serving.address(bound, token)


def _token(site: SiteFolder) -> str:
    folder = site.path / RUN
    folder.mkdir(mode=0o700, exist_ok=True)
    return new_token(folder / TOKEN)
