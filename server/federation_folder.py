"""A federation's folder at the coordinator: settings, root of trust, roster, signed plans and runs.

::

    federation.toml     settings (``Federation``)
    trust/              0700: ca.key and lead.key, 0600 and under a passphrase if one was given; ca.pem, lead.pub
    tls/                0700: server.key, 0600, server.pem, and chain.pem: what a TLS server shows
    roster.json         who is enrolled, signed (``shared.trust.roster``)
    plans/DIGEST.json   signed plans
    runs/ link/ log/    0700: of whoever runs the coordinator

Promises
- The root of trust is made once: ``init`` refuses a folder that holds anything. ``federation.toml`` comes last, and
  without it a folder is no federation. What fails leaves nothing behind.
- ``renew`` makes a server certificate and touches nothing else: its key stays, so that key and certificate belong
  together at every moment, and sites pinned the authority, which stays too. Without ``tls/server.key`` it makes a key.
- A roster is replaced by the next one or not at all, under a lock: of two commands at once, the second sees what the
  first did.
- What is read back is checked with the lead's key: a roster that somebody changed on the disk is refused.
"""

from __future__ import annotations

import re
import shutil
import tomllib
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Annotated

import tomli_w
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from shared.crypto import node_keys
from shared.crypto.authority import Authority
from shared.crypto.key_files import write_key_file
from shared.crypto.locked_keys import Passphrase, read_locked, write_locked
from shared.crypto.signing import SigningKey, VerifyKey
from shared.durable import alone, replace_file
from shared.errors import FederationError
from shared.plan_errors import describe
from shared.trust import roster as rosters
from shared.trust.address import join_address, require_address, split_address
from shared.trust.documents import NAME, Name, opened, seal
from shared.trust.enrolment import Coordinator
from shared.trust.roster import Roster

FILE, ROSTER = "federation.toml", "roster.json"
TRUST, TLS, PLANS, RUNS, LINK, LOG = "trust", "tls", "plans", "runs", "link", "log"
CA_KEY, CA_PEM, LEAD_KEY, LEAD_PUBLIC = "trust/ca.key", "trust/ca.pem", "trust/lead.key", "trust/lead.pub"
SERVER_KEY, SERVER_PEM, CHAIN_PEM = "tls/server.key", "tls/server.pem", "tls/chain.pem"
_FOLDERS = (TRUST, TLS, PLANS, RUNS, LINK, LOG)
_LOCK = "trust/lock"
_PRIVATE = 0o700


def _address_or_none(text: str) -> str:
    return require_address(text) if text else text


class Federation(BaseModel):
    """``federation.toml``: what the federation is called, where sites connect, and what else certificates name.

    ``listen`` is the gateway's own ``host:port`` where a proxy stands before it; "" where sites reach it directly.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: Name
    host: Annotated[str, Field(min_length=1, max_length=253)]
    port: Annotated[int, Field(ge=1, lt=2**16)]
    names: tuple[Annotated[str, Field(min_length=1, max_length=253)], ...] = ("localhost", "127.0.0.1")
    listen: Annotated[str, AfterValidator(_address_or_none)] = ""

    @property
    def address(self) -> str:
        """``host:port``."""
        return join_address(self.host, self.port)


@dataclass(frozen=True, slots=True)
class FederationFolder:
    """An existing federation folder and its settings. Get one from ``init`` or ``open``."""

    path: Path
    settings: Federation

    @classmethod
    def init(cls, path: Path, settings: Federation, passphrase: bytes | None, now: datetime) -> FederationFolder:
        """Make a federation in ``path``, which is empty or not there, with its keys under ``passphrase`` if given.

        Raises:
            FederationError: there is a federation already ("federation-exists"), the folder holds something else
                ("folder-not-empty") or cannot be made ("folder-unwritable").
        """
        _require_empty(path)
        _make(path)
        try:
            return _fill(cls(path, settings), passphrase, now)
        except BaseException:
            for name in _FOLDERS:
                shutil.rmtree(path / name, ignore_errors=True)
            for name in (ROSTER, FILE):
                (path / name).unlink(missing_ok=True)
            raise

    @classmethod
    def open(cls, path: Path) -> FederationFolder:
        """The federation in ``path``; raises ``FederationError`` where there is none, or its settings are wrong."""
        if not (path / FILE).is_file():
            raise FederationError(
                f"{path} is no federation folder: there is no {FILE} in it",
                hint="name it with --federation, or make one: consilium-server init DIR",
                code="no-federation",
            )
        return cls(path, _settings(path / FILE))

    @property
    def lead(self) -> VerifyKey:
        """The public half of the lead's key, which needs no passphrase."""
        return VerifyKey.from_hex(self.read(LEAD_PUBLIC).decode("ascii", "replace"))

    def lead_key(self, passphrase: Passphrase) -> SigningKey:
        """The lead's key; raises ``ConsiliumError`` where it cannot be opened or is another lead's."""
        key = SigningKey.from_pem(read_locked(self.path / LEAD_KEY, passphrase), "lead.key")
        if key.verify_key != self.lead:
            raise FederationError(
                "lead.key and lead.pub are of two different leads",
                hint="restore both from the same copy of the federation folder",
                code="lead-mismatch",
            )
        return key

    def coordinator(self) -> Coordinator:
        """What a welcome says of this coordinator."""
        return Coordinator(self.settings.name, self.settings.address, self.read(CA_PEM).decode("ascii", "replace"))

    def roster(self) -> Roster:
        """The present roster, its signature checked; raises ``ConsiliumError``."""
        return opened(self.roster_file(), Roster, self.lead)

    def roster_file(self) -> bytes:
        """The present roster as the lead signed it; raises ``ConsiliumError``."""
        return self.read(ROSTER)

    def change_roster(self, key: SigningKey, change: Callable[[Roster], Roster]) -> bytes:
        """Put what ``change`` makes of the present roster in its place, signed by the lead's ``key``; gives its file.

        Where ``change`` gives the roster it was given, nothing is written; nor where ``key`` is not the lead's.
        """
        with alone(self.path / _LOCK):
            held = self.roster()
            made = change(held)
            if made == held:
                return self.read(ROSTER)
            rosters.require_successor(held, made)
            content = seal(made, key)
            opened(content, Roster, self.lead)
            replace_file(self.path / ROSTER, content)
            return content

    def renew(self, passphrase: Passphrase, now: datetime) -> None:
        """Issue the server's certificate anew, for the hosts that the settings name; raises ``ConsiliumError``."""
        authority = Authority.from_pem(read_locked(self.path / CA_KEY, passphrase), self.read(CA_PEM))
        with alone(self.path / _LOCK):
            _issue(self, authority, now)

    def read(self, name: str) -> bytes:
        """A file of this folder; raises ``FederationError`` ("federation-file") where it cannot be read."""
        try:
            return (self.path / name).read_bytes()
        except OSError as error:
            raise FederationError(
                f"{name} of the federation folder cannot be read: {error.strerror}",
                hint="restore it from your copy, or check its permissions",
                code="federation-file",
            ) from None


