"""Every real file at hand: it becomes an image or a refusal with a code, and nothing else ever happens.

The files stay where they are; nothing of them but counts is shown.
"""

import csv
import os
import re
from collections import Counter, defaultdict
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pydicom
import pytest
from numpy.typing import NDArray

from shared.errors import CaseError
from shared.plan import Plan, from_document
from shared.preprocessing.dicom import image_from_files
from shared.preprocessing.dicom_file import read_file
from shared.preprocessing.dicom_pixels import decode, stored_pixels
from shared.preprocessing.image import Image
from shared.preprocessing.nifti import image_from_nifti, mask_from_nifti
from shared.preprocessing.pipeline import prepare
from shared.preprocessing.raster import image_from_raster, mask_from_raster

DATA = Path(os.environ.get("CONSILIUM_DATA", Path(__file__).parents[3] / "shared" / "data"))
CORPUS = DATA / "dicom_corpus"

pytestmark = [
    pytest.mark.realdata,
    pytest.mark.skipif(not DATA.is_dir(), reason="real images are not beside the project; set CONSILIUM_DATA"),
    pytest.mark.filterwarnings("ignore::UserWarning:pydicom.*"),
]


def rows(folder: str, table: str = "manifest.csv") -> list[dict[str, str]]:
    path = DATA / folder / table
    if not path.is_file():
        pytest.skip(f"{folder} is not among the real images")
    with path.open(encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream))


def outcome(read: Callable[[], object]) -> str:
    """ "read", or the code of the refusal."""
    try:
        read()
    except CaseError as error:
        refusal = error
    else:
        return "read"
    assert re.fullmatch(r"[a-z]+(-[a-z]+)*", refusal.code)
    assert refusal.code != "case"
    assert str(DATA) not in refusal.sentence
    return refusal.code


def test_every_file_that_pydicom_decodes_is_decoded_and_the_others_are_refused() -> None:
    found = Counter(
        (row["decode_ok"] == "True", outcome(lambda path=CORPUS / row["file"]: decode(read_file(path))))
        for row in rows("dicom_corpus")
    )
    print(dict(found))
    assert {code for decodable, code in found if decodable} == {"read"}
    assert "read" not in {code for decodable, code in found if not decodable}


def pydicom_pixels(path: Path) -> NDArray[np.generic] | None:
    """What ``pydicom.dcmread(path).pixel_array`` gives with every plugin that is installed; None where it fails."""
    try:
        return pydicom.dcmread(path).pixel_array
    except Exception:  # noqa: BLE001 - it raises anything
        return None


@pytest.mark.slow
def test_every_file_that_pydicom_decodes_has_the_same_pixels_to_the_bit() -> None:
    """There are no exceptions, also none for lossy JPEG; ours has an axis for frames where there is one frame."""
    compared: Counter[str] = Counter()
    for path in sorted(path for path in CORPUS.rglob("*") if path.is_file() and path.suffix != ".csv"):
        expected = pydicom_pixels(path)
        if expected is None:
            continue
        found = stored_pixels(read_file(path))
        single = len(found) == 1 and expected.shape == found.shape[1:]
        assert np.array_equal(found[0] if single else found, expected, equal_nan=expected.dtype.kind == "f")
        compared[str(pydicom.dcmread(path).file_meta.TransferSyntaxUID)] += 1
    print(dict(compared))
    assert (compared.total() > 300, len(compared) > 12) == (True, True)


def test_every_file_of_the_corpus_is_an_image_or_refused_as_a_kind_that_is_none() -> None:
    readable = [row for row in rows("dicom_corpus") if row["decode_ok"] == "True"]
    found = Counter(outcome(lambda path=CORPUS / row["file"]: image_from_files([path])) for row in readable)
    print(dict(found))
    assert found["read"] > 0.8 * len(readable)
    assert set(found) <= {"read", "not-an-image", "tiled-image", "no-position", "duplicate-slice"}


@pytest.mark.slow
def test_grey_files_have_the_values_that_pydicom_and_the_header_give() -> None:
    compared = 0
    for row in rows("dicom_corpus"):
        if row["decode_ok"] != "True" or row["photometric"] != "MONOCHROME2" or row["bits_alloc"] == "1":
            continue
        dataset = pydicom.dcmread(CORPUS / row["file"], force=True)
        if "ModalityLUTSequence" in dataset or "PerFrameFunctionalGroupsSequence" in dataset:
            continue
        slope, intercept = dataset.get("RescaleSlope", 1), dataset.get("RescaleIntercept", 0)
        expected = dataset.pixel_array * float(1 if slope is None else slope) + float(intercept or 0)
        found = decode(read_file(CORPUS / row["file"]))[:, 0]
        assert np.array_equal(found.squeeze(), expected.astype(np.float32).squeeze(), equal_nan=True)
        compared += 1
    assert compared > 150


