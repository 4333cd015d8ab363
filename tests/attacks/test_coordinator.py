"""A coordinator that was taken over, with or without the lead's key: what a hospital refuses of all that it sends.

With the run's key alone it can only be the coordinator of that run, of what people approved (``test_relay``). Here it
has more: other plans, other papers, other code, files with other names.
"""

import dataclasses
import gzip
import hashlib
import io
import json
import zipfile
from dataclasses import replace
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from attacked import Victim
from deciding_hospital import DATASET, NOW, PRIVATE, Hospital, plan_of, train
from deployed_federation import Deployed
from flwr.supercore.fab import Fab
from flwr.supercore.run import Run as FlowerRun
from httpx import _decoders
from small_trust import Member, code_of
from tiny_federation import tiny_plan

from client import bundle_guard, enrolment, supernode
from client.commands import approve
from client.commands.approve import Wanted
from client.governance import approvals
from server.deployed.run_folder import begin, open_run
from shared.bundle import APP, VERSION, bundle_bytes, bundle_sha256
from shared.crypto.authority import Authority
from shared.crypto.signing import SigningKey
from shared.errors import PlanError, RunError
from shared.messages import Refusal, Train, Update
from shared.trust import roster as rosters
from shared.trust.documents import seal
from shared.trust.enrolment import Coordinator, make_welcome

# --- plans -----------------------------------------------------------------------------------------------------------


def test_a_plan_altered_after_it_was_approved_is_another_plan(tmp_path: Path) -> None:
    victim = Victim(tmp_path, **PRIVATE)
    weaker = plan_of(**{**PRIVATE, "privacy": {**PRIVATE["privacy"], "epsilon": 7.0}})
    parcel = victim.hospital.parcel(weaker, train(weaker))
    assert victim.refused(parcel) == "not-approved"
    # Nor in the envelope of the approved one, under the approved one's order.
    honest = train(victim.plan)
    mixed = Train(replace(honest.envelope, plan_digest=weaker.digest()), honest.weights)
    assert victim.refused(victim.hospital.parcel(victim.plan, mixed)) == "order-run"


def test_the_approved_plans_file_cannot_be_exchanged(tmp_path: Path) -> None:
    victim = Victim(tmp_path)
    folder = approvals.folder_of(victim.hospital.site, victim.plan.digest())
    (folder / "plan.json").write_bytes(victim.hospital.signed(plan_of(plan__rounds=99)))
    assert victim.refused(train(victim.plan)) == "approval-damaged"


def test_a_second_run_needs_a_second_approval_and_withdrawing_ends_all(tmp_path: Path) -> None:
    victim = Victim(tmp_path, runs=2)
    for run in ("aa" * 16, "bb" * 16):
        assert isinstance(victim.ask(train(victim.plan, run=run)), Update)
    assert victim.refused(train(victim.plan, run="cc" * 16)) == "too-many-runs"
    approvals.withdraw(victim.hospital.site, victim.plan.digest(), "jan", NOW)
    assert victim.refused(train(victim.plan, 2, run="aa" * 16)) == "withdrawn"


@pytest.mark.parametrize("scale", [3e38, 1e30, -1e18], ids=str)
def test_huge_weights_make_no_answer_depend_on_who_the_patients_are(tmp_path: Path, scale: float) -> None:
    """Whether a private site answers must say nothing of its images: it always answers, with what it always adds."""
    victim = Victim(tmp_path, **PRIVATE)
    honest = train(victim.plan)
    weights = np.full_like(honest.weights, scale)
    weights[:3] = honest.weights[:3]
    reply = victim.ask(Train(honest.envelope, weights))
    assert isinstance(reply, Update)
    assert (reply.loss_sum, reply.steps, reply.seconds) == (0, 0, 0.0)
    (line,) = victim.lines("leaves-update")
    assert line["figures"]["noise_multiplier"] > 0


@pytest.mark.parametrize(
    "changes",
    [
        {"plan__name": "../../x"},
        {"plan__name": "tiny\n"},
        {"data__classes": ["dark", "bright\x1b[2K\rnothing leaves"]},
        {"data__classes": ["dark", "bright\u202e"]},
        {"data__classes": ["dark", "b" * 201]},
        {"plan__rounds": 10**400},
        {"training__learning_rate": 1e400},
    ],
    ids=["path", "line feed", "escape", "direction", "long", "rounds", "rate"],
)
def test_a_plan_whose_names_or_numbers_are_weapons_is_no_plan(changes: dict[str, Any]) -> None:
    with pytest.raises(PlanError):
        tiny_plan(**changes)


