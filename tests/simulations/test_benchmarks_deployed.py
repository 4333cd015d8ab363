"""The section ``deployed`` of the benchmarks: its arithmetic, its forwarders, its sites, and what it is asked for."""

import hashlib
import importlib
import json
import os
import secrets
import socket
import subprocess
import sys
import threading
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from client import supernode
from server.deployed.run_folder import begin
from server.federation_folder import FederationFolder, settings_for
from server.intake import Admission, Updates, judge, measurements
from server.post import Signed
from shared import models, tasks
from shared.admission import fingerprint_of
from shared.arrays import schema_of
from shared.crypto.signing import SigningKey
from shared.message_bytes import request_to_bytes
from shared.messages import Envelope, Evaluate, Hello, Reply, Request, Train
from shared.parcels import Body, Parcel
from shared.plan import from_document

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def _scripts(monkeypatch: pytest.MonkeyPatch) -> None:
    """The benchmarks are scripts that import each other by name."""
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))


def module(name: str) -> ModuleType:
    return importlib.import_module(name)


def sample(done: int, mib: float, up: int = 0, down: int = 0) -> Any:
    return module("deployed_seen").Sample(done, {"serverapp": mib}, up, down)


def test_own_time_is_a_round_without_the_longest_work_of_a_site() -> None:
    work = [("a", "Train", 1, 2.0), ("b", "Train", 1, 3.0), ("a", "Train", 2, 0.5)]
    assert module("deployed_seen").own_time([10.0, 4.0], work) == (7.0, 3.5)


def test_own_time_adds_up_what_one_site_does_in_a_round() -> None:
    work = [("a", "Train", 1, 2.0), ("a", "Evaluate", 1, 1.5), ("b", "Train", 1, 3.0)]
    assert module("deployed_seen").own_time([10.0], work) == (6.5,)


def test_greetings_are_no_work_of_a_round() -> None:
    assert module("deployed_seen").own_time([10.0], [("a", "Hello", 1, 9.0)]) == (10.0,)


def test_a_round_in_which_nobody_worked_is_the_coordinators_alone() -> None:
    assert module("deployed_seen").own_time([1.0, 2.0], [("a", "Train", 1, 0.25)]) == (0.75, 2.0)


def test_a_rounds_memory_is_the_largest_that_was_seen_while_it_was_in_work() -> None:
    samples = [sample(0, 100), sample(0, 300), sample(1, 200), sample(1, 150), sample(2, 9000)]
    assert module("deployed_seen").by_round(samples, "serverapp", 2) == (300, 200)


def test_memory_of_a_process_that_was_never_seen_is_nothing() -> None:
    assert module("deployed_seen").by_round([sample(0, 100)], "gateway", 1) == (0.0,)


def test_growth_is_measured_from_the_second_round() -> None:
    grown = module("deployed_seen").grown
    assert grown((100.0, 400.0, 400.0)) == 1.0
    assert grown((400.0, 400.0, 500.0)) == 1.25


def test_bytes_are_those_from_the_start_to_the_end_of_the_last_round() -> None:
    samples = [sample(0, 1, 100, 1000), sample(0, 1, 150, 3000), sample(1, 1, 200, 5000), sample(2, 1, 300, 9000)]
    samples.append(sample(2, 1, 999999, 999999))
    assert module("deployed_seen").per_round(samples, 2, 4) == (200 / 8, 8000 / 8)


def test_bytes_of_a_run_that_was_not_seen_to_end_are_those_of_the_last_look() -> None:
    samples = [sample(0, 1, 0, 0), sample(1, 1, 80, 160)]
    assert module("deployed_seen").per_round(samples, 2, 1) == (40, 80)


def test_memory_is_that_of_the_process() -> None:
    code = "kept = bytearray(b'x') * 2**26; print('ready', flush=True); input()"
    child = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        assert child.stdout is not None
        child.stdout.readline()
        found = module("deployed_seen").memory_mib(child.pid)
        assert 64 < found < 128
        assert module("deployed_seen").memory_mib(child.pid, "VmHWM") >= found
    finally:
        child.communicate(b"\n")
    assert module("deployed_seen").memory_mib(child.pid) == 0.0


def test_a_watcher_looks_until_the_run_is_over_and_says_so() -> None:
    seen = module("deployed_seen")
    left = iter([True, True, False])
    watcher = seen.Watcher(lambda: {"gateway": os.getpid()}, lambda: 1, lambda: (3, 4))
    assert watcher.watch(lambda: next(left), 20.0)
    assert len(watcher.samples) == 3
    assert (watcher.samples[0].done, watcher.samples[0].up, watcher.samples[0].down) == (1, 3, 4)
    assert watcher.samples[0].mib["gateway"] > 1


def test_a_watcher_gives_up_on_a_run_that_never_ends() -> None:
    watcher = module("deployed_seen").Watcher(dict, lambda: 0, lambda: (0, 0))
    assert not watcher.watch(lambda: True, 0.3)


