"""Tell systemd that the custodian listens, so that what comes after it, the relay, starts when it can be answered.

Promises
- One datagram to the socket that ``NOTIFY_SOCKET`` names, as sd_notify(3) describes it; nothing of the site is in it.
- Nothing happens where no service manager listens: a custodian that was started by hand, or whose manager has gone.
"""

from __future__ import annotations

import socket
from collections.abc import Mapping
from contextlib import suppress

NOTIFY = "NOTIFY_SOCKET"


def tell_ready(environ: Mapping[str, str]) -> None:
    """Say that this process is ready, if ``environ`` names somebody to say it to."""
    address = environ.get(NOTIFY, "")
    # A path, or a name without a file that begins with @; other kinds are not this machine's.
    if not address.startswith(("/", "@")):
        return
    with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as messenger:
        messenger.sendto(b"READY=1", f"\0{address[1:]}" if address[0] == "@" else address)
