"""The summary tells no small count: not by itself, not by subtraction, not to somebody who knows its rules."""

import itertools
import json
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from client.data.doctor.findings import Diagnosis, Finding, Histogram
from client.data.doctor.summary import SUPPRESSED, summary, table

NAMES = ("a", "b", "c", "unknown")


def diagnosis() -> Diagnosis:
    cases = tuple(f"{number:024x}" for number in range(60))
    return Diagnosis(
        dataset="chest",
        patients=50,
        cases=60,
        quarantined={"file-unreadable": 3, "duplicate-case": 12},
        files={"image": 75, "quarantined": 3, "not-an-image": 9},
        tables={
            "label": {"benign": 30, "malignant": 18, "Jane Doe": 2},
            "vendor": {"Alpha": 25, "Beta": 25},
            "sex": {"F": 47, "M": 3},
        },
        findings=(
            Finding("duplicate", "error", cases[:2], "2 cases are alike", "keep one"),
            Finding("duplicate", "warning", cases[1:9], "8 cases are alike", "keep one"),
            Finding("mask-empty", "warning", cases[:4], "4 masks are empty"),
            Finding("spacing", "note", cases[:57], "57 cases have another spacing"),
            Finding("header", "note", cases, "60 headers held something"),
            Finding("one-class", "note", (), "there is one class"),
        ),
        histograms={"spacing": Histogram("mm", (0.0, 1.0, 2.0), (59, 1))},
    )


# --- what is told ----------------------------------------------------------------------------------------------------


def test_the_whole_document_of_a_small_hospital() -> None:
    assert summary(diagnosis(), 5) == {
        "format": "consilium-summary-1",
        "dataset": "chest",
        "floor": 5,
        "patients": 50,
        "cases": 60,
        "quarantined": {"duplicate-case": 12, "file-unreadable": "suppressed"},
        "files": "suppressed",
        "tables": {
            "label": {"counts": {"benign": "suppressed", "malignant": 18}, "below_floor": "suppressed"},
            "sex": "suppressed",
            "vendor": {"counts": {"Alpha": 25, "Beta": 25}, "below_floor": "none"},
        },
        "findings": {
            "duplicate": {"severity": "error", "about": "cases", "cases": 9},
            "header": {"severity": "note", "about": "cases", "cases": 60},
            "mask-empty": {"severity": "warning", "about": "cases", "cases": "suppressed"},
            "one-class": {"severity": "note", "about": "dataset"},
            "spacing": {"severity": "note", "about": "cases", "cases": "suppressed"},
        },
    }


def test_no_case_no_sentence_and_no_rare_value_is_in_the_document() -> None:
    text = json.dumps(summary(diagnosis(), 5))
    assert not any(case in text for finding in diagnosis().findings for case in finding.cases)
    assert not any(finding.sentence in text for finding in diagnosis().findings)
    assert "Jane" not in text
    assert "Jane" in json.dumps(summary(diagnosis(), 1))  # the check finds what is there


def test_a_site_below_the_floor_tells_codes_and_nothing_else() -> None:
    found = summary(replace(diagnosis(), patients=4, cases=4, tables={"label": {"a": 4}}), 5)
    assert (found["patients"], found["cases"], found["tables"]) == (SUPPRESSED, SUPPRESSED, {"label": SUPPRESSED})


@pytest.mark.parametrize("patients", [0, 1, 4])
def test_nought_and_few_are_the_same_document(patients: int) -> None:
    few = replace(diagnosis(), patients=patients, cases=patients, quarantined={}, tables={}, findings=())
    assert summary(few, 5) == summary(replace(few, patients=0, cases=0), 5)


@pytest.mark.parametrize(("cases", "told"), [(50, 50), (51, "suppressed"), (54, "suppressed"), (55, 55), (200, 200)])
def test_cases_are_not_told_where_they_say_how_few_patients_came_twice(cases: int, told: object) -> None:
    assert summary(replace(diagnosis(), cases=cases), 5)["cases"] == told


def test_a_floor_below_one_is_refused() -> None:
    with pytest.raises(ValueError, match="at least 1"):
        summary(diagnosis(), 0)


def numbers(document: object) -> Iterator[int]:
    if isinstance(document, Mapping):
        yield from itertools.chain.from_iterable(numbers(value) for value in document.values())
    elif isinstance(document, int):
        yield document


counts = st.dictionaries(st.sampled_from([*NAMES, "d", "e"]), st.integers(0, 40))


@given(counts, counts, counts, st.integers(0, 100), st.integers(0, 100), st.integers(1, 12))
def test_no_number_below_the_floor_is_ever_in_the_document(
    quarantined: dict[str, int], files: dict[str, int], one: dict[str, int], patients: int, extra: int, floor: int
) -> None:
    made = replace(
        diagnosis(), quarantined=quarantined, files=files, tables={"x": one}, patients=patients, cases=patients + extra
    )
    found = summary(made, floor)
    assert all(number >= floor for number in numbers(found))
    assert found["quarantined"] == {
        code: count if count >= floor else "suppressed" for code, count in quarantined.items()
    }
    json.dumps(found)


