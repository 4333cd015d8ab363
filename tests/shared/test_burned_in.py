"""Text in the pixels: found where it is drawn, not found where there is none, fast enough to look at every image."""

from collections.abc import Callable
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image as Picture
from PIL import ImageDraw, ImageFont
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence

from shared.preprocessing.burned_in import suspicions, text_boxes
from shared.preprocessing.image import Image
from simulations.phantoms.cohort import members, scans
from simulations.phantoms.hospitals import hospitals

Plane = NDArray[np.float32]

FOLDER = Path(mpl.get_data_path()) / "fonts" / "ttf"
FONTS: dict[str, Callable[[int], ImageFont.FreeTypeFont | ImageFont.ImageFont]] = {
    "pil": ImageFont.load_default,
    "sans": lambda size: ImageFont.truetype(str(FOLDER / "DejaVuSans.ttf"), size),
    "mono": lambda size: ImageFont.truetype(str(FOLDER / "DejaVuSansMono.ttf"), size),
    "serif": lambda size: ImageFont.truetype(str(FOLDER / "DejaVuSerif-Bold.ttf"), size),
}
TEXTS = (
    *("SMITH^JOHN", "Doe, Jane 12.03.1961", "ID 1234567", "MUELLER ANNA F 063Y", "1987-11-02 14:33"),
    *("ACC 20041123", "Hospital General 3", "Petersen K 45 M"),
)
SIZES = (10, 12, 14, 18, 24, 32)


def drawn(plane: Plane, text: str, font: str, size: int, ink: float, at: tuple[int, int] = (12, 20)) -> Plane:
    """``plane`` with ``text`` on it, smooth edges as a scanner draws them; ``at`` is (column, row)."""
    picture = Picture.new("L", plane.shape[::-1])
    ImageDraw.Draw(picture).text(at, text, font=FONTS[font](size), fill=255)
    cover = np.asarray(picture, np.float32) / 255
    return (plane * (1 - cover) + ink * cover).astype(np.float32)


def phantom_slices() -> list[Plane]:
    """Slices of generated abdomens from scanners that differ in noise, blur and grid."""
    planes = []
    for hospital in hospitals(4, 7, patients=2).hospitals:
        for member in members(hospital, 7):
            planes += [scan.stored[0].astype(np.float32) for scan in scans(hospital, member, 7)]
    return planes


def noise(sigma: float, seed: int = 0, shape: tuple[int, int] = (256, 320)) -> Plane:
    random = np.random.default_rng(seed)
    return np.clip(random.normal(100, sigma, shape), 0, 255).astype(np.float32)


def smooth(seed: int, shape: tuple[int, int] = (256, 256)) -> Plane:
    """Blobs of all sizes, like tissue."""
    random = np.random.default_rng(seed)
    frequencies = np.hypot(*np.meshgrid(np.fft.fftfreq(shape[0]), np.fft.fftfreq(shape[1]), indexing="ij"))
    spectrum = np.fft.fft2(random.normal(size=shape)) / np.maximum(frequencies, 1 / shape[0]) ** 1.5
    return np.real(np.fft.ifft2(spectrum)).astype(np.float32)


def recall(backgrounds: list[Plane], ink: Callable[[Plane], float]) -> float:
    found = [
        bool(text_boxes(drawn(plane, text, font, size, ink(plane))))
        for number, plane in enumerate(backgrounds)
        for font in FONTS
        for size in SIZES
        for text in (TEXTS[(number + size) % len(TEXTS)],)
    ]
    return sum(found) / len(found)


# --- what is there ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("share", [1.0, 0.8, 0.6])
def test_text_on_tissue_is_found_in_nineteen_of_twenty_images(share: float) -> None:
    def ink(plane: Plane) -> float:
        """Brighter than all there is, by ``share`` of its range."""
        return float(plane.max() + share * np.ptp(plane))

    assert (
        recall(
            [smooth(1, (200, 500)), smooth(2, (200, 500)), np.zeros((200, 500), np.float32) + noise(2, 1, (200, 500))],
            ink,
        )
        >= 0.95
    )


def test_text_on_noise_is_found_while_it_stands_out() -> None:
    """White on grey: noise of a tenth of the distance to white is no obstacle. The control drowns in its noise."""
    assert recall([noise(15, seed, (200, 500)) for seed in (1, 2)], lambda _: 255.0) >= 0.9
    assert recall([noise(40, 1, (200, 500))], lambda _: 140.0) <= 0.1


def test_dark_text_on_a_bright_plane_is_found() -> None:
    bright = np.full((128, 400), 250, np.float32) - np.abs(noise(3, 1, (128, 400)) - 100)
    assert recall([bright], lambda _: 20.0) >= 0.9


@pytest.mark.parametrize("font", FONTS)
def test_a_box_lies_on_the_text(font: str) -> None:
    plane = drawn(np.zeros((256, 400), np.float32), "ID 1234567", font, 16, 255, at=(50, 120))
    rows, columns = np.nonzero(plane > 60)
    (box,) = text_boxes(plane)
    assert rows.min() - 1 <= box.top < box.bottom <= rows.max() + 2
    assert columns.min() - 1 <= box.left < box.right <= columns.max() + 2
    assert box.right - box.left > 0.6 * np.ptp(columns)


