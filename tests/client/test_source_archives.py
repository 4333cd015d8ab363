"""Archives are read like folders, and refused where they declare what no export holds."""

import random
import zipfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from made_hospital import SALT

from client.data.case_files import Quarantined
from client.data.source.archives import Member, members, unpacked
from client.data.source.files import walk
from shared.errors import CaseError

MIB = 2**20


def pack(path: Path, files: dict[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> Path:
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return path


def declaring(path: Path, files: dict[str, bytes], **declared: int) -> Path:
    """An archive whose table of contents says of its last file what it is told to say."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
        for attribute, value in declared.items():
            setattr(archive.infolist()[-1], attribute, value)
    return path


def refusal(path: Path) -> str:
    with pytest.raises(CaseError) as caught:
        members(str(path))
    assert path.name not in str(caught.value)
    return caught.value.code


def test_members_come_by_name_without_folders(tmp_path: Path) -> None:
    path = pack(tmp_path / "x.zip", {"b": b"1", "a/": b"", "a/c": b"22"})
    assert [(one.name, one.size) for one in members(str(path))] == [("a/c", 2), ("b", 1)]


@given(st.lists(st.binary(max_size=3000), max_size=4), st.sampled_from([zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED]))
def test_what_was_packed_is_unpacked_whole_or_in_part(
    tmp_path_factory: pytest.TempPathFactory, contents: list[bytes], method: int
) -> None:
    path = tmp_path_factory.mktemp("zip") / "x.zip"
    pack(path, {str(number): content for number, content in enumerate(contents)}, method)
    for member in members(str(path)):
        content = contents[int(member.name)]
        assert unpacked(str(path), member) == content
        assert unpacked(str(path), member, 100) == content[:100]
        assert unpacked(str(path), member, 0) == b""


def test_what_does_not_compress_is_unpacked_too(tmp_path: Path) -> None:
    content = random.Random(1).randbytes(3 * MIB)
    (member,) = members(str(pack(tmp_path / "x.zip", {"a": content})))
    assert unpacked(str(tmp_path / "x.zip"), member) == content
    assert unpacked(str(tmp_path / "x.zip"), member, MIB) == content[:MIB]


def test_an_archive_that_begins_with_something_else_is_read(tmp_path: Path) -> None:
    """Self-extracting archives carry a program in front."""
    path = pack(tmp_path / "x.zip", {"a": b"content"})
    path.write_bytes(b"program" * 10 + path.read_bytes())
    (member,) = members(str(path))
    assert unpacked(str(path), member) == b"content"


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04", b"no archive", b"PK\x05\x06" + bytes(10)])
def test_what_is_no_archive_is_broken(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "x.zip"
    path.write_bytes(content)
    assert refusal(path) == "archive-broken"


def test_an_archive_that_was_cut_off_is_broken(tmp_path: Path) -> None:
    path = pack(tmp_path / "x.zip", {"a": bytes(1000)})
    path.write_bytes(path.read_bytes()[:-10])
    assert refusal(path) == "archive-broken"


def test_an_empty_archive_holds_nothing(tmp_path: Path) -> None:
    assert members(str(pack(tmp_path / "x.zip", {}))) == []


def test_an_encrypted_archive_is_refused(tmp_path: Path) -> None:
    assert refusal(declaring(tmp_path / "x.zip", {"a": b"1", "b": b"2"}, flag_bits=1)) == "archive-encrypted"


def test_a_method_that_is_not_known_is_refused(tmp_path: Path) -> None:
    assert refusal(pack(tmp_path / "x.zip", {"a": b"1"}, zipfile.ZIP_LZMA)) == "archive-broken"


def test_a_file_larger_than_any_image_is_refused(tmp_path: Path) -> None:
    size = 2**32 + 1
    assert refusal(declaring(tmp_path / "x.zip", {"a": b"1"}, file_size=size, compress_size=size)) == "archive-bomb"


def test_a_suspicious_ratio_is_refused_from_64_mib_on(tmp_path: Path) -> None:
    content = b"1" * 1000
    assert len(members(str(declaring(tmp_path / "x.zip", {"a": content}, file_size=64 * MIB)))) == 1
    assert refusal(declaring(tmp_path / "x.zip", {"a": content}, file_size=64 * MIB + 1)) == "archive-bomb"


def test_a_real_bomb_is_refused_without_being_unpacked(tmp_path: Path) -> None:
    path = pack(tmp_path / "x.zip", {"zeros": bytes(80 * MIB)})
    assert path.stat().st_size < MIB
    assert refusal(path) == "archive-bomb"


def test_files_that_overlap_are_refused_by_their_sum(tmp_path: Path) -> None:
    """Each of a thousand entries points at the same content: no ratio is high, the sum is."""
    content = random.Random(2).randbytes(MIB // 2)
    path = tmp_path / "x.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        archive.writestr("a", content)
        archive.filelist += [archive.filelist[0]] * 1000
    assert refusal(path) == "archive-bomb"


def test_more_than_is_declared_is_never_unpacked_and_is_damage(tmp_path: Path) -> None:
    path = declaring(tmp_path / "x.zip", {"a": bytes(10_000)}, file_size=10)
    (member,) = members(str(path))
    with pytest.raises(OSError, match="damaged"):
        unpacked(str(path), member)


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
@given(position=st.integers(0, 2**16), flip=st.integers(1, 255))
def test_a_flipped_byte_in_the_content_is_damage_unless_it_means_the_same(
    tmp_path_factory: pytest.TempPathFactory, method: int, position: int, flip: int
) -> None:
    original = random.Random(3).randbytes(500)
    path = pack(tmp_path_factory.mktemp("zip") / "x.zip", {"a": original}, method)
    (member,) = members(str(path))
    content = bytearray(path.read_bytes())
    content[31 + position % member.packed] ^= flip  # 30 bytes of local header, one of name
    path.write_bytes(content)
    try:
        assert unpacked(str(path), member) == original
        assert method == zipfile.ZIP_DEFLATED  # the mark of the last block says nothing about its content
    except OSError:
        pass


def test_an_archive_that_was_replaced_since_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "x.zip"
    path.write_bytes(b"something else altogether, and long enough")
    for member in (Member("a", 0, 5, 5, 0, 0), Member("a", 10_000, 5, 5, 0, 0)):
        with pytest.raises(OSError, match="changed"):
            unpacked(str(path), member)


def test_names_in_an_archive_reach_no_other_file(tmp_path: Path) -> None:
    (tmp_path / "secret").write_bytes(b"secret")
    (tmp_path / "in").mkdir()
    pack(tmp_path / "in" / "x.zip", {"../../secret": b"own"})
    (one,) = walk((tmp_path / "in",), SALT)
    assert not isinstance(one, Quarantined)
    assert one.read_bytes() == b"own"


def test_a_walk_sets_a_bad_archive_aside_as_one_file_and_goes_on(tmp_path: Path) -> None:
    (tmp_path / "a.zip").write_bytes(b"no archive")
    pack(tmp_path / "b.zip", {"1": b"1", "inner.zip": b"PK"})
    found = list(walk((tmp_path,), SALT))
    aside = {one.case_id: one.code for one in found if isinstance(one, Quarantined)}
    assert aside == {
        SALT.case("file", "a.zip"): "archive-broken",
        SALT.case("file", "b.zip/inner.zip"): "archive-nested",
    }
    assert len(found) == 3


@given(st.data())
def test_a_fuzzed_archive_is_read_or_refused_and_nothing_else(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    path = pack(tmp_path_factory.mktemp("zip") / "x.zip", {"a": b"content" * 20, "b/c": b"more"})
    content = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 6))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(content[: data.draw(st.integers(0, len(content)))])
    try:
        found = members(str(path))
    except CaseError:
        return
    for member in found:
        try:
            assert len(unpacked(str(path), member)) == member.size
        except OSError:
            continue
