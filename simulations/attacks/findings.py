"""What a comparison of attacks found, as values, and as the document ``attack.json``.

Promises
- Every number on the page stands in the document. Pictures do not: they exist in memory only, and only of synthetic
  patients.
- The document holds no identifier of a patient: pictures are numbered in the order in which they were drawn.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from simulations.attacks.arms import Arm
from simulations.attacks.bounds import Proof, most_advantage, most_tpr
from simulations.attacks.curves import Curve, Success
from simulations.attacks.likeness import Likeness

Attack = Literal["loss threshold", "likelihood ratio"]
Network = Literal["small", "plan"]
Picture = NDArray[np.float32]

_FORMAT = 1
_CORNERS = 200
"""A curve in the document has about this many corners at most, closer together at small false alarms."""


@dataclass(frozen=True, eq=False)
class ArmFound:
    """How membership inference did on one way of training.

    Attributes:
        arm: the way.
        quality: the task's headline metric on patients not trained on, mean over models; NaN if undetermined.
        attacks: success by attack.
        curves: curve by attack.
        proof: what the likelihood ratio proves about epsilon.
    """

    arm: Arm
    quality: float
    attacks: Mapping[Attack, Success]
    curves: Mapping[Attack, Curve]
    proof: Proof


@dataclass(frozen=True, eq=False)
class Reconstruction:
    """One image that was looked for in one gradient.

    Attributes:
        network: whose gradient.
        patient: number of the patient in this comparison, from 1.
        arm: name of the arm by which the gradient was released.
        distance: cosine distance of its gradient from the one released.
        found: how alike it is to the truth.
        guess: how alike the mean image of other patients is.
        picture: the reconstruction, shape (C, *spatial); None for real patients.
        truth: the patient's image; None for real patients.
    """

    network: Network
    patient: int
    arm: str
    distance: float
    found: Likeness
    guess: Likeness
    picture: Picture | None = field(default=None, repr=False)
    truth: Picture | None = field(default=None, repr=False)


@dataclass(frozen=True, eq=False)
class Comparison:
    """Everything that ``consilium-sim attack`` found.

    Attributes:
        title: of the scenario.
        synthetic: whether patients are made up.
        headline: name of the task's metric.
        patients: in the population.
        images: of them all.
        models: attacked in each arm.
        grey: least and largest grey value.
        arms: control, plain, private ones.
        reconstructions: by network, patient and arm.
        provenance: digest of the plan, seed, command.
    """

    title: str
    synthetic: bool
    headline: str
    patients: int
    images: int
    models: int
    grey: tuple[float, float]
    arms: tuple[ArmFound, ...]
    reconstructions: tuple[Reconstruction, ...]
    provenance: Mapping[str, str | int]

    def of_kind(self, kind: str) -> list[ArmFound]:
        """Arms of one kind, in order."""
        return [found for found in self.arms if found.arm.kind == kind]

    def likeness(self, network: Network, arm: str) -> tuple[Likeness, Likeness] | None:
        """Mean likeness of what was found, and of the guess, over patients; None where nothing was tried."""
        some = [one for one in self.reconstructions if (one.network, one.arm) == (network, arm)]
        return (_mean([one.found for one in some]), _mean([one.guess for one in some])) if some else None


def document(found: Comparison) -> dict[str, Any]:
    """``attack.json``: plain JSON, with null for what is not a finite number."""
    return {
        "format": _FORMAT,
        "title": found.title,
        "synthetic": found.synthetic,
        "patients": found.patients,
        "images": found.images,
        "models_per_arm": found.models,
        "headline": found.headline,
        "membership": [_arm(one) for one in found.arms],
        "inversion": [_reconstruction(one) for one in found.reconstructions],
        "provenance": dict(found.provenance),
    }


def _arm(found: ArmFound) -> dict[str, Any]:
    return {
        "name": found.arm.name,
        "title": found.arm.title,
        "kind": found.arm.kind,
        "quality": _number(found.quality),
        "privacy": _privacy(found.arm),
        "attacks": {name: asdict(success) for name, success in found.attacks.items()},
        "curves": {name: _corners(curve) for name, curve in found.curves.items()},
        "proven_epsilon": asdict(found.proof),
    }


def _privacy(arm: Arm) -> dict[str, Any] | None:
    if arm.promise is None or arm.terms is None:
        return None
    rates = np.array([0.01, 0.1])
    bounds = dict(zip(("tpr_at_1", "tpr_at_10"), most_tpr(rates, arm.promise).tolist(), strict=True))
    bounds["advantage"] = most_advantage(arm.promise)
    return {**asdict(arm.promise), "terms": asdict(arm.terms), "most_that_any_attack_can_reach": bounds}


def _corners(curve: Curve) -> list[list[float]]:
    """Corners (FPR, TPR), thinned evenly on a logarithmic axis; the first and the last stay."""
    corners = len(curve.fpr)
    kept = sorted({0, corners - 1, *(round(place) for place in np.geomspace(1, max(1, corners - 1), _CORNERS))})
    return [[round(float(curve.fpr[place]), 6), round(float(curve.tpr[place]), 6)] for place in kept if place < corners]


def _reconstruction(one: Reconstruction) -> dict[str, Any]:
    return {
        "network": one.network,
        "patient": one.patient,
        "released_by": one.arm,
        "cosine_distance": _number(one.distance),
        "found": asdict(one.found),
        "guess": asdict(one.guess),
    }


def _mean(some: list[Likeness]) -> Likeness:
    return Likeness(*np.mean([(one.psnr_db, one.ssim) for one in some], axis=0).tolist())


def _number(value: float) -> float | None:
    return value if math.isfinite(value) else None
