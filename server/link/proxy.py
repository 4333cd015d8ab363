"""A configuration of nginx for those who want a reverse proxy in front of the gateway.

Promises
- It lets through what the gateway lets through, by the same list of calls and within the same limits, and nothing else.
- It ends TLS with the federation's own certificate, because sites trust no other authority, and speaks TLS to the
  gateway, whose certificate it checks.
- The gateway's own checks stay what counts: a proxy that is set up wrongly opens nothing.

A proxy needs the gateway to listen elsewhere: ``listen`` in ``federation.toml``.
"""

from __future__ import annotations

import ipaddress
import re
from contextlib import suppress
from importlib.resources import files as resources

from jinja2 import Environment, StrictUndefined

from server.federation_folder import CA_PEM, Federation, FederationFolder
from server.link.gate import FLEET_CALLS, HEALTH, Limits
from server.link.listen import HEAD_BYTES, HEAD_S, IDLE_S
from server.link.places import LinkFolder
from shared.errors import FederationError
from shared.trust.address import split_address

_PLAIN = re.compile(r"/[A-Za-z0-9/._+-]*")


def nginx(federation: FederationFolder) -> str:
    """The text, for the http block; raises ``FederationError`` ("proxy-listen", "proxy-name", "proxy-path")."""
    settings, folder = federation.settings, LinkFolder(federation.path.absolute())
    _require_apart(settings.listen, settings.port)
    if not _PLAIN.fullmatch(str(folder.root)):
        raise FederationError(
            "a path with spaces or other special characters cannot stand in nginx's configuration",
            hint="move the federation folder to a path of letters, digits and . _ + - /",
            code="proxy-path",
        )
    limits = Limits()
    return _filled(
        {
            "name": settings.name,
            "host": settings.host,
            "certified": _dns_name(settings),
            "port": settings.port,
            "upstream": settings.listen,
            "chain": folder.certificate,
            "key": folder.key,
            "authority": folder.root / CA_PEM,
            "body_bytes": limits.body_bytes,
            "pause_s": round(limits.pause_s),
            "body_s": round(limits.body_s),
            "head_s": round(HEAD_S),
            "head_bytes": HEAD_BYTES,
            "idle_s": IDLE_S,
            "health": HEALTH,
            "calls": sorted(FLEET_CALLS),
        }
    )


def _require_apart(listen: str, port: int) -> None:
    if not listen or split_address(listen)[1] == port:
        raise FederationError(
            f"the gateway itself listens at port {port}, where the proxy has to",
            hint='set listen = "127.0.0.1:8443", or another free port, in federation.toml, and start again',
            code="proxy-listen",
        )


def _dns_name(settings: Federation) -> str:
    """A name that the gateway's certificate bears: nginx compares no addresses."""
    for name in (settings.host, *settings.names):
        with suppress(ValueError):
            ipaddress.ip_address(name)
            continue
        return name
    raise FederationError(
        "the server certificate names addresses only, which nginx does not compare",
        hint='add "localhost" to names in federation.toml, then consilium-server renew',
        code="proxy-name",
    )


def _filled(said: dict[str, object]) -> str:
    template = resources("server").joinpath("link", "nginx.conf.j2").read_text(encoding="utf-8")
    environment = Environment(
        autoescape=False,  # noqa: S701 - no HTML
        undefined=StrictUndefined,
        trim_blocks=True,
        keep_trailing_newline=True,
    )
    return environment.from_string(template).render(said)
