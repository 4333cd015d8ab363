"""Two gates before one ASGI application: what may be asked from outside, and what from this machine.

Promises
- Paths are compared whole with a list, as they came over the wire. What is not on the list is answered 403: other
  APIs, documentation, queries, percent signs, double slashes, ``..``, WebSockets.
- From outside, nobody is heard before they have shown who they are (``Admit``): not one byte of a body is read before.
- A body has a size and a time; it is read here, and the application sees it whole or not at all.
- From this machine, control calls need the bearer token, compared in constant time, which is not passed on. What the
  runtime API asks for is left to Flower, which authenticates it itself.
- Every control call, and every refusal, is noted: what was called, the verdict, the time. No content.

Flower 1.41 has no authentication on its control API, and serves it on the port that the sites use.
"""

from __future__ import annotations

import asyncio
import hmac
import json
from collections.abc import Awaitable, Callable, MutableMapping, Sequence
from dataclasses import dataclass
from typing import Any

Scope = MutableMapping[str, Any]
Event = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Event]]
Send = Callable[[Event], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

FLEET_CALLS = frozenset(
    f"/v1/fleet/{call}"
    for call in (
        "activate-node",
        "deactivate-node",
        "send-node-heartbeat",
        "pull-messages",
        "push-messages",
        "get-run",
        "get-fab",
        "push-object",
        "pull-object",
        "confirm-message-received",
    )
)
CONTROL_CALLS = frozenset(
    f"/v1/control/{call}"
    for call in (
        "start-run",
        "stop-run",
        "list-runs",
        "stream-logs",
        "register-node",
        "unregister-node",
        "list-nodes",
    )
)
RUNTIME_CALLS = frozenset(
    f"/v1/runtime/{call}"
    for call in (
        "acquire-task",
        "send-task-heartbeat",
        "pull-task-input",
        "push-task-output",
        "push-object",
        "pull-object",
        "confirm-message-received",
        "push-logs",
        "push-messages",
        "pull-messages",
        "get-nodes",
    )
)
HEALTH = "/health"
_LONGEST_NOTED = 80
_FORBIDDEN = "this is not served here"


@dataclass(frozen=True, slots=True)
class Limits:
    """What one request may take.

    Attributes:
        body_bytes: of the largest body. Flower sends arrays in pieces of 5 MiB.
        pause_s: the longest silence within a body.
        body_s: the longest time for a whole body.
    """

    body_bytes: int = 64 * 2**20
    pause_s: float = 30.0
    body_s: float = 300.0


@dataclass(frozen=True, slots=True)
class Refused:
    """Why a request was not passed on; ``code`` and ``detail`` are what the asker is told."""

    status: int
    reason: str
    detail: str = _FORBIDDEN
    code: int = 0


@dataclass(frozen=True, slots=True)
class Noted:
    """A line for the log."""

    api: str
    call: str
    verdict: str
    peer: str
    status: int


Headers = Sequence[tuple[bytes, bytes]]
Admit = Callable[[str, Headers], Refused | None]
"""(path, headers) -> why this asker is not heard, or None. May block: it is called in a thread."""
Note = Callable[[Noted], None]


def public_gate(app: App, admit: Admit, note: Note, limits: Limits) -> App:
    """``app`` as the outside sees it: the fleet API for admitted nodes, and ``/health`` for everybody."""

    async def gate(scope: Scope, receive: Receive, send: Send) -> None:
        refused = _misrouted(scope, FLEET_CALLS)
        if refused is None and scope["path"] == HEALTH:
            await _answer(scope, send, 200, {"status": "ok"})
            return
        if refused is None:
            refused = await asyncio.to_thread(admit, scope["path"], list(scope["headers"]))
        if refused is None:
            refused = await _pass_on(app, limits, scope, receive, send)
        if refused is not None:
            note(_noted("fleet", scope, refused.reason, refused.status))
            await _refuse(scope, send, refused)

    return gate


def local_gate(app: App, token: str, note: Note, limits: Limits) -> App:
    """``app`` as this machine sees it: control for whoever holds ``token``, runtime for whom Flower itself lets in."""

    async def gate(scope: Scope, receive: Receive, send: Send) -> None:
        refused = _misrouted(scope, CONTROL_CALLS | RUNTIME_CALLS)
        control = refused is None and scope["path"] in CONTROL_CALLS
        if refused is None and scope["path"] == HEALTH:
            await _answer(scope, send, 200, {"status": "ok"})
            return
        if control:
            refused = _without_token(scope, token)
        if refused is None:
            heard = _noting(send, scope, note) if control else send
            refused = await _pass_on(app, limits, scope, receive, heard)
        if refused is not None:
            note(_noted("control" if control else "local", scope, refused.reason, refused.status))
            await _refuse(scope, send, refused)

    return gate


def _misrouted(scope: Scope, calls: frozenset[str]) -> Refused | None:
    """Whether a request is for nothing on the list, spelled as it stands there."""
    if scope["type"] != "http":
        return Refused(403, f"a {scope['type']} was asked for")
    path = scope["path"]
    if scope.get("root_path") or scope["query_string"] or scope["raw_path"] != path.encode("utf-8", "replace"):
        return Refused(403, "path is not written plainly")
    methods = {"GET", "HEAD"} if path == HEALTH else {"POST"} if path in calls else set()
    return None if scope["method"] in methods else Refused(403, "path is not served here")


def _without_token(scope: Scope, token: str) -> Refused | None:
    """Check the token and take it out of the headers."""
    given = [value for name, value in scope["headers"] if name == b"authorization"]
    if len(given) != 1 or not hmac.compare_digest(given[0], f"Bearer {token}".encode()):
        return Refused(403, "no token of this federation", "control calls need the token of this federation")
    scope["headers"] = [(name, value) for name, value in scope["headers"] if name != b"authorization"]
    return None


async def _pass_on(app: App, limits: Limits, scope: Scope, receive: Receive, send: Send) -> Refused | None:
    body = await _body(scope, receive, limits)
    if isinstance(body, Refused):
        return body
    first: list[Event] = [{"type": "http.request", "body": body, "more_body": False}]

    async def replay() -> Event:
        return first.pop() if first else await receive()

    await app(scope, replay, send)
    return None


async def _body(scope: Scope, receive: Receive, limits: Limits) -> bytes | Refused:
    """The whole body, or why not."""
    too_large = Refused(413, "body too large", f"a request may have {limits.body_bytes} bytes")
    claimed = dict(scope["headers"]).get(b"content-length", b"0")
    if not claimed.isdigit() or int(claimed) > limits.body_bytes:
        return too_large
    body, more, now = bytearray(), True, asyncio.get_running_loop().time
    end = now() + limits.body_s
    try:
        while more:
            async with asyncio.timeout(min(limits.pause_s, end - now())):
                event = await receive()
            if event["type"] == "http.disconnect":
                return Refused(400, "asker went away")
            body += event.get("body", b"")
            more = event.get("more_body", False)
            if len(body) > limits.body_bytes:
                return too_large
            # Whoever always has another piece ready is never waited for, and no timeout of asyncio ends that.
            if more and now() > end:
                raise TimeoutError  # noqa: TRY301 - handled like the one that asyncio raises
    except TimeoutError:
        return Refused(408, "body too slow", "the request took too long")
    return bytes(body)


def _noting(send: Send, scope: Scope, note: Note) -> Send:
    """``send``, which notes the call before its answer goes out."""

    async def noting(event: Event) -> None:
        if event["type"] == "http.response.start":
            note(_noted("control", scope, "allowed", event["status"]))
        await send(event)

    return noting


async def _refuse(scope: Scope, send: Send, refused: Refused) -> None:
    if scope["type"] == "websocket":
        await send({"type": "websocket.close", "code": 1008})
    elif scope["type"] == "http":
        await _answer(scope, send, refused.status, {"code": refused.code, "detail": refused.detail})


async def _answer(scope: Scope, send: Send, status: int, said: dict[str, object]) -> None:
    body = json.dumps(said, separators=(",", ":")).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    # What was refused may still be sending: the connection ends with the answer.
    headers += [(b"connection", b"close")] if status != 200 else []
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": b"" if scope["method"] == "HEAD" else body})


def _noted(api: str, scope: Scope, verdict: str, status: int) -> Noted:
    path = ascii(scope.get("path", ""))[1:-1]
    client = scope.get("client") or ("unknown",)
    return Noted(api, path[:_LONGEST_NOTED], verdict, str(client[0]), status)
