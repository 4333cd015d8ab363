"""HTTP servers for the gateway: several in one event loop, with limits that uvicorn does not set.

Promises
- TLS is 1.2 or later, with forward secrecy and authenticated encryption only (RFC 9325). The certificate can be read
  again while connections go on.
- A connection that has not sent the head of a request after ``HEAD_S`` is closed; a head has at most ``HEAD_BYTES``.
- Signals are left to whoever started the servers.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import h11
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from server.link.gate import App
from shared.errors import RunError

HEAD_S = 15.0
HEAD_BYTES = 2**15
CONNECTIONS = 512
IDLE_S = 75
"""A SuperNode asks every few seconds; a new TLS handshake each time would be most of its traffic."""
_LAST_S = 5
_CIPHERS = "ECDHE+AESGCM:ECDHE+CHACHA20"


def tls_context(certificate: Path, key: Path) -> ssl.SSLContext:
    """The server's side of TLS; raises ``RunError`` where certificate and key cannot be used."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers(_CIPHERS)
    context.options |= ssl.OP_NO_RENEGOTIATION | ssl.OP_CIPHER_SERVER_PREFERENCE
    load_certificate(context, certificate, key)
    return context


def load_certificate(context: ssl.SSLContext, certificate: Path, key: Path) -> None:
    """Use what the files hold now, for connections from now on; raises ``RunError`` and changes nothing."""
    try:
        # Into another context first: a half-loaded pair would break the one in use.
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(certificate, key)
        context.load_cert_chain(certificate, key)
    except (OSError, ssl.SSLError):
        raise RunError(
            f"{certificate.name} and {key.name} are no certificate and its key",
            hint="issue a new one: consilium-server init says how",
            code="certificate",
        ) from None


def bind(host: str, port: int) -> socket.socket:
    """A listening socket; raises ``RunError`` where there is none to be had."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=CONNECTIONS)
    except OSError as error:
        raise RunError(
            f"cannot listen at {host}:{port}: {error.strerror}", hint="is something else there already?", code="port"
        ) from None


class Listener(uvicorn.Server):
    """A server that leaves signals alone."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Nothing: the process has one handler for all its servers."""
        yield


class _Impatient(H11Protocol):
    """HTTP/1.1 that does not wait for the head of a request for ever."""

    _late: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._watch()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._stop()

    def _watch(self) -> None:
        """Count from the first byte of a head: more bytes of the same head do not start again."""
        if self.conn.their_state is not h11.IDLE:
            self._stop()
        elif self._late is None:
            self._late = self.loop.call_later(HEAD_S, self._close)

    def _stop(self) -> None:
        if self._late is not None:
            self._late.cancel()
            self._late = None

    def _close(self) -> None:
        self._late = None
        if not self.transport.is_closing() and self.conn.their_state is h11.IDLE:
            self.transport.close()


def listener(app: App, context: ssl.SSLContext | None) -> Listener:
    """A server for ``app``, over TLS where there is a ``context``."""
    factory: Callable[[Any, Any], ssl.SSLContext] | None = (
        None if context is None else lambda _config, _default: context
    )
    return Listener(
        uvicorn.Config(
            app,
            http=_Impatient,
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,
            limit_concurrency=CONNECTIONS,
            timeout_keep_alive=IDLE_S,
            timeout_graceful_shutdown=_LAST_S,
            h11_max_incomplete_event_size=HEAD_BYTES,
            ssl_context_factory=factory,
        )
    )
