"""Files that somebody or a disk has changed: noticed, refused with a sentence that says what to restore, and restored.

And folders that are used twice.
"""

from __future__ import annotations

import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from deciding_hospital import PRIVATE, plan_of
from real_federation import (
    COORDINATOR,
    RealFederation,
    at,
    checkpoints,
    invariants,
    journalled,
    kept,
    live,
    model_files,
    real_federation,
    rounds,
    until,
)
from real_sites import NAMES
from simulated_sites import simulate

from client.site_folder import LEDGER
from server.deployed.run_folder import JOURNAL
from shared.errors import ScenarioError

pytestmark = [pytest.mark.network, pytest.mark.slow, pytest.mark.timeout(900)]

VICTIM, OTHERS = NAMES[0], NAMES[1:]
TOGETHER = {"participation": {"quorum": 3, "deadline_s": 120.0}}
PLAN = plan_of(plan__rounds=4, evaluation__every=4, **TOGETHER)
LONG = plan_of(plan__rounds=6, evaluation__every=6, participation={"quorum": 2, "deadline_s": 60.0}, **PRIVATE)


def test_a_damaged_journal_or_checkpoint_is_refused_and_a_copy_of_the_folder_goes_on(tmp_path: Path) -> None:
    """Before: a run stopped in round 3. After: two kinds of damage were named, and the copy ended it."""
    with real_federation(tmp_path / "f", PLAN) as federation:
        simulated, before = simulate(federation, tmp_path / "s"), kept(federation)
        federation.start()
        federation.ready()
        run = federation.order()
        until(lambda: at(run, "training", 3), what="round 3")
        federation.server("stop", run.name)
        federation.fails(run)
        until(lambda: not federation.pids("serverapp"), 60, "its process has ended")
        shutil.copytree(run, tmp_path / "copy")
        flip(run / JOURNAL)
        said = refused(federation, run)
        assert "the journal is damaged" in said
        assert "hint: restore the run folder from a copy" in said, said
        restore(tmp_path / "copy", run)
        flip(max((run / "checkpoints").iterdir(), key=lambda path: path.stat().st_mtime_ns))
        said = refused(federation, run)
        assert "checkpoint" in said
        assert "restore it from a backup" in said
        restore(tmp_path / "copy", run)
        federation.resume(run)
        federation.finish(run)
        assert model_files(run) == model_files(simulated)
        assert checkpoints(run) == checkpoints(simulated)
        invariants(federation, before)


def test_a_damaged_ledger_keeps_its_site_out_by_name_and_the_others_finish(tmp_path: Path) -> None:
    """Before: round 2 of a private run. After: the site paid nothing from a damaged ledger, and said why."""
    with real_federation(tmp_path / "f", LONG) as federation:
        before = kept(federation)
        federation.start()
        federation.ready()
        run = federation.order()
        until(lambda: at(run, "training", 2), what="round 2")
        federation.down(VICTIM)
        ledger, copy = federation.root / VICTIM / LEDGER, tmp_path / "ledger.sqlite"
        paid = backup(ledger, copy)
        assert paid > 0
        flip(ledger)
        federation.start(VICTIM)
        until(lambda: "the ledger is damaged" in federation.said(VICTIM), 400, "the site says so")
        log = (federation.root / VICTIM / "log" / "custodian.log").read_text()
        assert "restore it from your newest copy, and count what was done since as paid" in log
        for path in ledger.parent.glob(f"{LEDGER}*"):
            path.unlink()
        shutil.copyfile(copy, ledger)
        federation.finish(run)
        assert live(run).state == "finished"
        who = [record.participation.participants for record in rounds(run)]
        assert OTHERS in who, (who, journalled(run))
        invariants(federation, before)


def test_a_damaged_audit_log_keeps_its_custodian_from_starting_and_names_the_line(tmp_path: Path) -> None:
    """Before: a site at rest. After: its custodian did not begin, verify named the line, and a copy mended it."""
    with real_federation(tmp_path / "f", PLAN) as federation:
        before, log = kept(federation), federation.joined.site(VICTIM).audit.path
        copy = log.read_bytes()
        lines = copy.splitlines(keepends=True)
        log.write_bytes(b"".join(lines[:-1]) + lines[-1][:40] + b"\n")
        with pytest.raises(ScenarioError, match=f"line {len(lines)}"):
            federation.running.call("consilium-site", "audit", "verify", folder=federation.root / VICTIM)
        federation.start(VICTIM)
        until(lambda: "audit" in federation.said(VICTIM), 400, "the site says so")
        log.write_bytes(copy)
        until(lambda: "custodian is ready" in federation.said(VICTIM), 400, "the custodian works")
        invariants(federation, before)


def test_a_second_coordinator_and_a_second_custodian_in_a_folder_are_refused(tmp_path: Path) -> None:
    """Before: one of each works. After: the second ones ended with a sentence, and the first ones work on."""
    with real_federation(tmp_path / "f", PLAN) as federation:
        before = kept(federation)
        federation.start()
        federation.ready()
        run = federation.order()
        first = {kind: federation.pids(kind, name) for kind, name in (("gateway", COORDINATOR), ("custodian", VICTIM))}
        with pytest.raises(ScenarioError, match="another coordinator works in this federation folder"):
            federation.server("start", "--page", "0")
        with pytest.raises(ScenarioError, match=f"{VICTIM} runs already from this folder"):
            federation.running.call("consilium-site", "start", folder=federation.root / VICTIM)
        with pytest.raises(ScenarioError, match="goes on already"):
            federation.server("resume", run.name)
        assert federation.pids("gateway") == first["gateway"]
        assert federation.pids("custodian", VICTIM) == first["custodian"]
        federation.finish(run)
        invariants(federation, before)


def refused(federation: RealFederation, run: Path) -> str:
    federation.resume(run)
    return federation.fails(run)


def restore(copy: Path, run: Path) -> None:
    shutil.rmtree(run)
    shutil.copytree(copy, run)


def backup(ledger: Path, copy: Path) -> int:
    """A copy as a database makes it, and how many reservations are in it."""
    with closing(sqlite3.connect(ledger)) as source, closing(sqlite3.connect(copy)) as target:
        source.backup(target)
        source.execute("pragma wal_checkpoint(truncate)")
        return int(target.execute("select count(*) from reservations").fetchone()[0])


def flip(path: Path) -> None:
    """Turn the bits of a stretch in the middle of a file, and of its first page's end."""
    content = bytearray(path.read_bytes())
    for start in (len(content) // 2, len(content) // 3, 100):
        for place in range(start, min(start + 64, len(content))):
            content[place] ^= 0xFF
    path.write_bytes(bytes(content))