def settings_for(name: str, address: str) -> Federation:
    """Settings of a federation of that name at ``host:port``; raises ``FederationError``."""
    host, port = split_address(address)
    if not re.fullmatch(NAME, name):
        raise FederationError(
            f"{name!r} cannot name a federation",
            hint="give --name: lower-case letters, digits and hyphens, 63 at most",
            code="federation-name",
        )
    return Federation(name=name, host=host, port=port)


def _require_empty(path: Path) -> None:
    if (path / FILE).exists():
        raise FederationError(
            f"there is a federation in {path} already: its root of trust is made once",
            hint="consilium-server renew makes a new server certificate; for another federation, name another folder",
            code="federation-exists",
        )
    if path.exists() and not (path.is_dir() and not any(path.iterdir())):
        raise FederationError(f"{path} is not an empty folder", hint="name a new one", code="folder-not-empty")


def _make(path: Path) -> None:
    try:
        path.mkdir(mode=_PRIVATE, parents=True, exist_ok=True)
    except OSError as error:
        raise FederationError(
            f"{path} cannot be made: {error.strerror}",
            hint="let this user write to the folder above, or name another",
            code="folder-unwritable",
        ) from None
    with suppress(PermissionError):
        path.chmod(_PRIVATE)


def _fill(folder: FederationFolder, passphrase: bytes | None, now: datetime) -> FederationFolder:
    path, settings = folder.path, folder.settings
    for name in _FOLDERS:
        (path / name).mkdir(mode=_PRIVATE)
    authority, lead = Authority.create(settings.name, now), SigningKey.generate()
    write_locked(path / CA_KEY, authority.key_pem(), passphrase)
    write_locked(path / LEAD_KEY, lead.pem(), passphrase)
    replace_file(path / CA_PEM, authority.certificate_pem())
    replace_file(path / LEAD_PUBLIC, f"{lead.verify_key.hex()}\n".encode())
    _issue(folder, authority, now)
    replace_file(path / ROSTER, seal(rosters.first(settings.name, now), lead))
    replace_file(path / FILE, _text(settings).encode())
    return folder


def _issue(folder: FederationFolder, authority: Authority, now: datetime) -> None:
    path = folder.path / SERVER_KEY
    if not path.exists():
        write_key_file(path, node_keys.private_pem(node_keys.generate()))
    names = (folder.settings.host, *folder.settings.names)
    certificate = authority.issue(node_keys.load(path), names, now)
    replace_file(folder.path / SERVER_PEM, certificate)
    replace_file(folder.path / CHAIN_PEM, certificate + authority.certificate_pem())


def _settings(path: Path) -> Federation:
    try:
        return Federation.model_validate(tomllib.loads(path.read_text(encoding="utf-8")))
    except ValidationError as error:
        sentence, hint = describe(error, Federation)
        raise FederationError(f"{FILE}: {sentence}", hint=hint.partition(";")[0], code="federation-settings") from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or "it is not TOML in UTF-8"
        raise FederationError(
            f"{FILE} cannot be read: {reason}", hint="check quotes and permissions", code="federation-settings"
        ) from None


def _text(settings: Federation) -> str:
    return (
        "# Settings of this federation. Sites connect to host and port; certificates name host and names.\n"
        "# After a change: consilium-server renew, and a new welcome for each site if host or port changed.\n"
        + tomli_w.dumps(settings.model_dump(mode="json"))
    )
