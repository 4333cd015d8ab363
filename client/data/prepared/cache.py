"""A site's prepared cases, made once and made again only when something they depend on has changed.

Promises
- The key of a store covers what every member of the cohort holds (``Record.content``), the plan's preprocessing and
  classes, the task, whether masks are kept for explanations, the preprocessing code itself and the versions of what it
  calls. Anything else in a plan (rounds,
  learning rate) or a cohort (who is trained on, what was left out) reuses the store.
- A data set that is not the frozen one any more is refused before anything is prepared; no file is read for that.
- Each key has its own folder, so two plans on the same cohort do not undo each other's work, and a damaged store is
  rebuilt. Old folders are left alone: they may be in use; deleting them loses nothing but time.
- Two processes that want the same store make it once: the second waits for the first, whose lock the operating system
  takes back if it dies.
- Prepared cases of a sealed archive are sealed with the same key.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path

from client.data.archive.archive import Archive
from client.data.cohort.drift import require_unchanged
from client.data.cohort.manifest import Cohort
from client.data.prepared.prepare import keeps_masks, prepare_all
from client.data.prepared.store import FORMAT, Store
from client.data.prepared.store_writer import PRIVATE, write
from client.data.progress import Progress, silent
from shared.errors import SiteDataError
from shared.plan import Plan
from shared.preprocessing import image
from shared.tasks.task import Task

_FOLDER_DIGITS = 32
_CALLED = ("numpy", "scipy")


def prepared_store(
    root: Path, cohort: Cohort, archive: Archive, plan: Plan, task: Task, *, progress: Progress = silent
) -> Store:
    """The store of ``cohort`` under ``plan``, from ``root`` if it is there and whole, else built from ``archive``.

    Args:
        root: folder of all prepared stores of the data set.
        cohort: which cases; those that the task cannot use become quarantined cases of the store.
        archive: what the cohort was frozen from.
        plan: preprocessing and classes.
        task: checks each case.
        progress: called after each prepared case, with how many are done of how many.

    Raises:
        SiteDataError: the archive is not what was frozen any more, or is damaged.
        CapacityError: the disk is full.
    """
    require_unchanged(cohort, archive)
    key = store_key(cohort, plan, task)
    folder = root / key[:_FOLDER_DIGITS]
    folder.mkdir(mode=PRIVATE, parents=True, exist_ok=True)
    with _alone_in(folder):
        try:
            return Store.open(folder, key, seal=archive.key)
        except SiteDataError:
            write(folder, key, prepare_all(cohort, archive, plan, task, progress), archive.key)
    # These bytes were hashed a moment ago, while they were written.
    return Store.open(folder, key, "on-use", archive.key)


def store_key(cohort: Cohort, plan: Plan, task: Task) -> str:
    """SHA-256 over all that a store's content depends on, 64 hexadecimal digits."""
    said: dict[str, object] = {
        "format": FORMAT,
        "preprocessing": plan.preprocessing.model_dump(mode="json"),
        "data": plan.data.model_dump(mode="json", include={"modality", "classes", "labels"}),
        "task": [task.name, task.schema.definition],
        "code": _code_digest(),
        "versions": {name: version(name) for name in _CALLED},
        "members": [[member.case_id, member.content] for member in cohort.members],
    }
    if keeps_masks(plan):
        # Absent otherwise, so that the stores of all other plans stay valid.
        said["masks"] = "kept"
    return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()


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
