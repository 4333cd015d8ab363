"""The wire: every parcel survives to the bit, names and bytes are fixed, and what is broken is named and refused."""

import hashlib
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, RecordDict
from hypothesis import given
from hypothesis import strategies as st

from shared import wire
from shared.errors import ProtocolError
from shared.parcels import Parcel
from shared.wire import parcel_from_record, parcel_to_record

ROOT = Path(__file__).parents[2]
GOLDEN = ROOT / "tests" / "golden" / "wire.json"
PARCEL = Parcel("drive", b"a body\n\x00\xff", bytes(range(64)), b'{"an": "order"}')


@given(
    st.builds(
        Parcel,
        st.text(max_size=wire.LONGEST_SITE),
        st.binary(max_size=300),
        st.binary(max_size=64),
        st.binary(max_size=99),
    )
)
def test_any_parcel_survives(parcel: Parcel) -> None:
    assert parcel_from_record(parcel_to_record(parcel)) == parcel


def everything() -> dict[str, Any]:
    """Names, types and bytes of a record, for a golden file."""
    record = parcel_to_record(PARCEL)
    head, array = record["consilium"], record["arrays"]["body"]  # type: ignore[index, call-overload]
    said = {name: value.hex() if isinstance(value, bytes) else value for name, value in sorted(head.items())}  # type: ignore[union-attr]
    body = [array.dtype, list(array.shape), array.stype, hashlib.sha256(array.data).hexdigest()]
    return {"head": said, "arrays": {"body": body}}


def test_names_and_bytes_on_the_wire_are_those_of_the_golden_file() -> None:
    """Whoever changes them raises ``wire.FORMAT`` and regenerates: python tests/golden/regenerate.py."""
    assert everything() == json.loads(GOLDEN.read_text())


def changed(**entries: Any) -> RecordDict:
    record = parcel_to_record(PARCEL)
    head = {**record["consilium"], **entries}  # type: ignore[dict-item]
    return RecordDict({**record, "consilium": ConfigRecord({k: v for k, v in head.items() if v is not None})})


@pytest.mark.parametrize(
    ("entries", "said"),
    [
        ({"format": 1}, "format 2, got 1"),
        ({"format": None}, "format 2"),
        ({"format": "2"}, "format 2, got another"),
        ({"site": 7}, "entry site is int"),
        ({"site": "x" * 64}, "entry site has 64"),
        ({"signature": "00"}, "entry signature is str"),
        ({"signature": bytes(65)}, "entry signature has 65"),
        ({"order": None}, "entry order"),
        ({"order": bytes(wire.LONGEST_ORDER + 1)}, "entry order has 16385"),
    ],
    ids=lambda value: value if isinstance(value, str) else next(iter(value)),
)
def test_a_wrong_entry_is_refused_by_its_name(entries: dict[str, Any], said: str) -> None:
    with pytest.raises(ProtocolError, match=said):
        parcel_from_record(changed(**entries))


@pytest.mark.parametrize(
    "array",
    [
        Array("uint8", (4,), "consilium.bytes.1", b"\0" * 3),
        Array("uint8", (3, 1), "consilium.bytes.1", b"\0" * 3),
        Array("int8", (3,), "consilium.bytes.1", b"\0" * 3),
        Array("uint8", (3,), "numpy.ndarray", b"\0" * 3),
    ],
    ids=["size", "axes", "type", "encoding"],
)
def test_a_body_that_is_not_what_it_says_is_refused(array: Array) -> None:
    record = parcel_to_record(PARCEL)
    record["arrays"] = ArrayRecord({"body": array})
    with pytest.raises(ProtocolError, match="body"):
        parcel_from_record(record)


def test_a_record_of_somebody_else_is_refused() -> None:
    without = parcel_to_record(PARCEL)
    del without["arrays"]
    others = (
        RecordDict(),
        RecordDict({"consilium": ArrayRecord()}),
        RecordDict({"other": ConfigRecord()}),
        without,
    )
    for record in others:
        with pytest.raises(ProtocolError):
            parcel_from_record(record)


def test_the_relay_and_the_wire_never_import_torch() -> None:
    """The import linter sees static imports; this sees what really happens."""
    heavy = "{'torch', 'client.data.prepared.store'}"
    code = f"import sys, client.app, shared.wire; sys.exit(bool({heavy} & sys.modules.keys()))"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False, timeout=120).returncode == 0