def test_a_forwarder_passes_every_byte_on_and_counts_both_directions() -> None:
    link = module("deployed_link")
    sent, answer = secrets.token_bytes(3_000_001), secrets.token_bytes(700_003)
    with socket.create_server(("127.0.0.1", 0)) as far:
        arrived: list[bytes] = []

        def serve() -> None:
            connection, _ = far.accept()
            with connection:
                arrived.append(_exactly(connection, len(sent)))
                connection.sendall(answer)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        counted = link.Counted()
        with socket.create_connection(("127.0.0.1", link._forward(far.getsockname()[1], counted))) as near:
            near.sendall(sent)
            assert _exactly(near, len(answer)) == answer
        thread.join(10)
    assert arrived == [sent]
    end = time.monotonic() + 5
    while counted.down < len(answer) and time.monotonic() < end:
        time.sleep(0.01)
    assert (counted.up, counted.down) == (len(sent), len(answer))


def test_a_stand_ins_welcome_is_one_that_its_supernode_believes(tmp_path: Path) -> None:
    """The lead has signed it, with the address of the site's own forwarder."""
    link, federation = (
        module("deployed_link"),
        FederationFolder.init(
            tmp_path / "federation", settings_for("bench", "127.0.0.1:8443"), None, datetime.now(UTC)
        ),
    )
    link._enrol(link.Link(federation.path, federation, {}), federation.lead_key(lambda: b""), "site-1", 4321)
    found = supernode.read_settings([str(federation.path / "sites" / "site-1")])
    assert found.address == "127.0.0.1:4321"
    assert found.ca_pem.decode() == federation.coordinator().ca
    assert federation.roster().active == {"site-1"}


def _exactly(connection: socket.socket, size: int) -> bytes:
    pieces = bytearray()
    while len(pieces) < size and (piece := connection.recv(1 << 16)):
        pieces += piece
    return bytes(pieces)


class Asked:
    """A stand-in site, and the coordinator's own checks of what it says."""

    def __init__(self, folder: Path, rounds: int = 2) -> None:
        self.plan = from_document(module("deployed_arm").document(rounds, [4, 8]))
        self.task = tasks.task_for(self.plan)
        self.federation = FederationFolder.init(
            folder / "f", settings_for("bench", "127.0.0.1:9443"), None, datetime.now(UTC)
        )
        lead = self.federation.lead_key(lambda: b"")
        self.order = begin(self.federation, self.plan, lead, datetime.now(UTC), timedelta(1))
        self.notes: list[tuple[object, ...]] = []
        self.answers = module("deployed_sites").Answers.of(self.plan)
        self.keys = {name: self._key(folder / name) for name in ("site-1", "site-2")}
        self.post = Signed(self.order.order_file, self.order.key(), {n: k.verify_key for n, k in self.keys.items()})
        self.sites = {
            name: module("deployed_sites").answering(
                folder / name, seed, self.answers, self.federation.lead, lambda *line: self.notes.append(line)
            )
            for seed, name in enumerate(self.keys)
        }

    @staticmethod
    def _key(site: Path) -> SigningKey:
        (site / "keys").mkdir(parents=True)
        key = SigningKey.generate()
        key.save(site / "keys" / "identity.pem")
        return key

    def envelope(self, round_number: int) -> Envelope:
        return Envelope(self.order.run, self.plan.digest(), round_number)

    def weights(self) -> Any:
        return np.zeros(self.answers.length, np.float32)

    def sealed(self, site: str, request: Request) -> tuple[Body, Parcel]:
        body = Body.of(request_to_bytes(request))
        return body, self.post.seal(body, site)

    def ask(self, site: str, request: Request) -> tuple[str, Reply]:
        body, parcel = self.sealed(site, request)
        return self.post.open(self.sites[site](parcel), body)


def test_a_stand_in_is_admitted_by_the_coordinators_own_check(tmp_path: Path) -> None:
    asked = Asked(tmp_path)
    site, reply = asked.ask("site-1", Hello(asked.envelope(0)))
    intake = Admission(fingerprint_of(asked.plan, asked.task), asked.plan.aggregation)
    assert judge(intake, site, reply) == ("", "")
    assert intake.weights == {"site-1": 1}


def test_a_stand_ins_update_counts_and_differs_by_site_and_round(tmp_path: Path) -> None:
    asked = Asked(tmp_path)
    schema = schema_of(models.build(asked.plan, asked.task.output_channels, asked.task.output))
    fixed_point = asked.plan.aggregation.fixed_point
    intake, values = Updates(schema.digest(), schema.length, fixed_point, {"site-1": 1, "site-2": 1}), []
    for site, number in (("site-1", 1), ("site-2", 1), ("site-1", 2)):
        said, reply = asked.ask(site, Train(asked.envelope(number), asked.weights()))
        if number == 1:
            assert judge(intake, said, reply) == ("", "")
        values.append(hashlib.sha256(reply.values.tobytes()).hexdigest())  # type: ignore[union-attr]
    assert len(set(values)) == 3


