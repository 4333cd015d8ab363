"""Synthetic hospitals, whose truth is known, through the whole data path."""

import csv
from pathlib import Path
from typing import Any

import pytest

from client.data.prepared.cache import prepared_store
from client.data.prepared.site_data import load_site_data
from client.data.prepared.store import Store
from client.data.source.series import read_dicom_folder
from shared.errors import SiteDataError
from shared.plan import Plan, from_document
from shared.tasks import task_for
from simulations.phantom_hospitals import hospitals
from simulations.phantoms import write_hospitals

SECRET = b"phantom-tests-0123456789"
SEED = 5


def plan(task: str, *classes: str, **data: Any) -> Plan:
    return from_document(
        {
            "plan": {"name": "test", "task": task, "rounds": 1},
            "data": {"modality": "ct", "classes": classes, **data},
            "preprocessing": {"size": [128, 128], "intensity": {"kind": "window", "low": -160, "high": 240}},
            "model": {"name": "unet"},
            "training": {"steps": 1, "patients_per_step": 1, "learning_rate": 0.1},
            "privacy": {"unit": "none"},
        }
    )


SEGMENT = plan("segmentation", "background", "liver", "lesion", quarantine_quota=0.5)
CLASSIFY = plan("classification", "benign", "malignant", quarantine_quota=0.5)


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """north (masks as DICOM SEG, one truncated image) and east (NIfTI masks, an empty file and a mask cut short)."""
    out = tmp_path_factory.mktemp("hospitals")
    write_hospitals(out, hospitals(2, SEED, patients=3), SEED)
    return out


def truth(out: Path, site: str) -> list[dict[str, str]]:
    with (out / "truth" / f"{site}.csv").open() as file:
        return list(csv.DictReader(file))


def opened(out: Path, site: str, plan: Plan, stores: Path) -> Store:
    files, unusable = read_dicom_folder(out / site, site, SECRET, 2)
    return prepared_store(stores, files, plan, task_for(plan), unusable=unusable)


@pytest.mark.parametrize("site", ["north", "east"])
def test_masks_have_exactly_the_organ_and_lesion_voxels_of_the_truth(written: Path, site: str, tmp_path: Path) -> None:
    store = opened(written, site, SEGMENT, tmp_path)
    found = [store.case(position).mask for position in range(len(store))]
    counts = sorted((int((mask == 1).sum()), int((mask == 2).sum())) for mask in found if mask is not None)
    healthy = [row for row in truth(written, site) if not row["fault"]]
    assert counts == sorted((int(row["organ_voxels"]), int(row["lesion_voxels"])) for row in healthy)


@pytest.mark.parametrize(
    ("site", "codes"), [("north", ["undecodable-pixels"]), ("east", ["mask-shape", "unreadable-dicom"])]
)
def test_every_fault_is_quarantined_and_nothing_else(
    written: Path, site: str, codes: list[str], tmp_path: Path
) -> None:
    store = opened(written, site, SEGMENT, tmp_path)
    assert sorted(one.code for one in store.quarantined) == codes
    assert len(store) == sum(not row["fault"] for row in truth(written, site))


def test_a_broken_mask_does_not_matter_to_a_task_that_needs_none(written: Path, tmp_path: Path) -> None:
    store = opened(written, "east", CLASSIFY, tmp_path)
    assert [one.code for one in store.quarantined] == ["unreadable-dicom"]


def test_labels_and_patients_are_those_of_the_truth(written: Path, tmp_path: Path) -> None:
    store = opened(written, "east", CLASSIFY, tmp_path)
    rows = [row for row in truth(written, "east") if row["fault"] != "empty"]
    labels = sorted(CLASSIFY.data.classes[entry.label] for entry in store.entries if isinstance(entry.label, int))
    assert labels == sorted(row["label"] for row in rows)
    sizes: dict[str, int] = {}
    for entry in store.entries:
        sizes[entry.patient] = sizes.get(entry.patient, 0) + 1
    expected: dict[str, int] = {}
    for row in rows:
        expected[row["patient_id"]] = expected.get(row["patient_id"], 0) + 1
    assert sorted(sizes.values()) == sorted(expected.values())


def test_a_strict_quota_keeps_a_hospital_with_faults_out(written: Path, tmp_path: Path) -> None:
    strict = plan("segmentation", "background", "liver", "lesion", quarantine_quota=0.0)
    with pytest.raises(SiteDataError, match="1 of "):
        load_site_data(opened(written, "north", strict, tmp_path), strict, "north")


def test_nothing_that_identifies_a_patient_is_in_a_store(written: Path, tmp_path: Path) -> None:
    store = opened(written, "north", CLASSIFY, tmp_path)
    text = (store.folder / "index.json").read_text()
    for row in truth(written, "north"):
        assert row["patient_id"] not in text
        assert row["series_uid"] not in text
