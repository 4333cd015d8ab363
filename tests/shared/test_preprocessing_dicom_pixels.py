"""One DICOM file to floats: every rule of the module against values written by hand or by pydicom itself."""

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from pydicom.data import get_testdata_file
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_file_meta_info
from pydicom.sequence import Sequence
from pydicom.uid import (
    CTImageStorage,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLSLossless,
    RLELossless,
    generate_uid,
)

from shared.errors import CaseError
from shared.preprocessing.dicom import image_from_files
from shared.preprocessing.dicom_file import read_file
from shared.preprocessing.dicom_pixels import decode, stored_pixels
from shared.preprocessing.image import FloatArray

RNG = np.random.default_rng(1)
NAME = "Mustermann^Erika"
NATIVE = [ExplicitVRLittleEndian, ImplicitVRLittleEndian, DeflatedExplicitVRLittleEndian]


def dataset(pixels: NDArray[Any], syntax: str = ExplicitVRLittleEndian, **elements: Any) -> FileDataset:
    """A dataset around ``pixels``, (rows, columns) or (rows, columns, 3); ``elements`` are set last."""
    meta = FileMetaDataset()
    meta.TransferSyntaxUID = syntax
    meta.MediaStorageSOPClassUID = CTImageStorage
    meta.MediaStorageSOPInstanceUID = generate_uid()
    made = FileDataset("", {}, file_meta=meta, preamble=b"\0" * 128)
    made.SOPClassUID, made.SOPInstanceUID = CTImageStorage, meta.MediaStorageSOPInstanceUID
    made.Modality, made.PatientName = "CT", NAME
    made.Rows, made.Columns = pixels.shape[:2]
    made.SamplesPerPixel = 3 if pixels.ndim == 3 else 1
    made.PhotometricInterpretation = "RGB" if pixels.ndim == 3 else "MONOCHROME2"
    if pixels.ndim == 3:
        made.PlanarConfiguration = 0
    made.BitsAllocated = made.BitsStored = 8 * pixels.dtype.itemsize
    made.HighBit = made.BitsStored - 1
    made.PixelRepresentation = int(pixels.dtype.kind == "i")
    made.PixelData = pixels.tobytes() + b"\0" * (pixels.nbytes % 2)
    for name, value in elements.items():
        setattr(made, name, value)
    return made


def write(folder: Path, made: FileDataset) -> Path:
    path = folder / f"{made.SOPInstanceUID}.dcm"
    made.save_as(path, enforce_file_format=True)
    return path


def voxels_of(folder: Path, pixels: NDArray[Any], **elements: Any) -> FloatArray:
    """What comes back for one frame, shape (channels, rows, columns)."""
    return decode(read_file(write(folder, dataset(pixels, **elements))))[0]


def refusal(path: Path) -> CaseError:
    with pytest.raises(CaseError) as caught:
        image_from_files([path])
    return caught.value


@pytest.mark.parametrize("kind", ["u1", "i1", "u2", "i2", "u4", "i4"])
def test_stored_integers_of_every_width_and_sign_come_back_as_they_are(tmp_path: Path, kind: str) -> None:
    limits = np.iinfo(kind)
    pixels = RNG.integers(limits.min, limits.max, (5, 7), dtype=kind, endpoint=True)
    assert np.array_equal(voxels_of(tmp_path, pixels)[0], pixels.astype(np.float32))


def test_ct_becomes_hounsfield_units(tmp_path: Path) -> None:
    pixels = np.array([[0, 24, 1024, 4095]], np.uint16)
    found = voxels_of(tmp_path, pixels, RescaleSlope="1", RescaleIntercept="-1024")
    assert found.tolist() == [[[-1024.0, -1000.0, 0.0, 3071.0]]]


