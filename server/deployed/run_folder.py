"""A run's folder at a real coordinator: what was ordered, and what only this run's process may use.

::

    runs/RUN/           0700
        order.json      the order to run, signed by the lead (``shared.trust.orders``)
        plan.json       the plan, signed by the lead (``shared.trust.plans``)
        plan.toml       the same, for people and for the report
        run.key         0600: what signs this run's requests; the order names its public half
        live.json       what is going on (``server.deployed.live``)
        ...             and everything that a run leaves behind anywhere (docs/run-folder.md)

Promises
- ``begin`` makes a folder whole: the order comes last, and a folder without one is no run.
- The lead's key signs once, when a run is ordered; it is not on the machine while the run lasts unless somebody keeps
  it there.
- ``open`` checks both signatures again: what coordinates is what was ordered.
"""

from __future__ import annotations

import re
import secrets
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

import tomli_w

from server.federation_folder import RUNS, FederationFolder
from server.results import PLAN
from server.run_state import CHECKPOINTS, SERVER_STATE
from shared.crypto.signing import SigningKey
from shared.durable import SHARED, fsync_folder, replace_file
from shared.errors import RunError
from shared.plan import Plan
from shared.trust.orders import RunOrder, Times, make_order, open_order, sign_order
from shared.trust.plans import open_plan, sign_plan, weights_file

ORDER, SIGNED_PLAN, KEY, JOURNAL = "order.json", "plan.json", "run.key", "journal.sqlite"
_PRIVATE = 0o700
_RUN = re.compile(r"[0-9a-f]{32}")
_SHORTEST = 4


@dataclass(frozen=True, slots=True)
class RunFolder:
    """A run that was ordered.

    Attributes:
        path: of the folder.
        order: what the lead has signed, and ``order_file`` its bytes.
        plan: what is run.
    """

    path: Path
    order: RunOrder
    order_file: bytes
    plan: Plan

    @property
    def run(self) -> str:
        """Identifier of the run, 32 hexadecimal digits."""
        return self.order.run

    def key(self) -> SigningKey:
        """What signs this run's requests; raises ``SiteDataError``."""
        return SigningKey.load(self.path / KEY)


def begin(federation: FederationFolder, plan: Plan, lead: SigningKey, now: datetime, lasts: timedelta) -> RunFolder:
    """Order a run of ``plan`` by the sites of the present roster, for as long as ``lasts``."""
    run, key = secrets.token_hex(16), SigningKey.generate()
    order = make_order(run, plan.digest(), federation.roster(), key.verify_key, Times(now, now + lasts))
    signed, folder = sign_order(order, lead), federation.path / RUNS / run
    folder.mkdir(mode=_PRIVATE)
    try:
        for name in (CHECKPOINTS, SERVER_STATE):
            (folder / name).mkdir(mode=_PRIVATE)
        _copy_weights(federation, plan, folder)
        key.save(folder / KEY)
        replace_file(folder / SIGNED_PLAN, sign_plan(plan, lead, now))
        replace_file(folder / PLAN, tomli_w.dumps(plan.model_dump(mode="json", exclude_none=True)).encode(), SHARED)
        replace_file(folder / ORDER, signed)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    fsync_folder(folder.parent)
    return RunFolder(folder, order, signed, plan)


def open_run(federation: FederationFolder, run: str) -> RunFolder:
    """The run whose identifier begins with ``run``; raises ``RunError`` where there is none, or several."""
    path = federation.path / RUNS / _named(federation, run)
    order_file = _read(path / ORDER)
    order, plan = open_order(order_file, federation.lead), open_plan(_read(path / SIGNED_PLAN), federation.lead)
    if order.plan_digest != plan.digest():
        raise RunError(
            f"run {path.name[:12]} was ordered for another plan than the one in its folder",
            hint="restore the folder from your copy, or begin a new run",
            code="run-damaged",
        )
    return RunFolder(path, order, order_file, plan)


def ordered(federation: FederationFolder) -> Iterator[str]:
    """Identifiers of all runs that were ordered, the newest last."""
    folders = (path for path in (federation.path / RUNS).glob("*") if _RUN.fullmatch(path.name))
    whole = [path for path in folders if (path / ORDER).is_file()]
    yield from (path.name for path in sorted(whole, key=lambda path: ((path / ORDER).stat().st_mtime_ns, path.name)))


def renewed(federation: FederationFolder, found: RunFolder, lead: SigningKey, times: Times) -> RunFolder:
    """The same run under a new order, whose time has not run out."""
    order = make_order(found.run, found.plan.digest(), federation.roster(), found.key().verify_key, times)
    signed = sign_order(order, lead)
    replace_file(found.path / ORDER, signed)
    return RunFolder(found.path, order, signed, found.plan)


def _named(federation: FederationFolder, start: str) -> str:
    found = [run for run in ordered(federation) if run.startswith(start)]
    if len(found) != 1 or len(start) < _SHORTEST:
        raise RunError(
            f"{len(found)} runs begin with {start!r}",
            hint=f"give at least {_SHORTEST} digits of one; consilium-server runs lists them",
            code="no-run",
        )
    return found[0]


def _copy_weights(federation: FederationFolder, plan: Plan, folder: Path) -> None:
    """Pretrained weights lie beside the federation's settings; a run keeps its own copy."""
    path = weights_file(plan)
    if path is not None:
        try:
            (folder / path).parent.mkdir(mode=_PRIVATE, parents=True, exist_ok=True)
            shutil.copyfile(federation.path / path, folder / path)
        except OSError as error:
            raise RunError(
                f"the plan's pretrained weights cannot be read: {error.strerror}",
                hint=f"put {path} into the federation folder, and send it to the sites",
                code="weights-missing",
            ) from None


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise RunError(
            f"{path.name} of the run cannot be read: {error.strerror}", hint="restore it from your copy", code="run"
        ) from None
