"""The environment of our processes: silent third parties, an allocator that keeps buffers, one thread."""

import json
import os
import subprocess
import sys

import pytest
import torch

from shared import environment

SHOW = """
import json, os, sys
sys.path.insert(0, {root!r})
from shared.environment import restart_with_settings
restart_with_settings()
print(json.dumps({{"environment": dict(os.environ), "arguments": sys.argv[1:]}}))
"""
GRADIENTS = """
import hashlib, sys
import numpy as np, torch
torch.set_num_threads(1)
rng = np.random.default_rng(0)
images, weights = rng.standard_normal((7, 33), np.float32), rng.standard_normal((5, 33), np.float32)
found = set()
for place in range(16):
    room = np.empty(images.size + 32, np.float32)
    start = (place - room.ctypes.data // 4) % 16
    room[start : start + images.size] = images.ravel()
    moved = torch.from_numpy(room[start : start + images.size].reshape(images.shape))
    layer = torch.from_numpy(weights).clone().requires_grad_(True)
    (torch.nn.functional.linear(moved, layer) ** 2).mean().backward()
    found.add(hashlib.sha256(layer.grad.numpy().tobytes()).hexdigest())
print(len(found))
"""
ROOT = os.fspath(__import__("pathlib").Path(__file__).parents[2])


def start(given: dict[str, str]) -> dict[str, dict[str, str]]:
    """A process that restarts itself with the settings and tells what it then sees."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("MALLOC", "FLWR", "OMP", "MKL"))}
    done = subprocess.run(
        [sys.executable, "-c", SHOW.format(root=ROOT), "one", "two words"],
        env={**clean, **given},
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    found: dict[str, dict[str, str]] = json.loads(done.stdout)
    return found


def test_a_process_restarts_once_with_every_setting_and_its_own_arguments() -> None:
    seen = start({})
    wanted = environment.SILENCE | environment.ALLOCATOR | environment.THREADS | environment.ARITHMETIC
    assert {name: seen["environment"][name] for name in wanted} == wanted
    assert seen["arguments"] == ["one", "two words"]


def test_a_user_s_own_allocator_setting_is_left_alone() -> None:
    assert start({"MALLOC_TRIM_THRESHOLD_": "123"})["environment"]["MALLOC_TRIM_THRESHOLD_"] == "123"


def test_telemetry_is_off_even_where_somebody_switched_it_on() -> None:
    assert start({"FLWR_TELEMETRY_ENABLED": "1"})["environment"]["FLWR_TELEMETRY_ENABLED"] == "0"


def test_nothing_is_missing_after_the_settings_were_applied() -> None:
    given = {"HOME": "/", "FLWR_TELEMETRY_ENABLED": "1"}
    assert environment.settings(given | environment.settings(given)) == {}


def gradients(given: dict[str, str]) -> int:
    """How many different gradients the same images have at sixteen places in memory."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("MKL", "OMP"))}
    done = subprocess.run(
        [sys.executable, "-c", GRADIENTS],
        env={**clean, **given},
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    return int(done.stdout)


def test_a_gradient_does_not_depend_on_where_in_memory_the_images_lie() -> None:
    assert gradients(environment.settings({})) == 1


def test_without_the_setting_it_does_where_torch_uses_mkl() -> None:
    """The control: what the setting is for. Other builds and processors may not need it."""
    if not torch.backends.mkl.is_available() or gradients({}) == 1:
        pytest.skip("this build of torch, or this processor, adds in one order anyway")
    assert gradients({}) > 1
