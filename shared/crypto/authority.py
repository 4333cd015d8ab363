"""A federation's certificate authority, and the server certificates that it issues (X.509, RFC 5280).

Promises
- The authority's key is on P-384 and signs with SHA-384: what every TLS library in use accepts. It may issue for
  servers and nothing below them (path length 0), for ten years, and is never issued anew.
- A server certificate names its hosts and addresses (SubjectAlternativeName), serves servers only, begins a day before
  it was made, so that a clock that is behind does no harm, and ends after a year or with the authority.
- A key that is not the certificate's is refused before anything is issued.

Where keys lie, and when to issue, is ``server.federation_folder``'s.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives.hashes import SHA384
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from shared.crypto import node_keys
from shared.crypto.node_keys import PrivateKey
from shared.errors import FederationError

AUTHORITY_LASTS, SERVER_LASTS = timedelta(days=3652), timedelta(days=365)
_BEFORE = timedelta(days=1)
_LONGEST_NAME = 64
"""Of a common name (RFC 5280, ub-common-name)."""


@dataclass(frozen=True, slots=True, repr=False)
class Authority:
    """An authority's key and its certificate. Get one from ``create`` or ``from_pem``."""

    _key: PrivateKey
    _certificate: x509.Certificate

    @classmethod
    def create(cls, federation: str, now: datetime) -> Authority:
        """A new one from the operating system's randomness."""
        key = node_keys.generate()
        name = _name(f"Consilium {federation}")
        builder = (
            _builder(name, name, key, (now - _BEFORE, now + AUTHORITY_LASTS))
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(_usage(signs="certificates"), critical=True)
        )
        return cls(key, builder.sign(key, SHA384()))

    @classmethod
    def from_pem(cls, key: bytes, certificate: bytes) -> Authority:
        """Inverse of ``key_pem`` and ``certificate_pem``; raises ``ConsiliumError``."""
        private = node_keys.from_pem(key, "the authority's key file")
        try:
            found = x509.load_pem_x509_certificate(certificate)
            fits = node_keys.public_pem(private) == _public(found)
        except ValueError:
            fits = False
        if not fits:
            raise FederationError(
                "the authority's key and its certificate do not belong together",
                hint="restore ca.key and ca.pem from the same copy of the federation folder",
                code="authority-mismatch",
            )
        return cls(private, found)

    def key_pem(self) -> bytes:
        """The private key in PEM."""
        return node_keys.private_pem(self._key)

    def certificate_pem(self) -> bytes:
        """The certificate in PEM, as ``require_authority_pem`` takes it."""
        return self._certificate.public_bytes(Encoding.PEM)

    def issue(self, key: PrivateKey, names: Sequence[str], now: datetime) -> bytes:
        """A server certificate in PEM for ``key`` under host names and addresses, the first its common name.

        Raises:
            FederationError: the authority has expired ("authority-expired").
        """
        ends = min(now + SERVER_LASTS, self._certificate.not_valid_after_utc)
        if ends <= now:
            raise FederationError(
                f"the federation's authority ended on {ends:%Y-%m-%d}",
                hint="a federation lasts ten years: make a new one and enrol its sites",
                code="authority-expired",
            )
        hosts = [_general(name) for name in dict.fromkeys(names)]
        issuer = self._certificate.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
        builder = (
            _builder(_name(names[0]), self._certificate.subject, key, (now - _BEFORE, ends))
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_usage(signs="handshakes"), critical=True)
            .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
            .add_extension(x509.SubjectAlternativeName(hosts), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(issuer), critical=False)
        )
        return builder.sign(self._key, SHA384()).public_bytes(Encoding.PEM)


def require_authority_pem(text: str) -> str:
    """``text`` if it is one certificate of an authority, in PEM as written here; raises ``ValueError``."""
    certificate = x509.load_pem_x509_certificate(text.encode("ascii"))
    written = certificate.public_bytes(Encoding.PEM).decode("ascii")
    try:
        basic = certificate.extensions.get_extension_for_class(x509.BasicConstraints).value
    except (x509.ExtensionNotFound, x509.DuplicateExtension, x509.UnsupportedGeneralNameType):
        basic = x509.BasicConstraints(ca=False, path_length=None)
    if written != text or not basic.ca:
        raise ValueError("an authority is one certificate in PEM that may issue others")
    return text


def _public(certificate: x509.Certificate) -> str:
    key = certificate.public_key()
    return node_keys.public_pem(key) if isinstance(key, node_keys.PublicKey) else ""


def _builder(
    subject: x509.Name, issuer: x509.Name, key: PrivateKey, validity: tuple[datetime, datetime]
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(validity[0])
        .not_valid_after(validity[1])
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    )


def _usage(signs: str) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=signs == "handshakes",
        key_cert_sign=signs == "certificates",
        crl_sign=signs == "certificates",
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text[:_LONGEST_NAME])])


def _general(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)
