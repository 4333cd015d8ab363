"""What a file is, by its first bytes, and by its name where that contradicts them."""

import gzip
import io
from contextlib import suppress

import nibabel
import numpy as np
import pydicom
import pytest
from hypothesis import given
from hypothesis import strategies as st
from made_hospital import JPEG, PNG, ct
from pydicom.uid import ExplicitVRBigEndian, ImplicitVRLittleEndian

from client.data.source.kinds import HEAD_BYTES, kind_of
from shared.errors import CaseError


def dicom(*, part10: bool = True, implicit: bool = False, big: bool = False) -> bytes:
    dataset = ct("1.5", 0)
    if big:
        dataset.file_meta.TransferSyntaxUID = ExplicitVRBigEndian
    if implicit:
        dataset.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian
    buffer = io.BytesIO()
    if part10:
        pydicom.dcmwrite(buffer, dataset, enforce_file_format=True)
    else:
        del dataset.file_meta
        pydicom.dcmwrite(buffer, dataset, implicit_vr=implicit, little_endian=not big)
    return buffer.getvalue()


def nifti(kind: type = nibabel.Nifti1Image) -> bytes:
    content: bytes = kind(np.zeros((2, 3, 4), np.int16), np.eye(4)).to_bytes()
    return content


CONTENTS = {
    "part 10": (dicom(), "dicom"),
    "no preamble, explicit": (dicom(part10=False), "dicom"),
    "no preamble, implicit": (dicom(part10=False, implicit=True), "dicom"),
    "no preamble, big endian": (dicom(part10=False, big=True), "dicom"),
    "file meta information without preamble": (dicom()[132:], "dicom"),
    "NIfTI-1": (nifti(), "nifti"),
    "NIfTI-2": (nifti(nibabel.Nifti2Image), "nifti"),
    "NIfTI, compressed": (gzip.compress(nifti()), "nifti"),
    "PNG": (PNG + bytes(20), "picture"),
    "JPEG": (JPEG + bytes(20), "picture"),
    "text": (b"series_uid,label\n1.2.3,benign\n", "other"),
    "zeros": (bytes(1000), "other"),
    "an archive": (b"PK\x03\x04" + bytes(100), "other"),
    "gzip of something else": (gzip.compress(b"text" * 200), "other"),
    "gzip, cut off": (gzip.compress(nifti())[:12], "other"),
}


def refusal(name: str, content: bytes) -> str:
    with pytest.raises(CaseError) as caught:
        kind_of(name, content[:HEAD_BYTES])
    return caught.value.code


@pytest.mark.parametrize("what", CONTENTS)
@pytest.mark.parametrize("name", ["IM0001", "1.2.840.99", "scan.dat", "notes.txt"])
def test_content_says_what_a_file_is(what: str, name: str) -> None:
    content, kind = CONTENTS[what]
    assert kind_of(name, content[:HEAD_BYTES]) == kind


def test_dicom_under_the_name_of_a_picture_is_dicom_and_pictures_may_swap_names() -> None:
    assert kind_of("a.png", dicom()) == "dicom"
    assert kind_of("a.nii.gz", dicom()) == "dicom"
    assert kind_of("a.jpg", PNG) == "picture"
    assert kind_of("a.PNG", JPEG) == "picture"
    assert kind_of("a.png", nifti()) == "nifti"


@pytest.mark.parametrize("name", ["a.dcm", "A.DCM", "a.dicom", "a.IMA"])
def test_what_is_called_dicom_is_read_as_dicom_or_refused(name: str) -> None:
    assert kind_of(name, b"text") == kind_of(name, b"") == "dicom"
    assert refusal(name, PNG) == refusal(name, nifti()) == "unreadable-dicom"


@pytest.mark.parametrize("content", [b"", b"text", bytes(1000)])
def test_what_is_called_an_image_and_is_none_is_refused(content: bytes) -> None:
    assert refusal("a.nii", content) == refusal("a.NII.GZ", content) == "unreadable-nifti"
    assert refusal("a.png", content) == refusal("a.jpeg", content) == "unreadable-image"


@pytest.mark.parametrize(
    ("name", "kind"),
    [("IM0001", "dicom"), ("1.2.840.99", "dicom"), ("a.txt", "other"), ("__init__.py", "other"), ("a.csv", "other")],
)
def test_an_empty_file_without_an_extension_is_what_is_left_of_an_image(name: str, kind: str) -> None:
    assert kind_of(name, b"") == kind


@given(st.text(max_size=12), st.binary(max_size=400))
def test_any_name_and_any_bytes_have_a_kind_or_are_refused(name: str, content: bytes) -> None:
    with suppress(CaseError):
        assert kind_of(name, content) in {"dicom", "nifti", "picture", "other"}
