"""De-identification and text in the pixels, on the DICOM corpus and the multi-site sets."""

import csv
import os
import warnings
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image as Picture
from PIL import ImageDraw, ImageFont
from pydicom import dcmread
from pydicom.dataset import FileDataset

from client.data.ingest.leaks import identifying_values, require_clean, scan
from shared.errors import CaseError
from shared.preprocessing.burned_in import suspicions, text_boxes
from shared.preprocessing.deidentification import DATES, KEPT, acquisition, identifying_kinds, is_admissible
from shared.preprocessing.dicom_file import read_file
from shared.preprocessing.dicom_pixels import decode
from shared.preprocessing.image import FloatArray, Image
from shared.preprocessing.nifti import image_from_nifti

DATA = Path(os.environ.get("CONSILIUM_DATA") or Path(__file__).parents[3] / "shared" / "data")
CORPUS = DATA / "dicom_corpus"
KEPT_TAGS = {row.tag for row in (*KEPT, *DATES)}

pytestmark = [
    pytest.mark.realdata,
    pytest.mark.skipif(not DATA.is_dir(), reason="the real images are not beside the project (CONSILIUM_DATA)"),
]


def corpus() -> list[Path]:
    return sorted(
        path for folder in ("files", "derived_bad") for path in (CORPUS / folder).rglob("*") if path.is_file()
    )


def headers() -> Iterator[tuple[str, FileDataset]]:
    """Every header of the corpus that the library gives out, by file."""
    for path in corpus():
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                dataset = dcmread(path, force=True)
            except Exception:  # noqa: BLE001, S112 - what cannot be read has no header to keep anything of
                continue
        yield path.name, dataset


def manifest() -> dict[str, dict[str, str]]:
    with (CORPUS / "manifest.csv").open(encoding="utf-8", newline="") as file:
        return {Path(row["file"]).name: row for row in csv.DictReader(file)}


def stripped(dataset: FileDataset) -> FileDataset:
    """The same header with nothing but what the allow-list names: all else cannot have been looked at."""
    alone = FileDataset("", {}, file_meta=getattr(dataset, "file_meta", None))
    alone._dict.update({tag: element for tag, element in dataset._dict.items() if int(tag) in KEPT_TAGS})
    return alone


def test_every_file_of_the_corpus_is_looked_at() -> None:
    assert len(corpus()) == 451
    assert sum(1 for _ in headers()) > 440


def test_no_identifying_value_of_any_header_is_in_what_is_kept_of_it() -> None:
    checked = pairs = 0
    for name, dataset in headers():
        values = identifying_values(dataset)
        kept = acquisition(dataset, 1000)
        assert acquisition(stripped(dataset), 1000) == kept, name
        assert all(is_admissible(*pair) for pair in kept), name
        # A value within a closed vocabulary is a coincidence: a patient called PHANTOM, a body part of that name.
        said = [value for attribute, value in kept if attribute not in {"body_part", "vendor"}]
        assert [value for value in values if any(value in one for one in said if not one.isdigit())] == [], name
        require_clean(None, [], kept, values)
        checked += len(values)
        pairs += len(kept)
    assert checked > 3000
    assert pairs > 2500


def test_kinds_name_what_the_manifest_of_the_corpus_says_is_there() -> None:
    """The oracle is the manifest, made by other code: names, institutions and private elements, file by file."""
    rows, wrong = manifest(), []
    for name, dataset in headers():
        row, kinds = rows.get(name), identifying_kinds(dataset)
        if row is None or row["read_ok"] != "True":
            continue
        for column, kind in (("patient_name", "patient-name"), ("institution", "institution")):
            if row[column].strip(" ^") and kind not in kinds:
                wrong.append((name, kind))
        if row["n_private"] not in {"", "0"} and "private" not in kinds:
            wrong.append((name, "private"))
    assert wrong == []


