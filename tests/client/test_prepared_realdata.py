"""The multi-site sets as a site would use its own: from files over archive and cohort to splits that a plan reads."""

import os
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from client.data.archive.archive import Archive
from client.data.case_files import Salt
from client.data.cohort.freeze import freeze
from client.data.cohort.manifest import Cohort, SplitRule
from client.data.ingest.ingest import ingest
from client.data.ingest.reading import Rules
from client.data.prepared.cache import prepared_store
from client.data.prepared.prepare import prepare_all
from client.data.prepared.site_data import load_site_data
from client.data.source.discover import discover
from client.data.source.found import Found, Table, Wanted
from client.data.source.labels import sites_in
from shared.plan import Plan, from_document
from shared.preprocessing.image import Case, Modality
from shared.tasks import task_for

DATA = Path(os.environ.get("CONSILIUM_DATA") or Path(__file__).parents[3] / "shared" / "data")
SECRET = b"realdata-tests-0123456789"

pytestmark = [
    pytest.mark.realdata,
    pytest.mark.skipif(not DATA.is_dir(), reason="the real images are not beside the project (CONSILIUM_DATA)"),
]


def plan(task: str, data: dict[str, Any], preprocessing: dict[str, Any]) -> Plan:
    return from_document(
        {
            "plan": {"name": "test", "task": task, "rounds": 1},
            "data": data,
            "preprocessing": preprocessing,
            "model": {"name": "unet"},
            "training": {"steps": 1, "patients_per_step": 1, "learning_rate": 0.1},
            "privacy": {"unit": "none"},
        }
    )


VESSELS = plan(
    "segmentation",
    {"modality": "fundus", "classes": ["background", "vessel"]},
    {"size": [64, 64], "fit": "letterbox", "colour": "green"},
)
LESIONS = plan(
    "classification",
    {"modality": "us", "classes": ["benign", "malignant"]},
    {"size": [32, 32], "fit": "stretch", "crop": {"kind": "lesion"}},
)
TUMOURS = plan(
    "segmentation",
    {"modality": "mr", "classes": ["background", "tumour"]},
    {"size": [16, 64, 64], "spacing_mm": [6.0, 3.0, 3.0]},
)
SETS: dict[str, tuple[tuple[str, ...], Plan]] = {
    "retina_vessels_4cam": (("group", "subject"), VESSELS),
    "breast_us_multisite": (("patient",), LESIONS),
    "sts_mri3d_multivendor": (("patient",), TUMOURS),
}


def table(name: str) -> Table:
    columns = {"file": ("image",), "patient_id": SETS[name][0]}
    return Table(DATA / name / "manifest.csv", columns, drop_labels=("normal",))


def found(name: str, site: str) -> Found:
    modality: Modality = SETS[name][1].data.modality
    own = replace(table(name), where={"site": site})
    dimensions = 3 if SETS[name][1].dimensions == 3 else 2
    return discover(Wanted((DATA / name,), (own,), dimensions, modality), Salt(site, SECRET))


def stored(folder: Path, site: str, some: Found) -> Archive:
    with Archive.open_or_create(folder) as archive:
        ingest(archive, some, Rules(refuse=frozenset()), Salt(site, SECRET))
    return Archive.open(folder)


def frozen(archive: Archive, site: str, plan: Plan) -> Cohort:
    rule = SplitRule(plan.plan.seed, plan.data.train_fraction, plan.data.validation_fraction)
    return freeze(archive, site, "real", rule)


@pytest.mark.parametrize("name", SETS)
def test_the_first_cases_of_every_site_can_be_prepared(tmp_path: Path, name: str) -> None:
    plan = SETS[name][1]
    for site in sites_in(table(name), "site"):
        everything = found(name, site)
        archive = stored(tmp_path / site, site, replace(everything, cases=everything.cases[:2], files=()))
        for one in prepare_all(frozen(archive, site, plan), archive, plan, task_for(plan)):
            assert isinstance(one, Case), one
            assert one.voxels.shape == (1, *plan.preprocessing.size)
            if plan.plan.task == "segmentation":
                assert one.mask is not None
                assert set(np.unique(one.mask)) == {0, 1}


def test_a_whole_site_goes_from_files_to_splits_with_both_views_of_a_patient_together(tmp_path: Path) -> None:
    """Its README counts 139 images of 72 patients, 71 benign and 68 malignant."""
    site = "busbra_toshiba_aplio300"
    archive = stored(tmp_path / "archive", site, found("breast_us_multisite", site))
    cohort = frozen(archive, site, LESIONS)
    store = prepared_store(tmp_path / "prepared", cohort, archive, LESIONS, task_for(LESIONS))
    data = load_site_data(store, cohort, LESIONS)
    assert (len(store), data.quarantined, data.notes) == (139, {}, ())
    everyone = [{one.patient for one in data.split(name)} for name in ("train", "validation", "test")]
    assert sum(map(len, everyone)) == len(set.union(*everyone)) == 72
    assert len(data.train_patients) == len(everyone[0])
    assert Counter(entry.label for entry in store.entries) == {0: 71, 1: 68}
