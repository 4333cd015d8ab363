"""Gradient inversion: from what one patient adds to an update back to the patient's image.

Geiping et al. (NeurIPS 2020): look for an image whose gradient points the same way (cosine distance) and that is smooth
(total variation), by Adam on the signs of its gradient, from noise. The label is known to the attacker.

Promises
- The attacker is given as much as can be: the weights, the label, the range of grey values, and a step in which one
  image of one patient is all that he does not know. What a coordinator sees of a whole round tells less.
- ``released`` is the mechanism of private training itself: the clipped gradient plus noise of sigma C on every
  coordinate, divided by the public number of patients in a step.
- Everything follows from the generators that are handed over.

Shapes: images (1, C, *spatial); gradients flat, (P,).
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from client.training.per_patient import flat
from shared.models.spec import ModelSpec, Output
from shared.privacy.clipping import Clip, ClippedSum
from shared.privacy.mechanism import noisy_mean
from shared.privacy.noise import Noise
from shared.privacy.terms import Terms
from shared.seeds import derive

Loss = Callable[[Tensor, Tensor], Tensor]

_WIDTH, _KERNEL = 12, 5
_CONVOLUTION = {2: nn.Conv2d, 3: nn.Conv3d}
_DROPS = (3 / 8, 5 / 8, 7 / 8)
"""Where in the search the step falls to a tenth: the authors' choice."""


@dataclass(frozen=True)
class Search:
    """How an image is looked for.

    Attributes:
        low: least grey value of any image.
        high: largest.
        iterations: steps of Adam.
        restarts: searches from different noise; the one that fits the gradient best is kept.
        total_variation: weight of smoothness.
    """

    low: float
    high: float
    iterations: int = 400
    restarts: int = 2
    total_variation: float = 1e-3

    @property
    def step(self) -> float:
        """First step, a twentieth of the range of grey values."""
        return (self.high - self.low) / 20


@dataclass(frozen=True, eq=False)
class Victim:
    """A network at known weights, and the label of the patient whose image is looked for."""

    model: nn.Module
    loss: Loss
    target: Tensor

    def gradient(self, image: Tensor) -> Tensor:
        """The gradient of the image's loss by all trained parameters, which can be differentiated once more."""
        parameters = [parameter for parameter in self.model.parameters() if parameter.requires_grad]
        loss = self.loss(self.model(image), self.target).mean()
        found = torch.autograd.grad(loss, parameters, create_graph=True, allow_unused=True)
        return torch.cat([flat(gradient, one) for gradient, one in zip(found, parameters, strict=True)])


@dataclass(frozen=True, eq=False)
class Found:
    """An image that a gradient was turned into, and how far its own gradient is from that (cosine distance, 0 to 2)."""

    image: Tensor
    distance: float


def released(gradient: Tensor, terms: Terms, clip: Clip, noise: Noise) -> Tensor:
    """What private training lets out in a step with this patient alone, shape (P,)."""
    total = ClippedSum(gradient.numel(), clip, gradient.device)
    total.add(gradient[None])
    return noisy_mean(total.values, terms, noise).to(gradient.dtype)


def invert(victim: Victim, observed: Tensor, shape: tuple[int, ...], search: Search, rng: np.random.Generator) -> Found:
    """The image of ``shape`` whose gradient is nearest to ``observed``, of several searches."""
    found = [
        _search(victim, observed, _noise(shape, search, rng, observed.device), search) for _ in range(search.restarts)
    ]
    return min(found, key=lambda one: one.distance)


def small_network(spec: ModelSpec, output: Output, size: tuple[int, ...], seed: int) -> nn.Module:
    """A small network that keeps what lies where: strided convolutions without pooling, a linear layer over all pixels.

    Of the kind whose gradients Zhu et al. (NeurIPS 2019) first turned back into images, with a smooth activation.
    """
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(derive(seed, "attack", "small-network") % 2**32)
        if output == "image":
            return _for_images(spec, size)
        return _for_voxels(spec)


def _for_images(spec: ModelSpec, size: tuple[int, ...]) -> nn.Module:
    features = _WIDTH * math.prod(-(-edge // 4) for edge in size)
    return nn.Sequential(
        OrderedDict(
            first=_layer(spec, spec.input_channels, 2),
            second=_layer(spec, _WIDTH, 2),
            third=_layer(spec, _WIDTH, 1),
            flatten=nn.Flatten(),
            head=nn.Linear(features, spec.output_channels),
        )
    )


def _for_voxels(spec: ModelSpec) -> nn.Module:
    head = _CONVOLUTION[spec.dimensions](_WIDTH, spec.output_channels, 1)
    layers = (_layer(spec, spec.input_channels, 1), _layer(spec, _WIDTH, 1), head)
    return nn.Sequential(*layers)


def _layer(spec: ModelSpec, channels: int, stride: int) -> nn.Module:
    convolution = _CONVOLUTION[spec.dimensions](channels, _WIDTH, _KERNEL, stride, _KERNEL // 2)
    return nn.Sequential(convolution, nn.ELU())


def _noise(shape: tuple[int, ...], search: Search, rng: np.random.Generator, device: torch.device) -> Tensor:
    return torch.from_numpy(rng.uniform(search.low, search.high, shape).astype(np.float32)).to(device)


def _search(victim: Victim, observed: Tensor, image: Tensor, search: Search) -> Found:
    image.requires_grad_()
    optimizer = torch.optim.Adam([image], lr=search.step)
    drops = [int(search.iterations * share) for share in _DROPS]
    schedule = torch.optim.lr_scheduler.MultiStepLR(optimizer, drops, 0.1)
    for _ in range(search.iterations):
        distance = _distance(victim.gradient(image), observed)
        objective = distance + search.total_variation * total_variation(image)
        image.grad = torch.autograd.grad(objective, image)[0].sign()
        optimizer.step()
        schedule.step()
        with torch.no_grad():
            image.clamp_(search.low, search.high)
    image = image.detach()
    return Found(image, float(_distance(victim.gradient(image), observed).detach()))


def _distance(gradient: Tensor, observed: Tensor) -> Tensor:
    return 1 - nn.functional.cosine_similarity(gradient, observed, dim=0)


def total_variation(image: Tensor) -> Tensor:
    """Mean absolute difference of neighbours, summed over the spatial axes; a scalar."""
    axes = range(2, image.ndim)
    return torch.stack([image.diff(dim=axis).abs().mean() for axis in axes]).sum()
