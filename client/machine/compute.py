"""What this machine computes with: CUDA devices, processors, memory.

Promises
- What is free is asked, not derived from what is there: ``torch.cuda.mem_get_info`` counts what other processes hold,
  and ``/proc/meminfo`` and the control group of a container are both heeded.
- ``look_at_cuda`` and the files below ``root`` are all that is read; every verdict is a function of values.

A driver runs a CUDA build of its own major version or an older one (CUDA Compatibility, "minor version compatibility").
A build runs a device whose compute capability it has machine code for (same major version, at most the device's minor
one; CUDA C++ Programming Guide, "binary compatibility"), or intermediate code for (at most the device's capability).
"""

from __future__ import annotations

import ctypes
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from client.machine.check import Check

ENOUGH_FREE = 0.5
"""Share of a device's memory below which somebody else is likely to be using it."""
FEW_PROCESSORS = 4
"""Below this, reading images keeps an accelerator waiting."""
SMALL_MEMORY, TOO_SMALL_MEMORY = 8 * 2**30, 2 * 2**30
"""A 512 x 512 x 1000 CT is 1 GiB as float32, and several are held at a time."""

_ARCHITECTURE = re.compile(r"(sm|compute)_(\d+)(\d)([af]?)")


@dataclass(frozen=True, slots=True)
class Device:
    """One CUDA device: its name, memory in bytes, compute capability."""

    name: str
    free: int
    total: int
    capability: tuple[int, int]


@dataclass(frozen=True, slots=True)
class Cuda:
    """What there is of CUDA.

    Attributes:
        torch: version of torch.
        build: version of CUDA that torch was built with, "" where it was built without.
        driver: newest version of CUDA that the driver runs, None without a driver.
        devices: those that can be used.
        architectures: what torch was built for, such as ``sm_90``.
    """

    torch: str
    build: str
    driver: tuple[int, int] | None
    devices: tuple[Device, ...]
    architectures: tuple[str, ...]


def look_at_cuda() -> Cuda:
    """Ask torch and the driver; makes a context on each device, which itself takes some hundred MiB there."""
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    devices = tuple(
        Device(
            torch.cuda.get_device_name(index),
            *torch.cuda.mem_get_info(index),
            capability=torch.cuda.get_device_capability(index),
        )
        for index in range(count)
    )
    architectures = tuple(torch.cuda.get_arch_list())
    return Cuda(str(torch.__version__), torch.version.cuda or "", driver_version(), devices, architectures)


def driver_version() -> tuple[int, int] | None:
    """Newest version of CUDA that the installed driver runs, asked of the driver itself."""
    try:
        library = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return None
    version = ctypes.c_int(0)
    if library.cuDriverGetVersion(ctypes.byref(version)) != 0:
        return None
    return version.value // 1000, version.value % 1000 // 10


def checks(root: Path, cuda: Cuda) -> tuple[Check, ...]:
    """All checks of computing; ``root`` is where ``proc`` and ``sys`` lie."""
    return (*cuda_checks(cuda, _cards(root)), processors(root), memory(root))


def cuda_checks(cuda: Cuda, cards: int) -> tuple[Check, ...]:
    """CUDA, from the card to the code; ``cards`` is how many the system sees, whether they can be used or not."""
    return (_present(cuda, cards), _driver(cuda), _free_memory(cuda.devices), _capability(cuda))


def runs_on(capability: tuple[int, int], architectures: Sequence[str]) -> bool:
    """Whether code for one of ``architectures`` runs on a device of ``capability``."""
    return any(_runs(capability, found) for name in architectures if (found := _ARCHITECTURE.fullmatch(name)))


def _runs(capability: tuple[int, int], found: re.Match[str]) -> bool:
    built = int(found[2]), int(found[3])
    if found[4] == "a":  # architecture-specific: no other device, not even a newer one
        return built == capability
    if found[1] == "compute" and not found[4]:
        return built <= capability
    return built[0] == capability[0] and built[1] <= capability[1]


def processors(root: Path) -> Check:
    """How many processors this process may use, by affinity and by a container's share."""
    allowed = float(len(os.sched_getaffinity(0)))
    share = _read(root / "sys/fs/cgroup/cpu.max").split()
    if len(share) == 2 and share[0] != "max":
        allowed = min(allowed, int(share[0]) / int(share[1]))
    sentence = f"{allowed:g} processor cores can be used"
    if allowed < FEW_PROCESSORS:
        return Check("processors", "warning", sentence, f"{FEW_PROCESSORS} or more keep an accelerator busy")
    return Check("processors", "ok", sentence)


