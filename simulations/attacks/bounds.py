"""What differential privacy leaves to an attacker, and what an attack proves about it.

An attacker decides for each patient whether they were trained on. Under (epsilon, delta)-differential privacy, for
every attack, whatever it knows (Kairouz, Oh & Viswanath, ICML 2015, theorem 2.1; Wasserman & Zhou, JASA 2010)::

    TPR <= e^epsilon FPR + delta                         and      TPR <= 1 - e^-epsilon (1 - delta - FPR)
    advantage = TPR - FPR <= (e^epsilon - 1 + 2 delta) / (e^epsilon + 1)                 where the two lines meet

Read backwards, rates that an attack reaches prove a lower bound on epsilon. ``proven_epsilon`` takes the rates at their
worst in Clopper and Pearson's limits (Biometrika 1934), as in Jagielski, Ullman & Oprea (NeurIPS 2020).

Promises
- The threshold and the direction (who was in, or who was out) are chosen on one half of the models and measured on the
  other: choosing the best of many on the same data would prove an epsilon where there is none.
- Not promised: that guesses about patients of one model are independent, as the limits assume. Coins for membership
  are; a model in which training went unlike in the others is shared by all its patients.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import betaincinv

Reals = NDArray[np.float64]
Flags = NDArray[np.bool_]

LEVEL = 0.95
"""Of all intervals and limits here."""


@dataclass(frozen=True, slots=True)
class Promise:
    """(epsilon, delta)-differential privacy of one patient, added or removed with all images."""

    epsilon: float
    delta: float


@dataclass(frozen=True, slots=True)
class Proof:
    """What an attack proves about epsilon: its lower limit, and the counts that it rests on."""

    epsilon: float
    hits: int
    members: int
    false_alarms: int
    strangers: int


def most_tpr(fpr: Reals, promise: Promise) -> Reals:
    """Highest share of members that any attack can find at these shares of false alarms; same shape."""
    growth = math.exp(promise.epsilon)
    low = growth * fpr + promise.delta
    high = 1 - (1 - promise.delta - fpr) / growth
    return np.minimum(np.minimum(low, high), 1.0)


def most_advantage(promise: Promise) -> float:
    """Largest TPR - FPR that any attack can reach."""
    # tanh(e / 2) = (e^e - 1) / (e^e + 1), which does not overflow.
    return math.tanh(promise.epsilon / 2) + 2 * promise.delta / (math.exp(min(promise.epsilon, 700.0)) + 1)


def clopper_pearson(successes: int, trials: int, level: float = LEVEL) -> tuple[float, float]:
    """Two-sided limits of a proportion; (0, 1) without a trial."""
    tail = (1 - level) / 2
    low = float(betaincinv(successes, trials - successes + 1, tail)) if successes else 0.0
    high = float(betaincinv(successes + 1, trials - successes, 1 - tail)) if successes < trials else 1.0
    return low, high


def proven_epsilon(scores: Reals, members: Flags, delta: float) -> Proof:
    """The epsilon that an attack proves training to exceed, with ``LEVEL`` confidence; 0 where it proves nothing.

    Args:
        scores: shape (N, P), of model n and patient p; higher means "was in".
        members: shape (N, P), the truth.
        delta: of the promise that is tested.
    """
    sign, threshold = _best_test(scores[::2], members[::2], delta)
    said, truth = sign * scores[1::2] >= threshold, members[1::2] if sign > 0 else ~members[1::2]
    hits, alarms = int((said & truth).sum()), int((said & ~truth).sum())
    total, others = int(truth.sum()), int((~truth).sum())
    return Proof(_epsilon(hits, total, alarms, others, delta), hits, total, alarms, others)


def _best_test(scores: Reals, members: Flags, delta: float) -> tuple[int, float]:
    """(direction, threshold) with the highest limit on these models."""
    best = (-1.0, 1, math.inf)
    for sign, truth in ((1, members), (-1, ~members)):
        ordered = np.sort(sign * scores[truth])[::-1]
        against = np.sort(sign * scores[~truth])
        for count in _counts(len(ordered)):
            threshold = float(ordered[count - 1])
            hits = int(np.count_nonzero(ordered >= threshold))
            alarms = len(against) - int(np.searchsorted(against, threshold, side="left"))
            best = max(best, (_epsilon(hits, len(ordered), alarms, len(against), delta), sign, threshold))
    return best[1], best[2]


def _counts(members: int) -> list[int]:
    """How many members a threshold may find: forty choices from one to all, closer together where few are found."""
    return sorted({round(count) for count in np.geomspace(1, members, 40)}) if members else []


def _epsilon(hits: int, members: int, alarms: int, others: int, delta: float) -> float:
    least, _ = clopper_pearson(hits, members)
    _, most = clopper_pearson(alarms, others)
    return math.log((least - delta) / most) if least - delta > most else 0.0
