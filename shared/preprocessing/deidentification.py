"""What is kept of a DICOM header: an allow-list, after the Basic Application Level Confidentiality Profile.

Promises
- ``acquisition`` gives what the table ``KEPT`` lists and nothing else, each through a rule whose results are known
  beforehand (``deidentification_values``): no free text, no identifier, no UID of an instance leaves a header.
- Only elements of the dataset itself are looked at, and the transfer syntax of its file meta information: nothing
  private, nothing nested, no overlay. What those hold cannot influence the result.
- Malformed values are left out. Nothing raises, whatever the header holds.
- Dates are kept only where a number of days is given, moved into the past by it: intervals within a patient stay.

The profile (PS3.15 Annex E) removes or replaces the attributes of its Table E.1-1; what that table does not list may
stay. Here it is the other way round: what ``KEPT`` does not list goes. ``Row.profile`` says for each row what the
standard says of it.

The pixels are left to ``burned_in``; identifiers and UIDs, which are replaced, to the site's salt.
"""

from __future__ import annotations

from collections.abc import MutableSequence
from dataclasses import dataclass

from pydicom.dataelem import DataElement, RawDataElement
from pydicom.dataset import Dataset

from shared.preprocessing.deidentification_kinds import identifying_kinds
from shared.preprocessing.deidentification_terms import (
    PHOTOMETRIC,
    SCANNING_SEQUENCES,
    TRANSFER_SYNTAXES,
    VIEW_POSITIONS,
)
from shared.preprocessing.deidentification_values import (
    Rule,
    age,
    body_part,
    calendar_date,
    given,
    moved,
    number,
    several,
    vendor,
    words,
)

__all__ = ["DATES", "EDITION", "KEPT", "Row", "acquisition", "identifying_kinds", "is_admissible"]

EDITION = "September 2024"
"""When the text of PS3.15 that the rows were checked against was published."""

_NOT_LISTED = "not listed in Table E.1-1"
_CHARACTERISTICS = "E.3.7 Retain Patient Characteristics Option: K"
_MODIFIED_DATES = "E.3.6 Retain Longitudinal Temporal Information with Modified Dates Option: C"
_FILE_META_GROUP = 0x0002
# A kept value is short; a megabyte of text in a code string is not worth decoding.
_LONGEST = 256


@dataclass(frozen=True, slots=True)
class Row:
    """One attribute that is kept, and why it may be.

    Attributes:
        attribute: its name in an archive.
        tag: where it stands.
        keyword: the standard's name for it (PS3.6).
        rule: what of its value is kept.
        profile: what PS3.15 says of it: its action in the basic profile, and in the option under which it may stay.
        why: what researchers need it for.
    """

    attribute: str
    tag: int
    keyword: str
    rule: Rule
    profile: str
    why: str


KEPT = (
    Row("vendor", 0x00080070, "Manufacturer", vendor(), _NOT_LISTED, "results by vendor"),
    Row(
        "sex",
        0x00100040,
        "PatientSex",
        words({"F": "F", "M": "M", "O": "O"}, ""),
        f"Z; {_CHARACTERISTICS}",
        "results by sex",
    ),
    Row("age", 0x00101010, "PatientAge", age(), f"X; {_CHARACTERISTICS}; kept as a band", "results by age"),
    Row(
        "body_part",
        0x00180015,
        "BodyPartExamined",
        body_part(),
        _NOT_LISTED,
        "wrong body parts among the cases",
    ),
    Row("laterality", 0x00200060, "Laterality", words({"R": "R", "L": "L"}, ""), _NOT_LISTED, "left and right"),
    Row(
        "image_laterality",
        0x00200062,
        "ImageLaterality",
        words({"R": "R", "L": "L", "U": "U", "B": "B"}, ""),
        _NOT_LISTED,
        "left and right, where images of one series differ",
    ),
    Row("view_position", 0x00185101, "ViewPosition", words(VIEW_POSITIONS), _NOT_LISTED, "projections apart"),
    Row(
        "contrast",
        0x00180010,
        "ContrastBolusAgent",
        given(),
        "Z/D; replaced by whether it holds anything",
        "enhanced and native scans apart",
    ),
    Row(
        "scanning_sequence",
        0x00180020,
        "ScanningSequence",
        several(words(SCANNING_SEQUENCES, "")),
        _NOT_LISTED,
        "contrasts of MR apart",
    ),
    Row(
        "acquisition_type",
        0x00180023,
        "MRAcquisitionType",
        words({"2D": "2d", "3D": "3d"}, ""),
        _NOT_LISTED,
        "slices and slabs apart",
    ),
    Row("field_strength_t", 0x00180087, "MagneticFieldStrength", number(0.01, 25, 2), _NOT_LISTED, "results by field"),
    Row("echo_time_ms", 0x00180081, "EchoTime", number(0, 2_000, 2), _NOT_LISTED, "weighting of MR"),
    Row("repetition_time_ms", 0x00180080, "RepetitionTime", number(0, 60_000, 0), _NOT_LISTED, "weighting of MR"),
    Row("flip_angle_deg", 0x00181314, "FlipAngle", number(0, 360, 0), _NOT_LISTED, "weighting of MR"),
    Row("tube_voltage_kv", 0x00180060, "KVP", number(1, 400, 0), _NOT_LISTED, "contrast of CT and X-ray"),
    Row("slice_thickness_mm", 0x00180050, "SliceThickness", number(0, 100, 2), _NOT_LISTED, "blur across slices"),
    Row(
        "slice_spacing_mm",
        0x00180088,
        "SpacingBetweenSlices",
        number(0, 100, 2),
        _NOT_LISTED,
        "gaps, compared with the geometry that was found",
    ),
    Row("photometric", 0x00280004, "PhotometricInterpretation", words(PHOTOMETRIC), _NOT_LISTED, "inverted images"),
    Row("bits_stored", 0x00280101, "BitsStored", number(1, 64, 0), _NOT_LISTED, "clipped images"),
    Row(
        "lossy",
        0x00282110,
        "LossyImageCompression",
        words({"00": "no", "01": "yes"}, ""),
        _NOT_LISTED,
        "results by compression",
    ),
    Row(
        "transfer_syntax",
        0x00020010,
        "TransferSyntaxUID",
        words(TRANSFER_SYNTAXES),
        _NOT_LISTED,
        "which decoder made the pixels",
    ),
)
"""All that is kept of a header besides dates."""

