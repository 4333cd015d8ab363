import hashlib
import math
from collections import Counter

from hypothesis import given, settings
from hypothesis import strategies as st

from client.data.cohort.manifest import SplitRule
from client.data.cohort.split import split_of


def rule(seed: int, train: float = 0.6, validation: float = 0.15) -> SplitRule:
    return SplitRule(seed, train, validation)


def splits(rule: SplitRule, site: str, patients: int) -> Counter[str]:
    return Counter(split_of(rule, site, f"{number:024x}") for number in range(patients))


def test_a_patient_is_where_the_hash_falls_among_the_shares() -> None:
    drawn = int(hashlib.sha256(b'consilium-split-1[7, "drive", "ab12"]').hexdigest()[:16], 16) / 2**64
    expected = "train" if drawn < 0.6 else "validation" if drawn < 0.75 else "test"
    assert split_of(rule(7), "drive", "ab12") == expected


def test_known_patients_stay_where_they_have_always_been() -> None:
    """Pinned: a change here moves patients of running studies between splits."""
    found = {name: split_of(rule(0), "site", name) for name in "abcdefghijkl"}
    assert {name for name in found if found[name] == "test"} == {"d", "f", "k"}
    assert {name for name in found if found[name] == "validation"} == {"j"}


def test_shares_hold_within_four_standard_deviations() -> None:
    n = 20_000
    for name, share in (("train", 0.6), ("validation", 0.15), ("test", 0.25)):
        assert abs(splits(rule(3), "a", n)[name] - n * share) < 4 * math.sqrt(n * share * (1 - share))


def test_a_wrong_share_would_be_seen_by_that_test() -> None:
    n, share = 20_000, 0.6
    assert abs(splits(rule(3, 0.58), "a", n)["train"] - n * share) > 4 * math.sqrt(n * share * (1 - share))


def test_another_seed_or_site_deals_anew() -> None:
    patients = [f"{number:024x}" for number in range(200)]
    base = [split_of(rule(0), "a", patient) for patient in patients]
    assert base != [split_of(rule(1), "a", patient) for patient in patients]
    assert base != [split_of(rule(0), "b", patient) for patient in patients]


def test_all_or_nobody_trains_at_the_ends_of_the_scale() -> None:
    assert splits(rule(0, 0.0, 0.0), "a", 300) == {"test": 300}
    assert splits(rule(0, 1.0, 0.0), "a", 300) == {"train": 300}


names = st.text("0123456789abcdef", min_size=1, max_size=24)


@given(st.integers(0, 2**63 - 1), names, st.sets(names, max_size=20), names)
@settings(max_examples=50)
def test_who_joins_moves_nobody(seed: int, site: str, patients: set[str], newcomer: str) -> None:
    before = {patient: split_of(rule(seed), site, patient) for patient in patients}
    after = {patient: split_of(rule(seed), site, patient) for patient in patients | {newcomer}}
    assert before.items() <= after.items()


@given(names, st.floats(0, 0.5), st.floats(0.001, 0.3))
@settings(max_examples=50)
def test_a_larger_share_of_training_takes_nobody_out_of_it(patient: str, share: float, more: float) -> None:
    if split_of(rule(0, share, 0.1), "a", patient) == "train":
        assert split_of(rule(0, share + more, 0.1), "a", patient) == "train"
