"""A site: one request in, one reply out.

Promises
- Check everything, then act: protocol version, plan digest, run, schema and weights are compared with what this site
  agreed to before any case is read.
- Every failure that Consilium knows becomes a ``Refusal`` with a stable code, so that one site's trouble is one missing
  update and not the end of a run. The sentence carries no patient data (shared.errors).
- A reply depends on the request, the site's frozen data and the plan's seed alone: asking twice gives the same bytes.
- Personal weights are written at the site and never sent.

The same code answers in production (behind the relay) and in a simulation.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

from client.data.prepared.site_data import SiteData
from client.training import local
from client.training.batches import TrainingData
from client.training.device import release
from client.training.inference import statistics
from client.workbench import Workbench
from shared import checkpoint
from shared.arrays import read_vector
from shared.errors import ConsiliumError, ProtocolError
from shared.evaluation.additive import in_units
from shared.fixed_point import quantise
from shared.messages import (
    PROTOCOL,
    Envelope,
    Evaluate,
    Hello,
    Measured,
    Personalise,
    Refusal,
    Reply,
    Request,
    Split,
    Train,
    Update,
    Vector,
    Welcome,
)
from shared.seeds import generator


@dataclass(frozen=True)
class Site:
    """One site under one plan.

    Attributes:
        name: as enrolled.
        data: frozen, split, checked cases.
        workbench: network and task; may be shared with other sites of the same process.
        folder: where personal weights are kept; None keeps none.
    """

    name: str
    data: SiteData
    workbench: Workbench
    folder: Path | None = None

    def answer(self, request: Request) -> Reply:
        """The one reply to ``request``; a ``Refusal`` where it cannot be served."""
        try:
            self._check(request)
            return self._serve(request)
        except ConsiliumError as error:
            return Refusal(error.code, error.sentence, error.hint)
        finally:
            release(self.workbench.device)

    def _serve(self, request: Request) -> Reply:
        match request:
            case Hello():
                return Welcome(self.workbench.fingerprint(), self.weight())
            case Train():
                return self._train(request)
            case Evaluate():
                return self._evaluate(request)
            case Personalise():
                return self._personalise(request)

    def weight(self) -> int:
        """This site's weight in the sum, as the plan says: 1, a public constant, or the number of training patients."""
        aggregation = self.workbench.plan.aggregation
        if aggregation.weights == "patients":
            return len(self.data.train_patients)
        if aggregation.weights == "equal":
            return 1
        if self.name not in aggregation.public_weights:
            raise ProtocolError(
                f"aggregation.public_weights names {len(aggregation.public_weights)} sites, but not this one",
                hint=f"add {self.name} to aggregation.public_weights",
                code="no-weight",
            )
        return aggregation.public_weights[self.name]

    def _check(self, request: Request) -> None:
        envelope, plan = request.envelope, self.workbench.plan
        if envelope.protocol != PROTOCOL:
            raise ProtocolError(
                f"the coordinator speaks protocol {envelope.protocol}, this site {PROTOCOL}",
                hint="run the same version of Consilium at every party",
            )
        if envelope.plan_digest != plan.digest():
            raise ProtocolError(
                f"the coordinator runs plan {envelope.plan_digest[:12]}, this site agreed to {plan.digest()[:12]}",
                hint="approve the new plan, or ask the lead which one is meant",
                code="plan-digest",
            )
        first = 1 if isinstance(request, Train) else 0
        if not first <= envelope.round <= plan.plan.rounds:
            raise ProtocolError(f"round {envelope.round} is outside the plan's {plan.plan.rounds} rounds", code="round")

    def _train(self, request: Train) -> Update:
        began = time.perf_counter()
        bench, round_number = self.workbench, request.envelope.round
        trained = self._run(request.weights, local.round_assignment(bench.plan, round_number), "train", round_number)
        change = read_vector(bench.model) - request.weights
        values, saturated = quantise(change, bench.plan.aggregation.fixed_point)
        return Update(
            values=values,
            bits=bench.plan.aggregation.fixed_point.bits,
            weight=self.weight(),
            schema=bench.parameters.digest(),
            loss_sum=in_units(trained.loss_sum),
            steps=trained.steps,
            saturated=saturated,
            seconds=time.perf_counter() - began,
        )

    def _evaluate(self, request: Evaluate) -> Measured:
        self.workbench.load(request.weights)
        return self._measure(request.split)

    def _personalise(self, request: Personalise) -> Measured:
        assignment = local.personal_assignment(self.workbench.plan)
        self._run(request.weights, assignment, "personalise", request.envelope.round)
        if self.folder is not None:
            self._keep(read_vector(self.workbench.model), request.envelope)
        return self._measure(request.split)

    def _run(self, weights: Vector, assignment: local.Assignment, purpose: str, round_number: int) -> local.Trained:
        bench = self.workbench
        return local.train(
            bench.load(weights),
            TrainingData(self.data.train, self.data.train_patients),
            bench.task,
            bench.plan,
            assignment,
            rng=generator(bench.plan.plan.seed, purpose, self.name, round_number),
            device=bench.device,
        )

    def _measure(self, split: Split) -> Measured:
        began = time.perf_counter()
        bench = self.workbench
        found = statistics(bench.model, self.data.split(split), bench.task, bench.plan, bench.device)
        return Measured(found.flat(), bench.task.schema.digest(), time.perf_counter() - began)

    def _keep(self, weights: Vector, envelope: Envelope) -> None:
        assert self.folder is not None  # noqa: S101 - the caller looked
        kept = self.folder / "personal"
        kept.mkdir(mode=0o700, parents=True, exist_ok=True)
        said = {"plan": envelope.plan_digest, "run": envelope.run, "site": self.name}
        checkpoint.save(kept, self.workbench.parameters.split(weights), said)