DATES = (
    Row(
        "acquisition_date",
        0x00080022,
        "AcquisitionDate",
        calendar_date(),
        f"X/Z; {_MODIFIED_DATES}",
        "time between a patient's images",
    ),
    Row(
        "study_date",
        0x00080020,
        "StudyDate",
        calendar_date(),
        f"Z; {_MODIFIED_DATES}",
        "the same, where the date of acquisition is not said",
    ),
)
"""Kept only where the site moves dates."""

_RULES = {row.attribute: row.rule for row in (*KEPT, *DATES)}


def acquisition(dataset: Dataset, days: int | None) -> tuple[tuple[str, str], ...]:
    """What the allow-list keeps of a header: (attribute, value) pairs, sorted.

    Args:
        dataset: as it was read; its elements are looked at as they are stored.
        days: by how many days dates are moved into the past, at least 1; None drops them.

    Raises:
        ValueError: ``days`` would leave dates as they are.
    """
    if days is not None and days < 1:
        raise ValueError(f"dates must move by at least one day, got {days}")
    kept = [(row.attribute, row.rule.read(_text(dataset, row.tag))) for row in KEPT]
    if days is not None:
        dated = [(row.attribute, row.rule.read(_text(dataset, row.tag))) for row in DATES]
        kept += [(attribute, moved(iso, days)) for attribute, iso in dated if iso]
    return tuple(sorted((attribute, value) for attribute, value in kept if value))


def is_admissible(attribute: str, value: str) -> bool:
    """Whether a pair is one that ``acquisition`` can give: a second look, independent of any header."""
    rule = _RULES.get(attribute)
    return rule is not None and rule.admits(value)


def _text(dataset: Dataset, tag: int) -> str:
    """An element's value as text without padding, several joined by backslashes; "" where it is absent or long."""
    holder = getattr(dataset, "file_meta", None) if tag >> 16 == _FILE_META_GROUP else dataset
    element = holder.get_item(tag, keep_deferred=True) if holder is not None else None
    if element is None or element.value is None:
        return ""
    value = element.value
    if isinstance(value, bytes):
        return _decoded(element, value)
    parts = value if isinstance(value, MutableSequence) else [value]
    text = "\\".join(str(part) for part in parts[:_LONGEST])
    return text.strip(" \0") if len(text) <= _LONGEST else ""


def _decoded(element: DataElement | RawDataElement, value: bytes) -> str:
    if len(value) > _LONGEST:
        return ""
    # BitsStored is the one binary number of the table; with its value representation unsaid (UN), it is left out.
    if element.VR == "US" or (element.VR is None and element.tag == 0x00280101):
        little = getattr(element, "is_little_endian", True)
        return str(int.from_bytes(value, "little" if little else "big")) if len(value) == 2 else ""
    return value.decode("ascii", "replace").strip(" \0")
