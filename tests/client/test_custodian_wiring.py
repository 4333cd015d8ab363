"""A custodian of a real site folder: over its socket, in a process of its own, withdrawn from, killed and run twice."""

import dataclasses
import fcntl
import json
import os
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from deciding_hospital import DATASET, NOW, PRIVATE, RUN, Hospital, measure, plan_of, train
from small_trust import code_of

from client.app import from_custodian
from client.commands import approve
from client.commands.approve import Wanted
from client.custodian import wiring
from client.custodian.caller import status
from client.custodian.service import STOPPED, Service, listen
from client.custodian.wiring import LOCK, PID, SOCKET, TOKEN, custodian, desk
from client.data.cohort import files
from client.governance import approvals
from client.governance.audit import verify
from client.governance.ledger import Ledger
from client.site_folder import LEDGER
from client.workbench import Workbench
from shared.errors import CapacityError, SiteDataError
from shared.fixed_point import dequantise
from shared.messages import Envelope, Hello, Refusal, Reply, Request, Update, Welcome
from shared.parcels import Parcel
from shared.plan import Plan


@pytest.fixture
def hospital(tmp_path: Path) -> Hospital:
    return Hospital(tmp_path)


def approved(hospital: Hospital, plan: Plan, runs: int = 1) -> None:
    offer = approve.offered(hospital.site, Wanted(hospital.signed(plan), hospital.folder, DATASET, runs))
    approve.approve(hospital.site, offer, "maria", lambda: NOW)


def lines(hospital: Hospital, event: str) -> list[dict[str, Any]]:
    said = map(json.loads, (hospital.site.path / "audit.jsonl").read_text().splitlines())
    return [one for one in said if one["event"] == event]


def charges(hospital: Hospital) -> int:
    connection = sqlite3.connect(hospital.site.path / LEDGER)
    try:
        return int(connection.execute("select count(*) from reservations").fetchone()[0])
    finally:
        connection.close()


class Relay:
    """What asks the custodian of a hospital."""

    def __init__(self, hospital: Hospital) -> None:
        self.hospital, self.run = hospital, hospital.site.path / "run"

    def ask(self, parcel: Parcel, deadline_s: float = 30.0) -> Parcel:
        """As the relay does it, with the node's configuration."""
        said = {"custodian": str(self.run / SOCKET), "token": str(self.run / TOKEN), "deadline-s": deadline_s}
        return from_custodian(SimpleNamespace(node_config=said), parcel)  # type: ignore[arg-type]

    def reply(self, plan: Plan, request: Request) -> Reply:
        parcel = self.hospital.parcel(plan, request)
        return self.hospital.read(self.ask(parcel), parcel)


@contextmanager
def listening(hospital: Hospital) -> Iterator[Relay]:
    """A real socket, with the custodian in this process."""
    relay, found = Relay(hospital), custodian(hospital.site, lambda: NOW)
    relay.run.mkdir(mode=0o700, exist_ok=True)
    (relay.run / TOKEN).touch(0o600)
    (relay.run / TOKEN).write_text("ab" * 32)
    server = listen(Service("ab" * 32, found.answer, lambda: found.status(lambda: NOW)), relay.run / SOCKET)
    try:
        yield relay
    finally:
        server.stop(0)