@given(
    slope=st.floats(1e-4, 100, allow_nan=False).map(lambda x: f"{x:.8g}"),
    intercept=st.floats(-5000, 5000, allow_nan=False).map(lambda x: f"{x:.8g}"),
)
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_rescaling_is_rounded_once_from_float64(tmp_path: Path, slope: str, intercept: str) -> None:
    pixels = np.array([[-32768, -1, 0, 1, 3, 32767]], np.int16)
    found = voxels_of(tmp_path, pixels, RescaleSlope=slope, RescaleIntercept=intercept)
    expected = [np.float32(int(stored) * float(slope) + float(intercept)) for stored in pixels[0]]
    assert found[0, 0].tolist() == expected


@pytest.mark.parametrize(
    "elements",
    [
        {"RescaleSlope": "1e300", "RescaleIntercept": "0"},
        {"RescaleSlope": "-1e308", "RescaleIntercept": "1e308"},
        {"RescaleSlope": "1e300", "RescaleIntercept": "0", "PhotometricInterpretation": "MONOCHROME1"},
    ],
    ids=["beyond float32", "beyond float64", "inverted"],
)
def test_a_rescaling_that_leaves_the_numbers_is_refused_without_a_warning(
    tmp_path: Path, elements: dict[str, str]
) -> None:
    path = write(tmp_path, dataset(np.array([[0, 30000]], np.uint16), **elements))
    assert refusal(path).code == "image-not-finite"


def test_a_slope_without_an_intercept_counts(tmp_path: Path) -> None:
    assert voxels_of(tmp_path, np.array([[2, 4]], np.uint16), RescaleSlope="0.5").tolist() == [[[1.0, 2.0]]]


def test_a_modality_table_replaces_stored_values_and_clamps_outside_of_it(tmp_path: Path) -> None:
    table = Dataset()
    table.LUTDescriptor = [4, 10, 16]
    table.add_new("LUTData", "US", [100, 200, 400, 800])
    table.ModalityLUTType = "US"
    found = voxels_of(tmp_path, np.array([[0, 10, 12, 13, 99]], np.uint16), ModalityLUTSequence=Sequence([table]))
    assert found.tolist() == [[[100.0, 100.0, 400.0, 800.0, 800.0]]]


@pytest.mark.parametrize("stated", [{}, {"RescaleType": "HU"}], ids=["unstated", "stated"])
def test_hounsfield_units_keep_their_sign_whatever_they_are_displayed_as(
    tmp_path: Path, stated: dict[str, str]
) -> None:
    pixels = np.array([[0, 24, 2024]], np.uint16)
    shown = {"PhotometricInterpretation": "MONOCHROME1", "RescaleIntercept": "-1024", **stated}
    assert voxels_of(tmp_path, pixels, **shown).tolist() == [[[-1024.0, -1000.0, 1000.0]]]


def test_monochrome1_is_inverted_within_its_stored_bits(tmp_path: Path) -> None:
    pixels = np.array([[0, 1, 4095]], np.uint16)
    inverted = {"PhotometricInterpretation": "MONOCHROME1", "BitsStored": 12, "HighBit": 11, "RescaleType": "US"}
    assert voxels_of(tmp_path, pixels, **inverted).tolist() == [[[4095.0, 4094.0, 0.0]]]


def test_monochrome1_is_inverted_after_rescaling(tmp_path: Path) -> None:
    pixels = np.array([[-128, 0, 127]], np.int8)
    inverted = {
        "PhotometricInterpretation": "MONOCHROME1",
        "RescaleSlope": "2",
        "RescaleIntercept": "10",
        "RescaleType": "US",
    }
    # Stored -128..127 means -246..264, so v becomes 18 - v.
    assert voxels_of(tmp_path, pixels, **inverted).tolist() == [[[264.0, 8.0, -246.0]]]


def test_bits_above_the_stored_ones_are_not_part_of_the_value(tmp_path: Path) -> None:
    overlaid = np.array([[0x1005, 0xF000, 0x0FFF]], np.uint16)
    assert voxels_of(tmp_path, overlaid, BitsStored=12, HighBit=11).tolist() == [[[5.0, 0.0, 4095.0]]]


