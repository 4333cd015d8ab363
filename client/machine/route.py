"""The way to the coordinator: its address, the proxy on the way, and a connected socket.

Promises
- ``HTTPS_PROXY`` and ``NO_PROXY`` are read as curl and Python read them: lower case goes first; ``NO_PROXY`` lists
  hosts and domains, or is ``*``. A proxy is asked to ``CONNECT`` (RFC 9110 9.3.6) and resolves the coordinator's name.
- Nothing waits longer than its deadline: looking up a name, connecting, and a proxy's answer.
- A proxy's password is sent to the proxy and shown to nobody.
"""

from __future__ import annotations

import base64
import contextlib
import queue
import re
import socket
import threading
import time
import urllib.parse
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from shared.errors import ConsiliumError

HTTPS = 443
_PROXY_PORT = 8080
_MOST_HEAD_BYTES = 2**16


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A host and a port."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


@dataclass(frozen=True, slots=True)
class Proxy:
    """A proxy that tunnels; ``authorization`` is the value of its header, "" where it asks for none."""

    endpoint: Endpoint
    authorization: str = field(default="", repr=False)


def endpoint(address: str) -> Endpoint:
    """Read ``host``, ``host:port`` or ``https://host:port/``; raises ``ConsiliumError``."""
    parts, port = _split(address)
    if parts.scheme not in {"", "https"} or not parts.hostname or port == 0:
        raise ConsiliumError(
            "the coordinator's address is neither host, nor host:port, nor https://host:port",
            hint="correct [coordinator] address in site.toml",
        )
    return Endpoint(parts.hostname, port or HTTPS)


def proxy_for(target: Endpoint, environ: Mapping[str, str]) -> Proxy | None:
    """The proxy through which ``target`` is to be reached, None for the direct way; raises ``ConsiliumError``."""
    said = environ.get("https_proxy") or environ.get("HTTPS_PROXY")
    exempt = environ.get("no_proxy") or environ.get("NO_PROXY") or ""
    if not said or urllib.request.proxy_bypass_environment(str(target), {"no": exempt}):  # type: ignore[attr-defined]
        return None
    parts, port = _split(said)
    if parts.scheme not in {"", "http"} or not parts.hostname or port == 0:
        raise ConsiliumError(
            "HTTPS_PROXY is not of the form http://host:port",
            hint="ask for an HTTP proxy that allows CONNECT; SOCKS and proxies behind TLS are not examined",
        )
    user, password = (urllib.parse.unquote(text or "") for text in (parts.username, parts.password))
    secret = base64.b64encode(f"{user}:{password}".encode()).decode()
    return Proxy(Endpoint(parts.hostname, port or _PROXY_PORT), f"Basic {secret}" if user else "")


def addresses(place: Endpoint, seconds: float) -> tuple[tuple[Any, ...], ...]:
    """Socket addresses of ``place``, as ``socket.connect`` takes them; raises ``ConsiliumError``."""
    answers: queue.SimpleQueue[list[Any] | OSError] = queue.SimpleQueue()

    def ask() -> None:
        try:
            answers.put(socket.getaddrinfo(place.host, place.port, type=socket.SOCK_STREAM))
        except (OSError, UnicodeError) as error:
            answers.put(error if isinstance(error, OSError) else OSError(str(error)))

    # getaddrinfo knows no deadline; a thread that still waits for it does not keep the process.
    threading.Thread(target=ask, daemon=True).start()
    try:
        found = answers.get(timeout=seconds)
    except queue.Empty:
        found = OSError(f"no answer within {seconds:g} s")
    if isinstance(found, OSError):
        raise ConsiliumError(
            f"the name {place.host} cannot be resolved ({found.strerror or found})",
            hint="check its spelling; ask IT for a DNS entry, or for a proxy that resolves it",
        )
    return tuple((family, sockaddr) for family, _, _, _, sockaddr in found)


def connect(target: Endpoint, proxy: Proxy | None, seconds: float) -> socket.socket:
    """A socket whose bytes reach ``target``, with ``seconds`` as its timeout; raises ``ConsiliumError``."""
    if proxy is None:
        return _open(target, seconds, f"allow outbound TCP to {target}, or set HTTPS_PROXY")
    tunnel = _open(proxy.endpoint, seconds, "check HTTPS_PROXY")
    try:
        _ask_for_tunnel(tunnel, target, proxy, time.monotonic() + seconds)
    except BaseException:
        tunnel.close()
        raise
    return tunnel


def read_head(connection: socket.socket, deadline: float) -> bytes:
    """Status line and headers of an HTTP answer, to the empty line, and not a byte more.

    Raises:
        OSError: nothing came by ``deadline`` (``time.monotonic``), the peer hung up, or the head has no end.
    """
    head = bytearray()
    while not head.endswith(b"\r\n\r\n"):
        left = deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError
        connection.settimeout(left)
        byte = connection.recv(1)
        head += byte
        if not byte or len(head) > _MOST_HEAD_BYTES:
            raise ConnectionResetError
    return bytes(head)


def _split(address: str) -> tuple[urllib.parse.SplitResult, int | None]:
    """The parts of an address, and its port: None where it names none, 0 where that is impossible."""
    with contextlib.suppress(ValueError):
        parts = urllib.parse.urlsplit(address if "://" in address else f"//{address}")
        return parts, parts.port
    return urllib.parse.urlsplit(""), 0


def _open(place: Endpoint, seconds: float, hint: str) -> socket.socket:
    deadline = time.monotonic() + seconds
    found = addresses(place, seconds)
    failure: OSError = TimeoutError()
    for position, (family, sockaddr) in enumerate(found):
        # An address that swallows packets must leave time for the others.
        share = max(0.1, deadline - time.monotonic()) / (len(found) - position)
        connection = socket.socket(family, socket.SOCK_STREAM)
        try:
            connection.settimeout(share)
            connection.connect(sockaddr)
        except OSError as error:
            connection.close()
            failure = error
        else:
            connection.settimeout(seconds)
            return connection
    raise ConsiliumError(f"{place} {_reason(failure, seconds)}", hint=hint)


def _reason(failure: OSError, seconds: float) -> str:
    if isinstance(failure, TimeoutError):
        return f"did not answer within {seconds:g} s: packets are dropped on the way"
    if isinstance(failure, ConnectionRefusedError):
        return "refused the connection: nothing listens there, or a firewall rejects it"
    return f"cannot be reached ({failure.strerror or type(failure).__name__})"


def _ask_for_tunnel(tunnel: socket.socket, target: Endpoint, proxy: Proxy, deadline: float) -> None:
    lines = [f"CONNECT {target} HTTP/1.1", f"Host: {target}"]
    if proxy.authorization:
        lines.append(f"Proxy-Authorization: {proxy.authorization}")
    try:
        tunnel.sendall("\r\n".join([*lines, "", ""]).encode("ascii", "replace"))
        head = read_head(tunnel, deadline)
    except OSError:
        sentence = f"the proxy {proxy.endpoint} did not answer CONNECT {target}"
        raise ConsiliumError(sentence, hint="check that HTTPS_PROXY names an HTTP proxy") from None
    status = re.match(rb"HTTP/1\.\d (\d{3})", head)
    code = int(status[1]) if status else 0
    if not 200 <= code < 300:
        hint = (
            "give user and password as http://user:password@host:port" if code == 407 else f"ask IT to allow {target}"
        )
        said = f"with {code}" if code else "with something that is not HTTP"
        raise ConsiliumError(f"the proxy {proxy.endpoint} answered CONNECT {target} {said}", hint=hint)
