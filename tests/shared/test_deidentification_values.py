"""The rules behind the allow-list: what each can give, and that it can give nothing else."""

import math
import re
import string
from datetime import date

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydicom.uid import UID

from shared.preprocessing.deidentification import DATES, KEPT
from shared.preprocessing.deidentification_terms import (
    BODY_PARTS,
    PHOTOMETRIC,
    SCANNING_SEQUENCES,
    TRANSFER_SYNTAXES,
    VIEW_POSITIONS,
)
from shared.preprocessing.deidentification_values import (
    OTHER,
    Rule,
    age_band,
    iso_date,
    moved,
    number,
    several,
    words,
)

RULES = [pytest.param(row.rule, id=row.attribute) for row in (*KEPT, *DATES)]
VOCABULARY = words({"RED": "red", "GREEN": "green"})
STRICT = words({"RED": "red", "GREEN": "green"}, "")


# --- all rules -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rule", RULES)
@given(text=st.text(max_size=80))
def test_a_rule_gives_nothing_or_what_it_admits(rule: Rule, text: str) -> None:
    value = rule.read(text)
    assert isinstance(value, str)
    assert value == "" or rule.admits(value)


@pytest.mark.parametrize("rule", RULES)
def test_a_rule_gives_nothing_for_nothing_and_does_not_admit_nothing(rule: Rule) -> None:
    assert rule.read("") == ""
    assert not rule.admits("")


@pytest.mark.parametrize("rule", RULES)
@given(text=st.text(string.ascii_letters + " ", min_size=4, max_size=30))
def test_letters_of_a_text_are_never_passed_on(rule: Rule, text: str) -> None:
    """What comes out of letters is a word that the description of the rule names, or a defined body part."""
    named = {*re.findall(r"`([^`]+)`", rule.described), *(part.lower() for part in BODY_PARTS), ""}
    assert set(rule.read(text).split("+")) <= named


@pytest.mark.parametrize("rule", RULES)
def test_a_rule_says_what_comes_out(rule: Rule) -> None:
    assert len(rule.described) > 6
    assert "|" not in rule.described


# --- vocabularies ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("text", "value"), [("RED", "red"), ("green", "green"), ("BLUE", OTHER), ("", "")])
def test_a_vocabulary_knows_its_words_and_calls_all_else_other(text: str, value: str) -> None:
    assert VOCABULARY.read(text) == value


@pytest.mark.parametrize(("text", "value"), [("RED", "red"), ("BLUE", ""), ("REDDISH", ""), ("RED GREEN", "")])
def test_a_strict_vocabulary_leaves_all_else_out(text: str, value: str) -> None:
    assert STRICT.read(text) == value
    assert not STRICT.admits(OTHER)


@pytest.mark.parametrize(
    ("text", "value"),
    [("RED", "red"), ("RED\\GREEN", "red+green"), (" RED \\ GREEN ", "red+green"), ("RED\\BLUE", ""), ("\\RED", "")],
)
def test_several_words_are_kept_together_or_not_at_all(text: str, value: str) -> None:
    assert several(STRICT).read(text) == value


def test_the_words_of_the_standard_are_code_strings() -> None:
    """CS of PS3.5 6.2: capitals, digits, space and underscore, at most 16 of them."""
    for word in (*BODY_PARTS, *SCANNING_SEQUENCES, *VIEW_POSITIONS, *PHOTOMETRIC):
        assert set(word) <= set(string.ascii_uppercase + string.digits + " _")
        assert 0 < len(word) <= 16


def test_no_two_words_become_one() -> None:
    for vocabulary in (SCANNING_SEQUENCES, VIEW_POSITIONS, PHOTOMETRIC, TRANSFER_SYNTAXES):
        assert len(set(vocabulary.values())) == len(vocabulary)
        assert OTHER not in vocabulary.values()


def test_the_transfer_syntaxes_are_those_that_the_dictionary_calls_so() -> None:
    """The oracle is pydicom's table of PS3.6 A-1: lossless ones are called lossless there."""
    # Deflated Image Frame Compression is younger than the table.
    known = {uid: name for uid, name in TRANSFER_SYNTAXES.items() if name != "deflated-frames"}
    assert all(UID(uid).is_transfer_syntax for uid in known)
    for uid, name in known.items():
        if UID(uid).is_compressed and "lossless" in name:
            assert "Lossless" in UID(uid).name
        assert (name == "explicit-be") == ("Big Endian" in UID(uid).name)


# --- numbers ---------------------------------------------------------------------------------------------------------


@given(st.floats(0, 100, allow_subnormal=False), st.integers(0, 3))
def test_a_number_is_rounded_and_not_changed_otherwise(value: float, decimals: int) -> None:
    kept = number(0, 100, decimals).read(f"{value:.12f}"[:16])
    assert math.isclose(float(kept), value, abs_tol=0.5 * 10**-decimals + 1e-9)
    assert len(kept.partition(".")[2]) <= decimals


@pytest.mark.parametrize(
    "text", ["-0.1", "100.1", "1e3", "nan", "inf", "-inf", "0x10", "1,5", "1 5", "٣", "1_0", "--1"]
)
def test_what_is_no_number_within_the_bounds_is_left_out(text: str) -> None:
    assert number(0, 100, 2).read(text) == ""


@pytest.mark.parametrize(("text", "value"), [("+5", "5"), ("5.", "5"), (".5", "0.5"), ("1.5E+1", "15"), ("100", "100")])
def test_the_forms_of_a_decimal_string_are_understood(text: str, value: str) -> None:
    assert number(0, 100, 2).read(text) == value


def test_a_long_run_of_digits_is_no_number() -> None:
    """A patient's number in the wrong element must not pass as a measurement."""
    assert number(0, 1e30, 0).read("1" * 21) == ""


# --- ages and dates --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("age", "band"),
    [
        *(("000Y", "0-17"), ("017Y", "0-17"), ("018Y", "18-39"), ("039Y", "18-39"), ("040Y", "40-59")),
        *(("059Y", "40-59"), ("060Y", "60-79"), ("079Y", "60-79"), ("080Y", "80+"), ("103Y", "80+")),
        *(("240M", "18-39"), ("010M", "0-17"), ("900D", "0-17"), ("52", "40-59"), ("63.5", "60-79")),
        *(("", ""), ("Y", ""), ("63 Y", ""), ("1963Y", ""), ("063y", ""), ("-05Y", "")),
    ],
)
def test_an_age_becomes_a_band(age: str, band: str) -> None:
    assert age_band(age) == band


@given(st.integers(90, 130))
def test_nobody_above_89_is_told_from_an_eighty_year_old(years: int) -> None:
    assert age_band(f"{years:03d}Y") == age_band("080Y")


@given(st.dates())
def test_dates_of_the_standard_and_of_its_predecessor_are_read(day: date) -> None:
    assert iso_date(f"{day.year:04d}{day:%m%d}") == day.isoformat()
    assert iso_date(f"{day.year:04d}.{day:%m.%d}") == day.isoformat()


@given(st.text(string.digits + ".-/ ", max_size=12))
def test_what_is_read_as_a_date_is_one(text: str) -> None:
    iso = iso_date(text)
    assert iso == "" or date.fromisoformat(iso).strftime("%m%d") == text.replace(".", "")[4:]


def test_a_date_before_the_year_1_is_left_out() -> None:
    assert moved("0001-01-02", 1) == "0001-01-01"
    assert moved("0001-01-02", 2) == ""
