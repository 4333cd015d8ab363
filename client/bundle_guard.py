"""Which bundle a SuperNode takes, and how Flower is made to ask before it takes any.

Promises
- A bundle is taken by the SHA-256 over all its bytes, if this site has approved that digest, and only under the name,
  version and digest that the run gives for it: those become a path on this machine.
- What is not approved is answered with Flower's "invalid bundle", and is neither stored, unpacked nor run.
- It fails closed: with another Flower than the one that was read, or one whose places have moved, the SuperNode does
  not start.

Flower 1.41 lets in only what its makers have signed, or everything; its check stands behind a field that the
coordinator fills. So the field is emptied or filled here, by the digest alone, and Flower's own refusal does the rest.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import inspect
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from types import ModuleType
from typing import Any

from flwr.supercore.fab import Fab
from flwr.supercore.run import Run
from flwr.supernode import start_client_internal

from shared.bundle import APP, VERSION
from shared.errors import PolicyError

TRUSTED = {"consilium": "by digest"}
"""For Flower's ``trusted_entities``: anything that is not empty makes it ask."""
_READ = "1.41.0"
_FIELD, _CLIENT_APP, _SERVER_APP = "valid_license", "flwr-clientapp", "flwr-serverapp"
_GET_RUN, _GET_FAB = 3, 4

Connection = Callable[..., AbstractContextManager[Any]]


def why_not(approved: frozenset[str], run: Run, fab: Fab) -> str:
    """Why this bundle is not taken for this run; "" where it is."""
    digest = hashlib.sha256(fab.content).hexdigest()
    if digest not in approved:
        return f"the bundle {digest[:16]} is not one of {len(approved)} that this site has approved"
    if fab.hash_str != digest or run.fab_hash != digest:
        return "the bundle goes under the digest of another"
    if (run.fab_id, run.fab_version) != (APP, VERSION):
        return "the bundle goes under the name of another"
    if run.primary_task_type not in {"", _CLIENT_APP, _SERVER_APP}:
        return "the bundle is to be run as something that this site does not run"
    return ""


def install(approved: frozenset[str], refused: Callable[[str], None], connected: Callable[[int], None]) -> None:
    """Make Flower's SuperNode in this process ask; ``refused`` is told each reason, ``connected`` each node number.

    Raises:
        PolicyError: this is not the Flower that was read ("flower-version").
    """
    flower: Any = start_client_internal
    _require_known(flower)
    inner: Connection = flower._init_connection  # noqa: SLF001 - there is no public place (FACTS: 20 lines, pinned)

    @contextmanager
    def guarded(*args: object, **kwargs: object) -> Iterator[tuple[Any, ...]]:
        with inner(*args, **kwargs) as connection:
            connected(connection[0])
            yield _asking(connection, approved, refused)

    flower._init_connection = guarded  # noqa: SLF001
    flower._verify_fab = lambda fab, _trusted: fab.verifications.get(_FIELD) == "yes"  # noqa: SLF001


def _asking(connection: tuple[Any, ...], approved: frozenset[str], refused: Callable[[str], None]) -> tuple[Any, ...]:
    """The same connection, whose bundles carry our verdict."""
    runs: dict[int, Run] = {}

    def get_run(number: int) -> Run:
        runs[number] = connection[_GET_RUN](number)
        return runs[number]

    def get_fab(digest: str, number: int) -> Fab:
        fab: Fab = connection[_GET_FAB](digest, number)
        reason = why_not(approved, runs.pop(number), fab)
        if reason:
            refused(reason)
        return Fab(fab.hash_str, b"" if reason else fab.content, {} if reason else {_FIELD: "yes"})

    return (*connection[:_GET_RUN], get_run, get_fab, *connection[_GET_FAB + 1 :])


def _require_known(flower: ModuleType) -> None:
    source = inspect.getsource(flower._pull_and_store_message)  # noqa: SLF001
    order = [source.find(part) for part in ("get_run(run_id)", "get_fab(", _FIELD, "_verify_fab(", "store_fab(")]
    found = importlib.metadata.version("flwr")
    if found != _READ or -1 in order or order != sorted(order):
        raise PolicyError(
            f"this package was written for Flower {_READ}, and {found} is installed",
            hint="install the versions of constraints.txt",
            code="flower-version",
        )
