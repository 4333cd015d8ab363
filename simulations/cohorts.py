"""What each simulated site makes of the images it has: an archive, a diagnosis, a frozen cohort, prepared cases.

Promises
- A site goes the way of a real one: ``ingest``, ``diagnose``, ``freeze``, ``prepared_store``, each as a hospital runs
  it. Whatever cannot be used is quarantined at its site with a reason.
- A cohort is frozen before the first round and kept. A run that goes on with other images than those it began with is
  refused, with the site and the numbers; nothing is trained.
- Sites work side by side and know nothing of one another.
"""

from __future__ import annotations

import shutil
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TypeVar, get_args

from client.data.archive.archive import Archive
from client.data.cohort.drift import drift
from client.data.cohort.files import current, save
from client.data.cohort.freeze import freeze
from client.data.cohort.manifest import Cohort, SplitRule
from client.data.cohort.split import split_of
from client.data.dataset import Dataset
from client.data.doctor.diagnose import diagnose
from client.data.doctor.findings import Diagnosis, Finding, Severity
from client.data.doctor.page import write_page
from client.data.ingest.ingest import ingest
from client.data.ingest.reading import Rules
from client.data.prepared.cache import prepared_store
from client.data.prepared.site_data import load_site_data
from client.data.progress import silent
from client.data.source.found import Found
from server.results import Noted
from shared import tasks
from shared.crypto.signing import SigningKey
from shared.errors import RunError, SiteDataError
from shared.plan import Plan
from simulations.federation import Hospital, salt_of
from simulations.progress import Stages
from simulations.workers import KEY, SITES_DATA, Pool, Sites, SiteSpec, site_cohort

Result = TypeVar("Result")

_NAMED = 4
"""Sites that share a remark are named up to this many, and counted beyond."""

_GRAVITY = get_args(Severity)

_RULES = Rules(refuse=frozenset())
"""Images of a simulation are made up, or were published; what a hospital would refuse its doctor still says."""


@dataclass(frozen=True)
class Frozen:
    """A site's cohort: its digest, and what the data doctor noted about what it was frozen from."""

    digest: str
    doctor: Mapping[str, Noted]


def forget(out: Path) -> None:
    """Let cohorts be frozen anew: for a run that has not trained on them yet."""
    for dataset in (out / SITES_DATA).glob("*"):
        shutil.rmtree(Dataset(dataset).cohorts, ignore_errors=True)


def freeze_cohorts(
    hospitals: tuple[Hospital, ...], out: Path, pool: Pool, stages: Stages, page: str | None = None
) -> Mapping[str, Frozen]:
    """Ingest, diagnose and freeze what every hospital has, hospitals side by side; by name of the site.

    Args:
        hospitals: what was found.
        out: the run folder.
        pool: does the work.
        stages: shows progress.
        page: name of the doctor's report in each site's folder; None writes none.

    Raises:
        RunError: ``cohort-drift``: a cohort was frozen already, and the images are others now.
    """
    jobs = {hospital.name: (hospital, out / SITES_DATA / hospital.name, page) for hospital in hospitals}
    return _side_by_side(pool, _freeze, jobs, "ingest, doctor, freeze", stages)


def prepare_stores(cohorts: Mapping[str, Frozen], out: Path, pool: Pool, stages: Stages) -> tuple[SiteSpec, ...]:
    """Preprocess every cohort into its memory-mapped store, sites side by side."""
    jobs = {name: (out / SITES_DATA / name, frozen.digest) for name, frozen in cohorts.items()}
    stores = _side_by_side(pool, _prepare, jobs, "preparing cases", stages)
    return tuple(SiteSpec(name, *jobs[name], stores[name]) for name in jobs)


def _side_by_side(
    pool: Pool, work: Callable[..., Result], jobs: Mapping[str, tuple[object, ...]], label: str, stages: Stages
) -> dict[str, Result]:
    done: dict[str, Result] = {}
    with stages.stage(label, len(jobs)) as advance:
        for name, result in pool.each(work, jobs):
            done[name] = result
            advance(name)
    return {name: done[name] for name in jobs}


