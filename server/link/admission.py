"""Whether a request from outside comes from an enrolled node: its key, its signature, its clock, its standing.

Promises
- The signature is checked before the roster is asked, and both before a body is read.
- Who is turned away is told why only after having shown that the key is theirs.
- A node that wants to connect gets 412, which its SuperNode takes for an answer; one that is connected gets 401, at
  which it stops (Flower 1.41: at 403 it would go on asking for ever).
- A node that connects is made known to Flower first: Flower's own list of keys follows the roster.
"""

from __future__ import annotations

import binascii
from base64 import b64decode
from collections.abc import Callable
from datetime import datetime, timedelta

from server.link.gate import Admit, Headers, Refused
from server.link.standing import Judge
from shared.crypto.node_signatures import signed_by
from shared.link import CLOCK, NOT_ENROLLED, PUBLIC_KEY_HEADER, SIGNATURE_HEADER, SUSPENDED, TIMESTAMP_HEADER

SLOW, FAST = timedelta(minutes=5), timedelta(seconds=-5)
"""How far a node's clock may be behind ours, and ahead of it; what Flower itself permits."""
_ACTIVATE = "/v1/fleet/activate-node"
_UNSIGNED = Refused(401, "no node's signature", "a node's key, signature and time are needed")

Register = Callable[[str, str], None]
"""(PEM key, site) -> None: Flower knows the key from now on."""


def admission(judge: Judge, register: Register, clock: Callable[[], datetime]) -> Admit:
    """A judge of requests; ``clock`` has a time zone."""

    def admit(path: str, headers: Headers) -> Refused | None:
        status = 412 if path == _ACTIVATE else 401
        try:
            key = b64decode(_one(headers, PUBLIC_KEY_HEADER), validate=True).decode("ascii")
            signature = b64decode(_one(headers, SIGNATURE_HEADER), validate=True)
            said = _one(headers, TIMESTAMP_HEADER).decode("ascii")
            signed_at = datetime.fromisoformat(said)
        except (ValueError, binascii.Error):
            return _UNSIGNED
        if signed_at.tzinfo is None or not signed_by(key, said.encode(), signature):
            return Refused(401, "wrong signature", "the signature does not fit the key")
        if not FAST < (behind := clock() - signed_at) < SLOW:
            sentence = f"the site's clock is {round(behind.total_seconds())} s behind; from -5 to 300 s are allowed"
            return Refused(status, "clock", sentence, CLOCK)
        found = judge(key)
        if found.state == "active":
            if path == _ACTIVATE:
                register(key, found.site)
            return None
        if found.state == "suspended":
            return Refused(status, "suspended", "this site is suspended; ask the lead", SUSPENDED)
        return Refused(status, "not enrolled", "this node is not enrolled here", NOT_ENROLLED)

    return admit


def _one(headers: Headers, name: str) -> bytes:
    """The header's value; raises ``ValueError`` where it is not there exactly once."""
    (value,) = (value for key, value in headers if key == name.encode())
    return value
