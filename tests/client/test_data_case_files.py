import hashlib
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydicom.uid import UID

from client.data.case_files import CaseFiles, Salt, age_band, subgroup
from shared.errors import SiteDataError

SECRET = b"0123456789abcdef0123456789abcdef"
SALT = Salt("drive", SECRET)


def hmac_by_hand(secret: bytes, message: bytes) -> str:
    """RFC 2104, section 2, written out: the oracle for the library's HMAC."""
    padded = secret.ljust(64, b"\0")
    inner = hashlib.sha256(bytes(byte ^ 0x36 for byte in padded) + message).digest()
    return hashlib.sha256(bytes(byte ^ 0x5C for byte in padded) + inner).hexdigest()


def test_a_name_is_the_hmac_of_its_kind_site_and_identifiers() -> None:
    message = json.dumps(["person", "drive", "g", "06"]).encode()
    assert SALT.person("g", "06") == hmac_by_hand(SECRET, message)[:24]


def test_a_name_is_24_hexadecimal_digits() -> None:
    assert len(SALT.case("x")) == 24
    assert set(SALT.case("x")) <= set("0123456789abcdef")


def test_the_same_identifier_gets_another_name_at_another_site_and_under_another_secret() -> None:
    names = {SALT.person("7"), Salt("stare", SECRET).person("7"), Salt("drive", SECRET[::-1]).person("7")}
    assert len(names) == 3


def test_an_image_a_person_and_an_unnamed_person_of_one_identifier_have_different_names() -> None:
    assert len({SALT.case("7"), SALT.person("7"), SALT.unnamed_person("7")}) == 3


def test_blanks_around_an_identifier_make_no_second_person() -> None:
    assert SALT.person(" 7 ") == SALT.person("7")


stripped = st.lists(st.text(max_size=5).map(str.strip), min_size=1, max_size=3)


@given(stripped, stripped)
def test_different_identifiers_never_share_a_name(first: list[str], second: list[str]) -> None:
    assert (SALT.person(*first) == SALT.person(*second)) == (first == second)


def test_columns_do_not_run_into_each_other() -> None:
    assert SALT.person("1", "23") != SALT.person("12", "3")


def test_an_alias_depends_on_what_it_was_made_from() -> None:
    names = {SALT.alias("id", "7"), SALT.alias("birth", "7"), SALT.alias("id", "8"), SALT.person("7"), SALT.case("7")}
    assert len(names) == 5


@given(st.text(min_size=1, max_size=64))
def test_a_uid_becomes_a_valid_one_that_stands_for_it_everywhere(uid: str) -> None:
    made = SALT.uid(uid)
    assert UID(made).is_valid
    assert made.startswith("2.25.")
    assert made == SALT.uid(uid) != Salt("stare", SECRET).uid(uid)


@given(st.text(max_size=24))
def test_dates_of_a_patient_move_by_a_day_to_ten_years(patient: str) -> None:
    assert 1 <= SALT.days(patient) <= 3653
    assert SALT.days(patient) == SALT.days(patient)


def test_patients_move_by_different_numbers_of_days_over_the_whole_range() -> None:
    """Of 2,000 uniform draws, the mean lies within 5 standard errors (23.6 days) of 1827."""
    days = [SALT.days(str(number)) for number in range(2000)]
    assert abs(sum(days) / 2000 - 1827) < 5 * 23.6
    assert len(set(days)) > 1400


@pytest.mark.parametrize("secret", [b"", b"short", b"fifteen bytes.."])
def test_a_secret_that_could_be_guessed_is_refused(secret: bytes) -> None:
    with pytest.raises(SiteDataError, match=f"{len(secret)} bytes") as caught:
        Salt("drive", secret)
    assert caught.value.code == "secret-short"


def test_neither_the_secret_nor_a_path_shows_in_a_repr() -> None:
    files = CaseFiles("c", "p", (Path("Doe^Jane/1.dcm"),), Path("Doe^Jane/mask.nii"))
    assert "Doe" not in repr(files)
    assert "0123" not in repr(SALT)


@pytest.mark.parametrize(
    ("age", "band"),
    [
        ("0", "0-17"),
        ("17", "0-17"),
        ("18", "18-39"),
        ("39.9", "18-39"),
        ("40", "40-59"),
        ("59", "40-59"),
        ("60", "60-79"),
        ("80", "80+"),
        ("104", "80+"),
        ("063Y", "60-79"),
        ("010M", "0-17"),
        ("240M", "18-39"),
        ("012W", "0-17"),
        ("003D", "0-17"),
        ("", ""),
        ("unknown", ""),
        ("-4", ""),
    ],
)
def test_an_age_becomes_the_band_it_lies_in(age: str, band: str) -> None:
    assert age_band(age) == band


def test_only_ages_are_banded_and_an_empty_value_is_unknown() -> None:
    assert subgroup("age", "63") == ("age", "60-79")
    assert subgroup("age", "?") == ("age", "unknown")
    assert subgroup("device", " GE ") == ("device", "GE")
    assert subgroup("sex", "") == ("sex", "unknown")
