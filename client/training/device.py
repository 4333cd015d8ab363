"""Where training runs, in which precision, and whether it fits.

Promises
- ``choose("auto")`` takes a CUDA device that works, else the CPU; asking for CUDA where there is none is an error,
  never a silent fall-back.
- bfloat16 autocast is used on CUDA devices that support it and nowhere else unless the plan asks; on the CPU ``auto``
  means float32, so that results are reproducible.
- ``check_capacity`` refuses before the first step what cannot fit: weights, gradients, two optimizer moments.
- ``release`` gives cached device memory back between sites that share a process.
"""

from __future__ import annotations

import contextlib
import gc
import os
from typing import Literal

import torch

from shared.errors import CapacityError

_COPIES = 5
"""Float32 copies of the parameters that training holds: weights, received weights, gradients, two moments."""


def choose(wanted: Literal["auto", "cpu", "cuda"]) -> torch.device:
    """The device to train on; raises ``CapacityError`` when CUDA is demanded and absent."""
    available = torch.cuda.is_available()
    if wanted == "cuda" and not available:
        raise CapacityError(
            f"the plan asks for CUDA, but torch {torch.__version__} sees {torch.cuda.device_count()} usable devices",
            hint='install the CUDA build of torch and check nvidia-smi, or set training.device = "auto"',
            code="no-cuda",
        )
    return torch.device("cuda" if available and wanted != "cpu" else "cpu")


def autocast(
    device: torch.device, precision: Literal["auto", "float32", "bfloat16"]
) -> contextlib.AbstractContextManager[object]:
    """Context for forward passes: bfloat16 where chosen, plain float32 elsewhere."""
    automatic = precision == "auto" and device.type == "cuda" and torch.cuda.is_bf16_supported()
    if automatic or precision == "bfloat16":
        return torch.autocast(device.type, dtype=torch.bfloat16)
    return contextlib.nullcontext()


def memory_format(device: torch.device, dimensions: int) -> torch.memory_format:
    """channels_last for 2-D networks on CUDA (tensor cores); elsewhere contiguous.

    On the CPU a GroupNorm(1, C) backward over channels_last crashed torch 2.13, and 3-D kernels gain nothing from it.
    """
    return torch.channels_last if device.type == "cuda" and dimensions == 2 else torch.contiguous_format


def free_bytes(device: torch.device) -> int:
    """Memory that can still be had on ``device``."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def check_capacity(model: torch.nn.Module, device: torch.device, free: int | None = None) -> None:
    """Refuse a model whose training state alone exceeds free memory; activations are found out by micro-batching."""
    needed = _COPIES * sum(parameter.numel() * 4 for parameter in model.parameters())
    available = free_bytes(device) if free is None else free
    if needed > available:
        raise CapacityError(
            f"training this model needs at least {needed / 2**20:.0f} MiB on {device.type}, "
            f"{available / 2**20:.0f} MiB are free",
            hint="choose smaller model.channels, or free memory on this machine",
            code="memory",
        )


def halved(largest: int, device: torch.device) -> int:
    """The next smaller number of images to try at a time; raises ``CapacityError`` where one did not fit."""
    if largest == 1:
        raise CapacityError(
            f"one image of this plan does not fit into memory on {device.type}",
            hint="reduce training.patch or model.channels",
            code="memory",
        ) from None
    release(device)
    return (largest + 1) // 2


def release(device: torch.device) -> None:
    """Give cached memory back, so that the next site or process finds it."""
    if device.type == "cuda":
        gc.collect()
        torch.cuda.empty_cache()
