"""How a SuperNode's end is understood."""

from __future__ import annotations

import httpx
import pytest
from flwr.supercore.error import ApiErrorCode

from client.link_watch import SESSION_OPEN, Ending, Watch, _detail
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
        "_ssl.c:989: The handshake operation timed out",
        "[Errno 104] Connection reset by peer",
    ],
    ids=["eof", "timeout", "reset"],
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
