"""A hospital with a real frozen cohort, joined to a federation, and the lead who writes to it."""

import shutil
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import cache, partial
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import numpy as np
from picture_hospitals import EDGE, write_hospitals
from small_trust import Member, authority_pem

from client import enrolment
from client.commands.doctor import examine
from client.commands.freeze import Terms, freeze
from client.commands.ingest import Order, ingest
from client.data.cohort.manifest import SplitRule
from client.data.progress import silent
from client.settings import template
from client.site_folder import KEYS, SiteFolder
from client.workbench import Workbench
from shared.crypto import node_keys
from shared.crypto.signing import SigningKey
from shared.message_bytes import reply_from_bytes, request_to_bytes
from shared.messages import Envelope, Evaluate, Reply, Request, Split, Train
from shared.parcels import Body, Parcel, require_reply, signed_request
from shared.plan import Plan, from_document
from shared.trust import roster as rosters
from shared.trust.documents import seal, stamp
from shared.trust.enrolment import Coordinator, make_welcome
from shared.trust.orders import RunOrder, sign_order
from shared.trust.plans import sign_plan
from shared.trust.roster import Entry

NOW = datetime(2026, 11, 20, 12, tzinfo=UTC)
RUN = "ab" * 16
DATASET = "squares"
PATIENTS = 12
PILOT = """
[privacy]
unsafe_allow_unprotected = true
min_patients = 1
[statistics]
release = ["dp", "sum", "site"]
"""
SHARING = PILOT.replace("[privacy]", "[privacy]\nmax_epsilon_alone = 40.0")
PRIVATE: dict[str, Any] = {
    "privacy": {
        "unit": "patient",
        "epsilon": 4.0,
        "delta": 1e-5,
        "clip_norm": 0.5,
        "public_patients": 6,
        "images_per_patient": 2,
    },
    "evaluation__release": "dp",
    "training__patient_gradients": "loop",
}
SHARED: dict[str, Any] = {
    "privacy": {**PRIVATE["privacy"], "noise": "shared", "colluding_sites": 0},
    "secure_aggregation": {"enabled": True, "threshold": 2},
    "aggregation": {"weights": "equal", "fixed_point": {"bits": 24, "range": 1.0}},
    "training": {
        "steps": 1,
        "patients_per_step": 3,
        "learning_rate": 0.02,
        "optimizer": "sgd",
        "patient_gradients": "loop",
    },
    "evaluation__release": "dp",
}
"""The same promise by noise that both sites of the federation share."""


def plan_of(**changes: Any) -> Plan:
    """A plan that trains in a fraction of a second; ``section__key=value`` or ``section={...}`` changes it."""
    said: dict[str, Any] = {
        "plan": {"name": "squares", "task": "classification", "rounds": 3, "seed": 3},
        "data": {"modality": "other", "classes": ["dark", "bright"], "train_fraction": 0.5, "validation_fraction": 0.2},
        "preprocessing": {"size": [EDGE, EDGE]},
        "model": {"name": "cnn", "channels": [4, 8], "norm": "group"},
        "training": {"steps": 2, "patients_per_step": 3, "learning_rate": 0.02},
        "privacy": {"unit": "none"},
        "evaluation": {"every": 1, "release": "site"},
    }
    for dotted, value in changes.items():
        section, _, key = dotted.partition("__")
        if key:
            said[section][key] = value
        else:
            said[section] = value
    return from_document(said)


@cache
def _frozen() -> Path:
    """A site folder with a cohort, by the functions behind ingest, doctor and freeze; made once a process."""
    root = Path(mkdtemp(prefix="consilium-"))
    source = write_hospitals(root / "source", {"aachen": PATIENTS})
    text = template("aachen").replace('workers = "auto"', "workers = 1")
    site = SiteFolder.init(root / "site", text, NOW)
    columns = {"file": ("image",), "patient_id": ("patient",)}
    order = Order(
        DATASET, (source / "aachen",), (source / "manifest.csv",), {"site": "aachen"}, choices={"columns": columns}
    )
    ingest(site, order, silent, silent, lambda: NOW)
    errors = {one.code for one in examine(site, DATASET, silent, lambda: NOW).findings if one.severity == "error"}
    freeze(site, DATASET, Terms(SplitRule(3, 0.5, 0.2), accept=tuple(errors)), lambda: NOW)
    return site.path


@dataclass
class Hospital:
    """A site folder of its own, and the lead of its federation."""

    folder: Path
    lead: SigningKey = field(default_factory=SigningKey.generate)
    run_key: SigningKey = field(default_factory=SigningKey.generate)
    neighbour: Member = field(default_factory=partial(Member, "bergen"))
    others: tuple[Member, ...] = ()

    def __post_init__(self) -> None:
        shutil.copytree(_frozen(), self.folder / "s")
        self.policy(PILOT)
        self._join()

    @property
    def site(self) -> SiteFolder:
        return SiteFolder.open(self.folder / "s")

    def policy(self, text: str) -> None:
        (self.folder / "s" / "policy.toml").write_text(text)

    def _join(self) -> None:
        enrolment.request(self.site, NOW)
        node = node_keys.public_pem(node_keys.load(self.site.path / KEYS / "node.pem"))
        identity = self.site.signing_key().verify_key.hex()
        entries = [
            Entry(site="aachen", identity=identity, node=node),
            *(one.entry for one in (self.neighbour, *self.others)),
        ]
        found = rosters.first("squares-of-europe", NOW)
        for entry in entries:
            found = rosters.with_site(found, entry, NOW)
        coordinator = Coordinator("squares-of-europe", "lead.example:443", authority_pem())
        welcome = make_welcome(self.lead, coordinator, seal(found, self.lead), "aachen", NOW)
        enrolment.accept(self.site, welcome, NOW)

    def signed(self, plan: Plan) -> bytes:
        return sign_plan(plan, self.lead, NOW)

    def write(self, plan: Plan) -> Path:
        """The signed plan as a file that the lead has sent."""
        path = self.folder / "plan.json"
        path.write_bytes(self.signed(plan))
        return path

    def order(self, plan: Plan, run: str = RUN) -> bytes:
        order = RunOrder(
            run=run,
            plan_digest=plan.digest(),
            federation="squares-of-europe",
            roster_version=3,
            run_key=self.run_key.verify_key.hex(),
            created=stamp(NOW),
            expires=stamp(NOW + timedelta(days=1)),
        )
        return sign_order(order, self.lead)

    def parcel(self, plan: Plan, request: Request) -> Parcel:
        order = self.order(plan, request.envelope.run)
        return signed_request(Body.of(request_to_bytes(request)), "aachen", order, self.run_key)

    def read(self, reply: Parcel, asked: Parcel) -> Reply:
        """What a reply says, once it was proved to be the site's."""
        require_reply(reply, Body.of(asked.body).sha256, self.site.signing_key().verify_key)
        return reply_from_bytes(reply.body)


def train(plan: Plan, round_number: int = 1, run: str = RUN, add: float = 0.0) -> Train:
    weights = Workbench.for_plan(plan).initial_weights() + np.float32(add)
    return Train(Envelope(run, plan.digest(), round_number), weights.astype(np.float32))


def measure(plan: Plan, split: Split = "test", round_number: int = 3, run: str = RUN) -> Evaluate:
    return Evaluate(Envelope(run, plan.digest(), round_number), train(plan).weights, split)
