"""An audit of the private mechanism by one run: can anybody tell from what it releases who was in the sum?

Promises
- Made-up patients, the canaries, are each in or out by a fair coin of their own. The engine adds the clipped gradients
  of those who are in, the mechanism adds its noise, and who was in is guessed from the noisy sum alone. A mechanism
  that keeps epsilon cannot be guessed too well (``Guesses.p_value``); one that is, fails.
- A right mechanism fails once in 1000 audits at most, whatever network, plan and canaries are. No patient's image is
  read.
- The guesser knows the network and all canaries. It is told nothing by the code under test: the gradients that it looks
  for are automatic differentiation of one image at a time in double precision.

Rules
- A canary is one image, a wave of a direction and length of its own, ``ROWS`` times over. Waves have gradients that
  point in different directions, where those of random voxels are nearly parallel; equal rows show whether it is the
  patient who is bounded.
- The engine is given a bound 1000 times below the canaries' gradients, however large the plan's is: a gradient that is
  not clipped then stands far above the noise, also where a normalisation makes bright images small.
- The noise is that of one step at rate 1 that costs ``TEST_EPSILON``. At epsilon 25 the audit would see nothing: 48
  guesses, all right, prove no more than 1.8 with the certainty that is asked for. More steps at the same weights would
  prove no more either: their mean is one step with less noise.
- An audit that would take longer than it may is left out, and its check says so: large networks on slow processors.
- ``GUESSES`` are made, half in and half out, for the canaries whose least-squares coefficients are most extreme.

What it finds, in 100 audits of each, on the U-Net of the demo (96 x 96, instance normalisation; 4 s on one core):

===============================================  ======  ============================================
mechanism                                        failed  median of what is proved of epsilon (95 %)
===============================================  ======  ============================================
right                                            0       0.0
noise of 2/3, 1/2, 1/4 of its size               0       0.15, 0.24, 1.0
noise of 1/6 of its size                         26      1.7
noise of 1/8 of its size                         78      2.25
no noise                                         100     2.74, the most that 48 guesses can prove
no clipping                                      100     2.74
each image clipped, and their sum taken          76      2.25
a clipped gradient times the number of images    82      2.74
a patient counted twice                          0       0.33
the sum of images' gradients, clipped            0       0.0: no fault, a patient is bounded
===============================================  ======  ============================================

With group normalisation, whose canaries are more alike, noise of 1/8 is found in 14 of 100, and images clipped one by
one in 14; on a network of a few hundred parameters only missing noise and missing clipping are, each time.

So it is a net for gross faults of any kind, such as those that nobody thought of. Small ones are found by the checks of
``client.training.self_test``, which look at one property each.

Sources: Steinke, Nasr & Jagielski, "Privacy auditing with one (1) training run", NeurIPS 2023 (arXiv 2305.08846),
theorem 5.2 and appendix D.
"""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.stats import binom
from torch import Tensor

from client.data.progress import Progress, silent
from client.training.batches import Batch
from client.training.per_patient import Network, OneByOne, PatientGradients
from client.training.self_test import Check
from client.training.stand_ins import made_up_case
from client.training.vectorised import SideBySide
from shared.plan import Plan
from shared.preprocessing.image import Case
from shared.privacy.accounting import Target, noise_for
from shared.privacy.clipping import Clip
from shared.privacy.mechanism import noisy_mean
from shared.privacy.noise import Noise, SecureNoise
from shared.privacy.terms import Terms
from shared.tasks.task import Task

CANARIES, ROWS, GUESSES = 96, 8, 48
TEST_EPSILON, TEST_DELTA = 1.5, 1e-5
FALSE_ALARMS = 1e-3

_BELOW = 1000.0
"""The canaries' gradients over the bound."""
_COORDINATES = 2**19
"""Most coordinates that are looked at: gradients of 96 canaries then take 400 MB."""
_DEPENDENT = 1e-9
"""Directions of canaries with less than this share of the largest eigenvalue cannot be told from others."""
_MOST_EPSILON = 50.0


