"""Frozen cohorts on disk: one file each, named by its digest, a signature beside it, and which one is current.

The folder::

    DIGEST.cohort      canonical bytes of a cohort (``Cohort.canonical_bytes``); DIGEST is their SHA-256
    DIGEST.signature   64 bytes over them, by the site's key (Ed25519)
    current            the digest of the cohort that is meant when none is named

Promises
- ``load`` gives a cohort whose bytes have the digest in its name and a signature of the site's key, or refuses.
- A file has its name when it is whole and on the disk; ``current`` is written last, so it never names what is not
  there.
- An old cohort stays: what was approved, trained on and paid for can be shown as long as somebody keeps the folder.
- Only the owner can read them (0600, folder 0700).
"""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path
from typing import Any

from client.data.cohort.manifest import Cohort, Member, SplitRule
from shared.crypto.signing import SigningKey, VerifyKey
from shared.durable import replace_file
from shared.errors import ProtocolError, SiteDataError

CURRENT = "current"
_COHORT, _SIGNATURE = ".cohort", ".signature"
_DIGEST = re.compile(r"[0-9a-f]{64}")


def save(cohort: Cohort, folder: Path, signer: SigningKey) -> str:
    """Write ``cohort`` with its signature, make it the current one, and return its digest."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    said, digest = cohort.canonical_bytes(), cohort.digest()
    replace_file(folder / f"{digest}{_SIGNATURE}", signer.sign(said))
    replace_file(folder / f"{digest}{_COHORT}", said)
    replace_file(folder / CURRENT, digest.encode() + b"\n")
    return digest


def current(folder: Path) -> str | None:
    """Digest of the cohort that is meant when none is named; None where nothing was frozen yet."""
    try:
        found = (folder / CURRENT).read_text(encoding="ascii", errors="replace").strip()
    except FileNotFoundError:
        return None
    if not _DIGEST.fullmatch(found):
        raise _damaged("the note of the current cohort names none")
    return found


def load(folder: Path, verifier: VerifyKey, digest: str | None = None) -> Cohort:
    """The cohort with ``digest``, or the current one.

    Raises:
        SiteDataError: ``cohort-missing``, ``cohort-damaged`` (other bytes than its name says) or ``cohort-signature``
            (not signed by ``verifier``'s key).
    """
    wanted = digest or current(folder)
    if wanted is None:
        raise SiteDataError(
            "no cohort of this data set was frozen yet", hint="freeze it: consilium-site freeze", code="cohort-missing"
        )
    said = _read(folder, wanted, _COHORT)
    if hashlib.sha256(said).hexdigest() != wanted:
        raise _damaged(f"the cohort {wanted[:12]} does not hold what was frozen")
    try:
        verifier.verify(_read(folder, wanted, _SIGNATURE), said)
    except ProtocolError as error:
        raise SiteDataError(
            f"the cohort {wanted[:12]} is not signed by this site's key {verifier.fingerprint()}",
            hint="freeze it anew at this site; a cohort of another site or key is not taken over",
            code="cohort-signature",
        ) from error
    return _cohort(said, wanted)


def _read(folder: Path, digest: str, ending: str) -> bytes:
    # Before it becomes part of a path.
    if _DIGEST.fullmatch(digest):
        try:
            return (folder / f"{digest}{ending}").read_bytes()
        except FileNotFoundError:
            pass
    raise SiteDataError(
        f"there is no cohort {digest[:12]} with its signature among the frozen ones",
        hint="name one by all 64 digits of its digest, or freeze the data set",
        code="cohort-missing",
    )


def _cohort(said: bytes, digest: str) -> Cohort:
    try:
        document: dict[str, Any] = json.loads(said.partition(b"\n")[2])
        cohort = Cohort(
            **{
                **document,
                "rule": SplitRule(**document["rule"]),
                "members": tuple(_member(member) for member in document["members"]),
                "excluded": _counts(document["excluded"]),
                "quarantined": _counts(document["quarantined"]),
                "left_out": tuple(document["left_out"]),
            }
        )
    except (ValueError, TypeError, KeyError):
        cohort = None
    # Signed by this site and yet not what it says: another version wrote it, with fields that this one does not know.
    if cohort is None or cohort.canonical_bytes() != said:
        raise SiteDataError(
            f"the cohort {digest[:12]} was frozen by another version of Consilium",
            hint="read it with the version that froze it, or freeze the data set anew",
            code="cohort-version",
        )
    return cohort


def _member(document: dict[str, Any]) -> Member:
    # JSON has lists only; a member compares and hashes as what was frozen.
    shape, spacing_mm = tuple(document["shape"]), tuple(document["spacing_mm"])
    return Member(**{**document, "shape": shape, "spacing_mm": spacing_mm})


def _counts(pairs: list[list[Any]]) -> tuple[tuple[str, int], ...]:
    return tuple((reason, count) for reason, count in pairs)


def _damaged(what: str) -> SiteDataError:
    return SiteDataError(what, hint="restore the folder of cohorts from a copy, or freeze anew", code="cohort-damaged")
