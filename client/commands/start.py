"""``consilium-site start``: the custodian and the SuperNode of a site, kept running until somebody stops them.

Promises
- The custodian comes first; the SuperNode, which only carries, starts when it listens. Each is restarted when it ends.
- An end that means something is said in words: a suspended site, a clock that is wrong, an old session that lasts on.
- One folder is kept running once: a second command is refused.
- Where the two have users of their own, each is started by its own service (``consilium-site service``).
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from pathlib import Path

from client.custodian.service import STOPPED
from client.link_watch import Ending
from client.site_folder import SiteFolder
from shared.durable import held
from shared.environment import settings
from shared.errors import SiteDataError
from shared.logs import EVENTS, Log, utc_now
from shared.supervision import Command, Meaning, News, Program, Supervisor, noting

CUSTODIAN, SUPERNODE = "custodian", "supernode"
LOGS, RUN = "log", "run"

_MEANINGS: dict[int, Meaning] = {
    Ending.TRY_AGAIN: Meaning("the coordinator is away, or an old session has not ended yet", 3.0),
    Ending.CERTIFICATE: Meaning("the coordinator's certificate is not the one that was pinned, or has expired", 30.0),
    Ending.NOT_ADMITTED: Meaning(
        "the coordinator does not let this site in: not enrolled, suspended, or a clock", 30.0
    ),
}
_ENDED_A_JOB: dict[int, Meaning] = {STOPPED: Meaning("it ended a job that hung, or whose approval was withdrawn", 0.5)}


def alone(site: SiteFolder) -> AbstractContextManager[None]:
    """Hold the folder while the site is kept running; raises ``SiteDataError`` where somebody else does that."""
    folder = site.path / RUN
    folder.mkdir(mode=0o700, exist_ok=True)
    refusal = SiteDataError(
        f"{site.settings.site.name} runs already from this folder",
        hint="stop it first: one site has one custodian, which alone pays from the ledger",
        code="folder-in-use",
    )
    return held(folder / "start.lock", refusal)


def supervisor(site: SiteFolder, inherited: Mapping[str, str], tell: Callable[[News], None]) -> Supervisor:
    """What keeps ``site`` running."""
    root = site.path.absolute()
    logs = root / LOGS
    logs.mkdir(mode=0o700, exist_ok=True)
    environment = {**inherited, **settings(inherited)}

    def custodian() -> Command:
        return Command((sys.executable, "-m", "client.custodian.wiring", str(root)), environment)

    def supernode() -> Command:
        return Command((sys.executable, "-m", "client.supernode", str(root)), environment)

    return Supervisor(
        (
            Program(CUSTODIAN, custodian, logs / f"{CUSTODIAN}.log", _ENDED_A_JOB, _listening(root / RUN)),
            Program(SUPERNODE, supernode, logs / f"{SUPERNODE}.log", _MEANINGS),
        ),
        noting(Log(logs / EVENTS, "start", utc_now), tell),
    )


def _listening(run: Path) -> Callable[[int], bool]:
    """Whether the custodian has said that it listens: its own process number stands in ``custodian.pid``."""

    def listens(pid: int) -> bool:
        try:
            return int((run / "custodian.pid").read_bytes()) == pid
        except (OSError, ValueError):
            return False

    return listens
