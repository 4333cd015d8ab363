"""Membership inference: was this patient trained on? One score for each model and patient; higher means yes.

Promises
- The attacker sees a model, a patient's images with their labels, and models that he trained himself on other draws of
  patients from the same hospitals (shadow models). Nothing of the attacked model's training reaches the attack: its own
  answers and members are left out of what it is compared with.
- The unit is the patient: what the images of one say is averaged.
- Where membership changes nothing, scores do not depend on it, however few shadow models there are.

Arrays are of shape (N, P): model n, patient p. Each of the N models is attacked in turn with the others as shadows.
"""

from __future__ import annotations

import numpy as np

from simulations.attacks.bounds import Flags, Reals

LEAST_LOSS = 1e-7
"""Single precision tells no smaller loss from 0."""


def confidence(losses: Reals) -> Reals:
    """log(p / (1 - p)) of p = e^-loss, which is near normal over models (Carlini et al., IEEE S&P 2022, eq. 4).

    For the cross-entropy of one label p is the probability given to it; for other losses it is a monotone stand-in.
    """
    bounded = np.maximum(losses, LEAST_LOSS)
    return np.asarray(-bounded - np.log(-np.expm1(-bounded)))


def by_patient(values: Reals, patients: tuple[tuple[int, ...], ...]) -> Reals:
    """Mean over each patient's images, (images,) to (P,)."""
    return np.array([values[list(own)].mean() for own in patients])


def loss_threshold(losses: Reals) -> Reals:
    """Scores of the attack by Yeom et al. (CSF 2018): what a model has seen, it predicts well."""
    return -losses


def likelihood_ratio(confidences: Reals, members: Flags) -> Reals:
    """LiRA (Carlini et al., IEEE S&P 2022, algorithm 1): log-likelihood ratio of two normals for each patient.

    The means are the patient's own over shadow models with and without them; the variances are shared by all patients,
    as the authors advise for few shadow models. A patient whom fewer than two shadows hold, or lack, scores 0.
    """
    return np.stack([_against_others(confidences, members, model) for model in range(len(confidences))])


def _against_others(confidences: Reals, members: Flags, model: int) -> Reals:
    others = np.arange(len(confidences)) != model
    shadows, held = confidences[others], members[others]
    inside, outside = _normals(shadows, held), _normals(shadows, ~held)
    ratio = _log_density(confidences[model], *inside) - _log_density(confidences[model], *outside)
    enough = (held.sum(axis=0) >= 2) & ((~held).sum(axis=0) >= 2)
    return np.where(enough, ratio, 0.0)


def _normals(values: Reals, chosen: Flags) -> tuple[Reals, float]:
    """Mean of each column's chosen values, and the variance around them that all columns share."""
    counts = chosen.sum(axis=0)
    means = np.where(chosen, values, 0).sum(axis=0) / np.maximum(counts, 1)
    freedom = np.maximum(counts - 1, 0).sum()
    spread = float((np.where(chosen, values - means, 0) ** 2).sum() / max(1, freedom))
    # Models that all answer alike leave no spread; what differs from them at all is then decisive.
    return means, max(spread, 1e-12)


def _log_density(values: Reals, means: Reals, variance: float) -> Reals:
    return np.asarray(-((values - means) ** 2) / (2 * variance) - np.log(variance) / 2)
