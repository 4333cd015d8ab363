"""The custodian's socket: who may knock, one job at a time, and an end to everything.

Promises
- Only a process that can open the socket (mode 0660: the site's user, and the relay's by their group) and knows the
  token is heard; tokens are compared in constant time.
- One parcel is worked on at a time. ``WAITING`` more may wait; whoever comes later is told so at once ("busy"), and who
  waits longer than they have said is told that ("deadline"). A caller who hangs up while waiting is forgotten.
- A job that takes longer than its limit, or whose approval was withdrawn meanwhile, ends with the process: nothing of
  it leaves, the ledger keeps what was reserved, and the supervisor starts another custodian.
- ``status`` is answered while a job runs.
- An error that nobody foresaw is told by its type and place to this process's own log, without its text; a relay that
  made it happen reads no word of it.
- Nothing is decompressed: a message that says it is packed is refused before it is looked at.

What a parcel gets is ``client.custodian.desk``'s.
"""

from __future__ import annotations

import hmac
import json
import logging
import os
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from concurrent.futures import TimeoutError as TookTooLong
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import grpc

from client.custodian.caller import MOST_BYTES, NAME, TOKEN
from client.custodian.pieces import cut, joined
from shared.errors import CapacityError, ConsiliumError, SiteDataError
from shared.message_bytes import reply_to_bytes
from shared.messages import Refusal
from shared.parcels import Parcel

WAITING = 8
STOPPED = 75
"""Exit code of a custodian that ended a job by ending itself (EX_TEMPFAIL: try again)."""

_LONGEST_PATH = 107
_UNPACKED = 1
"""gRPC's bit set of compressions with "identity" alone."""
_log = logging.getLogger(__name__)
_TICK_S = 0.5


@dataclass(frozen=True)
class Limits:
    """How much, and how long.

    Attributes:
        job_s: a job that takes longer is hung.
        most_bytes: of a message.
    """

    job_s: float = 6 * 3600.0
    most_bytes: int = MOST_BYTES


@dataclass
class Bench:
    """What is being worked on; seen by the watchdog and by whoever asks for the status."""

    since: float | None = None
    waiting: int = 0
    answered: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)

    @contextmanager
    def queued(self) -> Iterator[None]:
        """Stand in line; raises ``CapacityError`` where it is full."""
        with self.lock:
            if self.waiting > WAITING:
                raise CapacityError(
                    f"{self.waiting} requests wait at this site already", hint="ask again later", code="busy"
                )
            self.waiting += 1
        try:
            yield
        finally:
            with self.lock:
                self.waiting -= 1

    @contextmanager
    def working(self) -> Iterator[None]:
        """Do the one job."""
        self.since = time.monotonic()
        try:
            yield
        finally:
            self.since = None
            self.answered += 1


