"""The wire: every message survives to the bit, names and bytes are fixed, and what is broken is named and refused."""

import dataclasses
import hashlib
import json
import subprocess
import sys
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, RecordDict
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays_of

from shared import wire
from shared.errors import ProtocolError
from shared.messages import (
    Bits,
    Envelope,
    Evaluate,
    Hello,
    Measured,
    Personalise,
    Refusal,
    Reply,
    Request,
    Train,
    Update,
    Welcome,
)

ROOT = Path(__file__).parents[2]
GOLDEN = ROOT / "tests" / "golden" / "wire.json"

ENVELOPE = Envelope("run-1", "ab" * 32, 3)
WEIGHTS = np.array([0.5, -1.25, 3e-8], np.float32)
REQUESTS: list[Request] = [
    Hello(ENVELOPE),
    Train(ENVELOPE, WEIGHTS),
    Evaluate(ENVELOPE, WEIGHTS, "validation"),
    Personalise(ENVELOPE, WEIGHTS, "test"),
]
REPLIES: list[Reply] = [
    Welcome((("numpy", "2.4.6"), ("torch", "2.13.0")), 12),
    Update(np.array([1, -2, 32767], np.int32), 16, 12, "cd" * 32, 1048576, 20, 1, 2.5),
    Measured(np.array([0, 5, -7], np.int64), "ef" * 32, 0.25),
    Refusal("site-data", "this site is empty: 0 usable cases, 3 unusable", "check the folder"),
]


def same(one: Any, other: Any) -> bool:
    """Equal as values, arrays to the bit and of the same type."""
    if type(one) is not type(other):
        return False
    if isinstance(one, np.ndarray):
        return one.dtype == other.dtype and one.shape == other.shape and one.tobytes() == other.tobytes()
    if dataclasses.is_dataclass(one):
        return all(same(getattr(one, f.name), getattr(other, f.name)) for f in dataclasses.fields(one))
    return bool(one == other)


def test_every_kind_of_message_is_tested() -> None:
    assert {type(request) for request in REQUESTS} == set(get_args(Request))
    assert {type(reply) for reply in REPLIES} == set(get_args(Reply))


@pytest.mark.parametrize("request_", REQUESTS, ids=lambda r: type(r).__name__)
def test_a_request_survives_the_wire(request_: Request) -> None:
    assert same(wire.request_from_record(wire.request_to_record(request_)), request_)


@pytest.mark.parametrize("reply", REPLIES, ids=lambda r: type(r).__name__)
def test_a_reply_survives_the_wire_and_names_its_site(reply: Reply) -> None:
    site, found = wire.reply_from_record(wire.reply_to_record(reply, "drive"))
    assert site == "drive"
    assert same(found, reply)


@given(
    arrays_of.arrays(np.int32, st.integers(0, 40), elements=st.integers(-(2**15), 2**15 - 1)),
    st.sampled_from(get_args(Bits)),
    st.integers(-(2**62), 2**62),
)
def test_any_update_survives_the_wire(values: np.ndarray[Any, Any], bits: Bits, loss_sum: int) -> None:
    update = Update(values, bits, 3, "s", loss_sum, 7, 0, 0.5)
    assert same(wire.reply_from_record(wire.reply_to_record(update, "x"))[1], update)


@given(arrays_of.arrays(np.float32, st.integers(0, 40), elements=st.floats(width=32, allow_nan=False)))
def test_any_weights_survive_the_wire(weights: np.ndarray[Any, Any]) -> None:
    found = wire.request_from_record(wire.request_to_record(Train(ENVELOPE, weights)))
    assert isinstance(found, Train)
    assert found.weights.tobytes() == weights.tobytes()


@pytest.mark.parametrize(("bits", "size"), [(16, 2), (24, 3), (32, 4)])
def test_an_update_takes_as_many_bytes_as_its_bits_say(bits: Bits, size: int) -> None:
    update = Update(np.zeros(1000, np.int32), bits, 1, "s", 0, 1, 0)
    record = wire.reply_to_record(update, "x")
    assert len(record["arrays"]["values"].data) == 1000 * size  # type: ignore[index, call-overload]


