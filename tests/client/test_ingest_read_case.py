"""One case at a time, from files that the tests write to what the archive would keep of them."""

import errno
import gzip
import hashlib
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import PIL.Image
import PIL.ImageDraw
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from phantom_scan import (
    OBLIQUE,
    Files,
    Phantom,
    cine,
    content_of,
    enhanced,
    files_of,
    frame_item,
    header,
    nifti_of,
    segmentation,
    series,
    structure_set,
)
from pydicom.dataset import Dataset, FileDataset
from pydicom.sequence import Sequence as Items
from pydicom.uid import JPEG2000Lossless, JPEGLSLossless, RLELossless

from client.data.case_files import CaseFiles, Salt
from client.data.ingest.opened import remembering
from client.data.ingest.read_case import case_reader, read_case
from client.data.ingest.reading import Reading, Rules
from shared.errors import CaseError
from shared.preprocessing.dicom import image_from_files
from shared.preprocessing.readable import Held, Readable

SALT = Salt("here", bytes(range(32)))
PHANTOM = Phantom(OBLIQUE)
OPEN = Rules(refuse=frozenset())
NAME = "Doe^Jane of Elm Street"


@dataclass
class Counted:
    """A file that counts how often it is read, and may fail."""

    held: Held
    error: OSError | None = None
    reads: int = 0
    name: str = field(default="file", init=False)

    def read_bytes(self) -> bytes:
        self.reads += 1
        if self.error is not None:
            raise self.error
        return self.held.content

    def __hash__(self) -> int:
        return id(self)


def case(images: Sequence[Readable], **more: Any) -> CaseFiles:
    return CaseFiles("c" * 24, "p" * 24, tuple(images), **more)


def read(images: Sequence[Readable], rules: Rules = OPEN, **more: Any) -> Reading:
    return read_case(case(images, **more), rules, SALT)


def refusal(images: Sequence[Readable], rules: Rules = OPEN, **more: Any) -> CaseError:
    with pytest.raises(CaseError) as caught:
        read(images, rules, **more)
    return caught.value


def held(made: FileDataset, name: str = "file") -> Held:
    return Held(name, content_of(made))


def classes() -> np.ndarray[Any, np.dtype[np.uint8]]:
    """Class indices of the phantom, as stored: two boxes."""
    made = np.zeros(PHANTOM.shape, np.uint8)
    made[2:5, 3:9, 2:7] = 1
    made[6, 5:8, 1:4] = 2
    return made


def placed(reading: Reading) -> dict[int, set[tuple[float, ...]]]:
    """Where in the patient each class is: mm, rounded to a tenth."""
    assert reading.mask is not None
    affine = reading.image.affine_lps
    assert affine is not None
    return {
        index: {
            tuple(np.round(affine[:3, :3] @ voxel + affine[:3, 3], 1) + 0.0)
            for voxel in np.argwhere(reading.mask == index)
        }
        for index in (1, 2)
    }


def truly_placed() -> dict[int, set[tuple[float, ...]]]:
    affine = PHANTOM.affine()
    return {
        index: {tuple(np.round(affine[:3, :3] @ voxel + affine[:3, 3], 1) + 0.0) for voxel in np.argwhere(made)}
        for index, made in ((1, classes() == 1), (2, classes() == 2))
    }


def nifti_mask() -> bytes:
    kind: Any = nibabel.Nifti1Image
    made: bytes = kind(classes(), np.diag([-1.0, -1, 1, 1]) @ PHANTOM.affine()).to_bytes()
    return made


def picture(values: Any, **options: Any) -> bytes:
    stream = io.BytesIO()
    PIL.Image.fromarray(np.asarray(values, np.uint8)).save(stream, "PNG", **options)
    return stream.getvalue()


GREY = np.random.default_rng(2).integers(60, 90, (20, 30), dtype=np.uint8)


def test_a_series_is_a_volume_and_its_mask_is_where_it_was_drawn() -> None:
    reading = read(files_of(series(PHANTOM)), mask=held(segmentation(PHANTOM, classes())))
    assert placed(reading) == truly_placed()
    assert reading.image.modality == "ct"
    assert np.array_equal(reading.image.voxels, image_from_files(files_of(series(PHANTOM))).voxels)


