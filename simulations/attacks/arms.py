"""Ways of training that are attacked side by side.

Promises
- All arms are the scenario's own plan but for what their names say: the same network, first weights, steps, batch size
  and learning rate, so that a difference between two arms is that of the protection.
- The first arm is a control: overfitted on purpose. An attack that finds nobody there is broken, and says nothing about
  the others.
- A plan that promises privacy is attacked under its own promise; one that does not, under ``DEFAULTS``. Where a model
  here has another number of patients than the plan's sites, the noise is found anew, so that the promise is the same.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from shared.plan import Plan, from_document
from shared.privacy.terms import Terms, terms_for
from simulations.attacks.bounds import Promise

Kind = Literal["control", "plain", "private"]

DEFAULTS = (Promise(8.0, 1e-4), Promise(1.0, 1e-4))
CLIP_NORM = 1.0
CONTROL_ROUNDS = 3
"""How many times as long the control trains."""

_SITE = "attacked"
_STALE = ("sampling_rate", "noise_multiplier")
_ONLY_WITHOUT_PRIVACY = (("training", "gradient_clip"), ("aggregation", "proximal_mu"))


@dataclass(frozen=True)
class Arm:
    """One way of training.

    Attributes:
        name: for files and progress.
        title: for people.
        kind: what it is in the comparison.
        plan: how models are trained.
        promise: what a patient is promised; None without privacy.
        terms: rate, noise and denominator; None without privacy.
    """

    name: str
    title: str
    kind: Kind
    plan: Plan
    promise: Promise | None = None
    terms: Terms | None = None


def without_privacy(plan: Plan) -> Plan:
    """``plan`` with unit "none": what hospitals prepare their images for, and how the plain arm trains."""
    document = _document(plan)
    document["privacy"], document["secure_aggregation"] = {"unit": "none"}, {"enabled": False}
    if plan.evaluation.release == "dp":
        document["evaluation"]["release"] = "site"
    return from_document(document)


def arms_of(plan: Plan, patients: int) -> tuple[Arm, ...]:
    """The control, plain training, and one arm for each promise.

    Args:
        plan: the scenario's.
        patients: how many patients a model is trained on, by expectation: a public number.
    """
    plain = without_privacy(plan)
    return (
        Arm("overfitted", "overfitted on purpose", "control", _overfitted(plain)),
        Arm("plain", "no privacy", "plain", plain),
        *(_private(plan, promise, patients) for promise in promises_of(plan)),
    )


def promises_of(plan: Plan) -> tuple[Promise, ...]:
    """The plan's own promise, or ``DEFAULTS``."""
    epsilon, delta = plan.privacy.epsilon, plan.privacy.delta
    return DEFAULTS if epsilon is None or delta is None else (Promise(epsilon, delta),)


def epsilon_of(promise: Promise) -> str:
    """The promise in a word that no line ends within."""
    return f"ε\N{NO-BREAK SPACE}=\N{NO-BREAK SPACE}{promise.epsilon:g}"


def private_plan(plan: Plan, promise: Promise, patients: int) -> Plan:
    """``plan`` under ``promise`` to each of so many patients; clipping and images per patient stay the plan's own."""
    document = _document(plan)
    said = {key: value for key, value in document["privacy"].items() if key not in _STALE}
    document["privacy"] = {"clip_norm": CLIP_NORM} | said | {"unit": "patient", "public_patients": patients}
    document["privacy"] |= {"epsilon": promise.epsilon, "delta": promise.delta, "covers": "training"}
    for section, key in _ONLY_WITHOUT_PRIVACY:
        document[section].pop(key, None)
    if plan.aggregation.method == "fedprox":
        document["aggregation"]["method"] = "fedavg"
    if plan.aggregation.weights == "patients":
        document["aggregation"]["weights"] = "equal"
    return from_document(document)


def _private(plan: Plan, promise: Promise, patients: int) -> Arm:
    private = private_plan(plan, promise, patients)
    name, title = f"epsilon-{promise.epsilon:g}", f"private, {epsilon_of(promise)}"
    return Arm(name, title, "private", private, promise, terms_for(private, _SITE))


def _overfitted(plain: Plan) -> Plan:
    document = _document(plain)
    document["plan"]["rounds"] = CONTROL_ROUNDS * plain.plan.rounds
    document["training"] |= {"weight_decay": 0.0, "schedule": "constant", "augmentation": {}}
    return from_document(document)


def _document(plan: Plan) -> dict[str, Any]:
    document = plan.model_dump(mode="json", exclude_none=True)
    document.pop("personalisation", None)
    document["evaluation"] |= {"cross_site": False}
    return document
