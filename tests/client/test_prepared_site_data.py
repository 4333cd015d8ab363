from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from client.data.case_files import Quarantined
from client.data.cohort.manifest import Cohort, Member, SplitRule
from client.data.cohort.split import split_of
from client.data.prepared.site_data import SiteData, StoredCases, by_patient, load_site_data
from client.data.prepared.store import Store
from client.data.prepared.store_writer import write
from shared.errors import SiteDataError
from shared.plan import Plan, from_document
from shared.preprocessing.image import Case


def plan(seed: int = 7, **data: Any) -> Plan:
    return from_document(
        {
            "plan": {"name": "test", "task": "classification", "rounds": 1, "seed": seed},
            "data": {"modality": "us", "classes": ["benign", "malignant"], **data},
            "preprocessing": {"size": [2, 2]},
            "model": {"name": "cnn"},
            "training": {"steps": 1, "patients_per_step": 1, "learning_rate": 0.1},
            "privacy": {"unit": "none"},
        }
    )


def case(patient: int, view: int, label: int | None = None) -> Case:
    voxels = np.full((1, 2, 2), 100 * patient + view, np.float32)
    return Case(f"c{patient}-{view}", f"p{patient}", voxels, None, patient % 2 if label is None else label, (1.0, 1.0))


def bad(count: int, code: str = "mask-shape") -> list[Quarantined]:
    return [Quarantined(f"{code}-{number}", code, "it does not fit") for number in range(count)]


def store(folder: Path, *cases: Case | Quarantined) -> Store:
    write(folder, "k", cases)
    return Store.open(folder)


def rule(plan: Plan) -> SplitRule:
    return SplitRule(plan.plan.seed, plan.data.train_fraction, plan.data.validation_fraction)


def cohort(store: Store, plan: Plan, *unread: tuple[str, int]) -> Cohort:
    """The cohort that ``store`` could have been prepared from; ``unread`` counts what was not even stored."""

    def member(case_id: str, patient: str) -> Member:
        split = split_of(rule(plan), "site", patient)
        return Member(case_id, patient, split, "", "", (1, 2, 2), (1.0, 1.0), "us", False, None)

    usable = [member(entry.case_id, entry.patient) for entry in store.entries]
    members = [*usable, *(member(one.case_id, f"patient of {one.case_id}") for one in store.quarantined)]
    return Cohort("site", "us", rule(plan), tuple(members), quarantined=unread)


def loaded(store: Store, plan: Plan, *unread: tuple[str, int]) -> SiteData:
    return load_site_data(store, cohort(store, plan, *unread), plan)


def refusal(store: Store, plan: Plan, *unread: tuple[str, int]) -> SiteDataError:
    with pytest.raises(SiteDataError) as caught:
        loaded(store, plan, *unread)
    return caught.value


def everyone(data: SiteData) -> list[Case]:
    return [*data.train, *data.validation, *data.test]


def split_sizes(data: SiteData) -> tuple[int, int, int]:
    return len(data.train), len(data.validation), len(data.test)


EVERYBODY: dict[str, Any] = {"train_fraction": 0.999999, "validation_fraction": 0.0}
TWENTY = [case(patient, view) for patient in range(20) for view in range(1 + patient % 3)]


def test_every_case_is_in_exactly_one_split(tmp_path: Path) -> None:
    data = loaded(store(tmp_path, *TWENTY), plan())
    assert Counter(one.case_id for one in everyone(data)) == Counter(one.case_id for one in TWENTY)


def test_no_patient_is_in_two_splits(tmp_path: Path) -> None:
    data = loaded(store(tmp_path, *TWENTY), plan())
    train, validation, test = ({one.patient for one in cases} for cases in (data.train, data.validation, data.test))
    assert len(train) + len(validation) + len(test) == len(train | validation | test) == 20
    assert all((train, validation, test))


def test_a_patient_is_where_split_of_says(tmp_path: Path) -> None:
    data = loaded(store(tmp_path, *TWENTY), plan(3))
    for name in ("train", "validation", "test"):
        assert {split_of(rule(plan(3)), "site", one.patient) for one in data.split(name)} == {name}


def test_cases_that_join_move_nobody(tmp_path: Path) -> None:
    before = loaded(store(tmp_path / "a", *TWENTY[:-9]), plan())
    after = loaded(store(tmp_path / "b", *reversed(TWENTY)), plan())
    for name in ("train", "validation", "test"):
        assert {one.case_id for one in before.split(name)} <= {one.case_id for one in after.split(name)}


