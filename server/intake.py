"""Checking replies before they count: one intake per phase.

Promises
- ``take`` either counts a reply or raises a ``ConsiliumError`` and has changed nothing; its code goes into the journal.
- A ``Refusal`` never counts; an answer to another question never counts.
- A site's own words are kept as one line of printable characters, and bounded; its codes are names or "refusal".
- Sums are exact and streaming. A single site's statistics are kept only where the plan releases them, and do not count
  where they hold a subgroup, or explanations, that the site must withhold.
- Statistics that sites gave noise are only ever summed, and how much noise the sum holds is counted with it.
- What was added up under masks (``of_sum``) reads as what was added up here, and no site's part of it was ever seen.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, Protocol, TypeVar

from server.aggregation.exact import CountSum, ExactSum, Total
from server.site_curves import site_curves
from shared.errors import ConsiliumError, ProtocolError, UpdateRejected
from shared.evaluation.additive import CASES, PATIENTS, Statistics
from shared.evaluation.curves import curves
from shared.evaluation.design import PrivateSchema
from shared.evaluation.estimates import Noised, estimates_block
from shared.evaluation.explanations import Explained, Explaining, Leaving, Measuring, explaining, explanations_block
from shared.evaluation.operating_point import chosen_block, measured_block
from shared.evaluation.subgroup_metrics import subgroups_block
from shared.evaluation.subgroups import Layout, Sent, layout, whole
from shared.evaluation.summary import final_block, summarise
from shared.fingerprint import Fingerprint, differences
from shared.messages import (
    Confirmed,
    Counts,
    Dealt,
    Masked,
    Measured,
    Offered,
    Refusal,
    Reply,
    Revealed,
    Shared,
    Update,
    Welcome,
)
from shared.plan import Aggregation, FixedPoint, Plan
from shared.privacy.statistics import summed_std
from shared.privacy.terms import statistics_terms
from shared.tasks.task import Task, private_measures

Kind = TypeVar("Kind", Welcome, Update, Measured, Shared, Offered, Dealt, Masked, Confirmed, Revealed)

_CODE = re.compile(r"[a-z0-9][a-z0-9-]{0,62}")
_LONGEST = 2000
"""Characters of a site's own words that are kept."""
_TOLD = 8
"""Differences named in one sentence; versions come first and explain most of the rest."""


class Intake(Protocol):
    """Counts the replies of one phase."""

    def take(self, site: str, reply: Reply) -> None:
        """Count ``reply`` of ``site``, or raise ``ConsiliumError`` and change nothing."""
        ...


class Admission:
    """Takes ``Welcome``: a site joins if its fingerprint agrees with the coordinator's.

    The fingerprint is a check against mistakes and not against attacks: what a site reports of itself is not verified.
    A weight that the plan itself gives is: no site has more of a say than everybody agreed to.
    """

    def __init__(self, expected: Fingerprint, aggregation: Aggregation | None = None) -> None:
        self._expected, self._aggregation = expected, aggregation
        self.weights: dict[str, int] = {}

    def take(self, site: str, reply: Reply) -> None:
        """Admit ``site`` under the weight that it announces."""
        welcome = expect(reply, Welcome)
        found = differences(self._expected, welcome.fingerprint)
        if found:
            told = found[:_TOLD] + [f"and {len(found) - _TOLD} more"] * (len(found) > _TOLD)
            raise ProtocolError(
                f"the site differs in {len(found)} entries: {'; '.join(told)}",
                hint="install the same version of Consilium and its constraints at every party; where versions agree, "
                "the entries named phantom say which part computes something else",
                code="fingerprint",
            )
        if welcome.weight < 1:
            raise ProtocolError(f"the site announces weight {welcome.weight}, at least 1 is needed", code="weight")
        agreed = self._agreed(site)
        if agreed not in (None, welcome.weight):
            raise ProtocolError(
                f"the site announces weight {welcome.weight}, the plan gives it {agreed}",
                hint="run the same version at every site; if they agree, ask this one why",
                code="weight",
            )
        self.weights[site] = welcome.weight

    def _agreed(self, site: str) -> int | None:
        """What the plan says; None where a site counts its own patients."""
        said = self._aggregation
        if said is None or said.weights == "patients":
            return None
        return 1 if said.weights == "equal" else said.public_weights.get(site, 0)


