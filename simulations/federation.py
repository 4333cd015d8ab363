"""From a scenario to sites with prepared cases on disk.

Promises
- Synthetic hospitals are written as DICOM and read back by the code that reads real ones; real folders are read in
  place and never changed.
- Whatever a site cannot use is quarantined there with a reason; a hospital that is empty or broken as a whole still
  becomes a site, which refuses to take part and says why, and the others go on.
- Dealing cases anew (``partition``) keeps a patient's images together, loses no unusable one, and gives sites neutral
  names.
"""

from __future__ import annotations

import hashlib
import shutil
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from client.data.case_files import CaseFiles, Quarantined
from client.data.prepared.cache import prepared_store
from client.data.prepared.site_data import load_site_data
from client.data.source.manifest import ManifestSettings, read_manifest, sites_in_manifest
from client.data.source.series import read_dicom_folder
from shared import tasks
from shared.errors import ScenarioError, SiteDataError
from shared.plan import Plan
from simulations import partition
from simulations.phantom_hospitals import Hospital as PhantomHospital
from simulations.phantom_hospitals import PhantomFederation, hospitals, tiny_hospitals
from simulations.phantoms import write_hospitals
from simulations.progress import Stages
from simulations.scenario import Manifest, Phantoms, Scenario
from simulations.workers import Pool, Sites, SiteSpec

_NAMED = 4
"""Sites that share a remark are named up to this many, and counted beyond."""

HOSPITALS, STORES = "hospitals", "stores"
"""Folders of a run: synthetic hospitals as they were written, and prepared cases by site."""


@dataclass(frozen=True)
class Hospital:
    """What one site has found on disk, before anything is decoded."""

    name: str
    files: tuple[CaseFiles, ...]
    unusable: tuple[Quarantined, ...] = ()


def require_source(scenario: Scenario, data: Path | None) -> None:
    """Check before anything is written that ``data`` is where the images are; raises ``ScenarioError``."""
    if isinstance(scenario.setting.source, Manifest):
        _folder(data, scenario)
    elif data is not None:
        raise ScenarioError(f"scenario {scenario.name} makes its own images", hint="leave --data out")


def find_hospitals(
    scenario: Scenario, data: Path | None, out: Path, pool: Pool, stages: Stages
) -> tuple[Hospital, ...]:
    """The scenario's hospitals, dealt anew where it says so.

    Args:
        scenario: what to simulate.
        data: folder with ``manifest.csv``; None for synthetic hospitals.
        out: where synthetic hospitals are written.
        pool: does the reading, hospitals side by side.
        stages: shows progress.

    Raises:
        ScenarioError, SiteDataError: the source is missing or cannot be dealt as asked.
    """
    source = scenario.setting.source
    jobs: Mapping[str, tuple[object, ...]]
    if isinstance(source, Phantoms):
        members = _phantoms(source, scenario.plan).hospitals
        jobs = {hospital.name: (hospital, out / HOSPITALS) for hospital in members}
        found = _in_order(pool, _synthetic, jobs, "writing and reading DICOM", stages)
    else:
        folder = _folder(data, scenario)
        jobs = {site: (site, source, folder) for site in sites_in_manifest(folder)}
        found = _in_order(pool, _real, jobs, "reading the manifest", stages)
    if not found:
        raise SiteDataError("the manifest has no row below its header", hint="write one for each image", code="no-site")
    return _dealt(found, scenario)


def _in_order(
    pool: Pool, work: Callable[..., Hospital], jobs: Mapping[str, tuple[object, ...]], label: str, stages: Stages
) -> tuple[Hospital, ...]:
    found = {}
    with stages.stage(label, len(jobs)) as advance:
        for name, hospital in pool.each(work, jobs):
            found[name] = hospital
            advance(name)
    return tuple(found[name] for name in jobs)


def _folder(data: Path | None, scenario: Scenario) -> Path:
    if data is None:
        raise ScenarioError(
            f"scenario {scenario.name} needs real images", hint="say where: --data FOLDER (with manifest.csv)"
        )
    if not (data / "manifest.csv").is_file():
        raise ScenarioError(f"{data} holds no manifest.csv", hint="--data names the folder that manifest.csv lies in")
    return data


def _phantoms(source: Phantoms, plan: Plan) -> PhantomFederation:
    if source.size == "tiny":
        return tiny_hospitals(source.hospitals, plan.plan.seed)
    return hospitals(source.hospitals, plan.plan.seed, dimensions=3 if plan.dimensions == 3 else 2)


