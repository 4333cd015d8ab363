"""The network checks against real TLS servers, a real proxy, closed ports and black holes, all on loopback."""

import base64
import shutil
import ssl
import subprocess
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from loopback import (
    Authority,
    Validity,
    authority,
    black_hole,
    closed_port,
    connect_proxy,
    issue,
    plain_http_server,
    silent_server,
    tls_server,
)

from client.machine import firewall, network, route, tls
from client.machine.check import Check
from client.machine.examine import examine
from client.machine.route import Endpoint, Proxy, endpoint, proxy_for
from client.machine.tls import Sight
from shared.crypto import certificates
from shared.crypto.certificates import Certificate
from shared.errors import ConsiliumError, ProtocolError

pytestmark = pytest.mark.network
NAMES = ("proxy", "name", "connection", "tls", "certificate", "interception", "clock")


@dataclass(frozen=True)
class World:
    """The coordinator's authority, and the file with it that the site was given."""

    folder: Path
    authority: Authority
    ca_file: Path


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    folder = tmp_path_factory.mktemp("tls")
    made = authority("Federation Root")
    (folder / "ca.pem").write_bytes(made.pem)
    return World(folder, made, folder / "ca.pem")


def look(
    port: int,
    ca_file: Path | None,
    environ: Mapping[str, str] | None = None,
    host: str = "localhost",
    seconds: float = 5,
) -> dict[str, Check]:
    found = network.checks(f"{host}:{port}", ca_file, environ or {}, datetime.now(UTC), seconds)
    assert tuple(check.name for check in found) == NAMES
    assert all(check.sentence for check in found)
    assert all(check.hint for check in found if check.verdict in {"warning", "error"})
    return {check.name: check for check in found}


def verdicts(found: Mapping[str, Check], *names: str) -> list[str]:
    return [found[name].verdict for name in names or NAMES]


# --- in order --------------------------------------------------------------------------------------------------------


def test_a_coordinator_in_order_passes_every_check(world: World) -> None:
    with tls_server(issue(world.folder, world.authority)) as server:
        found = look(server.port, world.ca_file)
    assert verdicts(found) == ["skipped", "ok", "ok", "ok", "ok", "ok", "ok"]
    assert found["tls"].sentence.startswith("TLSv1.3;")
    assert "Federation Root" in found["interception"].sentence
    assert "364 days" in found["certificate"].sentence


def test_all_that_is_sent_is_one_request_for_nothing(world: World) -> None:
    with tls_server(issue(world.folder, world.authority)) as server:
        look(server.port, world.ca_file)
        assert server.requests == [
            f"HEAD / HTTP/1.1\r\nHost: localhost:{server.port}\r\nConnection: close\r\n\r\n".encode()
        ]


def test_tls_1_2_is_enough_and_said(world: World) -> None:
    with tls_server(issue(world.folder, world.authority), newest=ssl.TLSVersion.TLSv1_2) as server:
        assert look(server.port, world.ca_file)["tls"].sentence.startswith("TLSv1.2;")


def test_a_certificate_for_an_address_serves_a_coordinator_without_a_name(world: World) -> None:
    with tls_server(issue(world.folder, world.authority, ("127.0.0.1",))) as server:
        assert look(server.port, world.ca_file, host="127.0.0.1")["tls"].verdict == "ok"


def test_without_a_coordinator_everything_is_skipped() -> None:
    for none in (None, ""):
        found = network.checks(none, None, {}, datetime.now(UTC))
        assert tuple(check.name for check in found) == NAMES
        assert {check.verdict for check in found} == {"skipped"}


# --- certificates ----------------------------------------------------------------------------------------------------


def test_an_expired_certificate_is_told_with_its_day_and_this_machine_s_clock(world: World) -> None:
    with tls_server(issue(world.folder, world.authority, validity=Validity(-30, -2.5))) as server:
        found = look(server.port, world.ca_file)
        assert server.requests == []
    assert verdicts(found, "tls", "certificate", "interception", "clock") == ["error", "error", "skipped", "skipped"]
    assert found["tls"].sentence == "the certificate has expired"
    assert f"{datetime.now(UTC):%Y-%m-%d}" in found["tls"].hint
    assert "3 days ago" in found["certificate"].sentence


