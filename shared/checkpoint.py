"""Checkpoints: safetensors files that are named by the SHA-256 of their bytes.

Promises
- Atomic: a checkpoint is there whole or not at all. Bytes go to a temporary file, are fsynced, get their name by one
  rename, and the folder is fsynced before ``save`` returns. A killed process leaves at most a ``.partial-*`` file,
  which ``sweep`` removes; a full disk leaves nothing.
- Deterministic: equal tensors and metadata give equal bytes, hence the same name, on any machine. The file is laid out
  here rather than by the safetensors package, which writes metadata in random order (safetensors issue 584).
- Verified: ``load`` refuses a file whose bytes do not have the digest in its name, and reads nothing but numbers and
  text. Nothing is ever unpickled.

The layout is the safetensors format: 8 bytes with the header's length (unsigned, little-endian), a JSON header padded
with spaces to a multiple of 8, then the tensors' bytes, little-endian, in row-major order, without gaps.

Which checkpoints belong to which round is the journal's to know.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import safetensors
import safetensors.numpy
from numpy.typing import NDArray

from shared.durable import fsync_folder
from shared.errors import CapacityError, RunError

Tensors = Mapping[str, NDArray[np.generic]]

SUFFIX = ".safetensors"
PARTIAL = ".partial-"
METADATA = "__metadata__"

DTYPES = {
    "float64": "F64",
    "float32": "F32",
    "float16": "F16",
    "int64": "I64",
    "int32": "I32",
    "int16": "I16",
    "int8": "I8",
    "uint64": "U64",
    "uint32": "U32",
    "uint16": "U16",
    "uint8": "U8",
    "bool": "BOOL",
}
"""Name of each type in the header. Other types, objects above all, cannot be saved."""

DISK_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})


@dataclass(frozen=True, slots=True)
class CheckpointRef:
    """Where a checkpoint lies. ``digest`` is the SHA-256 of its bytes, 64 hexadecimal digits."""

    path: Path
    digest: str
    size_bytes: int


@dataclass(frozen=True, slots=True, eq=False)
class Checkpoint:
    """What a checkpoint holds: arrays by name, and text by name."""

    tensors: Tensors
    metadata: Mapping[str, str]


def path_of(folder: Path, digest: str) -> Path:
    """The file in ``folder`` that has the bytes with this digest, if any has."""
    return folder / f"{digest}{SUFFIX}"


def save(folder: Path, tensors: Tensors, metadata: Mapping[str, str]) -> CheckpointRef:
    """Write a checkpoint durably; the same content again is the same file.

    Args:
        folder: an existing folder.
        tensors: arrays by name, of the types in ``DTYPES``.
        metadata: text by name.

    Raises:
        CapacityError: the disk is full; no partial file is left.
        TypeError: a tensor of another type.
    """
    parts = _serialise(tensors, metadata)
    size = sum(part.nbytes for part in parts)
    with _reporting_full_disk(folder, size):
        descriptor, name = tempfile.mkstemp(prefix=PARTIAL, dir=folder)
        partial = Path(name)
        try:
            digest = _write(descriptor, parts)
            path = path_of(folder, digest)
            partial.replace(path)
            fsync_folder(folder)
        finally:
            partial.unlink(missing_ok=True)
    return CheckpointRef(path, digest, size)


def load(path: Path) -> Checkpoint:
    """Read a checkpoint whose name is the digest of its bytes.

    Raises:
        RunError: the file is missing, its bytes are not those that its name promises, or it is no safetensors file.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        sentence = f"the checkpoint {path.name} cannot be read: {error.strerror}"
        raise RunError(sentence, hint="restore it from a backup", code="checkpoint-unreadable") from None
    digest = hashlib.sha256(data).hexdigest()
    if digest != path.name.removesuffix(SUFFIX):
        raise RunError(
            f"the checkpoint {path.name} holds other bytes than its name says (their SHA-256 is {digest})",
            hint="the file was changed or damaged: restore it from a backup",
            code="checkpoint-digest",
        )
    try:
        tensors = safetensors.numpy.load(data)
    except (safetensors.SafetensorError, KeyError) as error:
        raise RunError(
            f"the checkpoint {path.name} is no safetensors file: {error}", code="checkpoint-format"
        ) from None
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    return Checkpoint(tensors, header.get(METADATA, {}))


def sweep(folder: Path) -> int:
    """Remove what killed processes left half written, and return how many files that were.

    Only for the one process that writes into ``folder``.
    """
    partial = list(folder.glob(f"{PARTIAL}*"))
    for path in partial:
        path.unlink()
    return len(partial)


def _serialise(tensors: Tensors, metadata: Mapping[str, str]) -> Sequence[NDArray[np.uint8]]:
    """The file's bytes in order, without copying tensors that are contiguous and little-endian already."""
    header: dict[str, object] = {METADATA: dict(sorted(metadata.items()))} if metadata else {}
    parts, offset = [], 0
    # Wide types first keeps every tensor aligned to its own size, as the safetensors package does.
    for name, tensor in sorted(tensors.items(), key=lambda item: (-item[1].itemsize, item[0])):
        if tensor.dtype.name not in DTYPES:
            raise TypeError(f"{name} is {tensor.dtype}, which a checkpoint cannot hold")
        part = np.ascontiguousarray(tensor, tensor.dtype.newbyteorder("<")).reshape(-1).view(np.uint8)
        end = offset + part.nbytes
        header[name] = {"dtype": DTYPES[tensor.dtype.name], "shape": tensor.shape, "data_offsets": (offset, end)}
        parts.append(part)
        offset = end
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    return [np.frombuffer(len(text).to_bytes(8, "little") + text, np.uint8), *parts]


def _write(descriptor: int, parts: Sequence[NDArray[np.uint8]]) -> str:
    """Write all bytes, make them durable, close the file, and return their SHA-256."""
    hasher = hashlib.sha256()
    with os.fdopen(descriptor, "wb") as file:
        for part in parts:
            hasher.update(part.data)
            file.write(part.data)
        file.flush()
        os.fsync(file.fileno())
    return hasher.hexdigest()


@contextmanager
def _reporting_full_disk(folder: Path, needed: int) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno not in DISK_FULL:
            raise
        raise CapacityError(
            f"the disk is full: a checkpoint needs {needed} bytes, {shutil.disk_usage(folder).free} are free",
            hint="free space on the disk of the run's folder, then resume the run",
            code="disk-full",
        ) from error
