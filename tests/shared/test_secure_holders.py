"""How many sites a sum needs, and who holds what: counted against the arithmetic of collusion, by brute force."""

import itertools
import math
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sharing import SHARED
from small_hospitals import document
from summed import code_of, names_of

from shared.errors import ProtocolError
from shared.plan import from_document
from shared.plan_protection import SecureAggregation
from shared.secure.holders import Threshold, two_thirds
from shared.secure.threshold import needed, rule, rule_of


@given(st.integers(2, 500))
def test_without_a_number_in_the_plan_it_is_more_than_two_thirds_by_one_at_most(sites: int) -> None:
    threshold = Threshold().of(sites)
    assert Fraction(2 * sites, 3) < threshold <= Fraction(2 * sites, 3) + 1
    assert threshold == two_thirds(sites) == math.floor(2 * sites / 3) + 1
    assert 2 <= threshold <= sites


@given(st.integers(0, 60), st.integers(-3, 60))
def test_a_number_in_the_plan_holds_where_two_groups_cannot_both_reach_it(sites: int, threshold: int) -> None:
    rule = Threshold(threshold)
    if threshold < 2 or 2 * threshold <= sites:
        assert code_of(lambda: rule.of(sites)) == "threshold-low"
    elif threshold > sites:
        assert code_of(lambda: rule.of(sites)) == "below-threshold"
    else:
        assert rule.of(sites) == threshold


@pytest.mark.parametrize("sites", [0, 1])
def test_no_rule_makes_a_sum_of_one_or_none(sites: int) -> None:
    assert code_of(lambda: Threshold().of(sites)) == "below-threshold"
    assert code_of(lambda: Threshold(least=0).of(sites)) == "threshold-low"


@given(st.integers(2, 60), st.integers(2, 60))
def test_without_a_number_the_plan_s_quorum_is_the_least_whoever_is_asked(sites: int, quorum: int) -> None:
    """Else a coordinator with two sites of its own would ask them and one more."""
    rule = Threshold(least=quorum)
    if sites < quorum:
        assert code_of(lambda: rule.of(sites)) == "below-threshold"
    else:
        assert rule.of(sites) == max(quorum, two_thirds(sites))
    assert Threshold(sites, least=2 * sites).of(sites) == sites, "a number in the plan is that number"


@pytest.mark.parametrize("asked", range(2, 10))
def test_whom_a_coordinator_asks_does_not_lower_what_the_plan_says(asked: int) -> None:
    """Of a federation of nine with a quorum of six it asks fewer: with a number of sites or a quorum, in vain."""
    quorum = 6
    for agreed in (Threshold(least=quorum), Threshold(quorum), rule(SecureAggregation(), quorum)):
        if asked < quorum:
            assert code_of(lambda agreed=agreed: agreed.of(asked)) == "below-threshold"  # type: ignore[misc]
            assert code_of(lambda agreed=agreed: agreed.circle(names_of(asked), b"")) == "below-threshold"  # type: ignore[misc]
        else:
            assert agreed.of(asked) >= quorum
    assert Threshold().of(asked) == two_thirds(asked), "control: a part of those asked is small where few are asked"


@given(st.integers(2, 60), st.integers(2, 60))
def test_with_fewer_colluding_sites_than_the_quorum_less_one_another_honest_site_is_in_every_sum(
    quorum: int, sites: int
) -> None:
    """As the text says: whoever a coordinator asks, a site that takes part, and as many colluding ones as there are."""
    agreed = Threshold(least=quorum)
    if sites >= quorum:
        others = agreed.of(sites) - 1
        assert all(others - colluding >= 1 for colluding in range(quorum - 1))


@given(st.integers(2, 40), st.one_of(st.none(), st.integers(2, 40)), st.integers(2, 40))
def test_the_rule_of_a_plan_is_the_one_that_the_plan_promises(quorum: int, threshold: int | None, offered: int) -> None:
    """``needed`` tells the approver and the coordinator's table of rounds, ``rule`` decides."""
    settings = SecureAggregation(enabled=True, threshold=threshold)
    agreed, least = rule(settings, quorum), needed(settings, quorum, offered)
    if 2 * least <= offered:
        assert code_of(lambda: agreed.of(offered)) == "threshold-low"
    elif offered < least:
        assert code_of(lambda: agreed.of(offered)) == "below-threshold"
    else:
        assert agreed.of(offered) == least


def both_sets_confirmed(sites: int, threshold: int, colluding: int) -> bool:
    """Whether two sets can both find their confirmations: colluding sites sign both, each honest one signs one."""
    honest = sites - colluding
    return any(
        first + colluding >= threshold and (honest - first) + colluding >= threshold for first in range(honest + 1)
    )


@pytest.mark.parametrize("sites", range(2, 25))
def test_two_sets_are_confirmed_only_where_the_text_says_so(sites: int) -> None:
    for threshold, colluding in itertools.product(range(1, sites + 1), range(sites)):
        assert both_sets_confirmed(sites, threshold, colluding) == (2 * threshold <= sites + colluding)


