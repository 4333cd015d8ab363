"""Pieces: a parcel comes through whole, and nobody makes the receiver collect more than it takes."""

import json
from itertools import chain, repeat

import pytest
from hypothesis import given
from hypothesis import strategies as st

from client.custodian import pieces
from client.custodian.pieces import cut, joined
from shared.errors import ProtocolError
from shared.parcels import Parcel

MOST = 1 << 22
PARCEL = Parcel("aachen", b"x" * (2 * pieces.PIECE + 5), bytes(64), b"order")


@given(st.builds(Parcel, st.text(max_size=20), st.binary(max_size=200), st.binary(max_size=64), st.binary(max_size=50)))
def test_any_parcel_comes_through(parcel: Parcel) -> None:
    assert joined(cut(parcel), MOST) == parcel


def test_a_large_body_comes_in_pieces_of_a_mebibyte() -> None:
    sizes = [len(piece) for piece in cut(PARCEL)][1:]
    assert sizes == [pieces.PIECE, pieces.PIECE, 5]
    assert joined(cut(PARCEL), MOST) == PARCEL


def refused(stream: object, most: int = MOST) -> str:
    with pytest.raises(ProtocolError) as caught:
        joined(stream, most)  # type: ignore[arg-type]
    return caught.value.code


def test_a_body_larger_than_is_taken_is_refused_by_its_announcement() -> None:
    endless = chain(list(cut(PARCEL))[:1], repeat(b"x"))
    assert refused(endless, 1000) == "too-large"


def test_more_or_less_than_announced_is_refused_without_reading_on() -> None:
    head = next(iter(cut(PARCEL)))
    assert refused(chain([head], repeat(b"x" * pieces.PIECE))) == "pieces"
    assert refused([head, b"x"]) == "pieces"
    assert refused([]) == "pieces"


@pytest.mark.parametrize(
    "change",
    [{"length": -1}, {"length": "5"}, {"length": True}, {"site": 3}, {"order": "zz"}, {"more": 1}, {"site": None}],
    ids=str,
)
def test_another_first_line_is_refused(change: dict[str, object]) -> None:
    head = json.loads(next(iter(cut(PARCEL)))) | change
    assert (
        refused([json.dumps({name: value for name, value in head.items() if value is not None}).encode()]) == "pieces"
    )


@pytest.mark.parametrize(
    "line", [b"", b"[]", b"{", b"[" * 90_000, b"\xff"], ids=["none", "list", "cut", "deep", "noise"]
)
def test_what_is_no_first_line_is_refused(line: bytes) -> None:
    assert refused([line]) == "pieces"
