"""Dealing patients to sites: nobody lost, nobody torn apart, skew as strong as asked for."""

from collections import Counter, defaultdict
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.errors import ScenarioError
from simulations.partition import Partition, Row, dirichlet, iid, natural, quantity

Deal = Callable[[list[Row], int, int, int], Partition]
DEALS: dict[str, Deal] = {
    "iid": lambda rows, sites, seed, minimum: iid(rows, sites, seed, minimum=minimum),
    "dirichlet": lambda rows, sites, seed, minimum: dirichlet(rows, sites, 0.3, seed, minimum=minimum),
    "quantity": lambda rows, sites, seed, minimum: quantity(rows, sites, 0.5, seed, minimum=minimum),
}
EACH = pytest.mark.parametrize("deal", DEALS.values(), ids=DEALS.keys())


def patients(count: int, labels: int = 2, images: int = 1) -> list[Row]:
    """``count`` people with ``images`` cases each; labels in equal numbers."""
    return [
        Row(person * images + image, f"p{person:04d}", f"home-{person % 3}", str(person % labels))
        for person in range(count)
        for image in range(images)
    ]


@st.composite
def tables(draw: st.DrawFn) -> list[Row]:
    """Cases in any order, several to a patient, whose labels need not agree."""
    owners = draw(st.lists(st.integers(0, 30), min_size=1, max_size=60))
    labels = draw(st.lists(st.sampled_from(["", "a", "b", "c"]), min_size=len(owners), max_size=len(owners)))
    return [
        Row(case, f"{owner}\0", f"home-{owner % 4}", label)
        for case, (owner, label) in enumerate(zip(owners, labels, strict=True))
    ]


def people_of(part: Partition, rows: list[Row]) -> dict[str, set[str]]:
    owner = {row.case: row.patient for row in rows}
    return {site: {owner[case] for case in cases} for site, cases in part.items()}


def assert_sound(part: Partition, rows: list[Row], minimum: int) -> None:
    cases = [case for site in part.values() for case in site]
    assert sorted(cases) == sorted(row.case for row in rows)
    people = people_of(part, rows)
    assert sum(len(one) for one in people.values()) == len({row.patient for row in rows})
    assert all(len(one) >= minimum for one in people.values())
    assert list(part) == sorted(part)
    assert all(list(site) == sorted(site) for site in part.values())


@EACH
@given(rows=tables(), sites=st.integers(1, 8), seed=st.integers(0, 2**32), minimum=st.integers(0, 4))
def test_every_patient_goes_whole_to_exactly_one_site_or_the_deal_is_refused(
    deal: Deal, rows: list[Row], sites: int, seed: int, minimum: int
) -> None:
    if len({row.patient for row in rows}) < sites * minimum:
        with pytest.raises(ScenarioError, match=f"do not make {sites} sites of at least {minimum}"):
            deal(rows, sites, seed, minimum)
    else:
        part = deal(rows, sites, seed, minimum)
        assert len(part) == sites
        assert_sound(part, rows, minimum)


@EACH
@given(rows=tables(), seed=st.integers(0, 2**32), data=st.data())
def test_the_order_of_rows_does_not_matter(deal: Deal, rows: list[Row], seed: int, data: st.DataObject) -> None:
    shuffled = data.draw(st.permutations(rows))
    assert deal(rows, 3, seed, 0) == deal(shuffled, 3, seed, 0)


@EACH
def test_the_deal_follows_from_the_seed(deal: Deal) -> None:
    rows = patients(60)
    assert deal(rows, 4, 1, 1) == deal(rows, 4, 1, 1)
    assert deal(rows, 4, 1, 1) != deal(rows, 4, 2, 1)


@EACH
def test_one_site_gets_everyone(deal: Deal) -> None:
    rows = patients(10, images=3)
    assert deal(rows, 1, 1, 1) == {"site-01": tuple(range(30))}


@EACH
def test_names_of_sites_sort_as_their_numbers_do(deal: Deal) -> None:
    names = list(deal(patients(300), 120, 1, 1))
    assert names == sorted(names) == [f"site-{number:03d}" for number in range(1, 121)]


