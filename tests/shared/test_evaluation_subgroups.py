"""Statistics by subgroup are those of the subgroup's own cases, and no site tells what it must withhold."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tiny_federation import tiny_plan

from shared.errors import PlanError, ProtocolError
from shared.evaluation import additive
from shared.evaluation.additive import CASES, PATIENTS, Observation, Schema, Statistics
from shared.evaluation.subgroups import (
    Coarser,
    Layout,
    by_column,
    collect,
    layout,
    level_of,
    missing_sites,
    require_told,
    told_by_site,
    whole,
)
from shared.plan import Plan
from shared.preprocessing.image import Case

SCHEMA = Schema("right-1", (("right", ()), ("scores", (2, 3))))
SEX = ("F", "M", "other", "unknown")
VENDOR = ("GE", "Siemens", "other", "unknown")
COLUMNS = (("sex", SEX), ("vendor", VENDOR))
VOXELS = np.zeros((1, 2, 2), np.float32)

Seen = tuple[Case, Observation]


def seen(patient: str, right: int = 1, number: int = 0, **said: str) -> Seen:
    """One image of ``patient`` and what is counted of it."""
    case = Case(f"{patient}-{number}", patient, VOXELS, None, None, (1.0, 1.0), tuple(said.items()))
    scores = np.zeros((2, 3), np.int64)
    scores[right, number % 3] = 1
    return case, {"right": np.array(right, np.int64), "scores": scores}


def people(**levels: int) -> list[Seen]:
    """So many patients of each sex, every other one with a right answer."""
    return [seen(f"{sex}{number}", number % 2, sex=sex) for sex, count in levels.items() for number in range(count)]


def counted(cases: Sequence[Seen], release: str = "sum", floor: int = 5) -> tuple[Layout, Statistics]:
    leaving = Layout(SCHEMA, release, (("sex", SEX),), floor)
    return leaving, collect(leaving, cases)


def asked(**changes: Any) -> Plan:
    return tiny_plan(**{"evaluation__subgroups": {"sex": ["F", "M"], "age": ["0-17", "18-39"]}, **changes})


# --- what is declared ------------------------------------------------------------------------------------------------


def test_a_plan_without_subgroups_counts_what_it_always_did() -> None:
    leaving = layout(SCHEMA, tiny_plan(), "test")
    assert leaving.schema is SCHEMA
    cases = people(F=4, M=3)
    alone = additive.collect(SCHEMA, [(case.patient, observation) for case, observation in cases])
    np.testing.assert_array_equal(told_by_site(leaving, collect(leaving, cases)).flat(), alone.flat())


def test_columns_are_counted_in_the_order_of_their_names_with_the_plan_s_floor() -> None:
    leaving = layout(SCHEMA, asked(evaluation__floor=7), "test")
    assert leaving.columns == (("age", ("0-17", "18-39", "other", "unknown")), ("sex", SEX))
    assert (leaving.floor, leaving.release) == (7, "site")


def test_validation_patients_are_not_told_apart() -> None:
    """From round to round other sites may answer; the difference of two sums would be a single site."""
    assert layout(SCHEMA, asked(), "validation").schema is SCHEMA


def test_the_order_of_columns_in_the_file_changes_nothing() -> None:
    turned = asked(evaluation__subgroups={"age": ["0-17", "18-39"], "sex": ["F", "M"]})
    assert turned.digest() == asked().digest()
    assert layout(SCHEMA, turned, "test") == layout(SCHEMA, asked(), "test")


@pytest.mark.parametrize(
    "columns",
    [
        (),
        (("sex", ("F", "M", "X", "other", "unknown")),),
        (("sex", ("M", "F", "other", "unknown")),),
        (("gender", SEX),),
        (("sex", SEX), ("vendor", VENDOR)),
    ],
    ids=["none", "one more", "turned", "renamed", "two"],
)
def test_the_digest_tells_columns_and_levels_apart(columns: Any) -> None:
    assert Layout(SCHEMA, columns=columns).schema.digest() != Layout(SCHEMA, columns=(("sex", SEX),)).schema.digest()


def test_a_reply_is_as_long_for_no_patient_as_for_many() -> None:
    leaving, none = counted([])
    many = collect(leaving, people(F=30, M=20, nobody=4))
    assert none.flat().shape == many.flat().shape == (leaving.schema.length,)
    own = SCHEMA.length
    assert leaving.schema.length == own + len(SEX) * (own + additive.GROUPS), "a vector and a flag for each level"
    np.testing.assert_array_equal(many.flat()[:own], whole(leaving, many).flat())


@pytest.mark.parametrize(
    ("said", "level"),
    [
        ("F", "F"),
        ("f", "F"),
        (" m ", "M"),
        ("diverse", "other"),
        ("other", "other"),
        ("", "unknown"),
        ("  ", "unknown"),
        (None, "unknown"),
        ("Unknown", "unknown"),
    ],
)
def test_every_value_is_in_one_level(said: str | None, level: str) -> None:
    assert SEX[level_of(SEX, said)] == level


# --- plans that are refused ------------------------------------------------------------------------------------------


def test_noise_and_subgroups_exclude_each_other_in_one_clear_sentence() -> None:
    private = {"unit": "patient", "epsilon": 4.0, "delta": 1e-4, "clip_norm": 1.0, "public_patients": 12}
    with pytest.raises(PlanError, match='release = "dp" knows no subgroups') as refused:
        asked(**{f"privacy__{key}": value for key, value in private.items()}, evaluation__release="dp")
    assert "leave [evaluation.subgroups] out" in refused.value.sentence


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"evaluation__floor": 2}, "evaluation.floor = 2"),
        ({"evaluation__subgroups": {"sex": []}}, "evaluation.subgroups"),
        ({"evaluation__subgroups": {"sex": ["F", "f"]}}, "differ by more than capitals"),
        ({"evaluation__subgroups": {"sex": ["F", "Unknown"]}}, "none of them"),
        ({"evaluation__subgroups": {"sex": ["F", "gaps"]}}, "none of them"),
        ({"evaluation__subgroups": {"sex": ["F", " "]}}, "differ by more than capitals"),
        ({"evaluation__subgroups": {"a/b": ["F", "M"]}}, "evaluation.subgroups"),
        ({"evaluation__subgroups": {"ward": [f"w{n}" for n in range(41)]}}, "more than 40 levels"),
    ],
    ids=["floor", "no level", "capitals", "unknown", "gaps", "blank", "slash", "levels"],
)
def test_subgroups_that_cannot_be_reported_are_refused_with_the_plan(changes: dict[str, Any], sentence: str) -> None:
    with pytest.raises(PlanError, match=sentence.replace("[", r"\[")):
        tiny_plan(**changes)


# --- what is counted -------------------------------------------------------------------------------------------------

CASES_DRAWN = st.lists(
    st.tuples(
        st.integers(0, 9), st.integers(0, 1), st.sampled_from(["F", "m", "x", ""]), st.sampled_from(["GE", "Siemens"])
    ),
    max_size=30,
)
"""(patient, right or not, sex, vendor): a patient may have several values of either."""


def drawn(found: Sequence[tuple[int, int, str, str]], site: str = "a") -> list[Seen]:
    return [
        seen(f"{site}{patient}", right, number, sex=sex, vendor=vendor)
        for number, (patient, right, sex, vendor) in enumerate(found)
    ]


@given(CASES_DRAWN)
def test_a_level_s_statistics_are_those_of_its_own_cases(found: list[tuple[int, int, str, str]]) -> None:
    """Oracle: the cases of each level picked by hand and added up as if there were no others."""
    cases, leaving = drawn(found), Layout(SCHEMA, "sum", COLUMNS, floor=1)
    together = collect(leaving, cases)
    for column, levels in COLUMNS:
        for cell, level in enumerate(levels):
            own = [
                (case.patient, observation)
                for case, observation in cases
                if levels[level_of(levels, dict(case.subgroups)[column])] == level
            ]
            alone = additive.collect(SCHEMA, own)
            assert by_column(leaving, together)[column].keys() == set(levels)
            for name in SCHEMA.full_shapes:
                np.testing.assert_array_equal(together.counts[f"{column}/{name}"][:, cell], alone.counts[name])
    alone = additive.collect(SCHEMA, [(case.patient, observation) for case, observation in cases])
    np.testing.assert_array_equal(whole(leaving, together).flat(), alone.flat())


@given(CASES_DRAWN, CASES_DRAWN)
def test_statistics_by_subgroup_add_up_over_sites(one: Any, other: Any) -> None:
    leaving = Layout(SCHEMA, "sum", COLUMNS)
    parts = [collect(leaving, drawn(one, "a")), collect(leaving, drawn(other, "b"))]
    in_one_room = collect(leaving, drawn(one, "a") + drawn(other, "b"))
    np.testing.assert_array_equal((parts[0] + parts[1]).flat(), in_one_room.flat())


def test_a_patient_imaged_by_two_scanners_counts_once_with_each() -> None:
    cases = [seen("p", number=n, vendor=vendor) for n, vendor in enumerate(["GE", "GE", "Siemens"])]
    together = collect(Layout(SCHEMA, "sum", (("vendor", VENDOR),)), cases)
    assert together.counts[f"vendor/{PATIENTS}"].sum(axis=0).tolist() == [1, 1, 0, 0]
    assert together.counts[f"vendor/{CASES}"].sum(axis=0).tolist() == [2, 1, 0, 0]
    assert together.counts[PATIENTS].sum() == 1


# --- what is told ----------------------------------------------------------------------------------------------------


def patients(leaving: Layout, statistics: Statistics, column: str = "sex") -> dict[str, int | None]:
    levels = by_column(leaving, statistics)[column]
    return {level: None if of is None else int(of.counts[PATIENTS].sum()) for level, of in levels.items()}


def test_under_sum_a_site_sends_everything_and_the_sum_is_told() -> None:
    leaving, here = counted(people(F=20, M=3))
    there = collect(leaving, people(F=8, M=4))
    np.testing.assert_array_equal(told_by_site(leaving, here).flat(), here.flat())
    assert patients(leaving, here) == {"F": None, "M": None, "other": 0, "unknown": 0}
    assert patients(leaving, here + there) == {"F": 28, "M": 7, "other": 0, "unknown": 0}


def test_under_site_no_small_level_leaves_the_site() -> None:
    leaving, here = counted(people(F=20, M=3, x=9), "site")
    told = told_by_site(leaving, here)
    assert told.counts[f"sex/{PATIENTS}"].sum(axis=0).tolist() == [20, 0, 0, 0]
    assert patients(leaving, told) == {"F": 20, "M": None, "other": None, "unknown": 0}
    for name in (PATIENTS, CASES, "right", "scores"):
        values = told.counts[f"sex/{name}"]
        assert not values[:, 1:].any()
        np.testing.assert_array_equal(values[:, 0], here.counts[f"sex/{name}"][:, 0])
    np.testing.assert_array_equal(whole(leaving, told).flat(), whole(leaving, here).flat())


def test_what_a_site_sends_is_the_same_whoever_is_in_which_withheld_level() -> None:
    """Three M and nine others may as well be nine and three: the bytes are the same."""
    leaving, one = counted(people(F=20) + [seen(f"p{n}", sex="M" if n < 3 else "x") for n in range(12)], "site")
    _, other = counted(people(F=20) + [seen(f"p{n}", sex="x" if n < 3 else "M") for n in range(12)], "site")
    assert (one.flat() != other.flat()).any()
    np.testing.assert_array_equal(told_by_site(leaving, one).flat(), told_by_site(leaving, other).flat())


def test_telling_twice_is_telling_once_and_changes_nothing_that_was_counted() -> None:
    leaving, here = counted(people(F=20, M=3, x=9), "site")
    before = here.flat()
    once = told_by_site(leaving, here)
    np.testing.assert_array_equal(told_by_site(leaving, once).flat(), once.flat())
    np.testing.assert_array_equal(here.flat(), before)


def test_under_site_the_sum_holds_what_sites_told_and_says_who_is_missing() -> None:
    leaving, here = counted(people(F=20, M=3), "site")
    sites = [told_by_site(leaving, of) for of in (here, collect(leaving, people(F=8, M=6)))]
    assert patients(leaving, sites[0] + sites[1]) == {"F": 8, "M": 6, "other": 0, "unknown": 0}
    assert missing_sites(leaving, sites[0] + sites[1]) == {"sex": {"F": 1, "M": 1}}
    assert missing_sites(leaving, sites[1]) == {"sex": {}}
    assert patients(leaving, sites[0] + sites[0])["M"] is None, "withheld everywhere is suppressed, not zero"


def test_a_site_that_tells_too_much_is_refused_and_an_honest_one_is_not() -> None:
    leaving, here = counted(people(F=20, M=3, x=9), "site")
    require_told(leaving, told_by_site(leaving, here))
    with pytest.raises(ProtocolError, match=r"told 1 subgroups that it must withhold \(floor 5\)") as refused:
        require_told(leaving, here)
    assert refused.value.code == "subgroup-floor"
    require_told(Layout(SCHEMA, "sum", leaving.columns), here)


# --- levels in fewer bins --------------------------------------------------------------------------------------------

FINE = Schema("answers-1", (("right", ()),), (("places", (8,)),))
COARSER = Coarser(
    Schema("answers-1-level", (("right", ()),), (("places", (2,)),)),
    lambda one: {"right": one["right"], "places": one["places"] // np.array([4, 1])},
)


def fine_people(**levels: int) -> list[Seen]:
    return [
        (case, {"right": found["right"], "places": np.array([[number % 8, 1]], np.int64)})
        for number, (case, found) in enumerate(people(**levels))
    ]


def test_a_level_is_counted_under_the_coarser_schema_and_everybody_under_the_whole_one() -> None:
    leaving = Layout(FINE, "sum", (("sex", SEX),), 5, COARSER)
    counted_ = collect(leaving, fine_people(F=6, M=10))

    levels = by_column(leaving, counted_)["sex"]

    assert whole(leaving, counted_).counts["places"].tolist() == [2] * 8
    assert {of.schema for of in levels.values() if of is not None} == {COARSER.schema}
    assert {name: levels[name].counts["places"].tolist() for name in "FM"} == {"F": [4, 2], "M": [4, 6]}
    assert int(levels["M"].total()["right"]) == 5


def test_a_site_withholds_the_fine_counts_of_a_level_with_the_rest() -> None:
    leaving = Layout(FINE, "site", (("sex", SEX),), 5, COARSER)
    counted_ = collect(leaving, fine_people(F=3, M=9, X=20))

    sent = told_by_site(leaving, counted_)

    told = {cell for cell in range(len(SEX)) if sent.counts["sex/places"][cell].any()}
    assert counted_.counts["sex/places"][SEX.index("F")].any()
    assert told == {cell for cell in range(len(SEX)) if sent.counts["sex/patients"][:, cell].any()}
    assert SEX.index("F") not in told
    assert {level: of is None for level, of in by_column(leaving, sent)["sex"].items()}["F"]
