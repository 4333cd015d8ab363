"""Numbers by subgroup: those of the subgroup's own patients, and none from which a withheld one follows."""

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from scipy.optimize import linprog

from shared.evaluation import additive
from shared.evaluation.additive import PATIENTS, IntArray, Schema, Statistics
from shared.evaluation.intervals import bounds, replicates, with_intervals
from shared.evaluation.paired import difference
from shared.evaluation.subgroup_metrics import SUPPRESSED, gap, gaps, subgroups_block
from shared.evaluation.subgroups import Layout, Sent, collect, told_by_site
from shared.evaluation.undetermined import ratio
from shared.preprocessing.image import Case
from shared.tasks.task import Metrics, Task

SCHEMA = Schema("right-1", (("right", ()), ("wrong", ())))
LEVELS = ("F", "M", "other", "unknown")
VOXELS = np.zeros((1, 2, 2), np.float32)
FLOOR = 5


def shares(counts: Mapping[str, IntArray]) -> Metrics:
    """How many answers are right, and how many wrong ones there are for a right one: no upper limit, less is better."""
    right, wrong = counts["right"], counts["wrong"]
    return {"accuracy": float(ratio(right, right + wrong)), "odds": float(ratio(wrong, right))}


TASK = Task(
    name="right",
    output_channels=1,
    output="image",
    headline="accuracy",
    target=lambda _case: np.zeros(1),
    loss=lambda logits, _target: logits,
    decode=lambda logits: logits.numpy(),
    schema=SCHEMA,
    observe=lambda _scores, _case: {},
    metrics=shares,
    describe=lambda _scores, _case: {},
    lower_is_better=frozenset({"odds"}),
    limits={"accuracy": (0.0, 1.0), "odds": (0.0, math.inf)},
)

Person = tuple[str, str, int]
"""(name, sex, right or not)."""


def people(site: str, **rights: Sequence[int]) -> list[Person]:
    return [(f"{site}/{sex}{number}", sex, right) for sex, of in rights.items() for number, right in enumerate(of)]


def observation(right: int) -> dict[str, IntArray]:
    return {"right": np.array(right, np.int64), "wrong": np.array(1 - right, np.int64)}


def statistics(persons: Sequence[Person]) -> Statistics:
    return additive.collect(SCHEMA, [(name, observation(right)) for name, _, right in persons])


def sent(release: str, *sites: Sequence[Person]) -> Sent:
    leaving = Layout(SCHEMA, release, (("sex", LEVELS),), FLOOR)
    found = {}
    for number, persons in enumerate(sites):
        cases = [
            (Case(name, name, VOXELS, None, None, (1.0, 1.0), (("sex", sex),)), observation(right))
            for name, sex, right in persons
        ]
        found[f"site-{number}"] = told_by_site(leaving, collect(leaving, cases))
    pooled = sum(found.values(), Statistics.zero(leaving.schema))
    return Sent(leaving, pooled, found if release == "site" else {})


def block(release: str, *sites: Sequence[Person]) -> dict[str, Any]:
    return subgroups_block(TASK, sent(release, *sites))["sex"]  # type: ignore[no-any-return]


ROME = people("rome", F=[1, 1, 0, 1, 1, 0, 1, 1], M=[1, 0, 0, 1, 1, 0])
OSLO = people("oslo", F=[1, 0, 1, 1, 1, 1], M=[0, 1, 0, 1, 1, 0, 0])


# --- levels ----------------------------------------------------------------------------------------------------------


def test_a_level_s_metrics_are_those_of_its_patients_in_one_room() -> None:
    """Oracle: the patients of each sex by hand, of both sites."""
    found = block("sum", ROME, OSLO)
    for sex in ("F", "M"):
        own = [person for person in ROME + OSLO if person[1] == sex]
        assert found[sex]["accuracy"]["value"] == np.mean([right for _, _, right in own])
        assert found[sex]["accuracy"]["n_patients"] == len(own)
        expected = with_intervals(statistics(own), shares, TASK.limits)["accuracy"]
        assert (found[sex]["accuracy"]["low"], found[sex]["accuracy"]["high"]) == (expected.low, expected.high)


