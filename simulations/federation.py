"""From a scenario to sites with prepared cases on disk.

Promises
- Synthetic hospitals are written as DICOM and read back by the code that reads real ones; real folders are read in
  place and never changed.
- Whatever a site cannot use is quarantined there with a reason; a hospital that is empty or broken as a whole still
  becomes a site, which refuses to take part and says why, and the others go on.
- Dealing cases anew (``partition``) keeps a patient's images together and gives sites neutral names.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from client.data.cache import prepared_store
from client.data.case_files import CaseFiles, Quarantined
from client.data.dicom_folder import read_dicom_folder
from client.data.manifest import ManifestSettings, read_manifest, sites_in_manifest
from shared import tasks
from shared.errors import ConsiliumError, ScenarioError
from shared.plan import Plan
from simulations import partition, phantoms
from simulations.progress import Stages
from simulations.scenario import Manifest, Phantoms, Scenario
from simulations.workers import Pool, Sites, SiteSpec


@dataclass(frozen=True)
class Hospital:
    """What one site has found on disk, before anything is decoded."""

    name: str
    files: tuple[CaseFiles, ...]
    unusable: tuple[Quarantined, ...] = ()


def find_hospitals(scenario: Scenario, data: Path | None, out: Path, stages: Stages) -> tuple[Hospital, ...]:
    """The scenario's hospitals, dealt anew where it says so.

    Args:
        scenario: what to simulate.
        data: folder with ``manifest.csv``; needed for, and only for, a manifest source.
        out: where synthetic hospitals are written.
        stages: shows progress.

    Raises:
        ScenarioError, SiteDataError: the source is missing or cannot be dealt as asked.
    """
    source = scenario.setting.source
    if isinstance(source, Phantoms):
        found = _synthetic(source, scenario, out, stages)
    else:
        found = _real(source, scenario.plan, _folder(data, scenario))
    return _dealt(found, scenario)


def _folder(data: Path | None, scenario: Scenario) -> Path:
    if data is None:
        raise ScenarioError(f"scenario {scenario.name} needs real images", hint="say where: --data FOLDER (with manifest.csv)")
    if not (data / "manifest.csv").is_file():
        raise ScenarioError(f"{data} holds no manifest.csv", hint="--data names the folder that manifest.csv lies in")
    return data


def _synthetic(source: Phantoms, scenario: Scenario, out: Path, stages: Stages) -> tuple[Hospital, ...]:
    seed = scenario.plan.plan.seed
    make = phantoms.tiny_hospitals if source.size == "tiny" else phantoms.demo_hospitals
    federation = make(source.hospitals, seed, scenario.plan.dimensions)
    with stages.stage("writing synthetic DICOM", len(federation.hospitals)) as advance:
        phantoms.write_hospitals(out / "hospitals", federation, seed, advance)
    found = []
    with stages.stage("reading DICOM headers", len(federation.hospitals)) as advance:
        for hospital in federation.hospitals:
            folder = out / "hospitals" / hospital.name
            files, unusable = read_dicom_folder(folder, hospital.name, _secret(seed, hospital.name), scenario.plan.dimensions)
            found.append(Hospital(hospital.name, tuple(files), tuple(unusable)))
            advance("")
    return tuple(found)


def _real(source: Manifest, plan: Plan, folder: Path) -> tuple[Hospital, ...]:
    settings = ManifestSettings(
        modality=plan.data.modality,
        patient_columns=source.patient_columns,
        subgroup_columns=source.subgroup_columns,
        drop_labels=source.drop_labels,
    )
    return tuple(
        Hospital(site, tuple(read_manifest(folder, site, settings, _secret(plan.plan.seed, site))))
        for site in sites_in_manifest(folder)
    )


def _secret(seed: int, site: str) -> bytes:
    """A simulated site's salt: from the seed, so that a simulation repeats; a real site draws its own."""
    return hashlib.sha256(f"unsafe-simulation-secret/{seed}/{site}".encode()).digest()


def _dealt(hospitals: tuple[Hospital, ...], scenario: Scenario) -> tuple[Hospital, ...]:
    wanted, seed = scenario.setting.partition, scenario.plan.plan.seed
    if wanted.kind == "natural":
        return hospitals
    files = [one for hospital in hospitals for one in hospital.files]
    rows = [
        partition.Row(position, one.patient, hospital.name, one.label or "")
        for position, (hospital, one) in enumerate((h, f) for h in hospitals for f in h.files)
    ]
    sites = wanted.sites or len(hospitals)
    deal: Mapping[str, Callable[[], Mapping[str, Iterable[int]]]] = {
        "iid": lambda: partition.iid(rows, sites, seed),
        "dirichlet": lambda: partition.dirichlet(rows, sites, wanted.alpha, seed),
        "quantity": lambda: partition.quantity(rows, sites, wanted.alpha, seed),
    }
    return tuple(
        Hospital(name, tuple(files[position] for position in positions))
        for name, positions in deal[wanted.kind]().items()
    )


def prepare_stores(hospitals: tuple[Hospital, ...], scenario: Scenario, out: Path, workers: int, stages: Stages) -> tuple[SiteSpec, ...]:
    """Preprocess every hospital's cases into its memory-mapped store, hospitals side by side."""
    sites = Sites(scenario.plan, (), out)
    arguments = {hospital.name: (hospital, out / "stores" / hospital.name) for hospital in hospitals}
    stores: dict[str, Path] = {}
    with stages.stage("preparing cases", len(hospitals)) as advance, Pool(sites, workers) as pool:
        for name, store in pool.each(_prepare, arguments):
            stores[name] = store
            advance(name)
    return tuple(SiteSpec(hospital.name, stores[hospital.name]) for hospital in hospitals)


def _prepare(sites: Sites, hospital: Hospital, folder: Path) -> Path:
    task = tasks.task_for(sites.plan)
    try:
        return prepared_store(folder, hospital.files, sites.plan, task, unusable=hospital.unusable).folder
    except ConsiliumError as error:
        raise type(error)(f"site {hospital.name}: {error.sentence}", hint=error.hint, code=error.code) from None
