"""Is each image there once, and each person known by one name?"""

import itertools
from collections.abc import Sequence

import numpy as np
import pytest
from doctored import Row, clean, found, name_of, names, table
from hypothesis import given
from hypothesis import strategies as st

from client.data.doctor.checks import identity
from client.data.doctor.findings import Finding
from shared.messages import Split


def splits(rows: Sequence[Row], test: set[str]) -> list[Split]:
    return ["test" if patient in test else "train" for patient in table(rows).patients]


def patient(number: int) -> str:
    return name_of(f"patient {number}")


def near(rows: Sequence[Row], *pairs: tuple[int, int], test: set[str] | None = None) -> dict[str, Finding]:
    """Findings where rows with these numbers are one picture."""
    cases = table(rows)
    place = {name: index for index, name in enumerate(cases.names)}
    told = np.array([[place[rows[number].case_id] for number in pair] for pair in pairs], np.intp).reshape(-1, 2)
    divided = None if test is None else splits(rows, test)
    checks = (
        *identity.near_duplicates(cases, told, more=False, splits=divided),
        *identity.labels_of_duplicates(cases, told),
    )
    return {one.code: one for one in checks}


def test_a_clean_data_set_has_no_duplicates_and_nobody_twice() -> None:
    rows = clean()
    assert found(identity.duplicates, rows, splits(rows, {patient(3)})) == {}
    assert found(identity.two_names, rows) == {}
    assert near(rows, test={patient(3)}) == {}


def test_a_second_copy_of_a_patients_image_is_named_and_the_first_is_kept() -> None:
    rows = clean()
    rows[1] = rows[1].but(voxels=rows[0].voxels)
    (finding,) = found(identity.duplicates, rows, None).values()
    assert (finding.code, finding.severity) == ("duplicate-within-patient", "warning")
    assert finding.cases == (max(rows[0].case_id, rows[1].case_id),)


def test_equal_images_of_two_patients_are_an_error_and_both_are_named() -> None:
    rows = clean()
    rows[7] = rows[7].but(voxels=rows[2].voxels)
    (finding,) = found(identity.duplicates, rows, None).values()
    assert (finding.code, finding.severity) == ("duplicate-across-patients", "error")
    assert finding.cases == names([rows[2], rows[7]])
    assert "2 of 24 (from 2 patients)" in finding.sentence


def test_equal_images_of_other_shape_or_modality_of_storage_are_no_duplicates() -> None:
    rows = clean()
    rows[7] = rows[7].but(voxels=rows[2].voxels.reshape(1, 24, 96), mask=None)
    assert found(identity.duplicates, rows, None) == {}


def test_one_source_file_under_two_patients_is_a_duplicate_and_two_frames_of_a_patients_file_are_not() -> None:
    rows = clean()
    rows[1] = rows[1].but(source_sha256=name_of("source 0"))
    assert found(identity.duplicates, rows, None) == {}
    rows[7] = rows[7].but(source_sha256=name_of("source 2"))
    assert found(identity.duplicates, rows, None)["duplicate-across-patients"].cases == names([rows[2], rows[7]])


def test_duplicates_in_one_split_are_not_across_splits() -> None:
    rows = clean()
    rows[7] = rows[7].but(voxels=rows[2].voxels)
    together = found(identity.duplicates, rows, splits(rows, {patient(9)}))
    assert "duplicate-across-splits" not in together
    apart = found(identity.duplicates, rows, splits(rows, {patient(3)}))
    assert apart["duplicate-across-splits"].cases == names([rows[2], rows[7]])
    assert apart["duplicate-across-splits"].severity == "error"


def test_blank_images_of_two_patients_prove_nothing() -> None:
    rows = clean()
    blank = np.zeros_like(rows[0].voxels)
    rows[2], rows[7] = rows[2].but(voxels=blank), rows[7].but(voxels=blank)
    assert found(identity.duplicates, rows, None) == {}


def test_one_picture_under_two_patients_is_a_warning_and_across_splits_an_error() -> None:
    rows = clean()
    within = near(rows, (2, 6), test={patient(9)})
    assert {code: one.severity for code, one in within.items()} == {"near-duplicate-across-patients": "warning"}
    across = near(rows, (2, 6), (4, 12), test={patient(3)})
    assert across["near-duplicate-across-patients"].cases == names([rows[2], rows[6], rows[4], rows[12]])
    assert across["near-duplicate-across-splits"].cases == names([rows[2], rows[6]])
    assert across["near-duplicate-across-splits"].severity == "error"


def test_that_not_all_pairs_were_compared_is_said() -> None:
    cases = table(clean())
    (note,) = identity.near_duplicates(cases, np.zeros((0, 2), np.intp), more=True, splits=None)
    assert (note.code, note.severity, note.cases) == ("near-duplicates-unsure", "note", ())


@pytest.mark.parametrize("label", ["malignant", None])
def test_copies_with_different_labels_contradict_each_other_and_a_missing_label_does_not(label: str | None) -> None:
    rows = clean()
    rows[5] = rows[5].but(voxels=rows[0].voxels, label=label)
    exact = near(rows)
    pictured = near([*clean()[:5], clean()[5].but(label=label), *clean()[6:]], (0, 5))
    contradicting = names([rows[0], rows[5]])
    for findings in (exact, pictured):
        named = findings["duplicate-labels-differ"].cases if "duplicate-labels-differ" in findings else ()
        assert named == (contradicting if label else ())


