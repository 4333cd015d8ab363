"""The files that ``consilium-site service`` gives to root: who may do what is read back out of them, line by line."""

import ipaddress
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest
from small_site import site as consilium_site
from small_trust import code_of, new_site

from client import settings, supernode
from client.commands import service
from client.commands.service import Places, Users, Way
from client.commands.start import supervisor
from client.custodian.service import STOPPED
from shared.crypto import node_keys

USERS = Users("consilium", "consilium-relay")
PLACES = Places(Path("/srv/consilium"), Path("/opt/consilium/bin/python"))
WAY = Way("lead.example:443", ("192.0.2.7", "2001:db8::7"), "the coordinator lead.example:443")
CUSTODIAN, RELAY = service.NAMES[:2]
HOME = str(Path("/", "home", "me"))


def made(gpu: service.Gpu = "none", users: Users = USERS, places: Places = PLACES, way: Way = WAY) -> Mapping[str, str]:
    return service.texts(settings.parse(settings.template("aachen")), users, places, way, gpu)


def unit(name: str, gpu: service.Gpu = "none") -> dict[str, list[str]]:
    """Values of each key, by a reader that knows nothing of templates."""
    found: dict[str, list[str]] = {}
    for line in made(gpu)[name].splitlines():
        if line and line[0] not in "#[":
            key, _, value = line.partition("=")
            found.setdefault(key, []).append(value)
    return found


def test_the_custodian_has_no_network_at_all() -> None:
    found = unit(CUSTODIAN)
    assert found["PrivateNetwork"] == ["yes"]
    assert found["RestrictAddressFamilies"] == ["AF_UNIX"]
    assert found["IPAddressDeny"] == ["any"]
    assert "IPAddressAllow" not in found


def test_the_relay_reaches_the_named_addresses_and_this_machine_only() -> None:
    found = unit(RELAY)
    assert found["IPAddressDeny"] == ["any"]
    assert found["IPAddressAllow"] == ["localhost", "192.0.2.7", "2001:db8::7"]


def test_the_sites_folder_is_not_there_for_the_relay_and_what_it_needs_of_it_is_lent() -> None:
    found = unit(RELAY)
    assert "/srv/consilium" in found["InaccessiblePaths"]
    assert found["LoadCredential"] == ["node.pem:/srv/consilium/keys/node.pem", "ca.pem:/srv/consilium/trust/ca.pem"]
    assert "/srv/consilium" not in found["ExecStart"][0]
    assert not any("/srv" in value for value in found.get("ReadWritePaths", []))
    assert found["ReadOnlyPaths"] == ["/var/lib/consilium-link"]


@pytest.mark.parametrize("name", [CUSTODIAN, RELAY])
@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("NoNewPrivileges", "yes"),
        ("CapabilityBoundingSet", ""),
        ("AmbientCapabilities", ""),
        ("ProtectSystem", "strict"),
        ("ProtectHome", "yes"),
        ("PrivateTmp", "yes"),
        ("PrivateDevices", "yes"),
        ("RestrictSUIDSGID", "yes"),
        ("UMask", "0077"),
        ("LimitCORE", "0"),
        ("Restart", "always"),
        ("StartLimitIntervalSec", "0"),
    ],
)
def test_neither_service_gains_a_right(name: str, key: str, value: str) -> None:
    assert unit(name)[key] == [value]


def test_the_two_run_as_different_users_and_the_custodian_is_not_in_the_relays_group() -> None:
    assert unit(CUSTODIAN)["User"] == unit(CUSTODIAN)["Group"] == ["consilium"]
    assert unit(RELAY)["User"] == unit(RELAY)["Group"] == ["consilium-relay"]
    assert "SupplementaryGroups" not in unit(RELAY)


def test_the_relay_starts_when_the_custodian_has_said_that_it_listens() -> None:
    """A relay that is connected before loses what it is asked: seen, three seconds at every start of the machine."""
    assert unit(CUSTODIAN)["Type"] == ["notify"]
    assert CUSTODIAN in unit(RELAY)["After"][0].split()
    assert int(unit(CUSTODIAN)["TimeoutStartSec"][0]) > 90, "a first start from a slow disk takes its time"
    assert "NotifyAccess" not in unit(CUSTODIAN), "only the process itself may say so"


