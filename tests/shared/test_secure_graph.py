"""Who masks with whom: the ring, and its probability of failure against chance itself and against every attack."""

import hashlib
import math
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from fractions import Fraction
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import stats

from shared.errors import PlanError
from shared.secure import graph
from shared.secure.graph import COMPLETE_UP_TO, Assumed, degree_for, failure_log2, neighbours

RINGS = 40_000
LEAST_P = 1e-6
ONE_TRY = Assumed(colluding=0.1, dropping=0.1, tries_log2=0)
NOBODY = replace(ONE_TRY, colluding=0, dropping=0)

Truth = NDArray[np.bool_]


def names(count: int) -> list[str]:
    return [f"site-{place:04d}" for place in range(count)]


def rings(sites: int, marked: int, seed: int) -> Truth:
    """``RINGS`` rings on which ``marked`` of the places are marked, drawn by NumPy: shape (RINGS, sites)."""
    return np.random.default_rng(seed).permuted(np.tile(np.arange(sites) < marked, (RINGS, 1)), axis=1)


def beside(marked: Truth, half: int, *, both: bool) -> NDArray[np.int_]:
    """How many of the next ``half`` places (and of those before) are marked, for every place."""
    steps = [step for reach in range(1, half + 1) for step in ((reach, -reach) if both else (reach,))]
    return sum((np.roll(marked, -step, axis=1).astype(int) for step in steps), np.zeros(marked.shape, int))


def holds(bound_log2: float, failed: Truth) -> bool:
    """Whether the share of failed rings is no more than the bound, and the bound no more than four times that share."""
    seen, bound = int(failed.sum()), 2**bound_log2
    least = float(stats.binomtest(seen, RINGS).proportion_ci(1 - LEAST_P).low)
    return least <= bound <= 4 * seen / RINGS


