"""When a hospital permits training: weekdays and times of day, in its own time zone.

Promises
- A window is what the clock on the hospital's wall shows: from ``start``, included, to ``end``, excluded, on the days
  named. An end that is not later than the start is on the next day; the window belongs to the day that it starts on.
- No window at all permits any time.
- What is wrong with a window or a zone is found when the policy is read.

==================================  ===================================================================================
the clock is set forward            wall times that do not happen are no time; the window is shorter by them
the clock is set back               wall times that happen twice are permitted, or not, both times
``start = "00:00"``, ``end = "24:00"``  the whole day
``start = end``                     refused: nobody can tell whether it is the whole day or nothing
==================================  ===================================================================================

Zones and their changes are those of the IANA time zone database of this machine (``zoneinfo``).
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from datetime import UTC, datetime, tzinfo
from typing import Annotated, Literal, get_args
from zoneinfo import ZoneInfo, available_timezones

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

Day = Literal["mon", "tue", "wed", "thu", "fri", "sat", "sun"]
DAYS: tuple[Day, ...] = get_args(Day)
_TIME = r"^([01][0-9]|2[0-3]):[0-5][0-9]$"
_END = r"^(([01][0-9]|2[0-3]):[0-5][0-9]|24:00)$"


class Window(BaseModel):
    """An entry of ``[hours] windows``: from ``start`` to ``end``, "HH:MM", on each of ``days``."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    days: Annotated[tuple[Day, ...], Field(min_length=1)] = DAYS
    start: Annotated[str, Field(pattern=_TIME)]
    end: Annotated[str, Field(pattern=_END)]

    @model_validator(mode="after")
    def _has_a_length(self) -> Window:
        if self.start == self.end:
            raise ValueError(f'start and end are both {self.start}: the whole day is from "00:00" to "24:00"')
        return self

    def holds(self, day: int, minute: int) -> bool:
        """Whether ``minute`` (since midnight) of ``day`` (0 for Monday) lies in this window."""
        start, end = _minutes(self.start), _minutes(self.end)
        begins_today, began_yesterday = DAYS[day] in self.days, DAYS[day - 1] in self.days
        if start < end:
            return begins_today and start <= minute < end
        return (begins_today and minute >= start) or (began_yesterday and minute < end)

    def __str__(self) -> str:
        return f"{' '.join(_runs(self.days))} {self.start}-{self.end}"


class Hours(BaseModel):
    """``[hours]``: when this hospital trains."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    zone: str = "UTC"
    windows: tuple[Window, ...] = ()

    @field_validator("zone")
    @classmethod
    def _is_known(cls, name: str) -> str:
        try:
            _zone(name)
        except (KeyError, ValueError, OSError):
            near = difflib.get_close_matches(name, sorted(available_timezones()), n=1)
            example = f"did you mean {near[0]}?" if near else "write it like Europe/Berlin"
            raise ValueError(f"{name[:40]!r} is no time zone known to this machine; {example}") from None
        return name

    def local(self, at: datetime) -> datetime:
        """``at`` as the hospital's clock shows it; raises ``ValueError`` for a time without a zone."""
        if at.tzinfo is None:
            raise ValueError("a time without a zone cannot be compared with a hospital's hours")
        return at.astimezone(_zone(self.zone))

    def open_at(self, at: datetime) -> bool:
        """Whether training is permitted at ``at``, a time with a zone."""
        shown = self.local(at)
        minute = 60 * shown.hour + shown.minute
        return not self.windows or any(window.holds(shown.weekday(), minute) for window in self.windows)


def _zone(name: str) -> tzinfo:
    # A machine without a time zone database still knows UTC.
    return UTC if name == "UTC" else ZoneInfo(name)


def _minutes(time: str) -> int:
    hours, _, minutes = time.partition(":")
    return 60 * int(hours) + int(minutes)


def _runs(days: tuple[Day, ...]) -> Iterator[str]:
    """Days in the order of the week; three or more that follow each other as "mon-fri"."""
    runs: list[list[Day]] = []
    for place, day in enumerate(DAYS):
        if day in days:
            if place and DAYS[place - 1] in days:
                runs[-1].append(day)
            else:
                runs.append([day])
    for run in runs:
        yield f"{run[0]}-{run[-1]}" if len(run) > 2 else " ".join(run)
