"""What a file is: by its first bytes, and by its name only where these contradict it.

==========================  ==================================================================================
first bytes                 kind
==========================  ==================================================================================
a format of ``readable``    that format
a DICOM element             "dicom": files without preamble, as archives of the nineties wrote them
anything else               "other"; but "dicom" under the name of a DICOM file, so that reading it says what is
                            wrong, and a ``CaseError`` under the name of a NIfTI file or picture
==========================  ==================================================================================

A file that is called .dcm and holds a picture is refused ("unreadable-dicom"): what renamed it lost its header too. An
empty file without an extension is taken for DICOM, whose media know none (PS3.12): it is what a full disk leaves.
"""

from __future__ import annotations

import re
from typing import Literal

from shared.errors import CaseError
from shared.preprocessing.readable import format_of

Kind = Literal["dicom", "nifti", "picture", "other"]

HEAD_BYTES = 2**15
"""Enough to tell the kind, and for the headers of most images."""

_CLAIMS: dict[str, Kind] = {
    **dict.fromkeys((".dcm", ".dicom", ".ima"), "dicom"),
    **dict.fromkeys((".nii", ".nii.gz"), "nifti"),
    **dict.fromkeys((".png", ".jpg", ".jpeg"), "picture"),
}
_NO_EXTENSION = re.compile(r"[^.]*(\.\d*)*")
# The first element of a data set is in group 2 (its file meta information) or 8, with a low element number; in explicit
# VR two capitals follow, in implicit VR a length below 64 KiB. Big endian is always explicit (PS3.5 7.1).
_BARE = re.compile(rb"[\x02\x08]\0[\0-\xff]\0(?:[A-Z]{2}|..\0\0)|\0[\x02\x08]\0[\0-\xff][A-Z]{2}", re.DOTALL)


def kind_of(name: str, head: bytes) -> Kind:
    """What the file ``name`` that begins with ``head`` is; raises ``CaseError``."""
    claimed = _claimed(name, head)
    found: Kind = format_of(head) or ("dicom" if _BARE.match(head) else "other")
    if claimed == "dicom" and found in {"picture", "nifti"}:
        raise CaseError("a file named as DICOM holds something else", hint="export it again", code="unreadable-dicom")
    if found != "other" or claimed in {"dicom", "other"}:
        return found if found != "other" else claimed
    if claimed == "nifti":
        raise CaseError("a file named as NIfTI holds none", hint="export it again", code="unreadable-nifti")
    raise CaseError("a file named as PNG or JPEG holds neither", hint="export it again", code="unreadable-image")


def _claimed(name: str, head: bytes) -> Kind:
    lower = name.lower()
    for extension, kind in _CLAIMS.items():
        if lower.endswith(extension):
            return kind
    return "dicom" if not head and _NO_EXTENSION.fullmatch(name) else "other"