def test_large_letters_are_found_in_a_reduced_plane() -> None:
    assert text_boxes(drawn(np.zeros((600, 1400), np.float32), "SMITH 1961", "serif", 110, 1000))


@given(st.floats(0.01, 1e4), st.floats(-1e4, 1e4))
@settings(max_examples=10)
def test_brightness_and_contrast_of_the_whole_plane_do_not_matter(scale: float, offset: float) -> None:
    plane = drawn(noise(5, 3), "MUELLER ANNA", "pil", 14, 255)
    (box,), (other,) = text_boxes(plane), text_boxes(plane.astype(np.float64) * scale + offset)
    # One grey level of 255 may round the other way and a stroke lose a pixel.
    assert np.abs(np.subtract(box, other)).max() <= 2


def test_three_letters_are_no_text_unless_three_are_asked_for() -> None:
    plane = drawn(np.zeros((100, 200), np.float32), "A B C", "pil", 16, 255)
    assert text_boxes(plane) == []
    assert len(text_boxes(plane, least=3)) == 1


def test_letters_at_different_heights_are_no_text() -> None:
    """The planted fault of the row: the same glyphs, each 6 pixels lower than the one before."""
    straight = np.zeros((160, 300), np.float32)
    stairs = straight.copy()
    for place, letter in enumerate("SMITHERS"):
        straight = drawn(straight, letter, "sans", 20, 255, at=(20 + 20 * place, 20))
        stairs = drawn(stairs, letter, "sans", 20, 255, at=(20 + 20 * place, 20 + 6 * place))
    assert text_boxes(straight)
    assert text_boxes(stairs) == []


@given(st.integers(5, 60), st.integers(5, 200))
@settings(max_examples=15)
def test_a_box_moves_with_the_text(row: int, column: int) -> None:
    """Away from the edges nothing depends on where the text stands."""
    plane = np.zeros((100, 400), np.float32)
    (fixed,) = text_boxes(drawn(plane, "ID 1234567", "mono", 14, 255, at=(5, 5)))
    (box,) = text_boxes(drawn(plane, "ID 1234567", "mono", 14, 255, at=(column, row)))
    assert np.subtract(box, fixed).tolist() == [row - 5, column - 5, row - 5, column - 5]


def test_two_lines_of_text_are_two_boxes_from_top_to_bottom_of_each() -> None:
    plane = drawn(np.zeros((120, 300), np.float32), "SMITH JOHN", "pil", 16, 255, at=(10, 10))
    plane = drawn(plane, "1961 03 12", "pil", 16, 255, at=(10, 70))
    boxes = sorted(text_boxes(plane))
    assert [box.top < 40 for box in boxes] == [True, False]
    assert all(10 < box.bottom - box.top < 18 for box in boxes)


def test_a_mirrored_line_is_found_and_one_that_runs_downwards_only_when_transposed() -> None:
    plane = drawn(np.zeros((300, 300), np.float32), "SMITH 1961", "sans", 18, 255)
    assert text_boxes(plane[:, ::-1])
    assert text_boxes(plane.T) == []
    assert text_boxes(plane.T.T)


# --- what is not there -----------------------------------------------------------------------------------------------


def test_generated_abdomens_show_no_text_and_show_it_once_it_is_drawn() -> None:
    planes = phantom_slices()
    assert len(planes) >= 16
    assert [text_boxes(plane) for plane in planes] == [[]] * len(planes)
    written = [drawn(plane, "DOE JANE", "pil", 12, float(plane.max()) * 1.5 + 500, at=(4, 4)) for plane in planes]
    assert sum(bool(text_boxes(plane)) for plane in written) >= 0.9 * len(planes)


def test_noise_shows_no_text() -> None:
    planes = [noise(sigma, seed) for sigma in (5, 20, 60) for seed in range(8)]
    assert sum(bool(text_boxes(plane)) for plane in planes) == 0


def test_tissue_like_fields_show_no_text() -> None:
    assert sum(bool(text_boxes(smooth(seed))) for seed in range(24)) == 0


def test_a_row_of_discs_lines_and_grids_is_no_text() -> None:
    rows, columns = np.indices((256, 256))
    discs = ((rows - 128) ** 2 + (columns % 64 - 32) ** 2 < 28**2).astype(np.float32)
    lines = (columns % 8 < 2).astype(np.float32)
    grid = np.maximum(lines, (rows % 8 < 2).astype(np.float32))
    assert [text_boxes(plane) for plane in (discs, lines, grid)] == [[], [], []]


@pytest.mark.parametrize("plane", [np.zeros((1, 1)), np.ones((3, 500)), np.full((64, 64), -5.0), np.eye(7)])
def test_small_and_constant_planes_show_no_text(plane: Plane) -> None:
    assert text_boxes(plane) == []


# --- suspicions ------------------------------------------------------------------------------------------------------


def image(plane: Plane) -> Image:
    return Image(np.ascontiguousarray(plane, np.float32)[None], (1.0, 1.0))


