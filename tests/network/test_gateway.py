"""Real processes on loopback: a gateway with Flower's SuperLink, a SuperExec, two sites; and uninvited guests."""

from __future__ import annotations

import json
import os
import signal
import socket
import ssl
import stat
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import httpx
import pytest
from link_processes import TEST_BUNDLE, Federation, Started, federation, no_passphrase, now, until

from server.federation_folder import FederationFolder
from server.link.control import Control
from server.link.launch import superexec_command
from shared.errors import RunError
from shared.link import flower_environment

pytestmark = pytest.mark.network

BOTH = ["alpha", "beta"]


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Federation]:
    """A federation with two sites that are connected."""
    with federation(tmp_path_factory.mktemp("coordinator") / "federation") as made:
        made.gateway()
        made.superexec()
        for site in BOTH:
            made.supernode(made.enrolled(site))
        until(lambda: made.online() == BOTH, 120)
        yield made


def test_a_run_reaches_both_sites_and_ends_without_code_in_its_bundle(running: Federation) -> None:
    number, name = running.run(2, 2)
    until(lambda: running.ended(number), 120)
    assert running.ended(number) == "completed"
    replies = [reply for done in running.rounds(name) for reply in done["replies"]]
    assert len(replies) == 4
    assert {reply["custodian"] for reply in replies} == {
        str(running.root / "sites" / site / "run" / "custodian.sock") for site in BOTH
    }
    assert len({reply["process"] for reply in replies}) == 4, "each message has a process of its own"
    assert not {reply["parent"] for reply in replies} & {started.process.pid for started in running.processes}
    for reply in replies:
        assert reply["torch"] == 0
        assert reply["telemetry"] == "0"
        assert set(reply["unpacked"]) <= {"README.md", "pyproject.toml", "source"}, "no code was unpacked"


def test_a_run_says_what_it_was_started_with_and_its_log_ends_with_it(running: Federation) -> None:
    number, name = running.run(2, 1, "log")
    until(lambda: running.ended(number), 120)
    with running.control() as control:
        assert control.run(number).config == {"run": name, "federation": str(running.root)}
        assert "flwr-serverapp" in "".join(text for text, _ in control.log(number))
        with pytest.raises(RunError, match="already"):
            control.stop_run(number)
        with pytest.raises(RunError, match="no run 12"):
            control.run(12)


def test_a_run_that_waits_for_a_third_site_is_stopped_when_it_is_told_to(running: Federation) -> None:
    number, _ = running.run(3, 1, "stop")
    with running.control() as control:
        until(lambda: control.run(number).state == "running", 60)
        assert control.stop_run(number)
        until(lambda: control.run(number).state == "finished", 30)
        assert control.run(number).outcome == "stopped"


OUTSIDE = [
    ("POST", "/v1/control/list-nodes"),
    ("POST", "/v1/control/start-run"),
    ("POST", "/v1/runtime/acquire-task"),
    ("GET", "/docs"),
    ("GET", "/openapi.json"),
    ("GET", "/"),
    ("POST", "//v1/control/list-nodes"),
    ("POST", "/v1//control/list-nodes"),
    ("POST", "/v1/fleet/../control/list-nodes"),
    ("POST", "/v1/fleet/%2e%2e/control/list-nodes"),
    ("POST", "/v1/%63ontrol/list-nodes"),
    ("POST", "/v1/control%2flist-nodes"),
    ("POST", "/v1/fleet/pull-messages/"),
    ("POST", "/v1/fleet/pull-messages?x=1"),
    ("POST", "/v1/fleet/%70ull-messages"),
    ("POST", "/V1/FLEET/PULL-MESSAGES"),
    ("GET", "/v1/fleet/pull-messages"),
    ("PUT", "/v1/fleet/pull-messages"),
    ("POST", "/v1/fleet/register-node"),
    ("POST", "/v1/fleet/unregister-node"),
    ("POST", "/health"),
    ("POST", "http://localhost/v1/control/list-nodes"),
    ("POST", "/v1/fleet/pull-messages\\..\\..\\control\\list-nodes"),
]


