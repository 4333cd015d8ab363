"""The two gates, by the events that an ASGI server would send them."""

from __future__ import annotations

import asyncio
import itertools
import json
from collections.abc import Mapping

import pytest
from flwr.supercore.protobuf.translation import PROTOBUF_REQUEST_TYPES
from hypothesis import given
from hypothesis import strategies as st

from server.link.gate import (
    CONTROL_CALLS,
    FLEET_CALLS,
    RUNTIME_CALLS,
    Event,
    Headers,
    Limits,
    Noted,
    Receive,
    Refused,
    Scope,
    Send,
    local_gate,
    public_gate,
)

TOKEN = "f" * 64
FLEET, CONTROL, RUNTIME = "/v1/fleet/pull-messages", "/v1/control/list-nodes", "/v1/runtime/acquire-task"
LIMITS = Limits(body_bytes=1000, pause_s=0.1, body_s=0.3)


class Inside:
    """The application behind a gate: remembers what reached it."""

    def __init__(self) -> None:
        self.heard: list[tuple[str, bytes, dict[bytes, bytes]]] = []

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        event = await receive()
        assert not event["more_body"]
        self.heard.append((scope["path"], event["body"], dict(scope["headers"])))
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"inside"})


class Asked:
    """One request through a gate, and what came of it."""

    def __init__(self, gate: str = "public", admit: Refused | None = None, limits: Limits = LIMITS) -> None:
        self.inside, self.notes, self.sent = Inside(), list[Noted](), list[Event]()
        self.admitted: list[tuple[str, Headers]] = []

        def judge(path: str, headers: Headers) -> Refused | None:
            self.admitted.append((path, headers))
            return admit

        if gate == "public":
            self.gate = public_gate(self.inside, judge, self.notes.append, limits)
        else:
            self.gate = local_gate(self.inside, TOKEN, self.notes.append, limits)
        self.read = 0

    def __call__(self, path: str, body: bytes = b"", **changed: object) -> Asked:
        return self.with_pieces(path, [body], **changed)

    def with_pieces(self, path: str, pieces: list[bytes], pause_s: float = 0.0, **changed: object) -> Asked:
        headers = changed.pop("headers", {})
        assert isinstance(headers, Mapping)
        scope: dict[str, object] = {
            "type": "http",
            "method": "POST",
            "path": path,
            "raw_path": path.encode(),
            "root_path": "",
            "query_string": b"",
            "client": ("192.0.2.1", 40000),
            "headers": [(name.encode(), value.encode()) for name, value in headers.items()],
        } | changed

        async def receive() -> Event:
            await asyncio.sleep(pause_s)
            self.read += 1
            if self.read > len(pieces):
                return {"type": "http.disconnect"}
            return {"type": "http.request", "body": pieces[self.read - 1], "more_body": self.read < len(pieces)}

        async def send(event: Event) -> None:
            self.sent.append(event)

        asyncio.run(self.gate(scope, receive, send))
        return self

    @property
    def status(self) -> int:
        return int(self.sent[0]["status"])

    @property
    def said(self) -> dict[str, object]:
        return dict(json.loads(self.sent[1]["body"]))


def bearer(token: str = TOKEN) -> dict[str, str]:
    return {"authorization": f"Bearer {token}"}


def test_an_admitted_node_reaches_the_fleet_api_with_its_whole_body() -> None:
    asked = Asked().with_pieces(FLEET, [b"ab", b"", b"cd"])
    assert asked.status == 200
    assert [(path, body) for path, body, _ in asked.inside.heard] == [(FLEET, b"abcd")]
    assert asked.notes == []


def test_a_node_that_is_not_admitted_is_refused_with_its_reason_before_anything_is_read() -> None:
    asked = Asked(admit=Refused(412, "suspended", "ask the lead", 9002))(FLEET, b"x" * 10)
    assert asked.status == 412
    assert asked.said == {"code": 9002, "detail": "ask the lead"}
    assert asked.read == 0
    assert asked.inside.heard == []
    assert asked.notes == [Noted("fleet", FLEET, "suspended", "192.0.2.1", 412)]


@pytest.mark.parametrize("path", [*sorted(CONTROL_CALLS | RUNTIME_CALLS), "/docs", "/openapi.json", "/", "", "*"])
def test_nothing_else_is_asked_even_by_admitted_nodes(path: str) -> None:
    asked = Asked()(path)
    assert asked.status == 403
    assert asked.inside.heard == []
    assert asked.admitted == [], "nobody's signature is looked at for what is not served"


@pytest.mark.parametrize(
    "changed",
    [
        {"raw_path": b"/v1/fleet/%70ull-messages"},
        {"raw_path": b"//v1/fleet/pull-messages"},
        {"root_path": "/v1"},
        {"query_string": b"a=b"},
        {"method": "GET"},
        {"method": "post"},
        {"type": "something"},
    ],
    ids=["percent", "slashes", "root", "query", "get", "small letters", "type"],
)
def test_a_path_that_is_not_written_plainly_is_refused(changed: dict[str, object]) -> None:
    asked = Asked()(FLEET, **changed)
    assert asked.inside.heard == []
    assert [note.status for note in asked.notes] == [403]


@given(st.text(st.characters(codec="utf-8"), max_size=40))
def test_no_path_but_those_on_the_list_gets_in(path: str) -> None:
    for gate, calls in (("public", FLEET_CALLS), ("local", CONTROL_CALLS | RUNTIME_CALLS)):
        asked = Asked(gate)(path, headers=bearer())
        assert bool(asked.inside.heard) == (path in calls)