def fingerprint(record: RecordDict) -> dict[str, Any]:
    """Names, types and bytes of a record, for a golden file."""
    arrays = record.get("arrays")
    return {
        "head": dict(sorted(record["consilium"].items())),  # type: ignore[union-attr]
        "arrays": {
            name: [array.dtype, list(array.shape), array.stype, hashlib.sha256(array.data).hexdigest()]
            for name, array in sorted(arrays.items())
        }
        if isinstance(arrays, ArrayRecord)
        else {},
    }


def everything() -> dict[str, Any]:
    requests = {type(one).__name__: fingerprint(wire.request_to_record(one)) for one in REQUESTS}
    replies = {type(one).__name__: fingerprint(wire.reply_to_record(one, "drive")) for one in REPLIES}
    return requests | replies


def test_names_and_bytes_on_the_wire_are_those_of_the_golden_file() -> None:
    """Whoever changes them raises ``wire.FORMAT`` and regenerates: python tests/golden/regenerate.py."""
    assert json.loads(json.dumps(everything())) == json.loads(GOLDEN.read_text())


def changed(record: RecordDict, **entries: Any) -> RecordDict:
    head = {**record["consilium"], **entries}  # type: ignore[dict-item]
    return RecordDict({**record, "consilium": ConfigRecord({k: v for k, v in head.items() if v is not None})})


@pytest.mark.parametrize(
    ("entries", "said"),
    [
        ({"format": 2}, "expected a message of format 1"),
        ({"format": None}, "expected a message of format 1"),
        ({"kind": "explode"}, "'explode'"),
        ({"round": "3"}, "entry round"),
        ({"round": None}, "entry round"),
        ({"plan_digest": 7}, "entry plan_digest"),
        ({"split": "everything"}, "unknown split"),
    ],
    ids=str,
)
def test_a_request_with_a_wrong_entry_is_refused_by_its_name(entries: dict[str, Any], said: str) -> None:
    record = changed(wire.request_to_record(REQUESTS[2]), **entries)
    with pytest.raises(ProtocolError, match=said):
        wire.request_from_record(record)


@pytest.mark.parametrize("entries", [{"weight": True}, {"weight": None}, {"steps": 1.5}, {"site": 4}], ids=str)
def test_a_reply_with_a_wrong_entry_is_refused(entries: dict[str, Any]) -> None:
    with pytest.raises(ProtocolError, match=f"entry {next(iter(entries))}"):
        wire.reply_from_record(changed(wire.reply_to_record(REPLIES[1], "x"), **entries))


@pytest.mark.parametrize(
    "array",
    [
        Array("float32", (4,), "consilium.raw.1", b"\0" * 12),
        Array("float64", (3,), "consilium.raw.1", b"\0" * 24),
        Array("float32", (3, 1), "consilium.raw.1", b"\0" * 12),
        Array("float32", (3,), "numpy.ndarray", b"\0" * 12),
    ],
    ids=["size", "type", "axes", "encoding"],
)
def test_an_array_that_is_not_what_it_says_is_refused(array: Array) -> None:
    record = wire.request_to_record(REQUESTS[1])
    record["arrays"] = ArrayRecord({"weights": array})
    with pytest.raises(ProtocolError, match="weights"):
        wire.request_from_record(record)


def test_an_update_with_a_byte_too_many_is_refused() -> None:
    record = wire.reply_to_record(REPLIES[1], "x")
    record["arrays"] = ArrayRecord({"values": Array("int16", (3,), "consilium.packed.1", b"\0" * 7)})
    with pytest.raises(ProtocolError, match="holds 7 bytes"):
        wire.reply_from_record(record)


def test_a_record_of_somebody_else_is_refused() -> None:
    for record in (RecordDict(), RecordDict({"consilium": ArrayRecord()}), RecordDict({"other": ConfigRecord()})):
        with pytest.raises(ProtocolError):
            wire.request_from_record(record)
        with pytest.raises(ProtocolError):
            wire.reply_from_record(record)


def test_a_fingerprint_with_more_names_than_values_is_refused() -> None:
    record = changed(wire.reply_to_record(REPLIES[0], "x"), names=["a", "b", "c"])
    with pytest.raises(ProtocolError, match="3 names but 2 values"):
        wire.reply_from_record(record)


def test_the_relay_and_the_wire_never_import_torch() -> None:
    """The import linter sees static imports; this sees what really happens."""
    heavy = "{'torch', 'client.data.prepared.store'}"
    code = f"import sys, client.app, shared.wire; sys.exit(bool({heavy} & sys.modules.keys()))"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False, timeout=120).returncode == 0
