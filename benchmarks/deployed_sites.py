"""Sites that train nothing: ``python benchmarks/deployed_sites.py FEDERATION`` answers at every site's socket.

Promises
- The socket, the queue and the token are the custodian's own (``client.custodian.service``). An order and a request are
  checked as a custodian checks them; an update has the plan's schema, width and number of values, differs from site to
  site and from round to round, and carries the site's signature.
- ``work.jsonl`` has a line for each answer: site, kind, round, seconds from the request to the signed reply.

The plan is read from ``bench-plan.json`` of the federation's folder. All sites are one process: their work is kept
small, so that what is measured is the coordinator and the way to it.
"""

from __future__ import annotations

import json
import secrets
import signal
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from client.custodian.service import Service, listen
from server.federation_folder import FederationFolder
from shared import models, tasks
from shared.admission import fingerprint_of
from shared.arrays import schema_of
from shared.crypto.signing import SigningKey, VerifyKey
from shared.evaluation.subgroups import layout
from shared.message_bytes import reply_to_bytes, request_from_bytes
from shared.messages import Evaluate, Hello, Measured, Refusal, Reply, Request, Train, Update, Welcome
from shared.parcels import Parcel, digest, require_request, signed_reply
from shared.plan import Plan, from_document
from shared.trust.orders import open_order

PLAN, WORK = "bench-plan.json", "work.jsonl"


@dataclass(frozen=True)
class Answers:
    """What every site says to a request; ``seed`` makes sites differ."""

    plan: Plan
    welcome: Welcome
    schema: str
    length: int

    @classmethod
    def of(cls, plan: Plan) -> Answers:
        task = tasks.task_for(plan)
        schema = schema_of(models.build(plan, task.output_channels, task.output))
        return cls(plan, Welcome(fingerprint_of(plan, task), 1), schema.digest(), schema.length)

    def to(self, request: Request, seed: int) -> Reply:
        match request:
            case Hello():
                return self.welcome
            case Train():
                return self._update(seed, request.envelope.round)
            case Evaluate():
                return self._measured(request.split)
            case _:
                return Refusal("kind", "these sites keep no model of their own")

    def _update(self, seed: int, round_number: int) -> Update:
        drawn = np.random.default_rng((seed, round_number)).integers(-100, 101, self.length, np.int16)
        bits = self.plan.aggregation.fixed_point.bits
        return Update(drawn.astype(np.int32), bits, 1, self.schema, 1 << 20, 1, 0, 0.0)

    def _measured(self, split: str) -> Measured:
        task = tasks.task_for(self.plan)
        sent = layout(task.schema, self.plan, split, task.by_level).schema
        return Measured(np.zeros(sent.length, np.int64), sent.digest())


def answering(
    site: Path, seed: int, answers: Answers, lead: VerifyKey, note: Callable[..., None]
) -> Callable[[Parcel], Parcel]:
    """What one site does with a parcel."""
    identity = SigningKey.load(site / "keys" / "identity.pem")

    def answer(parcel: Parcel) -> Parcel:
        began = time.perf_counter()
        require_request(parcel, open_order(parcel.order, lead).verify_key, site.name)
        request = request_from_bytes(parcel.body)
        body = reply_to_bytes(answers.to(request, seed))
        reply = signed_reply(body, site.name, digest(parcel.body), identity)
        note(site.name, type(request).__name__, request.envelope.round, time.perf_counter() - began)
        return reply

    return answer


def main(root: Path) -> None:
    """Answer until SIGTERM."""
    answers = Answers.of(from_document(json.loads((root / PLAN).read_text(encoding="utf-8"))))
    lead, lock, over = FederationFolder.open(root).lead, threading.Lock(), threading.Event()

    def note(*line: object) -> None:
        with lock, (root / WORK).open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")

    servers = []
    for seed, site in enumerate(sorted((root / "sites").iterdir())):
        token = secrets.token_hex(32)
        path = site / "run" / "relay.token"
        path.write_text(token + "\n")
        path.chmod(0o640)
        service = Service(token, answering(site, seed, answers, lead, note), dict)
        servers.append(listen(service, site / "run" / "custodian.sock"))
    signal.signal(signal.SIGTERM, lambda *_: over.set())
    over.wait()
    for server in servers:
        server.stop(1)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
