"""Parcels as Flower records and back: everything that crosses the network.

Promises
- ``parcel_from_record(parcel_to_record(p)) == p``, to the bit; a golden file fixes names and bytes.
- A record of another version, with a missing or wrongly typed entry, or with an array of another size than it says, is
  a ``ProtocolError`` that names the entry. Nothing is unpickled, unpacked or executed.
- A body is one array of bytes, so that Flower cuts it into pieces as it does with any model.

This is the only module of ``shared`` that knows Flower; the relay uses it without torch. What a body says is
``shared.message_bytes``'.
"""

from __future__ import annotations

from typing import Any

from flwr.app import Array, ArrayRecord, ConfigRecord, RecordDict

from shared.errors import ProtocolError
from shared.parcels import Parcel

FORMAT = 2
LONGEST_SITE, LONGEST_ORDER, SIGNATURE = 63, 1 << 14, 64
_HEAD, _ARRAYS, _BODY = "consilium", "arrays", "body"
_ENCODING = "consilium.bytes.1"


def parcel_to_record(parcel: Parcel) -> RecordDict:
    """A parcel as a record."""
    head: dict[str, Any] = {"format": FORMAT, "site": parcel.site, "signature": parcel.signature, "order": parcel.order}
    body = Array("uint8", (len(parcel.body),), _ENCODING, parcel.body)
    return RecordDict({_HEAD: ConfigRecord(head), _ARRAYS: ArrayRecord({_BODY: body})})


def parcel_from_record(record: RecordDict) -> Parcel:
    """Inverse of ``parcel_to_record``; raises ``ProtocolError``."""
    head = record.get(_HEAD)
    found = head.get("format") if isinstance(head, ConfigRecord) else None
    if not isinstance(head, ConfigRecord) or found != FORMAT:
        raise ProtocolError(
            f"expected a message of format {FORMAT}, got {found if isinstance(found, int) else 'another'}",
            hint="run the same version of Consilium at every party",
            code="format",
        )
    site = _entry(head, "site", str, LONGEST_SITE)
    signature, order = _entry(head, "signature", bytes, SIGNATURE), _entry(head, "order", bytes, LONGEST_ORDER)
    return Parcel(site, _body(record), signature, order)


def _entry(head: ConfigRecord, name: str, kind: type[Any], most: int) -> Any:  # noqa: ANN401 - the type is the argument
    value: Any = head.get(name)
    if type(value) is not kind:
        raise ProtocolError(f"entry {name} is {type(value).__name__}, expected {kind.__name__}", code="entry")
    if len(value) > most:
        raise ProtocolError(f"entry {name} has {len(value)} characters or bytes, at most {most}", code="entry")
    return value


def _body(record: RecordDict) -> bytes:
    arrays = record.get(_ARRAYS)
    array = arrays.get(_BODY) if isinstance(arrays, ArrayRecord) else None
    if array is None or (array.dtype, array.stype) != ("uint8", _ENCODING):
        raise ProtocolError(f"the message lacks array {_BODY} encoded as {_ENCODING}", code="array")
    if tuple(array.shape) != (len(array.data),):
        raise ProtocolError(
            f"array {_BODY} says shape {tuple(array.shape)} but holds {len(array.data)} bytes", code="array"
        )
    return array.data
