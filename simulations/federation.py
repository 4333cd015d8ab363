"""From a scenario to hospitals with folders of images, and what is found in them.

Promises
- Synthetic hospitals are written as DICOM and read back by the code that reads real ones; real folders are read in
  place and never changed.
- A hospital that is empty or broken as a whole still becomes a site, which refuses to take part and says why, and the
  others go on.
- Dealing cases anew (``partition``) keeps a patient's images together, loses no unusable one, and gives sites neutral
  names.

What a site makes of what was found is left to ``cohorts``.
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Literal

from client.data.case_files import CaseFiles, Quarantined, Salt
from client.data.source.discover import discover
from client.data.source.found import Found, Table, Wanted
from client.data.source.tables import read_table
from shared.errors import ScenarioError, SiteDataError
from shared.plan import Plan
from shared.secure.names import require_name
from simulations import partition
from simulations.faults import MANIFEST, Columns, Fault, plant
from simulations.phantoms import write_hospitals
from simulations.phantoms.hospitals import Hospital as PhantomHospital
from simulations.phantoms.hospitals import PhantomFederation, hospitals, tiny_hospitals
from simulations.phantoms.planted import planted
from simulations.progress import Stages
from simulations.scenario import Manifest, Phantoms, Scenario
from simulations.workers import Pool, Sites

HOSPITALS = "hospitals"
"""Folder of a run with synthetic hospitals as they were written."""
PLANTED = "planted"
"""Folder of a run with real images into which the scenario planted a fault."""

Judge = Callable[[str, str], None]
"""Takes a site's name and where it stands; raises ``SiteDataError``."""


@dataclass(frozen=True)
class Hospital:
    """What one site has on disk, before anything is decoded."""

    name: str
    found: Found


def salt_of(plan: Plan, site: str) -> Salt:
    """A simulated site's salt: from the seed, so that a simulation repeats; a real site draws its own secret."""
    return Salt(site, hashlib.sha256(f"unsafe-simulation-secret/{plan.plan.seed}/{site}".encode()).digest())


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
        out: where synthetic hospitals are written, and real images with a planted fault.
        pool: does the reading, hospitals side by side.
        stages: shows progress.

    Raises:
        ScenarioError, SiteDataError: the source is missing, cannot be dealt as asked, or names a site as no secure sum
            of the plan can.
    """
    source = scenario.setting.source
    jobs: Mapping[str, tuple[object, ...]]
    if isinstance(source, Phantoms):
        members = planted(_phantoms(source, scenario.plan), scenario.setting.fault).hospitals
        jobs = {hospital.name: (hospital, out / HOSPITALS) for hospital in members}
        found = _in_order(pool, _synthetic, jobs, "writing and reading DICOM", stages)
    else:
        folder = _with_fault(_folder(data, scenario), out, scenario.setting.fault, source)
        jobs = {site: (site, source, folder) for site in _sites_of(folder, source, _judge(scenario))}
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
    if not (data / MANIFEST).is_file():
        raise ScenarioError(f"{data} holds no {MANIFEST}", hint=f"--data names the folder that {MANIFEST} lies in")
    return data


def _with_fault(folder: Path, out: Path, fault: Fault | None, source: Manifest) -> Path:
    """The images with ``fault`` in them, unless they are there: a folder gets its name when it is whole."""
    if fault is None:
        return folder
    if not (out / PLANTED).exists():
        unfinished = out / f".{PLANTED}-unfinished"
        shutil.rmtree(unfinished, ignore_errors=True)
        columns = Columns(source.patient_columns, source.drop_labels)
        plant(folder, unfinished, fault, columns).replace(out / PLANTED)
    return out / PLANTED


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
    wanted = Wanted(
        sources=(folder / hospital.name / "dicom", folder / hospital.name / "masks"),
        tables=(Table(folder / hospital.name / "labels.csv"),),
        dimensions=_dimensions(sites.plan),
        subgroup_columns=("sex", "age"),
    )
    salt = salt_of(sites.plan, hospital.name)
    try:
        return Hospital(hospital.name, discover(wanted, salt))
    except SiteDataError as error:
        return Hospital(hospital.name, Found((), (Quarantined(salt.case("folder"), error.code, error.sentence),), ()))


def _sites_of(folder: Path, source: Manifest, judge: Judge) -> tuple[str, ...]:
    """Names of all sites, sorted; a manifest in which a row is no image, or an image two rows, is not half believed."""
    rows = read_table(folder / MANIFEST, ("site", "image", *source.patient_columns, *source.subgroup_columns))
    first: dict[tuple[str, PurePosixPath], int] = {}
    for row in rows:
        if not row.get("image"):
            raise SiteDataError(
                f"row {row.number} of the manifest names no image", hint="fill or drop it", code="no-image"
            )
        judge(row.get("site"), f"the site's name in row {row.number} of the manifest")
        image = (row.get("site"), PurePosixPath(row.get("image")))  # "./a.png" is "a.png"
        if first.setdefault(image, row.number) != row.number:
            raise SiteDataError(
                f"rows {first[image]} and {row.number} of the manifest name the same image",
                hint="keep one of them",
                code="duplicate-image",
            )
    return tuple(sorted({row.get("site") for row in rows}))


def _judge(scenario: Scenario) -> Judge:
    """What names of sites must be: such as sign secure sums where they do; cases dealt anew get sites with others."""
    signs = scenario.plan.secure_aggregation.enabled and scenario.setting.partition.kind == "natural"
    return require_name if signs else _require_folder


def _require_folder(name: str, where: str) -> None:
    """Return where ``name`` is that of one folder, inside the run's; raise ``SiteDataError`` ("site-name")."""
    if PurePosixPath(name).parts != (name,) or name in {"..", "/"}:
        raise SiteDataError(
            f"{where} leads out of the folder that is made for a site",
            hint="use a name without / that is not ..",
            code="site-name",
        )


