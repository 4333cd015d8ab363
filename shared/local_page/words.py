"""Times, sizes and counts as people read them on a page, and how urgent a number is.

Promises
- A page that nothing happened on stays the same for a minute: ages are told in whole minutes.
- Urgency is a word and a sign, so that nobody needs to see a colour.
"""

from __future__ import annotations

from typing import Literal

Level = Literal["good", "warn", "bad", "off"]
"""All is well; somebody should look soon; somebody must act; nothing is known, or nothing is meant to run."""

FEW_DAYS, VERY_FEW_DAYS = 30, 7
LITTLE_DISK, TOO_LITTLE_DISK = 20 * 2**30, 2**30
_MINUTE, _HOUR, _DAY = 60, 3600, 86400
_UNITS = ("B", "KiB", "MiB", "GiB", "TiB")
_STEP = 1024
_LEAST_PLAIN = -3
_RAISED = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


def count(amount: int, noun: str) -> str:
    """``1 site``, ``3 sites``."""
    return f"{amount} {noun}" + "s" * (amount != 1)


def lasting(seconds: float) -> str:
    """How long something takes or took, in its largest whole unit."""
    for unit, noun in ((_DAY, "day"), (_HOUR, "hour"), (_MINUTE, "minute")):
        if seconds >= unit:
            return count(int(seconds // unit), noun)
    return "less than a minute"


def ago(seconds: float) -> str:
    """How long ago something was."""
    return f"{lasting(seconds)} ago"


def size(amount: int) -> str:
    """Bytes in binary units, with three digits at most."""
    value = float(amount)
    for unit in _UNITS[:-1]:
        if value < _STEP:
            return f"{value:.0f} {unit}" if unit == "B" or value >= 100 else f"{value:.1f} {unit}"
        value /= _STEP
    return f"{value:.1f} {_UNITS[-1]}"


def small(value: float) -> str:
    """A small number, as a power of ten where it is one; no line ends within it."""
    mantissa, _, power = f"{value:e}".partition("e")
    if value <= 0 or int(power) > _LEAST_PLAIN:
        return f"{value:g}"
    digits = f"{float(mantissa):g}"
    return (
        ("" if digits == "1" else f"{digits}\N{NO-BREAK SPACE}·\N{NO-BREAK SPACE}")
        + "10"
        + str(int(power)).translate(_RAISED)
    )


def days_level(days: int) -> Level:
    """How urgent it is that a certificate lasts ``days`` more."""
    return "bad" if days < VERY_FEW_DAYS else "warn" if days < FEW_DAYS else "good"


def days_sentence(days: int) -> str:
    """How long a certificate lasts."""
    return f"ended {count(-days, 'day')} ago" if days < 0 else f"{count(days, 'day')} left"


def disk_level(free: int) -> Level:
    """How urgent it is that ``free`` bytes are left."""
    return "bad" if free < TOO_LITTLE_DISK else "warn" if free < LITTLE_DISK else "good"


def listed(names: tuple[str, ...] | list[str]) -> str:
    """Names as a sentence has them."""
    return ", ".join(names[:-1]) + f" and {names[-1]}" if len(names) > 1 else "".join(names)
