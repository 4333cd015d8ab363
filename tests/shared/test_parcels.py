"""Parcels: a signature holds for one body, one site, one order and one question, and for nothing else."""

import dataclasses

import pytest

from shared.crypto.signing import SigningKey
from shared.errors import ProtocolError
from shared.parcels import Body, Parcel, digest, require_reply, require_request, signed_reply, signed_request

RUN_KEY, IDENTITY, STRANGER = (SigningKey.generate() for _ in range(3))
BODY = Body.of(b"a request")
ASKED = signed_request(BODY, "drive", b"an order", RUN_KEY)
ANSWERED = signed_reply(b"a reply", "drive", BODY.sha256, IDENTITY)


def test_a_signed_request_is_accepted_by_its_site() -> None:
    require_request(ASKED, RUN_KEY.verify_key, "drive")


def test_a_request_to_anybody_is_accepted_by_every_site() -> None:
    hello = signed_request(BODY, "", b"an order", RUN_KEY)
    require_request(hello, RUN_KEY.verify_key, "drive")
    require_request(hello, RUN_KEY.verify_key, "stare")


def test_a_request_to_another_site_is_refused_by_name() -> None:
    with pytest.raises(ProtocolError) as caught:
        require_request(ASKED, RUN_KEY.verify_key, "stare")
    assert caught.value.code == "site"


@pytest.mark.parametrize(
    "change", [{"site": ""}, {"body": b"a requesT"}, {"order": b"another"}, {"signature": b""}], ids=str
)
def test_a_changed_request_is_refused(change: dict[str, object]) -> None:
    parcel = dataclasses.replace(ASKED, **change)  # type: ignore[arg-type]
    with pytest.raises(ProtocolError) as caught:
        require_request(parcel, RUN_KEY.verify_key, "drive")
    assert caught.value.code == "signature-invalid"


def test_a_request_signed_by_somebody_else_is_refused() -> None:
    with pytest.raises(ProtocolError):
        require_request(signed_request(BODY, "drive", b"an order", STRANGER), RUN_KEY.verify_key, "drive")


def test_a_signed_reply_is_accepted_for_its_question() -> None:
    require_reply(ANSWERED, BODY.sha256, IDENTITY.verify_key)


def test_a_reply_to_another_question_is_refused() -> None:
    """What a site said in an earlier round cannot be said again in a later one."""
    with pytest.raises(ProtocolError):
        require_reply(ANSWERED, digest(b"the next round"), IDENTITY.verify_key)


@pytest.mark.parametrize("change", [{"site": "stare"}, {"body": b"another"}, {"signature": bytes(64)}], ids=str)
def test_a_changed_reply_is_refused(change: dict[str, object]) -> None:
    with pytest.raises(ProtocolError):
        require_reply(dataclasses.replace(ANSWERED, **change), BODY.sha256, IDENTITY.verify_key)  # type: ignore[arg-type]


def test_a_signature_over_a_request_is_none_over_a_reply() -> None:
    """Were the kinds not apart, a key that signs both could be made to say one by the other."""
    both = signed_request(BODY, "drive", b"", IDENTITY)
    with pytest.raises(ProtocolError):
        require_reply(Parcel("drive", BODY.content, both.signature), BODY.sha256, IDENTITY.verify_key)


def test_nothing_of_a_body_is_shown() -> None:
    assert "reply" not in repr(ANSWERED)
    assert "request" not in repr(BODY)
