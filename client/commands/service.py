"""``consilium-site service``: what a hospital's machine is told so that two users run a site, not one.

==============================  ========================================================================================
file                            what it is for
==============================  ========================================================================================
consilium-custodian.service     systemd: the process with images, keys and ledger; no network
consilium-relay.service         systemd: the process with the network; no image, no key of the site, no ledger
setup.sh                        makes both users, the folder of the socket, and starts the services
Containerfile, compose.yaml     the same as two containers that share the folder of the socket and nothing else
==============================  ========================================================================================

Promises
- The relay's user reads nothing of the site's folder: node key and authority are lent to it by systemd, and the socket
  lies in a folder that only the custodian may write to. ``SITE/run`` becomes a link to that folder.
- What the services cannot see is refused here, and not found out by root: folders, and a Python, also behind a link.
- The relay reaches this machine, the name servers, and the coordinator or the proxy before it; no other address.
- Nothing here is run or installed: people read what they are about to give root.

The addresses are those that names have now: where the coordinator moves, the files are written anew.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version
from importlib.resources import files as resources
from pathlib import Path
from typing import Literal

from jinja2 import Environment, StrictUndefined

from client.machine.route import Endpoint, addresses, endpoint, proxy_for
from client.settings import Settings
from shared.durable import SHARED, replace_file
from shared.environment import settings as process_settings
from shared.errors import SiteDataError

NAMES = ("consilium-custodian.service", "consilium-relay.service", "setup.sh", "Containerfile", "compose.yaml")
CUSTODIAN_UID, RELAY_UID = 10001, 10002
"""Users inside the containers."""
RESOLVERS = Path("/etc/resolv.conf")

_USER = re.compile(r"[a-z_][a-z0-9_-]{0,30}")
_PLAIN = re.compile(r"/[A-Za-z0-9/._+-]*")
_CLOSED = tuple(f"/{name}" for name in ("home", "root", "run/user", "tmp", "var/tmp"))
"""Folders that neither service sees (ProtectHome=, PrivateTmp=)."""
_NOT_THE_RELAYS = ("/mnt", "/media")
_SECONDS = 10.0


@dataclass(frozen=True, slots=True)
class Users:
    """Who runs what: two users, each with a group of its name."""

    custodian: str
    relay: str


@dataclass(frozen=True, slots=True)
class Places:
    """Absolute paths: of the site's folder, and of the Python that Consilium is installed for."""

    site: Path
    python: Path


@dataclass(frozen=True, slots=True)
class Way:
    """How the relay gets out.

    Attributes:
        address: of the coordinator, ``host:port``.
        allowed: addresses that it may reach, networks too; the machine itself goes without saying.
        through: what stands at them, for people.
    """

    address: str
    allowed: tuple[str, ...]
    through: str


Gpu = Literal["none", "nvidia"]


def link_folder(users: Users) -> Path:
    """Where the socket lies."""
    return Path("/var/lib") / f"{users.custodian}-link"


def texts(settings: Settings, users: Users, places: Places, way: Way, gpu: Gpu) -> Mapping[str, str]:
    """The files by their names; raises ``SiteDataError`` for users and places that services cannot have."""
    _require_users(users)
    _require_places(places)
    link, state = link_folder(users), Path("/var/lib") / users.relay
    relay = (
        f"{places.python} -m client.supernode {state} --address {way.address} --ca ${{CREDENTIALS_DIRECTORY}}/ca.pem "
        f"--key ${{CREDENTIALS_DIRECTORY}}/node.pem --run {state} --custodian {link}"
    )
    said = {
        "name": settings.site.name,
        "site": places.site,
        "link": link,
        "user": users.custodian,
        "relay_user": users.relay,
        "custodian": f"{places.python} -m client.custodian.wiring {places.site}",
        "relay": relay,
        "address": way.address,
        "allowed": way.allowed,
        "allowed_for": f"This machine, its name servers, and {way.through}.",
        "environment": sorted(process_settings({}).items()),
        "gpu": gpu == "nvidia",
        "uid": CUSTODIAN_UID,
        "relay_uid": RELAY_UID,
        "version": version("consilium"),
    }
    return {name: _filled(name, said) for name in NAMES}


