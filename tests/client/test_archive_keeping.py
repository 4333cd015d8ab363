import hashlib
import itertools
import math
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from tiny_archive import Made, tiny_archive

from client.data.archive import keeping
from client.data.archive.keeping import Stored, narrowed, read_box, read_whole, write_case
from client.data.archive.record import BYTES, Location
from client.data.archive.segments import Segments, SegmentWriter, path_of
from shared.crypto.sealing import CHUNK, Sealer
from shared.preprocessing.image import Image

KEY = bytes(range(32))
RANGES = {"uint8": (0, 255), "uint16": (0, 65535), "int16": (-32768, 32767)}


def fits(values: list[float], kept: str) -> bool:
    """By Python's own numbers, one by one."""
    low, high = RANGES[kept]
    return all(
        math.isfinite(value)
        and value == int(value)
        and low <= value <= high
        and not (value == 0 and math.copysign(1, value) < 0)
        for value in values
    )


def narrowest(values: list[float]) -> str:
    return next((kept for kept in RANGES if fits(values, kept)), "float32")


def bits(array: np.ndarray) -> bytes:
    return np.ascontiguousarray(array, np.float32).tobytes()


@pytest.mark.parametrize(
    ("values", "kept"),
    [
        ([0, 1, 255], "uint8"),
        ([0, 0, 0], "uint8"),
        ([0, 256], "uint16"),
        ([65535], "uint16"),
        ([65536], "float32"),
        ([-1, 255], "int16"),
        ([-32768, 32767], "int16"),
        ([-32769, 0], "float32"),
        ([-1, 32768], "float32"),
        ([0.5], "float32"),
        ([255.00002], "float32"),
        ([-0.0, 1], "float32"),
        ([0.0, 1], "uint8"),
        ([1e-45, 0], "float32"),
        ([2**24], "float32"),
        ([3.4e38, -3.4e38], "float32"),
        ([math.nan, 1], "float32"),
        ([1, math.inf], "float32"),
        ([-math.inf, 0], "float32"),
    ],
)
def test_voxels_are_kept_in_the_narrowest_type_that_changes_none(values: list[float], kept: str) -> None:
    found, narrow = narrowed(np.array(values, np.float32).reshape(1, 1, -1))
    assert found == kept
    assert narrow.dtype == keeping.DTYPES[kept]  # type: ignore[index]
    assert bits(narrow) == bits(np.array(values))


hard = st.sampled_from(
    [0.0, -0.0, 1.0, 255.0, 256.0, -1.0, 32767.0, 32768.0, 65535.0, 65536.0, -32768.0, -32769.0, 0.5]
)
whole_numbers = st.integers(-40000, 70000).map(float)
anything = st.floats(width=32, allow_nan=False)


@given(st.lists(hard | whole_numbers, min_size=1, max_size=30) | st.lists(hard | anything, min_size=1, max_size=30))
def test_the_type_is_the_narrowest_and_no_bit_is_lost(values: list[float]) -> None:
    kept, narrow = narrowed(np.array(values, np.float32).reshape(1, 1, -1))
    assert kept == narrowest(values)
    assert bits(narrow) == bits(np.array(values, np.float32))


@pytest.mark.parametrize("position", [0, 2**16 - 1, 2**16, 3 * 2**16 - 2, 3 * 2**16 + 1, 3 * 2**16 + 17])
@pytest.mark.parametrize(("odd", "kept"), [(0.5, "float32"), (-0.0, "float32"), (-5.0, "int16"), (300.0, "uint16")])
def test_one_odd_voxel_among_many_decides_wherever_it_is(position: int, odd: float, kept: str) -> None:
    voxels = np.ones((1, 1, 3 * 2**16 + 18), np.float32)
    voxels[0, 0, position] = odd
    found, narrow = narrowed(voxels)
    assert found == kept
    assert bits(narrow) == bits(voxels)


@pytest.mark.parametrize("scale", [1.0, 0.25])
def test_voxels_that_are_not_contiguous_are_kept_by_value(scale: float) -> None:
    turned = np.arange(24, dtype=np.float32).reshape(1, 4, 6).transpose(0, 2, 1) * np.float32(scale)
    _, narrow = narrowed(turned)
    assert narrow.flags.c_contiguous
    assert np.array_equal(narrow, turned)


