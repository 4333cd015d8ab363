"""What can be said of a run before anything is started, and of a coordinator that is there already."""

from __future__ import annotations

import os
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace

import pytest
from real_sites import now
from tiny_federation import tiny_plan

from server.commands import running
from server.commands.start import alone
from server.deployed.coordinate import _why
from server.deployed.live import Live
from server.deployed.run_folder import RunFolder, begin
from server.federation_folder import FederationFolder, settings_for
from shared.errors import CapacityError, RunError


@pytest.fixture
def federation(tmp_path: Path) -> FederationFolder:
    return FederationFolder.init(tmp_path / "f", settings_for("tiny", "127.0.0.1:9443"), None, now())


@pytest.fixture
def ordered(federation: FederationFolder) -> RunFolder:
    return begin(federation, tiny_plan(), federation.lead_key(lambda: b""), now(), timedelta(days=1))


def full(monkeypatch: pytest.MonkeyPatch, free: int) -> None:
    monkeypatch.setattr(running.shutil, "disk_usage", lambda _path: SimpleNamespace(free=free))


def test_a_full_disk_is_said_before_anything_is_started(
    federation: FederationFolder, ordered: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    full(monkeypatch, 4096)
    with pytest.raises(CapacityError, match="the disk is full: 4096 bytes are free") as caught:
        running.start(federation, ordered)
    assert (caught.value.code, f"resume {ordered.run[:12]}" in caught.value.hint) == ("disk-full", True)


def test_with_space_it_is_the_gateway_that_is_missed(federation: FederationFolder, ordered: RunFolder) -> None:
    """The control: nothing runs here, and the disk is not what is said."""
    with pytest.raises(RunError, match="the gateway of this federation does not answer"):
        running.start(federation, ordered)


def test_a_run_that_was_stopped_is_not_said_to_have_failed() -> None:
    stopped = running.Followed(Live("a" * 32, "tiny", 3), "stopped", "")
    with pytest.raises(RunError, match=f"run {'a' * 12} did not finish: it was stopped"):
        running._finished(stopped, "a" * 32)


def test_one_folder_has_one_coordinator(federation: FederationFolder) -> None:
    refused = pytest.raises(RunError, match="another coordinator works in this federation folder")
    with alone(federation), refused, alone(federation):
        pytest.fail("two coordinators")
    with alone(federation):
        pass


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (OSError(28, os.strerror(28)), "the disk is full"),
        (OSError(5, os.strerror(5)), "the coordinator failed: OSError"),
        (RunError("too few sites"), "too few sites"),
        (ZeroDivisionError(), "the coordinator failed: ZeroDivisionError"),
    ],
    ids=["no-space", "another-fault-of-the-disk", "a-decision", "a-mistake"],
)
def test_why_a_run_ended_is_a_sentence_without_paths(error: Exception, sentence: str) -> None:
    assert _why(error, "b" * 32)[0] == sentence