@pytest.mark.slow
def test_a_scan_of_what_is_kept_finds_nothing_and_finds_a_planted_value(tmp_path: Path) -> None:
    values: set[str] = set()
    lines = []
    for _, dataset in headers():
        values |= {value for value in identifying_values(dataset) if len(value) >= 8}
        lines.append(repr((acquisition(dataset, 1000), identifying_kinds(dataset))))
    # Moved dates are dates of somebody else in a corpus of this size.
    values = {value for value in values if not value.replace("-", "").isdigit()}
    (tmp_path / "kept.txt").write_text("\n".join(lines))
    assert len(values) > 1500
    assert scan(tmp_path, values) == []
    planted = sorted(value for value in values if value.isascii())[len(values) // 3]
    (tmp_path / "log").write_text(f"read {planted.upper()}\n")
    assert scan(tmp_path, values) == [(Path("log"), "utf-8")]


def test_the_scan_finds_the_original_files_themselves() -> None:
    """The scan's own control: what it looks for stands in every one of these files, as they came from a hospital."""
    folder = CORPUS / "files" / "pydicom-data"
    here = {path.name for path in folder.iterdir()}
    values = ((name, identifying_values(dataset)) for name, dataset in headers() if name in here)
    own = {name: {value for value in found if len(value) >= 8} for name, found in values}
    found = {str(name) for name, _ in scan(folder, set().union(*own.values()))}
    assert len(own) > 70
    assert {name for name, values in own.items() if values} - found == set()


# --- text in the pixels ----------------------------------------------------------------------------------------------


def frames() -> Iterator[tuple[str, str, FloatArray]]:
    """(modality, name, plane) of the first, middle and last frame of each image of the corpus."""
    for path in corpus():
        try:
            file = read_file(path)
            if file.kind != "image":
                continue
            decoded = decode(file)
        except CaseError:
            continue
        for place in sorted({0, len(decoded) // 2, len(decoded) - 1}):
            yield file.modality, path.name, decoded[place].max(axis=0)


@pytest.mark.slow
def test_text_is_found_in_the_corpus_where_it_is_and_almost_nowhere_else() -> None:
    seen, flagged = Counter[str](), Counter[str]()
    for modality, _, plane in frames():
        seen[modality] += 1
        flagged[modality] += bool(text_boxes(plane))
    assert seen["mr"] > 150
    assert seen["ct"] > 25
    # One CT file decodes to stripes. Ultrasound images of the corpus have captions; echoes without one remain.
    assert flagged["mr"] == flagged["xray"] == 0
    assert flagged["ct"] <= 1
    assert flagged["us"] >= 15


def test_volumes_of_four_vendors_show_no_text() -> None:
    images = sorted(path for path in (DATA / "sts_mri3d_multivendor").rglob("*.nii*") if "mask" not in path.name)
    assert len(images) > 15
    assert [path.name for path in images if suspicions(None, image_from_nifti(path, "mr"))] == []


def lesion_crops() -> Iterator[tuple[str, FloatArray]]:
    folder = DATA / "breast_us_multisite"
    with (folder / "manifest.csv").open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            image = np.asarray(Picture.open(folder / row["image"]).convert("L"), np.float32)
            mask = np.asarray(Picture.open(folder / row["mask"]).convert("L")) > 0
            if mask.any():
                rows, columns = np.nonzero(mask)
                above, beside = int(0.25 * np.ptp(rows)), int(0.25 * np.ptp(columns))
                top, left = max(0, rows.min() - above), max(0, columns.min() - beside)
                crop = image[top : rows.max() + above, left : columns.max() + beside]
                if min(crop.shape) >= 16:
                    yield row["image"], crop


@pytest.mark.slow
def test_crops_around_lesions_show_text_only_where_there_is_some() -> None:
    """Looked at one by one: the crops that are flagged show MAMA DIREITA, RT AXILLA and the like."""
    real = {"bus_0303-r", "bus_0442-r", "bus_0478-l", "bus_0581-l", "bus_1013-l", "benign_262", "malignant_109"}
    crops = list(lesion_crops())
    flagged = {Path(name).stem for name, crop in crops if text_boxes(crop)}
    assert len(crops) > 1100
    assert flagged <= real
    assert len(flagged) >= 5


@pytest.mark.slow
def test_text_drawn_on_real_images_is_found() -> None:
    """A name in each corner that has room, on CT and MR frames of the corpus, as bright as the brightest tissue."""
    font = ImageFont.load_default(14)
    found = []
    for modality, _, plane in frames():
        if modality in {"ct", "mr"} and min(plane.shape) >= 192 and not text_boxes(plane):
            picture = Picture.new("L", plane.shape[::-1])
            ImageDraw.Draw(picture).text((5, plane.shape[0] - 24), "DOE JANE 1961", font=font, fill=255)
            cover = np.asarray(picture, np.float32) / 255
            found.append(bool(text_boxes(plane * (1 - cover) + plane.max() * cover)))
    assert len(found) > 40
    assert np.mean(found) >= 0.95


def test_secondary_captures_of_the_corpus_are_suspected_and_no_scanner_s_image_is() -> None:
    """The oracle is the SOP class by name, as the manifest has it."""
    blank = Image(np.zeros((1, 8, 8), np.float32), (1.0, 1.0))
    classes = {name: row["sop_class"] for name, row in manifest().items()}
    found = {name: suspicions(dataset, blank) for name, dataset in headers() if name in classes}
    captured = [name for name in found if classes[name] == "Secondary Capture Image Storage"]
    assert len(captured) == 82
    assert {found[name] for name in captured} == {("secondary-capture",)}
    scanned = [name for name in found if classes[name] in {"CT Image Storage", "MR Image Storage"}]
    # The one CT says that it was digitised from video.
    assert [name for name in scanned if found[name]] == ["data_store__data__explicit_VR-UN.dcm"]
    assert len(scanned) > 200