def test_bytes_of_a_type_are_what_the_record_says() -> None:
    assert {kept: np.dtype(name).itemsize for kept, name in keeping.DTYPES.items()} == BYTES


@pytest.mark.parametrize(
    ("scale", "form", "kept"),
    [(1, "B", "uint8"), (100, "<H", "uint16"), (-100, "<h", "int16"), (0.25, "<f", "float32")],
)
def test_voxels_and_mask_lie_little_endian_one_after_the_other(
    tmp_path: Path, scale: float, form: str, kept: str
) -> None:
    voxels, mask = np.arange(6, dtype=np.float32).reshape(1, 2, 3) * np.float32(scale), np.eye(2, 3, dtype=np.uint8)
    voxels[0, 0, 0] = scale
    with SegmentWriter.create(tmp_path, None) as writer:
        writer.append(b"before")
        written = write_case(writer, Image(voxels, (1.0, 1.0)), mask)
    values = [scale if value == 0 else value * scale for value in range(6)]
    packed = b"".join(struct.pack(form, value if form == "<f" else int(value)) for value in values)
    expected = packed + bytes([1, 0, 0, 0, 1, 0])
    assert written.kept == kept
    assert written.location == Location(1, 64)
    assert path_of(tmp_path, 1).read_bytes()[64:] == expected
    assert written.sha256 == hashlib.sha256(expected).hexdigest()


def test_the_digest_covers_the_mask(tmp_path: Path) -> None:
    image = Image(np.ones((1, 2, 2), np.float32), (1.0, 1.0))
    masks = [None, np.zeros((2, 2), np.uint8), np.ones((2, 2), np.uint8)]
    with SegmentWriter.create(tmp_path, None) as writer:
        assert len({write_case(writer, image, mask).sha256 for mask in masks}) == 3


def test_a_case_has_the_same_digest_plain_and_sealed(tmp_path: Path) -> None:
    image = Image(np.ones((1, 2, 2), np.float32), (1.0, 1.0))
    with SegmentWriter.create(tmp_path, None) as plain, SegmentWriter.create(tmp_path, KEY) as sealed:
        assert write_case(plain, image, None).sha256 == write_case(sealed, image, None).sha256


shapes = hnp.array_shapes(min_dims=2, max_dims=4, max_side=12)
large = st.tuples(st.integers(1, 2), st.integers(1, 4), st.integers(1, 200), st.integers(1, 250))


@st.composite
def boxes(draw: st.DrawFn) -> tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]:
    shape = draw(shapes | large)
    start = tuple(draw(st.integers(0, whole - 1)) for whole in shape)
    size = tuple(draw(st.integers(1, whole - first)) for whole, first in zip(shape, start, strict=True))
    return shape, start, size


def put(folder: Path, key: bytes | None, array: np.ndarray, read_as: type[Any], lead: int = 0) -> Stored[Any]:
    with SegmentWriter.create(folder, key) as writer:
        offset = writer.append(bytes(lead) + array.tobytes())
    return Stored(Location(writer.number, offset + lead), array.shape, array.dtype, read_as)


@given(boxes(), st.sampled_from(sorted(BYTES)), st.sampled_from([None, KEY]), st.integers(0, 100))
def test_a_box_is_the_slice_of_the_whole(
    tmp_path_factory: pytest.TempPathFactory,
    box: tuple[tuple[int, ...], ...],
    kept: str,
    key: bytes | None,
    lead: int,
) -> None:
    shape, start, size = box
    folder, dtype = tmp_path_factory.mktemp("box"), np.dtype(keeping.DTYPES[kept])  # type: ignore[index]
    array = np.random.default_rng(lead).integers(0, 256, shape).astype(dtype)
    stored = put(folder, key, array, np.float32, lead)
    segments = Segments(folder, key)
    found = read_box(segments, stored, start, size)
    window = tuple(slice(first, first + extent) for first, extent in zip(start, size, strict=True))
    assert found.dtype == np.float32
    assert found.flags.c_contiguous
    assert np.array_equal(found, array[window])
    assert np.array_equal(read_whole(segments, stored), array)