PATHS = [
    "../x.safetensors",
    "/etc/passwd",
    "a/../../x.safetensors",
    "trust/lead.key",
    "..\\x.safetensors",
    "order.json",
    "x\n.safetensors",
]


@pytest.mark.parametrize("file", PATHS, ids=ascii)
def test_weights_to_start_from_lead_nowhere_at_the_site_and_at_the_coordinator(tmp_path: Path, file: str) -> None:
    start = {"file": file, "sha256": "0" * 64}
    hospital, deployed = Hospital(tmp_path), Deployed(tmp_path, tiny_plan())
    plan = plan_of(model={"name": "cnn", "channels": [4, 8], "norm": "group", "pretrained": start})
    wanted = Wanted(hospital.signed(plan), tmp_path, DATASET)
    assert code_of(lambda: approve.offered(hospital.site, wanted)) == "weights-path"
    runs = deployed.federation.path / "runs"
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(PlanError) as caught:
        begin(deployed.federation, tiny_plan(model__pretrained=start), deployed.lead, NOW, timedelta(days=1))
    assert caught.value.code == "weights-path"
    assert (list(runs.iterdir()), sorted(tmp_path.rglob("*"))) == ([], before)


def test_weights_in_a_folder_beside_the_plan_are_taken(tmp_path: Path) -> None:
    """A control: not every name is refused."""
    deployed = Deployed(tmp_path, tiny_plan())
    inside = deployed.federation.path / "weights"
    inside.mkdir()
    (inside / "start.safetensors").write_bytes(b"x")
    plan = tiny_plan(model__pretrained={"file": "weights/start.safetensors", "sha256": "0" * 64})
    found = begin(deployed.federation, plan, deployed.lead, NOW, timedelta(days=1))
    assert (found.path / "weights" / "start.safetensors").read_bytes() == b"x"


@pytest.mark.parametrize("name", ["../../etc", "..", "/", "a" * 32, "*" * 32, "0000\n"], ids=ascii)
def test_a_run_is_found_by_digits_and_by_nothing_else(tmp_path: Path, name: str) -> None:
    deployed = Deployed(tmp_path, tiny_plan())
    deployed.order()
    (deployed.federation.path / "runs" / ".." / "elsewhere").mkdir()
    with pytest.raises(RunError, match="runs begin with"):
        open_run(deployed.federation, name)


# --- papers ----------------------------------------------------------------------------------------------------------


class Paper:
    """Welcomes of a hospital's federation, and of others."""

    def __init__(self, hospital: Hospital) -> None:
        self.hospital = hospital
        held = enrolment.require_pinned(hospital.site)
        self.roster, self.ca = held.roster, held.welcome.ca

    def welcome(self, **changes: Any) -> bytes:
        said: dict[str, Any] = {
            "key": self.hospital.lead,
            "federation": self.roster.federation,
            "ca": self.ca,
            "roster": self.roster,
        } | changes
        roster = said["roster"]
        if said["federation"] != roster.federation:
            roster = roster.model_copy(update={"federation": said["federation"]})
        coordinator = Coordinator(said["federation"], "evil.example:443", said["ca"])
        return make_welcome(said["key"], coordinator, seal(roster, said["key"]), "aachen", NOW + timedelta(days=1))


def test_no_other_lead_federation_or_authority_takes_a_hospital_over(tmp_path: Path) -> None:
    hospital = Hospital(tmp_path)
    paper = Paper(hospital)
    other = Authority.create("squares-of-europe", NOW).certificate_pem().decode()
    before = {one.name: one.read_bytes() for one in (hospital.site.path / "trust").iterdir()}
    for changes in ({"key": SigningKey.generate()}, {"federation": "others"}, {"ca": other}):
        content = paper.welcome(**changes)
        assert code_of(partial(enrolment.accept, hospital.site, content, NOW)) == "pinned"
        assert json.loads((hospital.site.path / "audit.jsonl").read_text().splitlines()[-1])["counts"] == {"pinned": 1}
    assert {one.name: one.read_bytes() for one in (hospital.site.path / "trust").iterdir()} == before