def test_contours_are_the_same_mask_as_the_segmentation() -> None:
    box, small = [[2.5, 1.5], [2.5, 6.5], [8.5, 6.5], [8.5, 1.5]], [[4.5, 0.5], [4.5, 3.5], [7.5, 3.5], [7.5, 0.5]]
    outlines = {"GTV": dict.fromkeys((2, 3, 4), np.array(box)), "Node": {6: np.array(small)}}
    mask = held(structure_set(PHANTOM, outlines))
    reading = read(files_of(series(PHANTOM)), Rules(frozenset(), structures={"GTV": 1, "Node": 2}), mask=mask)
    assert placed(reading) == truly_placed()
    assert refusal(files_of(series(PHANTOM)), mask=mask).code == "several-structures"


@pytest.mark.parametrize("pack", [bytes, gzip.compress])
def test_a_nifti_mask_goes_with_dicom_and_with_nifti(pack: Callable[[bytes], bytes]) -> None:
    mask = Held("labels", pack(nifti_mask()))
    for images in (files_of(series(PHANTOM)), [nifti_of(PHANTOM, (2, 0, 1), nibabel.Nifti1Image, packed=False)]):
        assert placed(read(images, mask=mask)) == truly_placed()


def test_contours_go_with_nifti_and_a_segmentation_does_not() -> None:
    images = [nifti_of(PHANTOM, (0, 1, 2), nibabel.Nifti2Image, packed=True)]
    box = np.array([[2.5, 1.5], [2.5, 6.5], [8.5, 6.5], [8.5, 1.5]])
    reading = read(images, mask=held(structure_set(PHANTOM, {"GTV": dict.fromkeys((2, 3, 4), box)})))
    assert placed(reading)[1] == truly_placed()[1]
    assert refusal(images, mask=held(segmentation(PHANTOM, classes()))).code == "mask-format"


def test_a_picture_has_a_picture_for_a_mask() -> None:
    shown = (GREY > 75).astype(np.uint8) * 255
    reading = read([Held("a", picture(GREY))], mask=Held("b", picture(shown)), modality="us")
    assert np.array_equal(reading.image.voxels[0], GREY)
    assert reading.mask is not None
    assert np.array_equal(reading.mask, GREY > 75)
    assert (reading.image.modality, reading.acquisition) == ("us", ())


@pytest.mark.parametrize("name", ["scan.png", "IM1.nii.gz", "x.jpg", "noextension", "report.txt"])
def test_the_content_says_what_a_file_is_and_not_its_name(name: str) -> None:
    made = content_of(series(PHANTOM)[0])
    assert read([Held(name, made)]).image.modality == "ct"
    assert read([Held("case.bin", picture(GREY))]).image.voxels.shape == (1, 20, 30)


def test_a_bare_data_set_without_preamble_is_dicom_too() -> None:
    content = content_of(series(PHANTOM)[0])
    meta_length = int.from_bytes(content[140:144], "little")
    assert read([Held("old", content[144 + meta_length :])]).image.modality == "ct"


def test_what_is_named_dicom_and_is_not_has_lost_its_header() -> None:
    assert refusal([Held("IM1.DCM", picture(GREY))]).code == "format-mismatch"


@pytest.mark.parametrize("content", [b"", b"\0" * 4096, b"not an image", b"\x1f\x8bgarbage", b"\0" * 128 + b"DICM"])
def test_what_is_no_image_is_refused(content: bytes) -> None:
    assert refusal([Held("file", content)]).code in {"unreadable-dicom", "no-pixel-data"}


def test_files_of_one_case_are_of_one_format() -> None:
    images = [*files_of(series(PHANTOM)), Held("a", picture(GREY))]
    error = refusal(images)
    assert (error.code, error.sentence.startswith("file 10 of 10: ")) == ("mixed-formats", True)
    assert refusal([]).code == "no-files"


def test_the_digest_is_that_of_all_bytes_in_any_order() -> None:
    images, mask = files_of(series(PHANTOM)), held(segmentation(PHANTOM, classes()))
    digests = sorted(hashlib.sha256(one.content).digest() for one in (*images, mask))
    expected = hashlib.sha256(b"".join(digests)).hexdigest()
    assert read(images, mask=mask).source_sha256 == expected
    assert read(images[::-1], mask=mask).source_sha256 == expected
    assert read(images).source_sha256 != expected


def test_the_order_of_files_changes_nothing() -> None:
    made = series(PHANTOM)
    for number, one in enumerate(made):
        one.KVP, one.Manufacturer = 100 + number, "SIEMENS"
    first, second = read(files_of(made, 1)), read(files_of(made, 2))
    assert first.acquisition == second.acquisition != ()
    assert np.array_equal(first.image.voxels, second.image.voxels)


