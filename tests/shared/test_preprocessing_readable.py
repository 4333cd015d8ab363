"""Files wherever they lie, and what their first bytes say they are."""

import errno
import gzip
import io
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import PIL.Image
import pytest
from hypothesis import given
from hypothesis import strategies as st
from phantom_scan import Phantom, content_of, series

from shared.errors import CaseError
from shared.preprocessing.readable import Held, contents, format_of

IDENTIFIER = "Doe^Jane"
VOLUME = np.zeros((2, 3, 4), np.int16)


class Broken:
    """A file that fails with an error that names it."""

    name = IDENTIFIER

    def __init__(self, error: OSError) -> None:
        self.error = error

    def read_bytes(self) -> bytes:
        raise self.error


def nifti(kind: Any, order: str = "<") -> bytes:
    header = kind.header_class(endianness=order)
    header.set_data_shape(VOLUME.shape)
    content: bytes = kind(VOLUME, np.eye(4), header).to_bytes()
    return content


def picture(kind: str) -> bytes:
    stream = io.BytesIO()
    PIL.Image.fromarray(np.zeros((4, 4), np.uint8)).save(stream, kind)
    return stream.getvalue()


DICOM = content_of(series(Phantom())[0])


@pytest.mark.parametrize("pack", [bytes, gzip.compress])
@pytest.mark.parametrize("kind", [nibabel.Nifti1Image, nibabel.Nifti2Image])
@pytest.mark.parametrize("order", ["<", ">"])
def test_nifti_is_known_in_either_byte_order_packed_or_not(kind: Any, order: str, pack: Any) -> None:
    assert format_of(pack(nifti(kind, order))) == "nifti"


def test_dicom_and_pictures_are_known() -> None:
    assert format_of(DICOM) == "dicom"
    assert {format_of(picture(kind)) for kind in ("PNG", "JPEG")} == {"picture"}


def test_a_preamble_that_looks_like_another_format_is_still_dicom() -> None:
    """PS3.10 7.1 leaves the first 128 bytes to anybody; slide scanners write a TIFF header there."""
    disguised = picture("PNG")[:128].ljust(128, b"\0") + DICOM[128:]
    assert format_of(disguised) == "dicom"


@pytest.mark.parametrize(
    "content",
    [b"", b"DICM", DICOM[132:], picture("GIF"), gzip.compress(b"a report", mtime=0), nifti(nibabel.Nifti1Image)[:300]],
)
def test_what_does_not_say_what_it_is_is_not_guessed(content: bytes) -> None:
    assert format_of(content) is None


def test_a_damaged_gzip_file_says_nothing() -> None:
    assert format_of(gzip.compress(nifti(nibabel.Nifti1Image))[:30]) is None


@given(content=st.binary(max_size=400), start=st.sampled_from([b"", b"\x1f\x8b", b"\x1f\x8b\x08\0", b"\x5c\x01\0\0"]))
def test_no_bytes_make_it_fail(content: bytes, start: bytes) -> None:
    assert format_of(start + content) in {None, "dicom", "nifti", "picture"}


def test_a_path_and_what_was_read_from_it_give_the_same_bytes(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(DICOM)
    assert contents(path) == contents(Held(path.name, DICOM)) == DICOM


def test_a_held_file_shows_neither_name_nor_bytes() -> None:
    assert IDENTIFIER not in repr(Held(IDENTIFIER, IDENTIFIER.encode()))


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (FileNotFoundError(errno.ENOENT, "No such file", IDENTIFIER), "mask-missing"),
        (PermissionError(errno.EACCES, "Permission denied", IDENTIFIER), "file-unreadable"),
        (IsADirectoryError(errno.EISDIR, "Is a directory", IDENTIFIER), "file-unreadable"),
        (OSError("no number, no reason"), "file-unreadable"),
    ],
)
def test_a_file_that_cannot_be_read_is_a_refusal_that_does_not_name_it(error: OSError, code: str) -> None:
    with pytest.raises(CaseError) as caught:
        contents(Broken(error), "mask")
    refused = caught.value
    assert refused.code == code
    assert IDENTIFIER not in f"{refused.sentence}{refused.hint}"
    assert refused.__cause__ is None
    assert refused.__suppress_context__