def test_signed_values_of_fewer_bits_keep_their_sign(tmp_path: Path) -> None:
    pixels = np.array([[0x0FFF, 0x0800, 0x07FF]], np.int16)
    assert voxels_of(tmp_path, pixels, BitsStored=12, HighBit=11).tolist() == [[[-1.0, -2048.0, 2047.0]]]


@given(data=st.data())
@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_what_is_stored_as_numbers_is_looked_at_as_pydicom_looks_at_it(tmp_path: Path, data: st.DataObject) -> None:
    """Whatever stands in unused bits, for all frames or for one of them."""
    allocated, sign = data.draw(st.sampled_from([8, 16])), data.draw(st.integers(0, 1))
    used, frames = data.draw(st.integers(1, allocated)), data.draw(st.integers(1, 3))
    content = data.draw(st.binary(min_size=frames * 6 * allocated // 8, max_size=60))
    made = dataset(np.zeros((2, 3), f"u{allocated // 8}"), data.draw(st.sampled_from(NATIVE)))
    made.PixelRepresentation, made.BitsStored, made.HighBit, made.NumberOfFrames = sign, used, used - 1, frames
    made.PixelData = content + b"\0" * (len(content) % 2)
    path = write(tmp_path, made)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # pydicom wonders about surplus bytes
        expected = pydicom.dcmread(path).pixel_array.reshape(-1, 2, 3)[:frames]
    found = stored_pixels(read_file(path))
    assert np.array_equal(found, expected)
    assert found.dtype == expected.dtype
    last = frames - 1
    assert np.array_equal(stored_pixels(read_file(path), last), expected[last:])


def test_rgb_is_channels_first_whatever_the_planar_configuration(tmp_path: Path) -> None:
    pixels = RNG.integers(0, 256, (4, 6, 3), dtype=np.uint8)
    by_pixel = voxels_of(tmp_path, pixels)
    by_plane = voxels_of(tmp_path, pixels, PlanarConfiguration=1, PixelData=pixels.transpose(2, 0, 1).tobytes())
    assert np.array_equal(by_pixel, pixels.transpose(2, 0, 1))
    assert np.array_equal(by_plane, by_pixel)


def test_colour_of_16_bits_is_scaled_to_255(tmp_path: Path) -> None:
    pixels = np.array([[[0, 32768, 65535]]], np.uint16)
    assert voxels_of(tmp_path, pixels)[:, 0, 0].tolist() == [0.0, np.float32(32768 / 257), 255.0]


@pytest.mark.parametrize("rgb", [(255, 0, 0), (0, 255, 0), (0, 0, 255), (128, 128, 128), (12, 200, 77)])
def test_ybr_becomes_rgb_by_the_formula_of_the_standard(tmp_path: Path, rgb: tuple[int, int, int]) -> None:
    forward = np.array([[0.299, 0.587, 0.114], [-0.1687, -0.3313, 0.5], [0.5, -0.4187, -0.0813]])
    ybr = np.clip(np.rint(forward @ rgb + [0, 128, 128]), 0, 255).astype(np.uint8).reshape(1, 1, 3)
    found = voxels_of(tmp_path, ybr, PhotometricInterpretation="YBR_FULL")
    assert np.abs(found[:, 0, 0] - rgb).max() <= 2


@pytest.mark.parametrize(("depth", "full"), [(8, 255), (16, 65535)])
def test_palette_entries_become_rgb_from_0_to_255(tmp_path: Path, depth: int, full: int) -> None:
    palette = {}
    for colour, entries in {"Red": (0, full, 0, 0), "Green": (0, 0, full, 0), "Blue": (full, 0, 0, 0)}.items():
        palette[f"{colour}PaletteColorLookupTableDescriptor"] = [4, 0, depth]
        data = np.array(entries, f"u{depth // 8}").tobytes()
        palette[f"{colour}PaletteColorLookupTableData"] = data
    pixels = np.array([[0, 1, 2, 3]], np.uint8)
    found = voxels_of(tmp_path, pixels, PhotometricInterpretation="PALETTE COLOR", **palette)
    assert found[:, 0].T.tolist() == [[0, 0, 255], [255, 0, 0], [0, 255, 0], [0, 0, 0]]


def test_an_unknown_photometric_interpretation_is_refused_and_not_guessed(tmp_path: Path) -> None:
    path = write(tmp_path, dataset(np.zeros((2, 2), np.uint8), PhotometricInterpretation="HSV"))
    assert refusal(path).code == "unknown-colour"


def test_float_pixels_are_read(tmp_path: Path) -> None:
    made = dataset(np.zeros((2, 2), np.uint32))
    del made.PixelData, made.BitsStored, made.HighBit, made.PixelRepresentation
    made.FloatPixelData = np.array([[0.5, -1.25], [3e5, 0.0]], "<f4").tobytes()
    assert decode(read_file(write(tmp_path, made)))[0, 0].tolist() == [[0.5, -1.25], [3e5, 0.0]]


def test_values_that_are_not_finite_are_refused(tmp_path: Path) -> None:
    made = dataset(np.zeros((1, 2), np.uint32))
    del made.PixelData
    made.FloatPixelData = np.array([np.nan, 1], "<f4").tobytes()
    assert refusal(write(tmp_path, made)).code == "image-not-finite"


@pytest.mark.parametrize("syntax", [ImplicitVRLittleEndian, DeflatedExplicitVRLittleEndian])
def test_native_transfer_syntaxes_give_the_same_voxels(tmp_path: Path, syntax: str) -> None:
    pixels = RNG.integers(-2000, 2000, (6, 5), dtype=np.int16)
    assert np.array_equal(decode(read_file(write(tmp_path, dataset(pixels, syntax=syntax))))[0, 0], pixels)


def test_big_endian_gives_the_same_voxels(tmp_path: Path) -> None:
    pixels = RNG.integers(-2000, 2000, (6, 5), dtype=np.int16)
    made = dataset(pixels.astype(">i2"), syntax=ExplicitVRBigEndian)
    made["PixelData"].VR = "OW"
    path = tmp_path / "big.dcm"
    pydicom.dcmwrite(path, Dataset(made), implicit_vr=False, little_endian=False)
    bare = path.read_bytes()
    buffer = DicomBytesIO()
    write_file_meta_info(buffer, made.file_meta)
    path.write_bytes(b"\0" * 128 + b"DICM" + buffer.getvalue() + bare)
    assert np.array_equal(decode(read_file(path))[0, 0], pixels)


@pytest.mark.parametrize("syntax", [RLELossless, JPEGLSLossless, JPEG2000Lossless])
@pytest.mark.parametrize("shape", [(64, 48), (64, 48, 3)])
def test_lossless_codecs_give_the_voxels_that_were_encoded(tmp_path: Path, syntax: str, shape: tuple[int, ...]) -> None:
    pixels = RNG.integers(0, 256, shape, dtype=np.uint8)
    made = dataset(pixels)
    made.compress(syntax, generate_instance_uid=False)
    expected = pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)
    assert np.array_equal(decode(read_file(write(tmp_path, made)))[0], expected)


def test_a_file_of_pydicom_agrees_with_pydicom() -> None:
    path = Path(str(get_testdata_file("CT_small.dcm", download=False)))
    reference = pydicom.dcmread(path)
    expected = reference.pixel_array * float(reference.RescaleSlope) + float(reference.RescaleIntercept)
    image = image_from_files([path])
    assert np.array_equal(image.voxels[0], expected.astype(np.float32))
    assert (image.modality, image.spacing_mm) == ("ct", tuple(float(mm) for mm in reference.PixelSpacing))


def test_a_dataset_without_preamble_is_read(tmp_path: Path) -> None:
    made = dataset(np.array([[1, 2]], np.uint16))
    bare = tmp_path / "bare"
    Dataset(made).save_as(bare, implicit_vr=True, little_endian=True)
    assert decode(read_file(bare)).tolist() == [[[[1.0, 2.0]]]]


def test_frames_beyond_the_declared_ones_are_left_out(tmp_path: Path) -> None:
    pixels = np.array([[1, 2], [3, 4], [5, 6], [7, 8]], np.uint8)
    found = decode(read_file(write(tmp_path, dataset(pixels, Rows=2, NumberOfFrames=1))))
    assert found.tolist() == [[[[1.0, 2.0], [3.0, 4.0]]]]


def test_each_frame_of_an_enhanced_object_has_its_own_rescaling(tmp_path: Path) -> None:
    groups = []
    for slope, intercept in ((1, 0), (2, -5)):
        values = Dataset()
        values.RescaleSlope, values.RescaleIntercept, values.RescaleType = slope, intercept, "HU"
        group = Dataset()
        group.PixelValueTransformationSequence = Sequence([values])
        groups.append(group)
    pixels = np.array([[10, 20], [10, 20]], np.int16)
    made = dataset(pixels, Rows=1, NumberOfFrames=2, PerFrameFunctionalGroupsSequence=Sequence(groups))
    assert decode(read_file(write(tmp_path, made)))[:, 0, 0].tolist() == [[10.0, 20.0], [15.0, 35.0]]


@pytest.mark.parametrize(
    ("elements", "spacing", "known"),
    [
        ({"PixelSpacing": [0.5, 0.25]}, (0.5, 0.25), True),
        ({"ImagerPixelSpacing": [0.1, 0.2]}, (0.1, 0.2), True),
        ({"PixelSpacing": [0.5, 0.25], "ImagerPixelSpacing": [0.1, 0.2]}, (0.5, 0.25), True),
        ({"NominalScannedPixelSpacing": [0.3, 0.3]}, (0.3, 0.3), True),
        ({"PixelSpacing": [0, 0]}, (1.0, 1.0), False),
        ({}, (1.0, 1.0), False),
    ],
)
def test_spacing_is_rows_then_columns_and_unknown_where_not_said(
    tmp_path: Path, elements: dict[str, Any], spacing: tuple[float, float], *, known: bool
) -> None:
    image = image_from_files([write(tmp_path, dataset(np.zeros((3, 4), np.uint8), **elements))])
    assert (image.spacing_mm, image.spacing_known, image.shape) == (spacing, known, (3, 4))


def region(dx: float, dy: float, unit: int = 3) -> Dataset:
    made = Dataset()
    made.PhysicalUnitsXDirection = made.PhysicalUnitsYDirection = unit
    made.PhysicalDeltaX, made.PhysicalDeltaY = dx, dy
    return made


@pytest.mark.parametrize(
    ("regions", "spacing"),
    [
        ([region(0.02, 0.03)], (0.3, 0.2)),
        ([region(0.02, -0.03), region(0.02, 0.03), region(1, 1, unit=4)], (0.3, 0.2)),
        ([region(0.02, 0.03), region(0.05, 0.03)], None),
        ([region(0.02, 0.03, unit=4)], None),
    ],
)
def test_ultrasound_spacing_comes_from_regions_in_cm_that_agree(
    tmp_path: Path, regions: list[Dataset], spacing: tuple[float, float] | None
) -> None:
    made = dataset(np.zeros((2, 2), np.uint8), Modality="US", SequenceOfUltrasoundRegions=Sequence(regions))
    image = image_from_files([write(tmp_path, made)])
    assert image.modality == "us"
    assert image.spacing_known == (spacing is not None)
    assert image.spacing_mm == pytest.approx(spacing or (1.0, 1.0))


@pytest.mark.parametrize(
    ("modality", "name"),
    [("CT", "ct"), ("MR", "mr"), ("US", "us"), ("DX", "xray"), ("MG", "xray"), ("OP", "fundus"), ("PT", "other")],
)
def test_modalities_have_the_names_of_the_plan(tmp_path: Path, modality: str, name: str) -> None:
    path = write(tmp_path, dataset(np.zeros((2, 2), np.uint8), Modality=modality))
    assert image_from_files([path]).modality == name


def test_a_file_without_pixels_says_so(tmp_path: Path) -> None:
    made = dataset(np.zeros((2, 2), np.uint8))
    del made.PixelData
    assert refusal(write(tmp_path, made)).code == "no-pixel-data"


@pytest.mark.parametrize("content", [b"", b"\0" * 132, b"\0" * 128 + b"DICM", b"a text\n" * 99, RNG.bytes(4096)])
def test_what_is_not_dicom_is_called_unreadable(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "case.dcm"
    path.write_bytes(content)
    assert refusal(path).code in {"unreadable-dicom", "no-pixel-data"}


def test_a_missing_file_is_a_refusal_too(tmp_path: Path) -> None:
    assert refusal(tmp_path / "gone.dcm").code == "image-missing"


def test_pixel_data_that_is_too_short_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path, dataset(np.zeros((4, 4), np.uint16), Rows=8))
    assert refusal(path).code == "undecodable-pixels"


def test_a_small_file_that_declares_a_huge_image_is_refused_before_memory_is_asked_for(tmp_path: Path) -> None:
    made = dataset(np.zeros((4, 4), np.uint16), Rows=65535, Columns=65535, NumberOfFrames=1000)
    error = refusal(write(tmp_path, made))
    assert error.code == "image-too-large"
    assert str(65535 * 65535 * 1000) in error.sentence


def test_a_panic_in_a_native_decoder_is_a_refusal(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """The RLE decoder, written in Rust, leaves ``Exception`` aside when an index runs out of bounds."""
    made = dataset(RNG.integers(0, 9999, (16, 16), dtype=np.uint16))
    made.compress(RLELossless)
    made.Rows = made.Columns = 7
    error = refusal(write(tmp_path, made))
    assert (error.code, "PanicException" in error.sentence) == ("undecodable-pixels", True)
    capfd.readouterr()


@pytest.fixture(scope="module")
def encoded() -> list[bytes]:
    """Small intact files in four encodings."""
    files = []
    for syntax in (None, RLELossless, JPEGLSLossless, JPEG2000Lossless):
        made = dataset(RNG.integers(0, 256, (64, 64), dtype=np.uint8), PixelSpacing=[1, 1])
        if syntax:
            made.compress(syntax)
        buffer = DicomBytesIO()
        made.save_as(buffer, enforce_file_format=True)
        files.append(buffer.getvalue())
    return files


@given(data=st.data())
@settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_damaged_files_decode_or_are_refused_and_nothing_else_escapes(
    tmp_path: Path, encoded: list[bytes], data: st.DataObject
) -> None:
    content = bytearray(data.draw(st.sampled_from(encoded)))
    for place, value in data.draw(st.lists(st.tuples(st.integers(132, len(content) - 1), st.integers(0, 255)))):
        content[place] = value
    path = tmp_path / "damaged.dcm"
    path.write_bytes(content[: data.draw(st.just(len(content)) | st.integers(0, len(content)))])
    refused = None
    try:
        image_from_files([path])
    except CaseError as error:
        refused = error
    assert refused is None or (refused.code != "case" and NAME not in refused.sentence + refused.hint)


def test_neither_warnings_nor_errors_quote_the_header(tmp_path: Path) -> None:
    with pydicom.config.disable_value_validation():
        made = dataset(np.zeros((2, 2), np.uint8), SOPClassUID=NAME, Modality=NAME, PatientName=NAME * 20)
        path = write(tmp_path, made)
    content = path.read_bytes()
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        image_from_files([path])
        path.write_bytes(content[:-2])
        error = refusal(path)
    assert seen == []
    assert NAME not in error.sentence + error.hint
    assert error.__cause__ is None
    assert error.__suppress_context__