class Updates:
    """Takes ``Update``: adds it to the exact sum if it is what was agreed with that site."""

    def __init__(self, schema: str, length: int, fixed_point: FixedPoint, weights: Mapping[str, int]) -> None:
        self._sum = ExactSum(schema, length, fixed_point)
        self._weights = weights
        self.training_s = 0.0

    def take(self, site: str, reply: Reply) -> None:
        """Add the update of ``site``."""
        update = expect(reply, Update)
        agreed = self._weights.get(site)
        if update.weight != agreed:
            raise UpdateRejected(f"the update has weight {update.weight}, {agreed} was agreed", code="update-weight")
        self._sum.add(update)
        self.training_s += update.seconds

    def total(self) -> Total:
        """The sum of all updates taken."""
        return self._sum.total()


@dataclass(frozen=True)
class Measurement:
    """Statistics of one model: summed over sites, and by site where the plan releases them.

    Attributes:
        pooled: of all patients of all sites.
        sites: of all patients of each site.
        sent: all that sites sent, by subgroup as well; None where it held noise.
        explained: where the model looks; None where the plan does not ask.
    """

    pooled: Statistics | Noised
    sites: Mapping[str, Statistics] = field(default_factory=dict)
    sent: Sent | None = None
    explained: Explained | None = None

    def block(self, task: Task) -> dict[str, object]:
        """As results.json holds it, without what only the final model is measured by."""
        if isinstance(self.pooled, Noised):
            assert task.private is not None  # noqa: S101 - its schema is what was summed
            return estimates_block(task.private, self.pooled)
        return final_block(summarise(task, self.pooled, self.sites))

    def while_training(self, task: Task, plan: Plan) -> dict[str, object]:
        """``block``, and the thresholds that the plan's operating point has on these patients."""
        wanted = plan.evaluation.operating_point
        if wanted is None or not isinstance(self.pooled, Statistics):
            return self.block(task)
        return self.block(task) | {"thresholds": chosen_block(task, self.pooled, wanted)}

    def final(self, task: Task, thresholds: Mapping[str, float | None] | None = None) -> dict[str, object]:
        """``block``, curves, and metrics by subgroup where the plan declares any.

        For one model a run only: of two models, measured at sites that differ by one, the difference is that site's.
        """
        block = self.block(task)
        if isinstance(self.pooled, Statistics) and (drawn := curves(task, self.pooled)):
            block["curves"] = drawn
            if by_site := site_curves(task, self.sites):
                block["site_curves"] = by_site
        if thresholds is not None and isinstance(self.pooled, Statistics):
            block["operating_point"] = measured_block(task, thresholds, self.pooled, self.sites)
        if self.sent is not None and self.sent.layout.columns:
            block["subgroups"] = subgroups_block(task, self.sent)
        if self.explained is not None:
            block["explanations"] = explanations_block(self.explained)
        return block


