"""What a site may be called in a secure sum: judged once, as the papers judge, and never with a raw error."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from small_trust import code_of

from shared.errors import ConsiliumError
from shared.secure.names import require_name
from shared.secure.papers import Survivors
from shared.trust.documents import NAME

GOOD = ["a", "busbra_ge_logiq5", "St. Marys", "7-east", "_x", "Köln", "a" * 63, "a "]
BAD = {
    "none": "",
    "apostrophe": "St. Mary's",
    "folder": "north/1",
    "above": "..",
    "hidden": ".north",
    "hyphen": "-north",
    "space": " north",
    "long": "a" * 64,
    "line": "north\n",
    "bracket": "north (old)",
    "tab": "a\tb",
    "nul": "a\0b",
    "half": "\ud800",
}


def is_good(name: str) -> bool:
    try:
        require_name(name)
    except ConsiliumError:
        return False
    return True


def stands_in_a_paper(name: str) -> bool:
    """What the papers themselves say, which is another way round than ``require_name``."""
    try:
        Survivors(survivors=(name,), signatures={})
    except ValueError:
        return False
    return True


@pytest.mark.parametrize("name", GOOD)
def test_a_name_that_papers_take_is_taken(name: str) -> None:
    assert (is_good(name), stands_in_a_paper(name)) == (True, True)


@pytest.mark.parametrize("name", BAD.values(), ids=BAD)
def test_a_name_that_papers_refuse_is_refused_in_one_sentence(name: str) -> None:
    assert not stands_in_a_paper(name)
    assert code_of(lambda: require_name(name)) == "site-name"


@given(st.text(max_size=70))
def test_names_are_judged_as_the_papers_judge_them(name: str) -> None:
    assert is_good(name) == stands_in_a_paper(name)


@given(st.from_regex(re.compile(NAME, re.ASCII), fullmatch=True))
def test_every_name_of_a_roster_may_take_part(name: str) -> None:
    assert is_good(name)


@given(st.text(alphabet="\n\r'\"/!?", min_size=1, max_size=400))
def test_a_refusal_says_how_long_the_name_is_and_where_it_stands_and_repeats_none_of_it(name: str) -> None:
    with pytest.raises(ConsiliumError) as caught:
        require_name(name, "the third name")
    expected = f"the third name, of {len(name)} characters, is none that can stand in a secure sum"
    assert caught.value.sentence == expected