@dataclass(frozen=True, slots=True)
class Guesses:
    """How an audit went.

    Attributes:
        canaries: each of which was in or out by a fair coin.
        made: guesses, for canaries of the guesser's choice.
        right: guesses that were.
    """

    canaries: int
    made: int
    right: int

    def p_value(self, epsilon: float, delta: float) -> float:
        """Bound on the chance that an (epsilon, delta)-private mechanism is guessed at least as well as this.

        Steinke et al. 2023, theorem 5.2: right guesses are no more than a binomial of ``made`` trials that succeed with
        e^epsilon / (1 + e^epsilon), but for a share that delta pays for.
        """
        chance = binom(self.made, 1 / (1 + math.exp(-epsilon)))
        less = np.arange(1, self.right + 1)
        # Probability of ``right - i`` to ``right - 1`` successes, for i = 1, 2, ..., over i.
        slack = np.cumsum(chance.pmf(self.right - less)) / less
        paid = 2 * self.canaries * delta * float(slack.max(initial=0.0))
        return min(1.0, float(chance.sf(self.right - 1)) + paid)

    def epsilon_at_least(self, delta: float, confidence: float) -> float:
        """What epsilon is at least, at ``delta`` and with this confidence; 0 where guesses say nothing."""
        low, high = 0.0, _MOST_EPSILON
        if self.p_value(low, delta) > 1 - confidence:
            return 0.0
        while high - low > 1e-6:
            middle = (low + high) / 2
            low, high = (middle, high) if self.p_value(middle, delta) <= 1 - confidence else (low, middle)
        return low

    @property
    def passed(self) -> bool:
        """Whether a mechanism that keeps the test's epsilon may be guessed this well."""
        return self.p_value(TEST_EPSILON, TEST_DELTA) > FALSE_ALARMS


@dataclass(frozen=True)
class Trial:
    """What is audited.

    Attributes:
        network: gradients are taken of it.
        engine: makes the engine under test for a bound of one patient's gradient.
        noise: hides the sum.
        canaries: made-up patients of one image each, which all their rows repeat.
    """

    network: Network
    engine: Callable[[float], PatientGradients]
    noise: Noise
    canaries: Sequence[Batch]

    @classmethod
    def of(cls, network: Network, engine: PatientGradients, task: Task, plan: Plan) -> Trial:
        """Under ``plan``, with noise as it is used and an engine like ``engine``."""
        rng = np.random.default_rng(2)
        canaries = [canary(task, plan, rng) for _ in range(CANARIES)]
        return cls(network, lambda norm: rebuilt(engine, network, plan, norm), SecureNoise(), canaries)


def rebuilt(engine: PatientGradients, network: Network, plan: Plan, norm: float) -> PatientGradients:
    """An engine like ``engine`` that keeps the bound ``norm``."""
    clip = Clip(norm, plan.privacy.clipping)
    if isinstance(engine, SideBySide):
        return SideBySide(network, clip, plan.training.patients_per_step)
    return OneByOne(network, clip)


def canary(task: Task, plan: Plan, rng: np.random.Generator) -> Batch:
    """A made-up patient whose image is a wave, with a target as for other made-up patients."""
    case = made_up_case(plan, rng)
    waving = replace(case, voxels=_wave(case, rng))
    image, target = torch.from_numpy(waving.voxels), torch.from_numpy(np.asarray(task.target(waving)))
    return Batch(image.expand(ROWS, *image.shape), target.expand(ROWS, *target.shape))


def check(trial: Trial, at_most_s: float = math.inf, progress: Progress = silent) -> Check:
    """The audit as a check of the self-test; left out where it would take longer than ``at_most_s``."""
    needed_s = _seconds(trial)
    if needed_s > at_most_s:
        said = f"left out: about {needed_s:.0f} s, {at_most_s:g} s allowed here; consilium-site self-test does it"
        return Check("canary", True, said)  # noqa: FBT003 - a field
    found = audit(trial, looked_for(trial, progress))
    said = (
        f"{found.right} of {found.made} guesses are right: epsilon is {found.epsilon_at_least(TEST_DELTA, 0.95):.2f} "
        f"or more (95 %), {TEST_EPSILON:g} was promised"
    )
    return Check("canary", found.passed, said)


@dataclass(frozen=True)
class LookedFor:
    """What the guesser knows.

    Attributes:
        directions: of the canaries' gradients, some coordinates each: shape (m, K), float64.
        norm: the bound to clip at.
    """

    directions: Tensor
    norm: float


