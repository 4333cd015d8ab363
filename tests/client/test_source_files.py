"""Every file of a source is met once, whatever lies between."""

import os
import shutil
import subprocess
import tempfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing import Pipe
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from made_hospital import SALT

from client.data.case_files import Quarantined, Salt
from client.data.source.files import SourceFile, same_bytes, walk
from shared.errors import SiteDataError

_NOBODY = 65534


def write(path: Path, content: bytes = b"x") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def pack(path: Path, files: dict[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return path


def met(*sources: Path) -> list[SourceFile]:
    found = list(walk(sources, SALT))
    assert all(isinstance(one, SourceFile) for one in found), found
    return [one for one in found if isinstance(one, SourceFile)]


def codes(*sources: Path) -> list[str]:
    return [one.code for one in walk(sources, SALT) if isinstance(one, Quarantined)]


@contextmanager
def a_folder_of_nobody() -> Iterator[Path]:
    """A folder outside the tests' own, looked at without the rights that root has over all files."""
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o755)
    root = os.geteuid() == 0
    try:
        yield folder
    finally:
        if root:
            os.seteuid(0)
        shutil.rmtree(folder)


def without_rights() -> None:
    if os.geteuid() == 0:
        os.seteuid(_NOBODY)


def test_files_come_in_the_order_of_names_folder_by_folder(tmp_path: Path) -> None:
    for name in ("b", "a/2", "a/1/x", "c"):
        write(tmp_path / name)
    assert [Path(one.path).relative_to(tmp_path).as_posix() for one in met(tmp_path)] == ["b", "c", "a/2", "a/1/x"]


def test_a_file_is_known_by_its_salted_path_within_the_source(tmp_path: Path) -> None:
    write(tmp_path / "Doe^Jane" / "1.dcm")
    (one,) = met(tmp_path)
    assert one.seen == SALT.case("file", "Doe^Jane/1.dcm")
    assert one.name == "1.dcm"
    assert "Doe" not in repr(one)


def test_a_single_file_and_an_archive_are_sources_too(tmp_path: Path) -> None:
    file, archive = write(tmp_path / "one.dcm", b"1"), pack(tmp_path / "Two.ZIP", {"a/2": b"2"})
    assert [one.read_bytes() for one in met(file, archive)] == [b"1", b"2"]
    assert [one.seen for one in met(file)] == [SALT.case("file", "one.dcm")]


def test_a_folder_in_an_archive_reads_like_a_folder_on_disk(tmp_path: Path) -> None:
    files = {"a/b/1": b"one" * 50, "a/2": b"", "3": bytes(100_000)}
    for method in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        pack(tmp_path / "x.zip", {**files, "a/": b""}, method)
        found = {one.key: one for one in met(tmp_path)}
        assert set(found) == {f"{tmp_path}/x.zip/{name}" for name in files}
        for name, content in files.items():
            one = found[f"{tmp_path}/x.zip/{name}"]
            assert one.read_bytes() == content
            assert one.head(4) == content[:4]
            with one.open() as stream:
                assert stream.read() == content
            assert one.seen == SALT.case("file", f"x.zip/{name}")


def test_a_file_crosses_process_borders_and_is_small(tmp_path: Path) -> None:
    write(tmp_path / "a", b"1")
    pack(tmp_path / "z.zip", {"b": b"2"})
    here, there = Pipe()
    for one in met(tmp_path):
        here.send(one)
        received = there.recv()
        assert received == one
        assert received.read_bytes() == one.read_bytes()
        here.send(one)
        assert len(there.recv_bytes()) < 500


def test_hidden_files_and_folders_are_passed_over_on_disk_and_in_archives(tmp_path: Path) -> None:
    write(tmp_path / ".hidden" / "1")
    write(tmp_path / ".DS_Store")
    pack(tmp_path / "x.zip", {".git/1": b"", "a/._2": b"", "__MACOSX/._3": b""})
    assert met(tmp_path) == []


def test_a_source_within_another_is_met_once(tmp_path: Path) -> None:
    inner = write(tmp_path / "a" / "1")
    assert len(met(tmp_path, tmp_path / "a", inner, tmp_path)) == 1


def test_equal_paths_in_two_sources_get_two_names(tmp_path: Path) -> None:
    for name in ("one", "two", "three"):
        write(tmp_path / name / "1.png")
    names = [file.seen for file in met(tmp_path / "one", tmp_path / "two", tmp_path / "three")]
    assert names[0] == SALT.case("file", "1.png")
    assert len(set(names)) == 3


def test_a_source_that_is_a_link_is_followed_and_names_do_not_change(tmp_path: Path) -> None:
    write(tmp_path / "real" / "1")
    (tmp_path / "link").symlink_to(tmp_path / "real")
    assert met(tmp_path / "link") == met(tmp_path / "real")


def test_a_source_that_is_not_there_is_refused_by_its_place(tmp_path: Path) -> None:
    with pytest.raises(SiteDataError, match="source 2 of 2") as caught:
        list(walk((tmp_path, tmp_path / "Doe"), SALT))
    assert caught.value.code == "source-missing"
    assert "Doe" not in caught.value.sentence + caught.value.hint


def test_links_to_folders_within_are_not_walked_twice_and_loops_end(tmp_path: Path) -> None:
    write(tmp_path / "a" / "1")
    (tmp_path / "b").symlink_to(tmp_path / "a")
    (tmp_path / "a" / "up").symlink_to(tmp_path)
    assert len(met(tmp_path)) == 1


def test_links_out_of_the_source_and_to_nowhere_are_set_aside(tmp_path: Path) -> None:
    write(tmp_path / "outside" / "1")
    source = tmp_path / "source"
    write(source / "ok")
    (source / "file").symlink_to(tmp_path / "outside" / "1")
    (source / "folder").symlink_to(tmp_path / "outside")
    (source / "gone").symlink_to(tmp_path / "gone")
    (source / "loop").symlink_to(source / "loop")
    (source / "sourcery").symlink_to(write(tmp_path / "source2" / "1"))
    assert sorted(codes(source)) == ["file-unreadable"] * 2 + ["path-outside"] * 3
    assert [one.name for one in walk((source,), SALT) if isinstance(one, SourceFile)] == ["ok"]


def test_a_pipe_is_set_aside_and_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    write(tmp_path / "z")
    assert codes(tmp_path) == ["file-unreadable"]
    assert codes(tmp_path / "pipe") == ["file-unreadable"]


def test_a_folder_that_cannot_be_read_is_set_aside_and_the_walk_goes_on() -> None:
    with a_folder_of_nobody() as folder:
        write(folder / "a" / "1")
        write(folder / "b" / "2")
        (folder / "a").chmod(0)
        (folder / "b").chmod(0o755)
        without_rights()
        found = list(walk((folder,), SALT))
        (aside,) = [one for one in found if isinstance(one, Quarantined)]
        assert (aside.case_id, aside.code) == (SALT.case("file", "a"), "folder-unreadable")
        assert len(found) == 2


def test_a_path_deeper_than_python_nests_is_walked(tmp_path: Path) -> None:
    folder = str(tmp_path)
    for _ in range(1100):
        folder += "/d"
        Path(folder).mkdir()
    Path(folder, "f").touch()
    assert len(met(tmp_path)) == 1
    subprocess.run(["rm", "-r", tmp_path / "d"], check=True)  # the clean-up of temporary folders nests


def test_a_name_that_is_no_utf_8_is_a_name(tmp_path: Path) -> None:
    Path(os.fsdecode(os.fsencode(tmp_path) + b"/J\xf6rg.dcm")).write_bytes(b"x")
    (one,) = met(tmp_path)
    assert one.read_bytes() == b"x"
    assert len(one.seen) == 24


def test_names_depend_on_the_secret(tmp_path: Path) -> None:
    write(tmp_path / "a")
    (one,) = met(tmp_path)
    (other,) = walk((tmp_path,), Salt("north", bytes(16)))
    assert isinstance(other, SourceFile)
    assert one.seen != other.seen


@given(st.binary(max_size=60), st.binary(max_size=60))
def test_two_files_are_the_same_exactly_when_their_bytes_are(
    tmp_path_factory: pytest.TempPathFactory, first: bytes, second: bytes
) -> None:
    folder = tmp_path_factory.mktemp("same")
    one = SourceFile(str(write(folder / "1", first)), "1")
    two = SourceFile(str(write(folder / "2", second)), "2")
    assert same_bytes(one, two) == (first == second)
    assert same_bytes(one, one)
    assert not same_bytes(one, SourceFile(str(folder / "gone"), "3"))


def test_files_that_differ_in_their_last_byte_are_not_the_same(tmp_path: Path) -> None:
    one = SourceFile(str(write(tmp_path / "1", bytes(3 * 2**20) + b"a")), "1")
    two = SourceFile(str(write(tmp_path / "2", bytes(3 * 2**20) + b"b")), "2")
    three = SourceFile(str(write(tmp_path / "3", bytes(2**20))), "3")
    assert not same_bytes(one, two)
    assert not same_bytes(one, three)
    assert not same_bytes(three, one)
