"""Every site's own model on every site's patients, and what that says about the sites' data.

Promises
- ``matrix``: the model trained at one site alone, measured on the test and on the validation patients of every site,
  with the intervals of ``shared.evaluation``. The row is the model's site, the column the patients'.
- ``checked``: the label-quality tests of ``shared.evaluation.label_quality`` over all of a site's patients, training
  patients included: models of other sites have seen none of them. More than ``PATIENTS`` of a site are not looked at;
  which ones is fixed by the order of salted names.
- Which sites work side by side changes nothing: draws are seeded by the plan and the site's place.

A simulation may look at cases one by one. In a federation a site would make the tests itself, with the models of the
others, and hand out one p-value a check.

The negative of an image is its preprocessed voxels times -1: exact for z-scores, and a mirror image of the range for
windows and percentiles. Dice here is that of all foreground classes together.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import chain, islice

import numpy as np
from numpy.typing import NDArray
from scipy import fft

from client.training.inference import scores, statistics
from shared.evaluation.additive import Statistics
from shared.evaluation.label_quality import Check, Evidence, Finding, Outlines, Ranks, assess, findings
from shared.evaluation.multiple_tests import FloatArray
from shared.evaluation.summary import final_block, summarise
from shared.messages import Split, Vector
from shared.preprocessing.image import Case, MaskArray
from shared.seeds import generator
from shared.tasks.task import Task
from simulations.duplicates import Shared, shared_patients
from simulations.progress import Stages
from simulations.workers import Pool, Sites, SiteSpec

PATIENTS = 400
_REACH = {2: 8, 3: 4}
"""Voxels along each axis that masks are looked for elsewhere, at most a quarter of the image."""
_AT_ONCE = 16

Matrix = Mapping[str, Mapping[str, Statistics]]
"""Site of the model -> site of the patients -> statistics."""
Models = Mapping[str, Vector]


@dataclass(frozen=True)
class CrossSite:
    """What was found.

    Attributes:
        test: every model on every site's test patients.
        validation: the same on validation patients.
        checks: the tests of the sites' data.
        duplicates: pairs of sites with the same patients.
    """

    test: Matrix
    validation: Matrix
    checks: tuple[Check, ...] = ()
    duplicates: tuple[Shared, ...] = ()

    @property
    def findings(self) -> tuple[Finding, ...]:
        """What is wrong with which site."""
        return (*findings(self.checks), *(pair.finding() for pair in self.duplicates))


def cross_site(pool: Pool, specs: tuple[SiteSpec, ...], models: Models, stages: Stages) -> CrossSite:
    """Measure ``models``, by site, everywhere; and test every site's data with the models of the others."""
    columns: dict[str, tuple[Mapping[str, Statistics], Mapping[str, Statistics], Evidence | None]] = {}
    jobs = {spec.name: (spec, models) for spec in specs}
    with stages.stage("every model at every site", len(jobs)) as advance:
        for site, found in pool.each(_column, jobs):
            columns[site] = found
            advance(site)
    evidence = {site: columns[site][2] for site in sorted(columns)}
    rng = generator(pool.sites.plan.plan.seed, "label-quality")
    return CrossSite(
        test=_rows(models, {site: found[0] for site, found in columns.items()}),
        validation=_rows(models, {site: found[1] for site, found in columns.items()}),
        checks=assess({site: one for site, one in evidence.items() if one is not None}, rng),
        duplicates=shared_patients(specs),
    )


def cross_site_block(found: CrossSite, task: Task) -> dict[str, object]:
    """As ``baselines`` of results.json holds it."""
    return {
        "cross_site": _block(found.test, task),
        "cross_site_validation": _block(found.validation, task),
    }


def checks_block(found: CrossSite) -> dict[str, object]:
    """As ``checks`` of results.json holds it."""
    return {
        "data": [asdict(check) for check in found.checks],
        "findings": [asdict(finding) for finding in found.findings],
    }


def matrix_column(sites: Sites, spec: SiteSpec, models: Models, split: Split) -> dict[str, Statistics]:
    """Every model on one split of one site's patients."""
    bench, cases = sites.workbench, sites.site(spec).data.split(split)
    return {
        name: statistics(bench.load(weights), cases, bench.task, sites.plan, bench.device)
        for name, weights in models.items()
    }


def evidence_of(sites: Sites, spec: SiteSpec, models: Models) -> Evidence | None:
    """What models of other sites make of all patients of ``spec``; None for a task without labels or masks."""
    data, others = sites.site(spec).data, {name: models[name] for name in sorted(models) if name != spec.name}
    cases = _of_first_patients(chain(data.train, data.validation, data.test))
    if sites.workbench.task.output == "dense":
        return _outlines(sites, cases, others)
    return _ranks(sites, cases, others)


