"""Where the site keeps its data: room, shared memory, permissions, and whether locks work there.

Promises
- Nothing is written; what is not there yet is judged by the nearest folder that is.
- Network file systems are refused: SQLite's write-ahead log needs memory that all its users share, which two machines
  never do (https://sqlite.org/wal.html), and locks over a network are known to fail (https://sqlite.org/lockingv3.html).
"""

from __future__ import annotations

import os
import re
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path

from client.machine.check import Check
from client.machine.compute import gib

LITTLE_DISK, TOO_LITTLE_DISK = 20 * 2**30, 2**30
LITTLE_SHARED = 2**30
"""Loader processes hand batches over in /dev/shm; containers start with 64 MiB of it."""

NETWORK_FILE_SYSTEMS = frozenset(
    {"9p", "acfs", "afs", "beegfs", "ceph", "cifs", "coda", "gfs2", "glusterfs", "gpfs", "lustre", "ncpfs", "nfs"}
    | {"nfs4", "ocfs2", "panfs", "smb2", "smb3", "smbfs", "fuse.ceph", "fuse.glusterfs", "fuse.s3fs", "fuse.sshfs"}
)
SHARED, MOUNTS = Path("/dev/shm"), Path("/proc/self/mountinfo")  # noqa: S108 - looked at, never written to

_IMAGES = "datasets"
_OTHERS = stat.S_IRWXG | stat.S_IRWXO
_ABSENT = "the site folder does not exist yet: consilium-site init makes it"


def checks(folder: Path, shared: Path = SHARED, mounts: Path = MOUNTS) -> tuple[Check, ...]:
    """All checks of storage."""
    return (disk(folder), shared_memory(shared), permissions(folder), file_system(folder, mounts))


def disk(folder: Path) -> Check:
    """Room where the images of the site are, or will be."""
    usage = shutil.disk_usage(_existing(folder / _IMAGES))
    sentence = f"{gib(usage.free)} of {gib(usage.total)} are free on the disk for images"
    hint = "a data set needs about as much as its images take uncompressed, and once more when prepared for a plan"
    if usage.free < LITTLE_DISK:
        return Check("disk", "error" if usage.free < TOO_LITTLE_DISK else "warning", sentence, hint)
    return Check("disk", "ok", sentence)


def shared_memory(shared: Path) -> Check:
    """Size of the memory through which processes hand arrays to each other."""
    if not shared.is_dir():
        return Check("shared-memory", "skipped", "this system has no /dev/shm")
    usage = shutil.disk_usage(shared)
    sentence = f"{gib(usage.free)} of {gib(usage.total)} shared memory are free"
    if usage.free < LITTLE_SHARED:
        return Check("shared-memory", "warning", sentence, "in a container, start it with --shm-size=8g")
    return Check("shared-memory", "ok", sentence)


def permissions(folder: Path) -> Check:
    """Whether anybody but the owner may look at the folder, or at what lies in its two upper levels."""
    if not folder.is_dir():
        return Check("permissions", "skipped", _ABSENT)
    if not os.access(folder, os.R_OK | os.W_OK | os.X_OK):
        hint = "run as the user who owns it"
        return Check("permissions", "error", f"this user ({os.getuid()}) cannot use the site folder", hint)
    found = [path.lstat() for path in _upper_levels(folder)]
    loose = sum(bool(one.st_mode & _OTHERS) for one in found)
    foreign = sum(one.st_uid != os.getuid() for one in found)
    if loose:
        sentence = f"{loose} of {len(found)} files and folders of the site are open to other users"
        return Check("permissions", "error", sentence, f"chmod -R go= {folder}")
    if foreign:
        sentence = f"{foreign} of {len(found)} files and folders of the site belong to another user than {os.getuid()}"
        return Check("permissions", "error", sentence, "run as the user who owns them, or give them to this one")
    return Check("permissions", "ok", f"all {len(found)} files and folders of the site are for this user alone")


def file_system(folder: Path, mounts: Path) -> Check:
    """Whether the folder, and the images in it, are on a disk of this machine."""
    kinds = [mounted_as(_existing(place).resolve(), mounts) for place in (folder, folder / _IMAGES)]
    kind = max(kinds, key=_doubt)
    if not kind:
        return Check("file-system", "skipped", "this system does not say what the site folder is mounted from")
    if _doubt(kind) == 2:
        sentence = f"the site folder is on a network file system ({kind}), where SQLite's locks cannot be relied on"
        return Check("file-system", "error", sentence, "move it to a disk of this machine; sources may stay there")
    if _doubt(kind) == 1:
        hint = "prefer a disk of this machine"
        return Check("file-system", "warning", f"the site folder is on {kind}, whose locks may not hold", hint)
    return Check("file-system", "ok", f"the site folder is on a disk of this machine ({kind})")


def _doubt(kind: str) -> int:
    """How little locks can be relied on: 2 where they cannot."""
    return 2 if kind in NETWORK_FILE_SYSTEMS else int(kind.startswith("fuse") or kind == "virtiofs")


def mounted_as(folder: Path, mounts: Path) -> str:
    """Kind of file system that ``folder`` (absolute) is on, by proc(5)'s mountinfo; "" where that does not say."""
    try:
        lines = mounts.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return ""
    best, kind = -1, ""
    for line in lines:
        head, _, tail = line.partition(" - ")
        point = Path(_unescaped(head.split()[4]))
        # Of two mounts on one place, the later one covers the earlier.
        if folder.is_relative_to(point) and len(point.parts) >= best:
            best, kind = len(point.parts), tail.split()[0]
    return kind


def _unescaped(text: str) -> str:
    return re.sub(r"\\(\d{3})", lambda found: chr(int(found[1], 8)), text)


def _existing(folder: Path) -> Path:
    return next(place for place in (folder.absolute(), *folder.absolute().parents) if place.is_dir())


def _upper_levels(folder: Path) -> Iterator[Path]:
    yield folder
    for path in folder.iterdir():
        if not path.is_symlink():
            yield path
            yield from (inner for inner in path.glob("*") if not inner.is_symlink())