@pytest.mark.parametrize(("method", "path"), OUTSIDE)
def test_from_outside_nothing_but_the_fleet_api_is_there(running: Federation, method: str, path: str) -> None:
    token = running.folder.token()  # not even whoever holds the token
    status, body = raw(running, method, path, f"Authorization: Bearer {token}")
    assert status == 403
    assert json.loads(body) == {"code": 0, "detail": "this is not served here"}


def test_a_websocket_is_refused_from_outside(running: Federation) -> None:
    upgrade = (
        "Connection: Upgrade",
        "Upgrade: websocket",
        "Sec-WebSocket-Version: 13",
        "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==",
    )
    assert raw(running, "GET", "/v1/control/stream-logs", *upgrade)[0] == 403


def test_everybody_may_ask_after_its_health_and_learns_nothing_else(running: Federation) -> None:
    status, body = raw(running, "GET", "/health")
    assert (status, body) == (200, b'{"status":"ok"}')
    assert raw(running, "HEAD", "/health") == (200, b"")


def test_a_fleet_call_without_a_nodes_signature_is_refused_before_its_body_is_read(running: Federation) -> None:
    with connected(running) as secure:
        secure.sendall(
            b"POST /v1/fleet/push-object HTTP/1.1\r\nHost: x\r\nContent-Length: 60000000\r\n\r\n" + b"x" * 1000
        )
        answer = everything(secure)  # although 60 MB are still to come
    assert answer.startswith(b"HTTP/1.1 401")
    assert any(line["verdict"] == "no node's signature" for line in running.log())


def test_a_request_whose_head_has_no_end_is_cut_off(running: Federation) -> None:
    """It may be closed before all of it was sent; whether the answer is still read then is the system's to say."""
    with connected(running) as secure:
        with suppress(ConnectionError, ssl.SSLError):
            secure.sendall(b"GET /health HTTP/1.1\r\nX: " + b"a" * 200_000)
        secure.settimeout(20)
        answer = everything(secure)
        assert answer == b"" or answer.startswith(b"HTTP/1.1 400")
    assert shown(running), "and the gateway answers others"


@pytest.mark.filterwarnings("ignore:ssl.TLSVersion:DeprecationWarning")
def test_old_tls_is_refused(running: Federation) -> None:
    context = trusting(running)
    context.minimum_version = ssl.TLSVersion.TLSv1_1
    context.maximum_version = ssl.TLSVersion.TLSv1_1
    context.set_ciphers("ALL:@SECLEVEL=0")
    with pytest.raises((ssl.SSLError, ConnectionError)), connected(running, context):
        pass


def test_a_cipher_without_forward_secrecy_is_refused(running: Federation) -> None:
    context = trusting(running)
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers("AES128-SHA:AES256-GCM-SHA384")
    with pytest.raises((ssl.SSLError, ConnectionError)), connected(running, context):
        pass


@pytest.mark.parametrize("token", ["", "Bearer wrong", "Basic dXNlcjpwYXNz"])
def test_control_on_this_machine_needs_the_token(running: Federation, token: str) -> None:
    headers = {"authorization": token} if token else {}
    port = running.folder.announced()["local"]
    answer = httpx.post(f"http://127.0.0.1:{port}/v1/control/list-nodes", headers=headers, trust_env=False)
    assert answer.status_code == 403
    assert running.log()[-1]["verdict"] == "no token of this federation"


def test_a_wrong_token_is_told_as_what_it_is(running: Federation) -> None:
    with Control(running.folder.announced()["local"], "0" * 64) as control, pytest.raises(RunError) as refused:
        control.runs()
    assert refused.value.code == "forbidden"


