"""How the relay reaches the custodian: one call, one deadline, and a typed reason where there is no answer.

Promises
- A call ends: with the custodian's parcel, or with an error whose code says why there is none.
- Neither torch nor the store is imported for it, and no key of the site is read: the token opens the socket and nothing
  else.
"""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc

from client.custodian.pieces import cut, joined
from shared.crypto.key_files import secret_from_hex
from shared.errors import SiteDataError
from shared.parcels import Parcel

NAME = "consilium.Custodian"
TOKEN = "consilium-token"  # noqa: S105 - the name of a header
MOST_BYTES = 1 << 31

_REASONS = {
    grpc.StatusCode.UNAVAILABLE: ("custodian-unreachable", "this site's custodian does not answer"),
    grpc.StatusCode.DEADLINE_EXCEEDED: ("custodian-deadline", "this site's custodian did not answer in time"),
    grpc.StatusCode.UNAUTHENTICATED: ("custodian-token", "this site's custodian does not accept the relay's token"),
    grpc.StatusCode.CANCELLED: ("custodian-gone", "this site's custodian went away while it was asked"),
}


def ask(socket: Path, token: Path, parcel: Parcel, deadline_s: float) -> Parcel:
    """The custodian's answer to ``parcel``; raises ``SiteDataError``."""
    with _channel(socket) as channel:
        call: grpc.StreamStreamMultiCallable[bytes, bytes] = channel.stream_stream(f"/{NAME}/Ask")
        with _reasons():
            pieces = call(cut(parcel), timeout=deadline_s, metadata=_known(token))
            return joined(pieces, MOST_BYTES)


def status(socket: Path, token: Path, deadline_s: float = 5.0) -> dict[str, Any]:
    """What the custodian says of itself; raises ``SiteDataError``."""
    with _channel(socket) as channel, _reasons():
        call: grpc.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(f"/{NAME}/Status")
        said = call(b"", timeout=deadline_s, metadata=_known(token))
    found: dict[str, Any] = json.loads(said)
    return found


@contextmanager
def _channel(socket: Path) -> Iterator[grpc.Channel]:
    options = [("grpc.enable_http_proxy", 0), ("grpc.max_reconnect_backoff_ms", 1000)]
    channel = grpc.insecure_channel(f"unix:{socket}", options=options)
    try:
        yield channel
    finally:
        channel.close()


@contextmanager
def _reasons() -> Iterator[None]:
    try:
        yield
    except grpc.RpcError as error:
        code, sentence = _REASONS.get(
            error.code(), ("custodian-failed", f"this site's custodian failed ({error.code().name.lower()})")
        )
        hint = "hospital IT sees why: consilium-site status"
        raise SiteDataError(sentence, hint=hint, code=code) from None


def _known(token: Path) -> tuple[tuple[str, str], ...]:
    return ((TOKEN, read_token(token)),)


def read_token(path: Path) -> str:
    """64 hexadecimal digits, from a file that its owner and its group may read and nobody else; ``SiteDataError``."""
    try:
        with path.open("rb") as file:
            mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
            content = file.read(100).decode("ascii", "replace")
    except OSError as error:
        raise SiteDataError(
            f"the custodian's token cannot be read: {error.strerror}",
            hint="the relay's user must be in the group of the site's run folder",
            code="custodian-token",
        ) from None
    if mode & (stat.S_IRWXO | stat.S_IWGRP):
        raise SiteDataError(
            f"the custodian's token is open to others (mode {mode:04o})",
            hint="start the custodian again: it makes a new one",
            code="custodian-token",
        )
    return secret_from_hex(content, "the custodian's token").hex()
