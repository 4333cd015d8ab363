"""What became of the link to the coordinator, read off what Flower's SuperNode does, which tells nobody.

Promises
- Every way in which a SuperNode ends has a status that says what to do about it (``Ending``).
- Nothing is guessed from Flower's exit status: it is 1 for every failure, and 0 after some (1.41).
- A link that broke is tried again within ``LONGEST_PAUSE_S``, also where it broke during a handshake; Flower would wait
  up to 20 s, and end at the handshake, with the replies that it still had to send. So is the sign of life without which
  the coordinator sends a node nothing.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Generator
from enum import IntEnum
from typing import Any, NoReturn

import httpx
from flwr.supercore.heartbeat import HeartbeatSender
from flwr.supercore.protobuf.client import ProtobufCall, ProtobufRequestContext
from flwr.supercore.retry import RetryInvoker, exponential, make_simple_http_retry_invoker
from flwr.supernode import fleet_http_connection
from flwr.supernode.node_auth_http_interceptor import NodeAuthHttpInterceptor

from shared.link import CLOCK, NOT_ENROLLED, SUSPENDED

SESSION_OPEN = 2004
"""Flower's code where the node's old session has not ended yet (its exit code is 305)."""
LONGEST_PAUSE_S = 5
"""Between two attempts to reach the coordinator."""


class Ending(IntEnum):
    """Exit status of ``client.supernode``, after sysexits.h."""

    STOPPED = 0
    """It was asked to."""
    FAILED = 1
    """Settings, keys or the folder are wrong: somebody has to mend this machine."""
    USAGE = 2
    """The command line is wrong."""
    TRY_AGAIN = 75
    """The coordinator is away, or the old session is still open: start again after a while."""
    CERTIFICATE = 76
    """The coordinator's certificate is not what was pinned, has expired, or somebody inspects the traffic."""
    NOT_ADMITTED = 77
    """The coordinator does not let this node in: not enrolled, suspended, or its clock is wrong."""


_CODE = re.compile(r"\[code: (\d+)\]")
_BROKEN = ("eof occurred", "unexpected_eof", "(eof)", "reset by peer", "timed out", "broken pipe")
"""How OpenSSL and the system name a handshake that was cut off: a cable, and no certificate."""
_ADVICE = {
    Ending.TRY_AGAIN: "start again after some seconds",
    Ending.CERTIFICATE: "consilium-site doctor tells an expired certificate from inspected traffic",
    Ending.NOT_ADMITTED: "ask the consortium lead, and compare the clocks",
}


class Watch:
    """Follows one SuperNode. ``ending`` and ``sentence`` are what it came to."""

    def __init__(self) -> None:
        self.ending = Ending.TRY_AGAIN
        self.sentence = "the connection to the coordinator has ended"

    @property
    def hint(self) -> str:
        """What to do."""
        return _ADVICE.get(self.ending, "")

    def install(self) -> None:
        """Follow Flower's connection in this process."""
        watch = self
        flower: Any = fleet_http_connection

        class Watched(NodeAuthHttpInterceptor):
            """Signs each request, and looks at the answer."""

            def intercept(self, context: ProtobufRequestContext, call_next: ProtobufCall) -> httpx.Response:
                """As Flower does, with an eye on refusals."""
                response = super().intercept(context, call_next)
                if response.status_code == httpx.codes.UNAUTHORIZED:
                    watch.turned_away(_detail(response))
                return response

        def leave(_code: int, message: str = "", **_rest: object) -> NoReturn:
            watch.not_connected(message)
            raise SystemExit(1)

        flower.NodeAuthHttpInterceptor = Watched
        flower.flwr_exit = leave

    def turned_away(self, detail: str) -> None:
        """The coordinator no longer knows this node."""
        self.ending, self.sentence = Ending.NOT_ADMITTED, f"the coordinator turned this node away: {detail}"

    def not_connected(self, message: str) -> None:
        """No session could be opened; ``message`` is Flower's."""
        code = int(found[1]) if (found := _CODE.search(message)) else 0
        said = " ".join(message.split("]", 1)[-1].split())[:200]
        if code in {NOT_ENROLLED, SUSPENDED, CLOCK}:
            self.turned_away(said)
        elif code == SESSION_OPEN:
            self.sentence = "the coordinator still holds this node's last session open (Flower 305)"
        elif _broke(message):
            self.sentence = "the connection to the coordinator broke while it was opened"
        elif any(word in message.lower() for word in ("certificate", "ssl", "tls")):
            self.ending, self.sentence = Ending.CERTIFICATE, "the coordinator's certificate does not verify"
        else:
            self.sentence = f"no session could be opened: {said}"

    def stopped(self) -> None:
        """Somebody asked this process to end."""
        if self.ending is not Ending.NOT_ADMITTED:
            self.ending, self.sentence = Ending.STOPPED, "stopped"


def try_soon() -> None:
    """Make Flower's connection in this process as patient as the promise above says, and no more."""
    flower: Any = fleet_http_connection
    flower.make_simple_http_retry_invoker = _retrying
    flower.HeartbeatSender = _beating


def _retrying() -> RetryInvoker:
    invoker = make_simple_http_retry_invoker()
    flowers = invoker.should_giveup

    def gives_up(error: Exception) -> bool:
        # Flower takes every error of OpenSSL for a certificate's.
        if isinstance(error, httpx.TransportError) and _broke(str(error)):
            return False
        return flowers is not None and flowers(error)

    invoker.wait_gen_factory, invoker.should_giveup = _pauses, gives_up
    return invoker


def _beating(beat: Callable[[], bool]) -> HeartbeatSender:
    sender = HeartbeatSender(beat)
    flower: Any = sender
    flower._retry_invoker.wait_gen_factory = _pauses  # noqa: SLF001 - it can be told nowhere else
    return sender


def _pauses() -> Generator[float, None, None]:
    return exponential(max_delay=LONGEST_PAUSE_S)


def _broke(message: str) -> bool:
    return any(word in message.lower() for word in _BROKEN)


def _detail(response: httpx.Response) -> str:
    try:
        return str(response.json()["detail"])[:200]
    except (ValueError, KeyError, TypeError, httpx.HTTPError):
        return "no reason was given"
