"""A second look, independent of the first: does anything that is kept repeat what a header says about a person?

De-identification keeps what it knows to be harmless. Here the question is put the other way round: the identifying
values themselves are taken from the header and looked for in what is about to be kept, and in files that were written.

Promises
- ``require_clean`` raises before a record is kept. Its error names the field, never the value.
- ``scan`` looks at every byte of every file below a folder and at its name, for values in UTF-8, Latin-1 and UTF-16, in
  any case. It changes nothing and follows no links.

Limits
- Values of fewer than four bytes (in UTF-8) are not looked for: they occur by chance. In binary files those of fewer
  than six are not, for the same reason: four given bytes stand somewhere in most gigabytes.
- A value cut by a compressor, encrypted, or spelt otherwise is not found.
- Placeholders ("unknown", "anonymous", "0000") name nobody and are not looked for.
"""

from __future__ import annotations

import re
import warnings
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, MutableSequence, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset

from shared.errors import CaseError
from shared.preprocessing.deidentification import is_admissible
from shared.preprocessing.deidentification_kinds import kind_of
from shared.preprocessing.deidentification_values import iso_date

SHORTEST = 4
"""Bytes, in UTF-8, of the shortest value that is looked for."""
SHORTEST_IN_BINARY = 6

_KINDS = {
    *("patient-name", "other-person-names", "patient-id", "birth-date", "dates", "accession", "uids", "addresses"),
    *("institution", "device"),
}
_TEXTS = {"PN", "LO", "SH", "ST", "LT", "UT", "UC", "UR", "AE", "UI", "DA", "DT", "UN"}
_NAMES = {"PN"}
_DATES = {"DA", "DT"}
# UIDs that the standard itself assigns say what a file is, not whose.
_STANDARD_UIDS = "1.2.840.10008."
_NAME_PARTS = re.compile(r"[\^=\s,;.()/\\]+")
_PLACEHOLDERS = {
    *("unknown", "anonymous", "anonymized", "anonymised", "anon", "none", "null", "name", "patient", "person", "test"),
    *("phantom", "removed", "redacted", "deidentified", "de-identified", "other", "unnamed", "not available"),
}
_BLOCK = 1 << 22
_PREFIX = 4
# Knuth's multiplicative hash of four bytes, to 22 bits: a table of 4 MiB tells almost all places apart.
_MULTIPLIER, _SHIFT = np.uint32(2_654_435_761), np.uint32(10)
_TABLE = 1 << 22
_TEXT_SAMPLE = 8192
_UTF16_MARKS = (b"\xff\xfe", b"\xfe\xff")


def identifying_values(dataset: Dataset) -> frozenset[str]:
    """Identifying values of a header, nested ones included: parts of names, identifiers, dates, addresses, UIDs."""
    with warnings.catch_warnings():
        # A library's warning quotes the value that it warns of.
        warnings.simplefilter("ignore")
        found = {
            spelling
            for element in _elements(dataset)
            for text in _texts(element.value)
            for spelling in _spellings(element.VR, text)
        }
    return frozenset(text for text in found if _is_telling(text))


def require_clean(
    label: str | None,
    subgroups: Sequence[tuple[str, str]],
    acquisition: Sequence[tuple[str, str]],
    values: Collection[str],
) -> None:
    """Refuse to keep what a header's identifying ``values`` occur in, or what no rule of the allow-list gives.

    Raises:
        CaseError: "leak".
    """
    for attribute, value in acquisition:
        if not is_admissible(attribute, value):
            raise _leak("an attribute of the acquisition holds what no rule of the allow-list gives")
    folded = [value.casefold() for value in values]
    if label is not None and _occurs(folded, label):
        raise _leak("the label repeats an identifying value of the image's header")
    for number, (_, value) in enumerate(subgroups, start=1):
        if _occurs(folded, value):
            raise _leak(f"subgroup {number} of {len(subgroups)} repeats an identifying value of the image's header")


def scan(folder: Path, values: Collection[str]) -> list[tuple[Path, str]]:
    """Files below ``folder`` that hold one of ``values``: (path below it, "utf-8", "latin-1", "utf-16" or "name").

    Raises:
        OSError: a file cannot be read.
    """
    wanted = [value for value in values if _size(value) >= SHORTEST]
    needles, folded = _Needles(wanted), [value.casefold() for value in wanted]
    found = set()
    for path in sorted(path for path in folder.rglob("*") if path.is_file() and not path.is_symlink()):
        name = path.relative_to(folder)
        if _occurs(folded, str(name)):
            found.add((name, "name"))
        found.update((name, encoding) for encoding in needles.in_file(path))
    return sorted(found)


