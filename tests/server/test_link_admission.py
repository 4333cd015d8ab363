"""Who is let in: key, signature, clock, standing."""

from __future__ import annotations

from base64 import b64encode
from datetime import UTC, datetime, timedelta, timezone

import pytest
from flwr.common.constant import SYSTEM_TIME_TOLERANCE, TIMESTAMP_HEADER, TIMESTAMP_TOLERANCE
from flwr.supercore.constant import FLEET_HTTP_PUBLIC_KEY_HEADER, FLEET_HTTP_SIGNATURE_HEADER
from flwr.supercore.primitives.asymmetric import public_key_to_bytes, sign_message

from server.link import admission
from server.link.gate import Headers, Refused
from server.link.standing import Standing
from shared import link
from shared.crypto import node_keys

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
KEY, OTHER = node_keys.generate(), node_keys.generate()
PULL, ACTIVATE = "/v1/fleet/pull-messages", "/v1/fleet/activate-node"


class Door:
    """An admission with one active and one suspended site."""

    def __init__(self, standing: Standing | None = None) -> None:
        self.registered: list[tuple[str, str]] = []
        self.judged: list[str] = []
        self._standing = standing or Standing("active", "alpha")
        self.admit = admission.admission(
            self._judge, lambda key, site: self.registered.append((key, site)), lambda: NOW
        )

    def _judge(self, key: str) -> Standing:
        self.judged.append(key)
        return self._standing if key == node_keys.public_pem(KEY) else Standing("unknown")


def headers(at: datetime | str = NOW, key: node_keys.PrivateKey = KEY, by: node_keys.PrivateKey = KEY) -> Headers:
    """As Flower's SuperNode sends them, made with Flower's own functions."""
    said = at if isinstance(at, str) else at.isoformat()
    signature = sign_message(by, said.encode("ascii"))
    return [
        (FLEET_HTTP_PUBLIC_KEY_HEADER.encode(), b64encode(public_key_to_bytes(key.public_key()))),
        (TIMESTAMP_HEADER.encode(), said.encode("ascii")),
        (FLEET_HTTP_SIGNATURE_HEADER.encode(), b64encode(signature)),
        (b"accept", b"*/*"),
    ]


def refusal(found: Refused | None) -> tuple[int, str, int]:
    assert found is not None
    return found.status, found.reason, found.code


def test_an_active_site_is_let_in_by_what_flower_signs() -> None:
    door = Door()
    assert door.admit(PULL, headers()) is None
    assert door.registered == []


def test_a_site_that_connects_is_made_known_to_flower_under_its_name() -> None:
    door = Door()
    assert door.admit(ACTIVATE, headers()) is None
    assert door.registered == [(node_keys.public_pem(KEY), "alpha")]


def test_a_suspended_site_is_told_so_and_stays_unknown_to_flower() -> None:
    door = Door(Standing("suspended", "alpha"))
    assert refusal(door.admit(ACTIVATE, headers())) == (412, "suspended", link.SUSPENDED)
    assert refusal(door.admit(PULL, headers())) == (401, "suspended", link.SUSPENDED)
    assert door.registered == []


def test_a_stranger_is_told_that_it_is_not_enrolled() -> None:
    door = Door()
    assert refusal(door.admit(ACTIVATE, headers(key=OTHER, by=OTHER))) == (412, "not enrolled", link.NOT_ENROLLED)


def test_who_signs_with_another_key_learns_nothing_about_the_one_it_shows() -> None:
    door = Door()
    assert refusal(door.admit(ACTIVATE, headers(by=OTHER))) == (401, "wrong signature", 0)
    assert door.judged == []


@pytest.mark.parametrize("seconds", [-5, -60, -3600, 300, 3600])
def test_a_clock_that_is_off_is_told_by_how_much(seconds: int) -> None:
    found = Door().admit(ACTIVATE, headers(NOW - timedelta(seconds=seconds)))
    assert refusal(found) == (412, "clock", link.CLOCK)
    assert found is not None
    assert f"{seconds} s behind" in found.detail


@pytest.mark.parametrize("seconds", [-4, 0, 60, 299])
def test_a_clock_that_is_nearly_right_is_right(seconds: int) -> None:
    assert Door().admit(PULL, headers(NOW - timedelta(seconds=seconds))) is None


def test_another_time_zone_is_the_same_time() -> None:
    assert Door().admit(PULL, headers(NOW.astimezone(timezone(timedelta(hours=5, minutes=30))))) is None


def test_a_time_without_a_zone_is_no_time() -> None:
    assert refusal(Door().admit(PULL, headers(NOW.replace(tzinfo=None))))[0] == 401


def test_what_we_allow_is_not_more_than_what_flower_allows() -> None:
    assert timedelta(seconds=TIMESTAMP_TOLERANCE + SYSTEM_TIME_TOLERANCE) >= admission.SLOW
    assert timedelta(seconds=-SYSTEM_TIME_TOLERANCE) <= admission.FAST


def test_the_headers_are_those_of_flower() -> None:
    assert (link.PUBLIC_KEY_HEADER, link.SIGNATURE_HEADER, link.TIMESTAMP_HEADER) == (
        FLEET_HTTP_PUBLIC_KEY_HEADER,
        FLEET_HTTP_SIGNATURE_HEADER,
        TIMESTAMP_HEADER,
    )


@pytest.mark.parametrize("left_out", [0, 1, 2])
def test_without_one_of_the_headers_nobody_is_heard(left_out: int) -> None:
    given = [pair for place, pair in enumerate(headers()) if place != left_out]
    assert refusal(Door().admit(PULL, given)) == (401, "no node's signature", 0)


@pytest.mark.parametrize("doubled", [0, 1, 2])
def test_a_header_that_is_there_twice_is_refused_although_flower_would_take_the_first(doubled: int) -> None:
    given = [*headers(), headers(key=OTHER, by=OTHER)[doubled]]
    assert refusal(Door().admit(PULL, given)) == (401, "no node's signature", 0)


@pytest.mark.parametrize("place", [0, 1, 2])
@pytest.mark.parametrize("value", [b"", b"!!", b"\xff\xfe", b"A" * 100_000], ids=["empty", "marks", "bytes", "long"])
def test_nonsense_in_a_header_is_refused_quietly(place: int, value: bytes) -> None:
    given = list(headers())
    given[place] = (given[place][0], value)
    assert refusal(Door().admit(PULL, given))[0] == 401
