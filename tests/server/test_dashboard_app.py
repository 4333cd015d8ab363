"""The lead's page over HTTP: every route, who is let in, what a browser may do, and that it is told what happens."""

import asyncio
import contextlib
import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from watched import HOST, ROOMY, SITES, TOKEN, Watched, browser, disk_of, watched

from server.dashboard import __main__ as process
from server.dashboard import app as dashboard
from server.dashboard.app import TOKEN as TOKEN_FILE
from server.dashboard.app import create, nodes_of, shown
from server.federation_folder import FederationFolder
from shared.errors import FederationError, RunError
from shared.local_page import serving
from shared.local_page.guard import HEADERS, REPORT


@pytest.fixture
def seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Watched:
    disk_of(monkeypatch, ROOMY)
    return watched(tmp_path)


@pytest.fixture
def app(seen: Watched) -> object:
    return create(seen.folder.path, seen.clock, TOKEN, seen.nodes)


def get(app: object, path: str, *, known: bool = True, **headers: str) -> httpx.Response:
    async def asked() -> httpx.Response:
        async with browser(app, known=known) as client:
            return await client.get(path, headers=headers)

    return asyncio.run(asked())


def test_the_page_names_the_federation_and_every_site_and_works_without_a_script(app: object) -> None:
    said = get(app, "/")
    assert said.status_code == 200
    assert all(name in said.text for name in ("lungs", "localhost:8443", *SITES))
    assert '<noscript><meta http-equiv="refresh" content="10"></noscript>' in said.text
    assert said.text.count("<script") == 1
    assert 'aria-live="polite"' in said.text


@pytest.mark.parametrize(
    "path", ["/", "/style.css", "/live.js", "/metrics", "/health", "/runs/x/report.html", "/nothing"]
)
def test_every_answer_has_the_headers_that_keep_a_browser_in_bounds(app: object, path: str) -> None:
    said = get(app, path).headers
    assert {name: said[name] for name in HEADERS} == dict(HEADERS)


@pytest.mark.parametrize("path", ["/", "/style.css", "/live.js", "/metrics", "/events", "/runs/x/report.html", "/docs"])
def test_nothing_but_health_is_shown_without_the_token(app: object, path: str) -> None:
    assert get(app, path, known=False).status_code == 403
    assert get(app, "/health", known=False).json() == {"status": "ok"}


def test_a_page_elsewhere_whose_name_points_here_gets_nothing(app: object) -> None:
    said = get(app, "/", host="rebound.example:8701")
    assert (said.status_code, "lungs" in said.text) == (421, False)


@pytest.mark.parametrize("path", ["/docs", "/redoc", "/openapi.json"])
def test_there_is_no_documentation_of_an_interface(app: object, path: str) -> None:
    assert get(app, path).status_code == 404


def test_health_is_503_and_one_word_where_no_site_can_connect(seen: Watched, app: object) -> None:
    seen.gateway = False
    said = get(app, "/health", known=False)
    assert (said.status_code, said.json()) == (503, {"status": "no-gateway"})


def test_metrics_are_what_prometheus_reads(app: object) -> None:
    said = get(app, "/metrics", known=False, authorization=f"Bearer {TOKEN}")
    assert said.headers["content-type"].startswith("text/plain; version=0.0.4")
    assert "consilium_sites_active 3.0" in said.text


def test_a_report_is_served_in_a_sandbox(seen: Watched, app: object) -> None:
    run = seen.begin()
    (run.path / "report.html").write_text("<h1>report</h1>")
    said = get(app, f"/runs/{run.run}/report.html")
    assert said.text == "<h1>report</h1>"
    assert said.headers.get_list("content-security-policy") == [REPORT]


@pytest.mark.parametrize(
    "path",
    [
        "/runs/../report.html", "/runs/..%2F..%2Ftrust/report.html", "/runs/%2e%2e/report.html",
        "/runs/{run}/journal.sqlite",
        "/runs/{run}/../../trust/lead.key", "/runs/{run}/report.html/../run.key", "/runs/{run}%00/report.html",
        "/runs/{other}/report.html", "/runs/{run}/run.key", "/trust/lead.key", "/runs/{run}/report.html%2f..%2frun.key",
    ],
)  # fmt: skip
def test_no_path_leads_out_of_a_run(seen: Watched, app: object, path: str) -> None:
    run = seen.begin()
    (run.path / "report.html").write_text("<h1>report</h1>")
    said = get(app, path.format(run=run.run, other="0" * 32))
    assert said.status_code in {403, 404}
    assert "PRIVATE KEY" not in said.text


def test_words_from_elsewhere_are_escaped(seen: Watched, app: object) -> None:
    board = seen.trained(seen.begin(), 1)
    board.say(state="failed", sentence="<script>alert(1)</script>", hint="<img src=x>")
    said = get(app, "/").text
    assert "<script>alert" not in said
    assert "<img" not in said
    assert "&lt;script&gt;alert" in said