def test_nobody_is_zero_patients_and_undetermined_which_is_not_suppressed() -> None:
    nobody = block("sum", ROME)["other"]["accuracy"]
    assert nobody == {"value": None, "low": None, "high": None, "n_patients": 0}


def test_a_level_below_the_floor_is_suppressed_in_every_metric_and_so_is_the_next_one() -> None:
    found = block("sum", people("rome", F=[1, 1, 0, 1, 1, 0], M=[1, 0, 1, 1], diverse=[0, 1] * 5))
    suppressed = {"accuracy": SUPPRESSED, "odds": SUPPRESSED}
    assert (found["M"], found["F"]) == (suppressed, suppressed)
    assert found["other"]["accuracy"]["n_patients"] == 10


def test_the_floor_itself_is_told() -> None:
    assert block("sum", people("rome", F=[1] * 5, M=[0] * 5))["F"]["accuracy"]["n_patients"] == 5


def test_only_a_plan_that_releases_sites_tells_levels_by_site() -> None:
    assert set(block("sum", ROME, OSLO)) == {*LEVELS, "gaps"}
    found = block("site", ROME, OSLO)
    assert set(found) == {*LEVELS, "gaps", "sites", "missing_sites"}
    assert found["sites"]["site-0"]["F"]["accuracy"]["value"] == 6 / 8
    assert found["sites"]["site-1"]["M"]["accuracy"]["n_patients"] == 7
    assert found["missing_sites"] == {}
    assert {name: found[name] for name in (*LEVELS, "gaps")} == block("sum", ROME, OSLO)


def test_a_site_that_withholds_a_level_is_missing_from_its_sum_and_counted_as_missing() -> None:
    found = block("site", ROME, people("oslo", F=[1] * 9, M=[0, 0]))
    assert found["M"]["accuracy"]["n_patients"] == 6
    assert found["F"]["accuracy"]["n_patients"] == 8
    assert found["missing_sites"] == {"F": 1, "M": 1}
    assert found["sites"]["site-1"]["M"]["accuracy"] == SUPPRESSED


def test_the_block_is_json_without_numbers_that_are_not_finite() -> None:
    found = block("site", ROME, people("oslo", F=[1], M=[]))
    assert json.loads(json.dumps(found, allow_nan=False)) == found


# --- nothing follows about a withheld level ---------------------------------------------------------------------------


def swapped(persons: Sequence[Person], one: str, other: str) -> list[Person]:
    """The same people with two sexes exchanged."""
    turned = {one: other, other: one}
    return [(name, turned.get(sex, sex), right) for name, sex, right in persons]


@pytest.mark.parametrize("release", ["sum", "site"])
def test_no_number_depends_on_who_is_in_which_withheld_level(release: str) -> None:
    """Three M who are all right and six F who are all wrong, or the other way round: the same bytes."""
    persons = people("rome", F=[0] * 6, M=[1] * 3, diverse=[0, 1] * 5)
    assert block(release, persons, OSLO[:0]) == block(release, swapped(persons, "F", "M"), OSLO[:0])


def test_levels_that_are_told_do_differ_when_people_are_exchanged() -> None:
    persons = people("rome", F=[0] * 6, M=[1] * 6, diverse=[0, 1] * 5)
    assert block("sum", persons) != block("sum", swapped(persons, "F", "M"))


def told_patients(level: dict[str, Any]) -> int | None:
    return None if level["accuracy"] == SUPPRESSED else int(level["accuracy"]["n_patients"])


def audited(document: Mapping[str, Any], everybody: Mapping[str, int]) -> list[tuple[str, str, float, float]]:
    """(site, level, least, largest) for every suppressed cell: what all published numbers of patients leave open.

    Unknowns are the patients of each level at each site. A site's levels sum to its patients, told cells are told, and
    a pooled level is the sum of the sites that are not missing from it.
    """
    cells = [(site, level) for site in everybody for level in LEVELS]
    rows, values = [], []

    def equal(chosen: Sequence[tuple[str, str]], value: int) -> None:
        rows.append([float(cell in chosen) for cell in cells])
        values.append(float(value))

    by_site = document.get("sites", {})
    for site, patients in everybody.items():
        equal([(site, level) for level in LEVELS], patients)
        for level, found in by_site.get(site, {}).items():
            if (known := told_patients(found)) is not None:
                equal([(site, level)], known)
    for level in LEVELS:
        if (known := told_patients(document[level])) is not None:
            telling = [
                site
                for site in everybody
                if "missing_sites" not in document or told_patients(by_site[site][level]) is not None
            ]
            equal([(site, level) for site in telling], known)
    suppressed = [(site, level) for site, level in cells if told_patients(by_site.get(site, document)[level]) is None]
    return [(*cell, *_extent(np.array(rows), np.array(values), cells.index(cell))) for cell in suppressed]


