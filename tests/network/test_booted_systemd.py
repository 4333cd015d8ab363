"""The two services under a systemd that has booted: set up as printed, in a round, killed, rebooted, stopped.

The coordinator and the site live in one container with a network of its own; the coordinator has an address that is not
the loopback's, so that the relay reaches it by what its unit allows.
"""

import json
import re
import shutil
import sqlite3
import stat
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import booted_machine
import pytest
import tomli_w
from booted_machine import PYTHON, Machine, machine, until
from deciding_hospital import DATASET, plan_of
from real_sites import join

from server.federation_folder import RUNS

REASON = booted_machine.missing()
pytestmark = [
    pytest.mark.network,
    pytest.mark.slow,
    pytest.mark.timeout(600),
    pytest.mark.skipif(bool(REASON), reason=REASON or "a machine can be booted"),
]

PLAN = plan_of(plan__rounds=2, evaluation__every=2, participation={"quorum": 1, "deadline_s": 120.0})
COORDINATOR, STRANGER, PORT = "192.0.2.7", "192.0.2.8", 9443
SITE, FEDERATION, UNITS = "/srv/f/aachen", "/srv/f/coordinator", "/etc/systemd/system"
CUSTODIAN, RELAY, LEAD = "consilium-custodian", "consilium-relay", "consilium-lead"
_CONNECT = "import socket, sys; socket.create_connection((sys.argv[1], 9443), 5)"


@dataclass
class Booted:
    """The machine, and what a test wants of the federation on it."""

    machine: Machine

    @property
    def folder(self) -> Path:
        return self.machine.root / FEDERATION[1:]

    def coordinator(self) -> None:
        """Start it, as a service of its own, which a reboot forgets."""
        for address in (COORDINATOR, STRANGER):
            self.machine.said("ip", "address", "add", f"{address}/32", "dev", "lo")
        words = (str(PYTHON.parent / "consilium-server"), "start", "--page", "0", "--federation", FEDERATION)
        self.machine.said("systemd-run", f"--unit={LEAD}", "--property=WorkingDirectory=/srv", *words)

    def online(self) -> bool:
        done = self.machine.run("consilium-server", "status", "--json", "--federation", FEDERATION)
        if done.returncode:
            return False
        return {one["site"]: one["connected"] for one in json.loads(done.stdout)["sites"]}.get("aachen") == "online"

    def a_run(self) -> dict[str, object]:
        """Order one, wait for its end, and give how it ended."""
        said = self.machine.said("consilium-server", "run", "/srv/f/plan.toml", "--detach", "--federation", FEDERATION)
        live = self.folder / RUNS / said.split()[0] / "live.json"
        until(lambda: live.exists() and json.loads(live.read_bytes())["state"] != "running", 120, "the run is over")
        found: dict[str, object] = json.loads(live.read_bytes())
        return found

    def states(self, name: str = "ActiveState") -> list[str]:
        return [self.machine.property(unit, name) for unit in (CUSTODIAN, RELAY)]


def federation(root: Path) -> None:
    """Three sites that have approved a plan, one of which will be served; made as the functions make it."""
    folder = root / "srv" / "f"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    join(folder, f"{COORDINATOR}:{PORT}").approve(PLAN, runs=5)
    (folder / "plan.toml").write_text(tomli_w.dumps(PLAN.model_dump(mode="json", exclude_none=True)))


@pytest.fixture(scope="module")
def booted(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Booted]:
    try:
        with machine(tmp_path_factory.mktemp("machine"), federation) as found:
            made = Booted(found)
            made.coordinator()
            found.said("consilium-site", "service", "--site", SITE, "--out", "/srv/service")
            found.said("sh", "setup.sh", folder="/srv/service")
            yield made
    except OSError as error:
        pytest.skip(str(error))


def test_set_up_as_printed_the_site_is_in_a_round(booted: Booted) -> None:
    assert booted.states() == ["active", "active"]
    until(booted.online, 120, "the site is connected")
    assert booted.a_run()["state"] == "finished"


def test_the_relay_was_started_when_the_custodian_listened(booted: Booted) -> None:
    lines = booted.machine.journal(CUSTODIAN, RELAY).splitlines()
    places = [
        next(place for place, line in enumerate(lines) if said in line)
        for said in ("listens at", "Starting consilium-relay")
    ]
    assert places == sorted(places)


