"""Is the private mechanism right on this machine, with this network and this layout? Checked before the first round.

Promises
- Each check is one property of the guarantee, measured on made-up patients of the plan's own size with the engine that
  will be used: nobody's images are read, and nothing random decides but the noise under test.
- A check that fails says what was found and what was allowed. ``require`` refuses to train then.
- The network is as it was afterwards.

=========== =======================================================================================================
check       what must hold
=========== =======================================================================================================
bound       leaving any one patient out moves the sum by at most the clip norm
scaled      the same for a patient whose images are 20 times as bright
exact       each patient's contribution is the clipped mean over their images, computed in double precision, and
            everybody's is the sum of them
unit        a patient's images together, not each of them, are bounded by the clip norm: the same image twice
not-finite  a patient with an image of NaN contributes nothing, and harms nobody's contribution, in any company
empty       a step in which nobody was drawn is noise of the full size
noise       noise has the planned standard deviation (1 %) and is normal (Kolmogorov-Smirnov); two thirds and three
            halves of it would be noticed
shared      the parts of noise that two sites add on the grid make noise of the size that both have planned, normal too
untouched   no parameter, buffer or gradient of the network is changed, nor what trains and in which mode
=========== =======================================================================================================
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from scipy.stats import kstest
from torch import Tensor

from client.training.batches import Batch, pieces
from client.training.per_patient import Network, PatientGradients, flat
from client.training.stand_ins import made_up_patient
from shared.errors import ModelError
from shared.fixed_point import resolution
from shared.plan import FixedPoint, Plan
from shared.privacy.clipping import Clip
from shared.privacy.mechanism import noisy_mean
from shared.privacy.noise import Noise, SecureNoise
from shared.privacy.shared_noise import Share, noised
from shared.privacy.terms import Terms
from shared.tasks.task import Task

_PATIENTS = 4
_DRAWS = 200_000
"""Normals looked at: the standard error of their standard deviation is 0.16 %."""
_STD_WITHIN = 0.01
_LEAST_P = 1e-9
"""A right generator fails once in 10**9 tests; a spread that is 1 % off still has a smaller p-value."""
_SLACK = 1e-6
_ROUNDINGS = 3
"""How often what rounding does to an ordinary backward pass is allowed: deep, narrow networks are ill-conditioned."""


@dataclass(frozen=True, slots=True)
class Check:
    """One check: its name, whether it passed, and what was found in one sentence."""

    name: str
    passed: bool
    said: str


@dataclass(frozen=True)
class Subject:
    """What is tested.

    Attributes:
        network: gradients are taken of it.
        engine: makes them.
        clip: the bound that the engine keeps.
        patients: made-up ones; the first has two rows or more.
        noise: hides them.
    """

    network: Network
    engine: PatientGradients
    clip: Clip
    patients: Sequence[Batch]
    noise: Noise

    @classmethod
    def of(cls, network: Network, engine: PatientGradients, task: Task, plan: Plan) -> Subject:
        """Under ``plan``, with noise as it is used."""
        assert plan.privacy.clip_norm is not None  # noqa: S101 - a plan with unit "patient" has one
        rng, rows = np.random.default_rng(1), max(2, plan.privacy.images_per_patient * plan.privacy.views_per_image)
        patients = [made_up_patient(task, plan, rows if place == 0 else 1, rng) for place in range(_PATIENTS)]
        return cls(network, engine, Clip(plan.privacy.clip_norm, plan.privacy.clipping), patients, SecureNoise())

    def sum(self, patients: Sequence[Batch]) -> Tensor:
        """The engine's sum over ``patients``, shape (P,), float64."""
        return self.engine(patients).values


def run(subject: Subject) -> Iterator[Check]:
    """All checks in the order of the table."""
    before, marks = _state(subject.network), _marks(subject.network)
    for name, check in CHECKS.items():
        passed, said = check(subject)
        yield Check(name, passed, said)
    changed = sum(not torch.equal(one, other) for one, other in zip(before, _state(subject.network), strict=True))
    same = changed == 0 and marks == _marks(subject.network)
    yield Check("untouched", same, f"{changed} of {len(before)} tensors of the network changed")


def require(subject: Subject) -> None:
    """Raise ``ModelError`` ("self-test") for the first check that fails."""
    require_passed(run(subject))


def require_passed(checks: Iterable[Check]) -> None:
    """Raise ``ModelError`` ("self-test") for the first of ``checks`` that failed."""
    for check in checks:
        if not check.passed:
            raise ModelError(
                f"the privacy self-test {check.name} fails on this machine: {check.said}",
                hint='set training.patient_gradients = "loop"; if it still fails, do not train here, and report it',
                code="self-test",
            )


def _bound(subject: Subject) -> tuple[bool, str]:
    everybody = subject.sum(subject.patients)
    moved = [_ordered(float((everybody - subject.sum(others)).norm())) for others in _without_one(subject.patients)]
    # Others are rounded differently in another company, at right angles to the patient: such differences add squared.
    rounding = len(moved) * subject.network.tolerance**2
    return _within(max(moved), subject.clip.norm * (1 + rounding))


def _scaled(subject: Subject) -> tuple[bool, str]:
    return _within(
        max(_ordered(_contributed(subject, _brighter(patient))) for patient in subject.patients), subject.clip.norm
    )


