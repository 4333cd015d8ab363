"""Hours: the oracle walks every window minute by minute, on a wall clock computed from the law and not by a library."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any
from zoneinfo import available_timezones

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from client.governance.hours import DAYS, Hours, Window

WEEK = 7 * 24 * 60
MONDAY = datetime(2025, 3, 3)
NIGHTS: dict[str, Any] = {"days": ("mon", "tue", "wed", "thu", "fri"), "start": "19:00", "end": "06:30"}

if "Europe/Berlin" not in available_timezones():
    pytest.skip("this machine has no time zone database", allow_module_level=True)


# --- the oracle ------------------------------------------------------------------------------------------------------


def sunday(year: int, month: int, which: int) -> datetime:
    """The first (0), second (1) or last (-1) Sunday of a month, found by counting days."""
    days = [datetime(year, month, 1) + timedelta(days) for days in range(31)]
    return [day for day in days if day.month == month and day.weekday() == 6][which]


def berlin(at: datetime) -> datetime:
    """Directive 2000/84/EC: summer time from the last Sunday of March to that of October, at 01:00 UTC."""
    summer = sunday(at.year, 3, -1) + timedelta(hours=1) <= at < sunday(at.year, 10, -1) + timedelta(hours=1)
    return at + timedelta(hours=2 if summer else 1)


def new_york(at: datetime) -> datetime:
    """15 USC 260a: from the second Sunday of March to the first of November, at 2 by the clock that ends."""
    summer = sunday(at.year, 3, 1) + timedelta(hours=7) <= at < sunday(at.year, 11, 0) + timedelta(hours=6)
    return at - timedelta(hours=4 if summer else 5)


CLOCKS: dict[str, Callable[[datetime], datetime]] = {
    "UTC": lambda at: at,
    "Asia/Kolkata": lambda at: at + timedelta(hours=5, minutes=30),
    "Europe/Berlin": berlin,
    "America/New_York": new_york,
}
"""A zone's wall clock, from a time in UTC that says no zone."""


def minutes_of_the_week(windows: list[dict[str, Any]]) -> set[int]:
    """Minutes since Monday 00:00 that some window holds: from each start on, until the clock reads the end."""
    found = set()
    for window in windows:
        for day in window["days"]:
            minute = DAYS.index(day) * 24 * 60 + clock(window["start"])
            while True:
                found.add(minute % WEEK)
                minute += 1
                if minute % (24 * 60) == clock(window["end"]) % (24 * 60):
                    break
    return found


def clock(text: str) -> int:
    return int(text[:2]) * 60 + int(text[3:])


def text_of(minute: int) -> str:
    return f"{minute // 60:02}:{minute % 60:02}"


def minute_of_week(wall: datetime) -> int:
    return (wall.weekday() * 24 + wall.hour) * 60 + wall.minute


# --- against the oracle ----------------------------------------------------------------------------------------------


@st.composite
def windows(draw: st.DrawFn) -> dict[str, Any]:
    start = draw(st.integers(0, 24 * 60 - 1))
    end = draw(st.integers(0, 24 * 60).filter(lambda end: end != start))
    days = draw(st.lists(st.sampled_from(DAYS), min_size=1, max_size=7, unique=True))
    return {"days": tuple(days), "start": text_of(start), "end": text_of(end)}


def changes() -> list[datetime]:
    """Times in UTC at which one of the clocks is set."""
    years = range(2024, 2031)
    europe = [sunday(year, month, -1) + timedelta(hours=1) for year in years for month in (3, 10)]
    america = [sunday(year, 3, 1) + timedelta(hours=7) for year in years]
    return europe + america + [sunday(year, 11, 0) + timedelta(hours=6) for year in years]


moments = st.one_of(
    st.datetimes(datetime(2024, 1, 1), datetime(2030, 12, 31)),
    st.builds(
        lambda change, seconds: change + timedelta(seconds=seconds),
        st.sampled_from(changes()),
        st.integers(-30 * 3600, 30 * 3600),
    ),
)


@given(st.lists(windows(), min_size=1, max_size=4), moments, st.sampled_from(sorted(CLOCKS)))
def test_a_time_is_permitted_exactly_when_the_wall_clock_shows_a_minute_of_a_window(
    said: list[dict[str, Any]], at: datetime, zone: str
) -> None:
    hours = Hours.model_validate({"zone": zone, "windows": said})
    expected = minute_of_week(CLOCKS[zone](at)) in minutes_of_the_week(said)
    assert hours.open_at(at.replace(tzinfo=UTC)) == expected


@pytest.mark.parametrize("zone", sorted(CLOCKS))
def test_every_minute_of_the_weeks_with_a_change_of_the_clock_agrees_with_the_oracle(zone: str) -> None:
    said = [NIGHTS, {"days": ("sat", "sun"), "start": "01:15", "end": "02:45"}]
    hours, expected = Hours.model_validate({"zone": zone, "windows": said}), minutes_of_the_week(said)
    for first in (datetime(2025, 3, 28), datetime(2025, 10, 24)):
        for minute in range(4 * 24 * 60):
            at = first + timedelta(minutes=minute)
            assert hours.open_at(at.replace(tzinfo=UTC)) == (minute_of_week(CLOCKS[zone](at)) in expected), at


def test_the_oracle_s_clocks_differ_in_summer_and_winter() -> None:
    """The control: were the changes missed, the tests above would say nothing about them."""
    for clock_of in (berlin, new_york):
        assert clock_of(datetime(2025, 7, 1)) - datetime(2025, 7, 1) != clock_of(MONDAY) - MONDAY


