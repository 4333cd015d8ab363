"""Which weights train and travel, and weights to start from.

Promises
- ``trainable`` lists what travels: by name, in the order of registration, which is the same at every site. A parameter
  that a network registers under two names (MONAI's ``DynUNet``) is listed once, under its first.
- ``load_pretrained`` never unpickles. It changes nothing unless the file has the expected SHA-256 and all tensors fit.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load
from torch import Tensor, nn

from shared.errors import ModelError
from shared.plan_errors import suggest

_SHOWN = 3


def trainable(module: nn.Module) -> list[tuple[str, nn.Parameter]]:
    """Names and parameters that are trained and exchanged, in the order of registration."""
    return [(name, parameter) for name, parameter in module.named_parameters() if parameter.requires_grad]


def freeze(module: nn.Module, prefixes: tuple[str, ...]) -> None:
    """Take parameters out of training: every one whose dotted name starts with one of ``prefixes``.

    A prefix ends where a part of the name ends: ``stages.1`` is not ``stages.10``.

    Raises:
        ModelError: a prefix matches no parameter, or nothing is left to train. Then nothing was changed.
    """
    frozen = _matched(module, prefixes, key="model.freeze")
    left = [name for name, _ in trainable(module) if name not in frozen]
    if not left:
        raise ModelError("model.freeze leaves no parameter to train", hint="freeze fewer prefixes", code="model-freeze")
    for name, parameter in module.named_parameters():
        if name in frozen:
            parameter.requires_grad = False


def load_pretrained(
    module: nn.Module, path: Path, sha256: str, *, except_prefixes: tuple[str, ...] = ()
) -> tuple[str, ...]:
    """Start from the parameters in a safetensors file, frozen ones included.

    Args:
        module: the network; its parameters are overwritten in place.
        path: a local file with one tensor per parameter, named as ``module.named_parameters()`` names it.
        sha256: of the whole file, 64 hexadecimal digits.
        except_prefixes: parameters that the file may lack, such as the head of another task.

    Returns:
        Names of the parameters that kept their initial weights.

    Raises:
        ModelError: unreadable file, other digest, other names, shapes or types, or values that are not finite.
    """
    tensors = _read(path, sha256)
    parameters = dict(module.named_parameters())
    fresh = _matched(module, except_prefixes, key="except_prefixes") - tensors.keys()
    _require_fit(parameters, tensors, fresh)
    with torch.no_grad():
        for name, tensor in tensors.items():
            parameters[name].copy_(tensor)
    return tuple(name for name in parameters if name in fresh)


def _matched(module: nn.Module, prefixes: tuple[str, ...], *, key: str) -> set[str]:
    names = [name for name, _ in module.named_parameters()]
    matched: set[str] = set()
    for prefix in prefixes:
        found = {name for name in names if f"{name}.".startswith(f"{prefix}.")}
        if not found:
            raise ModelError(
                f"{key}: {prefix} matches no parameter of the network",
                hint=suggest(prefix, _prefixes(names, parts=prefix.count(".") + 1)),
                code="model-freeze",
            )
        matched |= found
    return matched


def _prefixes(names: Iterable[str], *, parts: int) -> set[str]:
    """Every prefix of up to ``parts`` parts: near enough to what was meant, and few enough to be listed."""
    split = [name.split(".") for name in names]
    return {".".join(name[:length]) for name in split for length in range(1, parts + 1)}


def _read(path: Path, sha256: str) -> dict[str, Tensor]:
    """Hash and parse the same bytes, so that the file cannot change between the two."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ModelError(
            f"the weights {path.name} cannot be read: {error.strerror}",
            hint="check model.pretrained.file; that of a built-in scenario is made by consilium-sim pretrain",
        ) from None
    found = hashlib.sha256(content).hexdigest()
    if found != sha256:
        raise ModelError(
            f"the weights {path.name} have SHA-256 {found[:12]}…, the plan says {sha256[:12]}…",
            hint="fetch the file again, or correct model.pretrained.sha256 and have the plan approved anew",
            code="model-digest",
        )
    try:
        return load(content)
    except SafetensorError:
        raise ModelError(
            f"the weights {path.name} are not in safetensors format", hint="convert them; nothing else is ever loaded"
        ) from None


def _require_fit(parameters: Mapping[str, Tensor], tensors: Mapping[str, Tensor], fresh: set[str]) -> None:
    missing = [name for name in parameters if name not in tensors and name not in fresh]
    unexpected = sorted(tensors.keys() - parameters.keys())
    common = [name for name in parameters if name in tensors]
    other = [
        f"{name} {_kind(tensors[name])} in the file, {_kind(parameters[name])} in the network"
        for name in common
        if _kind(tensors[name]) != _kind(parameters[name])
    ]
    differences = [("missing", missing), ("unexpected", unexpected), ("of another shape", other)]
    if missing or unexpected or other:
        raise ModelError(
            "the weights do not fit the network: " + "; ".join(_said(*found) for found in differences if found[1]),
            hint="check model.name, model.channels, data.classes and preprocessing.colour against the file's origin",
            code="model-weights",
        )
    broken = [name for name in common if not tensors[name].isfinite().all()]
    if broken:
        raise ModelError(
            f"the weights hold values that are not finite: {_said('tensors', broken)}",
            hint="train or convert the file again",
            code="model-weights",
        )


def _kind(tensor: Tensor) -> str:
    return f"{str(tensor.dtype).removeprefix('torch.')} {list(tensor.shape)}"


def _said(what: str, names: list[str]) -> str:
    return f"{len(names)} {what} ({', '.join(names[:_SHOWN])}{', …' if len(names) > _SHOWN else ''})"
