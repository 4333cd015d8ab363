"""A site's prepared cases, made once and made again only when something they depend on has changed.

Promises
- The key of a store covers the source files' content, their names and labels, the plan's preprocessing and classes, the
  task, the preprocessing code itself and the versions of what it calls. Anything else in a plan (rounds, shares of the
  split, learning rate) reuses the store.
- Each key has its own folder, so two plans on the same files do not undo each other's work, and a damaged store is
  rebuilt. Old folders are left alone: they may be in use; deleting them loses nothing but time.
- Two processes that want the same store make it once: the second waits for the first, whose lock the operating system
  takes back if it dies.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from itertools import chain
from pathlib import Path

from client.data.case_files import CaseFiles, Quarantined
from client.data.prepared.prepare import Progress, prepare_all, silent
from client.data.prepared.store import FORMAT, Store
from client.data.prepared.store_writer import PRIVATE, write
from shared.errors import SiteDataError
from shared.plan import Plan
from shared.preprocessing import image
from shared.tasks.task import Task

_FOLDER_DIGITS = 32
_CALLED = ("nibabel", "numpy", "pillow", "pydicom", "scipy")


def prepared_store(
    root: Path,
    files: Sequence[CaseFiles],
    plan: Plan,
    task: Task,
    *,
    unusable: Sequence[Quarantined] = (),
    progress: Progress = silent,
) -> Store:
    """The store of ``files`` under ``plan``, from ``root`` if it is there and whole, else built.

    Args:
        root: folder of all stores of this site.
        files: the cases; files that are missing or broken become quarantined cases.
        plan: preprocessing and classes.
        task: checks each case.
        unusable: what was found to be unusable while the files were being looked for; kept with the store.
        progress: called after each prepared case, with how many are done of how many.

    Raises:
        CapacityError: the disk is full.
    """
    key = store_key(files, plan, task, unusable)
    folder = root / key[:_FOLDER_DIGITS]
    folder.mkdir(mode=PRIVATE, parents=True, exist_ok=True)
    with _alone_in(folder):
        try:
            return Store.open(folder, key)
        except SiteDataError:
            write(folder, key, chain(unusable, prepare_all(files, plan, task, progress)))
    # These bytes were hashed a moment ago, while they were written.
    return Store.open(folder, key, "on-use")


def store_key(files: Sequence[CaseFiles], plan: Plan, task: Task, unusable: Sequence[Quarantined] = ()) -> str:
    """SHA-256 over all that a store's content depends on, 64 hexadecimal digits."""
    contents: dict[Path, str] = {}
    said = {
        "format": FORMAT,
        "preprocessing": plan.preprocessing.model_dump(mode="json"),
        "data": plan.data.model_dump(mode="json", include={"modality", "classes", "labels"}),
        "task": [task.name, task.schema.definition],
        "code": _code_digest(),
        "versions": {name: version(name) for name in _CALLED},
        "cases": [_described(one, contents) for one in files],
        "unusable": [[one.case_id, one.code] for one in unusable],
    }
    return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()


def _described(files: CaseFiles, contents: dict[Path, str]) -> list[object]:
    """What a case is, by content; ``contents`` remembers digests of files that several cases share."""
    groups = (files.images, (files.mask,) if files.mask else (), files.slice_of)
    digests = [_combined(_content(path, contents) for path in paths) for paths in groups]
    return [files.case_id, files.patient, files.label, files.subgroups, files.modality, digests]


def _combined(digests: Iterable[str]) -> str:
    """One digest for many: the slices of a series each depend on all its files."""
    return hashlib.sha256("\n".join(digests).encode()).hexdigest()


def _content(path: Path, contents: dict[Path, str]) -> str:
    if path not in contents:
        try:
            with path.open("rb") as file:
                contents[path] = hashlib.file_digest(file, "sha256").hexdigest()
        except OSError:
            # Part of the key like any content: a file that turns up later makes another store.
            contents[path] = "unreadable"
    return contents[path]


def _code_digest() -> str:
    """Digest of the preprocessing code: whoever changes it does not train on yesterday's images."""
    sources = sorted(Path(image.__file__).parent.glob("*.py"))
    return hashlib.sha256(b"\0".join(source.read_bytes() for source in sources)).hexdigest()


@contextmanager
def _alone_in(folder: Path) -> Iterator[None]:
    with (folder / ".lock").open("w") as lock:
        # Not a file that is made and deleted: this lock ends with its owner, however that ends.
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
