"""Randomness that protects patients: Gaussian noise and sampling coins from a cryptographic generator.

Promises
- ``SecureNoise`` draws from AES-256 in counter mode (NIST SP 800-38A) under a key that the operating system drew for
  this object alone. Without the key its output cannot be told from chance, so nobody can subtract the noise again.
  A process that was forked draws a key of its own: two with one key would give the same noise twice.
- A normal is made of 106 random bits by Box and Muller's transform (Ann. Math. Stat. 29(2), 1958) in double precision;
  no value lies beyond 8.7 standard deviations, which happens by chance once in 10**17 draws.
- A coin falls with the rate asked for to within 2**-53.
- ``UnsafeSeededNoise`` has the same interface and repeats itself. It exists for tests and simulations only.

Not promised: that doubles are reals. Which of two neighbouring doubles comes out depends on the sum under the noise
(Mironov, CCS 2012). What leaves a site is rounded to the plan's grid, a million times coarser, after the last addition.

AES gives 8 GB/s on one core and the transform 50 million normals a second; inverting the distribution function takes
four times as long.
"""

from __future__ import annotations

import os
from typing import Protocol

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES256
from cryptography.hazmat.primitives.ciphers.modes import CTR
from numpy.typing import NDArray

Reals = NDArray[np.float64]

_PAIRS = 2**14
"""Pairs of normals made at a time: their 256 KiB stay in the second-level cache."""


class Noise(Protocol):
    """Where noise and coins come from."""

    def normal(self, size: int) -> Reals:
        """Independent standard normals, shape (size,), float64."""
        ...

    def coins(self, count: int, rate: float) -> NDArray[np.bool_]:
        """Independent coins, shape (count,), each true with probability ``rate``."""
        ...


class SecureNoise:
    """Noise and coins from AES-256-CTR under a fresh key of the operating system."""

    def __init__(self) -> None:
        self._begin()

    def _begin(self) -> None:
        self._process = os.getpid()
        self._stream = Cipher(AES256(os.urandom(32)), CTR(bytes(16))).encryptor()

    def normal(self, size: int) -> Reals:
        """Independent standard normals, shape (size,), float64."""
        values = np.empty(size)
        for start in range(0, size, 2 * _PAIRS):
            part = values[start : start + 2 * _PAIRS]
            part[:] = box_muller(self._uniforms(_PAIRS), self._uniforms(_PAIRS))[: len(part)]
        return values

    def coins(self, count: int, rate: float) -> NDArray[np.bool_]:
        """Independent coins, shape (count,), each true with probability ``rate``."""
        return self._uniforms(count) <= rate

    def _uniforms(self, count: int) -> Reals:
        """Multiples of 2**-53 in (0, 1], shape (count,)."""
        if os.getpid() != self._process:
            self._begin()
        words = np.frombuffer(self._stream.update(bytes(8 * count)), np.uint64)
        return ((words >> np.uint64(11)).astype(np.float64) + 1.0) * 2.0**-53


class UnsafeSeededNoise:
    """Noise and coins that anybody who knows the seed can repeat: no protection at all."""

    def __init__(self, seed: int) -> None:
        self._generator = np.random.default_rng(seed)

    def normal(self, size: int) -> Reals:
        """Standard normals, shape (size,), float64."""
        return self._generator.standard_normal(size)

    def coins(self, count: int, rate: float) -> NDArray[np.bool_]:
        """Coins, shape (count,), each true with probability ``rate``."""
        return self._generator.random(count) < rate


def box_muller(first: Reals, second: Reals) -> Reals:
    """Two independent standard normals from each pair of uniforms in (0, 1], shapes (N,) and (N,) to (2 N,)."""
    radius, angle = np.sqrt(-2.0 * np.log(first)), 2.0 * np.pi * second
    return np.concatenate([radius * np.cos(angle), radius * np.sin(angle)], dtype=np.float64)
