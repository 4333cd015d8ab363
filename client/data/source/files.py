"""Every file of a hospital's sources, once, whatever lies between them and us.

Promises
- ``walk`` visits folders, single files and .zip archives in the order of names. It never raises for what it meets:
  a folder or file that cannot be read, a link that leads out of its source and an archive that cannot be trusted are
  quarantined under a stable code, and the walk goes on. Links to folders within the source are not followed, since
  those folders are visited under their own names; a source that lies within another is visited as part of it.
- Hidden files and folders (their names begin with a dot) are passed over.
- A ``SourceFile`` is small and crosses process borders; it holds a path, which may identify a patient and shows in no
  ``repr``, and ``seen``, a salted name that no other file of this walk has.
- Nothing is written, and no file is opened for more than reading.

What a file is, is left to ``kinds``.
"""

from __future__ import annotations

import io
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO, Literal

from client.data.case_files import Quarantined, Salt
from client.data.source.archives import Member, members, unpacked
from shared.errors import CaseError, SiteDataError

_ARCHIVE = ".zip"
_COMPARED_BYTES = 2**20
_FOLDER = CaseError("a folder cannot be read", hint="check its permissions", code="folder-unreadable")
_FILE = CaseError(
    "a file cannot be read, or is no regular file", hint="check its permissions, or remove it", code="file-unreadable"
)
_OUTSIDE = CaseError("a link leads out of its source", hint="copy the file itself", code="path-outside")
_NESTED = CaseError("a .zip archive lies inside another", hint="unpack the outer one", code="archive-nested")


@dataclass(frozen=True, slots=True)
class SourceFile:
    """One file of a source (a ``Readable``).

    Attributes:
        path: of the file, or of the archive that holds it.
        seen: salted name.
        member: its place in the archive; None where it is a file of its own.
    """

    path: str = field(repr=False)
    seen: str
    member: Member | None = field(default=None, repr=False)

    @property
    def name(self) -> str:
        """The last part of the path, with its extension."""
        return self.key.rpartition("/")[2]

    @property
    def key(self) -> str:
        """Its path as a table may name it, where an archive counts as a folder."""
        return f"{self.path}/{self.member.name}" if self.member else self.path

    def read_bytes(self) -> bytes:
        """Everything in it; raises ``OSError``."""
        return unpacked(self.path, self.member) if self.member else Path(self.path).read_bytes()

    def head(self, most: int) -> bytes:
        """Its first ``most`` bytes, or all of them; raises ``OSError``."""
        if self.member:
            return unpacked(self.path, self.member, most)
        with open(self.path, "rb", buffering=0) as file:  # noqa: PTH123 - half the time of Path.open
            return file.read(most)

    def open(self) -> BinaryIO:
        """For reading parts of it; raises ``OSError``."""
        return io.BytesIO(self.read_bytes()) if self.member else Path(self.path).open("rb")


def same_bytes(first: SourceFile, second: SourceFile) -> bool:
    """Whether two files hold the same; files that cannot be read are not the same."""
    try:
        with first.open() as one, second.open() as other:
            while (part := one.read(_COMPARED_BYTES)) == other.read(_COMPARED_BYTES):
                if not part:
                    return True
    except OSError:
        return False
    return False


@dataclass(frozen=True, slots=True)
class _Root:
    """One source.

    Attributes:
        path: of the source itself, without links.
        above: how the paths of its files begin; what follows is their name within the source.
        names: given away so far, in all sources.
    """

    path: Path
    above: str
    salt: Salt
    names: set[str]

    def seen(self, path: str) -> str:
        """Salted name of a path within the source; a number tells equal paths of two sources apart."""
        relative = path.removeprefix(self.above)
        name, number = self.salt.case("file", relative), 1
        while name in self.names:
            number += 1
            name = self.salt.case("file", relative, str(number))
        self.names.add(name)
        return name

    def aside(self, path: str, why: CaseError) -> Quarantined:
        """What is at ``path``, set aside."""
        return Quarantined(self.seen(path), why.code, why.sentence)


def walk(sources: Sequence[Path], salt: Salt) -> Iterator[SourceFile | Quarantined]:
    """All files of ``sources``; raises ``SiteDataError`` ("source-missing") before the first of them."""
    names: set[str] = set()
    for path in _roots(sources):
        folder = path if path.is_dir() else path.parent
        root = _Root(path, str(folder).rstrip("/") + "/", salt, names)
        if path.is_dir():
            yield from _folders(root)
        elif path.is_file():
            yield from _file(str(path), root)
        else:  # opening a pipe would wait for somebody to write into it
            yield root.aside(str(path), _FILE)


def _roots(sources: Sequence[Path]) -> list[Path]:
    found: dict[Path, None] = {}
    for number, source in enumerate(sources, start=1):
        try:
            found[source.resolve(strict=True)] = None
        except (OSError, RuntimeError):  # Python 3.11 reports a loop of links as RuntimeError
            raise SiteDataError(
                f"source {number} of {len(sources)} is not there",
                hint="check the path, and that its disk is connected",
                code="source-missing",
            ) from None
    return [path for path in found if found.keys().isdisjoint(path.parents)]


def _folders(root: _Root) -> Iterator[SourceFile | Quarantined]:
    """Not recursive: a path may hold two thousand folders, twice what Python nests."""
    waiting = [str(root.path)]
    while waiting:
        folder = waiting.pop()
        try:
            with os.scandir(folder) as entries:
                visible = sorted((one for one in entries if not one.name.startswith(".")), key=lambda one: one.name)
        except OSError:
            yield root.aside(folder, _FOLDER)
            continue
        inner = []
        for entry in visible:
            match _is(entry):
                case "link":
                    yield from _link(entry.path, root)
                case "folder":
                    inner.append(entry.path)
                case "file":
                    yield from _file(entry.path, root)
                case _:
                    yield root.aside(entry.path, _FILE)
        waiting += reversed(inner)


def _is(entry: os.DirEntry[str]) -> Literal["link", "folder", "file", "other"]:
    try:
        if entry.is_symlink():
            return "link"
        if entry.is_dir(follow_symlinks=False):
            return "folder"
        return "file" if entry.is_file(follow_symlinks=False) else "other"
    except OSError:  # some file systems need to look at the file, which may be gone
        return "other"


def _link(path: str, root: _Root) -> Iterator[SourceFile | Quarantined]:
    try:
        target = Path(path).resolve(strict=True)
    except (OSError, RuntimeError):
        yield root.aside(path, _FILE)
        return
    if not target.is_relative_to(root.path):
        yield root.aside(path, _OUTSIDE)
    elif target.is_file():
        yield from _file(path, root)
    elif not target.is_dir():
        yield root.aside(path, _FILE)


def _file(path: str, root: _Root) -> Iterator[SourceFile | Quarantined]:
    if path.lower().endswith(_ARCHIVE):
        yield from _archive(path, root)
    else:
        yield SourceFile(path, root.seen(path))


def _archive(path: str, root: _Root) -> Iterator[SourceFile | Quarantined]:
    try:
        inner = members(path)
    except CaseError as error:
        yield root.aside(path, error)
        return
    for member in inner:
        inside = f"{path}/{member.name}"
        if any(part.startswith(".") and part.strip(".") for part in member.name.split("/")):
            continue
        if member.name.lower().endswith(_ARCHIVE):
            yield root.aside(inside, _NESTED)
        else:
            yield SourceFile(path, root.seen(inside), member)