# --- what that means -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("first", "minutes"),
    [
        (datetime(2025, 3, 15, 12), 8 * 60),
        (datetime(2025, 3, 29, 12), 7 * 60),
        (datetime(2025, 10, 25, 12), 9 * 60),
    ],
    ids=["usual", "spring", "autumn"],
)
def test_a_night_is_an_hour_shorter_in_spring_and_an_hour_longer_in_autumn(first: datetime, minutes: int) -> None:
    hours = Hours(zone="Europe/Berlin", windows=(Window(days=("sat",), start="22:00", end="06:00"),))
    day = (first.replace(tzinfo=UTC) + timedelta(minutes=minute) for minute in range(24 * 60))
    assert sum(map(hours.open_at, day)) == minutes


def at(text: str, day: str = "mon") -> datetime:
    moment = MONDAY + timedelta(days=list(DAYS).index(day), minutes=clock(text[:5]))
    return moment.replace(tzinfo=UTC) + timedelta(seconds=int(text[6:] or 0))


@pytest.mark.parametrize(
    ("day", "time", "said"),
    [
        ("mon", "18:59:59", "refuses"),
        ("mon", "19:00", "permits"),
        ("mon", "23:59:59", "permits"),
        ("tue", "00:00", "permits"),
        ("tue", "06:29:59", "permits"),
        ("tue", "06:30", "refuses"),
        ("mon", "06:00", "refuses"),
        ("sat", "06:00", "permits"),
        ("sat", "19:00", "refuses"),
        ("sun", "03:00", "refuses"),
    ],
)
def test_a_window_past_midnight_belongs_to_the_day_it_starts_on(day: str, time: str, said: str) -> None:
    """Monday's early morning would be Sunday's night, which is not named; Saturday's is Friday's, which is."""
    assert Hours(windows=(Window(**NIGHTS),)).open_at(at(time, day)) == (said == "permits")


def test_sunday_night_reaches_into_monday() -> None:
    hours = Hours(windows=(Window(days=("sun",), start="22:00", end="02:00"),))
    assert hours.open_at(at("01:59", "mon"))
    assert not hours.open_at(at("01:59", "tue"))


def test_without_windows_any_time_is_permitted() -> None:
    assert all(Hours().open_at(at(time, day)) for day in DAYS for time in ("00:00", "12:00", "23:59:59"))


def test_the_whole_day_is_from_midnight_to_24_00_and_no_other_day() -> None:
    hours = Hours(windows=(Window(days=("sat",), start="00:00", end="24:00"),))
    assert [day for day in DAYS for time in ("00:00", "23:59:59") if hours.open_at(at(time, day))] == ["sat", "sat"]


def test_a_window_without_days_is_every_day_s() -> None:
    hours = Hours(windows=(Window(start="12:00", end="12:01"),))
    assert all(hours.open_at(at("12:00:30", day)) and not hours.open_at(at("12:01", day)) for day in DAYS)


def test_the_zone_a_time_is_given_in_does_not_matter() -> None:
    hours = Hours(zone="Asia/Kolkata", windows=(Window(start="12:00", end="13:00"),))
    noon = datetime.fromisoformat("2025-03-03T12:30+05:30")
    assert hours.open_at(noon)
    assert hours.open_at(noon.astimezone(UTC))
    assert not hours.open_at(noon.replace(tzinfo=UTC))


def test_a_time_without_a_zone_is_refused_and_not_guessed() -> None:
    with pytest.raises(ValueError, match="without a zone"):
        Hours().local(MONDAY)
    with pytest.raises(ValueError, match="without a zone"):
        Hours().open_at(MONDAY)


# --- what is wrong ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "said",
    [
        {"start": "24:00", "end": "06:00"},
        {"start": "7:00", "end": "08:00"},
        {"start": "07:60", "end": "08:00"},
        {"start": "07:00\n", "end": "08:00"},
        {"start": "07:00", "end": "24:01"},
        {"start": "07:00", "end": "07:00"},
        {"start": "07:00"},
        {"end": "07:00"},
        {"days": [], "start": "07:00", "end": "08:00"},
        {"days": ["monday"], "start": "07:00", "end": "08:00"},
        {"days": "mon", "start": "07:00", "end": "08:00"},
        {"start": "07:00", "end": "08:00", "zone": "UTC"},
    ],
    ids=str,
)
def test_a_window_that_nobody_can_read_is_refused(said: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        Window.model_validate(said)


@pytest.mark.parametrize("zone", ["Europe/Berln", "", "Mars", "Europe", "/etc/localtime", "../UTC", "a" * 300, "Ä"])
def test_a_zone_that_this_machine_does_not_know_is_refused(zone: str) -> None:
    with pytest.raises(ValidationError, match="is no time zone known to this machine"):
        Hours(zone=zone)


def test_a_misspelt_zone_is_answered_with_the_nearest() -> None:
    with pytest.raises(ValidationError, match=r"did you mean Europe/Berlin\?"):
        Hours(zone="Europe/Berln")


@pytest.mark.parametrize(
    ("days", "shown"),
    [
        (("mon", "tue", "wed", "thu", "fri"), "mon-fri"),
        (("sun", "sat"), "sat sun"),
        (("mon", "wed", "thu", "fri", "sun"), "mon wed-fri sun"),
        (DAYS, "mon-sun"),
        (("tue",), "tue"),
    ],
    ids=["week", "weekend", "mixed", "all", "one"],
)
def test_people_read_a_window_as_they_would_write_it(days: tuple[Any, ...], shown: str) -> None:
    assert str(Window(days=days, start="19:00", end="06:30")) == f"{shown} 19:00-06:30"