def test_training_patients_name_all_their_cases_and_no_others(tmp_path: Path) -> None:
    data = loaded(store(tmp_path, *TWENTY), plan())
    assert sorted(position for group in data.train_patients for position in group) == list(range(len(data.train)))
    patients = [{data.train[position].patient for position in group} for group in data.train_patients]
    assert all(len(names) == 1 for names in patients)
    assert len(set.union(*patients)) == len(patients)
    assert max(map(len, data.train_patients)) == 3


@given(st.lists(st.sampled_from("abcdef")))
def test_grouping_by_patient_is_a_partition_into_equal_names(patients: list[str]) -> None:
    groups = by_patient(patients)
    assert sorted(sum(groups, ())) == list(range(len(patients)))
    assert [patients[group[0]] for group in groups] == list(dict.fromkeys(patients))
    assert all(patients[position] == patients[group[0]] for group in groups for position in group)


def test_stored_cases_behave_like_a_list(tmp_path: Path) -> None:
    opened = store(tmp_path, *TWENTY)
    cases = StoredCases(opened, (4, 2, 0))
    assert [one.case_id for one in cases] == [TWENTY[position].case_id for position in (4, 2, 0)]
    assert cases[-1].case_id == TWENTY[0].case_id
    assert [one.case_id for one in cases[1:]] == [TWENTY[2].case_id, TWENTY[0].case_id]
    assert len(cases[:2]) == 2
    with pytest.raises(IndexError):
        cases[3]


