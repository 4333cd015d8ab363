"""When prepared cases are made anew, and when they are not."""

import multiprocessing
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny_archive import Made, made, name_of, tiny_archive

from client.data.archive.archive import Archive
from client.data.archive.segments import path_of
from client.data.cohort.freeze import freeze
from client.data.cohort.manifest import Cohort, SplitRule
from client.data.prepared import cache
from client.data.prepared.cache import prepared_store, store_key
from client.data.prepared.store import Store
from shared.errors import SiteDataError
from shared.plan import Plan, from_document
from shared.tasks import task_for

RULE = SplitRule(7, 0.6, 0.2)
SEAL = bytes(range(32))


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
CASES = [made(1), made(2), made(3, label="no class of the plan")]


@pytest.fixture
def archive(tmp_path: Path) -> Archive:
    """Three cases; the plan cannot use the last one."""
    return tiny_archive(tmp_path / "archive", CASES)


def frozen(archive: Archive, rule: SplitRule = RULE, exclude: tuple[str, ...] = ()) -> Cohort:
    return freeze(archive, "north", "us", rule, exclude)


class Watch:
    """Counts how many cases were prepared."""

    def __init__(self) -> None:
        self.prepared = 0

    def __call__(self, _done: int, _total: int) -> None:
        self.prepared += 1


def build(archive: Archive, cohort: Cohort | None = None, plan: Plan = PLAN) -> tuple[Store, int]:
    watch, root = Watch(), archive.folder.parent / "stores"
    store = prepared_store(root, cohort or frozen(archive), archive, plan, task_for(plan), progress=watch)
    return store, watch.prepared


def test_a_first_run_prepares_and_a_second_reuses(archive: Archive) -> None:
    first, prepared = build(archive)
    again, prepared_again = build(archive)
    assert (prepared, prepared_again) == (3, 0)
    assert first.digest == again.digest
    assert first.folder == again.folder
    assert [entry.case_id for entry in again.entries] == sorted(one.case_id for one in CASES[:2])
    assert [(one.case_id, one.code) for one in again.quarantined] == [(CASES[2].case_id, "label-unknown")]


@pytest.mark.parametrize(
    "other",
    [
        plan(training={"learning_rate": 0.5, "steps": 7}),
        plan(plan={"rounds": 50, "seed": 3}),
        plan(data={"train_fraction": 0.7, "quarantine_quota": 0.5}),
        plan(model={"name": "cnn"}),
    ],
)
def test_a_plan_that_differs_elsewhere_reuses_the_store(archive: Archive, other: Plan) -> None:
    build(archive)
    assert build(archive, plan=other)[1] == 0


@pytest.mark.parametrize(
    "other",
    [
        plan(preprocessing={"size": [6, 8]}),
        plan(preprocessing={"intensity": {"kind": "percentile"}}),
        plan(data={"classes": ["malignant", "benign"]}),
        plan(data={"labels": "multilabel"}),
    ],
)
def test_a_plan_that_changes_cases_builds_another_store_beside_the_first(archive: Archive, other: Plan) -> None:
    first, _ = build(archive)
    second, prepared = build(archive, plan=other)
    assert prepared == 3
    assert second.folder != first.folder
    assert build(archive)[1] == 0


@pytest.mark.parametrize("explain", ["grad-cam", "occlusion"])
def test_a_plan_that_explains_keeps_masks_in_a_store_of_its_own(archive: Archive, explain: str) -> None:
    """Control: the store of a plan that does not ask, whose key and bytes are what they were."""
    plain, _ = build(archive)
    asking = plan(evaluation={"explain": explain})
    kept, prepared = build(archive, plan=asking)
    assert prepared == 3
    assert kept.folder != plain.folder
    assert [entry.masked for entry in plain.entries] == [False, False]
    for position in range(2):
        np.testing.assert_array_equal(kept.case(position).voxels, plain.case(position).voxels)
        assert (kept.case(position).mask is None) == (not archived_mask(archive, kept.entries[position].case_id))
    assert store_key(frozen(archive), asking, task_for(asking)) == kept.key


def archived_mask(archive: Archive, case_id: str) -> bool:
    [record] = (record for record in archive.records() if record.case_id == case_id)
    return record.masked


def test_how_explanations_are_made_changes_no_store(archive: Archive) -> None:
    asking = [
        plan(evaluation=chosen | {"explain": method})
        for method in ("grad-cam", "occlusion")
        for chosen in ({}, {"explain_cases": 3}, {"explain_lesion": 2})
    ]
    assert len({store_key(frozen(archive), one, task_for(one)) for one in asking}) == 1
    idle = plan(evaluation={"explain_cases": 3, "explain_lesion": 2})
    assert store_key(frozen(archive), idle, task_for(idle)) == store_key(frozen(archive), PLAN, task_for(PLAN))


def test_another_task_builds_another_store(archive: Archive) -> None:
    keys = {store_key(frozen(archive), one, task_for(one)) for one in (PLAN, plan("segmentation"))}
    assert len(keys) == 2


