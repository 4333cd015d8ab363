import hashlib
import hmac
import io
import os
import resource
from concurrent.futures import ThreadPoolExecutor
from itertools import accumulate, pairwise
from pathlib import Path

import numpy as np
import pytest
from Crypto.Cipher import AES
from hypothesis import given
from hypothesis import strategies as st

from client.data.archive import segments as segments_module
from client.data.archive.segments import Segments, SegmentWriter, numbers, path_of, release
from shared.crypto.sealing import CHUNK, SEALED_CHUNK, Sealer
from shared.errors import CapacityError, SiteDataError

KEY = bytes(range(32))
HEADER = 64
KEYS = pytest.mark.parametrize("key", [None, KEY], ids=["plain", "sealed"])


def text(length: int, seed: int = 0) -> bytes:
    return np.random.default_rng(seed).bytes(length)


def written(folder: Path, key: bytes | None, *parts: bytes) -> tuple[int, list[int]]:
    """A closed segment of ``parts``: its number, and where each begins."""
    with SegmentWriter.create(folder, key) as writer:
        return writer.number, [writer.append(part) for part in parts]


def flip(path: Path, position: int) -> None:
    with path.open("r+b") as file:
        file.seek(position)
        byte = file.read(1)[0]
        file.seek(position)
        file.write(bytes([byte ^ 1]))


def refusal(segments: Segments, number: int, offset: int, length: int) -> str:
    with pytest.raises(SiteDataError) as caught:
        segments.view(number, offset, length)
    return caught.value.code


lengths = st.one_of(st.integers(0, 200), st.integers(CHUNK - 70, CHUNK + 70), st.integers(0, 3 * CHUNK))
pieces = st.lists(st.tuples(st.lists(lengths, min_size=1, max_size=3), st.booleans()), max_size=5)


@given(pieces, st.sampled_from([None, KEY]))
def test_what_is_appended_is_what_is_viewed_whatever_was_flushed_between(
    tmp_path_factory: pytest.TempPathFactory, wanted: list[tuple[list[int], bool]], key: bytes | None
) -> None:
    folder = tmp_path_factory.mktemp("segments")
    appended = []
    with SegmentWriter.create(folder, key) as writer:
        for seed, (sizes, flushed) in enumerate(wanted):
            parts = [text(size, seed) for size in sizes]
            appended.append((writer.append(*parts), b"".join(parts)))
            if flushed:
                writer.flush()
    segments = Segments(folder, key)
    assert all(offset % 64 == 0 for offset, _ in appended)
    ends = [offset + len(whole) for offset, whole in appended]
    assert all(end <= offset for end, (offset, _) in zip(ends, appended[1:], strict=False))
    if writer.size:
        for offset, whole in appended:
            assert segments.view(writer.number, offset, len(whole)) == whole


