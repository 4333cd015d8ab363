"""What the link keeps in a federation folder, and the command lines made from it."""

from __future__ import annotations

import json
import stat
import sys
from pathlib import Path

import pytest

from server.link.launch import gateway_command, superexec_command
from server.link.places import LinkFolder
from shared.errors import RunError, SiteDataError


@pytest.fixture
def folder(tmp_path: Path) -> LinkFolder:
    made = LinkFolder(tmp_path / "federation")
    made.root.mkdir()
    made.prepare()
    return made


def test_secrets_are_drawn_once_and_are_their_owners_alone(folder: LinkFolder) -> None:
    before = [path.read_bytes() for path in (folder.secret, folder.token_file)]
    folder.prepare()
    assert [path.read_bytes() for path in (folder.secret, folder.token_file)] == before
    assert len(set(before)) == 2
    assert {stat.S_IMODE(path.stat().st_mode) for path in (folder.secret, folder.token_file)} == {0o600}


def test_two_folders_share_no_secret(folder: LinkFolder, tmp_path: Path) -> None:
    other = LinkFolder(tmp_path / "other")
    other.prepare()
    assert folder.token() != other.token()
    assert folder.secret.read_bytes() != other.secret.read_bytes()


def test_a_token_has_256_bits(folder: LinkFolder) -> None:
    assert len(bytes.fromhex(folder.token())) == 32


def test_a_token_that_others_may_read_is_not_used(folder: LinkFolder) -> None:
    folder.token_file.chmod(0o644)
    with pytest.raises(SiteDataError) as refused:
        folder.token()
    assert refused.value.code == "key-permissions"


def test_a_folder_is_held_by_one_and_free_again_afterwards(folder: LinkFolder) -> None:
    with folder.alone():
        with pytest.raises(RunError) as refused, folder.alone():
            pass
        assert refused.value.code == "folder-in-use"
    with folder.alone():
        pass


@pytest.mark.parametrize("content", ["", "{", "[]", "null", '{"pid": 1}', '{"pid": 1, "public": 2, "local": "x"}'])
def test_an_announcement_that_cannot_be_read_is_none(folder: LinkFolder, content: str) -> None:
    (folder.root / "link" / "gateway.json").write_text(content)
    assert folder.announced() == {}


def test_an_announcement_names_the_process_and_both_ports(folder: LinkFolder) -> None:
    folder.announce(8443, 40001)
    found = folder.announced()
    assert (found["public"], found["local"]) == (8443, 40001)
    assert json.loads((folder.root / "link" / "gateway.json").read_bytes()) == found


def test_the_gateways_command_line_is_this_interpreter_and_the_folder(folder: LinkFolder) -> None:
    command = gateway_command(folder.root, {"LANG": "C"})
    assert command.argv == (sys.executable, "-m", "server.gateway", str(folder.root))
    assert command.environment["FLWR_HOME"] == str(folder.flower_home)


def test_the_superexec_asks_the_announced_port_with_the_secrets_file(folder: LinkFolder) -> None:
    folder.announce(8443, 40001)
    argv = superexec_command(folder.root, {}).argv
    assert argv == (
        str(Path(sys.executable).parent / "flower-superexec"),
        "--insecure",
        "--runtime-api-address",
        "127.0.0.1:40001",
        "--superexec-auth-secret-file",
        str(folder.secret),
    )
    assert Path(argv[0]).exists()


def test_a_superexec_before_the_first_gateway_is_refused(folder: LinkFolder) -> None:
    with pytest.raises(RunError) as refused:
        superexec_command(folder.root, {})
    assert refused.value.code == "no-gateway"