@EACH
@pytest.mark.parametrize("sites", [0, -1])
def test_no_sites_are_refused(deal: Deal, sites: int) -> None:
    with pytest.raises(ScenarioError, match=f"{sites} sites"):
        deal(patients(5), sites, 1, 1)


@EACH
def test_no_patients_are_refused(deal: Deal) -> None:
    with pytest.raises(ScenarioError, match="0 patients") as caught:
        deal([], 2, 1, 0)
    assert caught.value.code == "too-few-patients"
    assert caught.value.hint


@given(st.integers(1, 200), st.integers(1, 12), st.integers(0, 99))
def test_equal_numbers_differ_by_one_at_most(count: int, sites: int, seed: int) -> None:
    rows = patients(count)
    for part in (iid(rows, sites, seed, minimum=0), dirichlet(rows, sites, 1.0, seed, minimum=0)):
        sizes = [len(one) for one in people_of(part, rows).values()]
        assert max(sizes) - min(sizes) <= 1


def skew(part: Partition, rows: list[Row]) -> float:
    """Mean total variation distance between a site's labels and all labels."""
    label = {row.case: row.label for row in rows}
    overall = Counter(label.values())
    distances = []
    for cases in part.values():
        own = Counter(label[case] for case in cases)
        gaps = [abs(own[one] / len(cases) - overall[one] / len(rows)) for one in overall]
        distances.append(sum(gaps) / 2)
    return float(np.mean(distances))


def test_a_small_alpha_gives_sites_of_one_label_and_a_large_one_sites_like_all() -> None:
    """Ten labels, ten sites: one label a site is a distance of 0.9, less for leftovers; sampling alone gives 0.1."""
    rows = patients(1000, labels=10)
    by_alpha = [
        np.mean([skew(dirichlet(rows, 10, alpha, seed), rows) for seed in range(5)]) for alpha in (0.01, 1, 1e5)
    ]
    dealt_evenly = np.mean([skew(iid(rows, 10, seed), rows) for seed in range(5)])
    assert by_alpha[0] > 0.6
    assert by_alpha[0] > by_alpha[1] > by_alpha[2]
    assert by_alpha[2] == pytest.approx(dealt_evenly, abs=0.04)


def test_label_skew_keeps_to_the_overall_mix_on_average() -> None:
    """Hsu et al.: the mean of Dir(alpha p) is p. One label in ten here, over many seeds at one site of five."""
    rows = [Row(case, f"p{case}", "home", "rare" if case % 10 == 0 else "common") for case in range(200)]
    label = {row.case: row.label for row in rows}
    shares = []
    for seed in range(60):
        first = dirichlet(rows, 5, 5.0, seed)["site-01"]
        shares.append(np.mean([label[case] == "rare" for case in first]))
    assert np.mean(shares) == pytest.approx(0.1, abs=0.03)


@pytest.mark.parametrize("alpha", [1e-12, 1e-3, 1e6, 1e12])
def test_extreme_alphas_still_deal_everyone(alpha: float) -> None:
    rows = patients(40, labels=4)
    assert_sound(dirichlet(rows, 6, alpha, 1), rows, 1)
    assert_sound(quantity(rows, 6, alpha, 1), rows, 1)


@pytest.mark.parametrize("alpha", [0.0, -1.0, float("inf"), float("nan")])
def test_an_alpha_without_meaning_is_refused(alpha: float) -> None:
    for deal in (dirichlet, quantity):
        with pytest.raises(ScenarioError, match="alpha is"):
            deal(patients(10), 2, alpha, 1)


def test_sizes_spread_more_with_a_smaller_alpha() -> None:
    rows = patients(400)

    def spread(alpha: float) -> float:
        parts = [quantity(rows, 8, alpha, seed) for seed in range(10)]
        return float(np.mean([np.std([len(site) for site in part.values()]) for part in parts]))

    assert spread(0.1) > 2 * spread(1.0) > 4 * spread(100.0)


def test_every_site_has_its_minimum_before_sizes_are_drawn() -> None:
    rows = patients(50)
    sizes = [len(site) for site in quantity(rows, 10, 0.01, 1, minimum=4).values()]
    assert min(sizes) >= 4
    assert sum(sizes) == 50


