"""What the link keeps in a federation folder, and how the pieces find each other.

::

    link/       0700: superlink.sqlite, superexec.secret, control.token, gateway.json, gateway.lock,
                flower/ (what Flower unpacks), objects/ (models under way)
    log/        gateway.jsonl

Promises
- Secrets are drawn from the operating system's randomness, are readable by their owner alone, and are never replaced.
- One gateway a folder: it holds a lock that the operating system takes back when the process ends, however it ends.
- The port for this machine stays the same over restarts where it can: tasks that run are still asking there.
"""

from __future__ import annotations

import fcntl
import json
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from server.federation_folder import CHAIN_PEM, SERVER_KEY
from shared.crypto.key_files import SECRET_BYTES, read_key_file, write_secret
from shared.durable import replace_file
from shared.errors import RunError

_PRIVATE = 0o700


@dataclass(frozen=True, slots=True)
class LinkFolder:
    """The link's part of the federation folder ``root``."""

    root: Path

    @property
    def database(self) -> Path:
        """Of Flower's SuperLink."""
        return self.root / "link" / "superlink.sqlite"

    @property
    def secret(self) -> Path:
        """What a SuperExec shows to the runtime API; Flower reads the file's raw bytes."""
        return self.root / "link" / "superexec.secret"

    @property
    def token_file(self) -> Path:
        """What the lead's commands show to the control API."""
        return self.root / "link" / "control.token"

    @property
    def flower_home(self) -> Path:
        """Where Flower unpacks bundles."""
        return self.root / "link" / "flower"

    @property
    def certificate(self) -> Path:
        """PEM: the server's certificate, then its authority's."""
        return self.root / CHAIN_PEM

    @property
    def key(self) -> Path:
        """PEM: the server's private key."""
        return self.root / SERVER_KEY

    @property
    def log(self) -> Path:
        """Control calls and refusals, one JSON object a line."""
        return self.root / "log" / "gateway.jsonl"

    def prepare(self) -> None:
        """Make what is missing; what is there stays."""
        for folder in (self.root / "link", self.root / "log", self.flower_home):
            folder.mkdir(mode=_PRIVATE, parents=True, exist_ok=True)
        for path in (self.secret, self.token_file):
            if not path.exists():
                write_secret(path, secrets.token_bytes(SECRET_BYTES))

    def token(self) -> str:
        """The control API's token; raises ``SiteDataError`` where it is missing or open to others."""
        return read_key_file(self.token_file).decode("ascii", "replace").strip()

    def announced(self) -> dict[str, int]:
        """The last gateway's process (``pid``) and ports (``public``, ``local``); empty where there was none."""
        try:
            said = json.loads((self.root / "link" / "gateway.json").read_bytes())
            return {name: int(said[name]) for name in ("pid", "public", "local")}
        except (OSError, KeyError, ValueError, TypeError):
            return {}

    def announce(self, public: int, local: int) -> None:
        """Say which ports the gateway of this process listens at."""
        said = {"pid": os.getpid(), "public": public, "local": local}
        replace_file(self.root / "link" / "gateway.json", json.dumps(said).encode())

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Hold the folder; raises ``RunError`` ("folder-in-use") where another process does."""
        descriptor = os.open(self.root / "link" / "gateway.lock", os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            raise RunError(
                "another gateway works in this federation folder",
                hint="stop it first; two coordinators never share a folder",
                code="folder-in-use",
            ) from None
        try:
            yield
        finally:
            os.close(descriptor)
