import multiprocessing
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest

from client.data.case_files import CaseFiles, Quarantined
from client.data.prepared import cache
from client.data.prepared.cache import prepared_store, store_key
from client.data.prepared.store import DATA, Store
from shared.plan import Plan, from_document
from shared.tasks import task_for

UNUSABLE = (Quarantined("q" * 24, "unreadable-dicom", "a file cannot be read as DICOM"),)


def plan(task: str = "classification", **sections: dict[str, Any]) -> Plan:
    document: dict[str, Any] = {
        "plan": {"name": "test", "task": task, "rounds": 1},
        "data": {"modality": "us", "classes": ["benign", "malignant"]},
        "preprocessing": {"size": [8, 8]},
        "model": {"name": "unet"},
        "training": {"steps": 1, "patients_per_step": 1, "learning_rate": 0.1},
        "privacy": {"unit": "none"},
    }
    for name, values in sections.items():
        document[name] = document.get(name, {}) | values
    return from_document(document)


PLAN = plan()


def png(path: Path, seed: int) -> Path:
    PIL.Image.fromarray(np.random.default_rng(seed).integers(0, 256, (8, 8), np.uint8)).save(path)
    return path


@pytest.fixture
def files(tmp_path: Path) -> list[CaseFiles]:
    """Three cases; the last has no readable image."""
    missing = CaseFiles("c3", "p3", (tmp_path / "gone.png",), None, "benign", modality="us")
    return [
        CaseFiles("c1", "p1", (png(tmp_path / "1.png", 1),), None, "benign", modality="us"),
        CaseFiles("c2", "p2", (png(tmp_path / "2.png", 2),), png(tmp_path / "m.png", 9), "malignant", modality="us"),
        missing,
    ]


class Watch:
    """Counts how many cases were prepared."""

    def __init__(self) -> None:
        self.prepared = 0

    def __call__(self, _done: int, _total: int) -> None:
        self.prepared += 1


def build(root: Path, files: list[CaseFiles], plan: Plan = PLAN) -> tuple[Store, int]:
    watch = Watch()
    store = prepared_store(root, files, plan, task_for(plan), progress=watch)
    return store, watch.prepared


def test_a_first_run_prepares_and_a_second_reuses(tmp_path: Path, files: list[CaseFiles]) -> None:
    first, prepared = build(tmp_path / "stores", files)
    again, prepared_again = build(tmp_path / "stores", files)
    assert (prepared, prepared_again) == (3, 0)
    assert first.digest == again.digest
    assert first.folder == again.folder
    assert [entry.case_id for entry in again.entries] == ["c1", "c2"]
    assert [(one.case_id, one.code) for one in again.quarantined] == [("c3", "image-missing")]


def test_what_was_unusable_from_the_start_is_kept_with_the_store(tmp_path: Path, files: list[CaseFiles]) -> None:
    store = prepared_store(tmp_path / "stores", files, PLAN, task_for(PLAN), unusable=UNUSABLE)
    assert store.quarantined[0] == UNUSABLE[0]
    assert len(store.quarantined) == 2


@pytest.mark.parametrize(
    "other",
    [
        plan(training={"learning_rate": 0.5, "steps": 7}),
        plan(plan={"rounds": 50, "seed": 3}),
        plan(data={"train_fraction": 0.7, "quarantine_quota": 0.5}),
        plan(model={"name": "cnn"}),
    ],
)
def test_a_plan_that_differs_elsewhere_reuses_the_store(tmp_path: Path, files: list[CaseFiles], other: Plan) -> None:
    build(tmp_path / "stores", files)
    assert build(tmp_path / "stores", files, other)[1] == 0


@pytest.mark.parametrize(
    "other",
    [
        plan(preprocessing={"size": [6, 8]}),
        plan(preprocessing={"intensity": {"kind": "percentile"}}),
        plan(data={"classes": ["malignant", "benign"]}),
        plan(data={"labels": "multilabel"}),
    ],
)
def test_a_plan_that_changes_cases_builds_another_store_beside_the_first(
    tmp_path: Path, files: list[CaseFiles], other: Plan
) -> None:
    first, _ = build(tmp_path / "stores", files)
    second, prepared = build(tmp_path / "stores", files, other)
    assert prepared == 3
    assert second.folder != first.folder
    assert build(tmp_path / "stores", files)[1] == 0


