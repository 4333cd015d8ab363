"""Three hospitals with frozen cohorts, made once a process and copied for each test; joined and approved in code.

What people type for it is tested by the rehearsal (``simulations.rehearsal``); these tests need it a hundred times.
"""

from __future__ import annotations

import atexit
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from tempfile import mkdtemp

from deciding_hospital import DATASET, SHARING
from picture_hospitals import SITES, write_hospitals

from client import enrolment
from client.commands.approve import Wanted, approve, offered
from client.commands.doctor import examine
from client.commands.freeze import Terms, freeze
from client.commands.ingest import Order, ingest
from client.data.cohort.manifest import SplitRule
from client.data.progress import silent
from client.settings import template
from client.site_folder import SiteFolder
from server.enrolment import enrol, sign
from server.federation_folder import ROSTER, FederationFolder, settings_for
from shared.crypto.signing import SigningKey
from shared.plan import Plan
from shared.trust.enrolment import make_welcome, open_request

NAMES = tuple(sorted(SITES))


def now() -> datetime:
    return datetime.now(UTC)


@cache
def frozen() -> Path:
    """A folder with a site folder for each hospital, by the functions behind ingest, doctor and freeze."""
    root = Path(mkdtemp(prefix="consilium-"))
    atexit.register(shutil.rmtree, root, ignore_errors=True)
    source = write_hospitals(root / "source")
    for name in NAMES:
        _freeze(root / name, source, name)
    return root


def _freeze(folder: Path, source: Path, name: str) -> None:
    site = SiteFolder.init(folder, template(name).replace('workers = "auto"', "workers = 1"), now())
    columns = {"file": ("image",), "patient_id": ("patient",)}
    order = Order(DATASET, (source / name,), (source / "manifest.csv",), {"site": name}, choices={"columns": columns})
    ingest(site, order, silent, silent, now)
    errors = {one.code for one in examine(site, DATASET, silent, now).findings if one.severity == "error"}
    freeze(site, DATASET, Terms(SplitRule(3, 0.5, 0.2), accept=tuple(errors)), now)
    (folder / "policy.toml").write_text(SHARING)


@dataclass(frozen=True)
class Joined:
    """A federation folder and the sites that belong to it.

    Attributes:
        root: of all folders.
        federation: of the coordinator.
        lead: its key.
    """

    root: Path
    federation: FederationFolder
    lead: SigningKey

    def site(self, name: str) -> SiteFolder:
        return SiteFolder.open(self.root / name)

    def welcome(self, name: str, address: str = "") -> None:
        """Write the welcome of an enrolled site again, for another ``address`` if given, and accept it there."""
        coordinator = self.federation.coordinator()
        said = replace(coordinator, address=address) if address else coordinator
        welcome = make_welcome(self.lead, said, self.federation.read(ROSTER), name, now())
        enrolment.accept(self.site(name), welcome, now())

    def approve(self, plan: Plan, runs: int = 1) -> None:
        """Sign a plan, and approve it at every site."""
        signed = sign(self.federation, plan, self.lead, now())
        for name in NAMES:
            site = self.site(name)
            approve(site, offered(site, Wanted(signed.read_bytes(), signed.parent, DATASET, runs)), "test", now)


def join(root: Path, address: str, addresses: Mapping[str, str] | None = None) -> Joined:
    """A federation at ``address`` and copies of the sites in it; some sites may be told another address.

    A site's folder that is there already as an empty one (a mount point) is filled.
    """
    settings = settings_for("squares-of-europe", address)
    federation = FederationFolder.init(root / "coordinator", settings, None, now())
    joined = Joined(root, federation, federation.lead_key(lambda: b""))
    for name in NAMES:
        shutil.copytree(frozen() / name, root / name, dirs_exist_ok=True)
        site = joined.site(name)
        enrol(federation, open_request(enrolment.request(site, now())), joined.lead, now())
    for name in NAMES:
        joined.welcome(name, (addresses or {}).get(name, ""))
    return joined