def test_a_certificate_of_the_future_points_at_the_clock(world: World) -> None:
    with tls_server(issue(world.folder, world.authority, validity=Validity(2, 90))) as server:
        found = look(server.port, world.ca_file)
    assert found["tls"].sentence == "the certificate is not valid yet"
    assert "clock" in found["tls"].hint


@pytest.mark.parametrize(
    ("days", "verdict", "said"),
    [(400.5, "ok", "400 days"), (30.5, "ok", "30 days"), (29.5, "warning", "29 days"), (1.5, "warning", "1 day")],
)
def test_the_days_left_are_counted_and_a_warning_below_thirty(
    world: World, days: float, verdict: str, said: str
) -> None:
    with tls_server(issue(world.folder, world.authority, validity=Validity(-1, days))) as server:
        found = look(server.port, world.ca_file)
    assert found["certificate"].verdict == verdict
    assert found["certificate"].sentence.endswith(said)
    assert found["tls"].verdict == "ok"


@pytest.mark.parametrize("names", [("elsewhere.example",), ("127.0.0.1",), ("localhost.example",)])
def test_a_certificate_for_another_host_is_told_with_both_names(world: World, names: tuple[str, ...]) -> None:
    with tls_server(issue(world.folder, world.authority, names)) as server:
        found = look(server.port, world.ca_file)
    assert found["tls"].verdict == "error"
    assert found["tls"].sentence == f"the certificate is for {names[0]}, not for localhost"
    assert found["interception"].verdict == "skipped"


def test_another_authority_than_the_pinned_one_is_interception_with_both_names(world: World) -> None:
    inspecting = authority("Hospital Web Filter")
    with tls_server(issue(world.folder, inspecting)) as server:
        found = look(server.port, world.ca_file)
        assert server.requests == []
    assert verdicts(found, "tls", "interception", "clock") == ["error", "error", "skipped"]
    assert "Hospital Web Filter" in found["interception"].sentence
    assert "not by Federation Root" in found["interception"].sentence
    assert "exempt" in found["interception"].hint


def test_an_authority_of_the_same_name_with_another_key_is_not_trusted(world: World) -> None:
    with tls_server(issue(world.folder, authority("Federation Root"))) as server:
        found = look(server.port, world.ca_file)
    assert found["tls"].verdict == "error"


def test_a_certificate_that_signed_itself_is_not_trusted(world: World) -> None:
    with tls_server(issue(world.folder, None)) as server:
        pinned, unpinned = (look(server.port, ca_file) for ca_file in (world.ca_file, None))
    assert verdicts(pinned, "tls", "interception") == verdicts(unpinned, "tls", "interception") == ["error", "error"]
    assert "server for localhost" in unpinned["interception"].sentence


def test_without_a_pinned_authority_interception_cannot_be_told_and_that_is_said(world: World) -> None:
    with tls_server(issue(world.folder, world.authority)) as server:
        # The file stands for a list of authorities of the machine, on which an inspecting one may be.
        sight = tls.look(
            Endpoint("localhost", server.port),
            lambda: route.connect(Endpoint("localhost", server.port), None, 5),
            tls.trust(world.ca_file),
            5,
        )
    found = network.interception(sight, ())
    assert found.verdict == "skipped"
    assert "Federation Root" in found.sentence
    assert "ca_file" in found.hint


