"""Messages as bytes: one form for the network, for signatures, and for what a site keeps.

Promises
- ``request_from_bytes(request_to_bytes(r)) == r`` and the same for replies, to the bit; a message has one form only, so
  that a digest of the bytes is a digest of the message.
- Bytes of another version, with a missing, unknown or wrongly typed entry, or with another number of bytes than they
  say, are a ``ProtocolError`` that names the entry. Nothing is executed, and nothing is decompressed.
- Nothing here needs Flower or torch.

The form is a line of JSON with sorted keys, filled up with spaces so that what follows begins at a multiple of 64, and
the numbers of the message's one array: weights as float32, counts as int64, updates as integers of the plan's width (1
to 4 bytes), all little-endian, or bytes that have a form of their own.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, cast, get_args

import numpy as np
from numpy.typing import NDArray

from shared.errors import ProtocolError
from shared.fixed_point import WIDTHS, pack, packed_width, unpack
from shared.messages import (
    PROTOCOL,
    About,
    Confirm,
    Confirmed,
    Cross,
    Deal,
    Dealt,
    Envelope,
    Evaluate,
    Hello,
    Mask,
    Masked,
    Measured,
    Offered,
    Personalise,
    Refusal,
    Reply,
    Request,
    Revealed,
    Share,
    Shared,
    Split,
    Train,
    Unmask,
    Update,
    Welcome,
)

FORMAT = "consilium-message-1"
LONGEST_HEAD = 1 << 21
"""Bytes of the line of JSON at most: a roster is its longest part."""

_ALIGNED = 64
_ENVELOPE = ("plan_digest", "protocol", "round", "run")

_DTYPES = {"weights": "<f4", "counts": "<i8", "content": "u1"}
_CHOICES: dict[str, tuple[str, ...]] = {"split": get_args(Split), "about": get_args(About)}

Array = NDArray[Any]


@dataclass(frozen=True)
class _Form:
    """How messages of a type are written.

    Attributes:
        make: the type.
        entries: the JSON types of its fields beside the array.
        array: name of the field that is an array, "" for none.
    """

    make: type[Any]
    entries: Mapping[str, type[Any]]
    array: str = ""


_ASKED: dict[str, type[Any]] = {"plan_digest": str, "protocol": int, "round": int, "run": str}
_REQUESTS = {
    "hello": _Form(Hello, {**_ASKED, "roster": str}),
    "train": _Form(Train, _ASKED, "weights"),
    "evaluate": _Form(Evaluate, {**_ASKED, "split": str}, "weights"),
    "personalise": _Form(Personalise, {**_ASKED, "split": str}, "weights"),
    "share": _Form(Share, _ASKED),
    "cross": _Form(Cross, {**_ASKED, "model": str}, "weights"),
    "deal": _Form(Deal, {**_ASKED, "about": str}, "content"),
    "mask": _Form(Mask, {**_ASKED, "about": str}, "content"),
    "confirm": _Form(Confirm, {**_ASKED, "about": str}, "content"),
    "unmask": _Form(Unmask, {**_ASKED, "about": str}, "content"),
}
_REPLIES = {
    "welcome": _Form(Welcome, {"fingerprint": list, "weight": int}),
    "update": _Form(
        Update,
        {
            "bits": int,
            "loss_sum": int,
            "saturated": int,
            "schema": str,
            "seconds": float,
            "steps": int,
            "weight": int,
        },
        "values",
    ),
    "measured": _Form(Measured, {"schema": str, "seconds": float}, "counts"),
    "shared": _Form(Shared, {"schema": str}, "weights"),
    "offered": _Form(Offered, {}, "content"),
    "dealt": _Form(Dealt, {}, "content"),
    "masked": _Form(Masked, {"bits": int, "counts": int, "signature": str, "values": int}, "content"),
    "confirmed": _Form(Confirmed, {}, "content"),
    "revealed": _Form(Revealed, {}, "content"),
    "refusal": _Form(Refusal, {"code": str, "hint": str, "sentence": str}),
}


def request_to_bytes(request: Request) -> bytes:
    """A request in its one form."""
    asked = {name: getattr(request.envelope, name) for name in _ENVELOPE}
    return _written(_REQUESTS, request, asked)


def request_from_bytes(content: bytes) -> Request:
    """Inverse of ``request_to_bytes``; raises ``ProtocolError``."""
    make, entries = _read(_REQUESTS, content)
    envelope = Envelope(**{name: entries.pop(name) for name in _ENVELOPE})
    for name, choices in _CHOICES.items():
        if name in entries and entries[name] not in choices:
            raise ProtocolError(
                f"a request names no {name} that there is", hint=f"one of {', '.join(choices)}", code="entry"
            )
    return cast("Request", make(envelope, **entries))


def reply_to_bytes(reply: Reply) -> bytes:
    """A reply in its one form."""
    return _written(_REPLIES, reply, {})


def reply_from_bytes(content: bytes) -> Reply:
    """Inverse of ``reply_to_bytes``; raises ``ProtocolError``."""
    make, entries = _read(_REPLIES, content)
    if make is Welcome:
        entries["fingerprint"] = _pairs(entries["fingerprint"])
    return cast("Reply", make(**entries))


def _written(forms: Mapping[str, _Form], message: object, said: Mapping[str, object]) -> bytes:
    kind, form = next((kind, form) for kind, form in forms.items() if form.make is type(message))
    named = {one.name for one in fields(cast("Any", message))} & form.entries.keys()
    head = {"format": FORMAT, "kind": kind, **said, **{name: getattr(message, name) for name in named}}
    array = _packed(message, form)
    if form.array:
        head["length"] = len(getattr(message, form.array))
    return _line(head) + array


def _line(head: Mapping[str, object]) -> bytes:
    line = json.dumps(head, sort_keys=True, allow_nan=False, separators=(",", ":")).encode()
    return line + b" " * (-(len(line) + 1) % _ALIGNED) + b"\n"


def _packed(message: Any, form: _Form) -> bytes:  # noqa: ANN401 - any message
    if isinstance(message, Update):
        return pack(message.values, message.bits)
    if not form.array:
        return b""
    values: Array = getattr(message, form.array)
    return values.astype(_DTYPES[form.array], copy=False).tobytes()


def _read(forms: Mapping[str, _Form], content: bytes) -> tuple[type[Any], dict[str, Any]]:
    """The type of a message and its fields."""
    end = content.find(b"\n", 0, LONGEST_HEAD)
    head = _head(content[: max(end, 0)])
    kind = head.pop("kind", None)
    form = forms.get(kind) if isinstance(kind, str) else None
    if form is None:
        raise ProtocolError(
            f"expected one of {', '.join(forms)}, got another kind of message",
            hint="run the same version of Consilium at every party",
            code="kind",
        )
    length = _entries(head, form, str(kind))
    if _line({"format": FORMAT, "kind": kind, **head}) != content[: end + 1]:
        raise ProtocolError(f"a {kind} message is not written in the one form that it has", code="form")
    head.pop("length", None)
    if form.array:
        head[form.array] = _unpacked(memoryview(content)[end + 1 :], form, head.get("bits"), length)
    elif len(content) != end + 1:
        raise ProtocolError(f"a {kind} message has {len(content) - end - 1} bytes after its end", code="array")
    return form.make, head


def _head(line: bytes) -> dict[str, Any]:
    try:
        found = json.loads(line)
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict) or found.pop("format", None) != FORMAT:
        raise ProtocolError(
            f"expected a message of format {FORMAT} (protocol {PROTOCOL}), got something else",
            hint="run the same version of Consilium at every party",
            code="format",
        )
    return found


def _entries(head: Mapping[str, Any], form: _Form, kind: str) -> int:
    """Check names and types of the entries; returns the length of the array, 0 without one."""
    wanted = {**form.entries, **({"length": int} if form.array else {})}
    if head.keys() != wanted.keys():
        odd = sorted(head.keys() ^ wanted.keys())
        raise ProtocolError(f"a {kind} message has {len(odd)} entries too many or too few", code="entry")
    for name, expected in wanted.items():
        value: Any = head[name]
        if type(value) is not expected or (isinstance(value, float) and not math.isfinite(value)):
            raise ProtocolError(
                f"entry {name} of a {kind} message is {type(value).__name__}, expected {expected.__name__}",
                code="entry",
            )
    return int(head.get("length", 0))


def _unpacked(raw: memoryview, form: _Form, bits: object, length: int) -> Array:
    if form.array == "values" and bits not in WIDTHS:
        raise ProtocolError("an update has integers of a width that there is not", code="array")
    width = packed_width(cast("int", bits)) if form.array == "values" else np.dtype(_DTYPES[form.array]).itemsize
    if len(raw) != length * width:
        raise ProtocolError(
            f"array {form.array} says {length} numbers of {width} bytes but holds {len(raw)} bytes", code="array"
        )
    if form.array == "values":
        return unpack(bytes(raw), cast("int", bits))
    kind = np.dtype(_DTYPES[form.array])
    return np.frombuffer(raw, kind).astype(kind.newbyteorder("="), copy=False)


def _pairs(listed: list[Any]) -> tuple[tuple[str, str], ...]:
    pairs = [tuple(one) for one in listed if isinstance(one, list) and [type(text) for text in one] == [str, str]]
    if len(pairs) != len(listed):
        raise ProtocolError("a fingerprint is a list of names with their values, both of them text", code="entry")
    return tuple(cast("list[tuple[str, str]]", pairs))
