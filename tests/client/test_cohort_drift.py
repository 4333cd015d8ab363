"""Whether the data are still those that were frozen: every kind of change is found and counted, and nothing else is."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_archive import made, name_of, tiny_archive

from client.data.archive.archive import Archive
from client.data.cohort.drift import UNCHANGED, Drift, drift, require_unchanged
from client.data.cohort.freeze import freeze
from client.data.cohort.manifest import Cohort, SplitRule
from shared.errors import SiteDataError

CASES = [made(number, number // 2) for number in range(8)]


def frozen(archive: Archive, *exclude: str) -> Cohort:
    return freeze(archive, "north", "ct", SplitRule(7, 0.6, 0.2), exclude)


def brighter(number: int) -> np.ndarray:
    voxels = CASES[number].voxels.copy()
    voxels[0, 0, 0] = 255 - voxels[0, 0, 0]
    return voxels


def test_untouched_data_are_unchanged(tmp_path: Path) -> None:
    archive = tiny_archive(tmp_path, CASES)
    assert drift(frozen(archive), archive) == UNCHANGED == Drift(0, 0, 0)
    require_unchanged(frozen(archive), archive)


def test_the_same_cases_stored_elsewhere_are_unchanged(tmp_path: Path) -> None:
    cohort = frozen(tiny_archive(tmp_path / "a", CASES))
    tiny_archive(tmp_path / "b", CASES[4:])
    moved = tiny_archive(tmp_path / "b", [*reversed(CASES[:4]), CASES[6]])
    assert drift(cohort, moved) == UNCHANGED


@given(
    st.sets(st.integers(0, 7), max_size=3),
    st.sets(st.integers(0, 7), max_size=3),
    st.sets(st.integers(20, 25), max_size=3),
)
@settings(max_examples=20, deadline=None)
def test_every_change_is_counted_as_what_it_is(
    tmp_path_factory: pytest.TempPathFactory, gone: set[int], other: set[int], new: set[int]
) -> None:
    cohort = frozen(tiny_archive(tmp_path_factory.mktemp("before"), CASES))
    left = [
        replace(one, voxels=brighter(number)) if number in other else one
        for number, one in enumerate(CASES)
        if number not in gone
    ]
    after = tiny_archive(tmp_path_factory.mktemp("after"), [*left, *map(made, new)])
    assert drift(cohort, after) == Drift(added=len(new), removed=len(gone), altered=len(other - gone))


@pytest.mark.parametrize(
    "change",
    [
        {"label": "normal"},
        {"person": "another"},
        {"more": {"subgroups": (("sex", "M"),)}},
        {"more": {"spacing_mm": (0.5, 0.5)}},
        {"mask": np.ones((12, 10), np.uint8)},
        {"modality": "mr"},
        {"more": {"source_sha256": "0" * 64}},
    ],
)
def test_what_is_said_about_a_case_is_part_of_it(tmp_path: Path, change: dict[str, object]) -> None:
    cohort = frozen(tiny_archive(tmp_path, CASES))
    archive = tiny_archive(tmp_path, [replace(CASES[3], **change)])  # type: ignore[arg-type]
    assert drift(cohort, archive) == Drift(0, 0, 1)


@pytest.mark.parametrize(
    "change",
    [{"origin": "read again"}, {"aliases": (name_of("x"),)}, {"dropped": ("name",)}, {"suspicions": ("text",)}],
)
def test_what_training_cannot_notice_is_no_drift(tmp_path: Path, change: dict[str, object]) -> None:
    cohort = frozen(tiny_archive(tmp_path, CASES))
    assert drift(cohort, tiny_archive(tmp_path, [replace(CASES[3], more=change)])) == UNCHANGED


def test_a_case_that_was_left_out_is_neither_added_nor_missed(tmp_path: Path) -> None:
    archive = tiny_archive(tmp_path, CASES)
    cohort = frozen(archive, CASES[2].case_id)
    assert drift(cohort, archive) == UNCHANGED
    assert drift(cohort, tiny_archive(tmp_path, [replace(CASES[2], label="normal")])) == UNCHANGED


def test_a_new_case_does_not_hide_behind_one_that_was_left_out_and_is_gone(tmp_path: Path) -> None:
    cohort = frozen(tiny_archive(tmp_path / "a", CASES), CASES[2].case_id)
    assert drift(cohort, tiny_archive(tmp_path / "b", [*CASES[:2], *CASES[3:], made(30)])) == Drift(1, 0, 0)


def test_a_refusal_says_the_three_numbers_and_no_name(tmp_path: Path) -> None:
    cohort = frozen(tiny_archive(tmp_path / "a", CASES))
    changed = [replace(CASES[0], voxels=brighter(0)), *map(made, (20, 21, 22))]
    archive = tiny_archive(tmp_path / "b", [*changed, *CASES[1:6]])
    with pytest.raises(SiteDataError, match=r"\(8 cases\): 3 added, 2 removed, 1 altered") as caught:
        require_unchanged(cohort, archive)
    assert caught.value.code == "cohort-drift"
    assert caught.value.hint
    assert not [one for one in CASES if one.case_id in caught.value.sentence]
