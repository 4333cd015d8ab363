"""Somebody on the internet, without a key or with one that is not theirs: heard by the gateway, and by nothing behind.

Flower's own application is behind the gate. Its control API authenticates nobody, so each refusal here is the gate's.
"""

import gzip
import json
import socket
import time
from datetime import timedelta
from pathlib import Path

import pytest
from attacked import TOKEN, Coordinator

from server.link.gate import CONTROL_CALLS, FLEET_CALLS, RUNTIME_CALLS
from server.link.log import A_MINUTE
from shared.link import LOOPBACK, NOT_ENROLLED, SUSPENDED

PULL, ACTIVATE, LIST = "/v1/fleet/pull-messages", "/v1/fleet/activate-node", "/v1/control/list-runs"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Coordinator:
    return Coordinator(tmp_path_factory.mktemp("coordinator"))


@pytest.fixture
def coordinator(made: Coordinator) -> Coordinator:
    """With an empty log and a new allowance of it."""
    made.log.unlink(missing_ok=True)
    made.reopen()
    return made


def last(coordinator: Coordinator) -> tuple[object, object, object, object]:
    line = coordinator.noted()[-1]
    return line["api"], line["call"], line["verdict"], line["status"]


@pytest.mark.parametrize("who", ["nobody", "active", "lead"])
def test_no_control_or_runtime_call_is_heard_from_outside_whoever_makes_it(coordinator: Coordinator, who: str) -> None:
    known = {"nobody": {}, "lead": {"authorization": f"Bearer {TOKEN}".encode()}}
    headers = known[who] if who in known else coordinator.signed(who)
    calls = sorted(CONTROL_CALLS | RUNTIME_CALLS)
    assert {coordinator.call(path, headers)[0] for path in calls} == {403}
    assert [(line["call"], line["verdict"]) for line in coordinator.noted()] == [
        (path, "path is not served here") for path in calls
    ]


def test_control_is_there_and_answers_the_lead_on_this_machine_alone(coordinator: Coordinator) -> None:
    """A control: what is refused from outside exists. Flower answers, whatever it makes of an empty question."""
    assert coordinator.call(LIST, {"authorization": f"Bearer {TOKEN}".encode()}, local=True)[0] != 403
    assert last(coordinator)[:3] == ("control", LIST, "allowed")
    for wrong in (b"", b"Bearer ", b"Bearer " + b"e" * 64, b"bearer " + TOKEN.encode(), TOKEN.encode()):
        assert coordinator.call(LIST, {"authorization": wrong}, local=True)[0] == 403
        assert last(coordinator) == ("control", LIST, "no token of this federation", 403)


@pytest.mark.parametrize(
    "trick",
    [
        {"path": "/v1/fleet/../control/list-runs"},
        {"path": "//v1/control/list-runs"},
        {"path": "/v1/control/list-runs/"},
        {"path": "/V1/Control/List-Runs"},
        {"path": LIST, "raw_path": b"/v1/%63ontrol/list-runs"},
        {"path": PULL, "raw_path": b"/v1/fleet/pull-messages%00"},
        {"path": PULL, "query_string": b"next=/v1/control/list-runs"},
        {"path": PULL, "root_path": "/v1/control"},
        {"path": "/v1/fleet/pull-messages\u200b"},
        {"path": "/v1/fleet/\uff50ull-messages"},
        {"path": PULL, "method": "GET"},
        {"path": PULL, "method": "TRACE"},
        {"path": "/openapi.json", "method": "GET"},
        {"path": "/docs", "method": "GET"},
        {"path": "http://127.0.0.1/v1/control/list-runs"},
    ],
    ids=lambda trick: ascii(trick)[-40:],
)
def test_a_path_is_taken_as_it_is_written_or_not_at_all(coordinator: Coordinator, trick: dict[str, object]) -> None:
    said = {"raw_path": str(trick["path"]).encode(), **trick}
    assert coordinator.call(headers=coordinator.signed("active"), **said)[0] == 403  # type: ignore[arg-type]


def test_a_path_cannot_write_lines_of_its_own_into_the_log(coordinator: Coordinator) -> None:
    evil = '/v1/x\n{"api":"control","verdict":"allowed"}\x1b[2J' + "x" * 5000
    coordinator.call(evil)
    assert len(coordinator.log.read_text().splitlines()) == 1
    assert "\x1b" not in coordinator.log.read_text()
    assert len(coordinator.log.read_text()) < 400


@pytest.mark.parametrize(("who", "code"), [("stranger", NOT_ENROLLED), ("suspended", SUSPENDED)])
def test_a_node_that_is_not_enrolled_or_is_suspended_gets_nowhere(
    coordinator: Coordinator, who: str, code: int
) -> None:
    for path in sorted(FLEET_CALLS):
        status, said = coordinator.call(path, coordinator.signed(who), lambda _: pytest.fail("a body was read"))
        assert status == (412 if path == ACTIVATE else 401)
        assert json.loads(said)["code"] == code
    assert {line["verdict"] for line in coordinator.noted()} == {"not enrolled" if who == "stranger" else who}