def _freeze(sites: Sites, hospital: Hospital, folder: Path, page: str | None) -> Frozen:
    dataset, site, rule = Dataset(folder), hospital.name, rule_of(sites.plan)
    digest = current(dataset.cohorts)
    with Archive.open_or_create(dataset.archive) as archive:
        # Without sources of its own, what is found is all there is: files that are gone are forgotten.
        whole = replace(hospital.found, sources=())
        found = whole if digest is None else _known(whole, archive)
        ingest(archive, found, _RULES, salt_of(sites.plan, site), workers=1, progress=silent)
        diagnosis = diagnose(archive, dataset.name, partial(split_of, rule, site), workers=1, progress=silent)
        if page is not None:
            write_page(diagnosis, archive, folder / page)
        if digest is None:
            cohort = freeze(archive, site, dataset.name, rule, _not_found(archive, found), diagnosis.findings)
            digest = save(cohort, dataset.cohorts, _new_key(folder))
        else:
            _require_unchanged(site_cohort(folder, digest), archive, hospital.found)
    return Frozen(digest, _noted(diagnosis))


def _known(found: Found, archive: Archive) -> Found:
    """``found`` without what came after freezing: that is counted, and not stored beside a frozen cohort."""
    seen = {record.case_id for record in archive.records()} | {one.case_id for one in archive.quarantined()}
    return replace(found, cases=tuple(one for one in found.cases if one.case_id in seen))


def _not_found(archive: Archive, found: Found) -> list[str]:
    """Stored cases whose files are gone: an archive keeps them, but a simulated site has the files that it has."""
    cases = {one.case_id for one in found.cases}
    return [record.case_id for record in archive.records() if record.case_id not in cases]


def rule_of(plan: Plan) -> SplitRule:
    """How simulated sites divide their patients: as the plan says, all with its seed."""
    return SplitRule(plan.plan.seed, plan.data.train_fraction, plan.data.validation_fraction)


def _new_key(folder: Path) -> SigningKey:
    """This site's key: nothing is signed with an old one where nothing is frozen."""
    (folder / KEY).unlink(missing_ok=True)
    key = SigningKey.generate()
    key.save(folder / KEY)
    return key


def _require_unchanged(cohort: Cohort, archive: Archive, found: Found) -> None:
    changed = drift(cohort, archive)
    added = changed.added + len(found.cases) - len(_known(found, archive).cases)
    removed = changed.removed + len({one.case_id for one in cohort.members} & set(_not_found(archive, found)))
    if added or removed or changed.altered:
        raise RunError(
            f"the images of {cohort.site} are not those that this run began with: "
            f"{added} added, {removed} removed, {changed.altered} altered",
            hint="bring them back and resume, or start anew with --overwrite",
            code="cohort-drift",
        )


def _noted(diagnosis: Diagnosis) -> dict[str, Noted]:
    """Findings by code, each with its gravest severity and the number of cases that it names."""
    by_code: dict[str, list[Finding]] = defaultdict(list)
    for finding in diagnosis.findings:
        by_code[finding.code].append(finding)
    return {
        code: Noted(
            min((one.severity for one in same), key=_GRAVITY.index),
            len({case for one in same for case in one.cases}),
        )
        for code, same in by_code.items()
    }


def _prepare(sites: Sites, folder: Path, digest: str) -> Path:
    dataset = Dataset(folder)
    with Archive.open(dataset.archive) as archive:
        cohort = site_cohort(folder, digest)
        return prepared_store(dataset.prepared, cohort, archive, sites.plan, tasks.task_for(sites.plan)).folder


def remarks(sites: Sites, specs: tuple[SiteSpec, ...]) -> Iterator[str]:
    """What is odd about sites that take part, in sentences; a site that sits out says why by itself."""
    odd: dict[str, list[str]] = defaultdict(list)
    for spec in specs:
        with suppress(SiteDataError):
            data = load_site_data(sites.store(spec), sites.cohort(spec), sites.plan)
            bad = sum(data.quarantined.values())
            if bad:
                listed = sum(map(len, (data.train, data.validation, data.test))) + bad
                said = ", ".join(f"{count} {code}" for code, count in sorted(data.quarantined.items()))
                yield f"{spec.name}: {bad} of {listed} cases set aside ({said})"
            for note in data.notes:
                odd[note].append(spec.name)
    for note, names in odd.items():
        yield f"{', '.join(names) if len(names) <= _NAMED else f'{len(names)} sites'}: {note}"
