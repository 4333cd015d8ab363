"""A tiny site whose patients are protected, with a ledger on disk, and requests to it."""

import hashlib
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tiny_federation import tiny_data, tiny_plan

from client.data.prepared.site_data import SiteData
from client.governance.ledger import Ledger
from client.governance.paid import Till
from client.governance.replies import Replies
from client.governance.spending import Claim, CohortPatients
from client.protected import Guard
from client.site import Site
from client.workbench import Workbench
from shared.messages import Envelope, Evaluate, Split, Train, Vector
from shared.plan import Plan
from shared.privacy.accounting import Cap
from shared.privacy.noise import Noise, UnsafeSeededNoise

COHORT = "c0" * 32
NOW = datetime(2026, 11, 20, 12, tzinfo=UTC)

PRIVATE: dict[str, Any] = {
    "privacy__unit": "patient",
    "privacy__epsilon": 8.0,
    "privacy__delta": 1e-4,
    "privacy__clip_norm": 0.5,
    "privacy__public_patients": 6,
    "privacy__images_per_patient": 2,
    "evaluation__release": "dp",
    "training__patient_gradients": "loop",
}


def private_plan(**changes: Any) -> Plan:
    return tiny_plan(**PRIVATE | changes)


def patients_of(data: SiteData) -> dict[Split, set[str]]:
    splits: tuple[Split, ...] = ("train", "validation", "test")
    return {split: {case.patient for case in data.split(split)} for split in splits}


def seeded(claim: Claim) -> Noise:
    said = f"{claim.round}/{claim.purpose}/{claim.split}/{claim.run}".encode()
    return UnsafeSeededNoise(int.from_bytes(hashlib.sha256(said).digest()[:8], "big"))


def guarded_site(plan: Plan, folder: Path, *, cap: Cap | None = None, data: SiteData | None = None) -> Site:
    data = data or tiny_data("aachen")
    path = folder / "ledger.sqlite"
    ledger = Ledger.open(path) if path.exists() else Ledger.create(path)
    ledger.enrol(CohortPatients(COHORT, "tiny", patients_of(data)), NOW)
    till = Till(ledger, Replies(folder / "replies"), cap or Cap(8.0, 1e-4), lambda: NOW)
    return Site("aachen", data, Workbench.for_plan(plan), guard=Guard(COHORT, till))


def train(plan: Plan, weights: Vector, round_number: int = 1, run: str = "run") -> Train:
    return Train(Envelope(run, plan.digest(), round_number), weights)


def measure(plan: Plan, weights: Vector, split: Split = "test", round_number: int = 3) -> Evaluate:
    return Evaluate(Envelope("run", plan.digest(), round_number), weights, split)
