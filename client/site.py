"""A site: one request in, one reply out.

Promises
- Check everything, then act: protocol version, plan digest, run, schema and weights are compared with what this site
  agreed to before any case is read.
- Every failure that Consilium knows becomes a ``Refusal`` with a stable code, so that one site's trouble is one missing
  update and not the end of a run. The sentence carries no patient data (shared.errors).
- A reply depends on the request, the site's frozen data and the plan's seed alone: asking twice gives the same bytes.
- Where a plan asks for explanations, what may leave of them goes with the statistics of test patients, once.
- Personal weights are written at the site. They are sent in answer to ``Share``, and only where the plan has
  ``evaluation.cross_site``; else never.
- Under ``[privacy] unit = "patient"`` updates are made, and paid for, by ``client.protected``, and a refusal that
  depends on the site's cases says its code and no more. A site that cannot pay, or whose self-test fails, refuses to
  join.
- Under secure aggregation an update and statistics leave masked, through ``client.secure.summing``; a site without it
  refuses to answer such a plan.

The same code answers in production (behind the relay) and in a simulation.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from client import personal
from client.data.prepared.site_data import SiteData
from client.protected import Guard, Protected
from client.secure.summing import Summing
from client.training import local
from client.training.batches import TrainingData
from client.training.device import release
from client.training.explained import explained
from client.training.inference import recalibrated, scores, told
from client.workbench import Workbench
from shared.arrays import read_vector
from shared.errors import BudgetError, CaseError, ConsiliumError, ProtocolError, SiteDataError, UpdateRejected
from shared.evaluation.additive import in_units
from shared.evaluation.explanations import Leaving, explaining
from shared.evaluation.subgroups import Layout, layout
from shared.messages import (
    PROTOCOL,
    Confirm,
    Cross,
    Deal,
    Evaluate,
    Hello,
    Mask,
    Measured,
    Personalise,
    Refusal,
    Reply,
    Request,
    Share,
    Shared,
    Split,
    SumStep,
    Train,
    Unmask,
    Update,
    Vector,
    Welcome,
)
from shared.plan import Plan
from shared.preprocessing.image import Case
from shared.seeds import generator


@dataclass(frozen=True)
class Site:
    """One site under one plan.

    Attributes:
        name: as enrolled.
        data: frozen, split, checked cases.
        workbench: network and task; may be shared with other sites of the same process.
        folder: where personal weights are kept; None keeps none.
        guard: of its patients; None answers no plan that protects them.
        summing: masks what it sends; None answers no plan with secure aggregation.
    """

    name: str
    data: SiteData
    workbench: Workbench
    folder: Path | None = None
    guard: Guard | None = None
    summing: Summing | None = None

    def answer(self, request: Request) -> Reply:
        """The one reply to ``request``; a ``Refusal`` where it cannot be served."""
        try:
            if not self.workbench.plan.secure_aggregation.enabled:
                return self._computed(request)
            summing = self._summing()
            if isinstance(request, SumStep):
                self._check(request)
                return summing.step(request)
            return summing.held(request, self._computed(request))
        except ConsiliumError as error:
            return refusal(error, self.workbench.plan)

    def computed(self, request: Request) -> Reply:
        """``answer`` without masks, for whoever lets nothing of it out: a simulation, which masks it elsewhere."""
        try:
            return self._computed(request)
        except ConsiliumError as error:
            return refusal(error, self.workbench.plan)

    def _computed(self, request: Request) -> Reply:
        try:
            self._check(request)
            return self._serve(request)
        finally:
            release(self.workbench.device)

    def _summing(self) -> Summing:
        if self.summing is None:
            raise ProtocolError(
                "the plan has secure aggregation, and this site has nothing to mask with", code="no-masks"
            )
        return self.summing

    def _serve(self, request: Request) -> Reply:
        match request:
            case Deal() | Mask() | Confirm() | Unmask():
                raise ProtocolError(
                    "the plan has no secure aggregation, so there is nothing to mask", code="not-in-plan"
                )
            case Hello():
                return self._welcome()
            case Train():
                return self._protected().train(request) if self._private else self._train(request)
            case Evaluate():
                return self._protected().evaluate(request) if self._noised else self._evaluate(request)
            case Personalise():
                return self._personalise(request)
            case Share():
                return self._share(request)
            case Cross():
                return self._cross(request)

    @property
    def _private(self) -> bool:
        return self.workbench.plan.privacy.unit == "patient"

    @property
    def _noised(self) -> bool:
        return self.workbench.plan.evaluation.release == "dp"

    def _welcome(self) -> Welcome:
        if self._private:
            self._protected().require_ready()
        return Welcome(self.workbench.fingerprint(), self.weight())

    def _protected(self) -> Protected:
        if self.guard is None:
            raise ProtocolError(
                "this site keeps no ledger for this cohort, so its patients' privacy cannot be paid for",
                hint="enrol the cohort in the ledger first",
                code="no-ledger",
            )
        return Protected(self.name, self.weight(), self.data, self.workbench, self.guard)

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
        update = bench.update(
            request.weights, self.weight(), generator(bench.plan.plan.seed, "rounding", self.name, round_number)
        )
        loss_sum, seconds = in_units(trained.loss_sum), time.perf_counter() - began
        return replace(update, loss_sum=loss_sum, steps=trained.steps, seconds=seconds)

    def _evaluate(self, request: Evaluate) -> Measured:
        bench = self.workbench
        model = bench.load(request.weights)
        measured = self._measure(request.split)
        if request.split != "test" or bench.plan.evaluation.explain == "none":
            return measured
        began = time.perf_counter()
        looked = explained(model, self.data.test, bench.task, bench.plan, bench.device).flat()
        digest = Leaving(self._layout(request.split), explaining(bench.plan)).digest()
        seconds = measured.seconds + time.perf_counter() - began
        return Measured(np.concatenate([measured.counts, looked]), digest, seconds)

    def _personalise(self, request: Personalise) -> Measured:
        assignment = local.personal_assignment(self.workbench.plan)
        self._run(request.weights, assignment, "personalise", request.envelope.round)
        if self.folder is not None:
            whose = personal.owner(request.envelope, self.name)
            personal.keep(self.folder, read_vector(self.workbench.model), self.workbench.parameters, whose)
        return self._measure(request.split)

    def _share(self, request: Share) -> Shared:
        personal.require_shared(self.workbench.plan)
        schema = self.workbench.parameters
        return Shared(personal.kept(self.folder, schema, personal.owner(request.envelope, self.name)), schema.digest())

    def _cross(self, request: Cross) -> Measured:
        personal.require_shared(self.workbench.plan)
        self.workbench.load(request.weights)
        return self._measure("test")

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
        sent = self._layout(split)
        found = told(sent, self.scored(split), bench.task)
        return Measured(found.flat(), sent.schema.digest(), time.perf_counter() - began)

    def _layout(self, split: Split) -> Layout:
        bench = self.workbench
        return layout(bench.task.schema, bench.plan, split, bench.task.by_level)

    def scored(self, split: Split) -> Iterator[tuple[Case, NDArray[np.float32]]]:
        """The cases of ``split`` with the scores of the model that is loaded, as the plan measures them."""
        bench = self.workbench
        wanted, validation = (
            scores(bench.model, self.data.split(name), bench.task, bench.plan, bench.device)
            for name in (split, "validation")
        )
        return recalibrated(wanted, validation, bench.plan)


_OF_CASES = (SiteDataError, CaseError, BudgetError, UpdateRejected)
"""Errors whose sentence may hold numbers of this site's cases, or what they have paid."""


def refusal(error: ConsiliumError, plan: Plan) -> Refusal:
    """What a coordinator is told: under privacy or masks nothing counted among a site's cases, nor what they paid."""
    hidden = plan.privacy.unit == "patient" or plan.secure_aggregation.enabled
    if hidden and isinstance(error, _OF_CASES):
        return Refusal(
            error.code, f"this site cannot take part ({error.code})", "its own staff can see why, and no more is told"
        )
    return Refusal(error.code, error.sentence, error.hint)
