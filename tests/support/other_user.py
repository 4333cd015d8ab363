"""A process of another user: ``other_user.py UID GID custodian SITE``, ``… probe LINK PATH…``, ``… read PATH…``.

Everything is imported before the rights are given up: this interpreter may lie where only root can read it.
"""

import _strptime  # noqa: F401 - imported late by others
import encodings.idna  # noqa: F401
import json
import os
import sys
from pathlib import Path

from client.custodian import caller, wiring
from shared.errors import ConsiliumError
from shared.message_bytes import reply_from_bytes
from shared.parcels import Parcel


def become(uid: int, gid: int) -> None:
    os.setgroups([])
    os.setgid(gid)
    os.setuid(uid)
    os.umask(0o077)


def probe(link: Path, paths: list[Path]) -> dict[str, object]:
    """What this user gets at."""
    socket, token = link / wiring.SOCKET, link / wiring.TOKEN
    return {
        "read": readable(paths),
        "status": _said(lambda: caller.status(socket, token, 20)["site"]),
        "asked": _said(lambda: reply_from_bytes(caller.ask(socket, token, Parcel("", b"hello"), 20).body).code),
        "moved": _said(lambda: str(socket.rename(link / "mine"))),
        "made": _said(lambda: str((link / "new").touch())),
    }


def readable(paths: list[Path]) -> list[str]:
    return [str(path) for path in paths if _readable(path)]


def _readable(path: Path) -> bool:
    try:
        if path.is_dir():
            next(path.iterdir(), None)
        else:
            path.read_bytes()
    except OSError:
        return False
    return True


def _said(call: object) -> str:
    try:
        return str(call())  # type: ignore[operator]
    except ConsiliumError as error:
        return error.code
    except OSError as error:
        return f"errno {error.errno}"


if __name__ == "__main__":
    become(int(sys.argv[1]), int(sys.argv[2]))
    if sys.argv[3] == "custodian":
        sys.exit(wiring.main(sys.argv[4:]))
    found = [Path(word) for word in sys.argv[4:]]
    json.dump(readable(found) if sys.argv[3] == "read" else probe(found[0], found[1:]), sys.stdout)
