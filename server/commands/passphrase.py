"""Where the passphrase of the federation's keys comes from: a file, the environment, or whoever sits at the terminal.

Never from the words of a command line, which every user of the machine can read while it runs. A file named by
``CONSILIUM_PASSPHRASE_FILE`` goes first, and must be its owner's alone; then ``CONSILIUM_PASSPHRASE``; then a question.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from shared.crypto.key_files import read_key_file
from shared.crypto.locked_keys import Passphrase, require_passphrase
from shared.errors import FederationError

FROM_FILE, FROM_ENVIRONMENT = "CONSILIUM_PASSPHRASE_FILE", "CONSILIUM_PASSPHRASE"
Question = Callable[[str], str]
"""Asks for something without showing it; raises ``EOFError`` where nobody can answer."""


def to_open(environ: Mapping[str, str], ask: Question) -> Passphrase:
    """Gives the passphrase of keys that exist, when it is called, and the same each time."""
    known: list[bytes] = []

    def passphrase() -> bytes:
        if not known:
            known.append(_given(environ) or _asked(ask, "Passphrase of the federation's keys"))
        return known[0]

    return passphrase


def to_lock(environ: Mapping[str, str], ask: Question) -> bytes:
    """A passphrase for new keys; typed, it is typed twice. Raises ``FederationError``."""
    given = _given(environ)
    if given is not None:
        return require_passphrase(given)
    first = require_passphrase(_asked(ask, "New passphrase for the federation's keys"))
    if _asked(ask, "The same again") != first:
        raise FederationError("the two passphrases differ", hint="try again", code="passphrase-differs")
    return first


def _given(environ: Mapping[str, str]) -> bytes | None:
    if environ.get(FROM_FILE):
        return read_key_file(Path(environ[FROM_FILE])).rstrip(b"\r\n")
    return environ[FROM_ENVIRONMENT].encode() if environ.get(FROM_ENVIRONMENT) else None


def _asked(ask: Question, what: str) -> bytes:
    try:
        return ask(what).encode()
    except EOFError:
        raise FederationError(
            "the federation's keys need a passphrase, and nobody can be asked for it",
            hint=f"set {FROM_FILE} to a file that only you can read",
            code="passphrase-missing",
        ) from None