def _extent(rows: Any, values: Any, cell: int) -> tuple[float, float]:
    ends = []
    for sign in (1.0, -1.0):
        aim = np.zeros(rows.shape[1])
        aim[cell] = sign
        found = linprog(aim, A_eq=rows, b_eq=values, bounds=(0, None))
        assert found.success, found.message
        ends.append(sign * found.fun)
    return ends[0], ends[1]


TABLES = st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9), st.integers(0, 9)), min_size=1, max_size=2)
"""F, M and others at each site."""


def table(counts: Sequence[tuple[int, int, int]]) -> dict[str, list[Person]]:
    return {f"site-{n}": people(f"s{n}", F=[1] * f, M=[0] * m, diverse=[1] * d) for n, (f, m, d) in enumerate(counts)}


@settings(max_examples=8)
@given(TABLES, st.sampled_from(["sum", "site"]))
@example([(9, 3, 8), (9, 6, 8)], "site")
@example([(9, 3, 8), (9, 1, 8)], "sum")
def test_linear_programming_leaves_two_values_of_every_suppressed_cell_of_a_report(
    counts: list[tuple[int, int, int]], release: str
) -> None:
    sites = table(counts)
    document = block(release, *sites.values())
    if release == "sum":
        sites = {"all": [person for persons in sites.values() for person in persons]}
    for site, level, least, largest in audited(document, {name: len(persons) for name, persons in sites.items()}):
        own = sum(1 for _, sex, _ in sites[site] if (sex if sex in LEVELS else "other") == level)
        assert least <= own <= largest
        assert largest - least >= 1, (site, level)


def test_linear_programming_finds_a_cell_where_the_sum_holds_what_a_site_withheld() -> None:
    """The control: sums of all patients beside sites without their small levels give these levels away."""
    sites = table([(9, 3, 8), (9, 6, 8)])
    everybody = {name: len(persons) for name, persons in sites.items()}
    honest = block("site", *sites.values())
    careless = block("sum", *sites.values()) | {"sites": honest["sites"]}
    assert all(largest - least >= 1 for _, _, least, largest in audited(honest, everybody))
    assert ("site-0", "M", 3.0, 3.0) in audited(careless, everybody)


# --- gaps ------------------------------------------------------------------------------------------------------------


def rights(share: float, count: int) -> list[int]:
    return [int(number < round(share * count)) for number in range(count)]


WIDE = people("rome", F=rights(0.9, 40), M=rights(0.6, 20), diverse=rights(0.75, 12), unknown=rights(0.1, 10))


def test_the_range_is_the_best_minus_the_worst_level_and_names_them() -> None:
    found = block("sum", WIDE)["gaps"]["range"]
    assert found["accuracy"]["value"] == pytest.approx(0.9 - 0.6)
    assert (found["accuracy"]["best"], found["accuracy"]["worst"]) == ("F", "M")
    assert found["accuracy"]["n_patients"] == 60
    assert found["odds"]["value"] == pytest.approx(0.1 / 0.9 - 0.4 / 0.6)
    assert (found["odds"]["best"], found["odds"]["worst"]) == ("F", "M")


def test_each_level_is_set_against_all_others_but_the_unknown() -> None:
    found = block("sum", WIDE)["gaps"]["rest"]
    assert set(found) == {"F", "M", "other"}
    assert found["M"]["accuracy"]["value"] == pytest.approx(12 / 20 - (36 + 9) / 52)
    assert found["M"]["accuracy"]["n_patients"] == 72


