"""Where in an image a classification comes from: Grad-CAM and occlusion, at a site only.

Promises
- A map has the image's spatial shape, float32, from 0 to 1 (its largest value). Where nothing speaks for the class, or
  the network gives no number, it is 0 everywhere. It is a picture of a patient: show it at the site, never send it.
- The network is copied: its weights, gradients, frozen parts, mode and hooks stay as they were.

What is explained is the *log-odds* of a class: the logit of a finding, and for exclusive classes the logit less the
logsumexp of all others. Unlike one logit it does not change with what softmax ignores, a constant added to all. Unlike
a probability it does not saturate.

==========  ============================================================================================================
method      map
==========  ============================================================================================================
grad-cam    positive part of a layer's channels, weighted by their mean gradient, enlarged to the image (Selvaraju et
            al., ICCV 2017; MONAI's). One pass forward and back. As coarse as the layer
occlusion   fall of the log-odds where a window shows its image's mean instead, averaged over the windows that cover a
            voxel, rises set to 0 (Zeiler & Fergus, ECCV 2014). Hundreds of passes; asks nothing of the network
==========  ============================================================================================================

Rules
- The layer of Grad-CAM is the last, in order of execution, whose output is still a map of more than one voxel. In
  ``cnn`` and ``resnet18`` the last convolution stands there too; in ``densenet121`` that convolution is 32 of 1024
  channels, and in a small image the last map may be a single voxel.
- A network that reads several levels at once (``whitened_cnn``) is explained by the last alone: prefer occlusion.
- Windows are an eighth of each edge in 2-D and a quarter in 3-D, and overlap by half: 225 and 343 passes an image. They
  are laid by MONAI, but its ``OcclusionSensitivity`` is not used: release 1.6 indexes tensors with lists, which torch
  has announced to read differently, and picks the activation by the number of *input* channels.
- Prefer occlusion under group or instance norm, which carry what a lesion does to every voxel of a map. Of eight small
  networks that told lesions equally well, Grad-CAM pointed at the lesion in 0 to 100 % of images (mean 60 %), without
  the norm in 92 to 100 %; occlusion in 83 % or more (``tests/client/test_training_explain.py``).
- A map can look right and mean nothing. It must change when the weights are drawn anew (Adebayo et al., NeurIPS 2018).

Left to others: showing maps; which images are explained, and what may leave of it (``client.training.explained``).
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Literal

import numpy as np
import torch
from monai.data.utils import dense_patch_slices
from monai.visualize.class_activation_maps import GradCAM
from torch import Tensor, nn

from shared.errors import ModelError, PlanError
from shared.evaluation.saliency import Saliency
from shared.plan import Plan
from shared.preprocessing.image import Case

Method = Literal["grad-cam", "occlusion"]
Explainer = Callable[[Case, int], Saliency]
"""(case, index of a class) -> map of what speaks for that class."""

_WINDOWS_PER_EDGE = {2: 8, 3: 4}
_AT_ONCE = 16
"""Occluded images in one forward pass."""


def explainer(model: nn.Module, plan: Plan, device: torch.device, method: Method) -> Explainer:
    """A function that explains ``model`` as it is now, case by case.

    It keeps the layer's values of the last case: drop it when done.

    Raises:
        PlanError: the task is no classification.
        ModelError: Grad-CAM has no layer to look at.
    """
    if plan.plan.task != "classification":
        raise PlanError(
            f"explanations are for classification, the task of this plan is {plan.plan.task}",
            hint="a segmentation is its own map",
        )
    evidence = _Evidence(copy.deepcopy(model), plan.data.labels).to(device).eval()
    evidence.requires_grad_(method == "grad-cam")
    make = partial(_occlusion, evidence) if method == "occlusion" else _grad_cam(evidence, plan, device)

    def explain_one(case: Case, index: int) -> Saliency:
        # A copy: voxels of a store are read-only memory.
        return _shares(make(torch.tensor(case.voxels[None], device=device), index))

    return explain_one


def explain(model: nn.Module, case: Case, index: int, plan: Plan, device: torch.device, method: Method) -> Saliency:
    """The map of one case and class, shape (*spatial); for many cases make one ``explainer``."""
    return explainer(model, plan, device, method)(case, index)


def last_map(network: nn.Module, images: Tensor) -> str:
    """Name of the layer for Grad-CAM, by the rule of the module; raises ``ModelError`` where there is none."""
    maps: list[str] = []

    def note(name: str, _layer: nn.Module, _inputs: object, output: object) -> None:
        if isinstance(output, Tensor) and output.ndim == images.ndim and math.prod(output.shape[2:]) > 1:
            maps.append(name)

    layers = [(name, layer) for name, layer in network.named_modules() if name]
    hooks = [layer.register_forward_hook(partial(note, name)) for name, layer in layers]
    try:
        with torch.no_grad():
            network(images)
    finally:
        for hook in hooks:
            hook.remove()
    if not maps:
        raise ModelError(
            f"none of the network's {len(layers)} layers gives a map of more than one voxel, which Grad-CAM needs",
            hint="use larger images, or explain by occlusion",
        )
    return maps[-1]


class _Evidence(nn.Module):
    """Images to the log-odds of each class, (B, K), float32."""

    def __init__(self, network: nn.Module, labels: Literal["exclusive", "multilabel"]) -> None:
        super().__init__()
        self.network, self.labels = network, labels

    def forward(self, images: Tensor) -> Tensor:
        """See the class."""
        logits: Tensor = self.network(images).float()
        if self.labels == "multilabel":
            return logits
        own = torch.eye(logits.shape[1], dtype=torch.bool, device=logits.device)
        others: Tensor = logits[:, None].masked_fill(own, -torch.inf).logsumexp(dim=2)
        return logits - others


def _grad_cam(evidence: _Evidence, plan: Plan, device: torch.device) -> Callable[[Tensor, int], Tensor]:
    blank = torch.zeros(1, plan.input_channels, *plan.preprocessing.size, device=device)
    # MONAI's own last step sets the largest value to 0.
    cam = GradCAM(evidence, last_map(evidence, blank), postprocessing=lambda enlarged: enlarged)

    def make(images: Tensor, index: int) -> Tensor:
        # Gradients must reach the layer's input too, or torch warns of a hook without one.
        found: Tensor = cam(images.requires_grad_(), class_idx=index)
        return found.detach()[0, 0]

    return make


def _occlusion(evidence: _Evidence, images: Tensor, index: int) -> Tensor:
    size = images.shape[2:]
    mean = images[0].flatten(1).mean(dim=1).reshape(-1, *[1] * len(size))
    fall = torch.zeros(size, device=images.device)
    covered = torch.zeros_like(fall)
    with torch.inference_mode():
        seen = evidence(images)[0, index]
        for some in _windows(size):
            hidden = images.repeat(len(some), *[1] * (len(size) + 1))
            for image, window in zip(hidden, some, strict=True):
                image[(slice(None), *window)] = mean
            for window, left in zip(some, evidence(hidden)[:, index], strict=True):
                fall[window] += seen - left
                covered[window] += 1
    return fall / covered


def _windows(size: Sequence[int]) -> Iterator[list[tuple[slice, ...]]]:
    """Windows that cover an image of ``size``, a batch at a time."""
    window = tuple(max(1, edge // _WINDOWS_PER_EDGE[len(size)]) for edge in size)
    every = dense_patch_slices(size, window, tuple(max(1, edge // 2) for edge in window))
    for start in range(0, len(every), _AT_ONCE):
        yield every[start : start + _AT_ONCE]


def _shares(found: Tensor) -> Saliency:
    """Shares of the largest value; 0 everywhere where that is not a positive number."""
    values = found.float().cpu().numpy().astype(np.float32).clip(min=0)
    largest = values.max()
    return values / largest if 0 < largest < np.inf else np.zeros_like(values)
