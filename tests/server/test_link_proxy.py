"""The reverse proxy's configuration: what it lets through is what the gateway lets through."""

import re
from pathlib import Path

import pytest
from small_server import lead
from small_trust import code_of, new_federation

from server.federation_folder import FederationFolder
from server.gateway import _place
from server.link.gate import CONTROL_CALLS, FLEET_CALLS, RUNTIME_CALLS, Limits
from server.link.listen import HEAD_S
from server.link.proxy import nginx


@pytest.fixture
def behind(tmp_path: Path) -> FederationFolder:
    """A federation whose gateway listens behind a proxy."""
    return listening(new_federation(tmp_path), "127.0.0.1:9443")


def listening(made: FederationFolder, place: str) -> FederationFolder:
    path = made.path / "federation.toml"
    path.write_text(path.read_text().replace('listen = ""', f'listen = "{place}"'))
    return FederationFolder.open(made.path)


def locations(text: str) -> dict[str, str]:
    return dict(re.findall(r"location (=? ?\S+) \{\n(.*?)\n    \}", text, re.S))


def test_every_fleet_call_is_let_through_and_no_other(behind: FederationFolder) -> None:
    found = locations(nginx(behind))
    assert set(found) == {f"= {path}" for path in (*FLEET_CALLS, "/health")} | {"/"}
    assert not {f"= {path}" for path in CONTROL_CALLS | RUNTIME_CALLS} & set(found)
    assert found["/"].strip() == "return 403;"
    for path, body in found.items():
        if path != "/":
            assert ("limit_except POST" in body) == ("fleet" in path)
            assert "if ($args) { return 403; }" in body


def test_limits_are_the_gateways_own(behind: FederationFolder) -> None:
    text = nginx(behind)
    assert f"client_max_body_size {Limits().body_bytes};" in text
    assert f"client_header_timeout {HEAD_S:.0f}s;" in text
    assert f"client_body_timeout {Limits().pause_s:.0f}s;" in text


def test_nothing_is_put_down_on_the_way_and_only_modern_tls_is_spoken(behind: FederationFolder) -> None:
    text = nginx(behind)
    assert "proxy_request_buffering off;" in text
    assert "proxy_max_temp_file_size 0;" in text
    assert set(re.findall(r"ssl_protocols (.+);", text)) == {"TLSv1.2 TLSv1.3"}
    (ciphers,) = re.findall(r"ssl_ciphers (.+);", text)
    modern = r"ECDHE-(RSA|ECDSA)-(AES\d+-GCM-SHA\d+|CHACHA20-POLY1305)"
    assert all(re.fullmatch(modern, one) for one in ciphers.split(":"))


def test_the_gateway_is_asked_over_tls_and_its_certificate_is_checked(behind: FederationFolder) -> None:
    text = nginx(behind)
    assert set(re.findall(r"proxy_pass (\S+);", text)) == {"https://consilium_gateway"}
    assert "server 127.0.0.1:9443;" in text
    assert "proxy_ssl_verify on;" in text
    assert f"proxy_ssl_trusted_certificate {behind.path}/trust/ca.pem;" in text
    assert f"ssl_certificate_key {behind.path}/tls/server.key;" in text


@pytest.mark.parametrize("place", ["", "127.0.0.1:8443"])
def test_a_proxy_and_a_gateway_cannot_have_one_port(place: str, tmp_path: Path) -> None:
    made = new_federation(tmp_path, "localhost:8443")
    assert code_of(lambda: nginx(listening(made, place))) == "proxy-listen"


@pytest.mark.parametrize(
    ("host", "names", "compared"),
    [
        ("lead.example", ("localhost",), "lead.example"),
        ("192.0.2.7", ("127.0.0.1", "localhost"), "localhost"),
        ("2001:db8::7", ("::1", "inside.example"), "inside.example"),
    ],
)
def test_nginx_compares_a_name_that_is_no_address(
    behind: FederationFolder, host: str, names: tuple[str, ...], compared: str
) -> None:
    settings = behind.settings.model_copy(update={"host": host, "names": names})
    assert f"proxy_ssl_name {compared};" in nginx(FederationFolder(behind.path, settings))


def test_a_certificate_of_addresses_alone_cannot_stand_behind_nginx(behind: FederationFolder) -> None:
    settings = behind.settings.model_copy(update={"host": "192.0.2.7", "names": ("127.0.0.1",)})
    assert code_of(lambda: nginx(FederationFolder(behind.path, settings))) == "proxy-name"


def test_a_path_that_would_mean_something_to_nginx_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a b;").mkdir()
    assert code_of(lambda: nginx(listening(new_federation(tmp_path / "a b;"), "127.0.0.1:9443"))) == "proxy-path"


@pytest.mark.parametrize("place", ["here", "127.0.0.1", "127.0.0.1:0", "https://127.0.0.1:1", "::1:9443"])
def test_what_is_no_place_is_refused_as_a_setting(place: str, tmp_path: Path) -> None:
    made = new_federation(tmp_path)
    assert code_of(lambda: listening(made, place)) == "federation-settings"


def test_the_gateway_listens_where_the_settings_say_and_a_word_on_its_command_line_goes_first(
    tmp_path: Path,
) -> None:
    direct = new_federation(tmp_path, "lead.example:8443").settings
    assert _place(direct, None) == ("0.0.0.0", 8443)  # noqa: S104
    proxied = direct.model_copy(update={"listen": "[::1]:9443"})
    assert _place(proxied, None) == ("::1", 9443)
    assert _place(proxied, "192.0.2.7") == ("192.0.2.7", 8443)


def test_the_command_prints_the_configuration_and_nothing_else(
    behind: FederationFolder, capsys: pytest.CaptureFixture[str]
) -> None:
    said = lead(capsys, "proxy-config", "--server", "nginx", "--federation", behind.path)
    assert (said.status, said.out, said.err) == (0, nginx(behind), "")
    assert lead(capsys, "proxy-config", "--server", "apache", "--federation", behind.path).status == 2
