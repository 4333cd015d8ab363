"""Which node is which site's, and what the coordinator keeps running: names prove nothing, secrets stay in files."""

from __future__ import annotations

import os
import socket
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest
from scripted_gateway import ScriptedGateway

from server.commands import start
from server.enrolment import enrol, remove, set_state
from server.federation_folder import FederationFolder, settings_for
from server.link import nodes
from server.link.control import Node
from server.link.nodes import registered
from server.link.places import LinkFolder
from shared.crypto import node_keys
from shared.crypto.signing import SigningKey
from shared.errors import RunError
from shared.supervision import News, Program
from shared.trust.enrolment import make_request, open_request

SITES = ("aachen", "bergen", "coimbra")
KEYS = {site: node_keys.public_pem(node_keys.generate()) for site in SITES}


def now() -> datetime:
    return datetime.now(UTC)


@pytest.fixture
def federation(tmp_path: Path) -> FederationFolder:
    made = FederationFolder.init(tmp_path / "f", settings_for("tiny", "127.0.0.1:9443"), None, now())
    for site in SITES:
        request = make_request(SigningKey.generate(), site, KEYS[site], {"consilium": "1"}, now())
        enrol(made, open_request(request), made.lead_key(lambda: b""), now())
    return made


def known(monkeypatch: pytest.MonkeyPatch, *found: Node) -> None:
    monkeypatch.setattr(nodes, "Control", ScriptedGateway(registered=found))


def node(site: str, number: int = 7, state: str = "online", pem: str = "") -> Node:
    return Node(number, site, state, pem or KEYS[site])