def test_suppressed_levels_are_in_no_gap() -> None:
    persons = people("rome", F=rights(0.9, 40), M=rights(0.6, 20), diverse=[0] * 3, unknown=[0] * 6)
    found = block("sum", persons)
    assert found["other"]["accuracy"] == found["unknown"]["accuracy"] == SUPPRESSED
    assert set(found["gaps"]["rest"]) == {"F", "M"}
    assert found["gaps"]["rest"]["F"]["accuracy"]["value"] == pytest.approx(0.3)


@pytest.mark.parametrize(
    "persons", [people("rome", F=[1] * 9), people("rome", F=[1] * 9, unknown=[0] * 9), []], ids=["one", "unknown", "0"]
)
def test_one_level_has_no_gap(persons: list[Person]) -> None:
    assert block("sum", persons)["gaps"] == {"range": {}, "rest": {}}


def test_a_metric_that_one_level_does_not_determine_has_no_range() -> None:
    found = block("sum", people("rome", F=[1] * 9, M=[0] * 9))["gaps"]
    assert set(found["range"]) == {"accuracy"}
    assert found["rest"]["F"]["odds"]["value"] is None


def test_the_interval_of_a_gap_is_the_jackknife_of_the_difference() -> None:
    """Oracle: one group of patients after the other left out by hand on both sides."""
    one, other = (statistics([person for person in WIDE if person[1] == sex]) for sex in ("F", "M"))
    found = gap(TASK, one, other)["accuracy"]
    left_out = [
        shares(one.without_group(group))["accuracy"] - shares(other.without_group(group))["accuracy"]
        for group in range(additive.GROUPS)
        if one.counts[PATIENTS][group] or other.counts[PATIENTS][group]
    ]
    groups = len(left_out)
    error = math.sqrt((groups - 1) / groups * sum((value - found.value) ** 2 for value in left_out))
    assert (found.high - found.low) / 2 == pytest.approx(found.high - found.value)
    assert 1.96 * error <= found.high - found.value <= 2.9 * error


def test_a_gap_between_two_faultless_levels_is_not_certain_to_be_zero() -> None:
    found = gap(TASK, statistics(people("a", F=[1] * 12)), statistics(people("a", M=[1] * 12)))["accuracy"]
    assert found.value == 0
    assert found.low < -0.1
    assert found.high > 0.1


def test_turning_a_gap_round_turns_its_interval_round() -> None:
    one, other = statistics(people("a", F=rights(0.9, 30))), statistics(people("a", M=rights(0.5, 12)))
    for name, forth in gap(TASK, one, other).items():
        back = gap(TASK, other, one)[name]
        assert (forth.value, forth.low, forth.high) == pytest.approx((-back.value, -back.high, -back.low))


def coverage(honest: bool, trials: int = 80) -> float:  # noqa: FBT001
    """How often the interval holds the true gap of 0.08 between two levels of twelve patients, often faultless."""
    rng, held = np.random.default_rng(4), 0
    for trial in range(trials):
        drawn = ((rng.random(count) < share).astype(int).tolist() for count, share in ((12, 0.98), (12, 0.9)))
        one, other = (statistics(people(f"{trial}-{side}", F=of)) for side, of in enumerate(drawn))
        if honest:
            found = gap(TASK, one, other)["accuracy"]
            low, high = found.low, found.high
        else:
            of = difference(replicates(other, shares)["accuracy"], replicates(one, shares)["accuracy"])
            low, high = (float(end) for end in bounds(of, (-math.inf, math.inf)))
        held += low <= 0.08 <= high
    return held / trials


def test_the_interval_of_a_gap_holds_the_truth_where_a_level_is_often_faultless() -> None:
    assert coverage(honest=True) >= 0.93


def test_the_jackknife_alone_would_claim_too_much_there() -> None:
    assert coverage(honest=False) < 0.85


def test_gaps_ignore_the_order_of_levels() -> None:
    levels = {sex: statistics([person for person in WIDE if person[1] == sex]) for sex in ("F", "M", "diverse")}
    turned = dict(reversed(levels.items()))
    assert gaps(TASK, levels)["range"]["accuracy"]["worst"] == gaps(TASK, turned)["range"]["accuracy"]["worst"] == "M"
