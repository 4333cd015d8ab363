"""What Flower's SuperLink keeps of messages: the list in its database, the bytes in files beside it.

::

    link/superlink.sqlite   which objects there are, which of them are complete, who refers to whom
    link/objects/SHA-256    the bytes of one object, 5 MiB at most (Flower cuts arrays into such pieces)

Promises
- A transaction of the database holds no model. Flower's own store writes each piece into a row, twice (log and table),
  and nobody else can write meanwhile; eight sites that answer with 60 MB each then time out at its lock.
- An object is complete in the database only after its file has its name, so ``kill -9`` loses nothing. A machine that
  loses its power can lose files that the system had not written yet: such an object is not there, its message is lost,
  and the round goes on without that site.
- A file goes when its object goes, after the database has forgotten it. What a killed process left behind is removed
  when the store is opened.

Whether bytes are what their name says is checked by Flower before they are kept, and by whoever receives them.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

from flwr.supercore import sql_mixin
from flwr.supercore.inflatable.inflatable_object import get_object_id, is_valid_sha256_hash
from flwr.supercore.inflatable.inflatable_utils import validate_object_content
from flwr.supercore.object_store import NoObjectInStoreError
from flwr.supercore.object_store.sql_object_store import SqlObjectStore
from flwr.supercore.state.schema.objectstore_models import StoredObject
from sqlalchemy import event, select, update
from sqlalchemy.orm import Session

PATIENCE_MS = 60_000
_PRIVATE = 0o700
_NEW = ".new"


def wait_for_the_database() -> None:
    """Let whoever writes to Flower's database wait ``PATIENCE_MS`` for its lock, from the next connection on.

    The lock is not fair: on a busy machine somebody waits longer than Flower's five seconds, and what they asked for
    ends with status 500, which ends a SuperExec.
    """
    flower: Any = sql_mixin
    flower.SQLITE_PRAGMAS = tuple((dict(flower.SQLITE_PRAGMAS) | {"busy_timeout": str(PATIENCE_MS)}).items())


class FileObjects(SqlObjectStore):
    """Flower's store of objects with their bytes in the files of ``folder``. One process has it open."""

    def __init__(self, database: Path, folder: Path) -> None:
        super().__init__(str(database))
        self._folder = folder
        # Held while a file is written, or removed because nobody knows it; never while waiting for the database's lock.
        self._lock = threading.Lock()

    def initialize(self, log_queries: bool = False, **engine_kwargs: Any) -> list[str]:  # noqa: ANN401, FBT001, FBT002 - Flower's signature
        """As Flower does; then remove the files that belong to no object."""
        found = super().initialize(log_queries, **engine_kwargs)
        self._folder.mkdir(mode=_PRIVATE, parents=True, exist_ok=True)
        self._remove([path.name for path in self._folder.iterdir()])
        return found

    def put(self, object_id: str, object_content: bytes) -> None:
        """Keep an object that was announced; raises ``NoObjectInStoreError`` for another, ``ValueError`` for none."""
        if get_object_id(object_content) != object_id:
            raise ValueError(f"Object ID {object_id} does not match content hash")
        validate_object_content(content=object_content)
        known = self._complete(object_id)
        if known:
            return
        if known is None or not self._write(object_id, object_content):
            self._remove([object_id])
            raise NoObjectInStoreError(f"Object with ID '{object_id}' was not pre-registered.")

    def get(self, object_id: str) -> bytes | None:
        """The bytes of an object, none where they have not come yet; None where it is unknown, or its file is lost."""
        if not self._complete(object_id):
            return super().get(object_id)
        with suppress(FileNotFoundError):
            return (self._folder / object_id).read_bytes()
        return super().get(object_id) or None

    def delete(self, object_id: str) -> None:
        """Forget an object that nobody refers to, and what only it refers to."""
        # Sites say which message they have received: what is no digest must not become a path.
        if not is_valid_sha256_hash(object_id):
            return
        with self.session() as session:
            super().delete(object_id)
            self._remove_after(session, [object_id])

    def clear(self) -> None:
        """Forget everything."""
        with self.session() as session:
            super().clear()
            self._remove_after(session, [path.name for path in self._folder.iterdir()])

    def _complete(self, object_id: str) -> bool | None:
        with self.session() as session:
            found = session.scalar(select(StoredObject.is_available).where(StoredObject.object_id == object_id))
        return None if found is None else bool(found)

    def _write(self, object_id: str, content: bytes) -> bool:
        """Whether the object was still wanted."""
        with self._lock:
            new = self._folder / f"{object_id}{_NEW}"
            new.write_bytes(content)
            new.rename(self._folder / object_id)
        with self.session() as session:
            complete = update(StoredObject).where(StoredObject.object_id == object_id).values(is_available=1)
            return session.scalar(complete.returning(StoredObject.object_id)) is not None

    def _remove_after(self, session: Session, names: list[str]) -> None:
        """When what ``session`` has done is certain: Flower's callers may undo it."""
        event.listen(session, "after_commit", partial(self._committed, names), once=True)

    def _committed(self, names: list[str], _session: Session) -> None:
        self._remove(names)

    def _remove(self, names: Iterable[str]) -> None:
        """Remove the files of objects that the database does not know, as others see it now."""
        assert self._engine is not None  # noqa: S101 - ``initialize`` comes first
        with self._lock, self._engine.connect() as connection:
            for name in names:
                known = select(StoredObject.object_id).where(StoredObject.object_id == name)
                if connection.scalar(known) is None:
                    (self._folder / name).unlink(missing_ok=True)
