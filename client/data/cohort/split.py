"""Which patients train, validate and test.

Promises
- The answer for a patient depends on the rule's seed, the site and the patient's salted name alone: adding, removing or
  reordering files moves nobody, and all images of a patient fall on one side.
- Shares hold in expectation: each patient is an independent draw (SHA-256 as a uniform number), so a site of n patients
  has about n * f in a split of share f, give or take sqrt(n f (1 - f)).
"""

from __future__ import annotations

import hashlib
import json

from client.data.cohort.manifest import SplitRule
from shared.messages import Split

_RANGE = 2**64


def split_of(rule: SplitRule, site: str, patient: str) -> Split:
    """The split of one patient (salted name) under ``rule``."""
    said = json.dumps([rule.seed, site, patient]).encode()
    drawn = int.from_bytes(hashlib.sha256(b"consilium-split-1" + said).digest()[:8], "big")
    # Training comes first on the scale, so that a larger share of it takes nobody out of it.
    if drawn < rule.train_fraction * _RANGE:
        return "train"
    if drawn < (rule.train_fraction + rule.validation_fraction) * _RANGE:
        return "validation"
    return "test"