def test_a_patients_label_is_the_most_frequent_one_and_the_smallest_of_equals() -> None:
    """With a tiny alpha and two sites of two, patients of one label end up together."""
    rows = [
        Row(0, "mostly-b", "h", "a"),
        Row(1, "mostly-b", "h", "b"),
        Row(2, "mostly-b", "h", "b"),
        Row(3, "tied", "h", "b"),
        Row(4, "tied", "h", "a"),
        Row(5, "plain-a", "h", "a"),
        Row(6, "plain-b", "h", "b"),
    ]
    together: dict[frozenset[str], int] = defaultdict(int)
    for seed in range(200):
        for people in people_of(dirichlet(rows, 2, 1e-6, seed), rows).values():
            together[frozenset(people)] += 1
    assert together[frozenset({"tied", "plain-a"})] > 50
    assert together[frozenset({"mostly-b", "plain-b"})] > 50


@given(tables())
def test_natural_sites_are_the_data_s_own(rows: list[Row]) -> None:
    part = natural(rows)
    assert_sound(part, rows, 1)
    home = {row.case: row.site for row in rows}
    assert all(home[case] == site for site, cases in part.items() for case in cases)


def test_a_natural_site_below_the_minimum_is_refused() -> None:
    rows = [*patients(9), Row(9, "lonely", "outpost")]
    assert len(natural(rows)) == 4
    with pytest.raises(ScenarioError, match="at least 2"):
        natural(rows, minimum=2)


def test_a_patient_at_two_natural_sites_is_refused_without_being_named() -> None:
    rows = [Row(0, "erika", "north"), Row(1, "erika", "south")]
    with pytest.raises(ScenarioError, match="case 1") as caught:
        natural(rows)
    assert "erika" not in str(caught.value)
    assert caught.value.code == "shared-patient"


def test_everybody_is_as_likely_at_every_site() -> None:
    """Chi-squared over 3 x 600 draws with 2 degrees of freedom each; the control always puts the first one first."""
    rows = patients(12)
    visits = np.zeros((12, 3))
    for seed in range(600):
        for place, people in enumerate(people_of(iid(rows, 3, seed), rows).values()):
            for person in people:
                visits[int(person[1:]), place] += 1
    statistic = ((visits - 200) ** 2 / 200).sum(axis=1)
    assert (statistic < 18).all(), "beyond 1 in 8,000 for each of 12"
    fixed = np.array([600.0, 0.0, 0.0])
    assert ((fixed - 200) ** 2 / 200).sum() > 18


def test_images_of_a_patient_stay_together_however_many_there_are() -> None:
    rows = [Row(case, f"p{case % 7}", "home", str(case % 2)) for case in range(140)]
    for part in (iid(rows, 3, 1), dirichlet(rows, 3, 0.1, 1), quantity(rows, 3, 0.1, 1)):
        owners = {row.case: row.patient for row in rows}
        sites = [{owners[case] for case in cases} for cases in part.values()]
        assert sum(len(site) for site in sites) == 7
        assert {len([case for case in cases if owners[case] == "p3"]) for cases in part.values()} == {0, 20}


def test_equal_numbers_are_of_patients_not_of_images() -> None:
    rows = [Row(case, "prolific" if case < 90 else f"p{case}", "home") for case in range(99)]
    sizes = sorted(len(cases) for cases in iid(rows, 2, 1).values())
    assert sizes in ([4, 95], [5, 94])


def test_two_deals_of_one_seed_are_not_the_same_deal() -> None:
    """Purposes have streams of their own: the skewed deal is not the even one with labels on."""
    rows = patients(40, labels=1)
    assert iid(rows, 4, 1) != dirichlet(rows, 4, 1.0, 1)
    assert iid(rows, 4, 1) != quantity(rows, 4, 1e9, 1)


def test_cases_keep_the_indices_they_came_with() -> None:
    rows = [Row(1000 + 7 * person, f"p{person}", "home") for person in range(9)]
    dealt = sorted(case for cases in iid(rows, 2, 1).values() for case in cases)
    assert dealt == [1000 + 7 * person for person in range(9)]
