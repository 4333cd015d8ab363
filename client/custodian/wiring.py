"""A custodian at work: everything of a site folder that a desk needs, and the process around it.

::

    run/                0700 where it was not there before
    run/custodian.lock  held by the one custodian of this folder
    run/relay.token     0640, drawn at every start: what the relay has to know
    run/custodian.sock  0660
    run/custodian.pid   the process that listens, written when it does

    python -m client.custodian.wiring SITE

Promises
- Whom to trust, what was approved and what the policy says is read from the folder for each request, so a withdrawal
  and a new policy hold at once; a plan that was approved anew, for another cohort, is opened anew.
- The folder of its socket is its user's, and nobody else may write to it ("run-folder").
- One custodian for a folder ("folder-in-use"), by a lock that the operating system takes back from a process that ends.
- A plan that is withdrawn while it is computed ends the process (``STOPPED``), which says why: nothing leaves. What
  is open for a plan, a run or a membership that is over is closed, asked or not (``client.custodian.closing``).
- SIGTERM and SIGINT end it: what has no answer after ``GRACE_S`` gets none.
- It does not begin where the log or the ledger cannot be used, and says so in the log when it does begin.
"""

from __future__ import annotations

import errno
import fcntl
import os
import secrets
import shutil
import signal
import stat
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

from client.commands.clock import Clock
from client.custodian.closing import Closing
from client.custodian.desk import Approved, Desk, Standing
from client.custodian.ready import tell_ready
from client.custodian.service import STOPPED, Limits, Service, listen, repeat, watch
from client.custodian.warm import Warm
from client.enrolment import require_pinned, take_roster
from client.governance import approvals
from client.governance.approvals import Approval
from client.governance.audit import Event
from client.governance.ledger import Ledger
from client.governance.receipts import Receipts
from client.site import Site
from client.site_folder import LEDGER, SiteFolder
from shared import commandline
from shared.crypto.certificates import from_pem
from shared.crypto.key_files import SECRET_BYTES
from shared.durable import replace_file
from shared.environment import restart_with_settings, silence_third_parties
from shared.errors import CapacityError, ConsiliumError, SiteDataError
from shared.parcels import Parcel
from shared.plan import Plan
from shared.trust.orders import RunOrder

RUN, LOCK, TOKEN, SOCKET, PID = "run", "custodian.lock", "relay.token", "custodian.sock", "custodian.pid"
GRACE_S = 5.0
CLOSE_S = 5.0
"""Between two looks at what is over, while nobody asks anything."""
_PACKAGES = ("consilium", "flwr", "torch", "monai")
_DISK_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


@dataclass
class Sites:
    """Sites that are open, and the plan that is worked on.

    Attributes:
        site: the folder.
        warm: what is open.
        working_on: digest of the plan that is worked on, None between requests.
    """

    site: SiteFolder
    warm: Warm
    working_on: str | None = None
    _opened: dict[str, tuple[str, int]] = field(default_factory=dict, init=False)

    def approved(self, digest: str) -> Approval:
        """The approval of a plan, which is worked on from now on; raises ``ConsiliumError``."""
        found = approvals.find(self.site, digest)
        self.working_on = digest
        return found

    def opened(self, approved: Approved) -> Site:
        """The site under an approval; raises ``ConsiliumError``."""
        found = approvals.find(self.site, approved.plan.digest())
        digest, now = found.paper.plan, (found.cohort, found.paper.number)
        if self._opened.get(digest) != now:
            self.warm.forget(digest)
        site = self.warm.opened(found)
        self._opened[digest] = now
        return site

    def unwanted(self) -> bool:
        """Whether what is worked on is not approved any more."""
        digest = self.working_on
        if digest is None:
            return False
        try:
            approvals.find(self.site, digest)
        except ConsiliumError:
            return True
        return False


@dataclass(frozen=True)
class Custodian:
    """A desk with what else its process looks after."""

    site: SiteFolder
    desk: Desk
    sites: Sites
    receipts: Receipts
    closing: Closing
    _busy: threading.Lock = field(default_factory=threading.Lock, init=False, repr=False)

    def close(self) -> None:
        """Forget what is over, unless a parcel is worked on: then it is done before the next."""
        if self._busy.acquire(blocking=False):
            try:
                self.closing.close(self.desk.now())
            finally:
                self._busy.release()

    def answer(self, parcel: Parcel) -> Parcel:
        """The desk's answer; a full disk is a ``CapacityError``."""
        with self._busy:
            self.closing.close(self.desk.now())
            return self._answer(parcel)

    def _answer(self, parcel: Parcel) -> Parcel:
        self.sites.working_on = None
        try:
            return self.desk.answer(parcel)
        except OSError as error:
            if error.errno not in _DISK_FULL:
                raise
            raise CapacityError(
                "the disk of this site is full", hint="its own staff have to free some space", code="disk-full"
            ) from None
        finally:
            self.sites.working_on = None

    def status(self, now: Clock) -> Mapping[str, Any]:
        """What people at this site may see of it at any time; nothing of patients, and cheap."""
        pinned = require_pinned(self.site)
        return {
            "site": self.site.settings.site.name,
            "federation": pinned.federation,
            "standing": pinned.standing,
            "approved": [
                {"plan": one.digest, "name": one.name, "dataset": one.dataset, "state": one.state}
                | {"runs": one.runs, "served": one.served}
                for one in approvals.listed(self.site)
            ],
            "working_on": self.sites.working_on,
            "authority_days_left": from_pem(pinned.ca_file.read_bytes())[0].remaining(now()).days,
            "disk_free_bytes": shutil.disk_usage(self.site.path).free,
            "versions": {name: version(name) for name in _PACKAGES},
        }