@dataclass(frozen=True)
class Service:
    """Answers calls with ``answer``, one after the other.

    Attributes:
        token: what a caller must know.
        answer: parcel to parcel.
        status: what to say about this site, in JSON's types.
        limits: of messages and jobs.
    """

    token: str
    answer: Callable[[Parcel], Parcel]
    status: Callable[[], Mapping[str, Any]]
    limits: Limits = Limits()
    bench: Bench = field(default_factory=Bench)
    _worker: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(1, "custodian"))

    def handlers(self) -> grpc.GenericRpcHandler:
        """The methods of the service, in bytes."""
        methods: dict[str, grpc.RpcMethodHandler[bytes, bytes]] = {
            "Ask": grpc.stream_stream_rpc_method_handler(self._ask),
            "Status": grpc.unary_unary_rpc_method_handler(self._status),
        }
        return grpc.method_handlers_generic_handler(NAME, methods)

    def _ask(self, pieces: Iterator[bytes], context: grpc.ServicerContext) -> Iterator[bytes]:
        self._require_token(context)
        try:
            parcel = joined(pieces, self.limits.most_bytes)
            with self.bench.queued():
                reply = self._served(parcel, context)
        except ConsiliumError as error:
            reply = Parcel("", reply_to_bytes(Refusal(error.code, error.sentence, error.hint)))
        except grpc.RpcError:
            raise
        except Exception as error:  # noqa: BLE001 - gRPC would send its text to the relay
            where = "".join(traceback.format_tb(error.__traceback__))
            _log.error("a request could not be answered: %s\n%s", type(error).__name__, where)
            context.abort(grpc.StatusCode.INTERNAL, "the custodian failed")
        yield from cut(reply)

    def _served(self, parcel: Parcel, context: grpc.ServicerContext) -> Parcel:
        """Wait for the worker as long as the caller does."""
        job: Future[Parcel] = self._worker.submit(self._job, parcel, context)
        context.add_callback(partial(_forget, job))
        try:
            return job.result(context.time_remaining())
        except (TookTooLong, CancelledError):
            job.cancel()
            raise CapacityError(
                "this site did not answer within the time that the request has", code="deadline"
            ) from None

    def _job(self, parcel: Parcel, context: grpc.ServicerContext) -> Parcel:
        if not context.is_active():
            raise CapacityError("nobody waits for this any more", code="deadline")
        with self.bench.working():
            return self.answer(parcel)

    def _status(self, _request: bytes, context: grpc.ServicerContext) -> bytes:
        self._require_token(context)
        bench = self.bench
        busy = None if bench.since is None else round(time.monotonic() - bench.since, 1)
        said = {"busy_s": busy, "waiting": bench.waiting, "answered": bench.answered}
        return json.dumps({**said, **self.status()}, sort_keys=True).encode()

    def _require_token(self, context: grpc.ServicerContext) -> None:
        said = dict(context.invocation_metadata()).get(TOKEN, "")
        if not hmac.compare_digest(str(said).encode(), self.token.encode()):
            context.abort(grpc.StatusCode.UNAUTHENTICATED, "the token is not this custodian's")


def _forget(job: Future[Parcel]) -> None:
    job.cancel()


def listen(service: Service, socket: Path) -> grpc.Server:
    """Answer at ``socket``, which is made anew; raises ``SiteDataError`` where that is impossible.

    The folder around it must be closed to others: the socket has its mode only a moment after it is there.
    """
    if len(os.fsencode(socket)) > _LONGEST_PATH:
        raise SiteDataError(
            f"the path of the socket has {len(os.fsencode(socket))} bytes, the system allows {_LONGEST_PATH}",
            hint="move the site folder to a shorter path",
            code="socket",
        )
    socket.unlink(missing_ok=True)
    options = [("grpc.so_reuseport", 0), ("grpc.compression_enabled_algorithms_bitset", _UNPACKED)]
    server = grpc.server(ThreadPoolExecutor(WAITING + 4, "calls"), options=options)
    server.add_generic_rpc_handlers((service.handlers(),))
    server.add_insecure_port(f"unix:{socket}")
    server.start()
    socket.chmod(0o660)
    return server


def repeat(work: Callable[[], None], every_s: float, over: threading.Event) -> threading.Thread:
    """Do ``work`` again and again until it is ``over``, beside what else this process does."""

    def go() -> None:
        while not over.wait(every_s):
            work()

    thread = threading.Thread(target=go, name="repeat", daemon=True)
    thread.start()
    return thread


def watch(service: Service, unwanted: Callable[[], bool], end: Callable[[], None]) -> threading.Thread:
    """Call ``end`` when a job hangs or is ``unwanted``: the one way to stop a computation at once."""

    def look() -> None:
        while True:
            time.sleep(_TICK_S)
            since = service.bench.since
            if since is not None and (time.monotonic() - since > service.limits.job_s or unwanted()):
                end()

    thread = threading.Thread(target=look, name="watchdog", daemon=True)
    thread.start()
    return thread
