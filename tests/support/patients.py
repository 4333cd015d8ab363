"""Made-up patients, and a narrow network for every row of the table of architectures, to take their gradients of."""

import copy
import functools
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Literal

import numpy as np
import torch
from tiny_training import CPU, make_plan
from torch import Tensor, nn

from client.training.batches import Batch
from client.training.per_patient import Network, OneByOne, PatientGradients
from client.training.vectorised import SideBySide
from shared.models import ARCHITECTURES, ModelSpec, build_network, trainable
from shared.models.spec import Norm
from shared.plan import Plan
from shared.privacy.clipping import Clip
from shared.tasks.classification import cross_entropy
from shared.tasks.segmentation import cross_entropy_and_dice

CHANNELS, CLASSES = 1, 3

WIDTHS: dict[str, tuple[int, ...] | None] = {
    "cnn": (4, 8),
    "whitened_cnn": (4, 8, 6),
    "densenet121": None,
    "resnet18": (4, 8, 8, 8),
    "resnet50": (4, 8, 8, 8),
    "unet": (4, 8, 16),
    "fine_unet": (4, 4, 8),
    "basic_unet": (4, 4, 8, 8, 16, 4),
    "dynunet": (4, 8, 16),
    "segresnet": (4,),
    "attention_unet": (4, 8, 16),
    "swin_unetr": (12,),
}
"""Without widths (None) they are fixed."""

DEEP = {"densenet121", "resnet18", "resnet50", "swin_unetr"}
"""At 1/32 of the edges they need more than one voxel."""

EngineName = Literal["loop", "vectorised"]


@functools.cache
def small_network(name: str, dimensions: int, norm: Norm) -> Network:
    """A row of the table, narrow, in training mode. Shared: nothing may change it, which is tested."""
    spec = ModelSpec(name, dimensions, CHANNELS, CLASSES, WIDTHS[name], norm)
    dense = ARCHITECTURES[name].output == "dense"
    return Network(build_network(spec, 0).train(), cross_entropy_and_dice if dense else cross_entropy, CPU)


def edges(name: str, dimensions: int, norm: Norm) -> tuple[int, ...]:
    """A small size that the network takes and in which all its gradients pass."""
    if name in DEEP:
        return (64, 64) if dimensions == 2 else (32, 32, 32) if norm == "group" else (64, 64, 32)
    if name == "basic_unet":
        return (16,) * dimensions if norm == "group" else (32,) * dimensions
    return (32, 32) if dimensions == 2 else (16,) * 3 if name == "segresnet" else (8,) * 3


def some_patients(name: str, dimensions: int, norm: Norm, rows: Sequence[int], seed: int = 7) -> list[Batch]:
    """A patient for each number in ``rows``, with as many images."""
    size, dense = edges(name, dimensions, norm), ARCHITECTURES[name].output == "dense"
    return [patient(count, size, seed + place, dense=dense) for place, count in enumerate(rows)]


def patient(rows: int, size: tuple[int, ...], seed: int, *, dense: bool) -> Batch:
    rng = np.random.default_rng(seed)
    images = rng.standard_normal((rows, CHANNELS, *size), dtype=np.float32)
    targets = rng.integers(CLASSES, size=(rows, *size) if dense else rows)
    return Batch(torch.from_numpy(images), torch.from_numpy(targets))


def engine_of(name: EngineName, network: Network, clip: Clip, rows_at_once: int = 8) -> PatientGradients:
    return OneByOne(network, clip) if name == "loop" else SideBySide(network, clip, rows_at_once)


def reference_gradient(network: Network, batch: Batch) -> np.ndarray[Any, np.dtype[np.float64]]:
    """A patient's gradient in double precision: autograd of the mean loss over their rows, row after row."""
    model = copy.deepcopy(network.model).double()
    for image, target in zip(batch.images.double(), batch.targets, strict=True):
        (network.loss(model(image[None]), target[None]).sum() / len(batch)).backward()
    gradients = [one.grad if one.grad is not None else torch.zeros_like(one) for _, one in trainable(model)]
    found: np.ndarray[Any, np.dtype[np.float64]] = torch.cat([one.flatten() for one in gradients]).numpy()
    return found


def clipped_by_hand(gradients: Iterable[np.ndarray[Any, Any]], norm: float) -> np.ndarray[Any, Any]:
    """The sum of gradients, each scaled down to ``norm`` where it is longer: Abadi et al. 2016, algorithm 1."""
    found: np.ndarray[Any, Any] = sum(one / max(1.0, np.linalg.norm(one) / norm) for one in gradients)  # type: ignore[assignment]
    return found


def state_of(model: nn.Module) -> list[Any]:
    """All that an engine must leave alone: values as bytes, gradients, what trains, and modes."""
    tensors = [*model.named_parameters(), *model.named_buffers()]
    values: list[Any] = [(name, one.detach().numpy().tobytes(), one.requires_grad) for name, one in tensors]
    gradients = [None if one.grad is None else one.grad.numpy().tobytes() for one in model.parameters()]
    return [*values, *gradients, *(module.training for module in model.modules())]


def out_of_memory_above(model: nn.Module, rows: int) -> Callable[[], None]:
    """Make ``model`` do what CUDA does when a batch does not fit; gives the way back."""

    def check(_module: nn.Module, given: tuple[Tensor, ...]) -> None:
        if len(given[0]) > rows:
            raise torch.OutOfMemoryError("CUDA out of memory")

    return model.register_forward_pre_hook(check).remove


def private_plan(**changes: Any) -> Plan:
    """The smallest plan with patient-level privacy; changes as in ``make_plan``."""
    promised: dict[str, Any] = {
        "privacy__unit": "patient",
        "privacy__epsilon": 8.0,
        "privacy__delta": 1e-3,
        "privacy__clip_norm": 1.0,
        "privacy__public_patients": 8,
        "evaluation__release": "dp",
    }
    return make_plan(**{**promised, **changes})
