"""One look at a coordinator's TLS: does it verify, with which certificate, and what time is it there.

Promises
- Only a connection that verifies carries a request, and only its answer's date counts.
- Where it does not verify, a second connection shows the certificate: it is verified by nothing, nothing is sent over
  it, and all it serves is a better sentence.
"""

from __future__ import annotations

import email.utils
import http.client
import io
import socket
import ssl
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from client.machine.route import Endpoint, read_head
from shared.crypto.certificates import Certificate, from_der
from shared.errors import ConsiliumError

Failure = Literal["", "expired", "not-yet-valid", "wrong-host", "unknown-authority", "untrusted", "no-tls", "silent"]
"""Why TLS failed: "" it did not; the certificate's dates, names, authority, or else; no common TLS; no answer."""

# X509_V_ERR_ of OpenSSL (openssl/x509_vfy.h), told by ssl.SSLCertVerificationError.verify_code.
_VERIFY_CODES: dict[int, Failure] = {
    9: "not-yet-valid",
    10: "expired",
    18: "unknown-authority",
    19: "unknown-authority",
    20: "unknown-authority",
    21: "unknown-authority",
    62: "wrong-host",
    64: "wrong-host",
}


@dataclass(frozen=True, slots=True)
class Sight:
    """What was seen of a server.

    Attributes:
        failure: why its TLS is not to be used, "" where it is.
        version: of the protocol, such as ``TLSv1.3``; "" where none was agreed.
        certificate: the server's own, verified only where ``failure`` is empty; None where none was shown.
        date: what the server says the time is, None where it does not say.
        answered_s: seconds after the start of this look at which ``date`` had arrived.
    """

    failure: Failure
    version: str = ""
    certificate: Certificate | None = None
    date: datetime | None = None
    answered_s: float = 0.0


def trust(ca_file: Path | None) -> ssl.SSLContext:
    """What verifies: the authorities in ``ca_file`` and no others, or those of this machine.

    Raises:
        ConsiliumError: ``ca_file`` cannot be read, or holds no certificate.
    """
    try:
        context = ssl.create_default_context(cafile=ca_file)
    except (OSError, ValueError) as error:
        # ssl.SSLError is an OSError too; its text is OpenSSL's.
        reason = "no certificates in PEM" if isinstance(error, ssl.SSLError | ValueError) else error.strerror
        sentence = f"the file with the coordinator's authority cannot be used ({reason})"
        raise ConsiliumError(sentence, hint="correct [coordinator] ca_file in site.toml") from None
    context.set_alpn_protocols(["http/1.1"])
    return context


def look(target: Endpoint, connect: Callable[[], socket.socket], context: ssl.SSLContext, seconds: float) -> Sight:
    """Shake hands with ``target`` over a new connection; raises ``ConsiliumError`` where ``connect`` does."""
    started = time.monotonic()
    connection = connect()
    try:
        with context.wrap_socket(connection, server_hostname=target.host) as secure:
            certificate = from_der(secure.getpeercert(binary_form=True) or b"")
            version = secure.version() or ""
            date = _date(secure, target, time.monotonic() + seconds)
            return Sight("", version, certificate, date, time.monotonic() - started)
    except ssl.SSLCertVerificationError as error:
        failure = _VERIFY_CODES.get(error.verify_code, "untrusted")
        return Sight(failure, certificate=_unverified_certificate(target, connect))
    except TimeoutError:
        return Sight("silent")
    except OSError:
        return Sight("no-tls")
    finally:
        connection.close()


def _date(secure: ssl.SSLSocket, target: Endpoint, deadline: float) -> datetime | None:
    """The server's clock (RFC 9110 6.6.1), to the second, from the answer to a request for nothing."""
    try:
        secure.sendall(f"HEAD / HTTP/1.1\r\nHost: {target}\r\nConnection: close\r\n\r\n".encode("ascii", "replace"))
        _, _, headers = read_head(secure, deadline).partition(b"\r\n")
        said = http.client.parse_headers(io.BytesIO(headers))["Date"]
        found = email.utils.parsedate_to_datetime(said) if said else None
    except (OSError, ValueError, http.client.HTTPException):
        return None
    return found.replace(tzinfo=found.tzinfo or UTC) if found else None


def _unverified_certificate(target: Endpoint, connect: Callable[[], socket.socket]) -> Certificate | None:
    unverified = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    unverified.check_hostname = False
    unverified.verify_mode = ssl.CERT_NONE
    try:
        with unverified.wrap_socket(connect(), server_hostname=target.host) as shown:
            return from_der(shown.getpeercert(binary_form=True) or b"")
    except (OSError, ConsiliumError):
        return None