class Process:
    """``python -m client.custodian.wiring`` with a clock of our choice, and the relay that asks it."""

    def __init__(self, hospital: Hospital, hang_s: float = 0.0) -> None:
        relay = Relay(hospital)
        self.run, self.ask, self.reply = relay.run, relay.ask, relay.reply
        script = (
            "import sys, time; from datetime import datetime; from pathlib import Path\n"
            "from client.custodian import wiring; from client.site_folder import SiteFolder; from client import site\n"
            f"at = datetime.fromisoformat({NOW.isoformat()!r})\n"
            "serve = site.Site._serve\n"
            f"site.Site._serve = lambda self, request: (time.sleep({hang_s}), serve(self, request))[1]\n"
            "sys.exit(wiring.run(SiteFolder.open(Path(sys.argv[1])), lambda: at))\n"
        )
        self.process = subprocess.Popen(
            [sys.executable, "-c", script, str(hospital.site.path)], stderr=subprocess.PIPE, text=True
        )
        self.ready()

    def ready(self) -> None:
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline and self.process.poll() is None:
            if (self.run / PID).exists() and (self.run / PID).read_text().strip() == str(self.process.pid):
                return
            time.sleep(0.02)
        raise AssertionError(self.process.communicate(timeout=5)[1])

    def end(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        code = self.process.wait(20)
        assert self.process.stderr is not None
        self.process.stderr.close()
        return code


@contextmanager
def running(hospital: Hospital, hang_s: float = 0.0) -> Iterator[Process]:
    made = Process(hospital, hang_s)
    try:
        yield made
    finally:
        made.process.kill()
        made.process.communicate(timeout=10)


# --- end to end ------------------------------------------------------------------------------------------------------


def test_a_signed_order_gets_a_signed_update_through_the_relay_and_the_socket(hospital: Hospital) -> None:
    plan = plan_of()
    approved(hospital, plan)
    with listening(hospital) as relay:
        welcome = relay.reply(plan, Hello(Envelope(RUN, plan.digest(), 0)))
        assert isinstance(welcome, Welcome)
        update = relay.reply(plan, train(plan))
        assert isinstance(update, Update)
    # The same site in this process, without socket and desk, learns the same.
    made = approvals.find(hospital.site, plan.digest())
    expected = custodian(hospital.site, lambda: NOW).sites.opened(made).answer(train(plan))
    assert isinstance(expected, Update)
    np.testing.assert_array_equal(update.values, expected.values)
    fixed_point = plan.aggregation.fixed_point
    assert np.abs(dequantise(update.values.astype(np.int64), fixed_point)).max() > 1e-3, "it did learn something"
    assert len(lines(hospital, "leaves-update")) == len(lines(hospital, "leaves-welcome")) == 1
    assert verify(hospital.site.path / "audit.jsonl", hospital.site.signing_key().verify_key).lines > 5


def test_a_private_question_asked_twice_gets_the_same_bytes_and_is_paid_for_once(hospital: Hospital) -> None:
    plan = plan_of(**PRIVATE)
    approved(hospital, plan)
    parcel = hospital.parcel(plan, train(plan))
    with listening(hospital) as relay:
        first, again = relay.ask(parcel), relay.ask(parcel)
    assert first == again
    with listening(hospital) as relay:
        assert relay.ask(parcel) == first, "also of a custodian that was started since"
    assert isinstance(hospital.read(first, parcel), Update)
    assert charges(hospital) == 1
    assert len(lines(hospital, "leaves-update")) == 3


@pytest.mark.slow
def test_after_kill_9_the_same_question_is_not_paid_for_again(hospital: Hospital) -> None:
    plan = plan_of(**PRIVATE)
    approved(hospital, plan)
    parcel = hospital.parcel(plan, train(plan))
    with running(hospital) as process:
        first = process.ask(parcel)
        process.process.kill()
        process.process.wait(10)
    with running(hospital) as process:
        assert process.ask(parcel) == first
    assert charges(hospital) == 1


def test_a_relay_that_asks_for_more_than_was_approved_gets_refusals_and_pays_nothing(hospital: Hospital) -> None:
    plan = plan_of(**PRIVATE)
    approved(hospital, plan)
    with listening(hospital) as relay:
        assert isinstance(relay.reply(plan, train(plan, 2)), Update)
        for request, code in (
            (train(plan, 2, add=0.1), "replayed-otherwise"),
            (train(plan, 1), "outdated"),
            (train(plan, 9), "round"),
            (train(plan, 1, run="cd" * 16), "too-many-runs"),
            (measure(plan, "train"), "not-in-plan"),
        ):
            refused = relay.reply(plan, request)
            assert isinstance(refused, Refusal)
            assert refused.code == code
    assert charges(hospital) == 1
    assert len(lines(hospital, "refused-train")) == 4


def test_a_plan_that_nobody_approved_is_refused_by_a_signed_refusal(hospital: Hospital) -> None:
    plan = plan_of()
    with listening(hospital) as relay:
        refused = relay.reply(plan, train(plan))
        assert isinstance(refused, Refusal)
        assert refused.code == "not-approved"


@pytest.mark.slow
def test_a_plan_withdrawn_while_it_is_computed_ends_the_process_and_nothing_leaves(hospital: Hospital) -> None:
    plan = plan_of()
    approved(hospital, plan)
    with running(hospital, hang_s=30.0) as process:
        failed: list[str] = []

        def ask() -> None:
            failed.append(code_of(lambda: process.ask(hospital.parcel(plan, train(plan)))))

        thread = threading.Thread(target=ask)
        thread.start()
        until_busy(process, plan)
        began = time.monotonic()
        approvals.withdraw(hospital.site, plan.digest(), "jan", NOW)
        assert process.process.wait(15) == STOPPED
        assert process.process.stderr is not None
        assert "the job was withdrawn, or took too long" in process.process.stderr.read()
        assert time.monotonic() - began < 5
        thread.join(20)
    assert failed[0] in {"custodian-unreachable", "custodian-gone", "custodian-failed"}
    assert lines(hospital, "leaves-update") == []
    with running(hospital) as process:
        refused = process.reply(plan, train(plan))
        assert isinstance(refused, Refusal)
        assert refused.code == "withdrawn"


@pytest.mark.slow
def test_another_plan_goes_on_when_one_is_withdrawn(hospital: Hospital) -> None:
    """A control: not every withdrawal ends what is computed."""
    plan, other = plan_of(), plan_of(plan__rounds=2)
    approved(hospital, plan)
    approved(hospital, other)
    with running(hospital, hang_s=2.5) as process:
        replies: list[Reply] = []
        thread = threading.Thread(target=lambda: replies.append(process.reply(plan, train(plan))))
        thread.start()
        until_busy(process, plan)
        approvals.withdraw(hospital.site, other.digest(), "jan", NOW)
        thread.join(30)
        assert process.process.poll() is None
    assert isinstance(replies[0], Update)


def until_busy(process: Process, plan: Plan) -> None:
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        said = status(process.run / SOCKET, process.run / TOKEN)
        if said["working_on"] == plan.digest() and said["busy_s"] is not None:
            return
        time.sleep(0.05)
    raise AssertionError("nothing was begun")


# --- the process -----------------------------------------------------------------------------------------------------


def test_the_status_says_what_people_at_the_site_want_to_know(hospital: Hospital) -> None:
    plan = plan_of()
    approved(hospital, plan, runs=2)
    with listening(hospital) as relay:
        relay.reply(plan, train(plan))
        said = status(relay.run / SOCKET, relay.run / TOKEN)
        assert (said["site"], said["federation"], said["standing"]) == ("aachen", "squares-of-europe", "active")
        assert said["approved"] == [
            {
                "plan": plan.digest(),
                "name": "squares",
                "dataset": DATASET,
                "state": "approved",
                "runs": 2,
                "served": 1,
            }
        ]
        assert (said["busy_s"], said["working_on"], said["answered"]) == (None, None, 1)
        assert said["authority_days_left"] > 300
        assert said["disk_free_bytes"] > 0
        assert set(said["versions"]) == {"consilium", "flwr", "torch", "monai"}


def test_two_custodians_never_share_a_folder(hospital: Hospital) -> None:
    (hospital.site.path / "run").mkdir()
    with (hospital.site.path / "run" / LOCK).open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        with pytest.raises(SiteDataError, match="another custodian works in this site folder") as caught:
            wiring.run(hospital.site, lambda: NOW)
    assert caught.value.code == "folder-in-use"
    assert lines(hospital, "custodian-start") == []


@pytest.mark.slow
def test_a_second_process_says_that_there_is_another(hospital: Hospital) -> None:
    with running(hospital):
        script = [sys.executable, "-m", "client.custodian.wiring", str(hospital.site.path)]
        second = subprocess.run(script, capture_output=True, text=True, timeout=60, check=False)
    assert second.returncode == 1
    assert second.stderr.startswith("error: another custodian works in this site folder\nhint:")


@pytest.mark.slow
def test_the_folder_is_closed_and_a_new_token_is_drawn_at_every_start(hospital: Hospital) -> None:
    tokens = []
    for _ in range(2):
        with running(hospital) as process:
            assert process.run.stat().st_mode & 0o777 == 0o700
            assert (process.run / TOKEN).stat().st_mode & 0o777 == 0o640
            assert (process.run / SOCKET).stat().st_mode & 0o777 == 0o660
            tokens.append((process.run / TOKEN).read_text())
            assert process.end() == 0
            assert sorted(path.name for path in process.run.iterdir()) == [LOCK]
    assert tokens[0] != tokens[1]


def test_a_service_manager_is_told_once_that_it_listens(
    hospital: Hospital, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        manager.settimeout(30)
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        with running(hospital) as process:
            assert manager.recv(100) == b"READY=1"
            assert status(process.run / SOCKET, process.run / TOKEN)["site"] == "aachen", "it is answered at once"
            assert process.end() == 0
        manager.setblocking(False)
        with pytest.raises(BlockingIOError):
            manager.recv(100)


@pytest.mark.slow
def test_asked_to_end_while_it_computes_it_ends_in_seconds_and_says_so(hospital: Hospital) -> None:
    plan = plan_of()
    approved(hospital, plan)
    with running(hospital, hang_s=60.0) as process:
        thread = threading.Thread(target=lambda: code_of(lambda: process.ask(hospital.parcel(plan, train(plan)))))
        thread.start()
        until_busy(process, plan)
        began = time.monotonic()
        assert process.end() == STOPPED
        assert time.monotonic() - began < 12
        thread.join(20)
    assert lines(hospital, "leaves-update") == []


@pytest.mark.slow
def test_its_start_is_in_the_log_with_the_ledger_s_digest(hospital: Hospital) -> None:
    with running(hospital) as process:
        process.end()
    (line,) = lines(hospital, "custodian-start")
    assert line["digests"] == {"ledger": Ledger.open(hospital.site.path / LEDGER).digest()}


@pytest.mark.parametrize(
    ("name", "content", "code"),
    [
        ("audit.jsonl", None, "audit-missing"),
        ("audit.jsonl", b"edited\n", "audit-broken"),
        ("ledger.sqlite", b"not a ledger, and long enough to be looked at" * 99, "ledger-damaged"),
        ("ledger.sqlite", None, "ledger-missing"),
        ("policy.toml", b"[privcy]\n", "policy-file"),
        ("trust/welcome.json", None, "not-enrolled"),
        ("trust/welcome.json", b"{}", "pinned-damaged"),
    ],
)
def test_it_does_not_begin_over_what_is_missing_or_damaged(
    hospital: Hospital, name: str, content: bytes | None, code: str
) -> None:
    path = hospital.site.path / name
    if content is None:
        path.unlink()
    else:
        path.write_bytes(content)
    assert code_of(lambda: wiring.run(hospital.site, lambda: NOW)) == code
    assert not (hospital.site.path / "run" / SOCKET).exists()


# --- what it holds open ----------------------------------------------------------------------------------------------


def test_a_desk_of_a_folder_answers_as_the_socket_does(hospital: Hospital) -> None:
    plan = plan_of()
    approved(hospital, plan)
    parcel = hospital.parcel(plan, train(plan))
    assert isinstance(hospital.read(desk(hospital.site, lambda: NOW).answer(parcel), parcel), Update)


def test_a_new_policy_holds_from_the_next_request(hospital: Hospital) -> None:
    plan = plan_of()
    approved(hospital, plan)
    found = desk(hospital.site, lambda: NOW)
    first, second = (hospital.parcel(plan, train(plan, number)) for number in (1, 2))
    assert isinstance(hospital.read(found.answer(first), first), Update)
    hospital.policy('[hours]\nwindows = [{ start = "20:00", end = "21:00" }]\n')
    refused = hospital.read(found.answer(second), second)
    assert isinstance(refused, Refusal)
    assert refused.code == "policy"


def test_a_plan_approved_anew_for_another_cohort_is_opened_anew(hospital: Hospital) -> None:
    plan = plan_of()
    approved(hospital, plan)
    found = custodian(hospital.site, lambda: NOW)
    before = found.sites.opened(found.sites.approved(plan.digest()))
    assert found.sites.opened(found.sites.approved(plan.digest())) is before, "warm between rounds"
    folder = hospital.site.dataset(DATASET).cohorts
    cohort = files.load(folder, hospital.site.signing_key().verify_key)
    gone = next(member for member in cohort.members if member.split == "train")
    kept = tuple(member for member in cohort.members if member.patient != gone.patient)
    out = tuple(sorted(member.case_id for member in cohort.members if member.patient == gone.patient))
    files.save(dataclasses.replace(cohort, members=kept, left_out=out), folder, hospital.site.signing_key())
    approved(hospital, plan)
    after = found.sites.opened(found.sites.approved(plan.digest()))
    assert len(after.data.train_patients) == len(before.data.train_patients) - 1


def test_a_full_disk_is_a_typed_answer(hospital: Hospital, monkeypatch: pytest.MonkeyPatch) -> None:
    found = custodian(hospital.site, lambda: NOW)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(CapacityError) as caught:
        found.answer(Parcel("aachen", b"", b"", b""))
    assert caught.value.code == "disk-full"


def test_another_fault_of_the_system_is_not_called_a_full_disk(
    hospital: Hospital, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = custodian(hospital.site, lambda: NOW)

    def broken(*_: object) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "fsync", broken)
    with pytest.raises(OSError, match="Input/output"):
        found.answer(Parcel("aachen", b"", b"", b""))


def test_nothing_is_unwanted_between_requests(hospital: Hospital) -> None:
    plan = plan_of()
    approved(hospital, plan)
    found = custodian(hospital.site, lambda: NOW)
    parcel = hospital.parcel(plan, train(plan))
    found.answer(parcel)
    approvals.withdraw(hospital.site, plan.digest(), "jan", NOW)
    assert not found.sites.unwanted()
    found.sites.working_on = plan.digest()
    assert found.sites.unwanted()


def test_a_site_that_joined_no_federation_has_no_custodian(hospital: Hospital) -> None:
    (hospital.site.path / "trust").rename(hospital.folder / "trust")
    assert code_of(lambda: custodian(hospital.site, lambda: NOW)) == "not-enrolled"


def test_opening_needs_the_weights_only_once(hospital: Hospital) -> None:
    """What ``Workbench`` builds is the plan's start, whatever was trained in between."""
    plan = plan_of()
    approved(hospital, plan)
    found = custodian(hospital.site, lambda: NOW)
    first = hospital.parcel(plan, train(plan, 1))
    found.answer(first)
    again = hospital.read(found.answer(first), first)
    assert isinstance(again, Update)
    assert again.schema == Workbench.for_plan(plan).parameters.digest()