@pytest.mark.parametrize(
    "content", [None, b"", b"no certificate", b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"]
)
def test_a_ca_file_that_cannot_be_used_is_one_error(world: World, tmp_path: Path, content: bytes | None) -> None:
    ca_file = tmp_path / "ca.pem"
    if content is not None:
        ca_file.write_bytes(content)
    with tls_server(issue(world.folder, world.authority)) as server:
        found = look(server.port, ca_file)
    assert verdicts(found, "connection", "tls", "certificate", "clock") == ["ok", "error", "skipped", "skipped"]
    assert "ca_file" in found["tls"].hint


# --- no TLS ----------------------------------------------------------------------------------------------------------


def test_a_port_that_speaks_plain_http_has_no_tls(world: World) -> None:
    with plain_http_server() as server:
        found = look(server.port, world.ca_file)
    assert verdicts(found, "connection", "tls", "certificate") == ["ok", "error", "skipped"]
    assert "no TLS in common" in found["tls"].sentence


def test_a_server_that_accepts_and_says_nothing_ends_at_the_deadline(world: World) -> None:
    started = time.monotonic()
    with silent_server() as server:
        found = look(server.port, world.ca_file, seconds=0.4)
    assert time.monotonic() - started < 3
    assert "says nothing" in found["tls"].sentence
    assert verdicts(found, "connection", "tls", "clock") == ["ok", "error", "skipped"]


# --- no connection ---------------------------------------------------------------------------------------------------


def test_a_closed_port_is_refused_and_the_rest_is_skipped(world: World) -> None:
    port = closed_port()
    found = look(port, world.ca_file)
    assert verdicts(found, "name", "connection") == ["ok", "error"]
    assert "refused" in found["connection"].sentence
    assert f"localhost:{port}" in found["connection"].hint
    assert set(verdicts(found, *NAMES[3:])) == {"skipped"}


def test_a_black_hole_ends_at_the_deadline_and_is_told_from_a_refusal(world: World) -> None:
    with black_hole() as port:
        started = time.monotonic()
        found = look(port, world.ca_file, host="127.0.0.1", seconds=0.5)
    assert time.monotonic() - started < 3
    assert "did not answer within 0.5 s" in found["connection"].sentence
    assert "dropped" in found["connection"].sentence


def test_a_name_that_nobody_knows_is_an_error_of_its_own(world: World) -> None:
    # RFC 6761: names under .invalid are never resolved.
    found = look(443, world.ca_file, host="coordinator.invalid")
    assert verdicts(found, "name", "connection", "tls") == ["error", "skipped", "skipped"]
    assert "coordinator.invalid" in found["name"].sentence


def test_a_name_server_that_never_answers_ends_at_the_deadline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(route.socket, "getaddrinfo", lambda *_args, **_named: time.sleep(30))
    started = time.monotonic()
    with pytest.raises(ConsiliumError, match=r"no answer within 0\.2 s"):
        route.addresses(Endpoint("slow.example", 443), 0.2)
    assert time.monotonic() - started < 5


@pytest.mark.parametrize("name", ["", ".", "a" * 64 + ".example", "ex ample", "\u2603" * 80])
def test_an_impossible_name_is_an_error_and_not_a_traceback(name: str) -> None:
    with pytest.raises(ConsiliumError):
        route.addresses(endpoint(f"{name}:443"), 5)


# --- the clock -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("seconds", "verdict", "way"),
    [
        (0, "ok", ""),
        (20, "ok", "behind"),
        (90, "warning", "behind"),
        (-90, "warning", "ahead of"),
        (3600, "error", "behind"),
        (-86400, "error", "ahead of"),
    ],
)
def test_the_clock_is_compared_with_the_coordinator_s(world: World, seconds: int, verdict: str, way: str) -> None:
    with tls_server(issue(world.folder, world.authority), off_by=timedelta(seconds=seconds)) as server:
        found = look(server.port, world.ca_file)["clock"]
    assert found.verdict == verdict
    assert way in found.sentence
    (said,) = (int(word) for word in found.sentence.split() if word.isdigit())
    assert abs(said - abs(seconds)) <= 3


def test_a_server_that_does_not_tell_the_time_is_skipped(world: World) -> None:
    with tls_server(issue(world.folder, world.authority), off_by=None) as server:
        found = look(server.port, world.ca_file)
    assert verdicts(found, "tls", "clock") == ["ok", "skipped"]


def test_time_that_passes_while_looking_is_not_taken_for_a_wrong_clock() -> None:
    now = datetime(2026, 5, 1, 12, tzinfo=UTC)
    sight = Sight("", "TLSv1.3", None, now + timedelta(seconds=40), answered_s=40)
    assert network.clock(sight, now) == Check("clock", "ok", "this machine's clock is 0 s behind the coordinator's")
    assert network.clock(replace(sight, answered_s=0), now).verdict == "warning"


