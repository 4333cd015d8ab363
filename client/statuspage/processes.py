"""Which of a site's processes run, and what the custodian says of itself.

Promises
- Asking disturbs nothing: no lock is taken, not even for a moment, and no session is opened.
- Each answer is a state, a sentence and a hint; one that cannot be found out is "unknown", never "down".
- Where custodian and relay have users of their own (``consilium-site service``), the relay's files are closed to the
  site's user: hints name the services, and how the relay does is theirs to say.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from client.custodian.caller import status as ask_status
from shared.errors import SiteDataError
from shared.local_page.words import count, lasting

SOCKET, TOKEN, LOCK = "custodian.sock", "relay.token", "supernode.lock"
SESSION, SECRET = "session.json", "superexec.secret"
LOCKS = Path("/proc/locks")
_PATIENCE_S = 2.0
_START = "consilium-site start"
_SERVICES = {"custodian": "systemctl status consilium-custodian", "relay": "systemctl status consilium-relay"}

Found = dict[str, Any]


def custodian(run: Path) -> Found:
    """Whether the custodian answers, what it is at, and what it has done; "down" where there is none."""
    if not (run / SOCKET).exists():
        return _found("down", "No custodian runs: nothing is computed for the federation.", _mend(run, "custodian"))
    try:
        said = ask_status(run / SOCKET, run / TOKEN, _PATIENCE_S)
    except SiteDataError as error:
        log = "" if _as_services(run) else "; its log is log/custodian.log."
        hint = error.hint if error.code == "custodian-token" else f"{_mend(run, 'custodian')}{log}"
        return _found("down", f"{error.sentence[:1].upper()}{error.sentence[1:]}.", hint)
    busy_s, waiting = said.get("busy_s"), int(said.get("waiting", 0))
    numbers: Found = {"busy_s": busy_s, "waiting": waiting, "answered": int(said.get("answered", 0))}
    if busy_s is None:
        return _found("up", "It waits for a question.") | numbers
    more = f"; {count(waiting, 'more request')} in line" if waiting else ""
    return _found("busy", f"It has been working for {lasting(busy_s)}{more}.") | numbers


def supernode(run: Path, locks: Path = LOCKS) -> Found:
    """Whether the SuperNode runs, by its lock."""
    if _as_services(run):
        return _found("unknown", "It has a user of its own, and shows nothing to this one.", _mend(run, "relay"))
    held = locked(run / LOCK, locks)
    if held is None:
        return _found("unknown", "This system does not tell whether the SuperNode runs.")
    if not held:
        return _found("down", "No SuperNode runs: this site has no link.", _START)
    return _found("up", "It carries messages, and nothing else.")


def link(run: Path, node: Found, address: str | None) -> Found:
    """Whether a session with the coordinator was opened since the SuperNode started."""
    if not address:
        return _found("off", "This site is in no federation yet.", "consilium-site request, then accept.")
    if _as_services(run):
        return _found("unknown", f"The relay knows whether {address} is reached.", "journalctl -u consilium-relay") | {
            "address": address
        }
    if node["state"] != "up":
        return _found("down", f"There is no link to {address}.", _START) | {"address": address}
    if _time(run / SESSION) >= _time(run / SECRET) > 0:
        return _found("up", f"Connected to {address}, by a connection that this site opened.") | {"address": address}
    hint = "log/supernode.log says why; consilium-site doctor examines the way there."
    return _found("down", f"The SuperNode has not reached {address} yet.", hint) | {"address": address}


def locked(path: Path, locks: Path = LOCKS) -> bool | None:
    """Whether some process holds a lock on the file, as Linux lists them (proc(5)); None where nothing says so."""
    try:
        lines, inode = locks.read_text(encoding="ascii").splitlines(), path.stat().st_ino
    except FileNotFoundError:
        return None if not locks.exists() else False
    except OSError:
        return None
    held = (line.split() for line in lines if " FLOCK " in line)
    return any(part.rpartition(":")[2] == str(inode) for words in held for part in words if part.count(":") == 2)


def _as_services(run: Path) -> bool:
    """Whether two users run this site: then the socket's folder is elsewhere, and this is a link to it."""
    return run.is_symlink()


def _mend(run: Path, part: str) -> str:
    return _SERVICES[part] if _as_services(run) else _START


def _time(path: Path) -> int:
    try:
        return path.stat().st_mtime_ns
    except OSError:
        return 0


def _found(state: str, sentence: str, hint: str = "") -> Found:
    return {"state": state, "sentence": sentence, "hint": hint}
