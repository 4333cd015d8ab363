"""Randomness as an argument: one generator for each named purpose, from one seed.

Promises
- ``generator(7, "train", "drive", 3)`` gives the same stream on every machine, in every process, in any order of calls.
- Different names give independent streams (SHA-256 of the names seeds a PCG64), so that adding a purpose or a site
  changes no other stream.
- For shuffling, augmentation, initial weights and phantoms only. Noise and coins that protect patients come from the
  operating system's generator, never from here.
"""

from __future__ import annotations

import hashlib
import json

import numpy as np


def derive(seed: int, *names: str | int) -> int:
    """A 128-bit seed for the purpose that ``names`` spell out."""
    said = json.dumps([seed, *names]).encode()
    return int.from_bytes(hashlib.sha256(b"consilium-seed-1" + said).digest()[:16], "big")


def generator(seed: int, *names: str | int) -> np.random.Generator:
    """A NumPy generator for the purpose that ``names`` spell out."""
    return np.random.Generator(np.random.PCG64(derive(seed, *names)))