# --- proxies ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("variable", ["HTTPS_PROXY", "https_proxy"])
def test_a_proxy_is_used_where_one_is_set(world: World, variable: str) -> None:
    with tls_server(issue(world.folder, world.authority)) as server, connect_proxy() as proxy:
        found = look(server.port, world.ca_file, {variable: f"http://127.0.0.1:{proxy.port}"})
    assert verdicts(found) == ["ok"] * 7
    assert f"through the proxy 127.0.0.1:{proxy.port}" in found["connection"].sentence
    assert proxy.requests
    assert all(request.startswith(f"CONNECT localhost:{server.port} HTTP/1.1".encode()) for request in proxy.requests)


def test_through_a_proxy_the_coordinator_s_name_is_the_proxy_s_business(world: World) -> None:
    with (
        tls_server(issue(world.folder, world.authority, ("coordinator.invalid",))) as server,
        connect_proxy() as proxy,
    ):
        environ = {"HTTPS_PROXY": f"http://127.0.0.1:{proxy.port}"}
        found = look(server.port, world.ca_file, environ, host="coordinator.invalid")
    assert verdicts(found) == ["ok"] * 7


@pytest.mark.parametrize("exempt", ["localhost", "*", "example.org, localhost", "localhost:{port}"])
@pytest.mark.parametrize("variable", ["NO_PROXY", "no_proxy"])
def test_no_proxy_is_honoured(world: World, exempt: str, variable: str) -> None:
    with tls_server(issue(world.folder, world.authority)) as server, connect_proxy() as proxy:
        environ = {"HTTPS_PROXY": f"http://127.0.0.1:{proxy.port}", variable: exempt.format(port=server.port)}
        found = look(server.port, world.ca_file, environ)
    assert proxy.requests == []
    assert "NO_PROXY exempts localhost" in found["proxy"].sentence
    assert found["tls"].verdict == "ok"


def test_no_proxy_for_others_leaves_the_proxy_in_use(world: World) -> None:
    with tls_server(issue(world.folder, world.authority)) as server, connect_proxy() as proxy:
        environ = {"HTTPS_PROXY": f"http://127.0.0.1:{proxy.port}", "NO_PROXY": "example.org,host"}
        look(server.port, world.ca_file, environ)
        assert proxy.requests


def test_user_and_password_reach_the_proxy_and_no_sentence(world: World) -> None:
    expected = "Basic " + base64.b64encode(b"dr.no:p@ss word").decode()
    with tls_server(issue(world.folder, world.authority)) as server, connect_proxy(expected) as proxy:
        environ = {"HTTPS_PROXY": f"http://dr.no:p%40ss%20word@127.0.0.1:{proxy.port}"}
        found = look(server.port, world.ca_file, environ)
        target = endpoint(f"localhost:{server.port}")
        text = firewall.ticket(str(target), world.ca_file, environ) + repr(proxy_for(target, environ))
    assert verdicts(found) == ["ok"] * 7
    said = text + "".join(check.sentence + check.hint for check in found.values())
    assert not any(secret in said for secret in ("dr.no", "p@ss", "p%40ss", expected.removeprefix("Basic ")))


def test_a_proxy_that_wants_a_password_says_how_to_give_one(world: World) -> None:
    with tls_server(issue(world.folder, world.authority)) as server, connect_proxy("Basic eDp5") as proxy:
        found = look(server.port, world.ca_file, {"HTTPS_PROXY": f"http://127.0.0.1:{proxy.port}"})
    assert verdicts(found, "name", "connection", "tls") == ["ok", "error", "skipped"]
    assert found["connection"].sentence.endswith("with 407")
    assert "user:password" in found["connection"].hint


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        ("HTTP/1.1 403 Forbidden\r\n\r\n", "with 403"),
        ("HTTP/1.0 502 Bad Gateway\r\nX: y\r\n\r\n", "with 502"),
        ("SSH-2.0-x\r\n\r\n", "not HTTP"),
        ("HTTP/1.1 200 no end of head", "did not answer CONNECT"),
    ],
)
def test_a_proxy_that_does_not_tunnel_is_told_by_its_answer(world: World, answer: str, said: str) -> None:
    with connect_proxy(answer=answer) as proxy:
        found = look(443, world.ca_file, {"HTTPS_PROXY": f"http://127.0.0.1:{proxy.port}"}, seconds=1)
    assert found["connection"].verdict == "error"
    assert said in found["connection"].sentence


