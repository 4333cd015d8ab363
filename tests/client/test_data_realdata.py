"""The three multi-site sets and the DICOM corpus, read as a site would read its own."""

import csv
import os
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from client.data.case_files import CaseFiles
from client.data.prepared.cache import prepared_store
from client.data.prepared.prepare import prepare_all
from client.data.prepared.site_data import load_site_data
from client.data.source.manifest import ManifestSettings, read_manifest, sites_in_manifest
from client.data.source.series import read_dicom_folder
from shared.plan import Plan, from_document
from shared.preprocessing.image import Case
from shared.tasks import task_for

DATA = Path(os.environ.get("CONSILIUM_DATA") or Path(__file__).parents[3] / "shared" / "data")
SECRET = b"realdata-tests-0123456789"

pytestmark = [
    pytest.mark.realdata,
    pytest.mark.skipif(not DATA.is_dir(), reason="the real images are not beside the project (CONSILIUM_DATA)"),
]

RETINA = ManifestSettings(modality="fundus", patient_columns=("group", "subject"))
BREAST = ManifestSettings(modality="us", drop_labels=("normal",), subgroup_columns=("birads",))
SARCOMA = ManifestSettings(modality="mr")


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
SETS = {
    "retina_vessels_4cam": (RETINA, VESSELS),
    "breast_us_multisite": (BREAST, LESIONS),
    "sts_mri3d_multivendor": (SARCOMA, TUMOURS),
}


def cases(name: str, site: str) -> list[CaseFiles]:
    return read_manifest(DATA / name, site, SETS[name][0], SECRET)


def patients(files: list[CaseFiles]) -> int:
    return len({one.patient for one in files})


def counted(name: str) -> dict[str, tuple[int, int]]:
    """(images, patients) by site."""
    found = {site: cases(name, site) for site in sites_in_manifest(DATA / name)}
    return {site: (len(files), patients(files)) for site, files in found.items()}


def test_the_retina_set_has_the_images_and_patients_of_its_readme() -> None:
    """14 children with two eyes; hrf numbers repeat between groups; drive and stare: each image its own patient."""
    assert counted("retina_vessels_4cam") == {
        "chase_db1": (28, 14),
        "drive": (40, 40),
        "hrf": (42, 42),
        "stare": (20, 20),
    }


def test_the_breast_set_without_normals_has_the_images_of_its_readme() -> None:
    sites = counted("breast_us_multisite")
    assert {site: images for site, (images, _) in sites.items()} == {
        "busbra_ge_logiq7": 380,
        "busbra_ge_logiq5": 359,
        "busbra_toshiba_aplio300": 139,
        "busbra_usystems": 25,
        "busi_baheya": 360 - 65,
    }
    assert sites["busi_baheya"] == (295, 295)
    assert all(count < images for site, (images, count) in sites.items() if site.startswith("busbra"))


@pytest.mark.parametrize(
    ("site", "benign", "malignant"),
    [
        ("busbra_ge_logiq7", 250, 130),
        ("busbra_ge_logiq5", 251, 108),
        ("busbra_toshiba_aplio300", 71, 68),
        ("busbra_usystems", 14, 11),
        ("busi_baheya", 212, 83),
    ],
)
def test_labels_are_those_of_the_readme(site: str, benign: int, malignant: int) -> None:
    labels = Counter(one.label for one in cases("breast_us_multisite", site))
    assert labels == {"benign": benign, "malignant": malignant}


def test_the_sarcoma_set_has_the_patients_of_its_readme() -> None:
    expected = {"ge": (7, 7), "philips": (6, 6), "siemens": (6, 6), "varian_reexport": (2, 2)}
    assert counted("sts_mri3d_multivendor") == expected


@pytest.mark.parametrize("name", SETS)
def test_no_identifier_of_the_manifest_is_in_a_salted_name(name: str) -> None:
    with (DATA / name / "manifest.csv").open(encoding="utf-8-sig") as file:
        rows = list(csv.DictReader(file))
    identifiers = {row.get("patient") or row.get("subject") or "" for row in rows} - {""}
    long = {text for text in identifiers if len(text) > 4}
    for site in sites_in_manifest(DATA / name):
        for one in cases(name, site):
            assert not any(text in one.case_id + one.patient for text in long)


@pytest.mark.parametrize("name", SETS)
def test_the_first_cases_of_every_site_can_be_prepared(name: str) -> None:
    plan = SETS[name][1]
    for site in sites_in_manifest(DATA / name):
        for one in prepare_all(cases(name, site)[:2], plan, task_for(plan)):
            assert isinstance(one, Case), one
            assert one.voxels.shape == (1, *plan.preprocessing.size)
            if plan.plan.task == "segmentation":
                assert one.mask is not None
                assert set(np.unique(one.mask)) == {0, 1}


def test_a_whole_site_goes_from_files_to_splits_with_both_views_of_a_patient_together(tmp_path: Path) -> None:
    site = "busbra_toshiba_aplio300"
    files = cases("breast_us_multisite", site)
    store = prepared_store(tmp_path, files, LESIONS, task_for(LESIONS))
    data = load_site_data(store, LESIONS, site)
    assert (len(store), store.quarantined, data.notes) == (139, (), ())
    everyone = [{one.patient for one in data.split(name)} for name in ("train", "validation", "test")]
    assert sum(map(len, everyone)) == len(set.union(*everyone)) == 72
    assert len(data.train_patients) == len(everyone[0])
    assert Counter(entry.label for entry in store.entries) == {0: 71, 1: 68}


def bad_files() -> list[tuple[str, str]]:
    table = DATA / "dicom_corpus" / "derived_bad.csv"
    if not table.is_file():
        return []
    with table.open() as file:
        return [(row["file"], row["expect"]) for row in csv.DictReader(file)]


ANY_CT = plan(
    "classification", {"modality": "ct", "classes": ["a", "b"]}, {"size": [16, 16], "intensity": {"kind": "percentile"}}
)


@pytest.mark.parametrize(("file", "expect"), bad_files())
def test_a_bad_file_is_quarantined_and_a_good_one_accepted(tmp_path: Path, file: str, expect: str) -> None:
    (tmp_path / "dicom").mkdir()
    shutil.copy(DATA / "dicom_corpus" / file, tmp_path / "dicom")
    files, unusable = read_dicom_folder(tmp_path, "corpus", SECRET, 2)
    found = [*prepare_all(files, ANY_CT, task_for(ANY_CT)), *unusable]
    (one,) = found
    # Nobody labelled these files, so a case that was read to the end stops at its label.
    accepted = getattr(one, "code", "") == "label-missing"
    assert accepted if expect == "accept" else (not accepted or "degraded" in expect)


@pytest.mark.slow
def test_every_file_of_the_corpus_is_a_case_a_mask_or_has_a_reason(tmp_path: Path) -> None:
    (tmp_path / "dicom").symlink_to(DATA / "dicom_corpus" / "files")
    files, unusable = read_dicom_folder(tmp_path, "corpus", SECRET, 2)
    assert len(files) > 200
    assert {one.code for one in unusable} <= {
        "unreadable-dicom", "dicom-no-uid", "patient-unknown", "patient-conflict", "duplicate-instance",
        "mask-ambiguous",
    }  # fmt: skip