def test_the_relay_reaches_the_coordinator_and_no_other_address(booted: Booted) -> None:
    """The same unit with another program; without its filter (the control) the other address answers."""
    reached = {}
    for name, without in (("far", ""), ("unfiltered", "IPAddress")):
        unit = (booted.machine.root / UNITS[1:] / f"{RELAY}.service").read_text()
        lines = [line for line in unit.splitlines() if not (without and line.startswith(without))]
        text = re.sub(r"(?m)^ExecStart=.*$", f"ExecStart={PYTHON} /srv/connect.py ${{WHERE}}", "\n".join(lines))
        text = text.replace("Type=exec", "Type=oneshot").replace("Restart=always", "Restart=no")
        (booted.machine.root / "srv/connect.py").write_text(_CONNECT)
        for where in (COORDINATOR, STRANGER):
            path = booted.machine.root / UNITS[1:] / f"{name}.service"
            path.write_text(text.replace("[Install]", "").replace("User=", f"Environment=WHERE={where}\nUser=", 1))
            booted.machine.said("systemctl", "daemon-reload")
            reached[name, where] = booted.machine.run("systemctl", "start", name).returncode == 0
    if reached["far", STRANGER]:
        pytest.skip("this kernel does not filter the addresses of a control group")
    assert reached == {
        ("far", COORDINATOR): True,
        ("far", STRANGER): False,
        ("unfiltered", COORDINATOR): True,
        ("unfiltered", STRANGER): True,
    }


def test_the_journal_holds_no_patient_and_no_file_of_one(booted: Booted) -> None:
    cohorts = (booted.machine.root / SITE[1:] / "datasets" / DATASET / "cohorts").iterdir()
    names = {name for path in cohorts for name in re.findall(rb'"([0-9a-f]{24})"', path.read_bytes())}
    said = booted.machine.journal(CUSTODIAN, RELAY)
    assert len(names) > 12
    assert not [name for name in names if name.decode() in said]
    assert ".png" not in said
    assert len(said.splitlines()) > 10


def test_what_they_keep_is_closed_to_others(booted: Booted) -> None:
    root = booted.machine.root
    for folder, mode in ((SITE, 0o700), ("/var/lib/consilium-relay", 0o700), ("/var/lib/consilium-link", 0o2750)):
        assert stat.S_IMODE((root / folder[1:]).stat().st_mode) == mode
    link = root / "var/lib/consilium-link"
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in link.iterdir()}
    assert (modes["custodian.sock"], modes["relay.token"]) == (0o660, 0o640)
    assert len({path.stat().st_uid for path in (root / SITE[1:]).rglob("*") if not path.is_symlink()}) == 1


def test_killed_both_come_back_and_no_limit_stops_them(booted: Booted) -> None:
    for _ in range(6):
        for unit in (RELAY, CUSTODIAN):
            booted.machine.run("systemctl", "kill", "--signal=KILL", "--kill-who=main", unit)
        until(lambda: booted.machine.property(CUSTODIAN, "SubState") == "start", 30, "it is started again")
    until(lambda: booted.states() == ["active", "active"], 60, "both run")
    assert int(booted.machine.property(CUSTODIAN, "NRestarts")) >= 6
    until(booted.online, 60, "the site is connected")
    assert booted.a_run()["state"] == "finished"


def test_after_a_reboot_they_are_there_again_by_themselves(booted: Booted) -> None:
    booted.machine.reboot()
    until(lambda: booted.states() == ["active", "active"], 60, "both run")
    booted.coordinator()
    until(booted.online, 120, "the site is connected")
    assert booted.a_run()["state"] == "finished"


def test_stopped_they_end_in_order_and_the_ledger_is_whole(booted: Booted) -> None:
    booted.machine.said("systemctl", "stop", CUSTODIAN, RELAY)
    assert booted.states() == ["inactive", "inactive"]
    assert booted.states("Result") == ["success", "success"]
    assert {path.name for path in (booted.machine.root / "var/lib/consilium-link").iterdir()} == {"custodian.lock"}
    ledger = booted.machine.root / SITE[1:] / "ledger.sqlite"
    with closing(sqlite3.connect(f"file:{ledger}?mode=ro", uri=True)) as read:
        assert read.execute("pragma integrity_check").fetchone() == ("ok",)
    booted.machine.said("consilium-site", "audit", "verify", "--site", SITE)
