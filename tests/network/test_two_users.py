"""Custodian and relay as two real users of this machine, in folders that ``setup.sh`` itself has made."""

import json
import os
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from link_processes import until
from small_trust import new_federation, new_site, no_passphrase, request_of

from client import enrolment
from client.commands import service
from client.commands.service import Places, Users, Way
from client.settings import parse, template
from server.enrolment import enrol
from shared.environment import settings

pytestmark = [
    pytest.mark.network,
    pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only root can be two users"),
]

CUSTODIAN, RELAY, STRANGER = 64101, 64102, 64103
_SUPPORT = Path(__file__).parents[1] / "support"
_ENVIRONMENT = {**os.environ, **settings({}), "PYTHONPATH": str(_SUPPORT.parents[1])}


@dataclass
class Machine:
    """A site whose custodian runs."""

    root: Path
    process: subprocess.Popen[bytes]

    @property
    def site(self) -> Path:
        return self.root / "site"

    @property
    def link(self) -> Path:
        return self.root / "link"

    def guarded(self) -> list[Path]:
        return [self.site, *sorted(path for path in self.site.rglob("*") if path.name != "run")]

    def seen_by(self, uid: int) -> dict[str, Any]:
        return self.said(uid, "probe", self.link, *self.guarded())  # type: ignore[no-any-return]

    def said(self, uid: int, *words: object) -> Any:
        words = command(uid, uid, *words)
        return json.loads(subprocess.run(words, env=_ENVIRONMENT, capture_output=True, check=True, timeout=120).stdout)


def command(uid: int, gid: int, *words: object) -> list[str]:
    return [sys.executable, str(_SUPPORT / "other_user.py"), str(uid), str(gid), *map(str, words)]


def accepted_site(root: Path) -> Path:
    """A site that has joined a federation, with something that stands for an image."""
    now = datetime.now(UTC)
    federation, site = new_federation(root, now=now), new_site(root)
    request = request_of(enrolment.request(site, now))
    enrolment.accept(site, enrol(federation, request, federation.lead_key(no_passphrase), now), now)
    image = site.path / "datasets" / "ct" / "archive"
    image.mkdir(parents=True)
    (image / "voxels.bin").write_bytes(b"image")
    (site.path / "run").mkdir(mode=0o700)  # as a start by hand leaves it
    site.path.rename(root / "site")
    return root / "site"


def setup_as_printed(root: Path) -> str:
    """The part of ``setup.sh`` about folders, with numbers for users that this machine need not have."""
    users = Users("thecustodian", "therelay")
    way = Way("lead.example:443", (), "nobody")
    places = Places(Path("/srv/thesite"), Path("/usr/bin/env"))
    text = service.texts(parse(template("aachen")), users, places, way, "none")["setup.sh"]
    text = text[text.index("# Images") : text.index("install -m 0644")]
    for said, meant in (
        ("/var/lib/thecustodian-link", str(root / "link")),
        ("/srv/thesite", str(root / "site")),
        ("thecustodian", str(CUSTODIAN)),
        ("therelay", str(RELAY)),
    ):
        text = text.replace(said, meant)
    return "set -eu\n" + text


@pytest.fixture(scope="module")
def machine() -> Iterator[Machine]:
    # Other users must get there, which the folders of pytest forbid.
    root = Path(tempfile.mkdtemp(dir="/tmp"))
    root.chmod(0o755)
    try:
        accepted_site(root)
        for _ in range(2):  # the script may be run again
            subprocess.run(["sh", "-c", setup_as_printed(root)], check=True)
        # An empty network namespace is what PrivateNetwork= gives.
        alone = ["unshare", "--net"] if shutil.which("unshare") else []
        words = [*alone, *command(CUSTODIAN, CUSTODIAN, "custodian", root / "site")]
        with (root / "custodian.out").open("wb") as out:
            process = subprocess.Popen(words, env=_ENVIRONMENT, stdout=out, stderr=subprocess.STDOUT)

        def listens() -> bool:
            assert process.poll() is None, (root / "custodian.out").read_text()
            return (root / "link" / "custodian.sock").exists() and (root / "link" / "relay.token").exists()

        try:
            until(listens, 120)
            yield Machine(root, process)
        finally:
            process.kill()
            process.wait()
    finally:
        shutil.rmtree(root)


def test_the_relay_reaches_the_custodian_and_nothing_of_the_site(machine: Machine) -> None:
    seen = machine.seen_by(RELAY)
    assert seen["read"] == []
    assert seen["status"] == "aachen"
    assert seen["asked"] == "document-form", "the custodian itself has answered, and refused"


def test_the_list_of_what_is_guarded_holds_what_matters(machine: Machine) -> None:
    """Otherwise reading nothing of it would show nothing: the custodian reads all of it."""
    names = {str(path.relative_to(machine.site)) for path in machine.guarded()}
    secrets = {"keys/identity.pem", "keys/pseudonyms.secret", "keys/node.pem"}
    assert secrets | {"ledger.sqlite", "audit.jsonl", "datasets/ct/archive/voxels.bin", "trust/welcome.json"} < names
    assert machine.said(CUSTODIAN, "read", *machine.guarded()) == [str(path) for path in machine.guarded()]


def test_the_relay_cannot_put_another_socket_in_the_custodians_place(machine: Machine) -> None:
    seen = machine.seen_by(RELAY)
    assert (seen["moved"], seen["made"]) == ("errno 13", "errno 13")


def test_a_third_user_gets_at_nothing(machine: Machine) -> None:
    seen = machine.seen_by(STRANGER)
    assert seen["read"] == []
    assert (seen["status"], seen["asked"]) == ("custodian-token", "custodian-token")
    assert (seen["moved"], seen["made"]) == ("errno 13", "errno 13")


def test_what_the_custodian_makes_belongs_to_it_and_opens_to_the_relays_group_alone(machine: Machine) -> None:
    modes = {path.name: path.stat() for path in machine.link.iterdir()}
    assert {one.st_uid for one in modes.values()} == {CUSTODIAN}
    assert stat.S_IMODE(modes["custodian.sock"].st_mode) == 0o660
    assert stat.S_IMODE(modes["relay.token"].st_mode) == 0o640
    assert {modes[name].st_gid for name in ("custodian.sock", "relay.token")} == {RELAY}
    others = [name for name in modes if name not in ("custodian.sock", "relay.token")]
    assert {stat.S_IMODE(modes[name].st_mode) & 0o077 for name in others} <= {0}
    folder = machine.link.stat()
    assert (stat.S_IMODE(folder.st_mode), folder.st_uid, folder.st_gid) == (0o2750, CUSTODIAN, RELAY)


@pytest.mark.skipif(shutil.which("unshare") is None, reason="needs unshare")
def test_the_custodian_has_no_network(machine: Machine) -> None:
    """Its namespace has the loopback and nothing else, and that is down."""
    lines = Path(f"/proc/{machine.process.pid}/net/dev").read_text().splitlines()[2:]
    assert {line.split(":")[0].strip() for line in lines} <= {"lo"}
    own = os.stat("/proc/self/ns/net").st_ino  # noqa: PTH116 - a link to no file
    assert os.stat(f"/proc/{machine.process.pid}/ns/net").st_ino != own  # noqa: PTH116


def test_it_ends_in_order_and_takes_the_socket_with_it(machine: Machine) -> None:
    machine.process.send_signal(signal.SIGTERM)
    assert machine.process.wait(60) == 0
    assert not (machine.link / "custodian.sock").exists()
    assert not (machine.link / "relay.token").exists()
