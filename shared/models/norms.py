"""Normalisation that one patient's gradient can survive.

Promises
- After ``replace_norms`` every batch and instance normalisation is a ``GroupNorm`` with trainable scale and shift: no
  running statistics, and no image's output depends on the others in its batch.
- ``require_no_running_statistics`` refuses a network that does not keep this. Clipping bounds what a patient does to a
  gradient; what a patient does to a running mean is bounded by nothing (docs/guarantees.md).

Rules
- Instance normalisation is group normalisation with one channel per group (Wu & He, ECCV 2018, section 3.1). It is
  built that way, since torch's ``GroupNorm`` takes half the time of its ``InstanceNorm`` on a CPU.
- Layer normalisation of transformers sees one image only and stays as it is.

Left to others: buffers that are constants, such as a transformer's table of relative positions, never travel.
"""

from __future__ import annotations

from torch import nn

from shared.errors import ModelError
from shared.models.spec import Norm

MOST_GROUPS = 8
_BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)
_INSTANCE_NORMS = (nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d)
_RUNNING = frozenset({"running_mean", "running_var", "num_batches_tracked"})


def group_count(norm: Norm, channels: int) -> int:
    """Number of groups that ``channels`` are normalised in; divides ``channels``.

    ======== ==============================================================================
    instance one group per channel
    group    the largest divisor up to 8 that leaves two channels in a group; 1 for a prime
    ======== ==============================================================================
    """
    if norm == "instance":
        return channels
    most = min(MOST_GROUPS, max(1, channels // 2))
    return max(groups for groups in range(1, most + 1) if channels % groups == 0)


def replace_norms(module: nn.Module, norm: Norm) -> nn.Module:
    """Swap every batch and instance normalisation below ``module`` in place, and return ``module``.

    A layer registered under two names is swapped for one layer under both. Scale and shift start at one and zero.
    """
    swapped: dict[nn.Module, nn.GroupNorm] = {}
    for path, layer in list(module.named_modules(remove_duplicate=False)):
        if isinstance(layer, _BATCH_NORMS + _INSTANCE_NORMS):
            if layer not in swapped:
                swapped[layer] = nn.GroupNorm(group_count(norm, layer.num_features), layer.num_features, eps=layer.eps)
            module.set_submodule(path, swapped[layer])
    return module


def data_dependent_buffers(module: nn.Module) -> list[str]:
    """Names of running statistics, in the order of registration."""
    return [name for name, _ in module.named_buffers() if name.rpartition(".")[2] in _RUNNING]


def require_no_running_statistics(module: nn.Module) -> None:
    """Refuse a network in which images leave traces or see each other.

    Batch normalisation without running statistics is refused too: it makes one patient's gradient depend on others.

    Raises:
        ModelError: with the first names and the count.
    """
    layers = [name for name, layer in module.named_modules() if isinstance(layer, _BATCH_NORMS)]
    found = data_dependent_buffers(module) or layers
    if found:
        raise ModelError(
            f"the network keeps statistics of the images it has seen, in {len(found)} places: {', '.join(found[:3])}",
            hint="use group or instance normalisation (shared.models.norms.replace_norms)",
            code="model-statistics",
        )
