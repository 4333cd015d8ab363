"""A site's answers under patient-level privacy: what training and measuring let out, and how it is paid for.

Promises
- Every answer passes the till (``client.governance.paid``): reserved in the ledger first, then noised, stored, and only
  then returned. Asked again, the site gives the stored bytes and never a second draw of noise.
- An update is made of noisy sums alone. No loss, no count and no duration goes with it.
- Where sites share the noise, an update holds a part of it and must not be seen by itself: whoever asks for it has to
  mask it (``client.secure.summing``).
- Statistics under ``release = "dp"`` are noised before they are returned, and have ledger rows of their own.
- A site without a till answers nothing.

Whether the plan and the request may be served at all is ``client.site``'s to check first.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import cast

import numpy as np

from client.data.prepared.site_data import SiteData
from client.governance.paid import Till
from client.governance.spending import Claim, Purpose
from client.training import local, private
from client.training.batches import TrainingData
from client.training.private_inference import Protection, private_statistics
from client.training.sampling import Sampler
from client.workbench import Workbench
from shared.errors import ProtocolError
from shared.message_bytes import reply_from_bytes, reply_to_bytes
from shared.messages import Evaluate, Measured, Reply, Split, Train, Update
from shared.privacy.events import Event
from shared.privacy.noise import Noise, SecureNoise
from shared.privacy.terms import StatisticsTerms, statistics_terms, terms_for
from shared.seeds import generator
from shared.tasks.task import private_measures


def secure(_claim: Claim) -> Noise:
    """Noise that nobody can repeat."""
    return SecureNoise()


@dataclass(frozen=True)
class Guard:
    """What guards the patients of a cohort.

    Attributes:
        cohort: digest of the cohort whose patients pay.
        till: where they pay.
        noise: gives what hides them in the answer to a claim.
    """

    cohort: str
    till: Till
    noise: Callable[[Claim], Noise] = secure

    def claim(self, request: Train | Evaluate, split: Split, purpose: Purpose) -> Claim:
        """What ``request`` asks for; another model is another question."""
        asked, weights = request.envelope, hashlib.sha256(request.weights.tobytes()).hexdigest()
        return Claim(self.cohort, split, asked.run, asked.plan_digest, asked.round, purpose, weights)


@dataclass(frozen=True)
class Protected:
    """One site's paid answers.

    Attributes:
        name: as enrolled.
        weight: of this site in the sum; public.
        data: frozen, split, checked cases.
        workbench: network and task.
        guard: of the cohort's patients.
    """

    name: str
    weight: int
    data: SiteData
    workbench: Workbench
    guard: Guard

    def require_ready(self) -> None:
        """Refuse before the first round: terms that the plan cannot keep here, or a mechanism that fails its test."""
        terms_for(self.workbench.plan, self.name)
        self.workbench.require_tested()

    def train(self, request: Train) -> Update:
        """The private update of a round; raises ``BudgetError`` before anything is computed."""
        event = terms_for(self.workbench.plan, self.name).round_event()
        claim = self.guard.claim(request, "train", "train")
        return cast("Update", self._once(claim, event, lambda: self._update(request, self.guard.noise(claim))))

    def evaluate(self, request: Evaluate) -> Measured:
        """The noised statistics of a split; raises ``BudgetError`` before anything is computed."""
        if request.split == "train":
            raise ProtocolError("the plan releases no statistics of training patients", code="not-in-plan")
        terms = statistics_terms(self.workbench.plan, request.split)
        claim = self.guard.claim(request, request.split, "statistics")
        return cast(
            "Measured",
            self._once(claim, terms.event(), lambda: self._statistics(request, terms, self.guard.noise(claim))),
        )

    def _once(self, claim: Claim, event: Event, compute: Callable[[], Reply]) -> Reply:
        return reply_from_bytes(self.guard.till.answer_once(claim, event, lambda: reply_to_bytes(compute())))

    def _update(self, request: Train, noise: Noise) -> Update:
        bench, plan, round_number = self.workbench, self.workbench.plan, request.envelope.round

        def streams(step: int, patient: str) -> np.random.Generator:
            return generator(plan.plan.seed, "private", self.name, round_number, step, patient)

        data = TrainingData(self.data.train, self.data.train_patients)
        sampler = Sampler(data, bench.task, plan, streams, noise)
        engine, terms = bench.patient_gradients, terms_for(plan, self.name)
        assignment = local.round_assignment(plan, round_number)
        given = (bench.load(request.weights), engine, sampler, terms, assignment)
        if terms.share is not None:
            wanted = assignment.rate(0) * terms.noise_per_coordinate
            deviation = terms.share.deviation(wanted, plan.aggregation.fixed_point)
            return bench.part(private.unnoised_change(*given), deviation, self.weight, noise)
        private.train(*given)
        return bench.update(
            request.weights, self.weight, generator(plan.plan.seed, "rounding", self.name, round_number)
        )

    def _statistics(self, request: Evaluate, terms: StatisticsTerms, noise: Noise) -> Measured:
        bench, plan = self.workbench, self.workbench.plan
        model, cases = bench.load(request.weights), self.data.split(request.split)
        protection = Protection(terms.noise_multiplier, noise)
        counts = private_statistics(model, cases, bench.task, plan, bench.device, protection)
        return Measured(counts, private_measures(bench.task).schema.digest())