def _synthetic(sites: Sites, hospital: PhantomHospital, folder: Path) -> Hospital:
    """Write the hospital unless it is there, whole: a folder gets its name when everything is in it."""
    seed = sites.plan.plan.seed
    if not (folder / hospital.name).exists():
        unfinished = folder / ".unfinished" / hospital.name
        shutil.rmtree(unfinished, ignore_errors=True)
        write_hospitals(unfinished, PhantomFederation((hospital,)), seed)
        (folder / "truth").mkdir(exist_ok=True)
        (unfinished / "truth" / f"{hospital.name}.csv").replace(folder / "truth" / f"{hospital.name}.csv")
        (unfinished / hospital.name).replace(folder / hospital.name)
    secret = _secret(seed, hospital.name)
    try:
        files, unusable = read_dicom_folder(folder / hospital.name, hospital.name, secret, sites.plan.dimensions)
    except SiteDataError as error:
        return Hospital(hospital.name, (), (Quarantined("", error.code, error.sentence),))
    return Hospital(hospital.name, tuple(files), tuple(unusable))


def _real(sites: Sites, site: str, source: Manifest, folder: Path) -> Hospital:
    settings = ManifestSettings(
        modality=sites.plan.data.modality,
        patient_columns=source.patient_columns,
        subgroup_columns=source.subgroup_columns,
        drop_labels=source.drop_labels,
    )
    return Hospital(site, tuple(read_manifest(folder, site, settings, _secret(sites.plan.plan.seed, site))))


def _secret(seed: int, site: str) -> bytes:
    """A simulated site's salt: from the seed, so that a simulation repeats; a real site draws its own."""
    return hashlib.sha256(f"unsafe-simulation-secret/{seed}/{site}".encode()).digest()


def _dealt(found: tuple[Hospital, ...], scenario: Scenario) -> tuple[Hospital, ...]:
    wanted, seed = scenario.setting.partition, scenario.plan.plan.seed
    if wanted.kind == "natural":
        return found
    files = [one for hospital in found for one in hospital.files]
    unusable = [one for hospital in found for one in hospital.unusable]
    rows = [
        partition.Row(position, one.patient, hospital.name, one.label or "")
        for position, (hospital, one) in enumerate((h, f) for h in found for f in h.files)
    ]
    sites = wanted.sites or len(found)
    deal: Mapping[str, Callable[[], Mapping[str, Iterable[int]]]] = {
        "iid": lambda: partition.iid(rows, sites, seed),
        "dirichlet": lambda: partition.dirichlet(rows, sites, wanted.alpha, seed),
        "quantity": lambda: partition.quantity(rows, sites, wanted.alpha, seed),
    }
    # Nobody knows whose the unusable ones are; dealt in turn, they still count somewhere.
    return tuple(
        Hospital(name, tuple(files[position] for position in positions), tuple(unusable[place::sites]))
        for place, (name, positions) in enumerate(deal[wanted.kind]().items())
    )


def prepare_stores(found: tuple[Hospital, ...], out: Path, pool: Pool, stages: Stages) -> tuple[SiteSpec, ...]:
    """Preprocess every hospital's cases into its memory-mapped store, hospitals side by side."""
    jobs = {hospital.name: (hospital, out / STORES / hospital.name) for hospital in found}
    stores: dict[str, Path] = {}
    with stages.stage("preparing cases", len(found)) as advance:
        for name, store in pool.each(_prepare, jobs):
            stores[name] = store
            advance(name)
    return tuple(SiteSpec(hospital.name, stores[hospital.name]) for hospital in found)


def _prepare(sites: Sites, hospital: Hospital, folder: Path) -> Path:
    task = tasks.task_for(sites.plan)
    return prepared_store(folder, hospital.files, sites.plan, task, unusable=hospital.unusable).folder


def remarks(sites: Sites, specs: tuple[SiteSpec, ...]) -> Iterator[str]:
    """What is odd about sites that take part, in sentences; a site that sits out says why by itself."""
    odd: dict[str, list[str]] = defaultdict(list)
    for spec in specs:
        with suppress(SiteDataError):
            data = load_site_data(sites.store(spec), sites.plan, spec.name)
            reasons = Counter(one.code for one in data.quarantined)
            if reasons:
                listed = sum(map(len, (data.train, data.validation, data.test, data.quarantined)))
                said = ", ".join(f"{count} {code}" for code, count in sorted(reasons.items()))
                yield f"{spec.name}: {reasons.total()} of {listed} cases set aside ({said})"
            for note in data.notes:
                odd[note].append(spec.name)
    for note, names in odd.items():
        yield f"{', '.join(names) if len(names) <= _NAMED else f'{len(names)} sites'}: {note}"