def overlap_by_displacement(prediction: MaskArray, truth: MaskArray) -> FloatArray:
    """Dice of the foreground with ``prediction`` moved by each displacement; a cube of odd width centred on 0.

    NaN where both are empty.
    """
    reach = min(_REACH[truth.ndim], min(truth.shape) // 4)
    one, other = (prediction > 0).astype(np.float64), (truth > 0).astype(np.float64)
    # Padded by the reach, so that what leaves the image on one side does not come back on the other.
    shape = [length + reach for length in truth.shape]
    product = np.conj(fft.rfftn(one, shape)) * fft.rfftn(other, shape)
    places = np.ix_(*(np.arange(-reach, reach + 1) % length for length in shape))
    both = np.rint(fft.irfftn(product, shape)[places])
    total = one.sum() + other.sum()
    found: FloatArray = 2 * both / total if total else np.full(both.shape, np.nan)
    return found


def _column(
    sites: Sites, spec: SiteSpec, models: Models
) -> tuple[dict[str, Statistics], dict[str, Statistics], Evidence | None]:
    test, validation = (matrix_column(sites, spec, models, split) for split in ("test", "validation"))
    return test, validation, evidence_of(sites, spec, models)


def _rows(models: Models, columns: Mapping[str, Mapping[str, Statistics]]) -> Matrix:
    return {model: {site: columns[site][model] for site in sorted(columns)} for model in sorted(models)}


def _block(matrix: Matrix, task: Task) -> dict[str, object]:
    return {
        model: {site: final_block(summarise(task, cell))["pooled"] for site, cell in row.items()}
        for model, row in matrix.items()
    }


def _of_first_patients(cases: Iterable[Case]) -> Iterator[Case]:
    seen: set[str] = set()
    for case in cases:
        if case.patient in seen or len(seen) < PATIENTS:
            seen.add(case.patient)
            yield case


def _scored(sites: Sites, some: Sequence[Case], weights: Vector) -> Iterator[tuple[Case, NDArray[np.float32]]]:
    bench = sites.workbench
    return scores(bench.load(weights), some, bench.task, sites.plan, bench.device)


def _in_turn(cases: Iterator[Case]) -> Iterator[list[Case]]:
    while some := list(islice(cases, _AT_ONCE)):
        yield some


def _negatives(some: Sequence[Case]) -> list[Case]:
    return [replace(case, voxels=-case.voxels) for case in some]


def _ranks(sites: Sites, cases: Iterator[Case], models: Models) -> Ranks:
    labels: dict[str, list[FloatArray]] = defaultdict(list)
    found: dict[str, list[FloatArray]] = defaultdict(list)
    for some in _in_turn(cases):
        both = np.array(
            [
                [[_findings(of) for _, of in _scored(sites, seen, weights)] for weights in models.values()]
                for seen in (some, _negatives(some))
            ]
        )  # (2, M, cases, F)
        classes = both.shape[-1] if models else 1
        for place, case in enumerate(some):
            labels[case.patient].append(_labels(case, classes))
            found[case.patient].append(both[:, :, place] if models else np.zeros((2, 0, classes)))
    mean = np.stack([np.mean(found[patient], axis=0) for patient in found], axis=2)
    return Ranks(tuple(models), np.array([np.mean(labels[patient], axis=0) for patient in labels]), mean[0], mean[1])


def _findings(found: NDArray[np.float32]) -> NDArray[np.float32]:
    """Scores of what is looked for: of two exclusive classes the second, else every class."""
    return found[1:] if len(found) == 2 else found


def _labels(case: Case, findings_: int) -> FloatArray:
    if isinstance(case.label, tuple):
        return np.array(case.label[-findings_:], float)
    return np.array([case.label == (1 if findings_ == 1 else index) for index in range(findings_)], float)


def _outlines(sites: Sites, cases: Iterator[Case], models: Models) -> Outlines:
    found: dict[str, list[tuple[FloatArray, FloatArray, FloatArray]]] = defaultdict(list)
    for some in _in_turn(cases):
        curves = [_curves(sites, some, weights) for weights in models.values()]
        negatives = [_curves(sites, _negatives(some), weights) for weights in models.values()]
        for place, case in enumerate(some):
            direct, negated = (np.array([curve[place] for curve in of]) for of in (curves, negatives))
            if models and np.isfinite(direct).all() and np.isfinite(negated).all():
                found[case.patient].append((_middle(direct), _middle(negated), direct.mean(axis=0)))
    if not found:
        return Outlines(tuple(models), *(np.zeros((len(models), 0)),) * 2, np.zeros((0, 1, 1)))
    means = [[np.mean(part, axis=0) for part in zip(*own, strict=True)] for own in found.values()]
    dice, negated, moved = (np.stack(part) for part in zip(*means, strict=True))
    return Outlines(tuple(models), dice.T, negated.T, moved)


def _curves(sites: Sites, some: Sequence[Case], weights: Vector) -> list[FloatArray]:
    return [
        overlap_by_displacement(np.asarray(found.argmax(axis=0), np.uint8), case.mask)
        for case, found in _scored(sites, some, weights)
        if case.mask is not None
    ]


def _middle(curves: FloatArray) -> FloatArray:
    """Dice without a displacement, shape (M,), from curves (M, w, ..., w)."""
    return np.asarray(curves[(slice(None), *(width // 2 for width in curves.shape[1:]))])