def _exact(subject: Subject) -> tuple[bool, str]:
    double, everybody = subject.network.in_double_precision(), list(subject.patients)
    exact = [_clipped_mean(double, Batch(one.images.double(), one.targets), subject.clip) for one in everybody]
    rounded = [_clipped_mean(subject.network, one, subject.clip) for one in everybody]
    rounding = max(_apart(one, other) for one, other in zip(rounded, exact, strict=True))
    alone = [_apart(subject.sum([one]), other) for one, other in zip(everybody, exact, strict=True)]
    worst = max(*alone, _apart(subject.sum(everybody), torch.stack(exact).sum(dim=0)))
    allowed = subject.network.tolerance + _ROUNDINGS * rounding
    return worst <= allowed, f"contributions are {worst:.1e} of their norm off double precision, {allowed:.1e} allowed"


def _apart(found: Tensor, exact: Tensor) -> float:
    return _ordered(float((found - exact).norm() / exact.norm().clamp_min(1e-30)))


def _clipped_mean(network: Network, patient: Batch, clip: Clip) -> Tensor:
    """What a patient should contribute, (P,), float64: the definition written down again, without an engine."""
    parameters = network.parameters()
    total = torch.zeros((), dtype=torch.float64, device=network.device)
    for row in pieces(patient, 1):
        found = torch.autograd.grad(network.losses(row).sum(), parameters, allow_unused=True)
        parts = [flat(gradient, one) for gradient, one in zip(found, parameters, strict=True)]
        total = total + torch.cat(parts).double() / len(patient)
    return total * clip.factors(total.norm()[None])[0]


def _unit(subject: Subject) -> tuple[bool, str]:
    first = _brighter(subject.patients[0])
    places = [0] * len(first)
    return _within(_contributed(subject, Batch(first.images[places], first.targets[places])), subject.clip.norm)


def _not_finite(subject: Subject) -> tuple[bool, str]:
    found = [_moved_by_nan(subject, place) for place in range(len(subject.patients))]
    # NaN fails every comparison, and must fail this one.
    passed = all(moved <= subject.network.tolerance * subject.clip.norm for moved in found)
    return passed, f"a patient with NaN moves the sum by {max(map(_ordered, found)):g}"


def _moved_by_nan(subject: Subject, place: int) -> float:
    patient, others = subject.patients[place], [*subject.patients[:place], *subject.patients[place + 1 :]]
    images = patient.images.clone()
    images[0] = math.nan
    return float((subject.sum([Batch(images, patient.targets), *others]) - subject.sum(others)).norm())


def _ordered(found: float) -> float:
    """NaN as what it is worth: ``max`` would pass over it."""
    return math.inf if math.isnan(found) else found


def _empty(subject: Subject) -> tuple[bool, str]:
    nobody = subject.sum([])
    terms = _unit_terms(subject.clip)
    noisy = noisy_mean(nobody, terms, subject.noise)
    length = noisy.numel()
    spread, allowed = float(noisy.pow(2).mean().sqrt()) / subject.clip.norm, 6 / math.sqrt(2 * length)
    passed = not nobody.any() and abs(spread - 1) <= allowed
    return passed, f"nobody's sum has noise of {spread:.4f} times the planned size over {length} coordinates"


def _noise(subject: Subject) -> tuple[bool, str]:
    found = noisy_mean(torch.zeros(_DRAWS, dtype=torch.float64), _unit_terms(subject.clip), subject.noise)
    values = found.numpy() / subject.clip.norm
    spread, noticed = float(values.std()), all(not is_normal(values * wrong) for wrong in (2 / 3, 3 / 2))
    return is_normal(values) and noticed, f"noise has {spread:.4f} times the planned standard deviation"


def _shared(subject: Subject) -> tuple[bool, str]:
    share, grid = Share(least=3, colluding=1), FixedPoint()
    wanted = grid.range * 2.0**-10
    deviation = share.deviation(wanted, grid)
    first, second = (noised(np.zeros(_DRAWS), deviation, grid, subject.noise) for _ in range(share.honest))
    values = (first.astype(np.float64) + second) * (resolution(grid) / wanted)
    passed = is_normal(values) and not np.array_equal(first, second)
    return passed, f"two sites' parts make {float(values.std()):.4f} times the planned standard deviation"


def is_normal(values: np.ndarray) -> bool:
    """Whether values are standard normals as far as their spread and the Kolmogorov-Smirnov test can tell."""
    return abs(float(values.std()) - 1) <= _STD_WITHIN and float(kstest(values, "norm").pvalue) >= _LEAST_P


CHECKS: dict[str, Callable[[Subject], tuple[bool, str]]] = {
    "bound": _bound,
    "scaled": _scaled,
    "exact": _exact,
    "unit": _unit,
    "not-finite": _not_finite,
    "empty": _empty,
    "noise": _noise,
    "shared": _shared,
}


def _within(moved: float, norm: float) -> tuple[bool, str]:
    return moved <= norm * (1 + _SLACK), f"one patient moves the sum by {moved:.6g}, {norm:g} allowed"


def _contributed(subject: Subject, patient: Batch) -> float:
    return float(subject.sum([patient]).norm())


def _without_one(patients: Sequence[Batch]) -> Iterator[list[Batch]]:
    return ([*patients[:place], *patients[place + 1 :]] for place in range(len(patients)))


def _brighter(patient: Batch) -> Batch:
    return Batch(patient.images * 20, patient.targets)


def _unit_terms(clip: Clip) -> Terms:
    """Noise of one clip norm on a sum that is divided by 1."""
    return Terms(1.0, 1.0, clip.norm, 1.0, 1, 1)


def _state(network: Network) -> list[Tensor]:
    values = (*network.model.parameters(), *network.model.buffers())
    gradients = (torch.empty(0) if one.grad is None else one.grad for one in network.model.parameters())
    return [one.detach().clone() for one in (*values, *gradients)]


def _marks(network: Network) -> list[bool]:
    modes = [module.training for module in network.model.modules()]
    return modes + [one.requires_grad for one in network.model.parameters()]