def test_a_custodian_that_is_stopped_in_the_middle_of_a_job_has_not_failed() -> None:
    assert unit(CUSTODIAN)["SuccessExitStatus"] == [str(STOPPED)]
    assert "SuccessExitStatus" not in unit(RELAY), "a relay that was not let in has failed"


@pytest.mark.parametrize("name", [CUSTODIAN, RELAY])
def test_the_journal_names_the_service_and_not_the_interpreter(name: str) -> None:
    assert unit(name)["SyslogIdentifier"] == ["%N"]


def test_matplotlib_has_somewhere_to_write_and_says_nothing_at_every_start() -> None:
    (line,) = (one for one in unit(CUSTODIAN)["Environment"] if "MPLCONFIGDIR" in one)
    folder = dict(word.split("=", 1) for word in line.split())["MPLCONFIGDIR"]
    assert Path(folder).parent.name == "tmp"
    assert unit(CUSTODIAN)["PrivateTmp"] == ["yes"], "it goes with the service"


def test_memory_that_is_written_and_run_is_refused_to_the_relay_alone() -> None:
    assert unit(RELAY)["MemoryDenyWriteExecute"] == ["yes"]
    assert unit(CUSTODIAN)["MemoryDenyWriteExecute"] == ["no"], "PyTorch's convolutions fail with it"


def test_devices_are_there_only_where_they_were_asked_for() -> None:
    with_gpu = unit(CUSTODIAN, "nvidia")
    assert with_gpu["PrivateDevices"] == ["no"]
    assert with_gpu["DevicePolicy"] == ["closed"]
    assert all(one.startswith("char-nvidia") for one in with_gpu["DeviceAllow"])
    assert "DeviceAllow" not in unit(CUSTODIAN)
    assert made("nvidia")[RELAY] == made()[RELAY]
    assert "nvidia" in made("nvidia")["compose.yaml"]
    assert "nvidia" not in made()["compose.yaml"]


def test_the_services_start_what_the_supervisor_starts(tmp_path: Path) -> None:
    """By hand and as a service, a site is the same two programs with the same environment."""
    found = new_site(tmp_path)
    by_hand = [program.command() for program in supervisor(found, {}, lambda _: None).programs]
    assert unit(CUSTODIAN)["ExecStart"][0].split()[1:3] == list(by_hand[0].argv[1:3])
    assert unit(RELAY)["ExecStart"][0].split()[1:3] == list(by_hand[1].argv[1:3])
    for name in (CUSTODIAN, RELAY):
        said = dict(line.split("=", 1) for line in unit(name)["Environment"] if " " not in line)
        assert said.items() >= by_hand[0].environment.items()


def relay_words(credentials: Path) -> list[str]:
    line = unit(RELAY)["ExecStart"][0].replace("${CREDENTIALS_DIRECTORY}", str(credentials))
    return shlex.split(line)[3:]


@pytest.fixture
def lent(tmp_path: Path) -> Path:
    """Credentials as systemd lends them: the list of readers shows as rights of the group."""
    node_keys.save(node_keys.generate(), tmp_path / "node.pem")
    (tmp_path / "ca.pem").write_bytes(b"authority")
    (tmp_path / "node.pem").chmod(0o440)
    return tmp_path


def test_the_relay_understands_its_command_line(lent: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(lent))
    found = supernode.read_settings(relay_words(lent))
    assert found.address == "lead.example:443"
    assert found.ca_pem == b"authority"
    assert found.run == Path("/var/lib/consilium-relay")
    assert found.custodian == Path("/var/lib/consilium-link/custodian.sock")
    assert found.token == Path("/var/lib/consilium-link/relay.token")


def test_a_key_that_its_group_may_read_is_taken_from_nobody_but_systemd(
    lent: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CREDENTIALS_DIRECTORY", raising=False)
    assert code_of(lambda: supernode.read_settings(relay_words(lent))) == "key-permissions"
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(lent.parent))
    assert code_of(lambda: supernode.read_settings(relay_words(lent))) == "key-permissions"