def test_copies_with_the_same_label_do_not_contradict_each_other() -> None:
    assert set(near(clean(), (0, 4))) == {"near-duplicate-across-patients"}


def test_patients_who_share_a_second_name_are_named_with_all_their_cases() -> None:
    rows = clean()
    rows[3] = rows[3].but(aliases=(name_of("alias 1"), name_of("alias 8")))
    (finding,) = found(identity.two_names, rows).values()
    assert (finding.code, finding.severity) == ("patient-two-names", "error")
    assert finding.cases == names([rows[2], rows[3], rows[16], rows[17]])
    assert "2 of 12" in finding.sentence


def test_a_second_name_that_all_images_of_a_patient_share_is_nobody_elses() -> None:
    rows = [row.but(aliases=()) for row in clean()]
    assert found(identity.two_names, rows) == {}


# --- against a plain count -------------------------------------------------------------------------------------------

CASES = st.lists(
    st.tuples(st.integers(0, 4), st.integers(0, 5), st.integers(0, 9), st.sampled_from(["a", "b", None])),
    min_size=2,
    max_size=14,
)
"""(patient, picture, source, label) of each case."""


@given(CASES)
def test_duplicates_are_those_of_a_comparison_of_every_pair(said: list[tuple[int, int, int, str | None]]) -> None:
    pictures = clean(3)
    rows = [
        pictures[picture].but(number=number, patient=f"{patient}", source_sha256=f"{source}", label=label)
        for number, (patient, picture, source, label) in enumerate(said)
    ]
    within, across, divided, contradicting = set[str](), set[str](), set[str](), set[str]()
    for one, other in itertools.permutations(range(len(said)), 2):
        (patient, picture, source, label), case = said[one], rows[one].case_id
        their_patient, their_picture, their_source, their_label = said[other]
        if patient == their_patient and picture == their_picture and rows[other].case_id < case:
            within.add(case)
        if patient != their_patient and (picture == their_picture or source == their_source):
            across.add(case)
            if (patient < 2) != (their_patient < 2):
                divided.add(case)
        if picture == their_picture and None not in {label, their_label} and label != their_label:
            contradicting.add(case)
    found = codes(rows, {"0", "1"}) | near(rows)
    expected = {
        "duplicate-within-patient": within,
        "duplicate-across-patients": across,
        "duplicate-across-splits": divided,
        "duplicate-labels-differ": contradicting,
    }
    assert {code: set(one.cases) for code, one in found.items()} == {code: ids for code, ids in expected.items() if ids}


def codes(rows: Sequence[Row], test: set[str]) -> dict[str, Finding]:
    return found(identity.duplicates, rows, splits(rows, test))


@given(st.lists(st.tuples(st.integers(0, 5), st.sets(st.integers(0, 6), max_size=3)), min_size=1, max_size=12))
def test_shared_names_are_those_of_a_comparison_of_every_pair(said: list[tuple[int, set[int]]]) -> None:
    base = clean(1)[0]
    rows = [
        base.but(number=number, patient=f"{patient}", aliases=tuple(f"{one}" for one in sorted(aliases)))
        for number, (patient, aliases) in enumerate(said)
    ]
    known: dict[int, set[int]] = {}
    for patient, aliases in said:
        known[patient] = known.get(patient, set()) | aliases
    twins = {one for one, other in itertools.permutations(known, 2) if known[one] & known[other]}
    expected = names(row for row, (patient, _) in zip(rows, said, strict=True) if patient in twins)
    findings = found(identity.two_names, rows)
    assert findings["patient-two-names"].cases == expected if twins else findings == {}


def test_copies_are_told_together_set_by_set() -> None:
    rows = clean()
    rows[7] = rows[7].but(voxels=rows[2].voxels)
    rows[12] = rows[12].but(voxels=rows[2].voxels)
    rows[20] = rows[20].but(voxels=rows[9].voxels)
    (finding,) = found(identity.duplicates, rows, None).values()
    assert finding.together == tuple(sorted([names([rows[2], rows[7], rows[12]]), names([rows[9], rows[20]])]))
    assert sorted(itertools.chain(*finding.together)) == list(finding.cases)


def test_look_alikes_are_joined_through_those_they_share() -> None:
    rows = clean()
    found_near = near(rows, (0, 5), (5, 10), (14, 19))
    together = found_near["near-duplicate-across-patients"].together
    assert together == tuple(sorted([names([rows[0], rows[5], rows[10]]), names([rows[14], rows[19]])]))


@given(st.lists(st.tuples(st.integers(0, 23), st.integers(0, 23)).filter(lambda pair: pair[0] != pair[1]), max_size=8))
def test_every_case_of_a_near_duplicate_is_in_one_set_of_at_least_two(pairs: list[tuple[int, int]]) -> None:
    finding = near(clean(), *pairs).get("near-duplicate-across-patients")
    if finding is None:
        assert pairs == []
        return
    members = list(itertools.chain(*finding.together))
    assert sorted(members) == list(finding.cases)
    assert all(len(together) >= 2 for together in finding.together)
