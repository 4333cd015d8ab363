"""Which patients train, validate and test.

Promises
- The answer for a patient depends on the run's seed, the site and the patient's salted name alone: adding, removing or
  reordering files moves nobody, and all images of a patient fall on one side.
- Shares hold in expectation: each patient is an independent draw (SHA-256 as a uniform number), so a site of n patients
  has about n * f in a split of share f, give or take sqrt(n f (1 - f)).
"""

from __future__ import annotations

import hashlib
import json

from shared.messages import Split
from shared.plan import Data

_RANGE = 2**64


def split_of(seed: int, site: str, patient: str, data: Data) -> Split:
    """The split of one patient (salted name) under the shares in ``data``."""
    said = json.dumps([seed, site, patient]).encode()
    drawn = int.from_bytes(hashlib.sha256(b"consilium-split-1" + said).digest()[:8], "big")
    # Training comes first on the scale, so that a larger share of it takes nobody out of it.
    if drawn < data.train_fraction * _RANGE:
        return "train"
    if drawn < (data.train_fraction + data.validation_fraction) * _RANGE:
        return "validation"
    return "test"