@given(counts, st.integers(1, 12))
def test_every_count_that_is_told_is_true(one: dict[str, int], floor: int) -> None:
    told = table(one, floor)
    if isinstance(told, dict):
        shown = told["counts"]
        assert isinstance(shown, dict)
        assert all(count in {one[value], SUPPRESSED} for value, count in shown.items())
        assert {value for value, count in one.items() if count >= floor} == set(shown)


# --- what can be computed --------------------------------------------------------------------------------------------
# An adversary knows the rules, all names that may occur, and that a table adds up to the number of patients. The only
# defence is that several truths give the same document. So all truths are written down, and put together by document.


Rule = Callable[[Mapping[str, int], int], object]


def truths(names: tuple[str, ...], most: int, lowest: int) -> Iterator[dict[str, int]]:
    """All tables with at most ``most`` patients; a value without patients is listed where ``lowest`` is 0."""
    for split in itertools.product(range(most + 1), repeat=len(names)):
        if sum(split) <= most:
            yield {name: count for name, count in zip(names, split, strict=True) if count >= lowest}


def recovered(rule: Rule, names: tuple[str, ...], floor: int, lowest: int) -> list[str]:
    """What an adversary learns of the counts below the floor, in all tables of up to four floors of patients."""
    alike: dict[str, list[dict[str, int]]] = defaultdict(list)
    for truth in truths(names, 4 * floor, lowest):
        total = sum(truth.values())
        said = json.dumps([total if total >= floor else SUPPRESSED, rule(truth, floor)])
        alike[said].append(truth)
    learnt = []
    for said, possible in alike.items():
        if SUPPRESSED not in said:
            continue
        for name in names:
            values = {truth.get(name, 0) for truth in possible}
            if len(values) == 1 and min(values) < floor:
                learnt.append(f"{name} is {min(values)} in {said}")
    return learnt


@pytest.mark.parametrize("floor", [3, 4])
@pytest.mark.parametrize("lowest", [0, 1], ids=["noughts listed", "noughts not listed"])
@pytest.mark.parametrize("names", [NAMES[:2], NAMES[:3], NAMES], ids=len)
def test_no_small_count_can_be_computed_from_the_document(names: tuple[str, ...], lowest: int, floor: int) -> None:
    assert recovered(table, names, floor, lowest) == []


def test_no_count_that_was_suppressed_along_with_a_small_one_can_be_computed() -> None:
    floor, alike = 3, defaultdict(list)
    for truth in truths(NAMES, 4 * floor, 1):
        alike[json.dumps([sum(truth.values()), table(truth, floor)])].append(truth)
    for said, possible in alike.items():
        _, told = json.loads(said)
        hidden = [name for name, count in told["counts"].items() if count == SUPPRESSED] if told != SUPPRESSED else []
        for name in hidden:
            assert len({truth[name] for truth in possible}) >= 2, said


def only_the_small(counts: Mapping[str, int], floor: int) -> object:
    """The naive rule: what is small is suppressed, and nothing else."""
    return {value: count if count >= floor else SUPPRESSED for value, count in counts.items()}


def with_the_smallest(counts: Mapping[str, int], floor: int) -> object:
    """The textbook's rule: where one is suppressed, the smallest other one is too."""
    small = [value for value in counts if counts[value] < floor]
    others = sorted((value for value in counts if counts[value] >= floor), key=lambda value: (counts[value], value))
    hidden = {*small, *(others[:1] if len(small) == 1 else [])}
    return {value: SUPPRESSED if value in hidden else count for value, count in counts.items()}


@pytest.mark.parametrize("rule", [only_the_small, with_the_smallest])
def test_the_adversary_breaks_weaker_rules(rule: Rule) -> None:
    """The control: an adversary who breaks nothing would prove nothing."""
    assert recovered(rule, NAMES[:3], 3, 1)


@pytest.mark.parametrize("floor", [2, 3, 5])
def test_no_small_number_of_cases_can_be_computed_from_a_finding(floor: int) -> None:
    cases = tuple(f"{number:024x}" for number in range(4 * floor))
    told: dict[object, list[int]] = defaultdict(list)
    for count in range(1, len(cases) + 1):
        made = replace(diagnosis(), cases=len(cases), findings=(Finding("x", "note", cases[:count], ""),))
        told[json.dumps(summary(made, floor)["findings"])].append(count)
    for said, possible in told.items():
        assert len(possible) > 1 or floor <= possible[0] <= len(cases) - floor or possible[0] == len(cases), said
    assert max(map(len, told.values())) == 2 * (floor - 1)


def test_how_many_are_unknown_is_not_what_protects_another_value() -> None:
    """A finding tells how many have no label; were ``unknown`` what is suppressed, ``b`` would follow from it."""
    found = table({"a": 9, "b": 2, "unknown": 40}, 5)
    assert found == {"counts": {"a": SUPPRESSED, "unknown": 40}, "below_floor": SUPPRESSED}


def test_the_order_in_which_values_were_met_says_nothing() -> None:
    counts = {"b": 9, "unknown": 40, "a": 12, "rare": 2}
    documents = {json.dumps(table(dict(order), 5)) for order in itertools.permutations(counts.items())}
    assert len(documents) == 1
