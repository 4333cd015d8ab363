"""What holds for every data set that a doctor looks at, whatever is in it: drawn at random, stored, looked at."""

import itertools
import json
import re
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from doctored import EDGE, IMAGES, Row, body, clean, lesion, name_of, names, stored
from hypothesis import given, settings
from hypothesis import strategies as st

from client.data.cohort.freeze import freeze
from client.data.cohort.manifest import SplitRule
from client.data.doctor.diagnose import diagnose
from client.data.doctor.findings import Diagnosis, Finding
from client.data.doctor.summary import SUPPRESSED, summary
from shared.messages import Split

PATIENTS = 20
ROWS = clean(PATIENTS)
FLOOR = 5
SEVERITIES = ("error", "warning", "note")
CHECKS = Path(__file__).parents[2] / "client" / "data" / "doctor" / "checks"


def half(patient: str) -> Split:
    """A split by the first digit of a name."""
    return "train" if patient < "8" else "test"


def looked_at(rows: Sequence[Row], split_of: Callable[[str], Split] | None = None) -> Diagnosis:
    """What the doctor says of these rows, from an archive of their own."""
    with tempfile.TemporaryDirectory() as folder, stored(Path(folder), rows) as archive:
        return diagnose(archive, "livers", split_of, workers=1, progress=lambda _done, _total: None)


def by_code(diagnosis: Diagnosis) -> dict[str, Finding]:
    return {one.code: one for one in diagnosis.findings}


def speckled(number: int) -> Any:
    mask = lesion(number)
    mask[1, 1] = 1
    return mask


FAULTS: dict[str, Callable[[int], dict[str, Any]]] = {
    "ct-range": lambda n: {"voxels": body(n) + 40_000 * np.eye(EDGE, dtype=np.float32)},
    "ct-clipped": lambda n: {"voxels": body(n).clip(-200)},
    "image-constant": lambda _: {"voxels": np.zeros((1, EDGE, EDGE), np.float32)},
    "spacing-outlier": lambda _: {"spacing_mm": (3.2, 3.2)},
    "spacing-unknown": lambda _: {"spacing_known": False},
    "mask-missing": lambda _: {"mask": None},
    "mask-empty": lambda n: {"mask": lesion(n) * 0},
    "mask-full": lambda n: {"mask": lesion(n) * 0 + 1},
    "mask-tiny-islands": lambda n: {"mask": speckled(n)},
    "label-missing": lambda _: {"label": None},
    "burned-in-suspected": lambda _: {"suspicions": ("text",)},
    "modalities-mixed": lambda _: {"modality": "mr"},
}
"""Faults of one row that say nothing of another."""

plans = st.dictionaries(st.integers(0, 2 * PATIENTS - 1), st.sampled_from(sorted(FAULTS)), min_size=1, max_size=4)
"""Which rows have which fault: few enough that what is usual stays usual."""


def planted(plan: Mapping[int, str]) -> list[Row]:
    return [row.but(**FAULTS[plan[row.number]](row.number)) if row.number in plan else row for row in ROWS]


def named_by(plan: Mapping[int, str]) -> dict[str, tuple[str, ...]]:
    """The cases that each finding of the plan must name."""
    return {code: names(ROWS[number] for number in plan if plan[number] == code) for code in plan.values()}


# --- which cases are named -------------------------------------------------------------------------------------------


@given(plans)
@settings(max_examples=6)
def test_each_planted_fault_is_found_in_its_rows_and_no_other_fault_is_found(plan: dict[int, str]) -> None:
    found = by_code(looked_at(planted(plan)))
    assert {code: one.cases for code, one in found.items()} == named_by(plan)


@given(plans, st.randoms(use_true_random=False))
@settings(max_examples=3)
def test_the_order_in_which_cases_are_stored_changes_nothing(plan: dict[int, str], order: Any) -> None:
    rows = planted(plan)
    shuffled = order.sample(rows, len(rows))
    assert looked_at(shuffled, half) == looked_at(rows, half)


@given(plans)
@settings(max_examples=4)
def test_a_fault_whose_cases_are_left_out_is_gone_and_the_others_stay(plan: dict[int, str]) -> None:
    rows, code = planted(plan), next(iter(plan.values()))
    left_out = set(by_code(looked_at(rows))[code].cases)
    again = by_code(looked_at([row for row in rows if row.case_id not in left_out]))
    others = {number: one for number, one in plan.items() if one != code}
    assert {code: one.cases for code, one in again.items()} == named_by(others)


