"""A site's SuperNode as a real process: how it comes back, how it ends, what it trusts."""

from __future__ import annotations

import json
import os
import signal
import stat
import time
from collections.abc import Iterator
from pathlib import Path

import loopback
import pytest
from link_processes import FAR_NAME, Federation, Started, federation, now, public_pem, until

from client.link_watch import Ending
from shared.trust import roster as rosters

pytestmark = [pytest.mark.network, pytest.mark.slow]


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Federation]:
    """A federation without sites."""
    with federation(tmp_path_factory.mktemp("coordinator") / "federation") as made:
        made.gateway()
        made.superexec()
        yield made


@pytest.fixture
def alpha(running: Federation, request: pytest.FixtureRequest) -> Iterator[tuple[Path, Started]]:
    """A site of its own for each test, connected."""
    name = request.node.name.replace("_", "-")[5:35].strip("-")
    site = running.enrolled(name)
    started = running.supernode(site)
    until(lambda: "SuperNode ID" in started.said() and name in running.online(), 120)
    yield site, started
    for one in running.processes:
        if one.output.name.startswith(f"{name}-"):
            one.kill(signal.SIGTERM)


def test_one_that_is_stopped_leaves_and_ends_with_zero(running: Federation, alpha: tuple[Path, Started]) -> None:
    site, started = alpha
    assert started.kill(signal.SIGTERM) == Ending.STOPPED
    until(lambda: site.name not in running.online(), 20)


def test_one_that_was_killed_is_back_in_seconds_and_not_in_flowers_minute(
    running: Federation, alpha: tuple[Path, Started]
) -> None:
    site, started = alpha
    started.kill()
    began = time.monotonic()
    again = running.supernode(site)
    until(lambda: "SuperNode ID" in again.said(), 50)
    assert time.monotonic() - began < 50, "Flower alone needs 60 s"
    assert site.name in running.online()


def test_one_whose_session_is_still_open_says_try_again(running: Federation, alpha: tuple[Path, Started]) -> None:
    site, started = alpha
    started.kill()
    (site / "run" / "session.json").unlink()  # as if it had been started on another machine
    again = running.supernode(site)
    assert again.process.wait(120) == Ending.TRY_AGAIN
    assert "error: the coordinator still holds this node's last session open (Flower 305)" in again.said()


def test_a_second_one_for_the_same_site_is_refused_and_the_first_stays(
    running: Federation, alpha: tuple[Path, Started]
) -> None:
    site, started = alpha
    second = running.supernode(site)
    assert second.process.wait(120) == Ending.FAILED
    assert "error: another SuperNode works for this site" in second.said()
    assert started.process.poll() is None
    assert site.name in running.online()


def test_a_suspended_site_is_cut_off_at_once_and_comes_back_when_it_may(
    running: Federation, alpha: tuple[Path, Started]
) -> None:
    site, started = alpha
    running.change(lambda held: rosters.with_state(held, site.name, "suspended", now()))
    assert started.process.wait(60) == Ending.NOT_ADMITTED
    assert "turned this node away: this site is suspended" in started.said()
    still = running.supernode(site)
    assert still.process.wait(120) == Ending.NOT_ADMITTED
    running.change(lambda held: rosters.with_state(held, site.name, "active", now()))
    running.supernode(site)
    until(lambda: site.name in running.online(), 120)


def test_a_site_that_was_removed_is_not_let_in_under_its_old_key(
    running: Federation, alpha: tuple[Path, Started]
) -> None:
    site, started = alpha
    running.change(lambda held: rosters.without(held, site.name, now()))
    assert started.process.wait(60) == Ending.NOT_ADMITTED
    assert "this node is not enrolled here" in started.said()


def test_a_roster_that_somebody_changed_lets_nobody_in(running: Federation, alpha: tuple[Path, Started]) -> None:
    path = running.root / "roster.json"
    good = path.read_bytes()
    forged = json.loads(good)
    forged["document"]["sites"].append(forged["document"]["sites"][0] | {"site": "zzz"})
    path.write_text(json.dumps(forged))
    try:
        assert alpha[1].process.wait(60) == Ending.NOT_ADMITTED
    finally:
        path.write_bytes(good)
    until(lambda: "nobody is let in" in running.processes[0].said(), 10)


def test_a_superexec_that_was_killed_is_started_again(alpha: tuple[Path, Started]) -> None:
    _, started = alpha
    (first,) = children(started.process.pid)
    # A child of a process that this test started.
    os.kill(first, signal.SIGKILL)
    until(lambda: children(started.process.pid) not in ([], [first]), 20)
    assert started.process.poll() is None


def test_nothing_that_it_writes_is_open_to_others(alpha: tuple[Path, Started]) -> None:
    site, _ = alpha
    kept = [path for path in (site / "run").rglob("*") if path.is_file()]
    assert {"superexec.secret", "session.json", "supernode.lock"} <= {path.name for path in kept}
    assert {stat.S_IMODE(path.stat().st_mode) & 0o077 for path in kept} == {0}


def test_another_authority_than_the_pinned_one_is_not_trusted(running: Federation, tmp_path: Path) -> None:
    site = running.enrolled("pinned-elsewhere")
    other = tmp_path / "ca.pem"
    other.write_bytes(loopback.authority("somebody else").pem)
    started = running.supernode(site, "--ca", str(other), "--address", f"127.0.0.1:{running.port}")
    assert started.process.wait(120) == Ending.CERTIFICATE
    assert "error: the coordinator's certificate does not verify" in started.said()


def test_a_stolen_node_key_without_the_sites_name_in_the_roster_is_worth_nothing(running: Federation) -> None:
    site = running.site("thief")
    started = running.supernode(site)
    assert started.process.wait(120) == Ending.NOT_ADMITTED
    assert public_pem(site) not in running.folder.log.read_text()
    assert any(line["verdict"] == "not enrolled" for line in running.log())


def test_the_proxy_of_the_environment_is_the_way_out(running: Federation) -> None:
    site = running.enrolled("behind-a-proxy")
    with loopback.connect_proxy() as proxy:
        extra = [(name, f"http://127.0.0.1:{proxy.port}") for name in ("HTTPS_PROXY", "https_proxy")]
        address = ("--address", f"{FAR_NAME}:{running.port}", "--ca", str(running.root / "trust" / "ca.pem"))
        started = running.supernode(site, *address, extra=extra)
        until(lambda: site.name in running.online(), 120)
        assert started.kill(signal.SIGTERM) == 0
    assert {request.split()[1] for request in proxy.requests} == {f"{FAR_NAME}:{running.port}".encode()}


def test_a_site_that_was_not_accepted_yet_is_told_what_is_missing(running: Federation) -> None:
    site = running.site("unwelcome")
    (site / "trust" / "welcome.json").unlink()
    started = running.supernode(site)
    assert started.process.wait(120) == Ending.FAILED
    assert "hint: consilium-site accept WELCOME" in started.said()


def children(process: int) -> list[int]:
    """Of all its threads: the one that started a child is the one that lists it."""
    texts = [path.read_text() for path in Path(f"/proc/{process}/task").glob("*/children")]
    return sorted(int(part) for text in texts for part in text.split())