class _Needles:
    """Byte strings to look for all at once, by their first four bytes."""

    def __init__(self, values: Iterable[str]) -> None:
        self._by_prefix: dict[bytes, list[tuple[bytes, str, int]]] = defaultdict(list)
        self._table = np.zeros(_TABLE, np.bool_)
        self._longest = _PREFIX
        for needle, (encoding, length) in sorted(_encoded(values).items()):
            prefix = needle[:_PREFIX]
            self._by_prefix[prefix].append((needle, encoding, length))
            self._table[_hashes(prefix)] = True
            self._longest = max(self._longest, len(needle))

    def in_file(self, path: Path) -> set[str]:
        """Encodings in which any of them stands in the file."""
        found: set[str] = set()
        with path.open("rb") as file:
            sample = file.read(_TEXT_SAMPLE)
            binary = b"\0" in sample and not sample.startswith(_UTF16_MARKS)
            shortest = SHORTEST_IN_BINARY if binary else SHORTEST
            file.seek(0)
            rest = b""
            while block := file.read(_BLOCK):
                block = (rest + block).lower()
                found |= self._in_block(block, shortest)
                rest = block[len(block) - self._longest + 1 :] if len(block) >= self._longest else block
        return found

    def _in_block(self, block: bytes, shortest: int) -> set[str]:
        if len(block) < _PREFIX:
            return set()
        return {
            encoding
            for place in np.flatnonzero(self._table[_hashes(block)]).tolist()
            for needle, encoding, length in self._by_prefix.get(block[place : place + _PREFIX], ())
            if length >= shortest and block.startswith(needle, place)
        }


def _hashes(block: bytes) -> NDArray[np.uint32]:
    """A hash of the four bytes at each place of a block."""
    data = np.frombuffer(block, np.uint8)
    words = data[: len(data) - 3].astype(np.uint32)
    for offset in range(1, _PREFIX):
        words |= data[offset : len(data) - 3 + offset].astype(np.uint32) << np.uint32(8 * offset)
    return (words * _MULTIPLIER) >> _SHIFT


def _encoded(values: Iterable[str]) -> Mapping[bytes, tuple[str, int]]:
    """Each value as files may hold it, in lower case: bytes -> (encoding, bytes in UTF-8)."""
    found: dict[bytes, tuple[str, int]] = {}
    for value in values:
        # Beyond ASCII, lower case of bytes is not lower case of text: both are looked for.
        for spelt in {value, value.lower(), value.upper(), value.title()}:
            for encoding, name in (
                ("utf-16-le", "utf-16"),
                ("utf-16-be", "utf-16"),
                ("latin-1", "latin-1"),
                ("utf-8", "utf-8"),
            ):
                needle = spelt.encode(encoding, "ignore").lower()
                if len(needle) >= len(value):
                    found[needle] = (name, _size(value))
    return found


def _elements(dataset: Dataset) -> Iterator[DataElement]:
    """Identifying elements of a header and of the datasets nested in it, but for those that cannot be converted."""
    for raw in list(dataset.values()):
        kind = kind_of(raw.tag)
        if kind not in _KINDS and kind != "nested" and raw.VR not in {"PN", "SQ"}:
            continue
        try:
            element = dataset[raw.tag]
            items = list(element.value or ()) if element.VR == "SQ" else []
        except Exception:  # noqa: BLE001, S112 - damaged bytes make a library raise anything; the next element may be whole
            continue
        for item in items:
            yield from _elements(item)
        if element.VR in _TEXTS:
            yield element


def _texts(value: object) -> Iterator[str]:
    if isinstance(value, bytes):
        yield from (part.strip(" \0") for part in value.decode("latin-1").split("\\"))
    elif isinstance(value, MutableSequence):
        for part in value:
            yield from _texts(part)
    elif value is not None:
        yield str(value).strip(" \0")


def _spellings(representation: str, text: str) -> Iterator[str]:
    """How a value may be written elsewhere: names in parts, dates with separators."""
    if representation in _NAMES:
        yield from _NAME_PARTS.split(text)
    elif representation in _DATES:
        yield text
        if iso := iso_date(text[:8]):
            year, month, day = iso.split("-")
            yield from (f"{year}{month}{day}", iso, f"{day}.{month}.{year}", f"{day}/{month}/{year}")
    elif not text.startswith(_STANDARD_UIDS):
        yield text


def _is_telling(text: str) -> bool:
    return _size(text) >= SHORTEST and text.casefold() not in _PLACEHOLDERS and len(set(text)) > 1


def _size(text: str) -> int:
    return len(text.encode("utf-8", "ignore"))


def _occurs(folded: Iterable[str], text: str) -> bool:
    """Whether one of the values stands in a text: plain letters as whole words, so that Mali is not in malignant."""
    within = text.casefold()
    return any(
        value in within
        and (
            not (value.isascii() and value.isalpha())
            or re.search(rf"(?<!\w){re.escape(value)}(?!\w)", within) is not None
        )
        for value in folded
    )


def _leak(sentence: str) -> CaseError:
    return CaseError(sentence, hint="take the identifier out of the table, or give the column another", code="leak")
