import errno
import json
import os
import resource
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from client.data.archive.segments import path_of
from client.data.case_files import Quarantined
from client.data.prepared.store import INDEX, Store
from client.data.prepared.store_writer import write
from shared.errors import CapacityError, SiteDataError
from shared.preprocessing.image import Case

DATA = path_of(Path(), 1).name
SEAL = bytes(range(32))

BAD = Quarantined("q" * 24, "mask-shape", "the mask does not fit")


def case(name: str, shape: tuple[int, ...] = (1, 6, 5), *, masked: bool = True, label: object = None) -> Case:
    rng = np.random.default_rng(len(name) + sum(map(ord, name)))
    mask = rng.integers(0, 3, shape[1:], np.uint8) if masked else None
    voxels = rng.standard_normal(shape, np.float32)
    spacing = tuple(0.5 + axis for axis in range(len(shape) - 1))
    return Case(name, f"patient-of-{name}", voxels, mask, label, spacing, (("sex", "F"),))  # type: ignore[arg-type]


def same(found: Case, written: Case) -> bool:
    if found.mask is None or written.mask is None:
        masks = found.mask is written.mask
    else:
        masks = np.array_equal(found.mask, written.mask)
    rest = [(c.case_id, c.patient, c.label, c.spacing_mm, c.subgroups) for c in (found, written)]
    return masks and np.array_equal(found.voxels, written.voxels) and rest[0] == rest[1]


def stored(folder: Path, *cases: Case | Quarantined, key: str = "k") -> Store:
    write(folder, key, cases)
    return Store.open(folder, key)


def refusal(folder: Path, **how: str) -> str:
    with pytest.raises(SiteDataError) as caught:
        Store.open(folder, **how)  # type: ignore[arg-type]
    return caught.value.code


def flip(path: Path, position: int) -> None:
    with path.open("r+b") as file:
        file.seek(position)
        byte = file.read(1)[0]
        file.seek(position)
        file.write(bytes([byte ^ 1]))


def test_cases_of_different_sizes_come_back_as_they_were_written(tmp_path: Path) -> None:
    cases = [
        case("a"),
        case("b", (3, 17, 9), masked=False, label=1),
        case("c", (1, 4, 7, 3), label=(1, 0, 1)),
        case("d", (1, 1, 1), masked=True, label=0),
    ]
    store = stored(tmp_path, *cases)
    assert len(store) == len(cases) == 4
    assert all(same(store.case(position), written) for position, written in enumerate(cases))


shapes = st.lists(st.integers(1, 5), min_size=3, max_size=4).map(tuple)


@given(st.lists(st.tuples(shapes, st.booleans()), max_size=5))
@settings(max_examples=25, deadline=None)
def test_what_is_written_is_what_is_read(
    tmp_path_factory: pytest.TempPathFactory, kinds: list[tuple[tuple[int, ...], bool]]
) -> None:
    cases = [case(str(number), shape, masked=masked) for number, (shape, masked) in enumerate(kinds)]
    store = stored(tmp_path_factory.mktemp("store"), *cases)
    assert [same(store.case(position), written) for position, written in enumerate(cases)] == [True] * len(cases)


def test_the_bytes_on_disk_are_the_arrays_each_at_a_multiple_of_64(tmp_path: Path) -> None:
    """The oracle reads the file by the index's own offsets, without the store."""
    written = [case("a"), case("b", (2, 3, 3))]
    write(tmp_path, "k", written)
    entries = json.loads((tmp_path / INDEX).read_text())["index"]["cases"]
    data = (tmp_path / DATA).read_bytes()
    for entry, one in zip(entries, written, strict=True):
        assert entry["offset"] % 64 == 0
        voxels_end = entry["offset"] + one.voxels.nbytes
        mask_start = (voxels_end + 63) // 64 * 64
        assert data[entry["offset"] : voxels_end] == one.voxels.tobytes()
        assert data[mask_start : mask_start + one.mask.size] == one.mask.tobytes()  # type: ignore[union-attr]


def test_a_case_is_a_view_of_the_file_and_cannot_be_changed(tmp_path: Path) -> None:
    store = stored(tmp_path, case("a"))
    first, again = store.case(0), store.case(0)
    assert np.shares_memory(first.voxels, again.voxels)
    assert first.mask is not None
    assert again.mask is not None
    assert np.shares_memory(first.mask, again.mask)
    with pytest.raises(ValueError, match="read-only"):
        first.voxels[0, 0, 0] = 1.0


def test_a_view_outlives_the_store(tmp_path: Path) -> None:
    voxels = stored(tmp_path, case("a")).case(0).voxels
    (tmp_path / DATA).unlink()
    assert np.array_equal(voxels, case("a").voxels)