def test_a_proxy_whose_head_never_ends_is_left(world: World) -> None:
    with connect_proxy(answer="HTTP/1.1 200 OK\r\n" + "X: y\r\n" * 20000) as proxy:
        found = look(443, world.ca_file, {"HTTPS_PROXY": f"http://127.0.0.1:{proxy.port}"})
    assert "did not answer CONNECT" in found["connection"].sentence


def test_a_silent_proxy_and_a_closed_one_end_at_the_deadline(world: World) -> None:
    with silent_server() as proxy:
        found = look(443, world.ca_file, {"HTTPS_PROXY": f"http://127.0.0.1:{proxy.port}"}, seconds=0.3)
    assert "did not answer CONNECT" in found["connection"].sentence
    found = look(443, world.ca_file, {"HTTPS_PROXY": f"http://127.0.0.1:{closed_port()}"})
    assert "refused" in found["connection"].sentence
    assert found["connection"].hint == "check HTTPS_PROXY"


@pytest.mark.parametrize("proxy", ["socks5://proxy:1080", "https://proxy:3128", "http://:3128", "http://proxy:99999"])
def test_a_proxy_of_another_kind_is_an_error_and_nothing_is_tried(proxy: str) -> None:
    found = look(443, None, {"HTTPS_PROXY": proxy}, host="coordinator.invalid")
    assert verdicts(found) == ["error", *["skipped"] * 6]


def test_an_inspecting_proxy_is_found_out(world: World) -> None:
    """The proxy leads elsewhere than asked: to a server that shows its own authority's certificate for the name."""
    with (
        tls_server(issue(world.folder, authority("Web Filter"), ("coordinator.invalid",))) as filtering,
        connect_proxy() as proxy,
    ):
        environ = {"HTTPS_PROXY": f"http://127.0.0.1:{proxy.port}"}
        found = look(filtering.port, world.ca_file, environ, host="coordinator.invalid")
        assert filtering.requests == []
    assert verdicts(found, "connection", "tls", "interception") == ["ok", "error", "error"]
    assert "Web Filter" in found["interception"].sentence


# --- addresses -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "host", "port"),
    [
        ("c.example.org", "c.example.org", 443),
        ("c.example.org:8443", "c.example.org", 8443),
        ("https://c.example.org", "c.example.org", 443),
        ("https://c.example.org:9/v1/", "c.example.org", 9),
        ("[::1]:443", "::1", 443),
        ("10.0.0.1:1", "10.0.0.1", 1),
    ],
)
def test_an_address_is_read_in_every_form_that_people_write(text: str, host: str, port: int) -> None:
    assert endpoint(text) == Endpoint(host, port)


@pytest.mark.parametrize(
    "text", ["http://c.example.org", "c:port", "c:70000", "c:0", ":443", "https://", "[::1", "a b://c"]
)
def test_an_address_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(ConsiliumError, match="address"):
        endpoint(text)


def test_an_ipv6_endpoint_is_written_in_brackets() -> None:
    assert str(Endpoint("::1", 443)) == "[::1]:443"


def test_lower_case_goes_first_as_with_curl() -> None:
    both = {"https_proxy": "http://low:1", "HTTPS_PROXY": "http://high:2"}
    assert proxy_for(Endpoint("c.example", 443), both) == Proxy(Endpoint("low", 1))
    assert proxy_for(Endpoint("c.example", 443), {"HTTPS_PROXY": "proxy"}) == Proxy(Endpoint("proxy", 8080))
    assert proxy_for(Endpoint("c.example", 443), {}) is None


# --- the ticket ------------------------------------------------------------------------------------------------------


def test_the_ticket_says_what_a_firewall_needs_to_know(world: World) -> None:
    pem = issue(world.folder, world.authority)
    with tls_server(pem) as server:
        text = firewall.ticket(f"localhost:{server.port}", world.ca_file, {})
    for said in (
        "outbound only",
        f"localhost, TCP port {server.port}",
        "HTTPS",
        "none is used",
        "do not cut",
        "Federation Root",
    ):
        assert said in text
    assert max(map(len, text.splitlines())) <= 120
    assert text.isascii()