@pytest.mark.parametrize("split", ["validation", "test"])
def test_a_stand_ins_statistics_count(tmp_path: Path, split: Any) -> None:
    asked = Asked(tmp_path)
    site, reply = asked.ask("site-2", Evaluate(asked.envelope(2), asked.weights(), split))
    intake = measurements(asked.task, asked.plan, "validation" if split == "validation" else "final")
    assert judge(intake, site, reply) == ("", "")


def test_a_stand_in_notes_what_it_did_and_how_long_it_took(tmp_path: Path) -> None:
    asked = Asked(tmp_path)
    asked.ask("site-1", Train(asked.envelope(2), asked.weights()))
    ((site, kind, number, seconds),) = asked.notes
    assert (site, kind, number) == ("site-1", "Train", 2)
    assert isinstance(seconds, float)
    assert 0 < seconds < 10


def test_a_stand_in_refuses_a_request_that_the_run_has_not_signed(tmp_path: Path) -> None:
    asked = Asked(tmp_path)
    _, parcel = asked.sealed("site-1", Hello(asked.envelope(0)))
    forged = Parcel(parcel.site, parcel.body + b" ", parcel.signature, parcel.order)
    with pytest.raises(Exception, match="signature"):
        asked.sites["site-1"](forged)
    assert not asked.notes


def test_the_large_network_has_the_parameters_that_are_claimed() -> None:
    size = module("deployed").LARGE
    plan = from_document(module("deployed_arm").document(size.rounds, list(size.channels)))
    task = tasks.task_for(plan)
    found = schema_of(models.build(plan, task.output_channels, task.output)).length
    assert found >= 30_000_000
    assert abs(found - size.parameters) < 0.005 * found


def said(**more: object) -> dict[str, object]:
    peaks = {"serverapp": (500.0, 800.0, 808.0), "gateway": (300.0, 310.0, 320.0)}
    found = {"seconds": [60.0, 50.0, 55.0], "peaks": peaks, "load": (1.0, 2.5), "lost": 0}
    return {**found, "up": 60_240_000.0, "down": 120_480_000.0, **more}


def rows_of(name: str, **more: object) -> dict[str, Any]:
    return {row.what.partition(f"{name}: ")[2]: row for row in module("deployed").large(name, said(**more))}


def test_bytes_are_told_as_multiples_of_the_models_float32_weights() -> None:
    rows = rows_of("ours")
    assert rows["bytes up a site and round"].found == (0.5,)
    assert rows["bytes down a site and round"].found == (1.0,)


def test_memory_that_grows_misses_the_target_and_memory_that_does_not_meets_it() -> None:
    assert rows_of("ours")["memory of the last round"].verdict == "met"
    growing = {"serverapp": (500.0, 800.0, 1000.0), "gateway": (1.0, 1.0, 1.0)}
    assert rows_of("ours", peaks=growing)["memory of the last round"].verdict == "missed"


def test_nothing_is_promised_for_flowers_side() -> None:
    assert {row.target for row in module("deployed").large("Flower's FedAvg", said())} == {None}


def test_a_lost_reply_is_told() -> None:
    row = rows_of("ours", lost=3)["replies lost"]
    assert row.found == (3.0,)
    assert row.against == "of 24"


def test_each_time_says_how_busy_the_machine_was() -> None:
    rows = rows_of("ours")
    assert rows["seconds a round"].against == "load 1.0 before, 2.5 after"
    assert rows["seconds a round"].found == (60.0, 50.0, 55.0)


def test_own_times_are_judged_with_and_without_measuring() -> None:
    training, measured = module("deployed").own_times({"own": [4.0, 3.0, 4.5, 9.0], "load": (0.1, 0.2)})
    assert (training.found, training.verdict) == ((4.0, 3.0, 4.5), "met")
    assert (measured.found, measured.verdict) == ((9.0,), "missed")


def test_the_section_is_run_only_when_it_is_asked_for(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    run, chosen = module("run"), []

    def measure(_scale: object, sections: list[str], _console: object) -> dict[str, Any]:
        chosen.append(sections)
        return {"rows": [], "machine": run._machine(), "scale": "quick", "seconds": 0}

    monkeypatch.setattr(run, "measure", measure)
    monkeypatch.setattr(run, "LATEST", tmp_path / "latest.json")
    for argv in ([], ["--only", "deployed"]):
        monkeypatch.setattr(sys, "argv", ["run.py", *argv])
        run.main()
    assert "deployed" not in chosen[0]
    assert set(chosen[0]) == set(run.SECTIONS) - {"deployed", "secure"}
    assert chosen[1] == ["deployed"]


def test_lines_before_the_first_round_are_no_rounds(tmp_path: Path) -> None:
    counting = module("deployed_arm").Counting(tmp_path / "rounds.jsonl", 3, before=1)
    assert counting.done() == 0
    for number, expected in ((0, 0), (1, 1), (2, 2)):
        with (tmp_path / "rounds.jsonl").open("a") as file:
            file.write(json.dumps({"round": number}) + "\n")
        assert counting.done() == expected