@given(plans)
@settings(max_examples=3)
def test_what_is_excluded_by_a_code_is_whom_the_finding_names(plan: dict[int, str]) -> None:
    rows = planted(plan)
    findings = looked_at(rows).findings
    with tempfile.TemporaryDirectory() as folder, stored(Path(folder), rows) as archive:
        cohort = freeze(archive, "north", "livers", SplitRule(1, 0.6, 0.2), set(plan.values()), findings)
    assert set(cohort.left_out) == {ROWS[number].case_id for number in plan}
    kept = {member.case_id for member in cohort.members}
    assert looked_at([row for row in rows if row.case_id in kept]).findings == ()


people = st.sets(st.integers(0, 39), min_size=5, max_size=7)


@given(people, people, people, people)
@settings(max_examples=3)
def test_the_union_of_clean_data_sets_is_clean(a: set[int], b: set[int], c: set[int], d: set[int]) -> None:
    """Each set has five patients or more of both classes; patients with even numbers are benign."""

    def rows(even: Iterable[int], odd: Iterable[int]) -> list[Row]:
        patients = {2 * number for number in even} | {2 * number + 1 for number in odd}
        numbers = (IMAGES * patient + image for patient in sorted(patients) for image in range(IMAGES))
        return [Row(number, body(number), lesion(number)) for number in numbers]

    for some in (rows(a, b), rows(c, d), rows(a | c, b | d)):
        assert looked_at(some, half).findings == ()


