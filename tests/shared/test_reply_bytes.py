"""Kept replies: what comes out is what went in, to the bit; and bytes of anything else are refused."""

from dataclasses import fields
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from shared.errors import ProtocolError
from shared.messages import Measured, Update
from shared.reply_bytes import Kept, from_bytes, to_bytes

TEXT = st.text(max_size=20)
COUNT = st.integers(0, 2**62)
SECONDS = st.floats(0, 1e6)

UPDATES = st.builds(
    Update,
    values=arrays(np.int32, st.integers(0, 30)),
    bits=st.sampled_from([16, 24, 32]),
    weight=COUNT,
    schema=TEXT,
    loss_sum=st.integers(-(2**62), 2**62),
    steps=COUNT,
    saturated=COUNT,
    seconds=SECONDS,
)
MEASURED = st.builds(Measured, counts=arrays(np.int64, st.integers(0, 30)), schema=TEXT, seconds=SECONDS)


def same(one: Any, other: Any) -> bool:
    if isinstance(one, np.ndarray):
        return one.dtype == other.dtype and one.shape == other.shape and one.tobytes() == other.tobytes()
    return bool(type(one) is type(other) and one == other)


@given(UPDATES | MEASURED)
def test_a_reply_comes_back_field_by_field(reply: Kept) -> None:
    again = from_bytes(to_bytes(reply))
    assert type(again) is type(reply)
    assert all(same(getattr(again, one.name), getattr(reply, one.name)) for one in fields(reply))


@given(UPDATES | MEASURED)
def test_the_same_reply_gives_the_same_bytes(reply: Kept) -> None:
    content = to_bytes(reply)
    assert to_bytes(from_bytes(content)) == content


@given(UPDATES)
def test_another_value_gives_other_bytes(reply: Update) -> None:
    """A stored answer that forgot a field would not be the answer."""
    changed = {one.name: getattr(reply, one.name) for one in fields(reply)}
    for name, value in changed.items():
        if name == "bits":
            other: Any = 16 if value == 32 else 32
        elif name == "values":
            other = np.append(value, np.int32(1)).astype(np.int32)
        else:
            other = value + "x" if isinstance(value, str) else value + 1
        assert to_bytes(Update(**{**changed, name: other})) != to_bytes(reply)


def test_integers_that_look_like_an_end_of_line_are_integers() -> None:
    reply = Measured(np.full(5, 0x0A0A0A0A0A0A0A0A, np.int64), "schema\nof two lines")
    again = from_bytes(to_bytes(reply))
    assert isinstance(again, Measured)
    assert again.schema == "schema\nof two lines"
    np.testing.assert_array_equal(again.counts, reply.counts)


def test_integers_are_little_endian_on_every_machine() -> None:
    reply = Update(np.array([1, -2], ">i4").astype(">i4"), 32, 1, "s", 0, 0, 0)
    assert to_bytes(reply).endswith(b"\x01\x00\x00\x00\xfe\xff\xff\xff")


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\n",
        b"\x00\xff\x00",
        b"[1, 2]\n",
        b'"consilium-reply-1"\n',
        b'{"kind": "Update"}\n',
        b'{"format": "consilium-reply-2", "kind": "Update"}\n',
    ],
    ids=["nothing", "empty line", "noise", "list", "string", "no format", "another version"],
)
def test_bytes_of_anything_else_are_refused(content: bytes) -> None:
    with pytest.raises(ProtocolError) as caught:
        from_bytes(content)
    assert caught.value.code == "format"
    assert caught.value.hint
