"""The relay: a Flower ClientApp that carries requests to a site and replies back, and knows nothing else.

Promises
- It imports neither torch nor the store and holds no key: Flower starts it anew for every message and could be made to
  start something else in its place, so it must be worth nothing to a thief.
- Every message is answered: with the site's reply, or with a ``Refusal`` when the message cannot be understood or the
  site cannot be reached.

- No call lasts for ever: where the custodian does not answer in time, the relay says so and ends.

In production the site behind it is the custodian's socket (``client.custodian``).
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from flwr.app import Context, Message
from flwr.clientapp import ClientApp

from client.custodian.caller import ask
from shared.errors import ConsiliumError, SiteDataError
from shared.message_bytes import reply_to_bytes
from shared.messages import Refusal
from shared.parcels import Parcel
from shared.wire import parcel_from_record, parcel_to_record

SOCKET, TOKEN, DEADLINE = "custodian", "token", "deadline-s"
"""What the node's configuration names: the custodian's socket, the file of its token, and how long to wait for it."""
LONGEST_S = 6 * 3600.0

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
    plain = (relay.query(), relay.train(), relay.evaluate())
    named = (relay.train("personalise"), relay.query("share"), relay.evaluate("cross"), relay.query("sum"))
    for register in (*plain, *named):
        register(carry)
    return relay


def from_custodian(context: Context, parcel: Parcel) -> Parcel:
    """The answer of the custodian whose socket the node's configuration names."""
    said = context.node_config
    missing = [name for name in (SOCKET, TOKEN) if not isinstance(said.get(name), str)]
    if missing:
        raise SiteDataError(
            f"this node's configuration names no {missing[0]}",
            hint="start the site with consilium-site start",
            code="no-custodian",
        )
    deadline_s = said.get(DEADLINE, LONGEST_S)
    assert isinstance(deadline_s, int | float | str)  # noqa: S101 - Flower's own types
    return ask(Path(str(said[SOCKET])), Path(str(said[TOKEN])), parcel, float(deadline_s))


app = make_app(from_custodian)
