"""What a site holds of its federation: the welcome it accepted, the newest roster, and the authority, in ``trust/``.

::

    trust/welcome.json   the welcome, as the lead signed it
    trust/roster.json    the newest roster, as the lead signed it; never an older one than the welcome's
    trust/ca.pem         the authority of the welcome, for whatever takes a file

Promises
- What is read is checked with the lead's key each time; a file that was changed is an error, not another federation.
- ``welcome.json`` decides: it is written last, and the first one that is fixes lead, federation and authority for good.
  A process that is killed in between leaves what was there before, or a newer roster beside it.

Whether a welcome or a roster may be taken is decided by ``client.enrolment``.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from shared.crypto.signing import VerifyKey
from shared.durable import replace_file
from shared.errors import ProtocolError, SiteDataError
from shared.trust.documents import opened
from shared.trust.enrolment import Welcome, open_welcome
from shared.trust.roster import Roster

TRUST, WELCOME, ROSTER, AUTHORITY, LOCK = "trust", "welcome.json", "roster.json", "ca.pem", "lock"
Standing = Literal["active", "suspended", "removed"]


@dataclass(frozen=True, slots=True)
class Pinned:
    """A welcome that was accepted, the newest roster, and this site's key as the welcome's own roster has it."""

    folder: Path
    welcome: Welcome
    roster: Roster
    identity: str

    @property
    def lead(self) -> VerifyKey:
        """The lead's key: what plans and orders are checked with."""
        return self.welcome.lead_key

    @property
    def federation(self) -> str:
        """What the federation is called."""
        return self.welcome.federation

    @property
    def address(self) -> str:
        """Where the coordinator is, ``host:port``."""
        return self.welcome.address

    @property
    def ca_file(self) -> Path:
        """File with the authority to trust, in PEM."""
        return self.folder / AUTHORITY

    @property
    def standing(self) -> Standing:
        """How this site stands in the newest roster."""
        entry = self.roster.entry(self.welcome.site)
        # Under this name somebody else may have been enrolled since.
        return entry.state if entry and entry.identity == self.identity else "removed"


def load(site: Path) -> Pinned | None:
    """What the site in the folder ``site`` holds, None where it accepted nothing; raises ``SiteDataError``."""
    folder = site / TRUST
    try:
        welcome, roster = open_welcome((folder / WELCOME).read_bytes())
        newer = _newest(folder, welcome)
        _require_authority(folder, welcome)
    except FileNotFoundError:
        return None
    except (OSError, ProtocolError) as error:
        raise _damaged(getattr(error, "strerror", None) or str(error)) from None
    newest = newer if newer and newer.version > roster.version else roster
    return Pinned(folder, welcome, newest, _identity(welcome, roster))


def keep_welcome(site: Path, content: bytes, welcome: Welcome) -> None:
    """Hold a welcome from now on; durable when it returns."""
    folder = site / TRUST
    replace_file(folder / AUTHORITY, welcome.ca.encode("ascii"))
    replace_file(folder / ROSTER, welcome.roster.encode("ascii"))
    replace_file(folder / WELCOME, content)


def keep_roster(site: Path, content: bytes) -> None:
    """Hold a roster from now on; durable when it returns."""
    replace_file(site / TRUST / ROSTER, content)


def _identity(welcome: Welcome, roster: Roster) -> str:
    entry = roster.entry(welcome.site)
    return entry.identity if entry else ""


def _newest(folder: Path, welcome: Welcome) -> Roster | None:
    path = folder / ROSTER
    return opened(path.read_bytes(), Roster, welcome.lead_key) if path.exists() else None


def _require_authority(folder: Path, welcome: Welcome) -> None:
    path = folder / AUTHORITY
    if not path.exists() or path.read_bytes() != welcome.ca.encode("ascii"):
        raise ProtocolError(f"{AUTHORITY} is not the authority of {WELCOME}")


def _damaged(why: str) -> SiteDataError:
    return SiteDataError(
        f"what this site holds of its federation was changed or cannot be read: {why}",
        hint=f"restore the folder {TRUST} from your copy, or move it away and accept the lead's welcome again",
        code="pinned-damaged",
    )
