"""What goes into a cohort, what is left out of it, and what that does not depend on."""

from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_archive import Made, made, name_of, tiny_archive

from client.data.archive.archive import Archive
from client.data.case_files import Quarantined
from client.data.cohort.freeze import BY_NAME, freeze
from client.data.cohort.manifest import Cohort, SplitRule
from client.data.cohort.split import split_of
from client.data.doctor.findings import Finding
from shared.errors import SiteDataError

RULE = SplitRule(7, 0.6, 0.2)
CASES = [made(number, number // 2) for number in range(12)]
BAD = [
    Quarantined(name_of("bad 1"), "unreadable-dicom", "a file cannot be read"),
    Quarantined(name_of("bad 2"), "unreadable-dicom", "a file cannot be read"),
    Quarantined(name_of("bad 3"), "mask-shape", "the mask does not fit"),
]


def ids(*numbers: int) -> tuple[str, ...]:
    return tuple(sorted(name_of(f"case {number}") for number in numbers))


TWINS = Finding("near-duplicate", "warning", ids(1, 4), "2 images are nearly equal")
EMPTY = Finding("mask-empty", "error", ids(4, 7), "2 masks are empty")
ONE_CLASS = Finding("one-class", "note", (), "all cases have one label")


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Archive:
    return tiny_archive(tmp_path_factory.mktemp("archive"), CASES, BAD)


def frozen(archive: Archive, *exclude: str, findings: tuple[Finding, ...] = (TWINS, EMPTY, ONE_CLASS)) -> Cohort:
    return freeze(archive, "north", "ct-liver", RULE, exclude, findings)


def test_a_cohort_has_every_case_with_what_identifies_its_content(archive: Archive) -> None:
    cohort = frozen(archive)
    assert [member.case_id for member in cohort.members] == sorted(one.case_id for one in CASES)
    for member, record in zip(cohort.members, archive.records(), strict=True):
        assert member.content == record.content()
        assert member.source_sha256 == record.source_sha256
        assert (member.patient, member.shape, member.label) == (record.patient, record.shape, record.label)
        assert (member.spacing_mm, member.modality, member.masked) == (record.spacing_mm, "us", False)
    assert (cohort.site, cohort.dataset, cohort.rule) == ("north", "ct-liver", RULE)


def test_each_member_is_where_the_rule_puts_its_patient_and_no_patient_is_in_two_splits(archive: Archive) -> None:
    homes: dict[str, set[str]] = {}
    for member in frozen(archive).members:
        assert member.split == split_of(RULE, "north", member.patient)
        homes.setdefault(member.patient, set()).add(member.split)
    assert len(homes) == 6
    assert all(len(splits) == 1 for splits in homes.values())


def test_what_could_not_be_read_is_counted_by_reason_and_is_no_member(archive: Archive) -> None:
    assert frozen(archive).quarantined == (("mask-shape", 1), ("unreadable-dicom", 2))


def test_nothing_is_left_out_unasked_whatever_was_found(archive: Archive) -> None:
    cohort = frozen(archive)
    assert (cohort.excluded, cohort.left_out) == ((), ())


def test_a_case_is_excluded_by_its_name(archive: Archive) -> None:
    cohort = frozen(archive, *ids(3))
    assert cohort.left_out == ids(3)
    assert cohort.excluded == ((BY_NAME, 1),)
    assert len(cohort.members) == 11


def test_a_finding_excludes_every_case_that_it_names(archive: Archive) -> None:
    cohort = frozen(archive, "near-duplicate")
    assert cohort.left_out == ids(1, 4)
    assert cohort.excluded == (("near-duplicate", 2),)
    assert not {member.case_id for member in cohort.members} & set(ids(1, 4))


def test_several_findings_of_one_code_are_excluded_together(archive: Archive) -> None:
    more = replace(TWINS, cases=ids(8, 9))
    assert frozen(archive, "near-duplicate", findings=(TWINS, more)).left_out == ids(1, 4, 8, 9)


def test_a_case_with_several_reasons_counts_once_under_its_name_or_the_first_code(archive: Archive) -> None:
    both = frozen(archive, "near-duplicate", "mask-empty")
    assert both.excluded == (("mask-empty", 2), ("near-duplicate", 1))
    named = frozen(archive, "near-duplicate", *ids(4), "mask-empty")
    assert named.excluded == ((BY_NAME, 1), ("mask-empty", 1), ("near-duplicate", 1))
    assert both.left_out == named.left_out == ids(1, 4, 7)


@given(st.permutations(["near-duplicate", "mask-empty", *ids(4), *ids(9)]), st.permutations([TWINS, EMPTY, ONE_CLASS]))
@settings(max_examples=25)
def test_the_order_in_which_exclusions_and_findings_come_changes_no_byte(
    archive: Archive, exclude: list[str], findings: list[Finding]
) -> None:
    usual = frozen(archive, "near-duplicate", "mask-empty", *ids(4, 9))
    assert frozen(archive, *exclude, findings=tuple(findings)).canonical_bytes() == usual.canonical_bytes()


def test_cases_stored_in_another_order_and_place_make_the_same_cohort(archive: Archive, tmp_path: Path) -> None:
    with Archive.open_or_create(tmp_path / "other"):
        pass
    for one in reversed(CASES):
        other = tiny_archive(tmp_path / "other", [one], BAD)
    assert frozen(other).digest() == frozen(archive).digest()


CHANGES = {
    "voxel": lambda one: replace(one, voxels=one.voxels + np.eye(12, 10, dtype=np.float32)),
    "label": lambda one: replace(one, label="normal"),
    "patient": lambda one: replace(one, person="another"),
    "subgroup": lambda one: replace(one, more={"subgroups": (("sex", "M"),)}),
    "spacing": lambda one: replace(one, more={"spacing_mm": (1.0, 0.5)}),
    "source": lambda one: replace(one, more={"source_sha256": "0" * 64}),
}


@pytest.mark.parametrize("change", CHANGES)
def test_any_change_that_training_could_notice_makes_another_cohort(
    archive: Archive, tmp_path: Path, change: str
) -> None:
    changed: list[Made] = [*CASES[1:], CHANGES[change](CASES[0])]
    assert frozen(tiny_archive(tmp_path, changed, BAD)).digest() != frozen(archive).digest()


@pytest.mark.parametrize(
    ("word", "hint"),
    [
        ("near-duplicat", "did you mean near-duplicate?"),
        ("Doe^Jane", "known here: mask-empty, near-duplicate, one-class"),
        (name_of("case 99"), "known here: mask-empty, near-duplicate, one-class"),
    ],
)
def test_an_unknown_exclusion_is_refused_with_a_suggestion_and_without_repeating_it(
    archive: Archive, word: str, hint: str
) -> None:
    with pytest.raises(SiteDataError) as caught:
        frozen(archive, *ids(3), word)
    assert caught.value.code == "exclude-unknown"
    assert "number 2 of the 2" in caught.value.sentence
    assert caught.value.hint == hint
    assert "Doe" not in caught.value.sentence + caught.value.hint


def test_without_a_diagnosis_the_hint_says_where_names_come_from(archive: Archive) -> None:
    with pytest.raises(SiteDataError) as caught:
        frozen(archive, "mask-empty", findings=())
    assert "run the doctor" in caught.value.hint


def test_a_finding_about_the_whole_data_set_cannot_be_excluded(archive: Archive) -> None:
    with pytest.raises(SiteDataError, match="one-class names no case") as caught:
        frozen(archive, "one-class")
    assert caught.value.code == "exclude-nothing"


def test_cases_that_a_finding_names_and_the_archive_lacks_are_passed_over(archive: Archive) -> None:
    older = Finding("near-duplicate", "warning", (*ids(2), name_of("gone")), "2 images are nearly equal")
    assert frozen(archive, "near-duplicate", findings=(older,)).left_out == ids(2)


def test_an_empty_data_set_can_be_frozen_and_says_why_it_is_empty(tmp_path: Path) -> None:
    cohort = frozen(tiny_archive(tmp_path, [], BAD))
    assert cohort.members == ()
    assert cohort.quarantined == (("mask-shape", 1), ("unreadable-dicom", 2))


def test_members_and_left_out_together_are_the_data_set(archive: Archive) -> None:
    cohort = frozen(archive, "near-duplicate", *ids(11))
    everything = Counter([*(member.case_id for member in cohort.members), *cohort.left_out])
    assert everything == Counter(one.case_id for one in CASES)
    assert sum(count for _, count in cohort.excluded) == len(cohort.left_out)