def test_arrays_that_are_not_contiguous_are_stored_by_value(tmp_path: Path) -> None:
    plain = case("a", (1, 6, 4))
    turned = Case("a", "p", plain.voxels.transpose(0, 2, 1), plain.mask.T, None, (1.0, 1.0))  # type: ignore[union-attr]
    found = stored(tmp_path, turned).case(0)
    assert np.array_equal(found.voxels, turned.voxels)
    assert np.array_equal(found.mask, turned.mask)  # type: ignore[arg-type]


def test_quarantined_cases_are_kept_with_their_reasons(tmp_path: Path) -> None:
    store = stored(tmp_path, BAD, case("a"), BAD)
    assert store.quarantined == (BAD, BAD)
    assert len(store) == 1


def test_a_store_may_be_empty(tmp_path: Path) -> None:
    assert len(stored(tmp_path)) == 0
    assert stored(tmp_path, BAD).quarantined == (BAD,)


def test_the_same_cases_have_the_same_digest_and_others_another(tmp_path: Path) -> None:
    first, again = stored(tmp_path / "1", case("a")), stored(tmp_path / "2", case("a"))
    assert first.digest == again.digest
    changed = case("a")
    changed.voxels[0, 0, 0] += 1
    assert stored(tmp_path / "3", changed).digest != first.digest


def test_a_store_of_another_key_is_refused_and_any_key_is_taken_unasked(tmp_path: Path) -> None:
    stored(tmp_path, case("a"), key="k")
    assert refusal(tmp_path, key="other") == "store-other"
    assert Store.open(tmp_path).key == "k"


def test_a_folder_without_index_holds_no_store(tmp_path: Path) -> None:
    assert refusal(tmp_path) == "store-missing"
    stored(tmp_path, case("a"))
    (tmp_path / INDEX).unlink()
    assert refusal(tmp_path) == "store-missing"


@pytest.mark.parametrize("position", [0, 7, 119, 128, 128 + 29])
def test_a_flipped_bit_in_voxels_or_mask_is_found_on_opening(tmp_path: Path, position: int) -> None:
    stored(tmp_path, case("a"))
    flip(tmp_path / DATA, position)
    assert refusal(tmp_path) == "store-damaged"


def test_a_flipped_bit_is_found_when_its_case_is_first_used_and_costs_no_other(tmp_path: Path) -> None:
    stored(tmp_path, case("a"), case("b"))
    flip(tmp_path / DATA, 3)
    store = Store.open(tmp_path, verify="on-use")
    assert same(store.case(1), case("b"))
    with pytest.raises(SiteDataError, match="case 1 of 2"):
        store.case(0)
    with pytest.raises(SiteDataError, match="case 1 of 2"):
        store.verify()


@pytest.mark.parametrize("cut", [0, 1, 100])
def test_a_data_file_of_another_length_is_refused(tmp_path: Path, cut: int) -> None:
    stored(tmp_path, case("a"))
    os.truncate(tmp_path / DATA, cut)
    assert refusal(tmp_path, verify="on-use") == "store-damaged"


def test_an_index_without_its_data_is_refused(tmp_path: Path) -> None:
    stored(tmp_path, case("a"))
    (tmp_path / DATA).unlink()
    assert refusal(tmp_path) == "store-damaged"


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '{"index": {}}', '{"index": {}, "sha256": "0"}', "\xff"])
def test_an_index_that_is_not_what_was_written_is_refused(tmp_path: Path, text: str) -> None:
    stored(tmp_path, case("a"))
    (tmp_path / INDEX).write_text(text, encoding="latin-1")
    assert refusal(tmp_path) == "store-damaged"


def test_a_changed_label_is_found(tmp_path: Path) -> None:
    stored(tmp_path, case("a", label=0))
    path = tmp_path / INDEX
    path.write_text(path.read_text().replace('"label": 0', '"label": 1'))
    assert refusal(tmp_path) == "store-damaged"


def test_nothing_but_salted_names_is_in_the_index(tmp_path: Path) -> None:
    stored(tmp_path, case("a"))
    (entry,) = json.loads((tmp_path / INDEX).read_text())["index"]["cases"]
    assert set(entry) == {
        "case_id", "patient", "label", "spacing_mm", "subgroups", "offset", "shape", "masked", "sha256"
    }  # fmt: skip


def test_only_the_owner_may_look_into_a_store(tmp_path: Path) -> None:
    folder = stored(tmp_path / "deep" / "store", case("a")).folder
    assert folder.stat().st_mode & 0o077 == 0


def failing(error: BaseException) -> Iterator[Case]:
    yield case("a")
    raise error


