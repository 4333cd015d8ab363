"""Where a coordinator is: ``host:port``, as a welcome says it and certificates name it.

A host is a DNS name of letters, digits, hyphens and underscores (RFC 1123; other alphabets in their xn-- form), an IPv4
address, or an IPv6 address in brackets.
"""

from __future__ import annotations

import ipaddress
import re

from shared.errors import FederationError

_LABEL = re.compile(r"(?!-)[a-z0-9_-]{1,63}(?<!-)")
_PORT = re.compile(r"[1-9][0-9]{0,4}")
_MOST_HOST = 253


def split_address(address: str) -> tuple[str, int]:
    """Host, without brackets and in lower case, and port; raises ``FederationError`` ("address")."""
    host, colon, port = address.rpartition(":")
    bare = host[1:-1] if host.startswith("[") and host.endswith("]") else host
    bracketed = bare != host
    if not (colon and _PORT.fullmatch(port) and int(port) < 2**16 and _is_host(bare.lower(), bracketed=bracketed)):
        raise FederationError(
            "the coordinator's address is not HOST:PORT",
            hint="such as consilium.example.org:443, or 192.0.2.7:8443",
            code="address",
        )
    return bare.lower(), int(port)


def join_address(host: str, port: int) -> str:
    """Inverse of ``split_address``."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def require_address(text: str) -> str:
    """``text`` if it is an address in the form that ``join_address`` writes; raises ``ValueError``."""
    try:
        if join_address(*split_address(text)) == text:
            return text
    except FederationError:
        pass
    raise ValueError("an address is host:port")


def _is_host(host: str, *, bracketed: bool) -> bool:
    try:
        return (ipaddress.ip_address(host).version == 6) == bracketed
    except ValueError:
        labels = host.split(".")
    # A name whose last label is of digits is a mistyped address, not a name (RFC 3696 2).
    return (
        not bracketed
        and len(host) <= _MOST_HOST
        and all(_LABEL.fullmatch(label) for label in labels)
        and not labels[-1].isdigit()
    )