class Measurements:
    """Takes ``Measured``: adds up statistics, and keeps each site's where ``layout.release`` allows it."""

    def __init__(self, layout: Layout, explaining: Explaining | None = None) -> None:
        self._leaving = Leaving(layout, explaining)
        self._sum = CountSum(self._leaving.digest(), self._leaving.length)
        self._sites: dict[str, tuple[Statistics, Statistics | None]] = {}

    @property
    def definition(self) -> tuple[str, int]:
        """Digest and number of the counts that each site sends."""
        return self._leaving.digest(), self._leaving.length

    def take(self, site: str, reply: Reply) -> None:
        """Add the statistics of ``site``."""
        measured = expect(reply, Measured)
        if measured.schema == self._leaving.digest() and measured.counts.shape == (self._leaving.length,):
            self._leaving.require_told(measured.counts)
            self._require_possible(measured.counts)
        self._sum.add(measured)
        if self._leaving.measured.release == "site":
            self._sites[site] = self._leaving.parts(measured.counts)

    def _require_possible(self, counts: Counts) -> None:
        told = self._leaving.parts(counts)[0].counts
        if (told[PATIENTS] < 0).any() or (told[CASES] < told[PATIENTS]).any():
            raise UpdateRejected(
                "the statistics are of fewer cases than patients, or of fewer than none", code="statistics-counts"
            )

    def result(self) -> Measurement:
        """What was measured by all sites that answered."""
        return self.of_sum(self._sum.total())

    def of_sum(self, total: Counts, _sites: int = 0) -> Measurement:
        """What was measured where the sites' statistics add up to ``total``."""
        layout, (pooled, looked) = self._leaving.measured, self._leaving.parts(total)
        sent = Sent(layout, pooled, {site: of for site, (of, _) in self._sites.items()})
        by_site = {site: whole(layout, of) for site, of in sent.sites.items()}
        return Measurement(whole(layout, pooled), by_site, sent, self._explained(looked))

    def _explained(self, pooled: Statistics | None) -> Explained | None:
        if pooled is None or self._leaving.explaining is None:
            return None
        by_site = {site: of for site, (_, of) in self._sites.items() if of is not None}
        return Explained(self._leaving.explaining, pooled, by_site)


class NoisedMeasurements:
    """Takes ``Measured`` that hold noise: adds them up, and counts how much noise that makes."""

    def __init__(self, schema: PrivateSchema, noise_multiplier: float) -> None:
        self._schema, self._noise_multiplier = schema, noise_multiplier
        self._sum = CountSum(schema.digest(), schema.length)
        self._sites = 0

    @property
    def definition(self) -> tuple[str, int]:
        """Digest and number of the counts that each site sends."""
        return self._schema.digest(), self._schema.length

    def take(self, site: str, reply: Reply) -> None:  # noqa: ARG002 - nothing of a single site is kept
        """Add the statistics of one site."""
        self._sum.add(expect(reply, Measured))
        self._sites += 1

    def result(self) -> Measurement:
        """What was measured by all sites that answered; the noise of each is independent of the others'."""
        return self.of_sum(self._sum.total(), self._sites)

    def of_sum(self, total: Counts, sites: int) -> Measurement:
        """What was measured where the statistics of ``sites`` sites add up to ``total``."""
        noise_std = summed_std(self._schema.sensitivity, self._noise_multiplier, sites)
        return Measurement(Noised(self._schema, total, noise_std))


def measurements(task: Task, plan: Plan, kind: Measuring) -> Measurements | NoisedMeasurements:
    """The intake for what ``plan`` releases of a model; raises ``PlanError`` where the task cannot be so measured."""
    split: Literal["validation", "test"] = "validation" if kind == "validation" else "test"
    if plan.evaluation.release != "dp":
        sent = layout(task.schema, plan, split, task.by_level)
        return Measurements(sent, explaining(plan) if kind == "final" else None)
    return NoisedMeasurements(private_measures(task).schema, statistics_terms(plan, split).noise_multiplier)


def judge(intake: Intake, site: str, reply: Reply) -> tuple[str, str]:
    """Let ``intake`` take a reply; returns (code, sentence) of the reason why it does not count, or empty strings."""
    try:
        intake.take(site, reply)
    except ConsiliumError as error:
        code = error.code if _CODE.fullmatch(error.code) else "refusal"
        return code, _one_line(error.sentence)
    return "", ""


def _one_line(sentence: str) -> str:
    """``sentence`` as it may stand in a journal, a page and a terminal: what a site says may be anything."""
    shown = "".join(one if one.isprintable() else " " for one in sentence[:_LONGEST])
    return shown if len(sentence) <= _LONGEST else f"{shown}…"


def expect(reply: Reply, kind: type[Kind]) -> Kind:
    """``reply`` where it is of ``kind``; raises ``ProtocolError`` for a refusal, with its code, and for any other."""
    if isinstance(reply, Refusal):
        raise ProtocolError(reply.sentence, hint=reply.hint, code=reply.code)
    if not isinstance(reply, kind):
        raise ProtocolError(f"expected {kind.__name__}, got {type(reply).__name__}", code="kind")
    return reply
