"""What systemd is told, heard by a real socket; when it is told, ``test_custodian_wiring.py`` asks a real custodian."""

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from client.custodian.ready import NOTIFY, tell_ready


@contextmanager
def manager(address: str) -> Iterator[socket.socket]:
    """Somebody who listens as systemd does; ``address`` as the kernel takes it."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listens:
        listens.bind(address)
        listens.settimeout(30)
        yield listens


def test_a_manager_at_a_path_hears_that_it_is_ready_and_nothing_else(tmp_path: Path) -> None:
    with manager(str(tmp_path / "notify")) as listens:
        tell_ready({NOTIFY: str(tmp_path / "notify")})
        assert listens.recv(100) == b"READY=1"
        listens.setblocking(False)
        with pytest.raises(BlockingIOError):
            listens.recv(100)


def test_a_manager_with_a_name_without_a_file_hears_it_too() -> None:
    name = f"consilium-test-{os.getpid()}"
    with manager(f"\0{name}") as listens:
        tell_ready({NOTIFY: f"@{name}"})
        assert listens.recv(100) == b"READY=1"


@pytest.mark.parametrize("address", ["", "vsock:2:1234", "relative/path", "/no/such/socket", "/" + "x" * 200])
def test_where_nobody_listens_nothing_happens(address: str) -> None:
    tell_ready({NOTIFY: address})
    tell_ready({})