@given(st.sampled_from(sorted(CONTROL_CALLS)), st.lists(st.sampled_from(["/", "//", "/./", "/../", "%2f", "%2e"])))
def test_no_decoration_of_a_control_path_opens_the_public_gate(path: str, parts: list[str]) -> None:
    pieces = path.strip("/").split("/")
    joined = "/" + "".join(itertools.chain(*itertools.zip_longest(pieces, parts, fillvalue="")))
    assert Asked()(joined).inside.heard == []


def test_a_websocket_is_closed_and_not_opened() -> None:
    for gate in ("public", "local"):
        asked = Asked(gate)(FLEET, type="websocket")
        assert asked.sent == [{"type": "websocket.close", "code": 1008}]
        assert asked.inside.heard == []


def test_health_is_answered_by_the_gate_itself() -> None:
    for gate in ("public", "local"):
        asked = Asked(gate)("/health", method="GET")
        assert (asked.status, asked.said) == (200, {"status": "ok"})
        assert asked.inside.heard == []
        assert asked.notes == []


def test_a_body_that_says_it_is_too_large_is_refused_unread() -> None:
    asked = Asked()(FLEET, headers={"content-length": "1001"})
    assert (asked.status, asked.read) == (413, 0)


def test_a_body_that_turns_out_too_large_is_refused_as_soon_as_it_does() -> None:
    asked = Asked().with_pieces(FLEET, [b"x" * 600] * 100)
    assert asked.status == 413
    assert asked.read == 2
    assert asked.inside.heard == []


def test_a_body_of_exactly_the_limit_is_read() -> None:
    asked = Asked()(FLEET, b"x" * 1000, headers={"content-length": "1000"})
    assert asked.status == 200
    assert len(asked.inside.heard[0][1]) == 1000


@pytest.mark.parametrize("claimed", ["-1", "1e9", "", "0x10", "٣"])
def test_a_length_that_is_no_number_is_refused(claimed: str) -> None:
    assert Asked()(FLEET, headers={"content-length": claimed}).status == 413


def test_a_body_that_falls_silent_is_given_up() -> None:
    assert Asked().with_pieces(FLEET, [b"x", b"y"], pause_s=0.2).status == 408


def test_a_body_that_drips_is_given_up_although_it_is_never_silent() -> None:
    asked = Asked().with_pieces(FLEET, [b"x"] * 100, pause_s=0.05)
    assert asked.status == 408
    assert asked.read < 10


def test_whoever_goes_away_is_not_passed_on() -> None:
    asked = Asked().with_pieces(FLEET, [])
    assert asked.inside.heard == []


def test_refusals_end_the_connection_and_answers_do_not() -> None:
    assert (b"connection", b"close") in Asked()("/docs").sent[0]["headers"]
    assert (b"connection", b"close") not in Asked()("/health", method="GET").sent[0]["headers"]


def test_control_with_the_token_is_passed_on_without_it_and_noted() -> None:
    asked = Asked("local")(CONTROL, b"ask", headers=bearer() | {"accept": "x"})
    assert asked.inside.heard == [(CONTROL, b"ask", {b"accept": b"x"})]
    assert asked.notes == [Noted("control", CONTROL, "allowed", "192.0.2.1", 200)]


@pytest.mark.parametrize(
    "headers",
    [{}, bearer("F" * 64), bearer(TOKEN[:-1]), bearer(TOKEN + "f"), {"authorization": TOKEN}, bearer("")],
    ids=["none", "capitals", "shorter", "longer", "no scheme", "empty"],
)
def test_control_without_the_right_token_is_refused_and_noted(headers: dict[str, str]) -> None:
    asked = Asked("local")(CONTROL, headers=headers)
    assert asked.status == 403
    assert (asked.read, asked.inside.heard) == (0, [])
    assert asked.notes == [Noted("control", CONTROL, "no token of this federation", "192.0.2.1", 403)]


def test_two_tokens_are_one_too_many() -> None:
    twice = [(b"authorization", f"Bearer {TOKEN}".encode())] * 2
    asked = Asked("local")
    changed: dict[str, object] = {"headers": {}}
    scope_headers = twice

    class Twice(dict[str, str]):
        def items(self) -> object:  # type: ignore[override]
            return [(name.decode(), value.decode()) for name, value in scope_headers]

    changed["headers"] = Twice()
    assert asked(CONTROL, **changed).status == 403


def test_runtime_calls_are_left_to_flower_and_not_noted() -> None:
    asked = Asked("local")(RUNTIME, b"task")
    assert asked.inside.heard == [(RUNTIME, b"task", {})]
    assert asked.notes == []


def test_what_is_noted_of_a_path_is_short_and_printable() -> None:
    (note,) = Asked()("/\n\x1b[31m" + "ü" * 500).notes
    assert len(note.call) <= 80
    assert note.call.isprintable()
    assert note.call.isascii()


def test_every_call_on_the_lists_is_one_that_flower_serves() -> None:
    served = {path for method, path in PROTOBUF_REQUEST_TYPES if method == "POST"}
    assert served >= FLEET_CALLS | CONTROL_CALLS | RUNTIME_CALLS


def test_of_the_fleet_api_only_what_no_authenticated_node_needs_is_left_out() -> None:
    served = {path for _, path in PROTOBUF_REQUEST_TYPES if path.startswith("/v1/fleet/")}
    assert served - FLEET_CALLS == {"/v1/fleet/register-node", "/v1/fleet/unregister-node"}