@pytest.mark.parametrize(
    ("sites", "degree", "threshold", "gone"), [(80, 20, 11, 16), (80, 40, 26, 16), (200, 30, 18, 30)]
)
def test_too_few_neighbours_are_left_as_often_as_the_bound_says_and_hardly_less(
    sites: int, degree: int, threshold: int, gone: int
) -> None:
    """The bound is a sum over sites, so a ring with two of them counts twice; that of another threshold is rejected."""
    failed = (beside(rings(sites, gone, 1), degree // 2, both=True) > degree - threshold).any(axis=1)
    assumed = replace(NOBODY, dropping=gone / sites, chosen_by="chance")
    assert holds(failure_log2(sites, degree, threshold, assumed), failed)
    assert not holds(failure_log2(sites, degree, threshold + 1, assumed), failed)


@pytest.mark.parametrize(
    ("sites", "degree", "threshold", "colluding"), [(80, 20, 18, 16), (200, 30, 24, 30), (120, 16, 15, 20)]
)
def test_an_honest_site_is_cut_off_as_often_as_the_bound_says_and_hardly_less(
    sites: int, degree: int, threshold: int, colluding: int
) -> None:
    half, marked = degree // 2, rings(sites, colluding, 2)
    failed = ((beside(marked, half, both=False) >= threshold - half - 1) & ~marked).any(axis=1)
    assumed = replace(NOBODY, colluding=colluding / sites)
    assert holds(failure_log2(sites, degree, threshold, assumed), failed)
    assert not holds(failure_log2(sites, degree, threshold - 1, assumed), failed)


@pytest.mark.parametrize(("sites", "degree", "threshold", "colluding"), [(120, 16, 9, 20), (80, 20, 11, 16)])
def test_neighbours_know_a_secret_as_often_as_the_bound_says_and_hardly_less(
    sites: int, degree: int, threshold: int, colluding: int
) -> None:
    marked = rings(sites, colluding, 3)
    failed = ((beside(marked, degree // 2, both=True) >= threshold) & ~marked).any(axis=1)
    assumed = replace(NOBODY, colluding=colluding / sites, chosen_by="chance")
    assert holds(failure_log2(sites, degree, threshold, assumed), failed)
    assert not holds(failure_log2(sites, degree, threshold + 1, assumed), failed)


def runs(marked: Truth, least: int) -> NDArray[np.int_]:
    """How many runs of ``least`` or more marked places each ring has: those that begin after a place that is not."""
    begins = (beside(marked, least, both=False) == least) & ~marked
    return begins.sum(axis=1)


@pytest.mark.parametrize(("sites", "degree", "gone"), [(80, 8, 24), (70, 6, 14), (200, 8, 40)])
def test_the_ring_falls_apart_as_often_as_the_bound_says_and_hardly_less(sites: int, degree: int, gone: int) -> None:
    failed = runs(rings(sites, gone, 4), degree // 2) >= 2
    assert holds(graph._apart(sites, degree, gone), failed)
    assert not holds(graph._apart(sites, degree, gone - 4), failed)


def connected(left: set[int], sites: int, half: int) -> list[set[int]]:
    """The connected parts of those left on a ring of ``sites``, by walking from each to all within reach."""
    parts, waiting = [], set(left)
    while waiting:
        part, edge = set(), [waiting.pop()]
        while edge:
            place = edge.pop()
            part.add(place)
            near = {(place + step) % sites for step in range(-half, half + 1)} & waiting
            waiting -= near
            edge += near
        parts.append(part)
    return parts


@pytest.mark.parametrize(("sites", "degree", "gone"), [(8, 2, 3), (9, 4, 4), (11, 4, 6), (10, 6, 6), (9, 4, 3)])
def test_among_all_ways_to_lose_sites_the_ring_falls_apart_no_more_often_than_the_bound_says(
    sites: int, degree: int, gone: int
) -> None:
    """Every set of sites that can be gone: two runs if and only if two parts, and the mean number of pairs is exact."""
    half, ways, apart, pairs = degree // 2, 0, 0, 0
    for lost in combinations(range(sites), gone):
        marked = np.isin(np.arange(sites), lost)[None]
        parts, separate = len(connected(set(range(sites)) - set(lost), sites, half)), int(runs(marked, half)[0])
        assert (parts >= 2) == (separate >= 2)
        ways, apart, pairs = ways + 1, apart + (parts >= 2), pairs + math.comb(separate, 2)
    bound = graph._apart(sites, degree, gone)
    assert apart <= pairs
    assert bound == (-math.inf if pairs == 0 else pytest.approx(math.log2(pairs / ways), abs=1e-9))


def roles(sites: int) -> Iterator[tuple[set[int], set[int]]]:
    """Every way to be colluding, an honest survivor, or honest and said to have dropped out."""
    for number in range(3**sites):
        role = [number // 3**place % 3 for place in range(sites)]
        yield {p for p in range(sites) if role[p] == 1}, {p for p in range(sites) if role[p] == 2}


def attacked(colluding: set[int], left: set[int], sites: int, half: int, shares: int) -> bool:
    """Whether some survivors, not all of them, can be summed alone: connected, and every own mask can be removed."""
    reach = range(-half, half + 1)
    holders = left | colluding

    def open_to_all(place: int) -> bool:
        return sum((place + step) % sites in holders for step in reach) >= shares

    parts = connected(left, sites, half)
    return len(parts) > 1 and any(all(map(open_to_all, part)) for part in parts)


@pytest.mark.parametrize(("sites", "degree", "shares"), [(6, 2, 2), (8, 4, 3), (8, 4, 4), (9, 6, 6)])
def test_no_choice_of_who_drops_out_cuts_anybody_off_unless_the_bound_counts_it(
    sites: int, degree: int, shares: int
) -> None:
    """All attacks on small rings. That a site holds a share of its own matters: without it, attacks go uncounted."""
    half, seen, uncounted = degree // 2, 0, 0
    for colluding, left in roles(sites):
        if attacked(colluding, left, sites, half, shares):
            honest = set(range(sites)) - colluding
            after = max(sum((place + step) % sites in colluding for step in range(1, half + 1)) for place in honest)
            assert after >= shares - half - 1
            seen, uncounted = seen + 1, uncounted + (after < shares - half)
    assert seen > uncounted > 0


@pytest.mark.parametrize(
    ("population", "marked", "drawn"), [(99, 10, 20), (99, 0, 20), (199, 60, 84), (20, 15, 12), (20, 20, 5)]
)
def test_tails_are_those_of_the_hypergeometric_distribution(population: int, marked: int, drawn: int) -> None:
    """Against scipy where it has the digits, and against a sum of fractions everywhere."""
    tails = graph._tails(population, marked, drawn)
    total = math.comb(population, drawn)
    assert len(tails) == drawn + 2
    for least, found in enumerate(tails):
        ways = sum(math.comb(marked, x) * math.comb(population - marked, drawn - x) for x in range(least, drawn + 1))
        exact = Fraction(ways, total)
        assert found == (-math.inf if exact == 0 else pytest.approx(math.log2(exact), abs=1e-9))
        if exact > Fraction(1, 2**60):
            from_scipy = stats.hypergeom.sf(least - 1, population, marked, drawn)
            assert 2**found == pytest.approx(from_scipy, rel=1e-9)


@pytest.mark.parametrize("chosen_by", ["coordinator", "chance"])
@pytest.mark.parametrize("sites", [65, 100, 200, 500])
def test_the_degree_is_the_least_that_keeps_to_what_was_asked(sites: int, chosen_by: str) -> None:
    assumed = Assumed(0.1, 0.1, chosen_by=chosen_by)  # type: ignore[arg-type]
    degree, shares = degree_for(sites, assumed)
    assert degree % 2 == 0
    assert degree < sites - 1
    assert failure_log2(sites, degree, shares, assumed) <= assumed.failure_log2
    below = [failure_log2(sites, degree - 2, other, assumed) for other in range(degree)]
    assert min(below) > assumed.failure_log2


@pytest.mark.parametrize(("chosen_by", "expected"), [("coordinator", (4, 4)), ("chance", (2, 2))])
def test_where_nobody_colludes_or_drops_the_smallest_ring_serves(chosen_by: str, expected: tuple[int, int]) -> None:
    """Two neighbours are a bare majority each, so a coordinator who chooses takes four."""
    assert degree_for(100, Assumed(0, 0, chosen_by=chosen_by)) == expected  # type: ignore[arg-type]


def test_of_numbers_of_shares_that_are_as_good_the_highest_is_taken() -> None:
    """Of 100 sites four collude and none drops out: five shares are beyond them, and six are there as surely."""
    assumed = Assumed(0.04, 0, chosen_by="chance")
    assert failure_log2(100, 6, 5, assumed) == failure_log2(100, 6, 6, assumed) == -math.inf
    assert degree_for(100, assumed) == (6, 6)


def test_who_says_nothing_else_gets_the_cautious_assumptions() -> None:
    assert Assumed(0.1, 0.1) == Assumed(0.1, 0.1, failure_log2=-40, tries_log2=40, chosen_by="coordinator")


@given(st.integers(2, 300), st.floats(0, 0.3), st.floats(0, 0.3))
def test_shares_needed_are_a_majority_of_those_dealt(sites: int, colluding: float, dropping: float) -> None:
    degree, shares = degree_for(sites, Assumed(colluding, dropping))
    assert 2 * shares > degree + 1
    assert shares <= degree + 1
    assert degree <= sites - 1


@pytest.mark.parametrize("sites", [2, 3, 10, COMPLETE_UP_TO])
def test_few_sites_are_all_neighbours_and_two_thirds_of_them_make_a_secret(sites: int) -> None:
    assert degree_for(sites, Assumed(0.01, 0.01)) == (sites - 1, 2 * sites // 3 + 1)


def test_sites_are_all_neighbours_where_no_smaller_degree_suffices() -> None:
    assert degree_for(70, Assumed(0.4, 0.4)) == (69, 47)
    assert degree_for(COMPLETE_UP_TO + 1, Assumed(0.1, 0.1))[0] < COMPLETE_UP_TO


def test_among_neighbours_of_all_failure_is_certain_or_impossible() -> None:
    """Of 70 sites, 7 collude and 21 drop out: 8 to 49 shares serve."""
    assumed = Assumed(0.1, 0.3)
    found = {shares: failure_log2(70, 69, shares, assumed) for shares in range(1, 71)}
    assert {shares for shares, bound in found.items() if bound == -math.inf} == set(range(8, 50))
    assert set(found.values()) == {0.0, -math.inf}


@pytest.mark.parametrize("shares", [0, 1, 10, 21, 22, 500])
def test_a_number_of_shares_that_is_no_majority_or_more_than_neighbours_protects_nothing(shares: int) -> None:
    assert failure_log2(200, 20, shares, NOBODY) == 0


@pytest.mark.parametrize(("shares", "safe"), [(11, False), (12, True), (20, True)])
def test_a_bare_majority_lets_a_coordinator_cut_an_arc_off_without_any_help(*, shares: int, safe: bool) -> None:
    """Of 20 neighbours, a site's own share and those of the ten on one side make eleven; chance does not do that."""
    assert failure_log2(200, 20, shares, NOBODY) == (-math.inf if safe else 0)
    assert failure_log2(200, 20, shares, replace(NOBODY, chosen_by="chance")) == -math.inf


def test_tries_multiply_what_reveals_and_not_what_stops() -> None:
    revealing, stopping = replace(NOBODY, colluding=0.1), replace(NOBODY, dropping=0.1)
    tried = failure_log2(200, 40, 38, replace(revealing, tries_log2=10))
    assert tried == pytest.approx(failure_log2(200, 40, 38, revealing) + 10, abs=1e-9)
    assert failure_log2(200, 40, 25, replace(stopping, tries_log2=10)) == failure_log2(200, 40, 25, stopping) < 0


def test_both_kinds_of_failure_count_and_a_coordinator_that_chooses_is_worse_than_chance() -> None:
    both = failure_log2(200, 40, 31, ONE_TRY)
    alone = [failure_log2(200, 40, 31, replace(ONE_TRY, **{who: 0})) for who in ("colluding", "dropping")]
    assert 2**both == pytest.approx(sum(2**bound for bound in alone), rel=1e-9)
    assert both > failure_log2(200, 40, 31, replace(ONE_TRY, chosen_by="chance"))


@pytest.mark.parametrize(("colluding", "dropping"), [(24, 0), (12, 6)])
def test_under_chance_all_three_failures_count_and_either_kind_of_site_is_gone(colluding: int, dropping: int) -> None:
    """Of 80 sites with 8 neighbours, against scipy for the tails."""
    assumed = replace(NOBODY, colluding=colluding / 80, dropping=dropping / 80, chosen_by="chance")
    short = 80 * stats.hypergeom.sf(8 - 7, 79, dropping, 8)
    known = (80 - colluding) * stats.hypergeom.sf(7 - 1, 79, colluding, 8)
    gone = colluding + dropping
    apart = 80 * 71 / 2 * math.comb(70, gone - 8) / math.comb(80, gone)
    assert 2 ** failure_log2(80, 8, 7, assumed) == pytest.approx(min(1, short + known + apart), rel=1e-9)
    assert apart > 1e-3 * min(1, short + known)


@given(st.integers(66, 150), st.integers(2, 40), st.integers(2, 40), st.floats(0, 0.4), st.floats(0, 0.4))
def test_more_bad_sites_never_make_failure_less_likely(
    sites: int, degree: int, shares: int, bad: float, gone: float
) -> None:
    worse = failure_log2(sites, degree, shares, Assumed(bad + 0.05, gone + 0.05))
    assert failure_log2(sites, degree, shares, Assumed(bad, gone)) <= worse + 1e-9
    assert worse <= 0


def test_fractions_are_rounded_up_and_binary_dust_is_not() -> None:
    """0.07 * 100 is 7.000000000000001 in binary."""
    assert Assumed(0.07, 0.1).numbers(100) == (7, 10)
    assert Assumed(0.1, 0.1).numbers(71) == (8, 8)
    assert Assumed(0.0, 0.2).numbers(3) == (0, 1)


@pytest.mark.parametrize(
    "make",
    [
        lambda: Assumed(-0.1, 0.1),
        lambda: Assumed(0.5, 0.5),
        lambda: Assumed(0.1, math.nan),
        lambda: Assumed(0.1, 0.1, failure_log2=0),
        lambda: Assumed(0.1, 0.1, tries_log2=-1),
    ],
    ids=["negative", "everybody", "no number", "certain failure", "less than a try"],
)
def test_assumptions_that_make_no_sense_are_refused(make: Callable[[], Assumed]) -> None:
    with pytest.raises(PlanError) as refused:
        make()
    assert refused.value.code == "graph"


@given(st.integers(0, 40), st.integers(0, 45), st.binary(max_size=32), st.randoms())
def test_neighbours_are_mutual_as_many_as_asked_and_the_same_for_everybody(
    count: int, degree: int, seed: bytes, order: object
) -> None:
    everybody = names(count)
    found = neighbours(everybody, degree, seed)
    mixed = list(everybody)
    order.shuffle(mixed)  # type: ignore[attr-defined]
    assert neighbours(mixed, degree, seed) == found
    assert list(found) == everybody
    for name, near in found.items():
        assert len(near) == min(degree + degree % 2, count - 1)
        assert list(near) == sorted(set(near))
        assert name not in near
        assert all(name in found[other] for other in near)


@pytest.mark.parametrize(("count", "degree"), [(9, 2), (9, 4), (10, 6), (12, 8)])
def test_a_ring_stays_connected_whoever_of_degree_minus_one_is_lost(count: int, degree: int) -> None:
    """What makes it a Harary graph: no other with so few edges withstands the loss of more."""
    found = neighbours(names(count), degree, b"seed")
    for lost in combinations(names(count), degree - 1):
        left, reached = set(names(count)) - set(lost), set()
        edge = {min(left)}
        while edge:
            reached |= edge
            edge = {near for name in edge for near in found[name]} & left - reached
        assert reached == left
    alone = set(names(count)) - set(found[names(count)[0]])
    assert len(alone) == count - degree


def even(draws: int) -> float:
    """P value of the 24 orders of four sites being equally frequent (chi-squared)."""
    counts = Counter("".join(graph._shuffled("abcd", draw.to_bytes(4, "big"))) for draw in range(draws))
    return float(stats.chisquare([*counts.values(), *[0] * (24 - len(counts))]).pvalue)


def test_every_order_is_drawn_equally_often(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 6 000 seeds; remainders of numbers of three bits, which favour 0 and 1 among three, are rejected."""
    assert even(6000) > LEAST_P
    whole = graph._numbers
    monkeypatch.setattr(graph, "_numbers", lambda seed: (number % 8 for number in whole(seed)))
    assert even(6000) < LEAST_P


def test_numbers_beyond_the_last_whole_multiple_are_passed_over() -> None:
    assert graph._below(3, iter([2**64 - 1, 7])) == 1
    assert graph._below(3, iter([2**64 - 2, 7])) == 2
    assert graph._below(2, iter([2**64 - 1])) == 1


def test_the_ring_of_a_seed_is_this_one() -> None:
    """Shuffled by hand with SHA-256 of the opening line, a counter of 8 bytes and the seed."""
    ring, seed = list("abcdefg"), bytes(range(32))
    for position, last in enumerate(range(6, 0, -1)):
        digest = hashlib.sha256(b"consilium-secure-ring-1\n" + position.to_bytes(8, "big") + seed).digest()
        other = int.from_bytes(digest[:8], "big") % (last + 1)
        ring[last], ring[other] = ring[other], ring[last]
    found = neighbours("gfedcba", 4, seed)
    for place, name in enumerate(ring):
        assert set(found[name]) == {ring[(place + step) % 7] for step in (1, 2, -1, -2)}
    assert found["a"] == ("b", "d", "e", "f")


def test_names_that_are_not_different_and_negative_degrees_are_mistakes() -> None:
    with pytest.raises(ValueError, match="must differ"):
        neighbours(["a", "b", "a"], 2, b"")
    with pytest.raises(ValueError, match="must not be negative"):
        neighbours(["a", "b", "c"], -1, b"")


def test_neighbours_as_they_are_drawn_know_a_secret_as_often_as_the_bound_says() -> None:
    """The real rings of 3 000 seeds, the same twelve of 70 sites colluding; the bound is 1 in 28."""
    everybody, colluding, shares = names(70), set(names(70)[::6]), 6
    failed = 0
    for draw in range(3000):
        found = neighbours(everybody, 8, draw.to_bytes(4, "big"))
        failed += any(len(colluding & set(near)) >= shares for name, near in found.items() if name not in colluding)
    bound = failure_log2(70, 8, shares, replace(NOBODY, colluding=12 / 70, chosen_by="chance"))
    low, high = stats.binomtest(failed, 3000).proportion_ci(1 - LEAST_P)
    assert low <= 2**bound <= 4 * high
    assert len(colluding) == 12