@given(st.integers(2, 300))
def test_the_default_bears_as_many_colluding_sites_as_the_text_says(sites: int) -> None:
    threshold = Threshold().of(sites)
    borne = 2 * threshold - sites - 1
    assert borne >= sites // 3 - 1
    assert threshold > borne, "nor can they put together a secret by themselves"


@given(st.integers(2, 40))
def test_up_to_some_number_everybody_holds_shares_of_everybody(sites: int) -> None:
    names = list(names_of(sites))
    circle = Threshold().circle(names, b"seed")
    assert circle.needed == circle.threshold == two_thirds(sites)
    assert set(circle.holders) == set(names)
    assert all(holders == tuple(sorted(names)) for holders in circle.holders.values())
    assert circle.neighbours(names[0]) == tuple(sorted(names[1:]))


def six(_sites: int) -> tuple[int, int]:
    return 6, 4


RING = Threshold(degree=six, complete_up_to=8)


def test_beyond_it_each_holds_shares_of_its_neighbours_and_of_itself() -> None:
    names = names_of(20)
    circle = RING.circle(names, b"seed")
    assert (circle.threshold, circle.needed) == (two_thirds(20), 4)
    for site in names:
        assert len(circle.holders[site]) == 7
        assert site in circle.holders[site]
        assert list(circle.holders[site]) == sorted(circle.holders[site])
        assert all(site in circle.holders[other] for other in circle.neighbours(site)), "neighbours hold in both ways"
        assert site not in circle.neighbours(site)


def test_the_circle_is_the_same_for_all_whatever_order_names_come_in() -> None:
    names = names_of(20)
    assert RING.circle(names, b"seed") == RING.circle(names[::-1], b"seed") != RING.circle(names, b"other")


@pytest.mark.parametrize(("sites", "neighbours", "needed"), [(7, 6, 5), (8, 7, 6), (9, 6, 4), (20, 6, 4)])
def test_the_graph_is_complete_up_to_the_number_that_the_rule_says(sites: int, neighbours: int, needed: int) -> None:
    circle = RING.circle(names_of(sites), b"seed")
    assert {len(circle.neighbours(site)) for site in names_of(sites)} == {neighbours}
    assert circle.needed == needed


def test_a_degree_that_joins_all_needs_as_many_shares_as_sites() -> None:
    rule = Threshold(degree=lambda sites: (sites - 1, 2), complete_up_to=2)
    assert rule.circle(names_of(10), b"seed").needed == two_thirds(10)


def test_too_few_holders_left_is_told_with_numbers() -> None:
    circle = RING.circle(names_of(20), b"seed")
    site = names_of(20)[0]
    holders = circle.holders[site]
    circle.require_held(site, holders[:4])
    circle.require_held(site, [*names_of(20)])
    assert code_of(lambda: circle.require_held(site, holders[:3])) == "neighbours-few"
    strangers = [name for name in names_of(20) if name not in holders]
    assert code_of(lambda: circle.require_held(site, [*holders[:3], *strangers])) == "neighbours-few"


def test_too_few_sites_left_is_told() -> None:
    circle = Threshold().circle(names_of(9), b"seed")
    circle.require_enough(names_of(9)[:7])
    assert code_of(lambda: circle.require_enough(names_of(9)[:6])) == "below-threshold"


# --- as many colluding sites as a plan says --------------------------------------------------------------------------


NOISE = {"privacy__noise", "privacy__colluding_sites"}


@pytest.mark.parametrize(("noise", "enrolled", "borne"), [("shared", 4, True), ("shared", 5, False), ("own", 5, True)])
def test_where_noise_is_shared_the_plan_s_colluding_sites_are_borne_in_a_roster_that_grows(
    noise: str,
    enrolled: int,
    borne: bool,  # noqa: FBT001 - a case
) -> None:
    """With t = 3 and c = 1: 2 t > n + c holds up to n = 4. Approved with four sites, a fifth may be enrolled later."""
    changes = SHARED if noise == "shared" else {key: value for key, value in SHARED.items() if key not in NOISE}
    said = {key: value for key, value in document(**changes).items() if key != "scenario"}
    agreed = rule_of(from_document(said))
    if borne:
        assert agreed.of(4, enrolled) == 3
        return
    with pytest.raises(ProtocolError, match="5 sites, of which 1 may collude") as refused:
        agreed.circle([f"s{place}" for place in range(4)], bytes(32), enrolled)
    assert refused.value.code == "threshold-low"


def test_more_colluding_sites_have_more_neighbours_on_a_sparse_graph() -> None:
    few, many = (rule(SecureAggregation(), 1, colluding) for colluding in (0, 20))
    names = [f"s{place:03}" for place in range(100)]
    degrees = [len(one.circle(names, bytes(32)).neighbours("s000")) for one in (few, many)]
    assert degrees[0] == 64
    assert degrees[1] > degrees[0]