def looked_for(trial: Trial, progress: Progress = silent) -> LookedFor:
    """The gradients of all canaries, without the engine under test."""
    reference = _reference(trial.network)
    rows, norms = [], []
    for place, patient in enumerate(trial.canaries):
        gradient = _gradient(reference, patient)
        norms.append(float(gradient.norm()))
        rows.append(_looked_at(gradient) / max(norms[-1], 1e-30))
        progress(place + 1, len(trial.canaries))
    return LookedFor(torch.stack(rows), max(float(np.median(norms)), 1e-12) / _BELOW)


def audit(trial: Trial, known: LookedFor) -> Guesses:
    """Draw who is in, release the noisy sum, and guess."""
    inside = SecureNoise().coins(len(trial.canaries), 0.5)
    # One step whose divisor is not 1, so that noise which is added after the division would be noticed.
    sigma = noise_for(Target(TEST_EPSILON, TEST_DELTA, 1.0, 1))
    terms = Terms(1.0, sigma, known.norm, len(trial.canaries) / 2, 1, 1)
    engine = trial.engine(known.norm)
    total = engine(patient for patient, drawn in zip(trial.canaries, inside, strict=True) if drawn)
    released = noisy_mean(total.values, terms, trial.noise)
    return guessed(_coefficients(known.directions, _looked_at(released)), inside)


def guessed(scores: NDArray[np.float64], inside: NDArray[np.bool_], made: int = GUESSES) -> Guesses:
    """Say "in" of the highest scores and "out" of the lowest, and count what is right."""
    order, half = np.argsort(scores), made // 2
    right = np.count_nonzero(~inside[order[:half]]) + np.count_nonzero(inside[order[len(order) - half :]])
    return Guesses(len(scores), 2 * half, int(right))


def _reference(network: Network) -> Network:
    """The network in double precision, apart from the one under test."""
    return replace(network, model=copy.deepcopy(network.model).double(), precision="float32")


def _gradient(reference: Network, patient: Batch) -> Tensor:
    """Gradient of a patient's one image, shape (P,), float64."""
    loss = reference.losses(Batch(patient.images[:1].double(), patient.targets[:1])).sum()
    parameters = reference.parameters()
    found = torch.autograd.grad(loss, parameters, allow_unused=True)
    parts = [
        torch.zeros_like(parameter) if gradient is None else gradient
        for gradient, parameter in zip(found, parameters, strict=True)
    ]
    return torch.cat([part.reshape(-1) for part in parts])


def _looked_at(values: Tensor) -> Tensor:
    """Evenly spread coordinates of a vector, as many as memory has room for."""
    return values[:: math.ceil(len(values) / _COORDINATES)]


def _coefficients(directions: Tensor, released: Tensor) -> NDArray[np.float64]:
    """How much of each direction is in ``released``, by least squares, up to a common factor: shape (m,)."""
    alike = torch.linalg.pinv(directions @ directions.T, rtol=_DEPENDENT, hermitian=True)
    found: NDArray[np.float64] = (alike @ (directions @ released)).cpu().numpy()
    return found


def _seconds(trial: Trial) -> float:
    """About how long the audit takes."""
    reference = _reference(trial.network)
    once = min(_seconds_of(reference, trial.canaries[0]) for _ in range(2))
    # The engine passes half of the canaries, each ``ROWS`` times, in about half the time of double precision.
    return len(trial.canaries) * once * (1 + ROWS / 4)


def _seconds_of(reference: Network, patient: Batch) -> float:
    began = time.perf_counter()
    float(_gradient(reference, patient).sum())  # waits for the device
    return time.perf_counter() - began


def _wave(case: Case, rng: np.random.Generator) -> NDArray[np.float32]:
    """A plane wave of standard deviation 1 in every channel, each with a direction and length of its own."""
    axes = np.meshgrid(*[np.arange(extent) for extent in case.voxels.shape[1:]], indexing="ij")
    channels = []
    for _ in case.voxels:
        along = sum(axis * step for axis, step in zip(axes, rng.uniform(0, np.pi, len(axes)), strict=True))
        channels.append(np.sqrt(2) * np.cos(along + rng.uniform(0, 2 * np.pi)))
    return np.stack(channels).astype(np.float32)
