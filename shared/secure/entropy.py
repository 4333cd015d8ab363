"""Where keys, seeds and coefficients come from: an argument everywhere.

Promises
- A site that answers questions about patients passes ``os.urandom``, and nothing else is random.
- ``seeded`` repeats itself, byte for byte, on every machine, for tests and golden transcripts. It protects nobody: who
  knows its seed knows every secret drawn from it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable

from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES256
from cryptography.hazmat.primitives.ciphers.modes import CTR

Entropy = Callable[[int], bytes]
"""Gives as many fresh random bytes as it is asked for."""


def seeded(seed: bytes) -> Entropy:
    """UNSAFE, for tests alone: the key stream of AES-256-CTR under SHA-256 of ``seed``, handed out piece by piece."""
    stream = Cipher(AES256(hashlib.sha256(seed).digest()), CTR(bytes(16))).encryptor()
    return lambda count: stream.update(bytes(count))