@pytest.mark.parametrize("call", ["create-federation", "add-app", "get-login-details", "pull-artifacts"])
def test_control_calls_that_nobody_needs_are_not_there_even_with_the_token(running: Federation, call: str) -> None:
    headers = {"authorization": f"Bearer {running.folder.token()}"}
    port = running.folder.announced()["local"]
    answer = httpx.post(f"http://127.0.0.1:{port}/v1/control/{call}", headers=headers, trust_env=False)
    assert answer.status_code == 403


def test_the_runtime_api_gives_no_task_to_whoever_lacks_the_secret(running: Federation) -> None:
    port = running.folder.announced()["local"]
    headers = {"content-type": "application/protobuf"}
    answer = httpx.post(f"http://127.0.0.1:{port}/v1/runtime/acquire-task", headers=headers, trust_env=False)
    assert answer.status_code == 401


def test_every_control_call_stands_in_the_log_without_its_content(running: Federation) -> None:
    with running.control() as control:
        before = len([line for line in running.log() if line["api"] == "control"])
        control.nodes()
        lines = [line for line in running.log() if line["api"] == "control"]
    assert len(lines) > before
    assert lines[-1] | {"time": ""} == {
        "time": "",
        "api": "control",
        "call": "/v1/control/list-nodes",
        "verdict": "allowed",
        "peer": "127.0.0.1",
        "status": 200,
    }
    assert running.folder.token() not in running.folder.log.read_text()


def test_a_bundle_that_no_site_approved_is_refused_by_both_and_unpacked_by_none(running: Federation) -> None:
    homes = [running.root / "sites" / site / "run" / "flower" / "apps" for site in BOTH]
    before = [sorted(path.name for path in home.rglob("*")) for home in homes]
    number, name = running.run(2, 1, "other", replace(TEST_BUNDLE, client="exchange_app:other"))
    until(lambda: running.ended(number), 120)
    assert [reply["error"] for done in running.rounds(name) for reply in done["replies"]] == [7, 7]
    assert [sorted(path.name for path in home.rglob("*")) for home in homes] == before
    for started in running.processes[2:4]:
        assert "refused: the bundle" in started.said()


def test_a_node_that_is_not_in_the_roster_is_not_let_in_and_is_told_so(running: Federation) -> None:
    started = running.supernode(running.site("stranger"))
    assert started.process.wait(120) == 77
    assert "error: the coordinator turned this node away: this node is not enrolled here" in started.said()
    assert "stranger" not in running.online()


def test_a_second_gateway_in_one_folder_is_refused_and_the_first_goes_on(running: Federation) -> None:
    pid = running.folder.announced()["pid"]
    second = running.start_gateway()
    assert second.process.wait(120) == 1
    assert "error: another gateway works in this federation folder" in second.said()
    assert running.folder.announced()["pid"] == pid
    assert running.online() == BOTH


def test_what_the_gateway_keeps_is_its_owners_alone(running: Federation) -> None:
    assert {stat.S_IMODE((running.root / name).stat().st_mode) for name in ("link", "log")} == {0o700}
    kept = [path for folder in ("link", "log") for path in (running.root / folder).glob("*") if path.is_file()]
    names = {path.name for path in kept}
    assert {"superlink.sqlite", "superexec.secret", "control.token", "gateway.json", "gateway.jsonl"} <= names
    assert {stat.S_IMODE(path.stat().st_mode) & 0o077 for path in kept} == {0}


def test_no_secret_stands_on_a_command_line_or_in_an_environment(running: Federation) -> None:
    command = superexec_command(running.root, {})
    text = " ".join((*command.argv, *command.environment.values()))
    assert running.folder.token() not in text
    assert running.folder.secret.read_text().strip() not in text


def test_a_renewed_certificate_is_shown_after_a_hangup_and_nobody_is_cut_off(running: Federation) -> None:
    old = shown(running)
    folder = FederationFolder.open(running.root)
    folder.renew(no_passphrase, now())
    assert shown(running) == old
    os.kill(running.folder.announced()["pid"], signal.SIGHUP)
    until(lambda: shown(running) != old, 20)
    assert running.online() == BOTH


