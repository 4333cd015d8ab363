"""What of a header's value may be kept: rules that map any text to a closed vocabulary, a bounded number, or nothing.

Promises
- A rule is a function of one text. Whatever the text, the result is "" or a value that the rule ``admits``: a word of
  its vocabulary, a band, or a number within its bounds, rounded. No part of a text is ever passed on.
- Nothing raises. What cannot be understood is left out; what is understood but not in the vocabulary becomes "other".

Which attribute goes through which rule is left to ``deidentification``.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import date, timedelta

from shared.preprocessing.deidentification_terms import BODY_PARTS

OTHER = "other"
SEPARATOR = "+"
"""Between the words of an attribute that may hold several."""

# DS and IS of PS3.5 6.2, with room for the writers that pad beyond 16 characters. ``float`` alone takes more: "1_0".
_NUMBER = re.compile(r"[+-]?(\d{1,20}(\.\d{0,20})?|\.\d{1,20})([eE][+-]?\d{1,3})?", re.ASCII)
_AGE = re.compile(r"(\d{1,3})(?:\.\d+)?([YMWD]?)", re.ASCII)
# DA of PS3.5 6.2, and the form with dots of the standard's predecessor.
_DATE = re.compile(r"(\d{4})(\.?)(\d{2})\2(\d{2})", re.ASCII)
_ISO_DATE = re.compile(r"\d{4}-\d{2}-\d{2}", re.ASCII)
# Upper bounds and names of bands; five of them, so that a band of a small hospital still holds several people.
_BANDS = ((18, "0-17"), (40, "18-39"), (60, "40-59"), (80, "60-79"))
_OLDEST = "80+"

# In this order: the first whose name begins a word is taken. Names as manufacturers write them, and of firms they took
# over whose scanners still say so.
_VENDORS = (
    ("united-imaging", r"uih|united[ -]imaging"),
    ("siemens", r"siemens|acuson|healthineers"),
    ("philips", r"philips|picker international|adac"),
    ("canon", r"canon|toshiba"),
    ("fujifilm", r"fuji|sonosite"),
    ("hitachi", r"hitachi|aloka"),
    ("samsung", r"samsung|medison"),
    ("carestream", r"carestream|kodak|eastman"),
    ("konica-minolta", r"konica|minolta"),
    ("hologic", r"hologic|lorad"),
    *((name, name) for name in ("agfa", "esaote", "mindray", "shimadzu", "neusoft", "bruker", "hyperfine")),
    *((name, name) for name in ("supersonic", "varian", "elekta", "accuray", "zeiss", "topcon", "heidelberg")),
    ("ge", r"ge\b|gems\b|g\. ?e\.|general electric"),
)
_VENDOR_NAMES = tuple((name, re.compile(rf"\b(?:{pattern})", re.IGNORECASE)) for name, pattern in _VENDORS)
# What sites write into the agent to say that none was given.
_NO_AGENT = {"NONE", "NO", "N", "NIL", "0", "-", "WITHOUT", "W/O", "NATIVE"}


@dataclass(frozen=True, slots=True)
class Rule:
    """One way from a header's text to a value that says nothing about a person.

    Attributes:
        described: what comes out, for the documentation.
        read: the text, without padding, to a value; "" where there is none.
        admits: whether a value is one that ``read`` can give.
    """

    described: str
    read: Callable[[str], str] = field(repr=False)
    admits: Callable[[str], bool] = field(repr=False)


def words(known: Mapping[str, str], fallback: str = OTHER) -> Rule:
    """``known`` maps texts in capitals to words; any other text becomes ``fallback``, "" to leave it out."""
    found = {*known.values(), *((fallback,) if fallback else ())}
    return Rule(
        described=" ".join(
            f"`{word}`" for word in dict.fromkeys([*known.values(), *((fallback,) if fallback else ())])
        ),
        read=lambda text: known.get(text.upper(), fallback) if text else "",
        admits=found.__contains__,
    )


def several(rule: Rule) -> Rule:
    """Several values of ``rule``, in the order of the header; left out unless each of them can be kept."""

    def read(text: str) -> str:
        parts = [rule.read(part.strip()) for part in text.split("\\")]
        return SEPARATOR.join(parts) if all(parts) else ""

    return Rule(
        described=f"one or more of {rule.described}, joined by `{SEPARATOR}`",
        read=read,
        admits=lambda value: all(rule.admits(part) for part in value.split(SEPARATOR)),
    )


def number(lowest: float, highest: float, decimals: int) -> Rule:
    """A number from ``lowest`` to ``highest``, rounded to ``decimals``; anything else is left out."""

    def read(text: str) -> str:
        if not _NUMBER.fullmatch(text):
            return ""
        value = float(text)
        return f"{round(value, decimals):.10g}" if lowest <= value <= highest else ""

    digits = f"{decimals} decimal{'s' if decimals > 1 else ''}" if decimals else "an integer"
    return Rule(
        described=f"a number from {lowest:g} to {highest:g}, rounded to {digits}",
        read=read,
        admits=lambda value: value != "" and read(value) == value,
    )


def vendor() -> Rule:
    """The firm that built the scanner."""
    names = [name for name, _ in _VENDORS]

    def read(text: str) -> str:
        return next((name for name, pattern in _VENDOR_NAMES if pattern.search(text)), OTHER) if text else ""

    return Rule(" ".join(f"`{name}`" for name in sorted(names)) + f" `{OTHER}`", read, {*names, OTHER}.__contains__)


def body_part() -> Rule:
    """The part of the body, in the words of the standard."""
    rule = words({term: term.lower() for term in BODY_PARTS})
    said = f"one of {len(BODY_PARTS)} defined terms of PS3.16 Annex L in lower case, or `{OTHER}`"
    return Rule(said, rule.read, rule.admits)


def given() -> Rule:
    """Whether an agent was given: that one is named, not which."""
    known = dict.fromkeys(_NO_AGENT, "no")
    return Rule("`yes` `no`", words(known, fallback="yes").read, {"yes", "no"}.__contains__)


def age() -> Rule:
    """The band of an age."""
    bands = [*(band for _, band in _BANDS), _OLDEST]
    return Rule(" ".join(f"`{band}`" for band in bands), age_band, bands.__contains__)


def calendar_date() -> Rule:
    """A date, as year-month-day; to be moved before it is kept."""
    return Rule("the date, moved into the past by the patient's own number of days", iso_date, _is_iso_date)


def age_band(age: str) -> str:
    """Band of an age in years ("63", "63.5") or as DICOM writes it ("063Y", "010M"; PS3.5 6.2, AS); "" if neither.

    Exact ages identify people, above 89 by rule (45 CFR 164.514(b)(2)(i)(C)).
    """
    found = _AGE.fullmatch(age)
    if found is None:
        return ""
    years = int(found[1]) // {"M": 12, "W": 52, "D": 365}.get(found[2], 1)
    return next((band for above, band in _BANDS if years < above), _OLDEST)


def iso_date(text: str) -> str:
    """A DICOM date as year-month-day; "" where it is none."""
    found = _DATE.fullmatch(text)
    try:
        return date(int(found[1]), int(found[3]), int(found[4])).isoformat() if found else ""
    except ValueError:
        return ""


def moved(iso: str, days: int) -> str:
    """The date ``days`` before ``iso``; "" before the year 1."""
    try:
        return (date.fromisoformat(iso) - timedelta(days=days)).isoformat()
    except OverflowError:
        return ""


def _is_iso_date(value: str) -> bool:
    return _ISO_DATE.fullmatch(value) is not None and iso_date(value.replace("-", "")) == value
