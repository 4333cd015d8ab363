"""Everything that is shown about a site, as one value in JSON's types: for the terminal, the page and the metrics.

Promises
- ``site_status`` is a function of the folder, the processes that run on it, and the moment: it writes nothing, not even
  into the audit log, and takes no lock that a running round could wait for.
- One part that cannot be read is a sentence under ``faults``; the others are there.
- No patient's data: counts of messages and bytes, names of data sets, digests, epsilons, dates of decisions.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from datetime import datetime, timedelta
from importlib.metadata import version
from typing import Any, TypeVar

from client.commands.budget import budget
from client.governance import approvals
from client.governance.policy import Policy
from client.site_folder import AUDIT, SiteFolder
from client.statuspage import processes
from client.statuspage.diary import diary, shown_left
from shared.crypto.certificates import from_pem
from shared.errors import ConsiliumError
from shared.local_page.words import days_level, disk_level, small

RUN = "run"
Part = TypeVar("Part")
Status = dict[str, Any]


@dataclass
class _Faults:
    """Parts that could not be read."""

    found: list[dict[str, str]] = field(default_factory=list)

    def instead(self, read: Callable[[], Part], otherwise: Part) -> Part:
        """What ``read`` gives, or ``otherwise`` and a fault."""
        try:
            return read()
        except ConsiliumError as error:
            self.found.append({"sentence": error.sentence, "hint": error.hint, "code": error.code})
        except OSError as error:
            reason = error.strerror or type(error).__name__
            self.found.append({"sentence": f"a file of this site cannot be read: {reason}", "hint": "", "code": "file"})
        return otherwise


def site_status(site: SiteFolder, now: datetime) -> Status:
    """How the site in this folder does at the moment ``now``."""
    faults, run, disk = _Faults(), site.path / RUN, shutil.disk_usage(site.path)
    address = faults.instead(lambda: site.coordinator()[0], None)
    none: list[Status] = []
    node = processes.supernode(run)
    return {
        "site": site.settings.site.name,
        "at": now.isoformat(timespec="seconds"),
        "version": version("consilium"),
        "federation": faults.instead(lambda: _federation(site), None),
        "custodian": processes.custodian(run),
        "supernode": node,
        "link": processes.link(run, node, address),
        "approvals": faults.instead(lambda: [asdict(one) for one in approvals.listed(site)], none),
        "budgets": faults.instead(lambda: [_budget(line) for line in budget(site, None, None)], none),
        "certificates": faults.instead(lambda: _certificates(site, now), none),
        "disk": {"free": disk.free, "total": disk.total, "level": disk_level(disk.free)},
        "policy": faults.instead(lambda: {"file": site.has_policy, "sentences": sentences(site.policy)}, None),
        **faults.instead(lambda: _diary(site, now), {"left": None, "audit": [], "audit_damaged": None}),
        "faults": faults.found,
    }


def sentences(policy: Policy) -> list[str]:
    """What the policy permits, in a few words; the whole is in ``policy.toml``."""
    privacy, statistics = policy.privacy, policy.statistics
    protected = "Plans without protection are permitted." if privacy.unsafe_allow_unprotected else (
        f"Plans must protect patients, with ε up to {privacy.max_epsilon_per_plan:g} each"
        f" and {privacy.max_epsilon_lifetime:g} in a lifetime, at δ = {small(privacy.delta)}."
    )  # fmt: skip
    releases = {"dp": "with noise", "sum": "exactly, in sums over sites", "site": "exactly, for this site"}
    figures = " or ".join(releases[one] for one in statistics.release) or "not at all"
    hours = "Rounds may begin at any time." if not policy.hours.windows else "Rounds begin only in the hours it names."
    asking = "The lead that was pinned may ask." if not policy.who.leads else "Only the leads it names may ask."
    shared = [] if not privacy.max_epsilon_alone else [
        f"Sites may share the noise, with ε up to {privacy.max_epsilon_alone:g} in a run if all other sites collude."
    ]  # fmt: skip
    return [protected, *shared, f"Figures about patients may leave {figures}.", hours, asking]


def _federation(site: SiteFolder) -> Status | None:
    pinned = site.pinned
    if pinned is None:
        return None
    said = {"name": pinned.federation, "address": pinned.address, "standing": pinned.standing}
    return said | {"roster": pinned.roster.version, "lead": pinned.lead.fingerprint()}


def _budget(line: Any) -> Status:  # noqa: ANN401 - a line of the budget, whose fields are shown as they are
    kept = ("dataset", "cohort", "state", "split", "spent", "reserved", "if_all_collude", "cap", "delta")
    return {name: getattr(line, name) for name in kept}


def _certificates(site: SiteFolder, now: datetime) -> list[Status]:
    pinned = site.pinned
    if pinned is None:
        return []
    days = from_pem(pinned.ca_file.read_bytes())[0].remaining(now) // timedelta(days=1)
    return [{"name": "authority", "days": days, "level": days_level(days)}]


def _diary(site: SiteFolder, now: datetime) -> Status:
    found = diary(site.path / AUDIT, now)
    left = asdict(found.left) | {"sentence": shown_left(found.left)}
    return {"left": left, "audit": [asdict(one) for one in found.last], "audit_damaged": found.damaged}
