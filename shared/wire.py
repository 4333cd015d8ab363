"""Messages as Flower records and back: everything that crosses the network, by name and version.

Promises
- ``from_record(to_record(m)) == m`` for every message, to the bit; golden files fix the names and the bytes.
- A record of another version, with a missing or wrongly typed entry, or with an array of another size than it says, is
  a ``ProtocolError`` that names the entry. Nothing is unpickled and nothing is executed.
- Arrays travel as little-endian bytes, so that machines of any byte order agree: weights as float32, counts as int64,
  updates as integers of the plan's width (2, 3 or 4 bytes).

This is the only module of ``shared`` that knows Flower; the relay uses it without torch.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, cast

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, RecordDict
from numpy.typing import NDArray

from shared.errors import ProtocolError
from shared.fixed_point import pack, unpack
from shared.messages import (
    PROTOCOL,
    Bits,
    Envelope,
    Evaluate,
    Hello,
    Measured,
    Personalise,
    Refusal,
    Reply,
    Request,
    Split,
    Train,
    Update,
    Welcome,
)

FORMAT = 1
Head = Mapping[str, Any]

_HEAD, _ARRAYS = "consilium", "arrays"
_RAW, _PACKED = "consilium.raw.1", "consilium.packed.1"
_SPLITS = ("train", "validation", "test")


def request_to_record(request: Request) -> RecordDict:
    """A request as a record."""
    envelope = request.envelope
    head: dict[str, Any] = {
        "run": envelope.run,
        "plan_digest": envelope.plan_digest,
        "round": envelope.round,
        "protocol": envelope.protocol,
    }
    if isinstance(request, Hello):
        return _record("hello", head, {})
    arrays = {"weights": _raw(request.weights, "<f4")}
    if isinstance(request, Train):
        return _record("train", head, arrays)
    kind = "evaluate" if isinstance(request, Evaluate) else "personalise"
    return _record(kind, {**head, "split": request.split}, arrays)


def request_from_record(record: RecordDict) -> Request:
    """Inverse of ``request_to_record``; raises ``ProtocolError``."""
    head = _head(record)
    envelope = Envelope(
        _entry(head, "run", str),
        _entry(head, "plan_digest", str),
        _entry(head, "round", int),
        _entry(head, "protocol", int),
    )
    match head["kind"]:
        case "hello":
            return Hello(envelope)
        case "train":
            return Train(envelope, _unraw(record, "weights", "<f4"))
        case "evaluate":
            return Evaluate(envelope, _unraw(record, "weights", "<f4"), _split(head))
        case "personalise":
            return Personalise(envelope, _unraw(record, "weights", "<f4"), _split(head))
        case other:
            raise ProtocolError(f"a site cannot serve a message of kind {other!r}", code="kind")


def reply_to_record(reply: Reply, site: str) -> RecordDict:
    """A reply as a record that names the site."""
    head, arrays = _WRITERS[type(reply)](reply)
    return _record(type(reply).__name__.lower(), {"site": site, **head}, arrays)


def reply_from_record(record: RecordDict) -> tuple[str, Reply]:
    """Inverse of ``reply_to_record``: (site, reply); raises ``ProtocolError``."""
    head = _head(record)
    reader = _READERS.get(head["kind"])
    if reader is None:
        raise ProtocolError(f"a coordinator cannot read a message of kind {head['kind']!r}", code="kind")
    return _entry(head, "site", str), reader(head, record)


def _write_welcome(reply: Welcome) -> tuple[Head, dict[str, Array]]:
    names, values = [name for name, _ in reply.fingerprint], [value for _, value in reply.fingerprint]
    return {"names": names, "values": values, "weight": reply.weight}, {}


def _read_welcome(head: Head, _record: RecordDict) -> Welcome:
    names, values = _entry(head, "names", list), _entry(head, "values", list)
    if len(names) != len(values):
        raise ProtocolError(f"a fingerprint has {len(names)} names but {len(values)} values", code="entry")
    pairs = zip((str(name) for name in names), (str(value) for value in values), strict=True)
    return Welcome(tuple(pairs), _entry(head, "weight", int))


def _write_update(reply: Update) -> tuple[Head, dict[str, Array]]:
    head = {name: getattr(reply, name) for name in ("weight", "schema", "loss_sum", "steps", "saturated", "seconds")}
    return head, {"values": Array(f"int{reply.bits}", reply.values.shape, _PACKED, pack(reply.values, reply.bits))}


def _read_update(head: Head, record: RecordDict) -> Update:
    array = _array(record, "values", _PACKED)
    bits = {"int16": 16, "int24": 24, "int32": 32}.get(array.dtype)
    if bits is None or len(array.shape) != 1 or len(array.data) != array.shape[0] * bits // 8:
        raise ProtocolError(
            f"an update says {array.dtype} with shape {tuple(array.shape)} but holds {len(array.data)} bytes",
            code="array",
        )
    return Update(
        values=unpack(array.data, cast("Bits", bits)),
        bits=cast("Bits", bits),
        weight=_entry(head, "weight", int),
        schema=_entry(head, "schema", str),
        loss_sum=_entry(head, "loss_sum", int),
        steps=_entry(head, "steps", int),
        saturated=_entry(head, "saturated", int),
        seconds=_entry(head, "seconds", float),
    )


def _write_measured(reply: Measured) -> tuple[Head, dict[str, Array]]:
    return {"schema": reply.schema, "seconds": reply.seconds}, {"counts": _raw(reply.counts, "<i8")}


def _read_measured(head: Head, record: RecordDict) -> Measured:
    counts = _unraw(record, "counts", "<i8")
    return Measured(counts, _entry(head, "schema", str), _entry(head, "seconds", float))


def _write_refusal(reply: Refusal) -> tuple[Head, dict[str, Array]]:
    return {"code": reply.code, "sentence": reply.sentence, "hint": reply.hint}, {}


def _read_refusal(head: Head, _record: RecordDict) -> Refusal:
    return Refusal(_entry(head, "code", str), _entry(head, "sentence", str), _entry(head, "hint", str))


_WRITERS: dict[type, Callable[[Any], tuple[Head, dict[str, Array]]]] = {
    Welcome: _write_welcome,
    Update: _write_update,
    Measured: _write_measured,
    Refusal: _write_refusal,
}
_READERS: dict[str, Callable[[Head, RecordDict], Reply]] = {
    "welcome": _read_welcome,
    "update": _read_update,
    "measured": _read_measured,
    "refusal": _read_refusal,
}


def _record(kind: str, head: Head, arrays: dict[str, Array]) -> RecordDict:
    record = RecordDict({_HEAD: ConfigRecord({"format": FORMAT, "kind": kind, **head})})
    if arrays:
        record[_ARRAYS] = ArrayRecord(arrays)
    return record


def _head(record: RecordDict) -> Head:
    head = record.get(_HEAD)
    if not isinstance(head, ConfigRecord) or head.get("format") != FORMAT or not isinstance(head.get("kind"), str):
        found = head.get("format") if isinstance(head, ConfigRecord) else None
        raise ProtocolError(
            f"expected a message of format {FORMAT} (protocol {PROTOCOL}), got {found!r}",
            hint="run the same version of Consilium at every party",
            code="format",
        )
    return cast("Head", head)


def _entry(head: Head, name: str, kind: type[Any]) -> Any:  # noqa: ANN401 - the type is the argument
    value = head.get(name)
    if not isinstance(value, kind) or isinstance(value, bool):
        raise ProtocolError(
            f"entry {name} of a {head['kind']} message is {type(value).__name__}, expected {kind.__name__}",
            code="entry",
        )
    return value


def _split(head: Head) -> Split:
    split = _entry(head, "split", str)
    if split not in _SPLITS:
        raise ProtocolError(f"unknown split {split!r}", hint=f"one of {', '.join(_SPLITS)}", code="entry")
    return cast("Split", split)


def _raw(values: NDArray[Any], dtype: str) -> Array:
    return Array(np.dtype(dtype).name, values.shape, _RAW, values.astype(dtype, copy=False).tobytes())


def _unraw(record: RecordDict, name: str, dtype: str) -> NDArray[Any]:
    array, wanted = _array(record, name, _RAW), np.dtype(dtype)
    if (
        array.dtype != wanted.name
        or len(array.data) != math.prod(array.shape) * wanted.itemsize
        or len(array.shape) != 1
    ):
        raise ProtocolError(
            f"array {name} says {array.dtype} with shape {tuple(array.shape)} but holds {len(array.data)} bytes",
            code="array",
        )
    return np.frombuffer(array.data, wanted).astype(wanted.newbyteorder("="), copy=False)


def _array(record: RecordDict, name: str, encoding: str) -> Array:
    arrays = record.get(_ARRAYS)
    array = arrays.get(name) if isinstance(arrays, ArrayRecord) else None
    if array is None or array.stype != encoding:
        raise ProtocolError(f"the message lacks array {name} encoded as {encoding}", code="array")
    return array
