"""Signed documents: what the lead and the sites tell each other on paper, so to speak, and keep.

Promises
- A document is JSON with sorted keys, without spaces, in ASCII; what is signed (Ed25519) is one line that names the
  kind, ``consilium-KIND-1``, and that JSON. A signature under one kind is none under another.
- A file is ``{"document": …, "signature": …, "signer": …}`` in the same form, and one line feed. There is exactly one
  way to write it: any byte changed, added or removed makes another file, and that is refused.
- Nothing is believed before its signature was checked with a key that the caller names. Sizes are bounded before
  anything is parsed; unknown fields and wrong types are refused; no error repeats what a file said.

Whose key to name is decided by ``shared.trust.enrolment`` and by whoever pinned it.
"""

from __future__ import annotations

import hashlib
import json
import re
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, ClassVar, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from shared.crypto.signing import SigningKey, VerifyKey
from shared.durable import SHARED, replace_file
from shared.errors import ProtocolError

NAME = r"^[a-z0-9][a-z0-9-]{0,62}$"
"""What a federation and a site may be called."""

_FORM = "%Y-%m-%dT%H:%M:%S+00:00"
_SIGNATURE, _KEY = re.compile(r"[0-9a-f]{128}"), re.compile(r"[0-9a-f]{64}")
_ENVELOPE = frozenset({"document", "signature", "signer"})


def _a_moment(text: str) -> str:
    if stamp(moment(text)) != text:
        raise ValueError("a time is written YYYY-MM-DDTHH:MM:SS+00:00")
    return text


Name = Annotated[str, Field(pattern=NAME)]
Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
"""A SHA-256, or a public key of Ed25519: 64 hexadecimal digits."""
Moment = Annotated[str, Field(max_length=25), AfterValidator(_a_moment)]
"""A time as ``stamp`` writes it."""


class Document(BaseModel):
    """What all documents share; ``kind`` and ``most_bytes``, the size of its file, are its class's."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    kind: ClassVar[str]
    most_bytes: ClassVar[int]

    def canonical(self) -> bytes:
        """The one JSON that says this."""
        return _canonical(self.model_dump(mode="json"))

    def sha256(self) -> str:
        """SHA-256 of ``canonical``, 64 hexadecimal digits."""
        return hashlib.sha256(self.canonical()).hexdigest()


Kind = TypeVar("Kind", bound=Document)


def seal(document: Document, key: SigningKey) -> bytes:
    """The file that says ``document`` with the signature of ``key``; raises ``ProtocolError`` if it grew too large."""
    body = document.canonical()
    signature = key.sign(_opening(type(document)) + body).hex()
    content = {"document": json.loads(body), "signature": signature, "signer": key.verify_key.hex()}
    written = _canonical(content) + b"\n"
    _require_size(written, type(document))
    return written


def opened(content: bytes, kind: type[Kind], verify_key: VerifyKey) -> Kind:
    """The document of a file that ``seal`` wrote with the private half of ``verify_key``.

    Raises:
        ProtocolError: too large ("document-size"), not written as documents are ("document-form"), signed by somebody
            else ("signer") or by nobody ("signature-invalid").
    """
    envelope = _envelope(content, kind)
    if envelope["signer"] != verify_key.hex():
        signer = VerifyKey.from_hex(envelope["signer"])
        raise ProtocolError(
            f"this {_said(kind)} is signed by the key {signer.fingerprint()}, not by {verify_key.fingerprint()}",
            hint="ask its sender where it comes from; nothing of it was used",
            code="signer",
        )
    body = _canonical(envelope["document"])
    verify_key.verify(bytes.fromhex(envelope["signature"]), _opening(kind) + body)
    try:
        return kind.model_validate_json(body)
    except ValidationError as error:
        raise _malformed(kind, f"{_place(error, kind)} is not as it must be") from None


def signer_of(content: bytes, kind: type[Document]) -> VerifyKey:
    """Whose signature a file claims to bear, before it is checked; raises ``ProtocolError``."""
    return VerifyKey.from_hex(_envelope(content, kind)["signer"])


def read(path: Path, kind: type[Document]) -> bytes:
    """A file that may be a document of ``kind``, or one byte more than that may have; raises ``ProtocolError``."""
    try:
        with path.open("rb") as file:
            return file.read(kind.most_bytes + 1)
    except OSError as error:
        raise ProtocolError(
            f"the file with the {_said(kind)} cannot be read: {error.strerror}",
            hint="check its path",
            code="document-unreadable",
        ) from None


def write(path: Path, content: bytes) -> None:
    """Put a file that ``seal`` made where people will send it from; raises ``ProtocolError``."""
    try:
        replace_file(path, content, SHARED)
    except OSError as error:
        raise ProtocolError(
            f"{path} cannot be written: {error.strerror}", hint="name another with --out", code="document-unwritable"
        ) from None


def stamp(now: datetime) -> str:
    """A time as documents write it: UTC, to the second."""
    return now.astimezone(UTC).strftime(_FORM)


def moment(text: str) -> datetime:
    """Inverse of ``stamp``; raises ``ValueError``."""
    return datetime.strptime(text, _FORM).replace(tzinfo=UTC)


def _opening(kind: type[Document]) -> bytes:
    return f"consilium-{kind.kind}-1\n".encode()


def _canonical(content: object) -> bytes:
    return json.dumps(content, sort_keys=True, separators=(",", ":"), allow_nan=False).encode("ascii")


def _envelope(content: bytes, kind: type[Document]) -> dict[str, Any]:
    _require_size(content, kind)
    try:
        found = json.loads(content)
        written = _canonical(found) + b"\n"
    except (ValueError, RecursionError):
        raise _malformed(kind, "it is no JSON") from None
    if not isinstance(found, dict) or set(found) != _ENVELOPE or not isinstance(found["document"], dict):
        raise _malformed(kind, "it is not a document with its signature and its signer")
    if not (_SIGNATURE.fullmatch(str(found["signature"])) and _KEY.fullmatch(str(found["signer"]))):
        raise _malformed(kind, "its signature or its signer is not in hexadecimal digits")
    if written != content:
        raise _malformed(kind, "it was written in another way than Consilium writes it")
    return found


def _require_size(content: bytes, kind: type[Document]) -> None:
    if len(content) > kind.most_bytes:
        raise ProtocolError(
            f"{len(content)} bytes are too many for a {_said(kind)}: {kind.most_bytes} at most",
            hint="check that this is the right file",
            code="document-size",
        )


def _malformed(kind: type[Document], why: str) -> ProtocolError:
    return ProtocolError(
        f"this is no {_said(kind)}: {why}",
        hint="check that this is the right file, and have it sent again as an attachment",
        code="document-form",
    )


def _place(error: ValidationError, kind: type[Document]) -> str:
    """The field that is wrong; names that its writer made up are not repeated."""
    names = [part for part in error.errors()[0]["loc"] if part in kind.model_fields]
    return f"its field {names[0]}" if names else "one of its fields"


def _said(kind: type[Document]) -> str:
    return kind.kind.replace("-", " ")