def test_without_a_folder_of_its_own_the_socket_is_looked_for_where_it_was(lent: Path) -> None:
    (lent / "node.pem").chmod(0o600)
    words = [str(lent), "--address", "a:1", "--ca", str(lent / "ca.pem"), "--key", str(lent / "node.pem")]
    assert supernode.read_settings(words).custodian == lent / "run" / "custodian.sock"


# --- who and where ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "users",
    [("one", "one"), ("Root", "b"), ("a b", "c"), ("a", "b;reboot"), ("", "b"), ("a" * 32, "b"), ("a\n", "b")],
    ids=repr,
)
def test_users_that_cannot_be_are_refused(users: tuple[str, str]) -> None:
    assert code_of(lambda: made(users=Users(*users))) == "service-users"


@pytest.mark.parametrize("path", ["/srv/con silium", "/srv/a%n", "/srv/$HOME", "/srv/a;b", '/srv/"', "relative"])
def test_a_path_that_would_mean_something_to_systemd_or_a_shell_is_refused(path: str) -> None:
    assert code_of(lambda: made(places=Places(Path(path), PLACES.python))) == "service-path"
    assert code_of(lambda: made(places=Places(PLACES.site, Path(path)))) == "service-path"


@pytest.mark.parametrize("python", [f"{HOME}/venv/bin/python", "/mnt/x/python", "/srv/consilium/venv/bin/python"])
def test_a_python_that_the_services_could_not_see_is_refused(python: str) -> None:
    assert code_of(lambda: made(places=Places(PLACES.site, Path(python)))) == "service-place"


def test_a_python_that_links_to_one_in_a_users_home_is_refused(tmp_path: Path) -> None:
    """Such as a virtual environment made with somebody's own interpreter: systemd would end with 203/EXEC."""
    hidden, seen = tmp_path / "hidden", tmp_path / "seen"
    hidden.symlink_to(f"{HOME}/.pyenv/bin/python3.11")
    seen.symlink_to("/usr/bin/python3.11")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(service, "_CLOSED", (str(Path("/", "home")),))  # this test's own folder may lie in another one
        assert code_of(lambda: made(places=Places(PLACES.site, hidden))) == "service-place"
        assert made(places=Places(PLACES.site, seen))


def test_a_site_that_the_services_could_not_see_is_refused() -> None:
    assert code_of(lambda: made(places=Places(Path(HOME, "site"), PLACES.python))) == "service-place"
    assert made(places=Places(Path("/mnt/raid/site"), PLACES.python))


def test_other_users_get_other_folders() -> None:
    text = "\n".join(made(users=Users("imaging", "courier")).values())
    assert "/var/lib/imaging-link" in text
    assert "StateDirectory=courier" in text
    assert not re.search(r"User=consilium|/var/lib/consilium", text)


# --- the way out -----------------------------------------------------------------------------------------------------


