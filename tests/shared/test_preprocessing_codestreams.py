"""Small files that declare huge images, as native decoders would believe them."""

import io
import time
from contextlib import suppress

import numpy as np
import PIL.Image
import pytest
from hypothesis import given
from hypothesis import strategies as st
from phantom_scan import Phantom, cine, content_of
from pydicom.dataset import FileDataset
from pydicom.encaps import encapsulate, generate_fragments
from pydicom.uid import UID, JPEG2000Lossless, JPEGBaseline8Bit, JPEGLSLossless

from shared.errors import CaseError
from shared.preprocessing.codestreams import declared_samples, require_modest
from shared.preprocessing.dicom import frame_of
from shared.preprocessing.dicom_file import read_file
from shared.preprocessing.readable import Held

SHAPE = (3, 48, 64)
SIZE = SHAPE[1] * SHAPE[2]


def compressed(syntax: UID) -> FileDataset:
    made: FileDataset = cine(Phantom(shape=SHAPE))
    made.compress(syntax)
    return made


def first_of(made: FileDataset) -> bytes:
    """The first frame, behind the offset table."""
    return next(fragment for fragment in generate_fragments(made.PixelData) if len(fragment) > 40)


def in_boxes(codestream: bytes, length: int) -> bytes:
    """A JP2 file (15444-1 annex I): signature, a box of ``length``, the codestream."""
    signature = b"\0\0\0\x0cjP  \r\n\x87\n"
    return signature + length.to_bytes(4) + b"ftyp" + bytes(12) + bytes(4) + b"jp2c" + codestream


def jpeg(mode: str, **options: bool) -> bytes:
    stream = io.BytesIO()
    PIL.Image.new(mode, (SHAPE[2], SHAPE[1])).save(stream, "JPEG", **options)
    return stream.getvalue()


@pytest.mark.parametrize("syntax", [JPEG2000Lossless, JPEGLSLossless])
def test_a_codestream_tells_its_size(syntax: UID) -> None:
    assert declared_samples(first_of(compressed(syntax))) == SIZE


def test_a_jpeg_tells_its_size_and_its_components() -> None:
    assert declared_samples(jpeg("L")) == SIZE
    assert declared_samples(jpeg("RGB", progressive=True)) == 3 * SIZE


def test_a_codestream_in_boxes_tells_its_size_too() -> None:
    assert declared_samples(in_boxes(first_of(compressed(JPEG2000Lossless)), 20)) == SIZE


def test_a_box_without_an_end_is_refused() -> None:
    with pytest.raises(CaseError) as caught:
        declared_samples(in_boxes(first_of(compressed(JPEG2000Lossless)), 0))
    assert caught.value.code == "undecodable-pixels"


def test_as_many_samples_as_promised_pass_and_one_more_does_not() -> None:
    fragments = [b"", jpeg("L")]
    require_modest(fragments, SIZE)
    with pytest.raises(CaseError) as caught:
        require_modest(fragments, SIZE - 1)
    assert (caught.value.code, str(SIZE) in caught.value.sentence) == ("undecodable-pixels", True)


STARTS = [b"\xff\xd8", b"\xff\x4f\xff\x51", b"\0\0\0\x0cjP  ", b""]


@given(content=st.binary(max_size=200), start=st.sampled_from(STARTS))
def test_any_bytes_say_something_or_nothing(content: bytes, start: bytes) -> None:
    with suppress(CaseError):
        assert declared_samples(start + content) >= 0


def swollen(syntax: UID) -> Held:
    """A file whose first codestream declares 60000 x 60000 pixels; its header tells the truth."""
    made = compressed(syntax)
    frames = [bytearray(fragment) for fragment in generate_fragments(made.PixelData) if len(fragment) > 40]
    if syntax == JPEG2000Lossless:
        frames[0][8:16] = frames[0][24:32] = (60000).to_bytes(4) * 2
    else:
        start = frames[0].index(b"\xff\xf7")
        frames[0][start + 5 : start + 9] = (60000).to_bytes(2) * 2
    made.PixelData = encapsulate([bytes(frame) for frame in frames])
    return Held("file", content_of(made))


@pytest.mark.parametrize("syntax", [JPEG2000Lossless, JPEGLSLossless])
def test_a_swollen_frame_is_refused_before_a_decoder_asks_for_gigabytes(syntax: UID) -> None:
    """Without the check, decoding takes 7 GB and 38 s (JPEG 2000) or 16 GB and 230 s (JPEG-LS)."""
    began = time.monotonic()
    with pytest.raises(CaseError) as caught:
        frame_of(read_file(swollen(syntax)), 0)
    assert (caught.value.code, "3600000000" in caught.value.sentence) == ("undecodable-pixels", True)
    assert time.monotonic() - began < 5


def test_a_file_in_endless_boxes_is_refused_and_not_waited_for() -> None:
    made = compressed(JPEG2000Lossless)
    made.PixelData = encapsulate([in_boxes(first_of(made), 0)] * SHAPE[0])
    with pytest.raises(CaseError) as caught:
        frame_of(read_file(Held("file", content_of(made))), 0)
    assert caught.value.code == "undecodable-pixels"


def test_honest_files_pass() -> None:
    for syntax in (JPEG2000Lossless, JPEGLSLossless):
        image = frame_of(read_file(Held("file", content_of(compressed(syntax)))), 1)
        assert np.array_equal(image.voxels[0], Phantom(shape=SHAPE).stored()[1])
    made = cine(Phantom(shape=(1, *SHAPE[1:])))
    made.file_meta.TransferSyntaxUID, made.PixelData = JPEGBaseline8Bit, encapsulate([jpeg("L")])
    made["PixelData"].VR = "OB"
    made.BitsAllocated = made.BitsStored = 8
    made.HighBit = 7
    assert frame_of(read_file(Held("file", content_of(made))), 0).shape == SHAPE[1:]
