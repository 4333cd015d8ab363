"""Which files make one case, and the only names a case and its patient have from here on.

Promises
- ``case_id`` and ``patient`` are HMAC-SHA-256 (RFC 2104) under the site's secret, 24 hexadecimal digits (96 bits: among
  a million names two collide with probability below 1e-16). Without the secret nobody can confirm a guessed identifier,
  and the same identifier at two sites gives unrelated names.
- What enters the HMAC is a list with its kind and site, JSON-encoded, so that ("1", "23") and ("12", "3") stay apart.
- Paths may contain identifiers; they are part of ``CaseFiles`` but never of its ``repr``.
- An age becomes a band: exact ages identify people, above 89 by rule (45 CFR 164.514(b)(2)(i)(C)).

Finding the files is left to ``client.data.source``; reading them to ``client.data.ingest``.
"""

from __future__ import annotations

import hmac
import json
from dataclasses import dataclass, field

from shared.errors import SiteDataError
from shared.preprocessing.deidentification_values import age_band
from shared.preprocessing.image import Modality
from shared.preprocessing.readable import Readable

# 128 bits: nobody finds the secret by trying, even with a list of all identifiers at hand.
_SECRET_BYTES = 16
_ID_DIGITS = 24
_UUID_BYTES = 16
_MOST_DAYS = 3653

UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class CaseFiles:
    """One case as it lies on disk.

    Attributes:
        case_id: salted identifier of the image.
        patient: salted identifier of the person.
        images: one file, or all files of a DICOM series.
        mask: segmentation of the same image, or None.
        label: class name, or several joined by ";"; None where nobody said.
        subgroups: (column, value) pairs for reports by subgroup.
        modality: what the source says the image is.
        slice_of: where the image is one slice of a DICOM series and the mask is of the whole series, all files of
            that series; else empty.
        frame: position of the one frame that is meant, in a file of several frames without a place in space.
        study: remapped Study Instance UID, "" where the source has none.
        series: remapped Series Instance UID, likewise.
        aliases: other salted names under which this person may be known (``Salt.alias``).
    """

    case_id: str
    patient: str
    images: tuple[Readable, ...] = field(repr=False)
    mask: Readable | None = field(default=None, repr=False)
    label: str | None = None
    subgroups: tuple[tuple[str, str], ...] = ()
    modality: Modality = "other"
    slice_of: tuple[Readable, ...] = field(default=(), repr=False)
    frame: int | None = None
    study: str = ""
    series: str = ""
    aliases: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Quarantined:
    """A case or file that cannot be used: its salted identifier, a stable code, and a sentence for people."""

    case_id: str
    code: str
    sentence: str


@dataclass(frozen=True, slots=True)
class Salt:
    """A site and its secret: turns identifiers into names that say nothing."""

    site: str
    secret: bytes = field(repr=False)

    def __post_init__(self) -> None:
        """Refuse a secret that could be guessed along with the identifier."""
        if len(self.secret) < _SECRET_BYTES:
            raise SiteDataError(
                f"the secret of this site has {len(self.secret)} bytes, at least {_SECRET_BYTES} are needed",
                hint="draw it once with secrets.token_bytes(32) and keep it at the site",
                code="secret-short",
            )

    def case(self, *identifiers: str) -> str:
        """Name of the image that ``identifiers`` (a UID, or a path within the folder) stand for."""
        return self._name("case", identifiers)

    def person(self, *identifiers: str) -> str:
        """Name of the patient that ``identifiers`` (one entry per identifying column) stand for."""
        return self._name("person", identifiers)

    def unnamed_person(self, *identifiers: str) -> str:
        """Name of a patient known by nothing but the one image that ``identifiers`` stand for."""
        return self._name("unnamed-person", identifiers)

    def alias(self, kind: str, *identifiers: str) -> str:
        """A second name of a person, to find one person behind two; ``kind`` says what it was made from."""
        return self._name(f"alias-{kind}", identifiers)

    def uid(self, uid: str) -> str:
        """A DICOM UID that stands for ``uid`` everywhere at this site, under the UUID root 2.25 (PS3.5 B.2)."""
        return f"2.25.{int.from_bytes(self._mac('uid', (uid,))[:_UUID_BYTES])}"

    def days(self, patient: str) -> int:
        """By how many days this patient's dates are moved into the past: 1 to ten years, the same for all of them."""
        return 1 + int.from_bytes(self._mac("days", (patient,))[:8]) % _MOST_DAYS

    def _name(self, kind: str, identifiers: tuple[str, ...]) -> str:
        return self._mac(kind, identifiers).hex()[:_ID_DIGITS]

    def _mac(self, kind: str, identifiers: tuple[str, ...]) -> bytes:
        said = json.dumps([kind, self.site, *(text.strip() for text in identifiers)]).encode()
        return hmac.digest(self.secret, said, "sha256")


def subgroup(column: str, value: str) -> tuple[str, str]:
    """The pair to report under: ages in bands, an empty value as ``unknown``, all else as it is."""
    text = value.strip()
    return column, (age_band(text) if column == "age" else text) or UNKNOWN
