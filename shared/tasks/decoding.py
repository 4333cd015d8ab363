"""From logits to scores: float32 on the CPU, in [0, 1], whatever precision and device the network ran on."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

Scores = NDArray[np.float32]


def softmax(logits: Tensor) -> Scores:
    """Scores of exclusive classes: logits of shape (B, K, ...) to scores of the same shape that sum to 1 over K."""
    scores: Scores = logits.detach().float().softmax(dim=1).cpu().numpy()
    return scores


def sigmoid(logits: Tensor) -> Scores:
    """Scores of findings that may occur together: logits to scores of the same shape, each on its own."""
    scores: Scores = logits.detach().float().sigmoid().cpu().numpy()
    return scores
