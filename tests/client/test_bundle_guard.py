"""Which bundles a site takes."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from types import ModuleType

import pytest
from flwr.supercore.constant import TaskType
from flwr.supercore.fab import Fab
from flwr.supercore.run import Run
from flwr.supernode import start_client_internal

from client import bundle_guard
from shared.bundle import APP, VERSION, Bundle, bundle_bytes, bundle_sha256
from shared.errors import PolicyError

APPROVED = frozenset({bundle_sha256()})
FAB = Fab(bundle_sha256(), bundle_bytes(), {})
RUN = replace(Run.create_empty(7), fab_id=APP, fab_version=VERSION, fab_hash=bundle_sha256())


def test_the_approved_bundle_is_taken() -> None:
    assert bundle_guard.why_not(APPROVED, RUN, FAB) == ""


def test_a_bundle_that_is_not_approved_is_named_by_its_digest() -> None:
    other = bundle_bytes(Bundle(client="evil:app"))
    digest = hashlib.sha256(other).hexdigest()
    reason = bundle_guard.why_not(APPROVED, replace(RUN, fab_hash=digest), Fab(digest, other, {}))
    assert reason == f"the bundle {digest[:16]} is not one of 1 that this site has approved"


def test_the_digest_that_the_coordinator_claims_counts_for_nothing() -> None:
    other = bundle_bytes(Bundle(client="evil:app"))
    assert "not one of" in bundle_guard.why_not(APPROVED, RUN, Fab(bundle_sha256(), other, {"valid_license": "Valid"}))


def test_without_approvals_nothing_is_taken() -> None:
    assert "not one of 0" in bundle_guard.why_not(frozenset(), RUN, FAB)


@pytest.mark.parametrize(
    ("run", "fab"),
    [
        (replace(RUN, fab_id="a/../../../tmp/evil"), FAB),
        (replace(RUN, fab_id="consilium/other"), FAB),
        (replace(RUN, fab_version="../../x"), FAB),
        (replace(RUN, fab_hash="0" * 64), FAB),
        (RUN, replace(FAB, hash_str="../../../")),
        (replace(RUN, primary_task_type=TaskType.AGENT_APP), FAB),
        (replace(RUN, primary_task_type=TaskType.MODEL), FAB),
    ],
    ids=["path", "name", "version", "run digest", "bundle digest", "agent", "model"],
)
def test_an_approved_bundle_under_another_name_is_not_taken(run: Run, fab: Fab) -> None:
    """Name, version and digest become a path on this machine, from which code would be imported."""
    assert bundle_guard.why_not(APPROVED, run, fab) != ""


@pytest.mark.parametrize("kind", ["", TaskType.SERVER_APP, TaskType.CLIENT_APP])
def test_the_kinds_of_run_that_flower_has_for_us_are_taken(kind: str) -> None:
    assert bundle_guard.why_not(APPROVED, replace(RUN, primary_task_type=kind), FAB) == ""


def test_the_installed_flower_is_the_one_that_was_read() -> None:
    bundle_guard._require_known(start_client_internal)


def test_a_flower_whose_order_has_changed_is_not_started() -> None:
    moved = ModuleType("moved")

    def _pull_and_store_message() -> None:
        """A stand-in whose source holds none of the places."""

    moved._pull_and_store_message = _pull_and_store_message  # type: ignore[attr-defined]
    with pytest.raises(PolicyError) as refused:
        bundle_guard._require_known(moved)
    assert refused.value.code == "flower-version"


def test_another_version_of_flower_is_not_started(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bundle_guard, "_READ", "1.40.0")
    with pytest.raises(PolicyError, match=r"1\.40\.0"):
        bundle_guard._require_known(start_client_internal)


def test_a_refused_bundle_reaches_flower_empty_and_unverified_and_an_approved_one_whole() -> None:
    reasons: list[str] = []
    other = Fab("0" * 64, b"code", {"valid_license": "Valid"})
    offered = {7: FAB, 8: other}
    runs = {7: RUN, 8: replace(RUN, run_id=8, fab_hash="0" * 64)}
    plain = (1, None, None, runs.__getitem__, lambda _digest, number: offered[number], None, None, None)
    asking = bundle_guard._asking(plain, APPROVED, reasons.append)
    for number in (7, 8):
        asking[3](number)
    taken, refused = asking[4]("x", 7), asking[4]("x", 8)
    assert (taken.content, taken.verifications) == (FAB.content, {"valid_license": "yes"})
    assert (refused.content, refused.verifications) == (b"", {})
    assert len(reasons) == 1
    assert asking[:3] == plain[:3]
    assert asking[5:] == plain[5:]


def test_a_bundle_is_judged_by_the_run_it_was_fetched_for_and_only_once() -> None:
    plain = (1, None, None, lambda _number: RUN, lambda _digest, _number: FAB, None, None, None)
    asking = bundle_guard._asking(plain, APPROVED, lambda _reason: None)
    asking[3](7)
    asking[4]("x", 7)
    with pytest.raises(KeyError):
        asking[4]("x", 7)