@pytest.mark.parametrize(
    ("start", "size"),
    [((0, 0), (4, 6)), ((0, 0), (3, 7)), ((-1, 0), (1, 1)), ((3, 0), (1, 1)), ((0, 0), (0, 1)), ((0,), (1,))],
)
def test_a_box_that_is_empty_or_reaches_outside_is_refused(
    tmp_path: Path, start: tuple[int, ...], size: tuple[int, ...]
) -> None:
    stored = put(tmp_path, None, np.zeros((3, 6), np.uint8), np.uint8)
    with pytest.raises(ValueError, match=r"does not lie within|is shorter than"):
        read_box(Segments(tmp_path, None), stored, start, size)


def needed(stored: Stored[Any], start: tuple[int, ...], size: tuple[int, ...]) -> set[int]:
    """Chunks that hold a byte of the box, voxel by voxel."""
    found = set[int]()
    for index in itertools.product(*(range(first, first + extent) for first, extent in zip(start, size, strict=True))):
        flat = int(np.ravel_multi_index(index, stored.shape))
        first = stored.location.offset + flat * stored.dtype.itemsize
        found |= {first // CHUNK, (first + stored.dtype.itemsize - 1) // CHUNK}
    return found


@pytest.mark.parametrize(
    ("shape", "start", "size"),
    [
        ((1, 20, 200, 300), (0, 3, 10, 20), (1, 9, 12, 15)),
        ((1, 20, 200, 300), (0, 7, 0, 0), (1, 1, 200, 300)),
        ((1, 20, 200, 300), (0, 0, 100, 0), (1, 20, 1, 300)),
        ((3, 4, 200, 300), (0, 1, 50, 100), (3, 2, 5, 5)),
        ((1, 900, 40, 40), (0, 5, 5, 5), (1, 800, 2, 2)),
        ((2, 3, 40000), (0, 0, 17), (2, 3, 1)),
    ],
)
def test_a_sealed_box_opens_each_chunk_it_needs_once_and_no_other(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    shape: tuple[int, ...],
    start: tuple[int, ...],
    size: tuple[int, ...],
) -> None:
    array = np.random.default_rng(1).integers(0, 1000, shape).astype("<i2")
    stored = put(tmp_path, KEY, array, np.float32, lead=99)
    opened: list[int] = []
    genuine = Sealer.open

    def noting(self: Sealer, position: int, sealed: memoryview, plain: memoryview) -> None:
        opened.append(position)
        genuine(self, position, sealed, plain)

    monkeypatch.setattr(Sealer, "open", noting)
    read_box(Segments(tmp_path, KEY), stored, start, size)
    assert len(opened) == len(set(opened))
    # Inner gaps of less than a chunk are read along, and cannot hide a whole one.
    assert set(opened) == needed(stored, start, size)


def test_a_box_of_a_plain_segment_is_one_view_and_a_copy(tmp_path: Path) -> None:
    stored = put(tmp_path, None, np.arange(24, dtype="<f4").reshape(1, 4, 6), np.float32)
    segments = Segments(tmp_path, None)
    whole = read_whole(segments, stored)
    assert np.shares_memory(whole, read_whole(segments, stored))
    box = read_box(segments, stored, (0, 0, 0), (1, 4, 6))
    assert not np.shares_memory(whole, box)
    assert box.flags.writeable
    assert not whole.flags.writeable


def test_a_mask_is_found_behind_the_voxels_of_its_record(tmp_path: Path) -> None:
    mask = np.random.default_rng(2).integers(0, 3, (12, 10)).astype(np.uint8)
    case = Made("one", "p", np.full((1, 12, 10), 0.5, np.float32), mask)
    with tiny_archive(tmp_path, [case]) as archive:
        (record,) = archive.records()
        stored = keeping.stored_mask(record)
        assert stored.location.offset == record.location.offset + 4 * 120
        assert np.array_equal(read_whole(archive._segments, stored), mask)


def test_a_digest_of_many_views_is_that_of_the_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keeping, "_HASHED_AT_ONCE", 7)
    case = Made("one", "p", np.full((1, 12, 10), 0.5, np.float32), np.ones((12, 10), np.uint8))
    for key, folder in ((None, "plain"), (KEY, "sealed")):
        with tiny_archive(tmp_path / folder, [case], key=key) as archive:
            (record,) = archive.records()
            expected = hashlib.sha256(struct.pack("<f", 0.5) * 120 + b"\x01" * 120).hexdigest()
            assert keeping.digest(archive._segments, record) == record.sha256 == expected