def test_a_damaged_certificate_does_not_replace_the_one_in_use(running: Federation) -> None:
    old, kept = shown(running), running.folder.certificate.read_bytes()
    running.folder.certificate.write_bytes(b"not a certificate")
    try:
        os.kill(running.folder.announced()["pid"], signal.SIGHUP)
        until(lambda: "the old certificate stays in use" in running.processes[0].said(), 20)
        assert shown(running) == old
    finally:
        running.folder.certificate.write_bytes(kept)


@pytest.mark.slow
def test_a_gateway_that_is_killed_comes_back_at_its_ports_and_the_run_goes_on(running: Federation) -> None:
    ports = running.folder.announced()
    number, name = running.run(2, 3, "kill")
    until(lambda: running.rounds(name), 120)
    gateway = next(one for one in running.processes if one.process.pid == ports["pid"])
    gateway.kill()
    running.gateway()
    assert running.folder.announced() | {"pid": 0} == ports | {"pid": 0}
    until(lambda: running.ended(number), 180)
    assert running.ended(number) == "completed"
    replies = [done["replies"] for done in running.rounds(name)]
    assert [[reply.get("number") for reply in one] for one in replies] == [[0, 0], [1, 1], [2, 2]]


def test_without_a_gateway_control_says_so(tmp_path: Path) -> None:
    with federation(tmp_path / "federation") as made:
        with pytest.raises(RunError) as never:
            made.control()
        with pytest.raises(RunError) as too_early:
            superexec_command(made.root, flower_environment({}, tmp_path))
        made.folder.prepare()
        made.folder.announce(1, made.port)
        with made.control() as control, pytest.raises(RunError) as gone:
            control.runs()
    assert [error.value.code for error in (never, too_early, gone)] == ["no-gateway"] * 3


def test_a_folder_that_is_no_federation_is_refused(tmp_path: Path) -> None:
    with federation(tmp_path / "federation") as made:
        (made.root / "federation.toml").unlink()
        started = made.start_gateway()
        assert started.process.wait(120) == 1
        assert "error: " in started.said()
        assert "is no federation folder" in started.said()


def test_a_gateway_ends_in_order_when_it_is_told_to(running: Federation) -> None:
    gateway = next(one for one in running.processes if one.process.pid == running.folder.announced()["pid"])
    assert gateway.kill(signal.SIGTERM) == 0
    back: Started = running.gateway()
    assert back.process.poll() is None


def raw(running: Federation, method: str, path: str, *headers: str) -> tuple[int, bytes]:
    """One request, its path exactly as given: status and body."""
    head = "\r\n".join((f"{method} {path} HTTP/1.1", "Host: x", "Content-Length: 0", "Connection: close", *headers))
    with connected(running) as secure:
        secure.sendall(head.encode() + b"\r\n\r\n")
        answer = everything(secure)
    start, _, body = answer.partition(b"\r\n\r\n")
    return int(start.split()[1]), body


def connected(running: Federation, context: ssl.SSLContext | None = None) -> ssl.SSLSocket:
    plain = socket.create_connection(("127.0.0.1", running.port), timeout=20)
    return (context or trusting(running)).wrap_socket(plain, server_hostname="127.0.0.1")


def trusting(running: Federation) -> ssl.SSLContext:
    return ssl.create_default_context(cafile=str(running.root / "trust" / "ca.pem"))


def everything(secure: ssl.SSLSocket) -> bytes:
    answer = b""
    try:
        while piece := secure.recv(2**16):
            answer += piece
    except (ConnectionError, ssl.SSLError):
        pass
    return answer


def shown(running: Federation) -> bytes:
    """The certificate that is shown to who connects now."""
    with connected(running) as secure:
        return secure.getpeercert(binary_form=True) or b""
