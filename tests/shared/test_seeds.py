"""Randomness is an argument: one stream for each purpose, the same everywhere."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from shared.seeds import derive, generator

GOLDEN = [157, 490, 52]
NAMES = st.lists(st.text(max_size=5) | st.integers(0, 99), max_size=3)


def test_the_stream_of_a_purpose_is_fixed_for_ever() -> None:
    """A golden value: whoever changes it changes every simulation ever published."""
    assert derive(7, "train", "drive", 3) == 0xB1569EA5D35DBE8909C231C9D96E5228
    assert generator(7, "train", "drive", 3).integers(0, 1000, 3).tolist() == GOLDEN


@given(st.integers(0, 2**63), NAMES, NAMES)
def test_different_purposes_have_different_seeds(seed: int, one: list[str | int], other: list[str | int]) -> None:
    assert (derive(seed, *one) == derive(seed, *other)) == (list(map(repr, one)) == list(map(repr, other)))


def test_joining_names_differently_is_a_different_purpose() -> None:
    assert derive(7, "ab", "c") != derive(7, "a", "bc")
    assert derive(7, "1") != derive(7, 1)


def test_streams_of_two_sites_are_uncorrelated() -> None:
    one, other = (generator(7, "train", site, 1).standard_normal(20_000) for site in ("drive", "stare"))
    assert abs(np.corrcoef(one, other)[0, 1]) < 0.03