CLEAN = image(np.zeros((64, 64), np.float32))
WRITTEN = image(drawn(np.zeros((64, 200), np.float32), "SMITH JOHN", "pil", 14, 255))


def header(**values: object) -> Dataset:
    dataset = Dataset()
    for keyword, value in values.items():
        setattr(dataset, keyword, value)
    return dataset


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({}, ()),
        ({"BurnedInAnnotation": "YES"}, ("declared",)),
        ({"BurnedInAnnotation": "NO"}, ()),
        ({"RecognizableVisualFeatures": "YES"}, ()),
        ({"SOPClassUID": "1.2.840.10008.5.1.4.1.1.7"}, ("secondary-capture",)),
        ({"SOPClassUID": "1.2.840.10008.5.1.4.1.1.7.4"}, ("secondary-capture",)),
        ({"SOPClassUID": "1.2.840.10008.5.1.4.1.1.77.1.1"}, ()),
        ({"SOPClassUID": "1.2.840.10008.5.1.4.1.1.2"}, ()),
        ({"ConversionType": "WSD"}, ("secondary-capture",)),
        ({"ConversionType": "DI"}, ("secondary-capture",)),
        ({"ConversionType": ""}, ()),
        ({"ImageType": ["DERIVED", "SECONDARY", "SCREEN SAVE"]}, ("secondary-capture",)),
        ({"ImageType": ["ORIGINAL", "PRIMARY", "AXIAL"]}, ()),
        ({"BurnedInAnnotation": "YES", "ConversionType": "SD"}, ("declared", "secondary-capture")),
        ({"BurnedInAnnotation": "NO", "ConversionType": "SD"}, ("secondary-capture",)),
    ],
)
def test_a_header_gives_its_reasons(values: dict[str, object], expected: tuple[str, ...]) -> None:
    assert suspicions(header(**values), CLEAN) == expected


def test_text_is_a_reason_with_any_header_and_with_none() -> None:
    assert suspicions(None, WRITTEN) == ("text",)
    assert suspicions(header(BurnedInAnnotation="NO"), WRITTEN) == ("text",)
    assert suspicions(header(BurnedInAnnotation="YES"), WRITTEN) == ("declared", "text")
    assert suspicions(None, CLEAN) == ()


def test_coloured_text_on_black_is_found() -> None:
    plane = drawn(np.zeros((64, 200), np.float32), "SMITH JOHN", "pil", 14, 255)
    green = np.stack([np.zeros_like(plane), plane, np.zeros_like(plane)])
    assert suspicions(None, Image(green, (1.0, 1.0))) == ("text",)


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("turned", ["upright", "mirrored", "upside-down", "transposed"])
def test_text_in_every_slice_of_a_volume_is_found_whatever_its_orientation(axis: int, turned: str) -> None:
    """Slices lie across any axis, and turning a volume to its canonical axes may mirror or transpose them."""
    plane = drawn(smooth(1, (120, 200)) * 0.05, "DOE JANE 1961", "pil", 14, 3.0)
    shown = {"upright": plane, "mirrored": plane[:, ::-1], "upside-down": plane[::-1], "transposed": plane.T}[turned]
    volume = np.stack([shown] * 8, axis=axis)[None]
    assert suspicions(None, Image(np.ascontiguousarray(volume), (1.0,) * 3)) == ("text",)
    clean = np.stack([smooth(seed, (120, 200)) for seed in range(8)], axis=axis)[None]
    assert suspicions(None, Image(np.ascontiguousarray(clean), (1.0,) * 3)) == ()


def region(top: int, left: int, bottom: int, right: int) -> Dataset:
    return header(
        RegionLocationMinX0=left, RegionLocationMinY0=top, RegionLocationMaxX1=right, RegionLocationMaxY1=bottom
    )


def test_three_letters_beside_the_region_of_an_ultrasound_image_are_text_already() -> None:
    beside = drawn(np.zeros((200, 300), np.float32), "A B C", "pil", 14, 255, at=(10, 5))
    within = drawn(np.zeros((200, 300), np.float32), "A B C", "pil", 14, 255, at=(10, 80))
    regions = header(SequenceOfUltrasoundRegions=Sequence([region(40, 0, 199, 299)]))
    assert suspicions(regions, image(beside)) == ("text",)
    assert suspicions(regions, image(within)) == ()
    assert suspicions(Dataset(), image(beside)) == ()


def test_text_within_the_region_is_found_too() -> None:
    within = drawn(np.zeros((200, 300), np.float32), "SMITH JOHN", "pil", 14, 255, at=(10, 80))
    regions = header(SequenceOfUltrasoundRegions=Sequence([region(40, 0, 199, 299)]))
    assert suspicions(regions, image(within)) == ("text",)


@pytest.mark.parametrize(
    "broken", [Dataset(), header(RegionLocationMinX0=1), region(9, 9, 2, 2), region(0, 0, 9999, 9999)]
)
def test_damaged_regions_do_not_stop_the_search(broken: Dataset) -> None:
    regions = header(SequenceOfUltrasoundRegions=Sequence([broken]))
    assert suspicions(regions, WRITTEN) == ("text",)
    assert suspicions(regions, CLEAN) == ()