def _real(sites: Sites, site: str, source: Manifest, folder: Path) -> Hospital:
    table = Table(
        folder / MANIFEST,
        columns={"file": ("image",), "patient_id": source.patient_columns},
        where={"site": site},
        drop_labels=source.drop_labels,
    )
    rows = read_table(table.path, ("site", "image"))
    images = (folder / row.get("image") for row in rows if row.get("site") == site)
    wanted = Wanted(
        # Not the whole folder: a broken image of another site is none of this one's. What is missing, the table tells.
        sources=tuple(path for path in images if path.exists()),
        tables=(table,),
        dimensions=_dimensions(sites.plan),
        modality=sites.plan.data.modality,
        subgroup_columns=source.subgroup_columns,
    )
    return Hospital(site, discover(wanted, salt_of(sites.plan, site)))


def _dimensions(plan: Plan) -> Literal[2, 3]:
    return 3 if plan.dimensions == 3 else 2


def _dealt(found: tuple[Hospital, ...], scenario: Scenario) -> tuple[Hospital, ...]:
    wanted, seed = scenario.setting.partition, scenario.plan.plan.seed
    if wanted.kind == "natural":
        return found
    cases = [one for hospital in found for one in hospital.found.cases]
    unusable = [one for hospital in found for one in hospital.found.unusable]
    homes = [hospital.name for hospital in found for _ in hospital.found.cases]
    rows = [
        partition.Row(position, one.patient, home, one.label or "")
        for position, (home, one) in enumerate(zip(homes, cases, strict=True))
    ]
    sites = wanted.sites or len(found)
    deal: Mapping[str, Callable[[], Mapping[str, Iterable[int]]]] = {
        "iid": lambda: partition.iid(rows, sites, seed),
        "dirichlet": lambda: partition.dirichlet(rows, sites, wanted.alpha, seed),
        "quantity": lambda: partition.quantity(rows, sites, wanted.alpha, seed),
    }
    # Nobody knows whose the unusable ones are; dealt in turn, they still count somewhere.
    return tuple(
        Hospital(name, Found(_by_name(cases[position] for position in positions), tuple(unusable[place::sites]), ()))
        for place, (name, positions) in enumerate(deal[wanted.kind]().items())
    )


def _by_name(cases: Iterable[CaseFiles]) -> tuple[CaseFiles, ...]:
    return tuple(sorted(cases, key=lambda one: one.case_id))
