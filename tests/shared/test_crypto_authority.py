"""The authority: OpenSSL and Python's ssl verify what it issues, for the names given and for servers only."""

import socket
import ssl
import subprocess
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from small_trust import DAY, HOUR, NOW, code_of

from shared.crypto import node_keys
from shared.crypto.authority import AUTHORITY_LASTS, SERVER_LASTS, Authority, require_authority_pem
from shared.crypto.certificates import from_pem

NAMES = ("lead.example.org", "localhost", "127.0.0.1", "::1")
TODAY = datetime.now(UTC)


@pytest.fixture(scope="module")
def authority() -> Authority:
    return Authority.create("lungs", TODAY)


@pytest.fixture(scope="module")
def server(authority: Authority, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A server's key and certificate, beside the authority's, in one folder."""
    folder = tmp_path_factory.mktemp("tls")
    key = node_keys.generate()
    (folder / "ca.pem").write_bytes(authority.certificate_pem())
    (folder / "server.key").write_bytes(node_keys.private_pem(key))
    (folder / "server.pem").write_bytes(authority.issue(key, NAMES, TODAY))
    return folder


def openssl(*words: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["openssl", *map(str, words)], capture_output=True, text=True, check=False)


def said(path: Path) -> str:
    return openssl("x509", "-in", path, "-noout", "-text").stdout


# --- what is in them -------------------------------------------------------------------------------------------------


def test_the_authority_is_on_p_384_may_issue_for_ten_years_and_nothing_below(server: Path) -> None:
    text = said(server / "ca.pem")
    assert "secp384r1" in text
    assert "ecdsa-with-SHA384" in text
    assert "CA:TRUE, pathlen:0" in text
    assert "Certificate Sign, CRL Sign" in text
    assert "CN = Consilium lungs" in text
    (found,) = from_pem((server / "ca.pem").read_bytes())
    assert found.not_after - TODAY.replace(microsecond=0) == AUTHORITY_LASTS
    assert timedelta(days=3650) < AUTHORITY_LASTS < timedelta(days=3660)


def test_a_server_certificate_names_its_hosts_and_serves_servers_only(server: Path) -> None:
    text = said(server / "server.pem")
    assert "CA:FALSE" in text
    assert "TLS Web Server Authentication" in text
    assert "TLS Web Client" not in text
    (found,) = from_pem((server / "server.pem").read_bytes())
    assert set(found.names) == set(NAMES)
    assert found.subject == "lead.example.org"
    assert found.issuer == "Consilium lungs"


def test_a_server_certificate_lasts_a_year_and_began_yesterday(authority: Authority) -> None:
    (found,) = from_pem(authority.issue(node_keys.generate(), NAMES, NOW))
    assert found.not_after == NOW + SERVER_LASTS == NOW + 365 * DAY
    assert found.not_before == NOW - DAY


def test_a_server_certificate_does_not_outlive_the_authority(authority: Authority) -> None:
    ends = TODAY.replace(microsecond=0) + AUTHORITY_LASTS
    (found,) = from_pem(authority.issue(node_keys.generate(), NAMES, ends - 30 * DAY))
    assert found.not_after == ends
    assert code_of(lambda: authority.issue(node_keys.generate(), NAMES, ends + HOUR)) == "authority-expired"


def test_serial_numbers_differ(authority: Authority) -> None:
    key = node_keys.generate()
    assert authority.issue(key, NAMES, NOW) != authority.issue(key, NAMES, NOW)


# --- what others make of them ----------------------------------------------------------------------------------------


def test_openssl_verifies_the_chain_strictly_and_for_servers(server: Path) -> None:
    words = ("-CAfile", server / "ca.pem", "-x509_strict", "-purpose", "sslserver", server / "server.pem")
    assert openssl("verify", *words).returncode == 0


def test_openssl_does_not_verify_it_under_another_authority_or_for_clients(server: Path, tmp_path: Path) -> None:
    (tmp_path / "other.pem").write_bytes(Authority.create("lungs", TODAY).certificate_pem())
    assert openssl("verify", "-CAfile", tmp_path / "other.pem", server / "server.pem").returncode != 0
    words = ("-CAfile", server / "ca.pem", "-purpose", "sslclient", server / "server.pem")
    assert openssl("verify", *words).returncode != 0


def test_a_server_cannot_issue_for_others(server: Path, tmp_path: Path) -> None:
    """A stolen server key makes no second coordinator."""
    request, made = tmp_path / "thief.csr", tmp_path / "thief.pem"
    words = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-384", "-nodes", "-keyout", tmp_path / "thief.key")
    assert openssl("req", "-new", *words, "-subj", "/CN=lead.example.org", "-out", request).returncode == 0
    by = ("-CA", server / "server.pem", "-CAkey", server / "server.key", "-CAcreateserial")
    assert openssl("x509", "-req", "-in", request, *by, "-out", made).returncode == 0
    chain = ("-CAfile", server / "ca.pem", "-untrusted", server / "server.pem")
    assert openssl("verify", *chain, made).returncode != 0


def handshake(folder: Path, ca: Path, host: str) -> str:
    """Version of TLS that a client agrees on with a server, over a pair of sockets; raises ``ssl.SSLError``."""
    serving = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    serving.load_cert_chain(folder / "server.pem", folder / "server.key")
    ours, theirs = socket.socketpair()

    def serve() -> None:
        try:
            with serving.wrap_socket(theirs, server_side=True) as secure:
                secure.recv(1)
        except OSError:
            theirs.close()

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    context = ssl.create_default_context(cafile=ca)
    context.verify_flags |= ssl.VERIFY_X509_STRICT
    try:
        with ours, context.wrap_socket(ours, server_hostname=host) as secure:
            return str(secure.version())
    finally:
        thread.join(5)


@pytest.mark.parametrize("host", NAMES)
def test_pythons_ssl_verifies_strictly_under_every_name(server: Path, host: str) -> None:
    assert handshake(server, server / "ca.pem", host) == "TLSv1.3"


@pytest.mark.parametrize("host", ["other.example.org", "127.0.0.2", "example.org"])
def test_pythons_ssl_refuses_every_other_name(server: Path, host: str) -> None:
    with pytest.raises(ssl.SSLCertVerificationError):
        handshake(server, server / "ca.pem", host)


def test_pythons_ssl_refuses_another_authority_of_the_same_name(server: Path, tmp_path: Path) -> None:
    (tmp_path / "ca.pem").write_bytes(Authority.create("lungs", TODAY).certificate_pem())
    with pytest.raises(ssl.SSLCertVerificationError):
        handshake(server, tmp_path / "ca.pem", "localhost")


# --- keeping and reading ---------------------------------------------------------------------------------------------


def test_an_authority_is_read_as_it_was_made(authority: Authority) -> None:
    again = Authority.from_pem(authority.key_pem(), authority.certificate_pem())
    assert again.certificate_pem() == authority.certificate_pem()
    assert again.key_pem() == authority.key_pem()


def test_a_key_that_is_not_the_certificates_is_refused(authority: Authority) -> None:
    other = Authority.create("lungs", NOW)
    for certificate in (other.certificate_pem(), b"", b"nonsense"):
        assert code_of(lambda pem=certificate: Authority.from_pem(authority.key_pem(), pem)) == "authority-mismatch"  # type: ignore[misc]


def test_an_authority_shows_no_key(authority: Authority) -> None:
    assert "PRIVATE" not in repr(authority)
    assert authority.key_pem().decode().splitlines()[1] not in repr(authority)


def test_an_authority_is_one_certificate_that_may_issue(authority: Authority, server: Path) -> None:
    pem = authority.certificate_pem().decode()
    assert require_authority_pem(pem) == pem
    for wrong in (pem + pem, "x\n" + pem, pem.strip(), "", (server / "server.pem").read_text()):
        with pytest.raises(ValueError, match=r"."):
            require_authority_pem(wrong)


def test_a_long_name_is_cut_to_what_a_certificate_can_hold() -> None:
    (found,) = from_pem(Authority.create("a" * 63, NOW).certificate_pem())
    assert found.subject == ("Consilium " + "a" * 63)[:64]
