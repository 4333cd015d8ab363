"""PNG and JPEG: what Pillow wrote comes back as numbers, and what hides something or is no mask is refused."""

import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from shared.errors import CaseError
from shared.preprocessing.image import Image
from shared.preprocessing.masks import MAX_CLASSES, class_indices
from shared.preprocessing.raster import image_from_raster, mask_from_raster

RNG = np.random.default_rng(5)
GREY = RNG.integers(0, 256, (6, 9), dtype=np.uint8)
COLOUR = RNG.integers(0, 256, (6, 9, 3), dtype=np.uint8)
PHOTOGRAPH = Image(np.zeros((1, 6, 9), np.float32), (1.0, 1.0))


def save(folder: Path, values: NDArray[Any], mode: str | None = None, name: str = "case.png", **options: Any) -> Path:
    path = folder / name
    picture = PIL.Image.fromarray(values)
    (picture if mode is None else picture.convert(mode)).save(path, **options)
    return path


def image_refusal(path: Path) -> CaseError:
    with pytest.raises(CaseError) as caught:
        image_from_raster(path)
    return caught.value


def mask_refusal(path: Path) -> CaseError:
    with pytest.raises(CaseError) as caught:
        mask_from_raster(path, PHOTOGRAPH)
    return caught.value


def png(width: int, height: int) -> bytes:
    """A PNG that declares a size and holds nothing."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">L", len(data)) + name + data + struct.pack(">L", zlib.crc32(name + data))

    header = struct.pack(">LLBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


def test_grey_is_one_channel_with_the_values_of_the_file(tmp_path: Path) -> None:
    image = image_from_raster(save(tmp_path, GREY), "us")
    assert np.array_equal(image.voxels, GREY[None].astype(np.float32))
    assert (image.modality, image.spacing_mm, image.spacing_known) == ("us", (1.0, 1.0), False)


def test_colour_is_three_channels_first(tmp_path: Path) -> None:
    image = image_from_raster(save(tmp_path, COLOUR), "fundus")
    assert np.array_equal(image.voxels, COLOUR.transpose(2, 0, 1))
    assert image.voxels.flags.c_contiguous


def test_16_bits_are_kept(tmp_path: Path) -> None:
    deep = RNG.integers(0, 65536, (6, 9), dtype=np.uint16)
    assert np.array_equal(image_from_raster(save(tmp_path, deep)).voxels[0], deep)


def test_a_palette_is_looked_up(tmp_path: Path) -> None:
    picture = PIL.Image.fromarray(np.array([[0, 1, 2]], np.uint8), mode=None).convert("P")
    picture.putpalette([9, 8, 7, 50, 60, 70, 255, 0, 255])
    picture.putdata([0, 1, 2])
    picture.save(tmp_path / "palette.png")
    found = image_from_raster(tmp_path / "palette.png").voxels
    assert found[:, 0].T.tolist() == [[9, 8, 7], [50, 60, 70], [255, 0, 255]]


def test_jpeg_is_read_as_pillow_decodes_it(tmp_path: Path) -> None:
    path = save(tmp_path, COLOUR, name="photo.jpg", quality=95)
    with PIL.Image.open(path) as picture:
        expected = np.asarray(picture).transpose(2, 0, 1)
    assert np.array_equal(image_from_raster(path).voxels, expected)


def test_cmyk_becomes_rgb(tmp_path: Path) -> None:
    assert len(image_from_raster(save(tmp_path, COLOUR, "CMYK", "print.jpg")).voxels) == 3


def test_a_photograph_is_turned_as_its_camera_says(tmp_path: Path) -> None:
    turned = PIL.Image.Exif()
    turned[0x0112] = 6  # the camera was held at a quarter turn
    upright = image_from_raster(save(tmp_path, GREY, exif=turned))
    assert np.array_equal(upright.voxels[0], np.rot90(GREY, -1))


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_a_full_alpha_channel_is_dropped(tmp_path: Path, mode: str) -> None:
    image = image_from_raster(save(tmp_path, COLOUR if mode == "RGBA" else GREY, mode))
    expected = COLOUR.transpose(2, 0, 1) if mode == "RGBA" else GREY[None]
    assert np.array_equal(image.voxels, expected)


def test_transparency_that_hides_pixels_is_refused(tmp_path: Path) -> None:
    hidden = np.dstack([COLOUR, np.full((6, 9), 255, np.uint8)])
    hidden[2, 3, 3] = 254
    path = save(tmp_path, hidden)
    assert image_refusal(path).code == "transparent-image"
    assert mask_refusal(path).code == "transparent-image"


def test_a_decompression_bomb_is_refused_before_it_is_unpacked(tmp_path: Path) -> None:
    path = tmp_path / "bomb.png"
    path.write_bytes(png(100_000, 100_000))
    assert image_refusal(path).code == "image-too-large"


@pytest.mark.parametrize("content", [b"", b"text", b"GIF89a" + b"\0" * 99, b"\x89PNG\r\n\x1a\n", png(6, 9)])
def test_what_is_neither_png_nor_jpeg_is_called_unreadable(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "case.png"
    path.write_bytes(content)
    error = image_refusal(path)
    assert error.code == "unreadable-image"
    assert str(tmp_path) not in error.sentence + error.hint


def test_other_formats_are_not_parsed_even_with_the_right_name(tmp_path: Path) -> None:
    path = tmp_path / "case.png"
    PIL.Image.fromarray(GREY).save(path, format="TIFF")
    assert image_refusal(path).code == "unreadable-image"


@given(data=st.data())
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_damaged_files_load_or_are_refused_and_nothing_else_escapes(tmp_path: Path, data: st.DataObject) -> None:
    name = data.draw(st.sampled_from(["whole.png", "whole.jpg"]))
    content = bytearray(save(tmp_path, COLOUR, name=name).read_bytes())
    for place, value in data.draw(
        st.lists(st.tuples(st.integers(0, len(content) - 1), st.integers(0, 255)), max_size=9)
    ):
        content[place] = value
    path = tmp_path / f"damaged{name[-4:]}"
    path.write_bytes(content[: data.draw(st.just(len(content)) | st.integers(0, len(content)))])
    try:
        image_from_raster(path)
    except CaseError as error:
        refused = error.code
    else:
        refused = "none"
    assert refused != "case"


def test_black_and_white_is_background_and_foreground(tmp_path: Path) -> None:
    drawn = (GREY > 128).astype(np.uint8)
    assert np.array_equal(mask_from_raster(save(tmp_path, drawn * 255), PHOTOGRAPH), drawn)


def test_small_numbers_are_class_indices(tmp_path: Path) -> None:
    classes = GREY % 4
    mask = mask_from_raster(save(tmp_path, classes), PHOTOGRAPH)
    assert mask.dtype == np.uint8
    assert np.array_equal(mask, classes)


def test_a_class_without_a_voxel_does_not_shift_the_others(tmp_path: Path) -> None:
    classes = np.where(GREY > 128, 2, 0).astype(np.uint8)
    assert np.array_equal(mask_from_raster(save(tmp_path, classes), PHOTOGRAPH), classes)


def test_palette_entries_are_class_indices_whatever_their_colours(tmp_path: Path) -> None:
    classes = GREY % 3
    picture = PIL.Image.fromarray(classes).convert("P")
    picture.putpalette([200, 0, 0, 0, 200, 0, 0, 0, 200])
    picture.putdata(classes.ravel().tolist())
    picture.save(tmp_path / "classes.png")
    assert np.array_equal(mask_from_raster(tmp_path / "classes.png", PHOTOGRAPH), classes)


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "LA", "1"])
def test_a_mask_may_be_stored_in_more_channels_than_it_needs(tmp_path: Path, mode: str) -> None:
    drawn = np.where(GREY > 128, 255, 0).astype(np.uint8)
    assert np.array_equal(mask_from_raster(save(tmp_path, drawn, mode), PHOTOGRAPH), drawn // 255)


def test_a_mask_in_colour_is_refused(tmp_path: Path) -> None:
    assert mask_refusal(save(tmp_path, COLOUR)).code == "mask-values"


@pytest.mark.parametrize("values", [(0, 128, 255), (0, 128), (0, 1, 255), (0, MAX_CLASSES)])
def test_grey_values_are_no_classes(tmp_path: Path, values: tuple[int, ...]) -> None:
    error = mask_refusal(save(tmp_path, np.resize(np.array(values, np.uint8), (6, 9))))
    assert (error.code, f"holds {len(values)} " in error.sentence) == ("mask-values", True)


def test_soft_edges_of_a_jpeg_mask_are_refused(tmp_path: Path) -> None:
    disc = np.hypot(*np.mgrid[-3:3, -4:5]) < 2.5
    assert mask_refusal(save(tmp_path, np.uint8(255) * disc, name="mask.jpg")).code == "mask-values"


def test_a_mask_of_another_size_is_refused_with_both_sizes(tmp_path: Path) -> None:
    error = mask_refusal(save(tmp_path, GREY.T % 2))
    assert error.code == "mask-shape"
    assert "(6, 9)" in error.sentence
    assert "(9, 6)" in error.sentence


@given(st.lists(st.integers(0, 300), min_size=1, max_size=20))
def test_class_indices_are_the_numbers_themselves_or_a_refusal(numbers: list[int]) -> None:
    values = np.array(numbers, np.int32)
    known = max(numbers) < MAX_CLASSES
    white = set(numbers) <= {0, 255} and 255 in numbers
    if known or white:
        assert class_indices(values).tolist() == ([number // 255 for number in numbers] if white else numbers)
    else:
        with pytest.raises(CaseError):
            class_indices(values)


@pytest.mark.parametrize("only", [0, 1, 255])
def test_a_mask_of_one_value_is_read(only: int) -> None:
    assert class_indices(np.full((2, 2), only, np.uint8)).tolist() == [[min(only, 1)] * 2] * 2