def events(response: httpx.Response) -> Iterator[dict[str, dict[str, str]]]:
    for line in response.iter_lines():
        if line.startswith("data: "):
            yield json.loads(line.removeprefix("data: "))


def test_an_event_arrives_when_the_run_says_something(seen: Watched, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dashboard, "LOOK_S", 0.05)
    monkeypatch.setattr(serving, "LOOPBACK", "127.0.0.1")
    board = seen.trained(seen.begin(), 2)
    app = create(seen.folder.path, seen.clock, TOKEN, seen.nodes)
    with (
        serving.served(app) as port,
        httpx.Client(base_url=f"http://127.0.0.1:{port}", follow_redirects=True, trust_env=False, timeout=20) as client,
    ):
        assert client.get("/", params={"token": TOKEN}).status_code == 200
        with client.stream("GET", "/events") as response:
            assert response.headers["content-type"].startswith("text/event-stream")
            heard = events(response)
            first = next(heard)
            assert "round 3 of 40" in first["now"]["html"]
            threading.Timer(0.2, lambda: board.say(phase="aggregating", asked=(), answered=SITES[:3])).start()
            second = next(heard)
            assert "adding up the updates" in second["now"]["html"]
            assert "upkeep" not in second


def test_the_address_that_is_printed_opens_the_page_and_the_token_lies_beside_it(seen: Watched) -> None:
    with (
        shown(seen.folder.path, 0, seen.clock) as address,
        httpx.Client(follow_redirects=True, trust_env=False) as client,
    ):
        assert address.startswith("http://127.0.0.1:")
        assert client.get(address).status_code == 200
        assert (seen.folder.path / TOKEN_FILE).read_text().strip() in address


def test_a_port_that_is_taken_and_a_folder_that_is_none_are_said(
    seen: Watched, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with serving.served(create(seen.folder.path, seen.clock, TOKEN, seen.nodes)) as port:
        with pytest.raises(RunError) as caught, shown(seen.folder.path, port):
            pass
        assert caught.value.code == "port"
        assert process.main([str(seen.folder.path), str(port)]) == 1
    assert "hint:" in capsys.readouterr().err
    with pytest.raises(FederationError):
        create(tmp_path / "nothing", seen.clock, TOKEN)


def test_a_gateway_that_was_never_started_is_no_error(seen: Watched) -> None:
    assert nodes_of(seen.folder.path) is None


def test_the_gateway_is_asked_once_for_all_who_look(seen: Watched) -> None:
    """Each question is a line in the gateway's log."""
    asked: list[int] = []

    def nodes() -> None:
        asked.append(1)

    app = create(seen.folder.path, seen.clock, TOKEN, nodes)
    for _ in range(3):
        get(app, "/")
    assert len(asked) == 1


def test_looking_changes_nothing_in_the_folder(seen: Watched, app: object) -> None:
    seen.trained(seen.begin(), 2)
    folder = FederationFolder.open(seen.folder.path).path
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}
    for path in ("/", "/metrics", "/health"):
        assert get(app, path).status_code == 200
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()} == before
    assert HOST.startswith("http://127.0.0.1")


def test_a_process_ends_although_a_browser_still_listens(seen: Watched) -> None:
    app = create(seen.folder.path, seen.clock, TOKEN, seen.nodes)
    began = time.monotonic()
    with httpx.Client(trust_env=False, timeout=20) as client, contextlib.suppress(httpx.HTTPError):
        with serving.served(app) as port:
            request = client.build_request(
                "GET", f"http://127.0.0.1:{port}/events", headers={"authorization": f"Bearer {TOKEN}"}
            )
            response = client.send(request, stream=True)
            assert next(response.iter_lines()).startswith("retry")
        assert time.monotonic() - began < 10
        response.close()


def test_the_page_listens_on_the_loopback_and_nowhere_else(seen: Watched) -> None:
    with serving.served(create(seen.folder.path, seen.clock, TOKEN, seen.nodes)) as port:
        rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
        listening = {row[1] for row in rows if row[3] == "0A" and row[1].endswith(f":{port:04X}")}
    assert listening == {f"0100007F:{port:04X}"}


@pytest.mark.parametrize("held", ["", "now:0", "x" * 4096, "a:b:c,,:,", "%00"])
def test_whatever_a_browser_says_it_holds_the_stream_begins(seen: Watched, held: str) -> None:
    with (
        serving.served(create(seen.folder.path, seen.clock, TOKEN, seen.nodes)) as port,
        httpx.Client(base_url=f"http://127.0.0.1:{port}", trust_env=False, timeout=20) as client,
        client.stream("GET", "/events", params={"held": held}, headers={"authorization": f"Bearer {TOKEN}"}) as said,
    ):
        assert set(next(events(said))) >= {"sites", "upkeep"}


def test_more_than_that_is_refused(app: object) -> None:
    assert get(app, f"/events?held={'x' * 4097}").status_code == 422