def test_an_active_node_is_let_in(coordinator: Coordinator) -> None:
    """A control: Flower itself answers that this node has not activated, or does not understand the empty body."""
    status, said = coordinator.call(PULL, coordinator.signed("active"))
    assert b"not served" not in said
    assert b"not enrolled" not in said
    assert status != 403


@pytest.mark.parametrize(
    "change",
    [
        {"flwr-signature": b"AAAA"},
        {"flwr-public-key": b"%%%"},
        {"flwr-timestamp": b"yesterday"},
        {"flwr-timestamp": b"2026-01-01T00:00:00"},
        {"flwr-timestamp": b"\xff\xfe"},
        {"flwr-public-key": b"A" * 100_000},
    ],
    ids=["signature", "key", "time", "no zone", "not text", "long key"],
)
def test_headers_that_are_not_a_nodes_are_refused(coordinator: Coordinator, change: dict[str, bytes]) -> None:
    assert coordinator.call(PULL, coordinator.signed("active") | change)[0] == 401


def test_a_stolen_public_key_with_another_keys_signature_is_refused_like_any_wrong_signature(
    coordinator: Coordinator,
) -> None:
    """Whose key it is, and whether it is enrolled, is not told to somebody who does not hold it."""
    thief = coordinator.signed("stranger")
    stolen = {**thief, "flwr-public-key": coordinator.signed("active")["flwr-public-key"]}
    unknown = {**thief, "flwr-signature": coordinator.signed("active")["flwr-signature"]}
    assert coordinator.call(PULL, stolen) == coordinator.call(PULL, unknown)


def test_headers_recorded_earlier_are_worth_nothing_after_five_minutes(coordinator: Coordinator) -> None:
    status, said = coordinator.call(PULL, coordinator.signed("active", timedelta(minutes=6)))
    assert (status, b"clock" in said) == (401, True)


@pytest.mark.parametrize("claimed", [b"99999999999", b"-1", b"1e9", b"0x10", b"", b"\xd9\xa1"])
def test_a_claimed_size_that_is_too_large_or_none_is_refused_unread(coordinator: Coordinator, claimed: bytes) -> None:
    headers = {**coordinator.signed("active"), "content-length": claimed}
    assert coordinator.call(PULL, headers, lambda _: pytest.fail("a body was read"))[0] == 413


def test_a_body_that_grows_beyond_the_limit_is_cut_off(coordinator: Coordinator) -> None:
    read: list[int] = []

    def more(piece: int) -> bytes:
        read.append(piece)
        return bytes(1 << 19)

    assert coordinator.call(PULL, coordinator.signed("active"), more, pieces=1000)[0] == 413
    assert read == [1, 2, 3], "1 MiB is the limit of this coordinator"


def test_slow_bodies_are_ended(coordinator: Coordinator) -> None:
    began, who = time.monotonic(), coordinator.signed("active")
    assert coordinator.call(PULL, who, lambda piece: b"x" * (piece == 1), pieces=10**7)[0] == 408, "drops without end"
    assert coordinator.call(PULL, who, pieces=0)[0] == 408, "nothing ever comes"
    assert time.monotonic() - began < 5
    assert [line["verdict"] for line in coordinator.noted()] == ["body too slow"] * 2


def test_a_compressed_body_reaches_flower_as_it_is_and_is_no_message(coordinator: Coordinator) -> None:
    bomb = gzip.compress(bytes(200 << 20))
    assert len(bomb) < 1 << 20
    headers = {**coordinator.signed("active"), "content-encoding": b"gzip"}
    began, before = time.monotonic(), _resident()
    status, _ = coordinator.call(PULL, headers, lambda _: bomb)
    assert 400 <= status < 500
    assert _resident() - before < 50 << 20
    assert time.monotonic() - began < 5


def _resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


def test_a_flood_is_counted_and_not_written(coordinator: Coordinator) -> None:
    for _ in range(3 * A_MINUTE):
        coordinator.call("/admin")
    assert len(coordinator.noted()) <= 2 * A_MINUTE, "two minutes at most were begun"
    assert coordinator.call(LIST, {"authorization": b"Bearer x"}, local=True)[0] == 403
    line = coordinator.noted()[-1]
    assert line["api"] == "control", "control calls are always written"
    assert line["not_written"] > 0


def test_a_roster_that_somebody_changed_on_the_disk_lets_nobody_in(tmp_path: Path) -> None:
    coordinator = Coordinator(tmp_path)
    path = coordinator.federation.path / "roster.json"
    path.write_bytes(path.read_bytes().replace(b'"suspended"', b'"activated"').replace(b"active", b"actvie"))
    for who in ("active", "suspended"):
        assert coordinator.call(PULL, coordinator.signed(who))[0] == 401


def test_only_loopback_is_asked_for_control() -> None:
    """The local gate has no address of its own to be reached at from outside."""
    assert socket.inet_aton(LOOPBACK)[0] == 127