@given(st.data())
def test_any_part_of_a_segment_can_be_viewed(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    folder, whole = tmp_path_factory.mktemp("segments"), text(3 * CHUNK + 500)
    key = data.draw(st.sampled_from([None, KEY]))
    number, (offset,) = written(folder, key, whole)
    start = data.draw(st.integers(0, len(whole)))
    length = data.draw(st.integers(0, len(whole) - start))
    view = Segments(folder, key).view(number, offset + start, length)
    assert view == whole[start : start + length]
    assert view.readonly


def test_a_plain_segment_holds_the_bytes_as_they_are(tmp_path: Path) -> None:
    number, offsets = written(tmp_path, None, b"abc", b"defg")
    assert offsets == [0, 64]
    assert path_of(tmp_path, number).read_bytes() == b"abc".ljust(64, b"\0") + b"defg"


def test_views_of_a_plain_segment_are_of_the_same_memory(tmp_path: Path) -> None:
    number, (offset,) = written(tmp_path, None, text(5000))
    segments = Segments(tmp_path, None)
    first, again = (np.frombuffer(segments.view(number, offset, 5000), np.uint8) for _ in range(2))
    assert np.shares_memory(first, again)


def test_a_sealed_segment_opens_with_another_library(tmp_path: Path) -> None:
    """The oracle knows the layout from the module's text: header, salt, then chunks with their tags."""
    whole = text(2 * CHUNK + 10)
    number, _ = written(tmp_path, KEY, whole)
    found = path_of(tmp_path, number).read_bytes()
    assert found[:32] == b"consilium-sealed-1\n" + bytes(13)
    extracted = hmac.digest(found[32:HEADER], KEY, hashlib.sha256)
    derived = hmac.digest(extracted, b"consilium-sealed-file-1\x01", hashlib.sha256)
    plain = b""
    for position, start in enumerate(range(HEADER, len(found), SEALED_CHUNK)):
        chunk = found[start : start + SEALED_CHUNK]
        cipher = AES.new(derived, AES.MODE_GCM, nonce=position.to_bytes(12, "big"))
        plain += cipher.decrypt_and_verify(chunk[:CHUNK], chunk[CHUNK:])
    assert plain == whole.ljust(3 * CHUNK, b"\0")


def test_nothing_readable_is_in_a_sealed_segment_but_its_first_line(tmp_path: Path) -> None:
    """The search finds the text in a plain segment, so it would in this one."""
    marked = b"brightness of a lesion" * 5000
    for key, found in ((None, True), (KEY, False)):
        number, _ = written(tmp_path, key, marked)
        assert (b"lesion" in path_of(tmp_path, number).read_bytes()) is found


def test_two_segments_of_the_same_bytes_have_no_sealed_block_in_common(tmp_path: Path) -> None:
    whole = bytes(4 * CHUNK)
    found = [path_of(tmp_path, written(tmp_path, KEY, whole)[0]).read_bytes()[HEADER:] for _ in range(2)]
    blocks = [{one[start : start + 16] for start in range(0, len(one), 16)} for one in found]
    assert len(blocks[0] & blocks[1]) == 0
    assert min(map(len, blocks)) == len(found[0]) // 16


@given(pieces)
def test_no_position_of_a_segment_is_sealed_twice(
    tmp_path_factory: pytest.TempPathFactory, wanted: list[tuple[list[int], bool]]
) -> None:
    positions: list[int] = []

    def noting(self: Sealer, position: int, plain: bytes, sealed: bytearray) -> None:
        positions.append(position)
        genuine(self, position, plain, sealed)

    genuine = Sealer.seal
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Sealer, "seal", noting)
        with SegmentWriter.create(tmp_path_factory.mktemp("segments"), KEY) as writer:
            for sizes, flushed in wanted:
                writer.append(*(text(size) for size in sizes))
                if flushed:
                    writer.flush()
    assert positions == list(range(len(positions)))
    assert len(positions) * CHUNK == -(-writer.size // CHUNK) * CHUNK


def test_only_touched_chunks_are_opened(tmp_path: Path) -> None:
    whole = text(6 * CHUNK)
    number, (offset,) = written(tmp_path, KEY, whole)
    flip(path_of(tmp_path, number), HEADER + 3 * SEALED_CHUNK + 99)
    segments = Segments(tmp_path, KEY)
    assert segments.view(number, offset, 3 * CHUNK) == whole[: 3 * CHUNK]
    assert segments.view(number, offset + 4 * CHUNK, 2 * CHUNK) == whole[4 * CHUNK :]
    assert refusal(segments, number, offset + 3 * CHUNK - 1, 2) == "archive-damaged"


@given(st.integers(0, HEADER + 3 * SEALED_CHUNK - 1))
def test_a_flipped_bit_anywhere_in_a_sealed_segment_is_found(
    tmp_path_factory: pytest.TempPathFactory, position: int
) -> None:
    folder = tmp_path_factory.mktemp("segments")
    number, (offset,) = written(folder, KEY, text(2 * CHUNK + 5))
    flip(path_of(folder, number), position)
    assert refusal(Segments(folder, KEY), number, offset, 2 * CHUNK + 5) == "archive-damaged"


def chunk(position: int) -> slice:
    return slice(HEADER + position * SEALED_CHUNK, HEADER + (position + 1) * SEALED_CHUNK)


def test_chunks_that_changed_places_are_found(tmp_path: Path) -> None:
    number, (offset,) = written(tmp_path, KEY, bytes(3 * CHUNK))
    found = bytearray(path_of(tmp_path, number).read_bytes())
    found[chunk(0)], found[chunk(1)] = found[chunk(1)], found[chunk(0)]
    path_of(tmp_path, number).write_bytes(found)
    segments = Segments(tmp_path, KEY)
    assert refusal(segments, number, offset, 1) == "archive-damaged"
    assert refusal(segments, number, offset + CHUNK, 1) == "archive-damaged"
    assert segments.view(number, offset + 2 * CHUNK, CHUNK) == bytes(CHUNK)


@pytest.mark.parametrize("part", [chunk(0), chunk(1), slice(32, HEADER)], ids=["first", "second", "salt"])
def test_what_comes_from_another_segment_is_found(tmp_path: Path, part: slice) -> None:
    (one, _), (other, _) = written(tmp_path, KEY, bytes(2 * CHUNK)), written(tmp_path, KEY, bytes(2 * CHUNK))
    found = bytearray(path_of(tmp_path, one).read_bytes())
    found[part] = path_of(tmp_path, other).read_bytes()[part]
    path_of(tmp_path, one).write_bytes(found)
    assert refusal(Segments(tmp_path, KEY), one, 0, 2 * CHUNK) == "archive-damaged"


@KEYS
@pytest.mark.parametrize("cut", [0, 10, HEADER, HEADER + CHUNK, HEADER + SEALED_CHUNK, -1])
def test_a_segment_that_was_cut_off_is_found(tmp_path: Path, key: bytes | None, cut: int) -> None:
    number, (offset,) = written(tmp_path, key, text(2 * CHUNK))
    path = path_of(tmp_path, number)
    os.truncate(path, cut % path.stat().st_size)
    assert refusal(Segments(tmp_path, key), number, offset, 2 * CHUNK) == "archive-damaged"


@KEYS
def test_a_segment_that_is_gone_is_found(tmp_path: Path, key: bytes | None) -> None:
    assert refusal(Segments(tmp_path, key), 1, 0, 1) == "archive-damaged"
    assert Segments(tmp_path, key).length(1) == 0


@KEYS
def test_the_length_on_disk_covers_what_was_flushed(tmp_path: Path, key: bytes | None) -> None:
    segments = Segments(tmp_path, key)
    with SegmentWriter.create(tmp_path, key) as writer:
        for _ in range(3):
            writer.append(text(CHUNK // 2 + 9))
            writer.flush()
            assert segments.length(writer.number) == writer.size


def test_what_a_sealed_writer_holds_back_is_on_the_disk_after_flush_and_not_before(tmp_path: Path) -> None:
    segments = Segments(tmp_path, KEY)
    with SegmentWriter.create(tmp_path, KEY) as writer:
        offset = writer.append(b"held back")
        assert segments.length(writer.number) == 0
        assert refusal(segments, writer.number, offset, 9) == "archive-damaged"
        writer.flush()
        assert segments.view(writer.number, offset, 9) == b"held back"


@KEYS
def test_a_reader_sees_what_is_added_after_it_began(tmp_path: Path, key: bytes | None) -> None:
    segments = Segments(tmp_path, key)
    with SegmentWriter.create(tmp_path, key) as writer:
        first = writer.append(text(100, 1))
        writer.flush()
        early = segments.view(writer.number, first, 100)
        second = writer.append(text(CHUNK, 2))
        writer.flush()
        assert segments.view(writer.number, second, CHUNK) == text(CHUNK, 2)
    number, (third,) = written(tmp_path, key, text(50, 3))
    assert segments.view(number, third, 50) == text(50, 3)
    assert early == text(100, 1)


def test_writers_that_begin_at_the_same_time_get_different_numbers(tmp_path: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        writers = list(pool.map(lambda _: SegmentWriter.create(tmp_path, None), range(64)))
    assert sorted(writer.number for writer in writers) == list(range(1, 65)) == numbers(tmp_path)
    for writer in writers:
        writer.close()


def test_the_next_number_follows_the_largest_though_others_are_free(tmp_path: Path) -> None:
    path_of(tmp_path, 41).touch()
    (tmp_path / "note.txt").touch()
    assert written(tmp_path, None, b"x")[0] == 42


@KEYS
def test_a_writer_that_was_given_nothing_leaves_no_file(tmp_path: Path, key: bytes | None) -> None:
    with SegmentWriter.create(tmp_path, key):
        assert numbers(tmp_path) == [1]
    assert list(tmp_path.iterdir()) == []


def test_only_the_owner_may_read_a_segment(tmp_path: Path) -> None:
    number, _ = written(tmp_path, None, b"x")
    assert path_of(tmp_path, number).stat().st_mode & 0o777 == 0o600


@KEYS
def test_a_full_writer_passes_on_to_the_next_segment(
    tmp_path: Path, key: bytes | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(segments_module, "SEGMENT_BYTES", 2 * CHUNK)
    writer = SegmentWriter.create(tmp_path, key)
    places = []
    for seed in range(5):
        writer = writer.with_room()
        places.append((writer.number, writer.append(text(CHUNK, seed))))
    writer.close()
    assert [number for number, _ in places] == [1, 1, 2, 2, 3]
    segments = Segments(tmp_path, key)
    assert all(segments.view(*place, CHUNK) == text(CHUNK, seed) for seed, place in enumerate(places))


def test_a_forked_process_cannot_go_on_with_its_parents_segment(tmp_path: Path) -> None:
    """Both would seal the same positions under the same key."""
    with SegmentWriter.create(tmp_path, KEY) as writer:
        writer.append(b"by the parent")
        child = os.fork()
        if child == 0:
            try:
                writer.append(b"by the child")
            except RuntimeError:
                os._exit(7)
            os._exit(0)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7


@KEYS
def test_a_full_disk_is_an_error_with_numbers_and_spares_what_was_flushed(tmp_path: Path, key: bytes | None) -> None:
    """A file size limit makes the kernel refuse the write as a full disk would."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    writer = SegmentWriter.create(tmp_path, key)
    offset = writer.append(text(3 * CHUNK))
    writer.flush()
    resource.setrlimit(resource.RLIMIT_FSIZE, (2**20, before[1]))
    try:
        with pytest.raises(
            CapacityError, match=r"no room after 0\.\d MiB of a segment; the disk has \d+ MiB"
        ) as caught:
            writer.append(text(2**21))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert caught.value.code == "disk-full"
    with pytest.raises(CapacityError, match="no room"):
        writer.append(b"more")
    with pytest.raises(CapacityError, match="no room"):
        writer.flush()
    writer.close()
    assert Segments(tmp_path, key).view(writer.number, offset, 3 * CHUNK) == text(3 * CHUNK)


def test_a_full_device_refuses_the_first_byte(tmp_path: Path) -> None:
    writer = SegmentWriter(path_of(tmp_path, 1), io.FileIO("/dev/full", "wb"), None)
    with pytest.raises(CapacityError, match=r"no room after 0\.0 MiB"):
        writer.append(b"x")


def test_a_disk_that_fails_otherwise_is_not_called_full(tmp_path: Path) -> None:
    writer = SegmentWriter.create(tmp_path, None)
    unwritable = os.open(os.devnull, os.O_RDONLY)
    os.dup2(unwritable, writer._file.fileno())
    os.close(unwritable)
    with pytest.raises(CapacityError, match=r"cannot be written after 0\.0 MiB: Bad file descriptor") as caught:
        writer.append(b"x")
    assert caught.value.code == "disk-failed"


def test_more_segments_than_may_be_mapped_are_read_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(segments_module, "_MOST_MAPPED", 2)
    places = [(seed, *written(tmp_path, None, text(100, seed))) for seed in range(5)]
    segments = Segments(tmp_path, None)
    views = [(seed, segments.view(number, offset, 100)) for seed, number, (offset,) in places * 2]
    assert all(view == text(100, seed) for seed, view in views)
    assert len(segments._sources) == 2


def test_a_released_segment_gives_its_room_back_and_keeps_its_number(tmp_path: Path) -> None:
    number, (offset,) = written(tmp_path, None, text(1000))
    segments = Segments(tmp_path, None)
    view = segments.view(number, offset, 1000)
    release(tmp_path, number)
    assert path_of(tmp_path, number).stat().st_size == 0
    assert view == text(1000)
    assert refusal(Segments(tmp_path, None), number, offset, 1000) == "archive-damaged"
    assert written(tmp_path, None, b"x")[0] == number + 1


@given(st.lists(st.integers(1, 300), min_size=2, max_size=8))
def test_offsets_are_the_sizes_before_rounded_up_to_64(
    tmp_path_factory: pytest.TempPathFactory, sizes: list[int]
) -> None:
    _, offsets = written(tmp_path_factory.mktemp("segments"), None, *(text(size) for size in sizes))
    steps = [-(-size // 64) * 64 for size in sizes]
    assert offsets == [0, *accumulate(steps)][:-1]
    assert all(after > before for before, after in pairwise(offsets))