def test_dividing_a_site_reads_no_case(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = store(tmp_path, *TWENTY)

    def read(*_: object) -> None:
        raise AssertionError("a case was read")

    monkeypatch.setattr(Store, "case", read)
    assert sum(split_sizes(loaded(opened, plan()))) == len(TWENTY)


@pytest.mark.parametrize("unusable", [0, 9, 10])
def test_a_quota_may_be_used_up(tmp_path: Path, unusable: int) -> None:
    """40 usable cases and a quota of 0.2: 10 of 50 are just allowed."""
    opened = store(tmp_path, *(case(patient, 0) for patient in range(40)), *bad(unusable))
    found = loaded(opened, plan(quarantine_quota=0.2)).quarantined
    assert sum(found.values()) == unusable


@pytest.mark.parametrize("unusable", [11, 100])
def test_a_site_beyond_the_quota_sits_out_and_says_the_numbers(tmp_path: Path, unusable: int) -> None:
    opened = store(tmp_path, *(case(patient, 0) for patient in range(40)), *bad(unusable))
    error = refusal(opened, plan(quarantine_quota=0.2))
    assert error.code == "quarantine-quota"
    assert f"{unusable} of {40 + unusable} cases" in error.sentence


@given(st.integers(1, 99))
@settings(max_examples=20)
def test_a_share_that_equals_the_quota_is_allowed_to_the_last_digit(
    tmp_path_factory: pytest.TempPathFactory, unusable: int
) -> None:
    """0.29 * 100 is 28.999999999999996: a product would refuse the 29th case."""
    usable = [case(patient, 0) for patient in range(100 - unusable)]
    opened = store(tmp_path_factory.mktemp("store"), *usable, *bad(unusable))
    everybody = plan(quarantine_quota=unusable / 100, **EVERYBODY)
    assert len(loaded(opened, everybody).train) == 100 - unusable


def test_a_refusal_counts_the_reasons_most_frequent_first(tmp_path: Path) -> None:
    opened = store(tmp_path, case(0, 0), *bad(1, "modality"), *bad(2, "mask-shape"))
    assert (
        "3 of 4 cases are unusable (2 mask-shape, 1 modality); the plan allows 20%" in refusal(opened, plan()).sentence
    )


def test_a_site_without_usable_cases_is_empty_whatever_the_quota(tmp_path: Path) -> None:
    error = refusal(store(tmp_path, *bad(2)), plan(quarantine_quota=1.0))
    assert error.code == "empty-site"
    assert "0 usable cases, 2 unusable (2 mask-shape)" in error.sentence
    assert refusal(store(tmp_path / "none"), plan()).code == "empty-site"


def test_a_site_whose_patients_all_fall_elsewhere_cannot_train(tmp_path: Path) -> None:
    error = refusal(store(tmp_path, *TWENTY), plan(train_fraction=0.0))
    assert error.code == "no-training-patient"
    assert "none of the 20 patients" in error.sentence


def notes(folder: Path, *cases: Case, **data: Any) -> str:
    return "\n".join(loaded(store(folder, *cases), plan(**data)).notes)


def test_a_site_with_one_class_or_one_patient_takes_part_and_says_so(tmp_path: Path) -> None:
    assert "one and the same label out of 2 classes" in notes(
        tmp_path / "1", *(case(p, 0, 1) for p in range(9)), **EVERYBODY
    )
    assert "one patient makes up" in notes(tmp_path / "2", case(0, 0, 0), case(0, 1, 1), **EVERYBODY)


def test_a_site_without_patients_to_test_on_says_so(tmp_path: Path) -> None:
    said = notes(tmp_path, *TWENTY, **EVERYBODY)
    assert "no patient falls into the validation split" in said
    assert "no patient falls into the test split" in said


def test_an_ordinary_site_has_no_notes(tmp_path: Path) -> None:
    assert notes(tmp_path, *TWENTY) == ""


def test_cases_without_labels_are_not_one_class(tmp_path: Path) -> None:
    masks = [Case(f"c{n}", f"p{n}", np.zeros((1, 2, 2), np.float32), None, None, (1.0, 1.0)) for n in range(20)]
    assert notes(tmp_path, *masks) == ""


@given(st.integers(0, 1000))
@settings(max_examples=20)
def test_a_seed_deals_the_same_way_every_time(tmp_path_factory: pytest.TempPathFactory, seed: int) -> None:
    opened = store(tmp_path_factory.mktemp("store"), *TWENTY)
    first, again = (loaded(opened, plan(seed)) for _ in range(2))
    assert [one.case_id for one in everyone(first)] == [one.case_id for one in everyone(again)]


def test_cases_that_were_never_stored_count_towards_the_quota_like_those_the_task_cannot_use(tmp_path: Path) -> None:
    """40 usable, 7 that the task refuses, and a quota of 0.2: 10 of 50 are just allowed, 11 of 51 are not."""
    opened, wanted = store(tmp_path, *(case(patient, 0) for patient in range(40)), *bad(7)), plan(quarantine_quota=0.2)
    found = loaded(opened, wanted, ("unreadable-dicom", 2), ("mask-shape", 1))
    assert found.quarantined == {"mask-shape": 8, "unreadable-dicom": 2}
    said = refusal(opened, wanted, ("unreadable-dicom", 3), ("mask-shape", 1)).sentence
    assert "11 of 51 cases are unusable (8 mask-shape, 3 unreadable-dicom)" in said


def test_what_a_hospital_left_out_of_its_cohort_is_not_unusable(tmp_path: Path) -> None:
    opened = store(tmp_path, *(case(patient, 0) for patient in range(10)))
    approved = replace(cohort(opened, plan()), excluded=(("near-duplicate", 90),), left_out=("x",) * 90)
    assert load_site_data(opened, approved, plan(quarantine_quota=0.0)).quarantined == {}


def test_the_cohort_says_who_is_trained_on_and_not_the_seed_of_the_plan(tmp_path: Path) -> None:
    opened = store(tmp_path, *TWENTY)
    frozen = cohort(opened, plan(3))
    one, other = (load_site_data(opened, frozen, plan(seed)) for seed in (3, 99))
    assert [case.case_id for case in one.train] == [case.case_id for case in other.train]
    assert [case.case_id for case in one.train] != [case.case_id for case in loaded(opened, plan(99)).train]


@pytest.mark.parametrize("shares", [{"train_fraction": 0.5}, {"validation_fraction": 0.05}])
def test_a_plan_that_wants_other_shares_than_were_frozen_is_refused_with_both(
    tmp_path: Path, shares: dict[str, float]
) -> None:
    opened = store(tmp_path, *TWENTY)
    frozen = cohort(opened, plan(train_fraction=0.6, validation_fraction=0.2))
    wanted = plan(**{"train_fraction": 0.6, "validation_fraction": 0.2, **shares})
    with pytest.raises(SiteDataError, match=r"frozen with 0\.6 of patients .* 0\.2 for validation") as caught:
        load_site_data(opened, frozen, wanted)
    assert caught.value.code == "split-differs"
    assert f"{next(iter(shares.values())):g}" in caught.value.sentence


def test_prepared_cases_of_another_cohort_are_refused(tmp_path: Path) -> None:
    frozen = cohort(store(tmp_path / "a", *TWENTY[:-1]), plan())
    with pytest.raises(SiteDataError, match="is no member") as caught:
        load_site_data(store(tmp_path / "b", *TWENTY), frozen, plan())
    assert caught.value.code == "store-other"