def test_a_roster_that_swaps_the_sites_key_ends_its_membership_and_not_its_identity(tmp_path: Path) -> None:
    hospital = Hospital(tmp_path)
    paper = Paper(hospital)
    thief = Member("aachen").entry
    swapped = rosters.with_site(rosters.without(paper.roster, "aachen", NOW), thief, NOW)
    assert code_of(lambda: enrolment.accept(hospital.site, paper.welcome(roster=swapped), NOW)) == "welcome-keys"
    held = enrolment.take_roster(hospital.site, seal(swapped, hospital.lead), NOW)
    assert held.standing == "removed", "people see it in the status; nothing here is signed by the other key"
    assert held.identity == hospital.site.signing_key().verify_key.hex()


def test_two_rosters_that_exclude_each_other_are_noticed(tmp_path: Path) -> None:
    hospital = Hospital(tmp_path)
    paper = Paper(hospital)
    here, there = (rosters.with_site(paper.roster, Member(name).entry, NOW) for name in ("coimbra", "delft"))
    enrolment.take_roster(hospital.site, seal(here, hospital.lead), NOW)
    assert code_of(lambda: enrolment.take_roster(hospital.site, seal(there, hospital.lead), NOW)) == "roster-fork"
    old = seal(paper.roster, hospital.lead)
    assert code_of(lambda: enrolment.take_roster(hospital.site, old, NOW)) == "roster-older"


# --- code, and what unpacks ------------------------------------------------------------------------------------------


APPROVED = bundle_sha256()


def bundle(files: dict[str, bytes], compression: int = zipfile.ZIP_STORED) -> bytes:
    buffer = io.BytesIO(bundle_bytes())
    with zipfile.ZipFile(buffer, "a", compression) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return buffer.getvalue()


@pytest.mark.parametrize(
    "content",
    [
        bundle({"client/app.py": b"import os"}),
        bundle({"sitecustomize.py": b"import os"}),
        bundle({"../../../evil.py": b"import os"}),
        bundle({"bomb": bytes(64 << 20)}, zipfile.ZIP_DEFLATED),
        bundle_bytes() + b"\0",
        b"\x1f\x8b" + bytes(100),
    ],
    ids=["code", "start-up code", "path", "bomb", "one byte more", "gzip"],
)
def test_a_bundle_with_anything_in_it_is_refused_and_never_opened(
    content: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(zipfile, "ZipFile", lambda *_args, **_how: pytest.fail("an archive was opened"))
    digest = hashlib.sha256(content).hexdigest()
    approved = frozenset({APPROVED})
    for claimed in (digest, APPROVED):
        run = replace(FlowerRun.create_empty(7), fab_id=APP, fab_version=VERSION, fab_hash=claimed)
        fab = Fab(claimed, content, {"valid_license": "yes"})
        assert bundle_guard.why_not(approved, run, fab) == (
            f"the bundle {digest[:16]} is not one of 1 that this site has approved"
        )


def test_a_compressed_answer_of_a_coordinator_is_not_unpacked_at_the_site(monkeypatch: pytest.MonkeyPatch) -> None:
    bomb = gzip.compress(bytes(64 << 20))
    answer = httpx.MockTransport(lambda _: httpx.Response(200, headers={"content-encoding": "gzip"}, content=bomb))
    with httpx.Client(transport=answer) as client:
        assert len(client.get("https://lead.example").content) == 64 << 20, "a control: it would be"
    monkeypatch.setattr(_decoders, "SUPPORTED_DECODERS", _decoders.SUPPORTED_DECODERS)
    held = dict(_decoders.SUPPORTED_DECODERS)
    try:
        supernode._unpack_nothing()
        with httpx.Client(transport=answer) as client:
            assert client.get("https://lead.example").content == bomb
    finally:
        _decoders.SUPPORTED_DECODERS.update(held)


def test_a_compressed_request_is_no_request(tmp_path: Path) -> None:
    victim = Victim(tmp_path)
    parcel = victim.hospital.parcel(victim.plan, train(victim.plan))
    packed = dataclasses.replace(parcel, body=gzip.compress(parcel.body))
    assert victim.refused(packed) == "signature-invalid"
    assert isinstance(victim.send(parcel), Update)
    assert not isinstance(victim.send(parcel), Refusal)
