"""What a rehearsal says at its end: who was in which round, and what became of the site that died."""

from pathlib import Path

from simulations.rehearsal.rehearse import DIES_IN, Rehearsed
from simulations.rehearsal.shown import shown

ALL = ("east", "north", "south")


def said(*rounds: tuple[str, ...]) -> list[str]:
    found = Rehearsed(Path("run"), "south", rounds, ("dice", 0.5), {"east": 1.0}, {"east": 7}, 12.0)
    return list(shown(found))


def test_a_site_that_died_between_mask_and_sum_counts_and_the_line_says_so() -> None:
    lines = said(ALL, ALL, ALL)
    assert lines[DIES_IN - 1] == (
        "round 2: east, north, south; south was killed before the sum was unmasked, and its update counts"
    )
    assert [line for line in lines[:3] if "killed" in line] == [lines[DIES_IN - 1]]


def test_a_round_without_it_is_named_too() -> None:
    assert said(ALL, ALL, ALL[:2])[2] == "round 3: east, north; south had been killed"


def test_a_number_that_could_not_be_had_is_no_number() -> None:
    found = Rehearsed(Path("run"), "south", (ALL,), ("dice", None), {}, {}, 12.0)
    assert "dice on test patients: undetermined, with noise" in list(shown(found))
