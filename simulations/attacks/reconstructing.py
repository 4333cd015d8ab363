"""One patient's image, looked for in what that patient adds to the first update: without privacy, and with it.

Promises
- Two networks are attacked: the plan's own at its first weights, and a small one that is easy to attack. What the first
  one keeps to itself, a network that a hospital did not look at so closely may give away.
- The gradient is that of one image without augmentation. Every arm releases the same one.
- Pictures come back for synthetic patients only.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from client.workbench import Workbench
from shared.messages import Vector
from shared.models import spec_of
from shared.plan import Plan
from shared.plan_preprocessing import Percentile, Window
from shared.privacy.clipping import Clip
from shared.privacy.noise import UnsafeSeededNoise
from shared.seeds import derive, generator
from simulations.attacks.arms import Arm
from simulations.attacks.findings import Network, Reconstruction
from simulations.attacks.inversion import Search, Victim, invert, released, small_network
from simulations.attacks.likeness import likeness
from simulations.attacks.population import Population, population
from simulations.workers import Sites, SiteSpec

_GUESSED_FROM = 64
"""Other patients whose mean image is the guess."""
_SPREAD = 4.0
"""Standard deviations beyond which no image normalised by its own is taken to reach."""


@dataclass(frozen=True)
class Wish:
    """What to look for.

    Attributes:
        network: in whose gradient.
        number: which patient of those drawn, from 0.
        arms: how gradients are released, the plain one first.
        iterations: of each search.
        pictures: whether images may be handed back.
    """

    network: Network
    number: int
    arms: tuple[Arm, ...]
    iterations: int
    pictures: bool


def grey_range(plan: Plan) -> tuple[float, float]:
    """Least and largest value of an image after the plan's preprocessing: public, so known to an attacker."""
    bounded = isinstance(plan.preprocessing.intensity, Window | Percentile)
    return (-1.0, 1.0) if bounded else (-_SPREAD, _SPREAD)


def reconstruct(sites: Sites, specs: Sequence[SiteSpec], wish: Wish, initial: Vector) -> list[Reconstruction]:
    """The patient's image as each arm's release gives it away."""
    bench, everybody = sites.workbench, population(sites, specs)
    order = generator(bench.plan.plan.seed, "attack", "looked-for").permutation(len(everybody.patients))
    truth, target = _image(bench, everybody, int(order[wish.number]))
    victim = _victim(bench, wish.network, initial, target)
    guess = _mean_image(bench, everybody, order, wish.number)
    return [_of_arm(bench, victim, wish, arm, (truth, guess)) for arm in wish.arms]


def _of_arm(bench: Workbench, victim: Victim, wish: Wish, arm: Arm, images: tuple[Tensor, Tensor]) -> Reconstruction:
    truth, guess = images
    low, high = grey_range(bench.plan)
    names = ("attack", "inversion", wish.network, wish.number)
    observed = victim.gradient(truth).detach()
    if arm.terms is not None:
        noise = UnsafeSeededNoise(derive(bench.plan.plan.seed, *names, arm.name, "noise"))
        observed = released(observed, arm.terms, Clip(arm.terms.clip_norm, arm.plan.privacy.clipping), noise)
    rng = generator(bench.plan.plan.seed, *names, arm.name)
    found = invert(victim, observed, tuple(truth.shape), Search(low, high, wish.iterations), rng)
    return Reconstruction(
        network=wish.network,
        patient=wish.number + 1,
        arm=arm.name,
        distance=found.distance,
        found=likeness(found.image, truth, high - low),
        guess=likeness(guess, truth, high - low),
        picture=found.image[0].cpu().numpy() if wish.pictures else None,
        truth=truth[0].cpu().numpy() if wish.pictures else None,
    )


def _victim(bench: Workbench, network: Network, initial: Vector, target: Tensor) -> Victim:
    if network == "plan":
        return Victim(bench.load(initial).eval(), bench.task.loss, target)
    plan = bench.plan
    small = small_network(
        spec_of(plan, bench.task.output_channels), bench.task.output, plan.preprocessing.size, plan.plan.seed
    )
    return Victim(small.to(bench.device), bench.task.loss, target)


def _image(bench: Workbench, everybody: Population, patient: int) -> tuple[Tensor, Tensor]:
    """First image of a patient, shape (1, C, *spatial), and its target."""
    case = everybody.cases[everybody.patients[patient][0]]
    image, target = np.array(case.voxels)[None], np.asarray(bench.task.target(case))[None]
    return torch.from_numpy(image).to(bench.device), torch.from_numpy(target).to(bench.device)


def _mean_image(bench: Workbench, everybody: Population, order: NDArray[np.int64], number: int) -> Tensor:
    """Mean of other patients' first images: what an attacker without a gradient would guess."""
    others = [int(patient) for place, patient in enumerate(order) if place != number][:_GUESSED_FROM]
    return torch.stack([_image(bench, everybody, patient)[0] for patient in others]).mean(dim=0)
