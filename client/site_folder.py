"""A site's folder: settings, keys, ledger, audit log, and one folder for each data set.

::

    site.toml           settings (``client.settings``)
    policy.toml         what this hospital permits (``client.governance.policy``)
    keys/               0700: identity.pem, pseudonyms.secret, and store.key where images are encrypted, each 0600
    ledger.sqlite       what releases cost (``client.governance.ledger``)
    trust/              the lead's key, the authority and the roster (``client.pinned``)
    approved/           plans that people here approved (``client.governance.approvals``)
    run/                socket and token of the custodian at work (``client.custodian.wiring``)
    audit.jsonl         what was done here (``client.governance.audit``); audit-NNNNNN.jsonl are older lines, sealed
    datasets/NAME/      ``client.data.dataset``

Promises
- ``init`` makes a folder whole: ``site.toml`` comes last, and without it a folder is no site. What fails leaves nothing
  behind.
- Keys are drawn from the operating system's randomness, here and nowhere else.
- Everything is readable by its owner alone.
"""

from __future__ import annotations

import os
import re
import secrets
import shutil
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from client import settings
from client.data.case_files import Salt
from client.data.dataset import Dataset
from client.governance import ledger
from client.governance import policy as policy_file
from client.governance.audit import AuditLog, Event
from client.governance.policy import Policy
from client.pinned import Pinned
from client.pinned import load as load_pinned
from client.settings import Settings
from shared.crypto.key_files import SECRET_BYTES, read_secret, secret_from_hex, write_secret
from shared.crypto.signing import SigningKey
from shared.durable import replace_file
from shared.errors import SiteDataError

STORE_KEY = "CONSILIUM_STORE_KEY"
"""Environment variable that may hold the key of the archive."""

KEYS, IDENTITY, PSEUDONYMS = "keys", "identity.pem", "pseudonyms.secret"
LEDGER, AUDIT, DATASETS = "ledger.sqlite", "audit.jsonl", "datasets"
_PRIVATE = 0o700