def custodian(site: SiteFolder, now: Clock) -> Custodian:
    """Everything but the socket; raises ``ConsiliumError`` where the site is in no federation."""
    pinned = require_pinned(site)
    standing = Standing(site.settings.site.name, site.signing_key(), pinned.federation, pinned.lead)
    sites = Sites(site, Warm(site, now))
    receipts = Receipts(site, partial(approvals.find, site), now)
    members = partial(_members, site)

    closing = Closing(site, sites.warm)

    def hold(roster: bytes) -> None:
        take_roster(site, roster, now())

    def noted(order: RunOrder, plan: Plan) -> None:
        closing.asked(order, plan, now())

    desk = Desk(standing, sites.approved, sites.opened, lambda: site.policy, receipts, now, members, hold, noted)
    return Custodian(site, desk, sites, receipts, closing)


def _members(site: SiteFolder) -> frozenset[str]:
    return require_pinned(site).roster.active


def desk(site: SiteFolder, now: Clock) -> Desk:
    """The desk of a site folder."""
    return custodian(site, now).desk


def run(site: SiteFolder, now: Clock, limits: Limits | None = None) -> int:
    """Answer until told to stop; gives the exit status.

    Raises:
        SiteDataError: another custodian works in this folder ("folder-in-use"), or log, ledger or keys cannot be used.
    """
    with _alone(site) as folder:
        found = custodian(site, now)
        _begin(site, now)
        token = secrets.token_hex(SECRET_BYTES)
        replace_file(folder / TOKEN, token.encode() + b"\n")
        (folder / TOKEN).chmod(0o640)
        service = Service(token, found.answer, partial(found.status, now), limits or Limits())
        over = _signals()
        server = listen(service, folder / SOCKET)
        replace_file(folder / PID, f"{os.getpid()}\n".encode())
        watch(service, found.sites.unwanted, _end_the_job)
        repeat(found.close, CLOSE_S, over)
        sys.stderr.write(f"custodian of {site.settings.site.name} listens at {folder / SOCKET}\n")
        tell_ready(os.environ)
        over.wait()
        server.stop(GRACE_S).wait()
        found.receipts.close()
        for name in (PID, SOCKET, TOKEN):
            (folder / name).unlink(missing_ok=True)
        if service.bench.since is not None:
            # A computation cannot be asked to end; what it reserved stays in the ledger.
            os._exit(STOPPED)
    return 0


def _begin(site: SiteFolder, now: Clock) -> None:
    """Note the beginning with the ledger's digest: an older ledger that was put back can be noticed by it."""
    site.audit.require_sound()
    site.policy.model_dump()
    ledger = Ledger.open(site.path / LEDGER).digest()
    site.audit.append(Event("custodian-start", digests={"ledger": ledger}), now())


def _end_the_job() -> None:
    sys.stderr.write("the job was withdrawn, or took too long: this process ends with it, and nothing of it leaves\n")
    os._exit(STOPPED)


def _signals() -> threading.Event:
    over = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: over.set())
    return over


@contextmanager
def _alone(site: SiteFolder) -> Iterator[Path]:
    folder = site.path / RUN
    folder.mkdir(mode=0o700, exist_ok=True)
    _require_ours(folder)
    handle = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield folder
    except BlockingIOError:
        raise SiteDataError(
            "another custodian works in this site folder",
            hint="stop it first: two would each think that they alone pay from the ledger",
            code="folder-in-use",
        ) from None
    finally:
        os.close(handle)


def _require_ours(folder: Path) -> None:
    """Whoever else may write there could put a socket of theirs in the place of ours."""
    found = folder.stat()
    if found.st_uid != os.geteuid() or found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise SiteDataError(
            f"others may write to the folder of the custodian's socket (mode {stat.S_IMODE(found.st_mode):04o})",
            hint="it must be this user's, and nobody else may write to it: chmod 0750, or 2750 with the relay's group",
            code="run-folder",
        )


def main(words: list[str] | None = None) -> int:
    """Entry point of ``python -m client.custodian.wiring SITE``."""
    said = sys.argv[1:] if words is None else words
    if len(said) != 1:
        commandline.fail("name the site folder", "python -m client.custodian.wiring SITE", status=2)
    restart_with_settings()
    silence_third_parties()
    try:
        return run(SiteFolder.open(Path(said[0])), lambda: datetime.now(UTC))
    except ConsiliumError as error:
        commandline.fail(error.sentence, error.hint)


if __name__ == "__main__":
    sys.exit(main())