@given(st.sets(st.integers(0, PATIENTS - 1), min_size=1, max_size=5))
@settings(max_examples=5)
def test_of_patients_who_came_under_a_second_name_every_image_is_named(again: set[int]) -> None:
    """The second name's numbers keep what follows from a number (class, sex) as it was."""
    shift = 12 * PATIENTS
    copies = [row.but(number=row.number + shift) for row in ROWS if row.number // IMAGES in again]
    originals = [row for row in ROWS if row.number // IMAGES in again]
    found = by_code(looked_at([*ROWS, *copies], half))
    assert found["duplicate-across-patients"].cases == names([*originals, *copies])
    divided = [
        pair
        for pair in zip(originals, copies, strict=True)
        if len({half(name_of(f"patient {row.number // IMAGES}")) for row in pair}) == 2
    ]
    across = found["duplicate-across-splits"].cases if divided else ()
    assert across == names(itertools.chain(*divided))
    assert ("duplicate-across-splits" in found) == bool(divided)


@given(plans)
@settings(max_examples=3)
def test_other_names_for_the_same_cases_give_the_same_findings_with_those_names(plan: dict[int, str]) -> None:
    """What a site with another secret would see: names are other, and sorted otherwise."""
    shift = 12 * PATIENTS
    first = looked_at(planted(plan))
    second = looked_at([row.but(number=row.number + shift) for row in planted(plan)])
    renamed = {row.case_id: name_of(f"case {row.number + shift}") for row in ROWS}
    moved = [replace(one, cases=tuple(sorted(renamed[case] for case in one.cases))) for one in first.findings]
    assert list(second.findings) == moved
    assert (first.tables, first.histograms) == (second.tables, second.histograms)


@given(plans, st.sampled_from([0.25, 0.5, 2.0, 4.0]))
@settings(max_examples=3)
def test_an_mr_scanner_with_another_gain_has_the_same_faults(plan: dict[int, str], gain: float) -> None:
    """MR has no unit; a power of two multiplies floating point numbers exactly."""
    rows = [row.but(modality="mr") for row in planted(plan)]
    louder = [row.but(voxels=gain * row.voxels) for row in rows]
    assert looked_at(louder).findings == looked_at(rows).findings


# --- what is said ----------------------------------------------------------------------------------------------------


words = st.one_of(
    st.sampled_from(
        ["Müller^Änne", "Doe, Jane", "1950-01-31", "19500131", "jane@doe.org", "<b>Jane</b>", "{row}", "%s"]
    ),
    st.text("QXZqxz0123456789^-. ", min_size=4, max_size=12).filter(lambda text: len(text.strip()) > 3),
)
tables = st.fixed_dictionaries(
    {
        "label": st.lists(words, min_size=2, max_size=2 * PATIENTS),
        "subgroups": st.lists(words, min_size=2, max_size=2 * PATIENTS),
        "acquisition": st.lists(words, min_size=1, max_size=3),
        "suspicions": st.lists(words, min_size=1, max_size=3),
        "dropped": st.lists(words, min_size=1, max_size=3),
    }
)


def said_of(rows: Sequence[Row], said: Mapping[str, Sequence[str]]) -> list[Row]:
    """Rows that say these words by turns, wherever a record has room for words."""

    def turn(name: str, number: int) -> str:
        return said[name][number % len(said[name])]

    return [
        row.but(
            label=turn("label", row.number // IMAGES),
            subgroups=(("ward", turn("subgroups", row.number // IMAGES)),),
            acquisition=(("vendor", turn("acquisition", row.number)),),
            suspicions=(turn("suspicions", row.number),),
            dropped=(turn("dropped", row.number),),
            study=turn("label", row.number),
            origin=turn("label", row.number),
        )
        for row in rows
    ]


@given(tables, plans)
@settings(max_examples=6)
def test_no_sentence_and_no_hint_holds_a_word_of_a_table_or_header_or_a_name(
    said: dict[str, list[str]], plan: dict[int, str]
) -> None:
    rows = said_of(planted(plan), said)
    findings = looked_at(rows, half).findings
    assert findings
    texts = [f"{one.sentence} {one.hint}" for one in findings]
    # Numbers of the doctor's own may happen to stand in a short word: only whole words of letters and digits count.
    words = {word.strip() for some in said.values() for word in some if len(word.strip()) > 3}
    secrets = words | {row.case_id for row in rows} | {name_of(f"patient {number}") for number in range(PATIENTS)}
    assert not [(secret, text) for text in texts for secret in secrets if secret in text]


@given(tables)
@settings(max_examples=5)
def test_what_may_leave_holds_no_value_that_fewer_patients_share_than_the_floor(said: dict[str, list[str]]) -> None:
    rows = said_of(ROWS, said)
    diagnosis = looked_at(rows)
    text = json.dumps(summary(diagnosis, FLOOR), ensure_ascii=False)
    whose: dict[str, set[int]] = {}
    for row in rows:
        for value in (row.said["label"], row.said["subgroups"][0][1], row.said["acquisition"][0][1]):
            whose.setdefault(value, set()).add(row.number // IMAGES)
    rare = [value for value, patients in whose.items() if len(patients) < FLOOR]
    assert not [value for value in rare if json.dumps(value, ensure_ascii=False) in text]
    assert not [row.case_id for row in rows if row.case_id in text]


def test_the_search_for_words_finds_one_that_is_said() -> None:
    """The control of the two above: tables that stay at the site do hold values."""
    told = looked_at(
        said_of(ROWS, {name: ["Quagga"] for name in ("label", "subgroups", "acquisition", "suspicions", "dropped")})
    )
    assert "Quagga" in str(told.tables)
    assert '"Quagga"' in json.dumps(summary(told, FLOOR)), "twenty patients share it"
    assert SUPPRESSED in json.dumps(summary(told, FLOOR))
    assert not any("Quagga" in one.sentence for one in told.findings)


@given(tables, plans)
@settings(max_examples=6)
def test_findings_are_sorted_and_so_are_their_cases(said: dict[str, list[str]], plan: dict[int, str]) -> None:
    findings = looked_at(said_of(planted(plan), said), half).findings
    order = [(SEVERITIES.index(one.severity), one.code) for one in findings]
    assert order == sorted(order)
    known = {row.case_id for row in ROWS}
    for one in findings:
        assert one.cases == tuple(sorted(set(one.cases)))
        assert known.issuperset(one.cases)
        for copies in one.together:
            assert len(copies) >= 2
            assert set(copies) <= set(one.cases)


@given(plans)
@settings(max_examples=6)
def test_a_finding_counts_the_cases_that_it_names_among_all_or_all_that_could_have_it(plan: dict[int, str]) -> None:
    for one in looked_at(planted(plan)).findings:
        counted = re.search(r"(\d+) of (\d+)", one.sentence)
        assert counted, one.sentence
        assert int(counted[1]) == len(one.cases)
        assert len(one.cases) <= int(counted[2]) <= len(ROWS)


def test_every_code_and_severity_is_one_that_a_program_can_take() -> None:
    """Codes go into file names, options and the audit log."""
    source = "\n".join(path.read_text() for path in CHECKS.glob("*.py"))
    codes = set(re.findall(r'^ +"([a-z]+(?:-[a-z]+)+)",\n +"(error|warning|note)",$', source, re.MULTILINE))
    assert len(codes) > 40
    assert len({code for code, _ in codes}) == len(codes), "a code has one severity"
