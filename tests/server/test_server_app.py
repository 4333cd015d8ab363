"""The ServerApp's fleet: sites by name over Flower's Grid, with lost, failed and foreign messages."""

from collections.abc import Iterable

import pytest
from flwr.app import ConfigRecord, Error, Message, RecordDict
from flwr.supercore.task_identity import TaskIdentity

from server import app
from server.post import Plain
from shared.errors import RunError
from shared.message_bytes import reply_to_bytes, request_from_bytes
from shared.messages import Envelope, Hello, Refusal, Reply, Request, Welcome
from shared.parcels import Parcel
from shared.wire import parcel_from_record, parcel_to_record

HELLO = Envelope("run-1", "ab" * 32, 0)


@pytest.fixture(autouse=True)
def _identity(monkeypatch: pytest.MonkeyPatch) -> None:
    """What Flower's process sets before an app runs."""
    for name in ("run_id", "task_id", "node_id"):
        monkeypatch.setattr(TaskIdentity, f"_{name}", 1)


class MemoryGrid:
    """A Grid in memory: each node answers by its own function, or not at all."""

    def __init__(self, nodes: dict[int, str | Reply | Error | None]) -> None:
        self._nodes = nodes
        self._waiting: dict[str, Message] = {}
        self.requests: list[tuple[int, str, Request]] = []

    def get_node_ids(self) -> Iterable[int]:
        return self._nodes

    def push_messages(self, messages: Iterable[Message]) -> list[str]:
        identifiers = []
        for number, message in enumerate(messages):
            message.metadata.__dict__["_message_id"] = f"m{len(self.requests)}-{number}"
            node = message.metadata.dst_node_id
            asked = request_from_bytes(parcel_from_record(message.content).body)
            self.requests.append((node, message.metadata.message_type, asked))
            reply = self._reply(node, message)
            if reply is not None:
                self._waiting[message.metadata.message_id] = reply
            identifiers.append(message.metadata.message_id)
        return identifiers

    def pull_messages(self, identifiers: Iterable[str]) -> list[Message]:
        return [self._waiting.pop(one) for one in list(identifiers) if one in self._waiting]

    def _reply(self, node: int, message: Message) -> Message | None:
        behaviour = self._nodes[node]
        if behaviour is None:
            return None
        if isinstance(behaviour, Error):
            return Message(behaviour, reply_to=message)
        if behaviour == "garbage":
            return Message(RecordDict({"other": ConfigRecord({"x": 1})}), reply_to=message)
        site = behaviour if isinstance(behaviour, str) else f"site-{node}"
        reply = Welcome((("torch", "2"),), 1) if isinstance(behaviour, str) else behaviour
        return Message(parcel_to_record(Parcel(site, reply_to_bytes(reply))), reply_to=message)


def ask(grid: MemoryGrid, deadline_s: float = 0.3) -> dict[int, Reply]:
    question = app.Addressed("", Hello(HELLO))
    replies = app.ask_nodes(grid, dict.fromkeys(grid.get_node_ids(), question), deadline_s, Plain())  # type: ignore[arg-type]
    return {node: reply for node, (_, reply) in replies}


def test_each_node_is_known_by_the_name_it_gives() -> None:
    found = app.find_sites(MemoryGrid({11: "drive", 12: "stare"}), HELLO, 2, 1.0)  # type: ignore[arg-type]
    assert found == {"drive": 11, "stare": 12}


def test_a_name_that_two_nodes_claim_is_refused_for_both() -> None:
    grid = MemoryGrid({11: "drive", 12: "drive", 13: "stare"})
    assert app.find_sites(grid, HELLO, 3, 1.0) == {"stare": 13}  # type: ignore[arg-type]


def test_without_any_site_the_run_does_not_begin() -> None:
    with pytest.raises(RunError, match="none of 1 connected nodes"):
        app.find_sites(MemoryGrid({11: None}), HELLO, 1, 0.2)  # type: ignore[arg-type]


def test_fewer_sites_than_expected_are_waited_for_until_the_deadline_and_no_longer() -> None:
    assert app.find_sites(MemoryGrid({11: "drive"}), HELLO, 5, 0.3) == {"drive": 11}  # type: ignore[arg-type]


def test_a_silent_node_yields_nothing_after_the_deadline() -> None:
    assert set(ask(MemoryGrid({11: "drive", 12: None}))) == {11}


def test_an_error_of_flower_becomes_a_refusal_with_its_number() -> None:
    reply = ask(MemoryGrid({11: Error(3, "node unavailable")}))[11]
    assert isinstance(reply, Refusal)
    assert reply.code == "transport"
    assert "error 3" in reply.sentence


def test_an_error_that_flower_s_own_node_reports_is_that_of_the_node_that_was_asked() -> None:
    """A SuperLink answers for a node that is gone, and signs with its own number."""

    class Relayed(MemoryGrid):
        def pull_messages(self, identifiers: Iterable[str]) -> list[Message]:
            found = super().pull_messages(identifiers)
            for message in found:
                message.metadata.__dict__["_src_node_id"] = 1
            return found

    reply = ask(Relayed({11: Error(3, "node unavailable")}))[11]
    assert isinstance(reply, Refusal)
    assert reply.code == "transport"


def test_a_reply_that_nobody_asked_for_is_dropped() -> None:
    class Stranger(MemoryGrid):
        def pull_messages(self, identifiers: Iterable[str]) -> list[Message]:
            found = super().pull_messages(identifiers)
            return [*found, *found]

    assert set(ask(Stranger({11: "drive", 12: "stare"}))) == {11, 12}


def test_a_message_that_cannot_be_understood_becomes_a_refusal() -> None:
    reply = ask(MemoryGrid({11: "garbage"}))[11]
    assert isinstance(reply, Refusal)
    assert reply.code == "format"


def test_the_fleet_asks_nodes_and_answers_by_site_name() -> None:
    grid = MemoryGrid({11: "drive", 12: "stare"})
    fleet = app.GridFleet(grid, {"stare": 12, "drive": 11})  # type: ignore[arg-type]
    assert fleet.names() == ("drive", "stare")
    replies = dict(fleet.ask({"stare": Hello(HELLO)}, 1.0))
    assert list(replies) == ["stare"]
    assert [(node, kind) for node, kind, _ in grid.requests] == [(12, "query")]
