"""Parcels in pieces: what crosses the socket between the relay and the custodian.

::

    first piece     a line of JSON: site, signature, order, length of the body
    further ones    the body, ``PIECE`` bytes each, the last one shorter

Promises
- ``joined(cut(parcel)) == parcel``; a body of a hundred megabytes is never held twice for being cut.
- What is not of this form, or longer than the receiver says it takes, is a ``ProtocolError``, as soon as it is seen:
  nobody makes a custodian collect bytes without end.

Bodies are no protocol buffers: they are canonical bytes already, which signatures cover, and another layer could only
say the same twice.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from typing import Any

from shared.errors import ProtocolError
from shared.parcels import Parcel

PIECE = 1 << 20
LONGEST_HEAD = 1 << 16
_TEXTS = ("order", "signature", "site")


def cut(parcel: Parcel) -> Iterator[bytes]:
    """``parcel`` in pieces."""
    head = {
        "site": parcel.site,
        "signature": parcel.signature.hex(),
        "order": parcel.order.hex(),
        "length": len(parcel.body),
    }
    yield json.dumps(head, sort_keys=True).encode()
    body = memoryview(parcel.body)
    for start in range(0, len(body), PIECE):
        yield bytes(body[start : start + PIECE])


def joined(pieces: Iterable[bytes], most_bytes: int) -> Parcel:
    """Inverse of ``cut``; raises ``ProtocolError`` for another form, or a body of more than ``most_bytes``."""
    rest = iter(pieces)
    head = _head(next(rest, b""))
    length = head["length"]
    if length > most_bytes:
        raise ProtocolError(
            f"a message of {length} bytes is announced, at most {most_bytes} are taken",
            hint="raise the limit of this custodian if the model is as large as that",
            code="too-large",
        )
    # It grows with what arrives: an announcement alone takes no memory.
    body = bytearray()
    for piece in rest:
        if not piece or len(body) + len(piece) > length:
            raise _broken(f"an empty piece, or more than the {length} bytes announced")
        body += piece
    if len(body) < length:
        raise _broken(f"{len(body)} of {length} bytes")
    return Parcel(head["site"], bytes(body), bytes.fromhex(head["signature"]), bytes.fromhex(head["order"]))


def _head(line: bytes) -> dict[str, Any]:
    try:
        head = json.loads(line[:LONGEST_HEAD])
        whole = head.keys() == {*_TEXTS, "length"} and all(isinstance(head[name], str) for name in _TEXTS)
        whole = whole and type(head["length"]) is int and head["length"] >= 0
        for name in ("signature", "order"):
            bytes.fromhex(head[name])
    except (ValueError, AttributeError, TypeError, KeyError, RecursionError):
        whole = False
    if not whole:
        raise _broken("no such first line")
    return head  # type: ignore[no-any-return]


def _broken(what: str) -> ProtocolError:
    return ProtocolError(f"a message between relay and custodian is broken: {what}", code="pieces")
