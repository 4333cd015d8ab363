"""Which kinds of identifying content a header holds, for the record of what an archive does not.

Promises
- Kinds are stable names. A kind is named when at least one element of it is present and not empty; no value is looked
  at but for whether it is there, and none is converted.
- What nothing is known about counts: an unknown element is "unknown", a sequence that the table does not name "nested".
  Technical elements (numbers, codes, pixels) are of no kind.

Removing is left to ``deidentification``, which keeps what it knows and needs no list of what to remove.
"""

from __future__ import annotations

from collections.abc import Mapping, Sized
from functools import lru_cache

from pydicom.datadict import dictionary_VR
from pydicom.dataset import Dataset
from pydicom.tag import BaseTag

# PS3.15 Table E.1-1, by what they identify; what is not here goes by its value representation.
_TAGS: Mapping[str, tuple[int, ...]] = {
    "patient-name": (0x00100010, 0x00101001, 0x00101005, 0x00101060),
    "patient-id": (0x00100020, 0x00100021, 0x00100024, 0x00101000, 0x00101002, 0x00101090, 0x00120040, 0x00120042),
    "birth-date": (0x00100030, 0x00100032, 0x00100033, 0x00100034),
    "addresses": (
        *(0x00101040, 0x00102150, 0x00102152, 0x00102154, 0x00102155, 0x00080092, 0x00080094, 0x00401102),
        *(0x00401103, 0x00401104, 0x00402010, 0x00402011, 0x0040A353, 0x0040A354),
    ),
    "accession": (
        *(0x00080050, 0x00080051, 0x00200010, 0x00380010, 0x00380060, 0x00400253, 0x00401001, 0x00402016),
        *(0x00402017, 0x00400009),
    ),
    "institution": (
        *(0x00080080, 0x00080081, 0x00080082, 0x00081040, 0x00081041, 0x00120010, 0x00120030, 0x00120031),
        *(0x00120060, 0x00120081, 0x0040A027, 0x00321033, 0x00380300, 0x00380400),
    ),
    "patient-characteristics": (
        *(0x00101010, 0x00100040, 0x00101020, 0x00101030, 0x00102160, 0x001021A0, 0x001021C0, 0x001021F0),
        *(0x00102180, 0x00102203, 0x00101080, 0x00101081, 0x00102110, 0x00102000, 0x00100101),
    ),
    "device": (
        *(0x00081010, 0x00081090, 0x00181000, 0x00181002, 0x00181004, 0x00181005, 0x00181007, 0x00181008),
        *(0x00181009, 0x0018700A, 0x00181020, 0x00080055, 0x00400241, 0x00400242, 0x00500020),
    ),
    "other-person-names": (
        *(0x00080096, 0x0008009D, 0x00081049, 0x00081052, 0x00081062, 0x00081072, 0x00102297, 0x00401101),
        *(0x00402008, 0x0040A073, 0x0040A078),
    ),
    "free-text": (0x00081080, 0x001021B0, 0x00401400, 0x00081084),
    "recognizable-features": (0x00280302,),
    # Technical, although their value representation can hold more: character sets, SOP classes, what a table keeps.
    "": (0x00080016, 0x00080070, 0x00020002, 0x00020010, 0x00180010, 0x00020012, 0x00020013, 0x00020016),
}
_KIND_OF_TAG = {tag: kind for kind, tags in _TAGS.items() for tag in tags}
_KIND_OF_VR = {
    "PN": "other-person-names",
    **dict.fromkeys(("DA", "DT", "TM"), "dates"),
    **dict.fromkeys(("LO", "SH", "ST", "LT", "UT", "UC", "UR"), "free-text"),
    "UI": "uids",
    "AE": "device",
    "SQ": "nested",
}
_OVERLAYS = (0x50, 0x60)
"""High bytes of the groups of curves and overlays, which repeat."""
# More than the public elements of any one archive's headers; private ones never get here.
_REMEMBERED = 8192


def identifying_kinds(dataset: Dataset) -> tuple[str, ...]:
    """Kinds of identifying content that are present and not empty at the top of a header, sorted."""
    found = set()
    for element in dataset.values():
        kind = kind_of(element.tag)
        if kind and kind not in found and _holds_something(element.value):
            found.add(kind)
    return tuple(sorted(found))


@lru_cache(maxsize=_REMEMBERED)
def kind_of(tag: BaseTag) -> str:
    """Kind of identifying content that an element holds by its tag alone; "" for technical ones."""
    if tag.is_private:
        return "private"
    if tag.group >> 8 in _OVERLAYS:
        return "overlay"
    if tag in _KIND_OF_TAG:
        return _KIND_OF_TAG[tag]
    try:
        return _KIND_OF_VR.get(dictionary_VR(tag), "")
    except KeyError:
        # Group lengths (element 0) are in no dictionary and count bytes.
        return "unknown" if tag.element else ""


def _holds_something(value: object) -> bool:
    if isinstance(value, bytes):
        return bool(value.strip(b" \0"))
    if isinstance(value, str):
        return bool(value.strip(" \0"))
    # Names and sequences know their length, numbers are something.
    return value is not None and (not isinstance(value, Sized) or len(value) > 0)
