"""How a SuperNode's end is understood."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any

import httpx
import pytest
from flwr.supercore.error import ApiErrorCode
from flwr.supercore.heartbeat import HeartbeatSender
from flwr.supercore.retry import RetryInvoker, make_simple_http_retry_invoker
from flwr.supernode import fleet_http_connection
from loopback import HOST, Server, authority, issue, listening

from client.link_watch import LONGEST_PAUSE_S, SESSION_OPEN, Ending, Watch, _detail, try_soon
from shared.link import CLOCK, NOT_ENROLLED, SUSPENDED

OPENING = "Failed to initialize the connection to the SuperLink.\n"


def watched(message: str) -> Watch:
    watch = Watch()
    watch.not_connected(OPENING + message)
    return watch


def test_an_open_session_means_try_again() -> None:
    watch = watched(f"[code: {SESSION_OPEN}] Failed to activate SuperNode.")
    assert watch.ending is Ending.TRY_AGAIN
    assert "last session open" in watch.sentence
    assert ApiErrorCode.FLEET_NODE_ACTIVATION_FAILED == SESSION_OPEN


@pytest.mark.parametrize("code", [NOT_ENROLLED, SUSPENDED, CLOCK])
def test_a_refusal_by_the_gateway_is_told_in_its_words(code: int) -> None:
    watch = watched(f"[code: {code}] ask the lead")
    assert watch.ending is Ending.NOT_ADMITTED
    assert watch.sentence == "the coordinator turned this node away: ask the lead"
    assert watch.hint


@pytest.mark.parametrize(
    "message",
    [
        "[SSL: CERTIFICATE_VERIFY_FAILED] certificate verify failed: unable to get local issuer certificate",
        "[SSL: CERTIFICATE_VERIFY_FAILED] certificate verify failed: certificate has expired (_ssl.c:1006)",
        "[SSL: WRONG_VERSION_NUMBER] wrong version number (_ssl.c:1006)",
    ],
    ids=["issuer", "expired", "no tls"],
)
def test_a_certificate_that_does_not_verify_is_no_reason_to_try_again(message: str) -> None:
    assert watched(message).ending is Ending.CERTIFICATE


@pytest.mark.parametrize(
    "message",
    [
        "[SSL: UNEXPECTED_EOF_WHILE_READING] EOF occurred in violation of protocol (_ssl.c:1006)",
        "TLS/SSL connection has been closed (EOF) (_ssl.c:992)",
        "_ssl.c:989: The handshake operation timed out",
        "[Errno 104] Connection reset by peer",
    ],
    ids=["eof", "closed", "timeout", "reset"],
)
def test_a_handshake_that_was_cut_off_says_nothing_about_a_certificate(message: str) -> None:
    watch = watched(message)
    assert watch.ending is Ending.TRY_AGAIN
    assert watch.sentence == "the connection to the coordinator broke while it was opened"


@pytest.mark.parametrize("message", ["[code: 1001] other version", "Name or service not known", ""])
def test_anything_else_is_tried_again_and_said_shortly(message: str) -> None:
    watch = watched(message + " x" * 1000)
    assert watch.ending is Ending.TRY_AGAIN
    assert len(watch.sentence) < 300


def test_one_that_was_asked_to_stop_has_stopped() -> None:
    watch = Watch()
    watch.stopped()
    assert watch.ending is Ending.STOPPED
    assert not watch.ending


def test_one_that_stopped_because_it_was_turned_away_says_so() -> None:
    """Flower interrupts itself at a 401, and ends with 0."""
    watch = Watch()
    watch.turned_away("this site is suspended")
    watch.stopped()
    assert watch.ending is Ending.NOT_ADMITTED


def test_a_connection_that_simply_ended_is_tried_again() -> None:
    assert Watch().ending is Ending.TRY_AGAIN


@pytest.mark.parametrize("body", [b"", b"<html>", b"[]", b'{"detail": 1}', b'{"code": 1}', b"\xff"])
def test_a_detail_that_is_none_is_replaced(body: bytes) -> None:
    assert isinstance(_detail(httpx.Response(401, content=body)), str)


def test_an_endings_numbers_are_those_of_sysexits() -> None:
    assert [int(ending) for ending in Ending] == [0, 1, 2, 75, 76, 77]


@contextmanager
def cut_off(folder: Path, handshakes: int) -> Iterator[tuple[int, bytes]]:
    """A server with a good certificate, behind a cable that breaks in the first handshakes: its port, its authority."""
    by = authority("root")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(issue(folder, by, [HOST]))
    begun = iter(range(10**6))

    def serve(connection: socket.socket, _server: Server) -> None:
        if next(begun) < handshakes:
            connection.recv(2**16)
            return
        with context.wrap_socket(connection, server_side=True) as secure:
            secure.recv(2**16)
            secure.sendall(b"HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n")

    with listening(serve) as server:
        yield server.port, by.pem


def asking(port: int, trusted: bytes) -> Callable[[], int]:
    """A question to a server, as Flower's client puts it."""
    context = ssl.create_default_context(cadata=trusted.decode())
    return lambda: httpx.get(f"https://{HOST}:{port}", verify=context, trust_env=False).status_code