def test_each_file_of_a_case_is_read_once() -> None:
    images = [Counted(one) for one in files_of(series(PHANTOM))]
    mask = Counted(held(segmentation(PHANTOM, classes())))
    read(images, mask=mask)
    assert {one.reads for one in (*images, mask)} == {1}


def slices_of(mask: Readable, made: Files) -> tuple[list[CaseFiles], list[Counted]]:
    """Each slice a case of its own, all with the mask of the series."""
    images = [Counted(held(one)) for one in made]
    return [case([one], mask=mask, slice_of=tuple(images)) for one in images], images


def test_slices_of_a_series_get_their_part_of_its_mask_which_is_read_once() -> None:
    mask = Counted(held(segmentation(PHANTOM, classes())))
    cases, images = slices_of(mask, series(PHANTOM))
    reader = case_reader(OPEN, SALT)
    found = [reader(one) for one in cases]
    assert np.array_equal(np.stack([reading.mask for reading in found if reading.mask is not None]), classes())
    assert mask.reads == 1
    assert {one.reads for one in images} == {2}
    digests = sorted(hashlib.sha256(one.held.content).digest() for one in (*images, mask))
    assert {reading.source_sha256 for reading in found} == {hashlib.sha256(b"".join(digests)).hexdigest()}


def test_a_mask_that_does_not_fit_its_series_is_refused_for_each_slice_and_read_once() -> None:
    elsewhere = Phantom(OBLIQUE, origin_mm=(0.3, 0, 0))
    mask = Counted(held(segmentation(elsewhere, classes())))
    cases, _ = slices_of(mask, series(PHANTOM))
    reader = case_reader(OPEN, SALT)
    for one in cases:
        with pytest.raises(CaseError) as caught:
            reader(one)
        assert caught.value.code == "mask-grid"
    assert mask.reads == 1


def test_the_same_mask_for_slices_comes_from_contours_and_nifti() -> None:
    cases, _ = slices_of(Held("m", nifti_mask()), series(PHANTOM))
    assert np.array_equal(np.stack([np.asarray(read_case(one, OPEN, SALT).mask) for one in cases]), classes())
    box = np.array([[2.5, 1.5], [2.5, 6.5], [8.5, 6.5], [8.5, 1.5]])
    drawn = held(structure_set(PHANTOM, {"GTV": dict.fromkeys((2, 3, 4), box)}))
    cases, _ = slices_of(drawn, series(PHANTOM))
    found = np.stack([np.asarray(read_case(one, OPEN, SALT).mask) for one in cases])
    assert np.array_equal(found, classes() == 1)


@pytest.mark.parametrize("syntax", [None, RLELossless, JPEG2000Lossless, JPEGLSLossless])
def test_frames_of_one_file_are_images_of_their_own_and_the_file_is_read_once(syntax: str | None) -> None:
    phantom = Phantom(shape=(5, 64, 64))  # an encoder of JPEG 2000 wants 32 pixels at least
    loop = cine(phantom)
    if syntax is not None:
        loop.compress(syntax)
    file, reader = Counted(held(loop)), case_reader(OPEN, SALT)
    found = [reader(case([file], frame=number)).image for number in range(phantom.shape[0])]
    assert np.array_equal(np.stack([one.voxels[0] for one in found]), phantom.stored())
    assert (file.reads, found[0].spacing_known, found[0].modality) == (1, False, "us")


@pytest.mark.parametrize("number", [-1, 9, 1000])
def test_a_frame_that_is_not_there_is_refused(number: int) -> None:
    assert refusal([held(cine(PHANTOM))], frame=number).code == "no-such-frame"


def loop_segmentation(loop: FileDataset) -> FileDataset:
    """A SEG whose frames name frames of a loop as their sources, in another order and not all of them."""
    made = header()
    made.SOPClassUID, made.Modality, made.SegmentationType = "1.2.840.10008.5.1.4.1.1.66.4", "SEG", "BINARY"
    made.BitsAllocated, made.BitsStored, made.HighBit = 8, 8, 7
    items, pixels = [], []
    for number in (6, 3, 2, 4):
        source, derivation, item = Dataset(), Dataset(), frame_item(1)
        source.ReferencedSOPInstanceUID, source.ReferencedFrameNumber = loop.SOPInstanceUID, number + 1
        derivation.SourceImageSequence = Items([source])
        item.DerivationImageSequence = Items([derivation])
        items.append(item)
        pixels.append((classes()[number] > 0).astype(np.uint8))
    made.PerFrameFunctionalGroupsSequence, made.NumberOfFrames = Items(items), len(items)
    made.Rows, made.Columns = PHANTOM.shape[1:]
    made.PixelData = np.stack(pixels).tobytes()
    return made


