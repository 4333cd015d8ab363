import hashlib
import os
import resource
import stat
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from tiny_archive import Made, fill, made, name_of, tiny_archive

from client.data.archive.archive import Archive
from client.data.archive.catalogue import Change
from client.data.archive.keeping import write_case
from client.data.archive.record import Record
from client.data.archive.segments import SegmentWriter, numbers, path_of
from client.data.case_files import Quarantined
from client.data.source.found import FileSeen
from shared.crypto.sealing import CHUNK
from shared.errors import CapacityError, ConsiliumError, SiteDataError
from shared.preprocessing.image import Image

ROOT = Path(__file__).parents[2]
KEY = bytes(range(32))
KEYS = pytest.mark.parametrize("key", [None, KEY], ids=["plain", "sealed"])
AFFINE = np.array([[0, 0.1, 1, -3], [0.2, 2, 0, 5], [3, 0, 0, 1.5], [0, 0, 0, 1]])


def volume(number: int, **changes: Any) -> Made:
    """A masked volume of fractions, 9 KiB."""
    rng = np.random.default_rng(number)
    voxels, mask = rng.standard_normal((1, 6, 15, 20), np.float32), rng.integers(0, 3, (6, 15, 20), np.uint8)
    return made(number, voxels=voxels, mask=mask, modality="ct", **changes)


def refusal(act: Callable[[], object]) -> str:
    with pytest.raises(ConsiliumError) as caught:
        act()
    return caught.value.code


def holds(archive: Archive, case: Made) -> bool:
    """Whether image and mask are those of ``case``, to the bit."""
    record = archive.record(case.case_id)
    assert record is not None
    mask = archive.mask(record)
    same_mask = mask is case.mask if mask is None or case.mask is None else np.array_equal(mask, case.mask)
    return same_mask and archive.image(record).voxels.tobytes() == case.voxels.tobytes()


