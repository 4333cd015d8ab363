"""The relay: a Flower ClientApp that carries requests to a site and replies back, and knows nothing else.

Promises
- It imports neither torch nor the store and holds no key: Flower starts it anew for every message and could be made to
  start something else in its place, so it must be worth nothing to a thief.
- Every message is answered: with the site's reply, or with a ``Refusal`` when the message cannot be understood or the
  site cannot be reached.

In production the site behind it is the custodian's socket; until that exists, the installed app refuses by name.
"""

from __future__ import annotations

from collections.abc import Callable

from flwr.app import Context, Message
from flwr.clientapp import ClientApp

from shared.errors import ConsiliumError, SiteDataError
from shared.message_bytes import reply_to_bytes
from shared.messages import Refusal
from shared.parcels import Parcel
from shared.wire import parcel_from_record, parcel_to_record

Answer = Callable[[Context, Parcel], Parcel]
"""(context, request) -> the site's reply."""


def make_app(answer: Answer) -> ClientApp:
    """A ClientApp that serves every kind of request with ``answer``."""

    def carry(message: Message, context: Context) -> Message:
        try:
            reply = answer(context, parcel_from_record(message.content))
        except ConsiliumError as error:
            reply = Parcel("", reply_to_bytes(Refusal(error.code, error.sentence, error.hint)))
        return Message(parcel_to_record(reply), reply_to=message)

    relay = ClientApp()
    for register in (relay.query(), relay.train(), relay.evaluate(), relay.train("personalise")):
        register(carry)
    return relay


def _no_custodian(_context: Context, _request: Parcel) -> Parcel:
    raise SiteDataError(
        "this site has no custodian that could answer",
        hint="this version federates in simulation only: consilium-sim run SCENARIO",
        code="no-custodian",
    )


app = make_app(_no_custodian)
