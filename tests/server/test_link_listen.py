"""Servers with limits, on loopback."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import loopback
import pytest

from server.link import listen
from server.link.gate import Receive, Scope, Send
from shared.errors import RunError

pytestmark = pytest.mark.network


async def hello(_scope: Scope, _receive: Receive, send: Send) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
    await send({"type": "http.response.body", "body": b"hi"})


@contextlib.contextmanager
def serving(context: ssl.SSLContext | None = None) -> Iterator[int]:
    listening = listen.bind("127.0.0.1", 0)
    server = listen.listener(hello, context)
    thread = threading.Thread(target=lambda: asyncio.run(server.serve([listening])), daemon=True)
    thread.start()
    try:
        yield int(listening.getsockname()[1])
    finally:
        server.should_exit = True
        thread.join(10)
        assert not thread.is_alive()


def pair(folder: Path, authority: loopback.Authority) -> tuple[Path, Path]:
    """Certificate and key of 127.0.0.1."""
    both = loopback.issue(folder, authority, ("127.0.0.1",))
    return both, both


def answer(connection: socket.socket) -> bytes:
    got = b""
    with contextlib.suppress(ConnectionError, TimeoutError):
        while piece := connection.recv(1000):
            got += piece
    return got


def test_a_head_that_drips_is_cut_off_although_it_never_stops(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listen, "HEAD_S", 0.5)
    with serving() as port, socket.create_connection(("127.0.0.1", port), timeout=10) as slow:
        began = time.monotonic()
        slow.sendall(b"GET / HTTP/1.1\r\nX: a")
        with contextlib.suppress(ConnectionError):
            while time.monotonic() - began < 9:
                slow.sendall(b"a")
                time.sleep(0.1)
        assert time.monotonic() - began < 8


def test_a_connection_that_says_nothing_is_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listen, "HEAD_S", 0.3)
    with serving() as port, socket.create_connection(("127.0.0.1", port), timeout=10) as silent:
        assert answer(silent) == b""


def test_a_second_request_on_one_connection_has_its_own_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listen, "HEAD_S", 1.5)
    with serving() as port, socket.create_connection(("127.0.0.1", port), timeout=10) as twice:
        for _ in range(3):
            twice.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
            # Head and body may come in two pieces.
            got = twice.recv(1000)
            assert (got if got.endswith(b"hi") else got + twice.recv(1000)).endswith(b"hi")
            time.sleep(0.7)


def test_an_oversized_head_is_refused() -> None:
    with serving() as port, socket.create_connection(("127.0.0.1", port), timeout=10) as wide:
        wide.sendall(b"GET / HTTP/1.1\r\nX: " + b"a" * (listen.HEAD_BYTES + 10))
        assert answer(wide).startswith(b"HTTP/1.1 400")


def test_the_server_does_not_say_what_it_is() -> None:
    with serving() as port, socket.create_connection(("127.0.0.1", port), timeout=10) as plain:
        plain.sendall(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        assert b"server:" not in answer(plain).lower()


def test_tls_is_modern_and_the_certificate_can_be_changed_while_it_serves(tmp_path: Path) -> None:
    authority = loopback.authority("root")
    context = listen.tls_context(*pair(tmp_path, authority))
    trusting = ssl.create_default_context(cadata=authority.pem.decode())
    shown = []
    with serving(context) as port:
        for _ in range(2):
            with (
                socket.create_connection(("127.0.0.1", port), timeout=10) as plain,
                trusting.wrap_socket(plain, server_hostname="127.0.0.1") as secure,
            ):
                assert secure.version() == "TLSv1.3"
                shown.append(secure.getpeercert(binary_form=True))
            listen.load_certificate(context, *pair(tmp_path, authority))
    assert shown[0] != shown[1]


def test_only_ciphers_with_forward_secrecy_and_authentication_are_offered(tmp_path: Path) -> None:
    context = listen.tls_context(*pair(tmp_path, loopback.authority("root")))
    names = [cipher["name"] for cipher in context.get_ciphers()]
    assert names
    assert all(name.startswith(("TLS_", "ECDHE-")) for name in names)
    assert all("GCM" in name or "CHACHA20" in name for name in names)
    assert context.minimum_version == ssl.TLSVersion.TLSv1_2


def test_what_is_no_certificate_is_refused_and_the_old_one_stays(tmp_path: Path) -> None:
    authority = loopback.authority("root")
    certificate, key = pair(tmp_path, authority)
    other, _ = pair(tmp_path, authority)
    context = listen.tls_context(certificate, key)
    broken = tmp_path / "broken.pem"
    broken.write_bytes(b"nothing")
    leaf = tmp_path / "leaf.pem"
    leaf.write_bytes(b"-----BEGIN CERTIFICATE-----" + other.read_bytes().partition(b"-----BEGIN CERTIFICATE-----")[2])
    for pairs in ((broken, key), (certificate, broken), (tmp_path / "gone.pem", key), (leaf, key)):
        with pytest.raises(RunError) as refused:
            listen.load_certificate(context, *pairs)
        assert refused.value.code == "certificate"


def test_a_port_that_is_taken_is_said_to_be() -> None:
    with listen.bind("127.0.0.1", 0) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(RunError) as refused:
            listen.bind("127.0.0.1", port)
    assert refused.value.code == "port"
    assert str(port) in refused.value.sentence
