"""Does a site's data say what other sites' data say? Found by measuring other sites' models on it.

Promises
- A model that was trained elsewhere has never seen this site's patients. Where it is reliably wrong, and one simple
  repair of the *data* makes it right, the data are suspect; the finding is named after the repair.
- Patients are the unit: every image of a patient is counted with that patient, and only patients are exchanged.
- Over all sites and checks of one federation, the chance of any false alarm is at most ``LEVEL``.
- A weak model raises no alarm. Beyond significance a repair must gain ``MIN_GAIN`` (``MIN_SHIFT_GAIN``), and close at
  least half of the gap to what models reach among the other sites.

================  ===================================================  ==============================================
code              statistic, and the repair                            null hypothesis and test
================  ===================================================  ==============================================
labels-flipped    AUROC of others' models, mean over models;           at least 0.5; patients' labels are permuted
                  1 - AUROC with labels exchanged
images-inverted   the same, or Dice; with images negated               the true label is believed no more on negatives
                                                                       (random signs of patients' differences; of
                                                                       Dice likewise), or they are ranked by chance
labels-or-images  both repairs serve equally well (within ``ALIKE``):  as above
                  which one it is cannot be told
masks-shifted     Dice; with masks moved by one displacement, the      the displacement, chosen on the other half of
                  same for all                                         the patients, gains nothing; random signs
one-class         patients, all of one class                           patients were dealt to sites by chance
                                                                       (hypergeometric)
================  ===================================================  ==============================================

What it cannot tell: which side is right. Where half of the sites or more are named, they contradict one another and
the sentence says so. Of two sites no third one says what to expect. A site of fewer than about ten patients cannot
be told from chance; ``Check.p`` says 1 or nearly so. Masks moved by one voxel are taken for differences in outlining.
Prevalences that honestly differ very much will be named as one-class: that is what they are.

Leaves to others: measuring (``simulations.cross_site``) and patients at two sites (``simulations.duplicates``).

Sources: the statistic of labels is Mann & Whitney's, averaged over models, which is linear in ranks, so permuting
labels is exact; corrections in ``multiple_tests``.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import product

import numpy as np
from numpy.typing import NDArray
from scipy.special import gammaln
from scipy.stats import rankdata

from shared.evaluation.multiple_tests import FloatArray, drawn_p, draws_for, holm, rank_shuffles, sign_flips

LEVEL = 0.01
MIN_GAIN = 0.1
MIN_SHIFT_GAIN = 0.03
ALIKE = 0.05

FLIPPED, INVERTED, EITHER = "labels-flipped", "images-inverted", "labels-or-images"
SHIFTED, ONE_CLASS = "masks-shifted", "one-class"


@dataclass(frozen=True, eq=False)
class Ranks:
    """What M other sites' models say of n patients with F findings (one for two exclusive classes).

    Attributes:
        models: sites at which the models were trained.
        labels: share of the patient's images with the finding, shape (n, F).
        scores: mean score over the patient's images, shape (M, n, F).
        negatives: the same for the negatives of the images.
    """

    models: tuple[str, ...]
    labels: FloatArray
    scores: FloatArray
    negatives: FloatArray

    @property
    def patients(self) -> int:
        """Number of patients."""
        return len(self.labels)

    def by_model(self) -> FloatArray:
        """AUROC of each model, shape (M,)."""
        return auroc_of_patients(self.labels, self.scores)


@dataclass(frozen=True, eq=False)
class Outlines:
    """How well M other sites' models meet the masks of n patients.

    Attributes:
        models: sites at which the models were trained.
        dice: mean Dice over the patient's images and classes, shape (M, n).
        negatives: the same for the negatives of the images.
        moved: Dice averaged over models with the prediction moved by each displacement of a cube centred on 0; shape
            (n, w, ..., w), w odd.
    """

    models: tuple[str, ...]
    dice: FloatArray
    negatives: FloatArray
    moved: FloatArray

    @property
    def patients(self) -> int:
        """Number of patients."""
        return int(self.dice.shape[1])

    def by_model(self) -> FloatArray:
        """Mean Dice of each model, shape (M,)."""
        return self.dice.mean(axis=1) if self.patients else np.full(len(self.models), np.nan)


Evidence = Ranks | Outlines
BoolArray = NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Check:
    """One test at one site.

    Attributes:
        site: whose data.
        code: see the module.
        statistic: of the data as they are; for one-class the number of patients.
        repaired: after the repair.
        expected: the same measure among the other sites (median); NaN with fewer than three sites.
        p: before correction.
        adjusted: after Holm's correction over all checks of the federation.
        patients: on how many it rests.
        shift: displacement of the masks in voxels, by axis; empty for other checks.
    """

    site: str
    code: str
    statistic: float
    repaired: float
    expected: float
    p: float
    patients: int
    shift: tuple[int, ...] = ()
    adjusted: float = 1.0

    @property
    def material(self) -> bool:
        """Whether the repair gains enough to matter."""
        if self.code == ONE_CLASS:
            return True
        gain, least = self.repaired - self.statistic, MIN_SHIFT_GAIN if self.code == SHIFTED else MIN_GAIN
        gap = 0.0 if math.isnan(self.expected) else (self.expected - self.statistic) / 2
        return gain >= max(least, gap)


@dataclass(frozen=True, slots=True)
class Finding:
    """What is wrong with a site's data, for a report.

    Attributes:
        code: see the module.
        site: whose data.
        statistic: of the data as they are; None where it may not be told.
        p: corrected for all checks of the federation; None where nothing was drawn.
        sentence: for people.
    """

    code: str
    site: str
    statistic: float | None
    p: float | None
    sentence: str


def assess(evidence: Mapping[str, Evidence], rng: np.random.Generator) -> tuple[Check, ...]:
    """Every check at every site, corrected for their number."""
    tests = sum(3 if isinstance(one, Ranks) else 2 for one in evidence.values())
    draws = draws_for(max(1, tests), LEVEL)
    checks = [check for site in sorted(evidence) for check in _checks(site, evidence, draws, rng)]
    adjusted = holm([check.p for check in checks])
    return tuple(replace(check, adjusted=p) for check, p in zip(checks, adjusted, strict=True))


def findings(checks: tuple[Check, ...]) -> tuple[Finding, ...]:
    """What the checks reject, at most one sentence about labels and images for each site."""
    found = [check for check in checks if check.adjusted <= LEVEL and check.material]
    kept = [check for site in sorted({one.site for one in found}) for check in _told_apart(site, found)]
    against = {check.site for check in kept if check.code != ONE_CLASS}
    contradicted = 2 * len(against) >= len({check.site for check in checks})
    return tuple(
        Finding(
            check.code, check.site, check.statistic, check.adjusted,
            _sentence(check) + (_CONTRADICTED if contradicted and check.site in against else ""),
        )
        for check in kept
    )  # fmt: skip


def auroc_of_patients(labels: FloatArray, scores: FloatArray) -> FloatArray:
    """AUROC with patients as units, mean over the findings that are determined: (n, F) and (M, n, F) to (M,).

    A patient whose images are of both kinds counts as a share of either.
    """
    if not (kept := _determined(labels)).any():
        return np.full(len(scores), np.nan)
    table = _rank_weights(labels[:, kept], scores[..., kept])
    found: FloatArray = (table * labels[:, kept]).sum(axis=1).mean(axis=-1) - _offset(labels[:, kept])
    return found


def one_class_p(alone: FloatArray, pooled: FloatArray) -> float:
    """Chance that a site has patients of one class only: ``alone`` and ``pooled`` count patients by class, (K,)."""
    size, total = float(alone.sum()), float(pooled.sum())
    if not size or np.count_nonzero(alone) > 1:
        return 1.0
    whole = _log_choose(np.float64(total), size)
    enough = pooled[pooled >= size]
    return min(1.0, float(np.exp(_log_choose(enough, size) - whole).sum()))


def _checks(site: str, evidence: Mapping[str, Evidence], draws: int, rng: np.random.Generator) -> Iterator[Check]:
    own, expected = evidence[site], _expected(site, evidence)
    if isinstance(own, Outlines):
        yield from _of_outlines(site, own, expected, draws, rng)
        return
    yield from _of_ranks(site, own, expected, draws, rng)
    alone, pooled = _by_class(own), np.zeros(1)
    others = [_by_class(one) for one in evidence.values() if isinstance(one, Ranks)]
    pooled = np.sum(others, axis=0) if alone.size else pooled
    p = one_class_p(alone, pooled) if alone.size else 1.0
    yield Check(site, ONE_CLASS, float(own.patients), float(own.patients), math.nan, p, own.patients)


def _expected(site: str, evidence: Mapping[str, Evidence]) -> float:
    """Median over models and data of two other sites; NaN where there are no two."""
    values = [
        value
        for other, one in evidence.items()
        for model, value in zip(one.models, one.by_model().tolist(), strict=True)
        if site not in {other, model} and not math.isnan(value)
    ]
    return float(np.median(values)) if values else math.nan


def _of_ranks(site: str, own: Ranks, expected: float, draws: int, rng: np.random.Generator) -> Iterator[Check]:
    kept = _determined(own.labels)
    if not kept.any() or not own.models:
        nan = math.nan
        yield from (Check(site, code, nan, nan, expected, 1.0, own.patients) for code in (FLIPPED, INVERTED))
        return
    labels = own.labels[:, kept]
    direct, negative = (
        _rank_weights(labels, scores[..., kept]).mean(axis=0) @ labels.T / kept.sum()
        for scores in (own.scores, own.negatives)
    )
    half, chance = _offset(labels), 0.5 + _offset(labels)
    as_is, inverted = (float(np.trace(table)) - half for table in (direct, negative))
    p = drawn_p(0.5 - as_is, lambda k: chance - rank_shuffles(direct, rng)(k), draws)
    yield Check(site, FLIPPED, as_is, 1 - as_is, expected, p, own.patients)
    better = _mean_above_zero(_truth_gained(own, kept), draws, rng)
    right = drawn_p(inverted - 0.5, lambda k: rank_shuffles(negative, rng)(k) - chance, draws)
    yield Check(site, INVERTED, as_is, inverted, expected, max(better, right), own.patients)


def _of_outlines(site: str, own: Outlines, expected: float, draws: int, rng: np.random.Generator) -> Iterator[Check]:
    if not own.patients or not own.models:
        nan = math.nan
        yield from (Check(site, code, nan, nan, expected, 1.0, own.patients) for code in (INVERTED, SHIFTED))
        return
    as_is, negated = own.dice.mean(axis=0), own.negatives.mean(axis=0)
    yield Check(
        site, INVERTED, float(as_is.mean()), float(negated.mean()), expected,
        _mean_above_zero(negated - as_is, draws, rng), own.patients,
    )  # fmt: skip
    gained = _cross_fitted(own.moved)
    shift = _best(own.moved.mean(axis=0))
    yield Check(
        site, SHIFTED, float(as_is.mean()), float((as_is + gained).mean()), expected,
        _mean_above_zero(gained, draws, rng), own.patients, shift,
    )  # fmt: skip


def _truth_gained(own: Ranks, kept: BoolArray) -> FloatArray:
    """By how much more the true labels are believed on negatives than on images, by patient, shape (n,).

    Ranks would not do: a network that has never seen a negative may be wrong in level and still right in order.
    """
    sign = 2 * own.labels[:, kept] - 1
    found: FloatArray = (sign * (own.negatives - own.scores)[..., kept]).mean(axis=(0, 2))
    return found


def _mean_above_zero(differences: FloatArray, draws: int, rng: np.random.Generator) -> float:
    return drawn_p(float(differences.mean()), sign_flips(differences, rng), draws)


def _cross_fitted(moved: FloatArray) -> FloatArray:
    """What each patient gains by the displacement that is best for the other half of the patients; shape (n,)."""
    gained = np.zeros(len(moved))
    if len(moved) < 2:
        return gained
    for half in (0, 1):
        place = tuple(_centre(moved) + np.array(_best(moved[1 - half :: 2].mean(axis=0))))
        centre = tuple(_centre(moved))
        gained[half::2] = moved[(slice(half, None, 2), *place)] - moved[(slice(half, None, 2), *centre)]
    return gained


def _best(mean: FloatArray) -> tuple[int, ...]:
    """The best displacement of a cube of mean Dice; 0 where it is one voxel or less along every axis."""
    centre = np.array(mean.shape) // 2
    found = np.array(np.unravel_index(int(mean.argmax()), mean.shape)) - centre
    return tuple(found.tolist()) if np.abs(found).max() > 1 else (0,) * mean.ndim


def _centre(moved: FloatArray) -> FloatArray:
    return np.array(moved.shape[1:]) // 2


def _determined(labels: FloatArray) -> BoolArray:
    """Findings that some patients have and some have not, shape (F,), bool."""
    ones = labels.sum(axis=0)
    return np.asarray((ones > 0) & (ones < len(labels)))


def _rank_weights(labels: FloatArray, scores: FloatArray) -> FloatArray:
    """What a unit of label adds to each AUROC, shape (M, n, F): half ranks over the number of pairs."""
    ones = labels.sum(axis=0)
    found: FloatArray = (rankdata(scores, axis=1) - 0.5) / (ones * (len(labels) - ones))
    return found


def _offset(labels: FloatArray) -> float:
    """What is taken from the sum of ranks: pairs of a positive with positives."""
    ones = labels.sum(axis=0)
    return float((ones / (2 * (len(labels) - ones))).mean())


def _by_class(own: Ranks) -> FloatArray:
    """Patients by class where classes are exclusive, shape (K,); empty for findings that may occur together."""
    single = own.labels.shape[1] == 1
    shares = np.hstack([1 - own.labels, own.labels]) if single else own.labels
    if not np.allclose(shares.sum(axis=1), 1):
        return np.zeros(0)
    return np.bincount(shares.argmax(axis=1), minlength=shares.shape[1]).astype(float)


def _log_choose(total: FloatArray | np.float64, size: float) -> FloatArray:
    found: FloatArray = np.asarray(gammaln(total + 1) - gammaln(size + 1) - gammaln(total - size + 1))
    return found


def _told_apart(site: str, found: list[Check]) -> Iterator[Check]:
    own = {check.code: check for check in found if check.site == site}
    if {FLIPPED, INVERTED} <= own.keys():
        flipped, inverted = own.pop(FLIPPED), own.pop(INVERTED)
        if abs(flipped.repaired - inverted.repaired) <= ALIKE:
            yield replace(flipped, code=EITHER)
        else:
            yield max(flipped, inverted, key=lambda check: check.repaired)
    # Negatives and displacements both repair where a mask is nearly met by anything: the better one is told.
    if {INVERTED, SHIFTED} <= own.keys():
        own.pop(min((INVERTED, SHIFTED), key=lambda code: own[code].repaired))
    yield from own.values()


_CONTRADICTED = "; half of the sites or more are named, so which side is right cannot be told from here"


def _sentence(check: Check) -> str:
    site, n = check.site, check.patients
    among = "" if math.isnan(check.expected) else f" (among the other sites {check.expected:.2f})"
    measured = f"{check.statistic:.2f} over {n} patients{among}"
    return {
        FLIPPED: f"labels of {site} look exchanged: models of other sites reach an AUROC of {measured}",
        INVERTED: f"images of {site} look inverted: models of other sites reach {measured}, and {check.repaired:.2f} "
        "on the negatives",
        EITHER: f"labels of {site} look exchanged, or its images inverted: models of other sites reach an AUROC of "
        f"{measured}",
        SHIFTED: f"masks of {site} look moved by {' x '.join(f'{step:+d}' for step in check.shift)} voxels: models of "
        f"other sites reach a Dice of {measured}, and {check.repaired:.2f} with masks moved back",
        ONE_CLASS: f"all {n} patients of {site} are of one class",
    }[check.code]


def displacements(reach: int, axes: int) -> list[tuple[int, ...]]:
    """Every displacement of up to ``reach`` voxels along each axis, in the order of ``Outlines.moved``."""
    return list(product(range(-reach, reach + 1), repeat=axes))
