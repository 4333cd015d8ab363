"""The relay carries and knows nothing: every message is answered, whatever it holds."""

from typing import get_args

import numpy as np
import pytest
from flwr.app import ConfigRecord, Context, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.supercore.task_identity import TaskIdentity

from client import app
from server.app import _KINDS
from shared.errors import SiteDataError
from shared.message_bytes import reply_from_bytes, reply_to_bytes, request_from_bytes, request_to_bytes
from shared.messages import (
    Confirm,
    Cross,
    Deal,
    Envelope,
    Evaluate,
    Hello,
    Mask,
    Measured,
    Personalise,
    Refusal,
    Reply,
    Request,
    Share,
    Train,
    Unmask,
)
from shared.parcels import Parcel
from shared.wire import parcel_from_record, parcel_to_record

ENVELOPE = Envelope("run-1", "ab" * 32, 1)
WEIGHTS = np.ones(3, np.float32)
REQUESTS: list[Request] = [
    Hello(ENVELOPE),
    Train(ENVELOPE, WEIGHTS),
    Evaluate(ENVELOPE, WEIGHTS, "test"),
    Personalise(ENVELOPE, WEIGHTS, "test"),
    Share(ENVELOPE),
    Cross(ENVELOPE, WEIGHTS, "bergen"),
    *(step(ENVELOPE, "train", np.ones(3, np.uint8)) for step in (Deal, Mask, Confirm, Unmask)),
]


@pytest.fixture(autouse=True)
def _identity(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("run_id", "task_id", "node_id"):
        monkeypatch.setattr(TaskIdentity, f"_{name}", 1)


def send(relay: ClientApp, content: RecordDict, kind: str) -> tuple[str, Reply]:
    message = Message(content, 7, kind)
    context = Context(run_id=1, node_id=7, node_config={}, state=RecordDict(), run_config={})
    parcel = parcel_from_record(relay(message, context).content)
    return parcel.site, reply_from_bytes(parcel.body)


def record(request: Request) -> RecordDict:
    return parcel_to_record(Parcel("", request_to_bytes(request)))


def test_every_kind_of_request_has_a_flower_message_type() -> None:
    assert set(_KINDS) == set(get_args(Request)) == {type(request) for request in REQUESTS}


@pytest.mark.parametrize("request_", REQUESTS, ids=lambda r: type(r).__name__)
def test_each_request_reaches_the_site_and_its_reply_comes_back(request_: Request) -> None:
    seen: list[Request] = []

    def answer(_context: Context, parcel: Parcel) -> Parcel:
        seen.append(request_from_bytes(parcel.body))
        return Parcel("drive", reply_to_bytes(Measured(np.arange(3), "s" * 64)))

    site, reply = send(app.make_app(answer), record(request_), _KINDS[type(request_)])
    assert site == "drive"
    assert isinstance(reply, Measured)
    assert type(seen[0]) is type(request_)
    assert seen[0].envelope == ENVELOPE


def test_a_site_s_error_becomes_a_refusal() -> None:
    def answer(_context: Context, _parcel: Parcel) -> Parcel:
        raise SiteDataError("this site is empty: 0 usable cases", code="empty-site")

    _, reply = send(app.make_app(answer), record(REQUESTS[0]), "query")
    assert reply == Refusal("empty-site", "this site is empty: 0 usable cases", "")


def test_a_message_that_is_none_of_ours_is_answered_with_a_refusal() -> None:
    def answer(_context: Context, _parcel: Parcel) -> Parcel:
        raise AssertionError("must not be asked")

    _, reply = send(app.make_app(answer), RecordDict({"x": ConfigRecord({"y": 1})}), "train")
    assert isinstance(reply, Refusal)
    assert reply.code == "format"


def test_a_node_that_names_no_custodian_refuses_by_name() -> None:
    _, reply = send(app.app, record(REQUESTS[1]), "train")
    assert isinstance(reply, Refusal)
    assert reply.code == "no-custodian"