def test_a_node_counts_by_the_key_that_the_roster_has_for_its_site(
    federation: FederationFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    known(monkeypatch, *(node(site, place) for place, site in enumerate(SITES, 5)))
    assert registered(federation.path) == {"aachen": 5, "bergen": 6, "coimbra": 7}


@pytest.mark.parametrize("state", ["online", "offline", "registered"])
def test_a_node_that_is_away_is_still_its_site_s(
    federation: FederationFolder, monkeypatch: pytest.MonkeyPatch, state: str
) -> None:
    known(monkeypatch, node("aachen", 9, state))
    assert registered(federation.path) == {"aachen": 9}


def test_a_node_that_was_removed_is_nobody_s_and_its_successor_is(
    federation: FederationFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    known(monkeypatch, node("aachen", 4, "unregistered"), node("aachen", 8), node("bergen", 5, "unregistered"))
    assert registered(federation.path) == {"aachen": 8}


def test_a_name_alone_proves_nothing(federation: FederationFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another site's key under this name, and a key that nobody enrolled."""
    stranger = node_keys.public_pem(node_keys.generate())
    known(monkeypatch, node("aachen", 4, pem=KEYS["bergen"]), node("bergen", 5, pem=stranger), node("coimbra", 6))
    assert registered(federation.path) == {"coimbra": 6}


def test_space_around_a_key_changes_nobody(federation: FederationFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    known(monkeypatch, node("aachen", 4, pem=f"\n{KEYS['aachen']}\n\n"))
    assert registered(federation.path) == {"aachen": 4}


def test_a_suspended_site_s_node_and_a_removed_one_s_are_left_out(
    federation: FederationFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    known(monkeypatch, *(node(site, place) for place, site in enumerate(SITES, 5)))
    key = federation.lead_key(lambda: b"")
    set_state(federation, "aachen", "suspended", key, now())
    remove(federation, "bergen", key, now())
    assert registered(federation.path) == {"coimbra": 7}
    set_state(federation, "aachen", "active", key, now())
    assert registered(federation.path) == {"aachen": 5, "coimbra": 7}


def test_a_site_that_was_never_let_in_has_no_node(
    federation: FederationFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    known(monkeypatch)
    assert registered(federation.path) == {}


def test_without_a_gateway_there_is_nobody_to_ask(federation: FederationFolder) -> None:
    with pytest.raises(RunError) as caught:
        registered(federation.path)
    assert caught.value.code == "no-gateway"


# --- consilium-server start ------------------------------------------------------------------------------------------

INHERITED = {"PATH": "/usr/bin", "HTTPS_PROXY": "http://proxy.example:3128"}


def programs(federation: FederationFolder, page: int = 0) -> dict[str, Program]:
    keeper = start.supervisor(federation, INHERITED, lambda _news: None, page)
    return {one.name: one for one in keeper.programs}


def test_the_gateway_comes_first_and_a_page_only_where_one_is_wanted(federation: FederationFolder) -> None:
    assert list(programs(federation)) == ["gateway", "coordinator"]
    assert list(programs(federation, 8701)) == ["gateway", "coordinator", "page"]


def test_only_the_coordinator_is_told_where_the_federation_is(federation: FederationFolder) -> None:
    LinkFolder(federation.path).announce(9443, 4711)
    commands = {name: one.command() for name, one in programs(federation, 8701).items()}
    told = {name for name, command in commands.items() if "CONSILIUM_FEDERATION" in command.environment}
    assert told == {"coordinator"}
    assert commands["coordinator"].environment["CONSILIUM_FEDERATION"] == str(federation.path.absolute())


def test_no_secret_stands_on_a_command_line_or_in_an_environment(federation: FederationFolder) -> None:
    LinkFolder(federation.path).announce(9443, 4711)
    found = programs(federation, 8701)
    folder = LinkFolder(federation.path)
    secrets = {folder.token(), folder.secret.read_bytes().decode("latin-1").strip()}
    for one in found.values():
        command = one.command()
        said = " ".join((*command.argv, *command.environment.values()))
        assert not any(secret in said for secret in secrets)


def test_the_coordinator_cannot_be_named_before_a_gateway_has_said_where_it_listens(
    federation: FederationFolder,
) -> None:
    coordinator = programs(federation)["coordinator"]
    with pytest.raises(RunError, match="no gateway has been started"):
        coordinator.command()
    LinkFolder(federation.path).announce(9443, 4711)
    assert "127.0.0.1:4711" in coordinator.command().argv


def test_the_gateway_is_ready_when_its_own_process_has_said_so(federation: FederationFolder) -> None:
    """What an earlier process has left behind is not this one's word."""
    ready = programs(federation)["gateway"].ready
    assert not ready(os.getpid())
    LinkFolder(federation.path).announce(9443, 4711)
    assert ready(os.getpid())
    assert not ready(os.getpid() + 1)


def test_a_page_is_ready_when_something_listens_there(federation: FederationFolder) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
        page = programs(federation, port)["page"]
        assert not page.ready(0)
        probe.listen()
        assert page.ready(0)
    command = page.command()
    assert command.argv == (sys.executable, "-m", "server.dashboard", str(federation.path.absolute()), str(port))


def test_each_process_has_its_own_log_in_the_federation(federation: FederationFolder) -> None:
    logs = {name: one.log for name, one in programs(federation, 8701).items()}
    assert logs == {name: federation.path.absolute() / "log" / f"{name}.log" for name in logs}


def test_the_address_of_the_page_holds_the_token_that_was_written(federation: FederationFolder) -> None:
    path = federation.path / start.TOKEN
    path.parent.mkdir(exist_ok=True, parents=True)
    path.write_text("a-token\n")
    assert start.page_address(federation, 8701) == "http://127.0.0.1:8701/?token=a-token"


def test_a_coordinator_that_finds_no_gateway_yet_is_tried_again_and_stops_nothing(
    federation: FederationFolder,
) -> None:
    """The two parts together: what cannot be named yet is a failed start, not the end of the supervisor."""
    news: list[News] = []
    keeper = start.supervisor(federation, INHERITED, lambda one: (news.append(one), keeper.stop.set())[0], 0)
    keeper.programs = keeper.programs[1:]
    keeper.run()
    assert [(one.program, one.kind) for one in news] == [("coordinator", "ended")]
    assert "no gateway has been started in this folder" in news[0].sentence
