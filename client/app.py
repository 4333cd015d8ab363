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

from shared.errors import ConsiliumError
from shared.messages import Refusal, Reply, Request
from shared.wire import reply_to_record, request_from_record

Answer = Callable[[Context, Request], tuple[str, Reply]]
"""(context, request) -> (name of the site, its reply)."""


def make_app(answer: Answer) -> ClientApp:
    """A ClientApp that serves every kind of request with ``answer``."""

    def carry(message: Message, context: Context) -> Message:
        try:
            site, reply = answer(context, request_from_record(message.content))
        except ConsiliumError as error:
            site, reply = "", Refusal(error.code, error.sentence, error.hint)
        return Message(reply_to_record(reply, site), reply_to=message)

    relay = ClientApp()
    for register in (relay.query(), relay.train(), relay.evaluate(), relay.train("personalise")):
        register(carry)
    return relay


def _no_custodian(_context: Context, _request: Request) -> tuple[str, Reply]:
    return "", Refusal(
        "no-custodian",
        "this site has no custodian that could answer",
        "this version federates in simulation only: consilium-sim run SCENARIO",
    )


app = make_app(_no_custodian)
