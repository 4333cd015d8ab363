"""The post: only an enrolled site's signature over this very question makes a reply that site's."""

import numpy as np
import pytest

from server.post import Plain, Signed
from shared.crypto.signing import SigningKey
from shared.message_bytes import reply_to_bytes
from shared.messages import Measured, Refusal, Reply, Welcome
from shared.parcels import Body, Parcel, require_request, signed_reply

IDENTITY, RUN_KEY, STRANGER = (SigningKey.generate() for _ in range(3))
POST = Signed(b"an order", RUN_KEY, {"drive": IDENTITY.verify_key})
ASKED = Body.of(b"a question")
WELCOME = Welcome((("torch", "2"),), 3)


def answered(reply: Reply, site: str = "drive", asked: Body = ASKED, key: SigningKey = IDENTITY) -> Parcel:
    return signed_reply(reply_to_bytes(reply), site, asked.sha256, key)


def code(parcel: Parcel) -> str:
    site, reply = POST.open(parcel, ASKED)
    assert site == ""
    assert isinstance(reply, Refusal)
    return reply.code


def test_a_request_carries_the_order_and_a_signature_for_its_site() -> None:
    parcel = POST.seal(ASKED, "drive")
    require_request(parcel, RUN_KEY.verify_key, "drive")
    assert parcel.order == b"an order"


def test_a_signed_reply_of_an_enrolled_site_counts() -> None:
    assert POST.open(answered(WELCOME), ASKED) == ("drive", WELCOME)


def test_a_site_that_is_not_in_the_roster_is_refused() -> None:
    assert code(answered(WELCOME, site="stare")) == "not-enrolled"


def test_a_node_that_lacks_the_site_s_key_is_refused() -> None:
    """A stolen transport key is worth nothing without the site's identity."""
    assert code(answered(WELCOME, key=STRANGER)) == "signature-invalid"


def test_an_answer_to_an_earlier_question_is_refused() -> None:
    assert code(answered(WELCOME, asked=Body.of(b"round 1"))) == "signature-invalid"


def test_an_unsigned_refusal_is_heard_and_names_no_site() -> None:
    refusal = Refusal("no-custodian", "the site's custodian does not answer")
    assert POST.open(Parcel("drive", reply_to_bytes(refusal)), ASKED) == ("", refusal)


@pytest.mark.parametrize("reply", [WELCOME, Measured(np.arange(3), "s")], ids=["welcome", "measured"])
def test_unsigned_good_news_is_refused(reply: Reply) -> None:
    assert code(Parcel("drive", reply_to_bytes(reply))) == "unsigned"


def test_a_signed_reply_that_cannot_be_read_is_a_refusal() -> None:
    assert code(signed_reply(b"garbage", "drive", ASKED.sha256, IDENTITY)) == "format"


def test_in_a_simulation_nothing_is_signed_and_everything_is_read() -> None:
    parcel = Plain().seal(ASKED, "drive")
    assert (parcel.signature, parcel.order) == (b"", b"")
    assert Plain().open(Parcel("stare", reply_to_bytes(WELCOME)), ASKED) == ("stare", WELCOME)