@dataclass(frozen=True, slots=True)
class SiteFolder:
    """An existing site folder and its settings. Get one from ``init`` or ``open``."""

    path: Path
    settings: Settings

    @classmethod
    def init(cls, path: Path, text: str, now: datetime) -> SiteFolder:
        """Make a site in ``path``, which is empty or not there.

        Args:
            path: the folder; its parents are made too.
            text: of ``site.toml`` (``client.settings.template``).
            now: for the first line of the audit log.

        Raises:
            SiteDataError: the folder holds something ("folder-not-empty") or cannot be made ("folder-unwritable"), or
                ``text`` is wrong ("settings").
        """
        chosen = settings.parse(text)
        _require_empty(path)
        _make(path)
        # A folder that somebody else owns stays as it is: the doctor of the machine says so.
        with suppress(PermissionError):
            path.chmod(_PRIVATE)
        try:
            _fill(path, text, chosen, now)
        except BaseException:
            for name in (KEYS, DATASETS):
                shutil.rmtree(path / name, ignore_errors=True)
            for name in (LEDGER, AUDIT, policy_file.FILE, settings.FILE):
                (path / name).unlink(missing_ok=True)
            raise
        return cls(path, chosen)

    @classmethod
    def open(cls, path: Path) -> SiteFolder:
        """The site in ``path``; raises ``SiteDataError`` where there is none, or its settings are wrong."""
        if not (path / settings.FILE).is_file():
            raise SiteDataError(
                f"{path} is no site folder: there is no {settings.FILE} in it",
                hint="name it with --site, or make one: consilium-site init DIR",
                code="no-site",
            )
        return cls(path, settings.load(path / settings.FILE))

    def salt(self) -> Salt:
        """What turns identifiers into names at this site; raises ``SiteDataError``."""
        return Salt(self.settings.site.name, read_secret(self.path / KEYS / PSEUDONYMS))

    def signing_key(self) -> SigningKey:
        """The site's identity; raises ``SiteDataError``."""
        return SigningKey.load(self.path / KEYS / IDENTITY)

    def store_key(self, environ: Mapping[str, str] = os.environ) -> bytes | None:
        """The key of this site's archives, None where they are not encrypted; raises ``SiteDataError``."""
        if self.settings.store.encryption == "none":
            return None
        if environ.get(STORE_KEY):
            return secret_from_hex(environ[STORE_KEY], f"the environment variable {STORE_KEY}")
        path = self.path / self.settings.store.key_file
        if not path.exists():
            raise SiteDataError(
                f"images are to be encrypted, and there is neither {path.name} nor {STORE_KEY}",
                hint="restore the key from your copy; before the first ingest, make one: "
                f"(umask 077; openssl rand -hex {SECRET_BYTES} > {path})",
                code="key-missing",
            )
        return read_secret(path)

    def coordinator(self) -> tuple[str | None, Path | None]:
        """Where the coordinator is reached, and the file with the authority to trust; None where nobody said.

        What ``site.toml`` says goes before what the lead's welcome says; raises ``SiteDataError`` if that is damaged.
        """
        said, pinned = self.settings.coordinator, self.pinned
        address, authority = (pinned.address, pinned.ca_file) if pinned else (None, None)
        return said.address or address, self.path / said.ca_file if said.ca_file else authority

    @property
    def pinned(self) -> Pinned | None:
        """What this site holds of its federation, None before ``accept``; raises ``SiteDataError`` if damaged."""
        return load_pinned(self.path)

    def dataset(self, name: str) -> Dataset:
        """The folder of a data set, which may not be there yet; raises ``SiteDataError`` for an impossible name."""
        if not re.fullmatch(settings.NAME, name):
            raise SiteDataError(
                f"{name!r} cannot name a data set",
                hint="use lower-case letters, digits and hyphens, 63 at most",
                code="dataset-name",
            )
        return Dataset(self.path / DATASETS / name)

    @property
    def policy(self) -> Policy:
        """What this hospital permits; raises ``PolicyError``. A folder without ``policy.toml`` has the defaults."""
        return policy_file.load(self.path / policy_file.FILE) if self.has_policy else Policy()

    @property
    def has_policy(self) -> bool:
        """Whether ``policy.toml`` is there: folders that were made before there were policies have none."""
        # A link that leads nowhere is no missing file: somebody wanted a policy here.
        return os.path.lexists(self.path / policy_file.FILE)

    @property
    def audit(self) -> AuditLog:
        """The site's audit log, open for appending; raises ``SiteDataError`` without the signing key."""
        return AuditLog(self.path / AUDIT, self.signing_key())


def _require_empty(path: Path) -> None:
    if path.exists() and not path.is_dir():
        raise SiteDataError(f"{path} is no folder", hint="name another", code="folder-not-empty")
    held = sum(1 for _ in path.iterdir()) if path.is_dir() else 0
    if held:
        raise SiteDataError(
            f"{path} is not empty: it holds {held} files or folders",
            hint="name a new folder; a site is never made over another",
            code="folder-not-empty",
        )


def _make(path: Path) -> None:
    try:
        path.mkdir(mode=_PRIVATE, parents=True, exist_ok=True)
    except OSError as error:
        raise SiteDataError(
            f"{path} cannot be made: {error.strerror}",
            hint="let this user write to the folder above, or name another",
            code="folder-unwritable",
        ) from None


def _fill(path: Path, text: str, chosen: Settings, now: datetime) -> None:
    (path / KEYS).mkdir(mode=_PRIVATE)
    (path / DATASETS).mkdir(mode=_PRIVATE)
    identity = SigningKey.generate()
    identity.save(path / KEYS / IDENTITY)
    write_secret(path / KEYS / PSEUDONYMS, secrets.token_bytes(SECRET_BYTES))
    if chosen.store.encryption != "none":
        write_secret(path / chosen.store.key_file, secrets.token_bytes(SECRET_BYTES))
    ledger.create(path / LEDGER)
    log = AuditLog.create(path / AUDIT, identity)
    log.append(Event("init", digests={"identity": identity.verify_key.hex()}), now)
    replace_file(path / policy_file.FILE, policy_file.template().encode())
    replace_file(path / settings.FILE, text.encode())
