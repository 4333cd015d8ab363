"""What an X.509 certificate (RFC 5280) says, as plain values.

Promises
- Nothing is verified here: whether a certificate is to be trusted is decided by the TLS library, with its chain, its
  names and the clock. This only tells people what they are looking at.
- Names come from whoever made the certificate: they are cut to a readable length and hold printable characters only.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from datetime import datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

from shared.errors import ProtocolError

_LONGEST_NAME = 80


@dataclass(frozen=True, slots=True)
class Certificate:
    """A certificate, read but not verified.

    Attributes:
        subject: whom it is for, for people.
        issuer: who signed it, for people.
        names: host names and addresses it is valid for.
        not_before: start of its validity, UTC.
        not_after: end of its validity, UTC.
        sha256: fingerprint over its DER bytes, 64 hexadecimal digits.
    """

    subject: str
    issuer: str
    names: tuple[str, ...]
    not_before: datetime
    not_after: datetime
    sha256: str

    def remaining(self, now: datetime) -> timedelta:
        """How long it is still valid at ``now``; negative once it has expired."""
        return self.not_after - now

    def fingerprint(self) -> str:
        """``sha256`` as browsers and openssl show it: pairs of capital digits, with colons."""
        return ":".join(self.sha256[place : place + 2].upper() for place in range(0, len(self.sha256), 2))


def from_der(der: bytes) -> Certificate:
    """One certificate from its DER bytes; raises ``ProtocolError``."""
    try:
        return _read(x509.load_der_x509_certificate(der))
    except ValueError:
        raise ProtocolError(f"{len(der)} bytes that should be a certificate cannot be read") from None


def from_pem(pem: bytes) -> tuple[Certificate, ...]:
    """All certificates of a PEM file, in order; raises ``ProtocolError`` where there is none."""
    try:
        return tuple(_read(one) for one in x509.load_pem_x509_certificates(pem))
    except ValueError:
        raise ProtocolError(
            f"{len(pem)} bytes hold no certificate in PEM",
            hint="a PEM certificate begins with -----BEGIN CERTIFICATE-----",
        ) from None


def _read(certificate: x509.Certificate) -> Certificate:
    return Certificate(
        subject=_name(certificate.subject),
        issuer=_name(certificate.issuer),
        names=_names(certificate),
        not_before=certificate.not_valid_before_utc,
        not_after=certificate.not_valid_after_utc,
        sha256=hashlib.sha256(certificate.public_bytes(Encoding.DER)).hexdigest(),
    )


def _names(certificate: x509.Certificate) -> tuple[str, ...]:
    try:
        found = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return ()
    addresses = (str(address) for address in found.get_values_for_type(x509.IPAddress))
    return tuple(_printable(name) for name in (*found.get_values_for_type(x509.DNSName), *addresses))


def _name(name: x509.Name) -> str:
    for kind in (NameOID.COMMON_NAME, NameOID.ORGANIZATION_NAME):
        for attribute in name.get_attributes_for_oid(kind):
            return _printable(str(attribute.value))
    return _printable(name.rfc4514_string()) or "nobody"


def _printable(text: str) -> str:
    clean = "".join(character if character.isprintable() else "?" for character in text)
    return clean if len(clean) <= _LONGEST_NAME else clean[: _LONGEST_NAME - 1] + "…"