def memory(root: Path) -> Check:
    """How much memory can still be had, in this container and on this machine."""
    said = dict(re.findall(r"(\w+):\s+(\d+) kB", _read(root / "proc/meminfo")))
    if not {"MemAvailable", "MemTotal"} <= said.keys():
        return Check("memory", "skipped", "this system does not say how much memory is free")
    free, total = (int(said[name]) * 1024 for name in ("MemAvailable", "MemTotal"))
    limit, used = (_read(root / "sys/fs/cgroup" / name).strip() for name in ("memory.max", "memory.current"))
    if limit.isdigit() and used.isdigit():
        free, total = min(free, max(0, int(limit) - int(used))), min(total, int(limit))
    sentence = f"{gib(free)} of {gib(total)} memory are free"
    if free < SMALL_MEMORY:
        hint = f"end other programs or add memory: {gib(SMALL_MEMORY)} are enough for most plans"
        return Check("memory", "error" if free < TOO_SMALL_MEMORY else "warning", sentence, hint)
    return Check("memory", "ok", sentence)


def gib(count: float) -> str:
    """Bytes for people."""
    return f"{count / 2**30:.1f} GiB"


def _present(cuda: Cuda, cards: int) -> Check:
    if cuda.devices:
        return Check("gpu", "ok", f"{_named(cuda.devices)} can be used by torch {cuda.torch}")
    if not cards:
        return Check("gpu", "skipped", "this machine has no NVIDIA GPU; training would use its processors")
    if not cuda.build:
        sentence = f"{_counted(cards, 'NVIDIA GPU')} cannot be used: torch {cuda.torch} was built without CUDA"
        return Check("gpu", "error", sentence, "install the CUDA build of torch of the same version")
    sentence = f"{_counted(cards, 'NVIDIA GPU')} cannot be used by torch {cuda.torch}"
    return Check("gpu", "error", sentence, "see the next check; then run nvidia-smi, and look at CUDA_VISIBLE_DEVICES")


def _driver(cuda: Cuda) -> Check:
    if not cuda.build:
        return Check("cuda", "skipped", f"torch {cuda.torch} was built without CUDA: there is no version to compare")
    if cuda.driver is None:
        return Check("cuda", "skipped", f"no NVIDIA driver is installed; torch was built for CUDA {cuda.build}")
    driver, wanted = ".".join(map(str, cuda.driver)), int(cuda.build.partition(".")[0])
    sentence = f"the driver runs CUDA up to {driver}; torch {cuda.torch} was built for {cuda.build}"
    if cuda.driver[0] < wanted:
        hint = f"update the driver to one for CUDA {wanted}, or install torch for CUDA {cuda.driver[0]}"
        return Check("cuda", "error", sentence, hint)
    return Check("cuda", "ok", sentence)


def _free_memory(devices: Sequence[Device]) -> Check:
    if not devices:
        return Check("gpu-memory", "skipped", "there is no CUDA device to ask")
    said = "; ".join(f"{gib(one.free)} of {gib(one.total)}" for one in devices)
    if any(one.free < ENOUGH_FREE * one.total for one in devices):
        hint = "another process holds the rest: nvidia-smi lists them"
        return Check("gpu-memory", "warning", f"only {said} are free", hint)
    return Check("gpu-memory", "ok", f"{said} are free")


def _capability(cuda: Cuda) -> Check:
    if not cuda.devices:
        return Check("gpu-architecture", "skipped", "there is no CUDA device to compare with")
    if not cuda.architectures:
        return Check("gpu-architecture", "skipped", f"torch {cuda.torch} does not say what it was built for")
    old = [one for one in cuda.devices if not runs_on(one.capability, cuda.architectures)]
    if old:
        capability = ".".join(map(str, old[0].capability))
        sentence = f"{_named(old)} of capability {capability} cannot run this torch: {', '.join(cuda.architectures)}"
        return Check("gpu-architecture", "error", sentence, "install a torch that was built for this GPU")
    return Check("gpu-architecture", "ok", f"torch {cuda.torch} has code for {_named(cuda.devices)}")


def _named(devices: Sequence[Device]) -> str:
    names = [one.name for one in devices]
    return ", ".join(f"{name} ({names.count(name)})" for name in dict.fromkeys(names))


def _counted(amount: int, noun: str) -> str:
    return f"{amount} {noun}" + "s" * (amount != 1)


def _cards(root: Path) -> int:
    return len(list((root / "proc/driver/nvidia/gpus").glob("*")))


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii", errors="replace")
    except OSError:
        return ""