def test_a_segmentation_of_a_loop_finds_its_frames_by_their_numbers() -> None:
    loop = cine(PHANTOM)
    mask = held(loop_segmentation(loop))
    found = [read([held(loop)], mask=mask, frame=number).mask for number in range(PHANTOM.shape[0])]
    assert np.array_equal(np.stack([np.asarray(one) for one in found]), classes() > 0)
    assert refusal([held(cine(PHANTOM))], mask=mask, frame=3).code == "mask-grid"


def test_a_file_that_is_not_there_is_missing_and_one_that_fails_is_unreadable(tmp_path: Path) -> None:
    gone = tmp_path / NAME
    assert refusal([gone]).code == "image-missing"
    assert refusal(files_of(series(PHANTOM)), mask=gone).code == "mask-missing"
    for broken in (PermissionError(errno.EACCES, "Permission denied", NAME), OSError(errno.EIO, "I/O error", NAME)):
        error = refusal([Counted(Held("", b""), error=broken)])
        assert error.code == "file-unreadable"
        assert NAME not in f"{error.sentence}{error.hint}{error!r}"


def test_an_empty_folder_of_that_name_is_no_file(tmp_path: Path) -> None:
    (tmp_path / "scan.dcm").mkdir()
    assert refusal([tmp_path / "scan.dcm"]).code == "file-unreadable"


def test_what_is_kept_of_a_header_holds_no_identifier() -> None:
    made = series(PHANTOM)
    for one in made:
        one.PatientName, one.PatientID, one.InstitutionName = NAME, "4711", "General Hospital"
        one.Manufacturer, one.KVP, one.StudyDate = "SIEMENS", 120, "20240229"
    reading = read(files_of(made))
    said = dict(reading.acquisition)
    assert reading.dropped
    assert not any(word in repr(said) for word in ("Doe", "4711", "General", "2024"))
    assert "120" in repr(said)


@pytest.mark.parametrize(
    "said",
    [
        {"label": "malignant; see Jane"},
        {"subgroups": (("sex", "f"), ("ward", "4711-A"))},
        {"label": "General Hospital"},
    ],
)
def test_a_table_that_repeats_what_the_header_says_of_a_person_is_a_leak(said: dict[str, Any]) -> None:
    made = series(PHANTOM)
    for one in made:
        one.PatientName, one.PatientID, one.InstitutionName = "Doe^Jane", "4711-A", "General Hospital"
    refused = refusal(files_of(made), **said)
    assert refused.code == "leak"
    assert not any(word in refused.sentence + refused.hint for word in ("Doe", "Jane", "4711", "General"))
    assert read(files_of(made), label="malignant", subgroups=(("sex", "f"), ("ward", "oncology"))).image is not None


def test_what_one_header_of_a_series_holds_counts_as_dropped() -> None:
    made = series(PHANTOM)
    before = read(files_of(made)).dropped
    made[4].PatientName = NAME
    assert set(read(files_of(made)).dropped) > set(before)


def test_dates_are_dropped_or_moved_by_the_patients_own_number_of_days() -> None:
    made = series(PHANTOM)
    for one in made:
        one.StudyDate = "20240229"
    shifted = dict(read(files_of(made), Rules(frozenset(), dates="shift")).acquisition)
    dropped = dict(read(files_of(made)).acquisition)
    dates = {name: value for name, value in shifted.items() if "date" in name.lower()}
    assert dates
    assert not set(dates) & set(dropped)
    moved = np.datetime64(next(iter(dates.values())))
    assert np.datetime64("2024-02-29") - moved == np.timedelta64(SALT.days("p" * 24))


def one_declares(made: Files) -> None:
    made[5].BurnedInAnnotation = "YES"


def all_declare(made: Files) -> None:
    for one in made:
        one.BurnedInAnnotation = "YES"


def captured(made: Files) -> None:
    del made[1:]
    made[0].SOPClassUID = "1.2.840.10008.5.1.4.1.1.7"