@pytest.mark.parametrize("error", [RuntimeError("bug"), KeyboardInterrupt(), OSError(errno.EIO, "input/output error")])
def test_an_interrupted_build_leaves_no_store_not_even_the_one_before(tmp_path: Path, error: BaseException) -> None:
    stored(tmp_path, case("old"))
    with pytest.raises(type(error)):
        write(tmp_path, "k", failing(error))
    assert refusal(tmp_path) == "store-missing"
    assert list(tmp_path.iterdir()) == []


def test_a_rebuilt_store_replaces_the_old_one_and_spares_its_readers(tmp_path: Path) -> None:
    before = stored(tmp_path, case("old")).case(0)
    after = stored(tmp_path, case("new"), case("newer"))
    assert len(after) == 2
    assert same(before, case("old"))


def test_a_full_disk_is_a_capacity_error_with_numbers_and_leaves_nothing(tmp_path: Path) -> None:
    """A file size limit makes the kernel refuse the write as a full disk would."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2**20, before[1]))
    try:
        with pytest.raises(CapacityError, match=r"no room after [01]\.\d MiB") as caught:
            write(tmp_path, "k", [case("large", (1, 1024, 1024))])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert caught.value.code == "disk-full"
    assert list(tmp_path.iterdir()) == []


def test_a_builder_killed_at_any_moment_leaves_no_store_or_a_whole_one(tmp_path: Path) -> None:
    """The child kills itself at each step that the kernel sees; the next builder must always succeed."""
    script = textwrap.dedent("""
        import os, signal, sys
        from pathlib import Path
        import numpy as np
        from client.data.prepared import store_writer
        from shared.preprocessing.image import Case

        left = int(sys.argv[2])
        def deadly(call):
            def counted(*arguments, **named):
                global left
                left -= 1
                if left < 0:
                    os.kill(os.getpid(), signal.SIGKILL)
                return call(*arguments, **named)
            return counted

        os.fsync = deadly(os.fsync)
        Path.replace = deadly(Path.replace)
        Path.unlink = deadly(Path.unlink)
        voxels = np.ones((1, 64, 64), np.float32)
        store_writer.write(Path(sys.argv[1]), "k", [Case("a", "p", voxels, None, 1, (1.0, 1.0))])
    """)
    root = Path(__file__).parents[2]
    outcomes = []
    for moment in range(11):
        folder = tmp_path / str(moment)
        stored(folder, case("old"), key="before")
        command = [sys.executable, "-c", script, str(folder), str(moment)]
        subprocess.run(command, cwd=root, check=False, timeout=60)
        try:
            outcomes.append(Store.open(folder).key)
        except SiteDataError as error:
            outcomes.append(error.code)
        assert len(stored(folder, case("a"))) == 1
    assert outcomes[0] == "before"
    assert outcomes[-1] == "k"
    assert set(outcomes) == {"before", "store-missing", "k"}


def sealed(folder: Path, *cases: Case) -> Store:
    write(folder, "k", cases, SEAL)
    return Store.open(folder, "k", seal=SEAL)


@given(st.lists(st.tuples(shapes, st.booleans()), max_size=3))
@settings(max_examples=10, deadline=None)
def test_what_is_sealed_is_what_is_read(
    tmp_path_factory: pytest.TempPathFactory, kinds: list[tuple[tuple[int, ...], bool]]
) -> None:
    cases = [case(str(number), shape, masked=masked) for number, (shape, masked) in enumerate(kinds)]
    store = sealed(tmp_path_factory.mktemp("store"), *cases)
    assert [same(store.case(position), written) for position, written in enumerate(cases)] == [True] * len(cases)


def test_no_voxel_of_a_sealed_store_lies_on_the_disk_in_the_clear(tmp_path: Path) -> None:
    """The control: the same search finds them in a store that is not sealed."""
    one = case("a", (1, 64, 64))
    sealed(tmp_path / "sealed", one)
    stored(tmp_path / "plain", one)
    piece = one.voxels.tobytes()[1000:1016]
    found = {
        folder: [piece in path.read_bytes() for path in (tmp_path / folder).iterdir()] for folder in ("sealed", "plain")
    }
    assert not any(found["sealed"])
    assert any(found["plain"])


@pytest.mark.parametrize("seal", [None, bytes(32)])
def test_a_sealed_store_opens_with_its_own_key_alone(tmp_path: Path, seal: bytes | None) -> None:
    sealed(tmp_path, case("a", (1, 64, 64)))
    with pytest.raises(SiteDataError) as caught:
        Store.open(tmp_path, "k", seal=seal)
    assert caught.value.code == "store-damaged"


def test_a_flipped_bit_of_a_sealed_store_is_found(tmp_path: Path) -> None:
    sealed(tmp_path, case("a"))
    flip(tmp_path / DATA, 500)
    with pytest.raises(SiteDataError, match="changed or moved"):
        Store.open(tmp_path, seal=SEAL)