def test_another_task_builds_another_store(files: list[CaseFiles]) -> None:
    segmentation = plan("segmentation")
    keys = {store_key(files, one, task_for(one)) for one in (PLAN, segmentation)}
    assert len(keys) == 2


def test_the_key_follows_content_and_not_names_of_files(tmp_path: Path, files: list[CaseFiles]) -> None:
    task = task_for(PLAN)
    key = store_key(files, PLAN, task)
    moved = replace(files[0], images=(files[0].images[0].rename(tmp_path / "moved.png"),))
    assert store_key([moved, *files[1:]], PLAN, task) == key
    png(tmp_path / "moved.png", 77)
    assert store_key([moved, *files[1:]], PLAN, task) != key


@pytest.mark.parametrize(
    "change",
    [{"label": "malignant"}, {"patient": "p9"}, {"case_id": "c9"}, {"subgroups": (("sex", "F"),)}, {"modality": "mr"}],
)
def test_the_key_follows_what_is_said_about_a_case(files: list[CaseFiles], change: dict[str, Any]) -> None:
    task = task_for(PLAN)
    assert store_key([replace(files[0], **change)], PLAN, task) != store_key(files[:1], PLAN, task)


def test_the_key_follows_masks_series_and_what_was_unusable(files: list[CaseFiles]) -> None:
    task, one, images = task_for(PLAN), files[0], files[1].images
    keys = {
        store_key([one], PLAN, task),
        store_key([replace(one, mask=files[1].mask)], PLAN, task),
        store_key([replace(one, slice_of=images)], PLAN, task),
        store_key([replace(one, images=one.images + images)], PLAN, task),
        store_key([one], PLAN, task, UNUSABLE),
        store_key([one, files[1]], PLAN, task),
        store_key([files[1], one], PLAN, task),
    }
    assert len(keys) == 7


def test_a_missing_file_that_appears_rebuilds_the_store(tmp_path: Path, files: list[CaseFiles]) -> None:
    build(tmp_path / "stores", files)
    png(tmp_path / "gone.png", 3)
    store, prepared = build(tmp_path / "stores", files)
    assert (len(store), prepared) == (3, 3)


def test_changed_preprocessing_code_rebuilds_the_store(files: list[CaseFiles], monkeypatch: pytest.MonkeyPatch) -> None:
    key = store_key(files, PLAN, task_for(PLAN))
    monkeypatch.setattr(cache, "_code_digest", lambda: "other code")
    assert store_key(files, PLAN, task_for(PLAN)) != key


def test_a_damaged_store_is_rebuilt_in_its_place(tmp_path: Path, files: list[CaseFiles]) -> None:
    store, _ = build(tmp_path / "stores", files)
    path = store.folder / DATA
    path.write_bytes(b"\1" + path.read_bytes()[1:])
    again, prepared = build(tmp_path / "stores", files)
    assert (prepared, again.digest) == (3, store.digest)


def test_no_path_and_no_key_material_is_in_the_folder_of_a_store(tmp_path: Path, files: list[CaseFiles]) -> None:
    named = replace(files[0], images=(files[0].images[0].rename(tmp_path / "Doe^Jane.png"),))
    store, _ = build(tmp_path / "stores", [named])
    for path in store.folder.iterdir():
        assert b"Doe" not in path.read_bytes()
        assert b"Doe" not in str(path).encode()


def _build_slowly(root: Path, files: list[CaseFiles], said: Any) -> None:
    def watch(_done: int, _total: int) -> None:
        said.put("prepared")
        time.sleep(0.2)

    prepared_store(root, files, PLAN, task_for(PLAN), progress=watch)


def test_two_processes_that_want_one_store_prepare_it_once(tmp_path: Path, files: list[CaseFiles]) -> None:
    context = multiprocessing.get_context("fork")
    said = context.SimpleQueue()
    both = [context.Process(target=_build_slowly, args=(tmp_path / "stores", files, said)) for _ in range(2)]
    for process in both:
        process.start()
    for process in both:
        process.join(timeout=60)
    assert [process.exitcode for process in both] == [0, 0]
    prepared = 0
    while not said.empty():
        said.get()
        prepared += 1
    assert prepared == len(files)
    store = Store.open(next((tmp_path / "stores").iterdir()))
    assert len(store) == 2