def resolvers(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "resolv.conf"
    path.write_text(text)
    return path


def test_a_name_is_looked_up_and_name_servers_are_let_through(tmp_path: Path) -> None:
    text = (
        "# mine\nsearch example\nnameserver 192.0.2.53\nnameserver 127.0.0.53\nnameserver fe80::1%eth0\nnameserver x\n"
    )
    found = service.way_to("localhost:8443", {}, (), resolvers(tmp_path, text))
    assert {"192.0.2.53", "fe80::1"} < set(found.allowed)
    assert "127.0.0.53" not in found.allowed, "this machine goes without saying"
    assert any(ipaddress.ip_address(one).is_loopback for one in found.allowed)
    assert found.address == "localhost:8443"


def test_with_a_proxy_the_relay_reaches_the_proxy_and_not_the_coordinator(tmp_path: Path) -> None:
    environ = {"HTTPS_PROXY": "http://someone:secret@127.0.0.1:3128"}
    found = service.way_to("192.0.2.7:443", environ, (), tmp_path / "none")
    assert found.allowed == ("127.0.0.1",)
    assert found.through == "the proxy 127.0.0.1:3128"
    text = "\n".join(made(way=found).values())
    assert "secret" not in text
    assert "192.0.2.7:443" in text


def test_addresses_that_were_named_are_not_looked_up(tmp_path: Path) -> None:
    found = service.way_to("no-such-name.invalid:443", {}, ("192.0.2.0/28", "2001:db8::1"), tmp_path / "none")
    assert found.allowed == ("192.0.2.0/28", "2001:db8::1")


@pytest.mark.parametrize("word", ["lead.example", "any", "192.0.2.1/8", "192.0.2.7\nIPAddressAllow=any", ""])
def test_what_is_no_address_is_refused(word: str, tmp_path: Path) -> None:
    assert code_of(lambda: service.way_to("a:1", {}, (word,), tmp_path)) == "service-address"


def test_before_a_welcome_there_is_nowhere_to_go() -> None:
    assert code_of(lambda: service.way_to(None, {}, ())) == "no-coordinator"


# --- as typed, and as systemd and a shell read it --------------------------------------------------------------------


def test_the_command_prints_every_file_or_writes_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    found = new_site(tmp_path)
    monkeypatch.setattr(service, "_CLOSED", ())  # this test's site lies in a folder of its own user
    monkeypatch.setattr(sys, "executable", "/opt/consilium/bin/python")
    words = ("service", "--allow", "192.0.2.7", "--site", found.path)
    refused = consilium_site(capsys, *words)
    assert (refused.status, refused.out) == (1, "")
    assert "hint:" in refused.err
    text = (found.path / "site.toml").read_text().replace('address = ""', 'address = "lead.example:443"')
    (found.path / "site.toml").write_text(text)
    printed = consilium_site(capsys, *words)
    assert (printed.status, re.findall(r"^##### (.+)$", printed.out, re.M)) == (0, list(service.NAMES))
    assert "IPAddressAllow=192.0.2.7" in printed.out
    written = consilium_site(capsys, *words, "--out", tmp_path / "files")
    assert written.status == 0
    assert {path.name for path in (tmp_path / "files").iterdir()} == set(service.NAMES)
    assert str(found.path) in (tmp_path / "files" / RELAY).read_text()


def test_a_folder_that_cannot_be_written_to_is_an_error_with_a_hint(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert code_of(lambda: service.write(tmp_path / "file", made())) == "folder-unwritable"


@pytest.mark.parametrize("name", ["setup.sh"])
def test_a_shell_can_read_the_script(name: str, tmp_path: Path) -> None:
    service.write(tmp_path, made())
    subprocess.run(["sh", "-n", str(tmp_path / name)], check=True)


@pytest.mark.parametrize(("restarted", "ends_with"), [(0, 0), (1, 1)])
def test_the_script_shows_how_the_services_do_and_ends_as_they_have_started(
    restarted: int, ends_with: int, tmp_path: Path
) -> None:
    said = tmp_path / "said"
    command = tmp_path / "systemctl"
    command.write_text(f'#!/bin/sh\necho "$1" >>{said}\n[ "$1" != restart ] || exit {restarted}\n')
    command.chmod(0o755)
    text = made()["setup.sh"]
    ends = "set -eu\n" + text[text.index("systemctl daemon-reload") :]
    found = subprocess.run(["sh", "-c", ends], env={"PATH": f"{tmp_path}:/bin:/usr/bin"}, check=False)
    assert found.returncode == ends_with
    assert said.read_text().split() == ["daemon-reload", "enable", "restart", "--no-pager"]


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="no systemd here")
@pytest.mark.parametrize("gpu", ["none", "nvidia"])
def test_systemd_finds_nothing_wrong_and_little_exposed(gpu: service.Gpu, tmp_path: Path) -> None:
    service.write(tmp_path, made(gpu, places=Places(Path("/srv"), Path("/usr/bin/env"))))
    units = [str(tmp_path / name) for name in (CUSTODIAN, RELAY)]
    found = subprocess.run(["systemd-analyze", "verify", *units], capture_output=True, text=True, check=False)
    assert (found.returncode, found.stderr) == (0, "")
    for path in units:
        words = ["systemd-analyze", "security", "--offline=true", "--threshold=15", path]
        assert subprocess.run(words, capture_output=True, check=False).returncode == 0