def write(folder: Path, made: Mapping[str, str]) -> None:
    """Put the files into ``folder``; raises ``SiteDataError``."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, text in made.items():
            replace_file(folder / name, text.encode(), SHARED)
    except OSError as error:
        raise SiteDataError(
            f"{folder} cannot be written to: {error.strerror}", hint="name another with --out", code="folder-unwritable"
        ) from None


def way_to(address: str | None, environ: Mapping[str, str], named: tuple[str, ...], resolvers: Path = RESOLVERS) -> Way:
    """The way to the coordinator at ``address``, with the addresses ``named`` instead of those that its name has now.

    Raises:
        SiteDataError: nobody has said where the coordinator is ("no-coordinator"), or one of ``named`` is no address.
        ConsiliumError: the coordinator, or the proxy before it, has no address.
    """
    if address is None:
        raise SiteDataError(
            "nobody has said where the coordinator is",
            hint="consilium-site accept WELCOME first, or set [coordinator] address in site.toml",
            code="no-coordinator",
        )
    target = endpoint(address)
    proxy = proxy_for(target, environ)
    there = proxy.endpoint if proxy else target
    found = tuple(_network(one) for one in named) or _resolved(there)
    # A proxy resolves the coordinator's name; its own name still has to be.
    allowed = dict.fromkeys((*found, *name_servers(resolvers)))
    return Way(str(target), tuple(allowed), f"the {'proxy' if proxy else 'coordinator'} {there}")


def name_servers(resolvers: Path) -> tuple[str, ...]:
    """Addresses of the name servers in a file like ``/etc/resolv.conf``, but for those on this machine."""
    try:
        lines = resolvers.read_text(encoding="ascii", errors="replace").splitlines()
    except OSError:
        return ()
    words = [line.split() for line in lines]
    said = [one[1].partition("%")[0] for one in words if len(one) > 1 and one[0] == "nameserver"]
    return tuple(one for one in said if _is_network(one) and not ipaddress.ip_network(one).is_loopback)


def _resolved(place: Endpoint) -> tuple[str, ...]:
    return tuple(sorted({str(sockaddr[0]) for _, sockaddr in addresses(place, _SECONDS)}))


def _network(text: str) -> str:
    if not _is_network(text):
        raise SiteDataError(
            "--allow takes an address or a network, such as 192.0.2.7 or 192.0.2.0/28",
            hint="ask who runs the coordinator which addresses it has",
            code="service-address",
        )
    return text


def _is_network(text: str) -> bool:
    try:
        ipaddress.ip_network(text)
    except ValueError:
        return False
    return True


def _require_users(users: Users) -> None:
    if users.custodian == users.relay or not all(_USER.fullmatch(one) for one in (users.custodian, users.relay)):
        raise SiteDataError(
            "two different users are needed, with names of lower-case letters, digits, _ and -",
            hint="such as --user consilium --relay-user consilium-relay",
            code="service-users",
        )


def _require_places(places: Places) -> None:
    for path in (places.site, places.python):
        if not _PLAIN.fullmatch(str(path)):
            raise SiteDataError(
                "a path with spaces or other special characters cannot stand in a service",
                hint="move it to a path of letters, digits and . _ + - /",
                code="service-path",
            )
    unseen = (*_CLOSED, *_NOT_THE_RELAYS, str(places.site))
    # The Python of a virtual environment is a link to the one that made it, often somebody's own.
    hidden = {places.site: _CLOSED, places.python: unseen, places.python.resolve(): unseen}
    for path, folders in hidden.items():
        if any(path.is_relative_to(one) for one in folders):
            raise SiteDataError(
                f"the services cannot see {path}: it lies in a folder that is hidden from them",
                hint="install Consilium into /opt/consilium, say, with a Python of the system and not one in a user's "
                "home, and keep the site's folder in /srv",
                code="service-place",
            )


def _filled(name: str, said: Mapping[str, object]) -> str:
    template = resources("client").joinpath("service", f"{name}.j2").read_text(encoding="utf-8")
    # Units and shell: escaping for HTML would change them, and what is filled in was checked.
    environment = Environment(
        autoescape=False,  # noqa: S701
        undefined=StrictUndefined,
        trim_blocks=True,
        keep_trailing_newline=True,
    )
    return environment.from_string(template).render(said)