def test_dealing_patients_anew_reuses_the_store_and_leaving_one_out_does_not(archive: Archive) -> None:
    build(archive)
    assert build(archive, frozen(archive, SplitRule(8, 0.5, 0.1)))[1] == 0
    assert build(archive, frozen(archive, exclude=(CASES[0].case_id,)))[1] == 2


def test_the_key_is_that_of_the_content_wherever_it_is_stored(archive: Archive, tmp_path: Path) -> None:
    other = tiny_archive(tmp_path / "other", [made(9), *reversed(CASES)])
    cohorts = frozen(archive), frozen(other, exclude=(made(9).case_id,))
    assert len({store_key(cohort, PLAN, task_for(PLAN)) for cohort in cohorts}) == 1


CHANGES: list[dict[str, Any]] = [
    {"label": "malignant"},
    {"person": "another"},
    {"name": "another"},
    {"voxels": made(1).voxels[:, ::-1].copy()},
    {"mask": np.ones((12, 10), np.uint8)},
    {"modality": "mr"},
    {"more": {"subgroups": (("sex", "M"),)}},
    {"more": {"spacing_mm": (0.5, 0.5)}},
]


@pytest.mark.parametrize("change", CHANGES)
def test_the_key_follows_everything_about_a_case(tmp_path: Path, change: dict[str, Any]) -> None:
    other: list[Made] = [replace(made(1, label="benign"), **change), *CASES[1:]]
    same = tiny_archive(tmp_path / "same", [made(1, label="benign"), *CASES[1:]])
    keys = [store_key(frozen(one), PLAN, task_for(PLAN)) for one in (same, tiny_archive(tmp_path / "other", other))]
    assert keys[0] != keys[1]


def test_data_that_are_not_the_frozen_ones_are_refused_before_anything_is_prepared(archive: Archive) -> None:
    cohort = frozen(archive)
    changed = tiny_archive(archive.folder, [made(1, label="benign"), made(4)])
    with pytest.raises(SiteDataError, match="1 added, 0 removed, 1 altered") as caught:
        build(changed, cohort)
    assert caught.value.code == "cohort-drift"
    assert not (archive.folder.parent / "stores").exists()


def test_drift_is_refused_even_where_the_store_is_there_already(archive: Archive) -> None:
    cohort = frozen(archive)
    build(archive, cohort)
    with pytest.raises(SiteDataError, match="1 added, 0 removed, 0 altered"):
        build(tiny_archive(archive.folder, [made(4)]), cohort)


def test_changed_preprocessing_code_rebuilds_the_store(archive: Archive, monkeypatch: pytest.MonkeyPatch) -> None:
    key = store_key(frozen(archive), PLAN, task_for(PLAN))
    monkeypatch.setattr(cache, "_code_digest", lambda: "other code")
    assert store_key(frozen(archive), PLAN, task_for(PLAN)) != key


def test_a_damaged_store_is_rebuilt_in_its_place(archive: Archive) -> None:
    store, _ = build(archive)
    path = path_of(store.folder, 1)
    path.write_bytes(b"\1" + path.read_bytes()[1:])
    again, prepared = build(archive)
    assert (prepared, again.digest) == (3, store.digest)


def test_prepared_cases_of_a_sealed_archive_are_sealed_and_read_as_the_others(archive: Archive, tmp_path: Path) -> None:
    """Control: the store of the archive that is not sealed holds the voxels that the search looks for."""
    sealed = tiny_archive(tmp_path / "sealed" / "archive", CASES, key=SEAL)
    plain, hidden = build(archive)[0], build(sealed)[0]
    for position in range(2):
        np.testing.assert_array_equal(plain.case(position).voxels, hidden.case(position).voxels)
    piece = plain.case(0).voxels.tobytes()[64:96]
    assert any(piece in path.read_bytes() for path in plain.folder.iterdir())
    assert not any(piece in path.read_bytes() for path in hidden.folder.iterdir())
    assert build(tiny_archive(sealed.folder, [], key=SEAL))[1] == 0


def _build_slowly(folder: Path, said: Any) -> None:
    def watch(_done: int, _total: int) -> None:
        said.put("prepared")
        time.sleep(0.2)

    archive = Archive.open(folder)
    prepared_store(folder.parent / "stores", frozen(archive), archive, PLAN, task_for(PLAN), progress=watch)


def test_two_processes_that_want_one_store_prepare_it_once(archive: Archive) -> None:
    context = multiprocessing.get_context("fork")
    said = context.SimpleQueue()
    both = [context.Process(target=_build_slowly, args=(archive.folder, said)) for _ in range(2)]
    for process in both:
        process.start()
    for process in both:
        process.join(timeout=60)
    assert [process.exitcode for process in both] == [0, 0]
    prepared = 0
    while not said.empty():
        said.get()
        prepared += 1
    assert prepared == len(CASES)
    store = Store.open(next((archive.folder.parent / "stores").iterdir()))
    assert [entry.case_id for entry in store.entries] == sorted(name_of(f"case {number}") for number in (1, 2))