def test_colour_files_have_the_values_that_pydicom_gives() -> None:
    compared = 0
    for row in rows("dicom_corpus"):
        if row["decode_ok"] == "True" and row["photometric"][:3] in {"RGB", "YBR"} and row["bits_stored"] == "8":
            expected = pydicom.pixels.pixel_array(pydicom.dcmread(CORPUS / row["file"], force=True))
            found = decode(read_file(CORPUS / row["file"]))
            assert np.array_equal(np.moveaxis(found, 1, -1).squeeze(), expected.squeeze())
            compared += 1
    assert compared > 40


def test_damaged_files_are_accepted_or_refused_as_the_corpus_expects() -> None:
    for row in rows("dicom_corpus", "derived_bad.csv"):
        result = outcome(lambda path=CORPUS / row["file"]: image_from_files([path]))
        if row["expect"].startswith("accept"):
            assert result == "read"
        elif "degraded" not in row["expect"]:
            assert result != "read"


@pytest.mark.slow
def test_series_of_the_corpus_are_volumes_or_refused_by_name() -> None:
    series: dict[tuple[str, str], list[Path]] = defaultdict(list)
    for row in rows("dicom_corpus"):
        if row["decode_ok"] == "True":
            header = pydicom.dcmread(CORPUS / row["file"], stop_before_pixels=True, force=True)
            series[row["source_repo"], str(header.get("SeriesInstanceUID"))].append(CORPUS / row["file"])
    stacks = [paths for paths in series.values() if len(paths) > 1]
    found = Counter(outcome(lambda paths=paths: image_from_files(paths)) for paths in stacks)
    print(dict(found))
    assert found["read"] >= 3
    assert found["duplicate-slice"] >= 3  # several echoes or time points in one series


def volume_plan() -> Plan:
    return plan_for("mr", [24, 48, 48], spacing_mm=[3.3, 2.0, 2.0])


def plan_for(modality: str, size: list[int], **preprocessing: object) -> Plan:
    return from_document(
        {
            "plan": {"name": "real", "task": "segmentation", "rounds": 1},
            "data": {"modality": modality, "classes": ["background", "structure"]},
            "preprocessing": {"size": size, **preprocessing},
            "model": {"name": "unet"},
            "training": {"steps": 1, "patients_per_step": 1, "learning_rate": 0.1},
            "privacy": {"unit": "none"},
        }
    )


@pytest.mark.slow
def test_every_volume_and_mask_fits_and_prepares() -> None:
    for row in rows("sts_mri3d_multivendor"):
        folder = DATA / "sts_mri3d_multivendor"
        image = image_from_nifti(folder / row["image"], "mr")
        mask = mask_from_nifti(folder / row["mask"], image)
        assert int(mask.sum()) == int(row["gtv_voxels"])
        assert sorted(image.shape) == sorted(int(length) for length in row["shape"].split("x"))
        prepared = prepare(image, mask, volume_plan())
        assert prepared.voxels.shape == (1, 24, 48, 48)


def check_pictures(folder: str, plan: Plan, every: int) -> None:
    for row in rows(folder)[::every]:
        image: Image = image_from_raster(DATA / folder / row["image"], plan.data.modality)
        mask = mask_from_raster(DATA / folder / row["mask"], image)
        assert set(np.unique(mask)) <= {0, 1}
        share = float(row.get("vessel_frac") or row.get("lesion_frac") or 0)
        assert mask.mean() == pytest.approx(share, abs=1e-3)
        prepared = prepare(image, mask, plan)
        assert prepared.voxels.shape == (plan.input_channels, *plan.preprocessing.size)
        assert np.isfinite(prepared.voxels).all()


def test_ultrasound_images_with_their_masks_prepare() -> None:
    check_pictures("breast_us_multisite", plan_for("us", [96, 96], fit="letterbox"), every=10)


def test_fundus_photographs_with_their_masks_prepare() -> None:
    plan = plan_for(
        "fundus",
        [256, 256],
        fit="letterbox",
        colour="green",
        crop={"kind": "foreground"},
        intensity={"kind": "local-contrast", "sigma_px": 8.0},
    )
    check_pictures("retina_vessels_4cam", plan, every=10)
