"""Replies as bytes: what a site keeps, so that a question asked twice gets the same answer to the bit.

Promises
- ``from_bytes(to_bytes(reply)) == reply``, field by field, for replies that cost privacy: updates and statistics.
- Bytes are a line of JSON with sorted keys and the integers after it, little-endian; the same reply gives the same.

For the network there is ``shared.wire``, which needs Flower; this does not, and is never sent.
"""

from __future__ import annotations

import json
from dataclasses import fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shared.errors import ProtocolError
from shared.messages import Measured, Update

_FORMAT = "consilium-reply-1"
_ARRAYS = {"Update": ("values", "<i4"), "Measured": ("counts", "<i8")}
_KINDS: dict[str, type[Update] | type[Measured]] = {"Update": Update, "Measured": Measured}

Kept = Update | Measured


def to_bytes(reply: Kept) -> bytes:
    """The reply as bytes."""
    kind = type(reply).__name__
    array, dtype = _ARRAYS[kind]
    rest = {field.name: getattr(reply, field.name) for field in fields(reply) if field.name != array}
    head = json.dumps({"format": _FORMAT, "kind": kind, **rest}, sort_keys=True)
    values: NDArray[np.signedinteger] = getattr(reply, array)
    return head.encode() + b"\n" + values.astype(dtype, copy=False).tobytes()


def from_bytes(content: bytes) -> Kept:
    """Inverse of ``to_bytes``; raises ``ProtocolError`` for bytes of another version, or of no reply."""
    line, _, raw = content.partition(b"\n")
    head = _head(line)
    if head.pop("format", None) != _FORMAT:
        raise ProtocolError("a stored reply is of another version", hint="go on with the next round", code="format")
    kind = head.pop("kind")
    array, dtype = _ARRAYS[kind]
    head[array] = np.frombuffer(raw, dtype).astype(np.dtype(dtype).newbyteorder("="), copy=False)
    return _KINDS[kind](**head)


def _head(line: bytes) -> dict[str, Any]:
    try:
        found = json.loads(line)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}
