"""The hospitals that the training arms share: written as DICOM and prepared once, by the simulator's own code."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from client.data.prepared.site_data import SiteData, load_site_data
from client.data.prepared.store import Store
from shared.errors import SiteDataError
from shared.plan import Plan
from simulations import scenario
from simulations.cohorts import freeze_cohorts, prepare_stores
from simulations.federation import find_hospitals
from simulations.progress import Silent
from simulations.workers import Pool, Sites, SiteSpec, site_cohort

_LIST = "sites.json"
_SPARE = 1.1
"""Some synthetic hospitals are broken on purpose and refuse to take part; a tenth more gives enough that do not."""
_NEVER = 1_000_000


def plan(rounds: int, changes: Sequence[str] = ()) -> Plan:
    """The plan of the scenario ``hundred-sites``, measuring after the last round only, with ``changes``."""
    run = (f"plan.rounds={rounds}", f"evaluation.every={_NEVER}", "participation.quorum=1")
    return scenario.load("hundred-sites", (*run, *changes)).plan


def prepare(folder: str, sites: int, workers: int) -> dict[str, int]:
    """Write and prepare enough hospitals that ``sites`` of them can take part; their list goes into ``folder``."""
    root, count = Path(folder), round(sites * _SPARE) + 1
    found = scenario.load("hundred-sites", (f"scenario.source.hospitals={count}",))
    with Pool(Sites(found.plan, root), workers) as pool:
        cohorts = freeze_cohorts(find_hospitals(found, None, root, pool, Silent()), root, pool, Silent())
        specs = prepare_stores(cohorts, root, pool, Silent())
    usable = [spec for spec in specs if _takes_part(found.plan, spec)][:sites]
    (root / _LIST).write_text(json.dumps([[one.name, str(one.data), one.cohort, str(one.store)] for one in usable]))
    return {"sites": len(usable)}


def specs(folder: str, sites: int) -> tuple[SiteSpec, ...]:
    """The first ``sites`` of what ``prepare`` left in ``folder``."""
    listed = json.loads((Path(folder) / _LIST).read_text())
    if len(listed) < sites:
        raise ValueError(f"{len(listed)} sites were prepared, {sites} are asked for")
    return tuple(SiteSpec(name, Path(folder), cohort, Path(store)) for name, folder, cohort, store in listed[:sites])


def data(plan: Plan, spec: SiteSpec) -> SiteData:
    """A site's cases, opened like the simulator opens them."""
    return load_site_data(Store.open(spec.store, verify="on-use"), site_cohort(spec.data, spec.cohort), plan)


def _takes_part(plan: Plan, spec: SiteSpec) -> bool:
    try:
        data(plan, spec)
    except SiteDataError:
        return False
    return True
