"""Who may look at a page of this machine, and what a browser may do with it.

Promises
- Only questions that name this machine as their host are heard: a page elsewhere whose name was made to point here (DNS
  rebinding) is not. The port may differ, for those who come through a tunnel.
- Without the token nothing but ``/health`` is shown. It comes once in the address that was printed, and from then on in
  a cookie that scripts cannot read and other pages cannot send; programs send it as ``Authorization: Bearer``. Tokens
  are compared in constant time, and none is ever put into a page.
- Nothing can be changed: every method but GET and HEAD is refused.
- Every answer forbids scripts, styles and connections from elsewhere, framing, guessing of types, and keeping a copy.

Not promised: anything against other processes of the same user, or of root. A cookie is shared by all ports of a host,
so its name follows from the token, and its value is not the token.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
from collections.abc import Awaitable, Callable, MutableMapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

from shared.durable import replace_file

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

HEALTH = "/health"
HOSTS = frozenset({"127.0.0.1", "localhost", "[::1]"})
OURS = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src data:; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
"""Content security policy (W3C CSP Level 3) of pages whose style and script are files of their own."""
REPORT = (
    "default-src 'none'; style-src 'unsafe-inline'; img-src data:; sandbox; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
"""The same for a report: one file with its style in it, and without any script."""
HEADERS = {
    "content-security-policy": OURS,
    "cache-control": "no-store",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), geolocation=(), microphone=()",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
}
_CLOSED = "Open the address that the command printed when it started: it holds the key to this page.\n"


def new_token(path: Path) -> str:
    """Draw a token, keep it in ``path`` for its owner alone, so that programs find it, and return it."""
    token = secrets.token_urlsafe(32)
    replace_file(path, f"{token}\n".encode())
    return token


@dataclass(frozen=True)
class Guard:
    """An ASGI application that stands before ``app`` and asks for ``token``."""

    app: App
    token: str

    @property
    def cookie(self) -> tuple[str, str]:
        """Name and value of the cookie of whoever has shown the token."""
        value = hashlib.sha256(b"consilium-page-1\n" + self.token.encode()).hexdigest()
        return f"consilium-{value[:8]}", value[8:]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer, or let ``app`` answer."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        verdict = self._verdict(scope, {name.lower(): value for name, value in scope["headers"]})
        if verdict is None:
            await self.app(scope, receive, _with_headers(send))
        else:
            await _answer(_with_headers(send), *verdict)

    def _verdict(self, scope: Scope, headers: dict[bytes, bytes]) -> tuple[int, dict[str, str], str] | None:
        """Status, headers and text of the answer; None where ``app`` may give it."""
        if _host(headers.get(b"host", b"")) not in HOSTS:
            return 421, {}, "This page is for the machine that it runs on.\n"
        if scope["method"] not in {"GET", "HEAD"}:
            return 405, {"allow": "GET, HEAD"}, "This page shows; it changes nothing.\n"
        if scope["path"] == HEALTH or self._known(headers):
            return None
        shown = parse_qs(scope["query_string"].decode("latin-1")).get("token", [""])[0]
        if scope["path"] != "/" or not _same(shown, self.token):
            return 403, {}, _CLOSED
        name, value = self.cookie
        return 303, {"location": "/", "set-cookie": f"{name}={value}; Path=/; HttpOnly; SameSite=Strict"}, ""

    def _known(self, headers: dict[bytes, bytes]) -> bool:
        scheme, _, said = headers.get(b"authorization", b"").decode("latin-1").partition(" ")
        if scheme.lower() == "bearer":
            return _same(said.strip(), self.token)
        name, value = self.cookie
        pairs = (pair.strip().partition("=") for pair in headers.get(b"cookie", b"").decode("latin-1").split(";"))
        return any(key == name and _same(held, value) for key, _, held in pairs)


def _host(said: bytes) -> str:
    """The name in a Host header, without its port."""
    host = said.decode("latin-1").lower()
    return host.rpartition("]")[0] + "]" if host.startswith("[") else host.partition(":")[0]


def _same(said: str, known: str) -> bool:
    return hmac.compare_digest(said.encode(), known.encode())


def _with_headers(send: Send) -> Send:
    """``send`` that adds ``HEADERS`` where an answer has not set its own."""

    async def sending(message: Message) -> None:
        if message["type"] == "http.response.start":
            own = {name.lower() for name, _ in message["headers"]}
            added = [(name.encode(), value.encode()) for name, value in HEADERS.items() if name.encode() not in own]
            message = {**message, "headers": [*message["headers"], *added]}
        await send(message)

    return sending


async def _answer(send: Send, status: int, headers: dict[str, str], text: str) -> None:
    said = {"content-type": "text/plain; charset=utf-8", "content-length": str(len(text.encode())), **headers}
    pairs = [(name.encode(), value.encode()) for name, value in said.items()]
    await send({"type": "http.response.start", "status": status, "headers": pairs})
    await send({"type": "http.response.body", "body": text.encode()})
