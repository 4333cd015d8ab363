"""Real servers on loopback: TLS under a test's own authorities, a proxy that tunnels, and peers that say nothing."""

from __future__ import annotations

import contextlib
import ipaddress
import socket
import ssl
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

HOST = "127.0.0.1"


@dataclass(frozen=True)
class Authority:
    """A certificate authority of this test."""

    name: str
    key: ec.EllipticCurvePrivateKey
    certificate: x509.Certificate

    @property
    def pem(self) -> bytes:
        return self.certificate.public_bytes(serialization.Encoding.PEM)


@dataclass(frozen=True)
class Validity:
    """From when to when, in days from now."""

    start: float = -1
    end: float = 365


def authority(name: str) -> Authority:
    key = ec.generate_private_key(ec.SECP256R1())
    usage = x509.KeyUsage(False, False, False, False, False, True, True, False, False)
    builder = (
        _builder(name, name, key.public_key(), Validity(-10, 3650))
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .add_extension(usage, critical=True)
    )
    return Authority(name, key, builder.sign(key, hashes.SHA256()))


def issue(
    folder: Path, by: Authority | None, names: Sequence[str] = ("localhost",), validity: Validity | None = None
) -> Path:
    """PEM file with a server's key and certificate, signed by an authority or, without one, by itself."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = f"server for {names[0]}"
    builder = _builder(subject, by.name if by else subject, key.public_key(), validity or Validity())
    builder = builder.add_extension(x509.SubjectAlternativeName([_general(name) for name in names]), critical=False)
    certificate = builder.sign(by.key if by else key, hashes.SHA256())
    path = folder / f"{x509.random_serial_number():x}.pem"
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    path.write_bytes(private + certificate.public_bytes(serialization.Encoding.PEM))
    return path


@dataclass
class Server:
    """Something that listens, and what it was sent."""

    port: int
    requests: list[bytes] = field(default_factory=list)


@contextlib.contextmanager
def tls_server(
    pem: Path, off_by: timedelta | None = timedelta(0), newest: ssl.TLSVersion = ssl.TLSVersion.TLSv1_3
) -> Iterator[Server]:
    """HTTPS that answers every request with 403 and a date that is ``off_by`` wrong; None leaves the date out."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pem)
    context.maximum_version = newest

    def serve(connection: socket.socket, server: Server) -> None:
        with context.wrap_socket(connection, server_side=True) as secure:
            request = _head(secure)
            if request:
                server.requests.append(request)
                said = "" if off_by is None else f"Date: {format_datetime(datetime.now(UTC) + off_by, usegmt=True)}\r\n"
                secure.sendall(f"HTTP/1.1 403 Forbidden\r\n{said}Content-Length: 0\r\n\r\n".encode())

    with listening(serve) as server:
        yield server


@contextlib.contextmanager
def connect_proxy(authorization: str = "", answer: str = "") -> Iterator[Server]:
    """A proxy that tunnels to 127.0.0.1 whatever the name asked for; ``answer`` is said instead, if given."""

    def serve(connection: socket.socket, server: Server) -> None:
        request = _head(connection)
        server.requests.append(request)
        if answer:
            connection.sendall(answer.encode())
            return
        if authorization and f"Proxy-Authorization: {authorization}".encode() not in request:
            connection.sendall(b"HTTP/1.1 407 Proxy Authentication Required\r\n\r\n")
            return
        port = int(request.split()[1].rpartition(b":")[2])
        with socket.create_connection((HOST, port)) as far:
            connection.sendall(b"HTTP/1.1 200 Connection established\r\nVia: 1.1 test\r\n\r\n")
            back = threading.Thread(target=_pump, args=(far, connection), daemon=True)
            back.start()
            _pump(connection, far)
            back.join(5)

    with listening(serve) as server:
        yield server


@contextlib.contextmanager
def silent_server() -> Iterator[Server]:
    """Accepts connections, and says nothing."""
    with listening(lambda connection, _server: _wait_for_end(connection)) as server:
        yield server


@contextlib.contextmanager
def plain_http_server() -> Iterator[Server]:
    """Speaks HTTP where TLS is expected."""

    def serve(connection: socket.socket, _server: Server) -> None:
        connection.recv(1)
        connection.sendall(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n")

    with listening(serve) as server:
        yield server


@contextlib.contextmanager
def black_hole() -> Iterator[int]:
    """Port whose packets get no answer: Linux drops what exceeds a listener's queue."""
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(socket.socket())
        listener.bind((HOST, 0))
        listener.listen(0)
        for _ in range(4):
            filler = stack.enter_context(socket.socket())
            filler.setblocking(False)
            filler.connect_ex(listener.getsockname())
        time.sleep(0.05)
        yield int(listener.getsockname()[1])


def closed_port() -> int:
    """A port at which nothing listens."""
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])


@contextlib.contextmanager
def listening(serve: object) -> Iterator[Server]:
    """Run ``serve(connection, server)`` in a thread for each connection until the block ends."""
    listener = socket.create_server((HOST, 0))
    server = Server(listener.getsockname()[1])

    def one(connection: socket.socket) -> None:
        with contextlib.suppress(OSError), connection:
            connection.settimeout(10)
            serve(connection, server)  # type: ignore[operator]

    def accept() -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = listener.accept()
                threading.Thread(target=one, args=(connection,), daemon=True).start()

    thread = threading.Thread(target=accept, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join(5)


def _builder(subject: str, issuer: str, key: ec.EllipticCurvePublicKey, valid: Validity) -> x509.CertificateBuilder:
    now = datetime.now(UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(_name(subject))
        .issuer_name(_name(issuer))
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now + timedelta(days=valid.start))
        .not_valid_after(now + timedelta(days=valid.end))
    )


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def _general(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)


def _head(connection: socket.socket) -> bytes:
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        byte = connection.recv(1)
        if not byte:
            return b""
        head += byte
    return head


def _pump(source: socket.socket, sink: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(2**16):
            sink.sendall(data)
        sink.shutdown(socket.SHUT_WR)


def _wait_for_end(connection: socket.socket) -> None:
    while connection.recv(2**10):
        pass