@pytest.mark.skipif(not shutil.which("openssl"), reason="needs openssl as an independent oracle")
def test_the_fingerprint_is_the_one_that_openssl_shows(world: World) -> None:
    pem = issue(world.folder, world.authority)
    said = subprocess.run(
        ["openssl", "x509", "-in", pem, "-noout", "-fingerprint", "-sha256"], capture_output=True, text=True, check=True
    ).stdout.strip()
    with tls_server(pem) as server:
        assert said.partition("=")[2] in firewall.ticket(f"localhost:{server.port}", world.ca_file, {})


def test_a_certificate_that_does_not_verify_is_not_recommended_in_the_ticket(world: World) -> None:
    with tls_server(issue(world.folder, authority("Web Filter"))) as server:
        text = firewall.ticket(f"localhost:{server.port}", world.ca_file, {})
    assert "Web Filter" not in text
    assert "could not be read" in text


def test_the_ticket_names_the_proxy_that_is_set() -> None:
    environ = {"HTTPS_PROXY": "http://proxy.invalid:3128"}
    text = firewall.ticket("c.example.org", None, environ, seconds=0.5)
    assert "through proxy.invalid:3128, which must allow CONNECT" in text
    assert "proxy.invalid must resolve" in text


# --- certificates as values ------------------------------------------------------------------------------------------


def test_what_a_certificate_says_is_what_it_was_made_with(world: World) -> None:
    pem = issue(world.folder, world.authority, ("a.example", "10.1.2.3"), Validity(-3, 40))
    (found,) = certificates.from_pem(pem.read_bytes())
    assert (found.subject, found.issuer) == ("server for a.example", "Federation Root")
    assert found.names == ("a.example", "10.1.2.3")
    assert abs(found.remaining(datetime.now(UTC)) - timedelta(days=40)) < timedelta(seconds=10)
    assert found.not_after - found.not_before == timedelta(days=43)
    assert certificates.from_der(ssl.PEM_cert_to_DER_cert(_only_certificate(pem))) == found


def _only_certificate(pem: Path) -> str:
    text = pem.read_text()
    return text[text.index("-----BEGIN CERTIFICATE") :]


def test_a_file_with_several_authorities_gives_all_of_them(world: World) -> None:
    both = world.authority.pem + authority("Second Root").pem
    assert [one.subject for one in certificates.from_pem(both)] == ["Federation Root", "Second Root"]


@pytest.mark.parametrize("content", [b"", b"\x30\x82", b"text"])
def test_what_is_no_certificate_is_refused(content: bytes) -> None:
    with pytest.raises(ProtocolError):
        certificates.from_der(content)
    with pytest.raises(ProtocolError):
        certificates.from_pem(content)


def test_a_name_that_would_disturb_a_terminal_is_made_harmless(world: World) -> None:
    evil = authority("\x1b[2J\nclock: ok " + "x" * 40)
    with tls_server(issue(world.folder, evil)) as server:
        found = look(server.port, world.ca_file)
    assert all(check.sentence.isprintable() and check.hint.isprintable() for check in found.values())


def test_validity_is_counted_in_whole_days() -> None:
    now = datetime(2026, 3, 1, tzinfo=UTC)
    made = Certificate("s", "i", (), now, now, "00")
    said = {
        days: network.validity(replace(made, not_after=now + timedelta(days=days)), now).verdict
        for days in (-0.1, 0, 0.5, 29.99, 30, 31)
    }
    assert said == {-0.1: "error", 0: "warning", 0.5: "warning", 29.99: "warning", 30: "ok", 31: "ok"}


def test_the_whole_examination_includes_the_network(world: World, tmp_path: Path) -> None:
    with tls_server(issue(world.folder, world.authority)) as server:
        found = examine(tmp_path, f"https://localhost:{server.port}", world.ca_file, {}, datetime.now(UTC))
    assert [check.verdict for check in found if check.name in NAMES] == ["skipped", *["ok"] * 6]