def flip(archive: Archive, record: Record, position: int) -> None:
    """Change one bit of a case's byte ``position``, on disk."""
    path = path_of(archive.segments_folder, record.location.segment)
    sealed = 64 + 16 * ((record.location.offset + position) // CHUNK) if archive.key else 0
    with path.open("r+b") as file:
        file.seek(record.location.offset + position + sealed)
        byte = file.read(1)[0]
        file.seek(-1, os.SEEK_CUR)
        file.write(bytes([byte ^ 4]))


MIXED = (made(1), volume(2), made(3, voxels=np.full((3, 7, 200), -0.0, np.float32)), volume(4, label=None), made(5))


@KEYS
def test_images_of_all_sizes_lie_side_by_side_and_come_back_to_the_bit(tmp_path: Path, key: bytes | None) -> None:
    with tiny_archive(tmp_path, MIXED, key=key) as archive:
        assert len(archive) == 5
        assert all(holds(archive, case) for case in MIXED)
        assert [record.case_id for record in archive.records()] == sorted(case.case_id for case in MIXED)


kinds = st.tuples(
    hnp.array_shapes(min_dims=3, max_dims=4, max_side=9),
    st.sampled_from([(0, 255), (-1000, 3000), (0, 60000), None]),
    st.booleans(),
)


@settings(max_examples=25)
@given(st.lists(kinds, min_size=1, max_size=4), st.sampled_from([None, KEY]))
def test_what_is_written_is_what_is_read(
    tmp_path_factory: pytest.TempPathFactory, wanted: list[Any], key: bytes | None
) -> None:
    cases = []
    for number, (shape, values, masked) in enumerate(wanted):
        rng = np.random.default_rng(number)
        drawn = rng.standard_normal(shape) if values is None else rng.integers(*values, shape)
        mask = rng.integers(0, 4, shape[1:], np.uint8) if masked else None
        cases.append(made(number, voxels=drawn.astype(np.float32), mask=mask))
    with tiny_archive(tmp_path_factory.mktemp("archive"), cases, key=key) as archive:
        assert [holds(archive, case) for case in cases] == [True] * len(cases)


@KEYS
def test_geometry_comes_back_with_the_image(tmp_path: Path, key: bytes | None) -> None:
    more = {"spacing_mm": (3.0, 2.5, 1 / 3), "affine_lps": tuple(AFFINE.flat), "spacing_known": False}
    with tiny_archive(tmp_path, [volume(1, more=more)], key=key) as archive:
        image = archive.image(next(archive.records()))
    assert image.spacing_mm == (3.0, 2.5, 1 / 3)
    assert image.affine_lps is not None
    assert np.array_equal(image.affine_lps, AFFINE)
    assert (image.modality, image.spacing_known) == ("ct", False)


def test_an_image_without_position_has_no_affine(tmp_path: Path) -> None:
    with tiny_archive(tmp_path, [made(1)]) as archive:
        record = next(archive.records())
        assert archive.image(record).affine_lps is None
        assert archive.mask(record) is None
        assert archive.crop_mask(record, (0, 0), (1, 1)) is None


def test_plain_fractions_are_a_read_only_view_that_outlives_the_archive(tmp_path: Path) -> None:
    case = volume(1)
    with tiny_archive(tmp_path, [case]) as archive:
        record = next(archive.records())
        first, again = archive.image(record).voxels, archive.image(record).voxels
    assert np.shares_memory(first, again)
    with pytest.raises(ValueError, match="read-only"):
        first[0, 0, 0, 0] = 1
    for path in (tmp_path / "segments").iterdir():
        path.unlink()
    assert np.array_equal(first, case.voxels)


@KEYS
@settings(max_examples=25)
@given(data=st.data())
def test_a_crop_is_the_slice_of_the_whole_image_and_mask(
    tmp_path_factory: pytest.TempPathFactory, key: bytes | None, data: st.DataObject
) -> None:
    case = volume(1)
    start = tuple(data.draw(st.integers(0, whole - 1)) for whole in (6, 15, 20))
    size = tuple(data.draw(st.integers(1, whole - at)) for whole, at in zip((6, 15, 20), start, strict=True))
    window = tuple(slice(at, at + extent) for at, extent in zip(start, size, strict=True))
    with tiny_archive(tmp_path_factory.mktemp("archive"), [made(0), case], key=key) as archive:
        record = archive.record(case.case_id)
        assert record is not None
        found, mask = archive.crop(record, start, size), archive.crop_mask(record, start, size)
    assert case.mask is not None
    assert np.array_equal(found, case.voxels[(slice(None), *window)])
    assert np.array_equal(mask, case.mask[window])  # type: ignore[arg-type]


def test_a_crop_has_all_channels_and_stays_within_the_image(tmp_path: Path) -> None:
    with tiny_archive(tmp_path, [made(1, voxels=np.ones((3, 8, 9), np.float32))]) as archive:
        record = next(archive.records())
        assert archive.crop(record, (2, 3), (4, 5)).shape == (3, 4, 5)
        with pytest.raises(ValueError, match="does not lie within"):
            archive.crop(record, (2, 3), (7, 5))


USES: dict[str, Callable[[Archive, Record], object]] = {
    "image": lambda archive, record: archive.image(record),
    "mask": lambda archive, record: archive.mask(record),
    "crop": lambda archive, record: archive.crop(record, (0, 0, 0), (1, 1, 1)),
    "crop_mask": lambda archive, record: archive.crop_mask(record, (5, 14, 19), (1, 1, 1)),
    "verify": lambda archive, record: archive.verify(record),
}


@KEYS
@settings(max_examples=25)
@given(position=st.integers(0, 5 * 6 * 15 * 20 - 1), use=st.sampled_from(sorted(USES)))
def test_a_flipped_bit_anywhere_is_found_by_the_first_use_and_costs_no_other_case(
    tmp_path_factory: pytest.TempPathFactory, key: bytes | None, position: int, use: str
) -> None:
    # 64 KiB of another case between them: sealed chunks are not shared.
    between = made(0, voxels=np.zeros((1, 512, 512), np.float32))
    other = made(1)
    with tiny_archive(tmp_path_factory.mktemp("archive"), [volume(2), between, other], key=key) as archive:
        record = archive.record(volume(2).case_id)
        assert record is not None
        flip(archive, record, position)
        assert refusal(lambda: USES[use](archive, record)) == "archive-damaged"
        assert refusal(lambda: USES[use](archive, record)) == "archive-damaged"
        assert holds(archive, other)


@pytest.mark.parametrize("use", ["image", "crop"])
def test_a_case_is_hashed_once_and_again_when_asked(tmp_path: Path, use: str, monkeypatch: pytest.MonkeyPatch) -> None:
    hashed = []
    genuine = hashlib.sha256
    with tiny_archive(tmp_path, [volume(1)]) as archive:
        record = next(archive.records())
        monkeypatch.setattr("client.data.archive.keeping.hashlib.sha256", lambda *a: hashed.append(1) or genuine(*a))
        for _ in range(3):
            USES[use](archive, record)
        assert len(hashed) == 1
        archive.verify(record)
        assert len(hashed) == 2


def test_an_error_names_the_case_by_its_salted_name_only(tmp_path: Path) -> None:
    with tiny_archive(tmp_path / "patient-name", [volume(1)]) as archive:
        record = next(archive.records())
        flip(archive, record, 0)
        with pytest.raises(SiteDataError) as caught:
            archive.verify(record)
    assert caught.value.sentence == f"case {record.case_id} does not hold what was stored"
    assert "patient-name" not in caught.value.sentence + caught.value.hint


def test_a_record_that_points_to_another_case_is_refused(tmp_path: Path) -> None:
    with tiny_archive(tmp_path, [volume(1), volume(2)], key=KEY) as archive:
        one, other = archive.records()
        assert refusal(lambda: archive.image(replace(one, location=other.location))) == "archive-damaged"


@KEYS
def test_an_archive_opens_with_its_own_key_only(tmp_path: Path, key: bytes | None) -> None:
    tiny_archive(tmp_path, [made(1)], key=key).close()
    other = {None: (KEY, "archive-not-sealed"), KEY: (None, "archive-sealed")}[key]
    for way in (Archive.open, Archive.open_or_create):
        assert refusal(lambda way=way: way(tmp_path, other[0])) == other[1]  # type: ignore[misc]
    if key is not None:
        with pytest.raises(SiteDataError, match="not the one that this archive was sealed with") as caught:
            Archive.open(tmp_path, bytes(32))
        assert caught.value.code == "wrong-key"
    with Archive.open_or_create(tmp_path, key) as archive:
        assert holds(archive, made(1))


def test_nothing_of_an_image_is_readable_in_a_sealed_archive(tmp_path: Path) -> None:
    """The search finds the pixels of the same case in a plain archive."""
    case = made(1, voxels=np.tile(np.arange(1, 17, dtype=np.float32), (1, 64, 8)))
    for key, expected in ((None, True), (KEY, False)):
        folder = tmp_path / str(expected)
        tiny_archive(folder, [case], key=key).close()
        found = b"".join(path.read_bytes() for path in folder.rglob("*") if path.is_file())
        assert (bytes(range(1, 17)) in found) is expected
        assert KEY not in found
        assert KEY.hex().encode() not in found


def test_the_key_is_not_shown(tmp_path: Path) -> None:
    with tiny_archive(tmp_path, [], key=KEY) as archive:
        assert KEY.hex() not in repr(archive)
        assert repr(KEY) not in repr(archive)


def test_only_the_owner_may_look_into_an_archive(tmp_path: Path) -> None:
    with Archive.open_or_create(tmp_path / "deep" / "archive") as archive:
        fill(archive, [made(1)])
        for path in [archive.folder, *archive.folder.rglob("*")]:
            assert stat.S_IMODE(path.stat().st_mode) == (0o700 if path.is_dir() else 0o600), path.name


def test_a_second_process_that_adds_is_refused_and_readers_are_not(tmp_path: Path) -> None:
    script = (
        "import sys; from pathlib import Path; from client.data.archive.archive import Archive\n"
        + textwrap.dedent("""
        from shared.errors import SiteDataError
        with Archive.open(Path(sys.argv[1])) as archive:
            print(len(archive))
        try:
            Archive.open_or_create(Path(sys.argv[1]))
        except SiteDataError as error:
            print(error.code)
    """)
    )
    with Archive.open_or_create(tmp_path) as archive:
        fill(archive, [made(1)])
        assert refusal(lambda: Archive.open_or_create(tmp_path)) == "archive-locked"
        command = [sys.executable, "-c", script, str(tmp_path)]
        said = subprocess.run(command, cwd=ROOT, check=True, timeout=60, capture_output=True, text=True)
        assert said.stdout.split() == ["1", "archive-locked"]
    Archive.open_or_create(tmp_path).close()


def test_a_refused_opening_does_not_keep_others_out(tmp_path: Path) -> None:
    tiny_archive(tmp_path, [made(1)], key=KEY).close()
    assert refusal(lambda: Archive.open_or_create(tmp_path, None)) == "archive-sealed"
    Archive.open_or_create(tmp_path, KEY).close()


@KEYS
def test_a_reader_sees_cases_that_are_added_while_it_reads(tmp_path: Path, key: bytes | None) -> None:
    with tiny_archive(tmp_path, [volume(1)], key=key) as reader, Archive.open_or_create(tmp_path, key) as archive:
        assert holds(reader, volume(1))
        fill(archive, [volume(2)])
        assert len(reader) == 2
        assert holds(reader, volume(2))
        assert holds(reader, volume(1))


def test_an_archive_that_was_opened_to_read_takes_no_cases(tmp_path: Path) -> None:
    with tiny_archive(tmp_path, [made(1)]) as archive:
        for add in (archive.new_segment, lambda: archive.commit(Change()), lambda: archive.annotate([])):
            with pytest.raises(RuntimeError, match="opened to read"):
                add()
        record = next(archive.records())
        archive.keep_measurements([(record.case_id, record.sha256, "{}")])
        assert list(archive.measurements()) == [(record.case_id, record.sha256, "{}")]


def test_where_nothing_was_ingested_there_is_nothing_to_open(tmp_path: Path) -> None:
    assert refusal(lambda: Archive.open(tmp_path / "archive")) == "archive-missing"
    assert not (tmp_path / "archive").exists()


def test_all_that_was_committed_is_there_when_it_is_opened_again(tmp_path: Path) -> None:
    bad, seen = Quarantined(name_of("bad"), "mask-shape", "it does not fit"), FileSeen(name_of("f"), "image")
    with Archive.open_or_create(tmp_path) as archive:
        fill(archive, [made(1)], [bad])
        archive.commit(Change(files=[seen]))
        record = next(archive.records())
        archive.annotate([replace(record, label="malignant", patient=name_of("another"))])
    with Archive.open(tmp_path) as archive:
        assert archive.quarantined() == [bad]
        assert list(archive.files()) == [seen]
        assert list(archive.records()) == [replace(record, label="malignant", patient=name_of("another"))]
        assert holds(archive, made(1))


def test_rows_of_bytes_that_are_not_on_the_disk_are_refused_whole(tmp_path: Path) -> None:
    with tiny_archive(tmp_path / "source", [made(1), volume(2)]) as source:
        records = list(source.records())
    with Archive.open_or_create(tmp_path / "target", KEY) as archive, archive.new_segment() as writer:
        said = []
        for record, case in zip(records, sorted((made(1), volume(2)), key=lambda one: one.case_id), strict=True):
            written = write_case(writer, Image(case.voxels, record.spacing_mm, case.modality), case.mask)
            said.append(replace(record, location=written.location))
        with pytest.raises(SiteDataError, match=r"ends at byte \d+ of 0: not flushed"):
            archive.commit(Change(said))
        assert len(archive) == 0
        writer.flush()
        archive.commit(Change(said))
        assert holds(archive, made(1))


@KEYS
def test_what_nothing_refers_to_is_counted_and_given_back(tmp_path: Path, key: bytes | None) -> None:
    with tiny_archive(tmp_path, [volume(1), volume(2)], key=key) as archive:
        before = archive.unreferenced()
        stale = archive.record(volume(1).case_id)
    assert stale is not None
    with Archive.open_or_create(tmp_path, key) as archive:
        fill(archive, [made(1)])
        assert archive.unreferenced() >= before + 9000
        fill(archive, [made(2)])
        assert numbers(archive.segments_folder) == [1, 2, 3]
    with Archive.open_or_create(tmp_path, key) as archive:
        assert path_of(archive.segments_folder, 1).stat().st_size == 0
        assert holds(archive, made(1))
        assert holds(archive, made(2))
        assert refusal(lambda: archive.image(stale)) == "archive-damaged"
        fill(archive, [made(3)])
        assert numbers(archive.segments_folder) == [1, 2, 3, 4]


def test_a_reader_keeps_what_it_has_mapped_when_room_is_given_back(tmp_path: Path) -> None:
    with tiny_archive(tmp_path, [volume(1)]) as reader:
        record = next(reader.records())
        assert holds(reader, volume(1))
        with Archive.open_or_create(tmp_path) as archive:
            fill(archive, [made(1)])
        Archive.open_or_create(tmp_path).close()
        assert reader.image(record).voxels.tobytes() == volume(1).voxels.tobytes()


@KEYS
def test_a_full_disk_leaves_what_was_stored_and_the_next_run_goes_on(tmp_path: Path, key: bytes | None) -> None:
    """A file size limit makes the kernel refuse the write as a full disk would."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    large = made(9, voxels=np.random.default_rng(9).standard_normal((1, 700, 700), np.float32))
    with Archive.open_or_create(tmp_path, key) as archive:
        fill(archive, [volume(1)])
        resource.setrlimit(resource.RLIMIT_FSIZE, (2**20, before[1]))
        try:
            assert refusal(lambda: fill(archive, [volume(2), large])) == "disk-full"
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
        assert [record.case_id for record in archive.records()] == [volume(1).case_id]
        assert archive.unreferenced() > 900_000
    with Archive.open_or_create(tmp_path, key) as archive:
        assert archive.unreferenced() < CHUNK
        fill(archive, [volume(2), large])
        assert all(holds(archive, case) for case in (volume(1), volume(2), large))


def test_a_disk_without_room_for_a_catalogue_is_said_so(tmp_path: Path) -> None:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, before[1]))
    try:
        code = refusal(lambda: Archive.open_or_create(tmp_path))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert code in {"archive-unwritable", "disk-full"}
    Archive.open_or_create(tmp_path).close()


FILLER = textwrap.dedent("""
    import sys
    from pathlib import Path
    from tiny_archive import fill
    from client.data.archive.archive import Archive
    sys.path.insert(0, str(Path(sys.argv[3])))
    from test_archive_archive import volume

    with Archive.open_or_create(Path(sys.argv[1]), bytes(range(32)) if sys.argv[2] == "sealed" else None) as archive:
        print("open", flush=True)
        for number in range(10**6):
            fill(archive, [volume(number)])
            print(number, flush=True)
""")


@pytest.mark.slow
@KEYS
@pytest.mark.parametrize("lines", [1, 2, 9, 30])
def test_a_writer_that_is_killed_leaves_whole_cases_only_and_the_next_goes_on(
    tmp_path: Path, key: bytes | None, lines: int
) -> None:
    """Each case that the killed process had said to be stored is there, each case that is there is whole."""
    command = [sys.executable, "-c", FILLER, str(tmp_path), "sealed" if key else "plain", str(Path(__file__).parent)]
    environment = os.environ | {"PYTHONPATH": f"{ROOT}:{ROOT / 'tests' / 'support'}"}
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, env=environment) as process:
        assert process.stdout is not None
        said = [process.stdout.readline().strip() for _ in range(lines)]
        process.kill()
        said += process.stdout.read().split()
    stored = [int(word) for word in said if word.isdecimal()]
    assert process.returncode == -9
    assert said[0] == "open"
    with Archive.open_or_create(tmp_path, key) as archive:
        # The case that was on its way may be stored and not yet said.
        assert len(archive) in {len(stored), len(stored) + 1}
        assert all(holds(archive, volume(number)) for number in range(len(archive)))
        fill(archive, [volume(number) for number in range(40)])
        assert all(holds(archive, volume(number)) for number in range(40))


def cut_segments(folder: Path, key: bytes | None) -> Iterator[Path]:
    """Segments as a writer leaves them that was killed after some bytes of its last case."""
    for length in (0, 1, 63, 64, 65, 5000, CHUNK + 80, CHUNK + 81):
        with SegmentWriter.create(folder, key) as writer:
            writer.append(np.random.default_rng(length).bytes(2 * CHUNK))
        os.truncate(path_of(folder, writer.number), length)
        yield path_of(folder, writer.number)


@KEYS
def test_leftovers_of_killed_writers_are_survived_and_cleared_away(tmp_path: Path, key: bytes | None) -> None:
    tiny_archive(tmp_path, [volume(1)], key=key).close()
    left = list(cut_segments(tmp_path / "segments", key))
    (tmp_path / "segments" / "000003.empty").touch()
    with Archive.open(tmp_path, key) as archive:
        assert holds(archive, volume(1))
        assert archive.unreferenced() >= 0
    with Archive.open_or_create(tmp_path, key) as archive:
        assert all(path.stat().st_size <= 64 + CHUNK for path in left)
        assert sum(archive._segments.length(int(path.stem)) for path in left) == 0
        fill(archive, [volume(2)])
        assert holds(archive, volume(1))
        assert holds(archive, volume(2))


WORKER = textwrap.dedent("""
    import sys
    from pathlib import Path
    from client.data.archive.keeping import write_case
    from client.data.archive.segments import SegmentWriter
    from shared.preprocessing.image import Image
    sys.path.insert(0, sys.argv[2])
    from test_archive_archive import volume

    with SegmentWriter.create(Path(sys.argv[1]), bytes(range(32))) as writer:
        for number in range(int(sys.argv[3]), 30, 3):
            case = volume(number)
            written = write_case(writer, Image(case.voxels, (1.0, 1.0, 1.0), "ct"), case.mask)
            writer.flush()
            print(number, written.kept, written.sha256, written.location.segment, written.location.offset, flush=True)
""")


@pytest.mark.slow
def test_several_processes_write_at_once_while_one_commits_and_one_reads(tmp_path: Path) -> None:
    environment = os.environ | {"PYTHONPATH": f"{ROOT}:{ROOT / 'tests' / 'support'}"}
    with tiny_archive(tmp_path / "model", [volume(0)]) as model:
        like = next(model.records())
    with Archive.open_or_create(tmp_path / "archive", KEY) as archive, Archive.open(archive.folder, KEY) as reader:
        workers = [
            subprocess.Popen(
                [sys.executable, "-c", WORKER, str(archive.segments_folder), str(Path(__file__).parent), str(first)],
                cwd=ROOT, stdout=subprocess.PIPE, text=True, env=environment,
            )
            for first in range(3)
        ]  # fmt: skip
        for _ in range(10):
            for worker in workers:
                assert worker.stdout is not None
                number, _, sha256, segment, offset = worker.stdout.readline().split()
                case, place = volume(int(number)), replace(like.location, segment=int(segment), offset=int(offset))
                archive.commit(Change([replace(like, case_id=case.case_id, sha256=sha256, location=place)]))
                assert holds(reader, case)
        assert [worker.wait(60) for worker in workers] == [0, 0, 0]
        for worker in workers:
            assert worker.stdout is not None
            worker.stdout.close()
        assert len(reader) == 30
        assert len(numbers(archive.segments_folder)) == 3


def test_errors_of_a_full_disk_are_capacity_errors(tmp_path: Path) -> None:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    with Archive.open_or_create(tmp_path) as archive, archive.new_segment() as writer:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))
        try:
            with pytest.raises(CapacityError, match="no room"):
                write_case(writer, Image(np.full((1, 99, 99), 0.5, np.float32), (1.0, 1.0)), None)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
