"""The replies that left or are about to, byte for byte, so that nobody is answered twice with two draws of noise.

::

    RUN/lock                     held while a reply of the run is made
    RUN/ROUND-CLAIM.reply        RUN and CLAIM are SHA-256 sums: what a coordinator calls a run is no path here

Promises
- ``store`` returns when the bytes are on the disk. What was stored for a claim before is replaced, which is right only
  while nothing has left: the ledger knows.
- ``fetch`` gives the bytes with the SHA-256 asked for, or refuses. Who is refused gets no other bytes.
- The last two rounds of a run are kept, for a coordinator that lost a reply; older ones are forgotten.
- Only the owner can read them (0600, folders 0700).
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import astuple, dataclass, replace
from pathlib import Path

from client.governance.spending import Claim
from shared.durable import PRIVATE, fsync_folder, replace_file
from shared.errors import ProtocolError, SiteDataError

_KEPT_ROUNDS = 2
_ENDING = ".reply"
_DIGITS = 10


@dataclass(frozen=True, slots=True)
class Replies:
    """The replies in a folder, which is made with the first."""

    folder: Path

    def store(self, claim: Claim, content: bytes) -> str:
        """Keep ``content`` as the reply to ``claim``, forget older rounds of its run, and give its SHA-256."""
        path = self._path(claim)
        _make(path.parent)
        replace_file(path, content, PRIVATE)
        _forget(path)
        return hashlib.sha256(content).hexdigest()

    def fetch(self, claim: Claim, sha256: str) -> bytes:
        """The reply to ``claim``, whose SHA-256 the ledger knows.

        Raises:
            ProtocolError: it was forgotten ("reply-forgotten").
            SiteDataError: the disk holds other bytes ("reply-damaged").
        """
        try:
            content = self._path(claim).read_bytes()
        except FileNotFoundError:
            raise ProtocolError(
                f"round {claim.round} of this run was answered, and the reply is kept no longer: the last "
                f"{_KEPT_ROUNDS} rounds are",
                hint="go on with the next round: a second answer would be a second draw of noise, and is never given",
                code="reply-forgotten",
            ) from None
        if hashlib.sha256(content).hexdigest() != sha256:
            raise SiteDataError(
                f"the stored reply to round {claim.round} is not what left",
                hint="check the disk; the reply cannot be made again, go on with the next round",
                code="reply-damaged",
            )
        return content

    @contextmanager
    def alone(self, claim: Claim) -> Iterator[None]:
        """Nobody else is inside this block for the same run, whatever process or thread they are of."""
        folder = self._path(claim).parent
        _make(folder)
        handle = os.open(folder / "lock", os.O_RDWR | os.O_CREAT, PRIVATE)
        try:
            # Given back by the operating system when a process ends, however it ends.
            fcntl.flock(handle, fcntl.LOCK_EX)
            yield
        finally:
            os.close(handle)

    def _path(self, claim: Claim) -> Path:
        # The request is not part of a claim's name: another one is refused before anybody looks here.
        said = json.dumps(astuple(replace(claim, request=""))).encode()
        run = hashlib.sha256(claim.run.encode()).hexdigest()
        return self.folder / run / f"{claim.round:0{_DIGITS}d}-{hashlib.sha256(said).hexdigest()}{_ENDING}"


def _make(folder: Path) -> None:
    """``folder`` and the one above it, durable."""
    for path in (folder.parent, folder):
        path.mkdir(mode=0o700, exist_ok=True)
        fsync_folder(path.parent)


def _forget(newest: Path) -> None:
    """Remove all but the last rounds beside ``newest``, which stays whatever its round is."""
    found = {path: path.name.partition("-")[0] for path in newest.parent.glob(f"*{_ENDING}")}
    kept = {*sorted(set(found.values()))[-_KEPT_ROUNDS:], found[newest]}
    for path, number in found.items():
        if number not in kept:
            path.unlink(missing_ok=True)
