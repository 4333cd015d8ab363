"""What people at this site approved: a folder for each plan, named by its digest, under ``approved/``.

::

    approved/DIGEST/plan.json         the plan, as the lead signed it
    approved/DIGEST/approval.json     who approved it, when, for which cohort and how many runs; signed by this site
    approved/DIGEST/withdrawal.json   that this approval holds no more; likewise
    approved/DIGEST/runs/             what its runs have asked (``client.custodian.sequence``)
    approved/DIGEST/…                 weights to start from, personal models

Promises
- ``find`` gives a plan that the pinned lead signed and that this site's key approved, of which nothing was changed
  since, or refuses. It reads the folder each time, so a withdrawal holds from the moment it is on the disk.
- A withdrawal names the approval that it ends: approving again is another approval, with another number, and no older
  one comes back by it. Runs that were served before still count.
- Approvals are in the audit log before they hold. A withdrawal holds first: no broken log keeps a plan going.

Whether a plan may be approved is judged by ``client.commands.approve``.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Annotated, ClassVar, Literal, TypeVar

from pydantic import Field

from client.enrolment import require_pinned
from client.governance.audit import Event
from client.site_folder import SiteFolder
from shared.durable import alone, replace_file
from shared.errors import PolicyError, ProtocolError, SiteDataError
from shared.plan import Plan
from shared.trust.documents import Digest, Document, Moment, Name, opened, seal, stamp
from shared.trust.plans import SignedPlan, open_plan

APPROVED, PLAN, APPROVAL, WITHDRAWAL, RUNS = "approved", "plan.json", "approval.json", "withdrawal.json", "runs"
MOST_RUNS = 1000
_LOCK = "lock"
_DIGEST = re.compile(r"[0-9a-f]{64}")
_PART = re.compile(r"[0-9a-f]{8,64}")

Person = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9._-]{0,58}$")]
"""Whoever decides, as the machine knows them."""
State = Literal["approved", "withdrawn"]
Kind = TypeVar("Kind", bound=Document)


class Paper(Document):
    """That a plan is approved: for which cohort, for how many runs in all, by whom."""

    kind: ClassVar[str] = "approval"
    most_bytes: ClassVar[int] = 2**12

    plan: Digest
    number: Annotated[int, Field(ge=1)]
    dataset: Name
    cohort: Digest
    runs: Annotated[int, Field(ge=1)]
    by: Person
    at: Moment


class Withdrawal(Document):
    """That an approval, named by its SHA-256, holds no more."""

    kind: ClassVar[str] = "withdrawal"
    most_bytes: ClassVar[int] = 2**12

    plan: Digest
    approval: Digest
    by: Person
    at: Moment


@dataclass(frozen=True, slots=True)
class Approval:
    """An approval that holds, and the folder that belongs to it."""

    plan: Plan
    paper: Paper
    folder: Path

    @property
    def dataset(self) -> str:
        """The data set whose cohort was approved."""
        return self.paper.dataset

    @property
    def cohort(self) -> str:
        """Digest of that cohort."""
        return self.paper.cohort

    @property
    def runs(self) -> int:
        """Most runs that may use it, with those that were served under earlier approvals of this plan."""
        return self.paper.runs


@dataclass(frozen=True, slots=True)
class Terms:
    """What is decided about a plan: the cohort, how many more runs, and by whom."""

    dataset: str
    cohort: str
    runs: int
    by: str


@dataclass(frozen=True, slots=True)
class Listed:
    """An approval as ``consilium-site approvals`` lists it."""

    digest: str
    name: str
    dataset: str
    cohort: str
    runs: int
    served: int
    by: str
    at: str
    state: State


def folder_of(site: SiteFolder, digest: str) -> Path:
    """Where what belongs to a plan is kept; raises ``PolicyError`` ("not-approved") for what is no digest."""
    if not _DIGEST.fullmatch(digest):
        raise _not_approved(digest)
    return site.path / APPROVED / digest


def record(site: SiteFolder, content: bytes, terms: Terms, now: datetime) -> Approval:
    """Approve the signed plan in ``content``; durable, and in the audit log, when it returns.

    Raises:
        ConsiliumError: the plan is not the pinned lead's, or the log cannot be written.
    """
    plan = open_plan(content, require_pinned(site).lead)
    folder = folder_of(site, plan.digest())
    with _changing(site, folder):
        before = _paper(site, folder)
        paper = Paper(
            plan=plan.digest(),
            number=before.number + 1 if before else 1,
            dataset=terms.dataset,
            cohort=terms.cohort,
            runs=served(folder) + terms.runs,
            by=terms.by,
            at=stamp(now),
        )
        replace_file(folder / PLAN, content)
        digests = {"plan": paper.plan, "cohort": paper.cohort, "approval": paper.sha256()}
        counts = {"runs": paper.runs, "number": paper.number, f"by.{terms.by}": 1}
        site.audit.append(Event("approve", terms.dataset, counts, digests), now)
        replace_file(folder / APPROVAL, seal(paper, site.signing_key()))
    return Approval(plan, paper, folder)


def find(site: SiteFolder, digest: str) -> Approval:
    """The approval of the plan with ``digest``.

    Raises:
        PolicyError: nobody approved it ("not-approved"), or it was withdrawn ("withdrawn").
        SiteDataError: its files were changed, or are not this site's ("approval-damaged").
    """
    folder = folder_of(site, digest)
    paper = _paper(site, folder)
    if paper is None:
        raise _not_approved(digest)
    if _state(site, folder, paper) == "withdrawn":
        raise PolicyError(
            f"the approval of plan {digest[:12]} was withdrawn",
            hint="ask the people at this site; they can approve it again",
            code="withdrawn",
        )
    return Approval(_plan(site, folder, paper), paper, folder)


def withdraw(site: SiteFolder, digest: str, by: str, now: datetime) -> None:
    """End an approval at once; raises ``PolicyError`` where there is none, or it was withdrawn already."""
    folder = folder_of(site, digest)
    if _paper(site, folder) is None:
        raise _not_approved(digest)
    with _changing(site, folder):
        paper = find(site, digest).paper
        withdrawal = Withdrawal(plan=digest, approval=paper.sha256(), by=by, at=stamp(now))
        replace_file(folder / WITHDRAWAL, seal(withdrawal, site.signing_key()))
        digests = {"plan": digest, "approval": paper.sha256()}
        site.audit.append(Event("withdraw", paper.dataset, {f"by.{by}": 1}, digests), now)


def listed(site: SiteFolder) -> tuple[Listed, ...]:
    """All approvals, the latest last; raises ``SiteDataError`` where one was changed."""
    root = site.path / APPROVED
    names = sorted(path.name for path in root.iterdir() if _DIGEST.fullmatch(path.name)) if root.is_dir() else []
    found = [_listed(site, root / name, paper) for name in names if (paper := _paper(site, root / name))]
    return tuple(sorted(found, key=lambda one: (one.at, one.digest)))


def named(site: SiteFolder, text: str) -> str:
    """The digest that begins with ``text``, of a plan that was ever approved here; raises ``PolicyError``."""
    root = site.path / APPROVED
    known = [path.parent.name for path in root.glob(f"*/{APPROVAL}")] if _PART.fullmatch(text) else []
    found = [digest for digest in known if digest.startswith(text)]
    if len(found) != 1:
        raise PolicyError(
            f"{len(found)} plans that were approved here have this digest",
            hint="give at least 8 digits of it, and as many as tell it apart: see consilium-site approvals",
            code="not-approved",
        )
    return found[0]


def served(folder: Path) -> int:
    """How many runs have asked under a plan's approvals."""
    return sum(1 for _ in (folder / RUNS).glob("*.json"))


