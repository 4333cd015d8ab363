"""Who is treated where: pooled cases divided among simulated sites.

Promises
- The unit is the patient: all cases of a patient go to one site, every patient goes to exactly one.
- Every site gets at least ``minimum`` patients, or there is a ``ScenarioError``; nobody is left over or used twice.
- The result is a function of the arguments; it does not depend on the order of the rows. Sites and the cases of a site
  come in ascending order.

=============  ======================================================================================================
``natural``    as the data say: the real sites
``iid``        at random, in equal numbers
``dirichlet``  label skew: equal numbers, each site with its own case mix q ~ Dir(alpha p) around the overall mix p
               (Hsu, Qi and Brown 2019, "Measuring the effects of non-identical data distribution for federated visual
               classification", arXiv:1909.06335); alpha -> 0: one label a site, alpha -> infinity: like ``iid``
``quantity``   size skew: shares of patients ~ Dir(alpha) (Li et al. 2022, "Federated learning on non-IID data silos",
               ICDE), labels at random
=============  ======================================================================================================

A patient's label is the most frequent of their cases' labels, the smallest where several are.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from shared.errors import ScenarioError
from shared.seeds import generator

Partition = Mapping[str, tuple[int, ...]]
"""Case indices by name of the site."""


@dataclass(frozen=True, slots=True)
class Row:
    """One case: its index, whose it is, where it comes from, and its label ("" where there is none)."""

    case: int
    patient: str
    site: str
    label: str = ""


def natural(rows: Sequence[Row], *, minimum: int = 1) -> Partition:
    """Every patient at their own site, under the site's own name."""
    homes: dict[str, str] = {}
    for row in rows:
        if homes.setdefault(row.patient, row.site) != row.site:
            raise ScenarioError(
                f"case {row.case} belongs to a patient who also has cases at another site",
                hint="give people at different sites different names, or assign the patient to one site",
                code="shared-patient",
            )
    sites = sorted(set(homes.values()))
    return _partition(rows, homes, sites, minimum)


def iid(rows: Sequence[Row], sites: int, seed: int, *, minimum: int = 1) -> Partition:
    """Patients at random; sizes of sites differ by at most one patient."""
    labels = _labels(rows, sites, minimum)
    names = _names(sites)
    shuffled = _shuffled(labels, generator(seed, "partition-iid", sites))
    homes = {patient: names[place % sites] for place, patient in enumerate(shuffled)}
    return _partition(rows, homes, names, minimum)


def dirichlet(rows: Sequence[Row], sites: int, alpha: float, seed: int, *, minimum: int = 1) -> Partition:
    """Label skew of strength ``alpha`` > 0; sizes of sites differ by at most one patient.

    Sites take turns. Each time a site draws a label from its own mix, renormalised over the labels that are left (the
    last sites cannot choose freely, as in Hsu et al.), and then one of the remaining patients of that label.
    """
    _require_positive(alpha)
    labels = _labels(rows, sites, minimum)
    names = _names(sites)
    random = generator(seed, "partition-dirichlet", sites)
    classes = sorted(set(labels.values()))
    waiting = [_shuffled((one for one in labels if labels[one] == label), random) for label in classes]
    left = np.array([len(patients) for patients in waiting])
    mixes = random.dirichlet(alpha * left / left.sum(), size=sites)
    homes: dict[str, str] = {}
    for turn in range(len(labels)):
        label = _draw(mixes[turn % sites], left, random)
        left[label] -= 1
        homes[waiting[label].pop()] = names[turn % sites]
    return _partition(rows, homes, names, minimum)


def quantity(rows: Sequence[Row], sites: int, alpha: float, seed: int, *, minimum: int = 1) -> Partition:
    """Size skew of strength ``alpha`` > 0: every site has ``minimum`` patients, the others fall by its share."""
    _require_positive(alpha)
    labels = _labels(rows, sites, minimum)
    names = _names(sites)
    random = generator(seed, "partition-quantity", sites)
    shuffled = _shuffled(labels, random)
    shares = random.dirichlet(np.full(sites, alpha))
    sizes = minimum + random.multinomial(len(shuffled) - minimum * sites, shares)
    homes = dict(zip(shuffled, np.repeat(names, sizes).tolist(), strict=True))
    return _partition(rows, homes, names, minimum)


def _draw(mix: NDArray[np.float64], left: NDArray[np.int64], random: np.random.Generator) -> int:
    """A label from ``mix`` among those with patients left; by what is left where the mix has none of them."""
    weights = np.where(left > 0, mix, 0.0)
    if weights.sum() == 0:
        weights = left.astype(np.float64)
    return int(random.choice(len(left), p=weights / weights.sum()))


def _labels(rows: Sequence[Row], sites: int, minimum: int) -> dict[str, str]:
    """Label by patient, if there are patients enough."""
    seen: dict[str, Counter[str]] = defaultdict(Counter)
    for row in rows:
        seen[row.patient][row.label] += 1
    if len(seen) < max(1, sites * minimum):
        raise _too_few(len(seen), sites, minimum)
    return {patient: min(counts, key=lambda label: (-counts[label], label)) for patient, counts in seen.items()}


def _shuffled(patients: Iterable[str], random: np.random.Generator) -> list[str]:
    """In an order that depends on the generator and on who the patients are, not on how they came."""
    known = sorted(patients)
    return [known[place] for place in random.permutation(len(known))]


def _names(sites: int) -> list[str]:
    if sites < 1:
        raise ScenarioError(f"{sites} sites were asked for", hint="ask for at least one")
    width = max(2, len(str(sites)))
    return [f"site-{place:0{width}d}" for place in range(1, sites + 1)]


def _require_positive(alpha: float) -> None:
    if not 0 < alpha < np.inf:
        raise ScenarioError(f"alpha is {alpha:g}", hint="give a positive number; smaller is more uneven")


def _partition(rows: Sequence[Row], homes: Mapping[str, str], sites: Sequence[str], minimum: int) -> Partition:
    """Cases by site, once every site has its minimum."""
    patients = Counter(homes.values())
    if not homes or any(patients[site] < minimum for site in sites):
        raise _too_few(len(homes), len(sites), minimum)
    cases: dict[str, list[int]] = {site: [] for site in sites}
    for row in rows:
        cases[homes[row.patient]].append(row.case)
    return {site: tuple(sorted(indices)) for site, indices in cases.items()}


def _too_few(patients: int, sites: int, minimum: int) -> ScenarioError:
    return ScenarioError(
        f"{patients} patients do not make {sites} sites of at least {minimum}",
        hint="ask for fewer sites, lower the minimum, or add patients",
        code="too-few-patients",
    )