@pytest.mark.parametrize(
    ("change", "suspicion"),
    [(one_declares, "declared"), (all_declare, "declared"), (captured, "secondary-capture")],
)
def test_a_suspicion_is_refused_or_handed_on_as_the_site_says(change: Callable[[Files], None], suspicion: Any) -> None:
    made = series(PHANTOM)
    change(made)
    assert refusal(files_of(made), Rules()).code == f"burned-in-{suspicion}"
    assert read(files_of(made), Rules(refuse=frozenset({"text"}))).suspicions == (suspicion,)
    assert read(files_of(series(PHANTOM)), Rules()).suspicions == ()


def test_text_in_a_picture_is_refused() -> None:
    shown = PIL.Image.new("L", (320, 240), 20)
    for line in range(4):
        PIL.ImageDraw.Draw(shown).text((10, 20 + 40 * line), "DOE JANE 1950-02-03 MRN 4711", fill=255, font_size=16)
    written = Held("a", picture(shown))
    assert refusal([written], Rules()).code == "burned-in-text"
    assert read([written]).suspicions == ("text",)


CONTENTS = {
    "dicom": content_of(series(PHANTOM)[0]),
    "enhanced": content_of(enhanced(PHANTOM)[0]),
    "nifti": nifti_of(PHANTOM, (0, 1, 2), nibabel.Nifti1Image, packed=False).content,
    "gzip": nifti_of(PHANTOM, (0, 1, 2), nibabel.Nifti2Image, packed=True).content,
    "png": picture(GREY),
}
MASKS = {
    "segmentation": content_of(segmentation(PHANTOM, classes())),
    "contours": content_of(structure_set(PHANTOM, {"GTV": {2: np.array([[2.5, 1.5], [2.5, 6.5], [8.5, 6.5]])}})),
}


IMAGES = files_of(series(PHANTOM))


def outcome(images: Sequence[Readable], mask: Readable | None = None) -> Reading | CaseError:
    """What was read, or a refusal with a code of its own."""
    try:
        return read(images, mask=mask)
    except CaseError as error:
        refused = error
    assert (refused.code != "case", bool(refused.sentence)) == (True, True)
    return refused


@st.composite
def damages(draw: st.DrawFn) -> Callable[[bytes], bytes]:
    """A few flipped bytes, a piece cut out, or something put in."""
    where = draw(st.lists(st.floats(0, 1, exclude_max=True), min_size=1, max_size=4))
    byte, how = draw(st.binary(min_size=1, max_size=8)), draw(st.sampled_from(["flip", "cut", "insert", "truncate"]))

    def damage(content: bytes) -> bytes:
        spoilt = bytearray(content)
        for share in where:
            # Half of the damage goes where most of the decisions are: into the first two kilobytes.
            at = int(share * 2 * len(spoilt)) if share < 0.5 else int((share - 0.5) * 2 * min(len(spoilt), 2048))
            if how == "flip" and spoilt:
                spoilt[at : at + 1] = byte[:1]
            elif how == "insert":
                spoilt[at:at] = byte
            else:
                del spoilt[at : at + len(byte) if how == "cut" else None]
        return bytes(spoilt)

    return damage


@pytest.mark.parametrize("kind", CONTENTS)
@given(damage=damages())
@settings(deadline=5000, max_examples=60)
def test_a_damaged_image_is_read_or_refused_and_nothing_else_escapes(
    kind: str, damage: Callable[[bytes], bytes]
) -> None:
    found = outcome([Held("file", damage(CONTENTS[kind]))])
    assert isinstance(found, CaseError) or np.isfinite(found.image.voxels).all()


@pytest.mark.parametrize("kind", MASKS)
@given(damage=damages())
@settings(deadline=5000, max_examples=60)
def test_a_damaged_mask_is_read_or_refused_and_nothing_else_escapes(
    kind: str, damage: Callable[[bytes], bytes]
) -> None:
    found = outcome(IMAGES, Held("file", damage(MASKS[kind])))
    assert isinstance(found, CaseError) or np.asarray(found.mask).shape == found.image.shape


def test_the_last_answer_is_remembered_and_the_one_before_is_not() -> None:
    asked: list[int] = []

    def answer(number: int) -> int:
        asked.append(number)
        if number < 0:
            raise CaseError("negative", hint="none", code="negative")
        return number * number

    recall = remembering(answer)
    assert [recall(number) for number in (3, 3, 4, 3)] == [9, 9, 16, 9]
    assert asked == [3, 4, 3]
    for _ in range(3):
        with pytest.raises(CaseError) as caught:
            recall(-1)
        assert (caught.value.sentence, caught.value.hint, caught.value.code) == ("negative", "none", "negative")
    assert asked == [3, 4, 3, -1]
