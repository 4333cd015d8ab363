"""A real nginx in front of a real gateway, with the configuration that ``consilium-server proxy-config`` prints."""

from __future__ import annotations

import json
import shutil
import signal
import socket
import ssl
from collections.abc import Iterator
from pathlib import Path

import loopback
import pytest
from link_processes import Command, Federation, federation, inherited, until

from server.federation_folder import FederationFolder
from server.link.proxy import nginx

NGINX = shutil.which("nginx")
pytestmark = [pytest.mark.network, pytest.mark.skipif(NGINX is None, reason="nginx is not installed")]

MAIN = """
daemon off; pid {root}/nginx.pid; error_log stderr warn; worker_processes 1;
events {{ worker_connections 64; }}
http {{
    access_log off;
    client_body_temp_path {root}/nginx-body; proxy_temp_path {root}/nginx-proxy;
    fastcgi_temp_path {root}/f; uwsgi_temp_path {root}/u; scgi_temp_path {root}/s;
    include {root}/consilium.conf;
}}
"""


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Federation]:
    """nginx at the federation's port, the gateway at another."""
    with federation(tmp_path_factory.mktemp("proxied") / "federation") as made:
        text = (made.root / "federation.toml").read_text()
        text = text.replace('listen = ""', f'listen = "127.0.0.1:{loopback.closed_port()}"')
        (made.root / "federation.toml").write_text(text)
        made.gateway()
        (made.root / "consilium.conf").write_text(nginx(FederationFolder.open(made.root)))
        (made.root / "nginx.conf").write_text(MAIN.format(root=made.root))
        words = (str(NGINX), "-p", str(made.root), "-c", str(made.root / "nginx.conf"), "-e", "stderr")
        made.start("nginx", Command(words, inherited()))
        until(lambda: answers(made), 30)
        yield made


def answers(made: Federation) -> bool:
    try:
        return ask(made, "GET", "/health")[0] == 200
    except OSError:
        return False


def ask(made: Federation, method: str, path: str, body: bytes = b"", claimed: int | None = None) -> tuple[int, bytes]:
    """What comes back for a request that is sent as it is written here."""
    context = ssl.create_default_context(cafile=str(made.root / "trust" / "ca.pem"))
    plain = socket.create_connection(("127.0.0.1", made.port), timeout=10)
    with context.wrap_socket(plain, server_hostname="127.0.0.1") as secure:
        lines = [
            f"{method} {path} HTTP/1.1",
            "Host: 127.0.0.1",
            "Connection: close",
            f"Content-Length: {claimed or len(body)}",
        ]
        secure.sendall("\r\n".join([*lines, "", ""]).encode() + body)
        pieces = b""
        while piece := secure.recv(65536):
            pieces += piece
    head, _, rest = pieces.partition(b"\r\n\r\n")
    return int(head.split()[1]), rest


def test_its_health_comes_through_with_the_federations_own_certificate(running: Federation) -> None:
    assert ask(running, "GET", "/health") == (200, b'{"status":"ok"}')


def test_a_fleet_call_without_a_signature_is_refused_by_the_gateway_behind(running: Federation) -> None:
    status, body = ask(running, "POST", "/v1/fleet/pull-messages", body=b"x")
    assert status == 401
    assert "signature" in json.loads(body)["detail"]
    assert any(line["call"] == "/v1/fleet/pull-messages" for line in running.log())


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/v1/control/list-nodes"),
        ("POST", "/v1/runtime/acquire-task"),
        ("POST", "/v1/fleet/register-node"),
        ("GET", "/"),
        ("GET", "/docs"),
        ("GET", "/v1/fleet/pull-messages"),
        ("POST", "/health"),
        ("GET", "/health?x=1"),
        ("POST", "/v1/fleet/pull-messages?x=1"),
        ("POST", "/v1/fleet/../control/list-nodes"),
        ("POST", "/v1/fleet/%2e%2e/control/list-nodes"),
        ("POST", "/v1/%63ontrol/list-nodes"),
        ("POST", "/v1//fleet//pull-messages"),
        ("POST", "/v1/fleet/%70ull-messages"),
        ("POST", "/V1/FLEET/PULL-MESSAGES"),
    ],
)
def test_nothing_else_comes_through_however_it_is_spelled(running: Federation, method: str, path: str) -> None:
    assert ask(running, method, path)[0] == 403


def test_a_body_that_is_too_large_ends_at_the_proxy(running: Federation) -> None:
    before = len(running.log())
    assert ask(running, "POST", "/v1/fleet/push-object", claimed=2**40)[0] == 413
    assert len(running.log()) == before, "the gateway behind was not asked"


@pytest.mark.filterwarnings("ignore:ssl.TLSVersion:DeprecationWarning")
def test_old_tls_is_refused(running: Federation) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(running.root / "trust" / "ca.pem")
    context.minimum_version = context.maximum_version = ssl.TLSVersion.TLSv1_1
    context.set_ciphers("ALL:@SECLEVEL=0")
    plain = socket.create_connection(("127.0.0.1", running.port), timeout=10)
    with pytest.raises((ssl.SSLError, ConnectionError)), context.wrap_socket(plain, server_hostname="127.0.0.1"):
        pass


def test_a_site_connects_through_it(running: Federation) -> None:
    running.supernode(running.enrolled("alpha"))
    until(lambda: running.online() == ["alpha"], 120)


def test_with_the_gateway_gone_the_proxy_says_so_and_its_end_is_clean(running: Federation) -> None:
    gateway = running.processes[0]
    gateway.kill(signal.SIGTERM)
    assert ask(running, "GET", "/health")[0] == 502
    nginx_process = running.processes[1]
    assert nginx_process.kill(signal.SIGTERM) == 0
    assert not list(Path(running.root).glob("nginx-proxy/*"))