@pytest.fixture
def soon(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Flower's module as a SuperNode has it."""
    for name in ("make_simple_http_retry_invoker", "HeartbeatSender"):
        monkeypatch.setattr(fleet_http_connection, name, getattr(fleet_http_connection, name))
    try_soon()
    return fleet_http_connection


def at_once(invoker: RetryInvoker) -> RetryInvoker:
    invoker.wait_function = lambda _seconds: None
    return invoker


def longest(invoker: Any) -> float:
    return max(islice(invoker.wait_gen_factory(), 20))


def test_a_handshake_that_is_cut_off_is_tried_until_it_succeeds(soon: Any, tmp_path: Path) -> None:
    with cut_off(tmp_path, 3) as (port, trusted):
        assert at_once(soon.make_simple_http_retry_invoker()).invoke(asking(port, trusted)) == httpx.codes.NO_CONTENT


def test_flower_itself_gives_up_at_a_handshake_that_is_cut_off(tmp_path: Path) -> None:
    """The control: once this fails, the patience of our own can go."""
    with cut_off(tmp_path, 1) as (port, trusted), pytest.raises(httpx.ConnectError, match="EOF"):
        at_once(make_simple_http_retry_invoker()).invoke(asking(port, trusted))


def test_a_certificate_of_another_authority_still_ends_the_trying(soon: Any, tmp_path: Path) -> None:
    other = authority("other").pem
    with cut_off(tmp_path, 0) as (port, _), pytest.raises(httpx.ConnectError, match="CERTIFICATE_VERIFY_FAILED"):
        at_once(soon.make_simple_http_retry_invoker()).invoke(asking(port, other))


def test_a_request_that_is_refused_is_not_repeated(soon: Any) -> None:
    """Also where the refusal speaks of time: only what breaks below HTTP is a broken link."""
    asked = []

    def refuse() -> None:
        asked.append(1)
        request, response = httpx.Request("POST", f"https://{HOST}"), httpx.Response(400)
        raise httpx.HTTPStatusError("400: the message has timed out", request=request, response=response)

    with pytest.raises(httpx.HTTPStatusError):
        at_once(soon.make_simple_http_retry_invoker()).invoke(refuse)
    assert len(asked) == 1


def test_a_link_and_its_sign_of_life_are_tried_again_within_seconds(soon: Any) -> None:
    sender = soon.HeartbeatSender(lambda: True)
    assert longest(soon.make_simple_http_retry_invoker()) == LONGEST_PAUSE_S
    assert longest(sender._retry_invoker) == LONGEST_PAUSE_S
    flowers: Any = HeartbeatSender(lambda: True)
    assert longest(make_simple_http_retry_invoker()) == longest(flowers._retry_invoker) == 20