@contextmanager
def _changing(site: SiteFolder, folder: Path) -> Iterator[None]:
    site.audit.require_sound()
    for made in (site.path / APPROVED, folder):
        made.mkdir(mode=0o700, exist_ok=True)
    with alone(site.path / APPROVED / _LOCK):
        yield


def _listed(site: SiteFolder, folder: Path, paper: Paper) -> Listed:
    return Listed(
        digest=paper.plan,
        name=_plan(site, folder, paper).plan.name,
        dataset=paper.dataset,
        cohort=paper.cohort,
        runs=paper.runs,
        served=served(folder),
        by=paper.by,
        at=paper.at,
        state=_state(site, folder, paper),
    )


def _paper(site: SiteFolder, folder: Path) -> Paper | None:
    paper = _signed(site, folder / APPROVAL, Paper)
    if paper is not None and paper.plan != folder.name:
        raise _damaged(folder, "it is another plan's")
    return paper


def _state(site: SiteFolder, folder: Path, paper: Paper) -> State:
    withdrawal = _signed(site, folder / WITHDRAWAL, Withdrawal)
    ended = withdrawal is not None and withdrawal.approval == paper.sha256()
    return "withdrawn" if ended else "approved"


def _plan(site: SiteFolder, folder: Path, paper: Paper) -> Plan:
    try:
        with (folder / PLAN).open("rb") as file:
            plan = open_plan(file.read(SignedPlan.most_bytes + 1), require_pinned(site).lead)
    except (OSError, ProtocolError) as error:
        raise _damaged(folder, str(error)) from None
    if plan.digest() != paper.plan:
        raise _damaged(folder, "the plan beside it is another one")
    return plan


def _signed(site: SiteFolder, path: Path, kind: type[Kind]) -> Kind | None:
    """A document of this site; None where there is no such file."""
    try:
        with path.open("rb") as file:
            return opened(file.read(kind.most_bytes + 1), kind, site.signing_key().verify_key)
    except FileNotFoundError:
        return None
    except (OSError, ProtocolError) as error:
        raise _damaged(path.parent, str(error)) from None


def _not_approved(digest: str) -> PolicyError:
    return PolicyError(
        f"nobody at this site approved plan {digest[:12]}",
        hint="send its signed file to the site, whose people can approve it: consilium-site approve PLAN",
        code="not-approved",
    )


def _damaged(folder: Path, why: str) -> SiteDataError:
    return SiteDataError(
        f"the approval of plan {folder.name[:12]} was changed or cannot be read: {why}",
        hint="restore its folder from your copy, or approve the plan again once the folder is moved away",
        code="approval-damaged",
    )
